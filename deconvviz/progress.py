"""Progress bars: in a notebook as widgets that go away at the end, elsewhere as lines on standard error."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook.

    >>> in_notebook()
    False
    """
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return "IPKernelApp" in getattr(shell, "config", ())


def progress_bar(*iterable: Any, leave: bool = True, **options: Any) -> tqdm[Any]:
    """Return a progress bar, shown on standard error, or as a widget where a notebook can show one.

    Args:
        iterable: what the bar counts while it is walked through; without it, the bar is updated by hand.
        leave: whether the full bar stays on a terminal; in a notebook it never does.
        options: of `tqdm`, such as total, unit, desc and disable.

    >>> list(progress_bar([1, 2], disable=True))
    [1, 2]
    """
    bar: tqdm[Any] = _tqdm()(*iterable, leave=leave and not in_notebook(), **options)
    return bar


def write_line(text: str) -> None:
    """Write a line to standard error, above the progress bars that are shown."""
    _tqdm().write(text, file=sys.stderr)


def _tqdm() -> Any:
    with warnings.catch_warnings():
        # A notebook without ipywidgets gets lines of text, which need no advice.
        warnings.filterwarnings("ignore", message="IProgress not found")
        from tqdm.auto import tqdm
    return tqdm
