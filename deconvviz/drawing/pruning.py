"""Figures of prunings, by the functions that the command draws with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deconvviz.errors import DataError
from deconvviz.figures.page import Page
from deconvviz.studies.pruning import figure as pruning

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from typing_extensions import Unpack

    from deconvviz.figures.page import PageKeywords
    from deconvviz.studies.pruning.result import PruningStudy


def draw_pruning(study: PruningStudy, title: str = "", caption: str = "", **page: Unpack[PageKeywords]) -> Figure:
    """Draw filters that went beside filters that stayed, what stays of each layer, accuracy and costs.

    Args:
        study: what `dv.prune` returns first, or `dv.PruningStudy.load`.
        title: text above.
        caption: text below.
        page: `width` in inches and `dpi` of `Page`, which say how the figure is laid out.

    >>> import deconvviz as dv
    >>> loaded = dv.load_model("demo")
    >>> about = {"preprocess": dv.Preprocess.from_dict(loaded.settings), "repeats": 0, "shown": 1, "progress": False}
    >>> study, _ = dv.prune(loaded.model, dv.Scenes(4), "l2", **about)
    >>> len(dv.draw_pruning(study).axes)  # a filter that went and one that stayed of three layers, and two panels
    8
    """
    return pruning.draw_pruning(study, title, caption, page=Page(**page))


def draw_sensitivity(study: PruningStudy, title: str = "", caption: str = "", **page: Unpack[PageKeywords]) -> Figure:
    """Draw how accuracy falls as more and more filters of one layer go, a curve for each layer.

    Args:
        study: what `dv.prune` returns first, with sensitivity=True.
        title: text above.
        caption: text below.
        page: `width` in inches and `dpi` of `Page`, which say how the figure is laid out.

    Raises:
        DataError: the sensitivity was not measured.

    >>> import deconvviz as dv
    >>> loaded = dv.load_model("demo")
    >>> about = {"preprocess": dv.Preprocess.from_dict(loaded.settings), "repeats": 0, "shown": 0, "progress": False}
    >>> about |= {"sensitivity": True, "shares": [0.5], "layers": {"conv1": 0.5}}
    >>> study, _ = dv.prune(loaded.model, dv.Scenes(4), "l2", **about)
    >>> len(dv.draw_sensitivity(study).axes)
    1
    """
    if not any(group.sensitivity is not None for group in study.groups.values()):
        raise DataError("the sensitivity of no layer was measured; give sensitivity=True")
    return pruning.draw_sensitivity(study, title, caption, page=Page(**page))
