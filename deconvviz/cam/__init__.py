"""Why a network decides as it does: the CAM family, its perturbation rivals, and maps on pixels.

`dv.cam(name, network, layer)` is both this package and the function: Python binds a package's name in its parent when
any module of it is imported, so the package itself takes the call and hands it to `deconvviz.cam.explain.cam`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deconvviz.cam.explain import Explainer


class _Callable(ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Explainer:
        """Return an explainer; see `deconvviz.cam.explain.cam`."""
        from deconvviz.cam.explain import cam

        return cam(*arguments, **options)


sys.modules[__name__].__class__ = _Callable
