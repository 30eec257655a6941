"""deconvviz: what a CNN has learned, and why it decides as it does.

The public names stand in `__init__.pyi`. Each is imported when it is first used: torch takes seconds, and
`deconvviz --help` does not need it.
"""

import lazy_loader

import deconvviz.cam  # noqa: F401
from deconvviz.version import __version__ as __version__

# `dv.cam` is a function, and `deconvviz.cam` a package. Python binds the package's name here when it is imported for
# the first time, which has now happened; without that binding, the name is looked up among the public ones for good.
del cam  # noqa: F821
_public, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
_RENAMED = {"ablate_variants": "ablate"}  # public names of earlier versions, and those that replace them


def __getattr__(name: str) -> object:
    """Import a public name; raises AttributeError for a name that does not exist, or is called otherwise now."""
    if name in _RENAMED:
        raise AttributeError(f"deconvviz.{name} is called deconvviz.{_RENAMED[name]} now")
    return _public(name)
