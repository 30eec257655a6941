"""Figures of trainings, by the functions that the commands draw with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deconvviz.errors import DataError
from deconvviz.figures.page import Page
from deconvviz.studies.pretraining import figure as pretraining

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from typing_extensions import Unpack

    from deconvviz.figures.page import PageKeywords
    from deconvviz.studies.pretraining.result import Pretrained


def draw_pretraining(result: Pretrained, title: str = "", caption: str = "", **page: Unpack[PageKeywords]) -> Figure:
    """Draw a training without labels: its loss, the effective rank and the spread of its embedding, with their limits.

    Args:
        result: what `dv.pretrain` returns.
        title: text above.
        caption: text below.
        page: `width` in inches and `dpi` of `Page`, which say how the figure is laid out.

    Raises:
        DataError: no epoch is over yet.

    >>> import pathlib
    >>> import torch
    >>> import deconvviz as dv
    >>> watched = {f"{what}_{name}": 0.5 for what in ("embedding", "projection") for name in ("rank", "spread")}
    >>> result = dv.Pretrained(
    ...     model=torch.nn.Identity(), preprocess=dv.Preprocess(), path=pathlib.Path("n.pth"), objective="simclr",
    ...     classifier="fc", width=8, limits=(2.0, 0.1), history=[{"epoch": 1, "loss": 4.0, **watched}],
    ... )
    >>> [axes.get_ylabel() for axes in dv.draw_pretraining(result).axes]
    ['loss', 'effective rank', 'spread, 0..1']
    """
    if not result.history:
        raise DataError("no epoch of the training is over yet; there is nothing to draw")
    return pretraining.draw_pretraining(result.history, result.limits, title, caption, Page(**page))
