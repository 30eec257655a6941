"""Figures of trainings: connections, networks before and after, and places that match."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deconvviz.errors import DataError
from deconvviz.figures.page import Page
from deconvviz.studies.comparison import figure as comparing
from deconvviz.studies.pairs import match_figure
from deconvviz.studies.pretraining import figure as pretraining

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from typing_extensions import Unpack

    from deconvviz.figures.page import PageKeywords
    from deconvviz.studies.comparison.result import Comparison
    from deconvviz.studies.pairs.match_result import Matches
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


def draw_comparison(comparison: Comparison, title: str = "", caption: str = "", **page: Unpack[PageKeywords]) -> Figure:
    """Draw what became of each layer's filters, and how often both networks are right when how confident.

    Args:
        comparison: what `dv.compare` returns, or `dv.Comparison.load`.
        title: text above.
        caption: text below.
        page: `width` in inches and `dpi` of `Page`, which say how the figure is laid out.

    Source: the reliability diagram is that of Guo et al. 2017, figure 1.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> network = dv.capture(nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU()).eval(), (3, 32, 32))
    >>> options = {"layers": ["1"], "checks": None, "filters": 0, "progress": False}
    >>> preprocess = dv.Preprocess(resize=32, crop=32)
    >>> len(dv.draw_comparison(dv.compare(network, network, dv.Scenes(4), preprocess=preprocess, **options)).axes)
    2
    """
    return comparing.draw_comparison(comparison, title, caption, page=Page(**page))


def draw_matches(
    matches: Matches, count: int = 8, title: str = "", caption: str = "", **page: Unpack[PageKeywords]
) -> Figure:
    """Draw which place of one image matches which place of the other, to a network: a row for each pair.

    Args:
        matches: what `dv.match_places` returns.
        count: matches that are numbered in both images, at most: the strongest ones that are apart.
        title: text above.
        caption: text below.
        page: `width` in inches and `dpi` of `Page`, which say how the figure is laid out.

    >>> import torch
    >>> import deconvviz as dv
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5)).eval()
    >>> matches = dv.match_places(dv.capture(model, (3, 8, 8)), *torch.rand(2, 1, 3, 8, 8))
    >>> len(dv.draw_matches(matches).axes)  # both images with numbers, both with colours
    4
    """
    return match_figure.draw_matches(matches, count, title, caption, Page(**page))
