"""Figures of recurrent networks, by the functions that the command draws with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deconvviz.errors import DataError
from deconvviz.figures.page import Page
from deconvviz.studies.recurrent import caption_figure, texts
from deconvviz.studies.recurrent import figure as recurrent_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from typing_extensions import Unpack

    from deconvviz.figures.page import PageKeywords
    from deconvviz.studies.recurrent.caption_result import Caption
    from deconvviz.studies.recurrent.result import RecurrentViews


def draw_recurrent(
    views: RecurrentViews, layer: str | None = None, title: str = "", caption: str = "", **page: Unpack[PageKeywords]
) -> Figure:
    """Draw what the units of a layer do: expected responses to tokens, gates, and which units track the properties.

    Args:
        views: what `dv.recurrent` returns.
        layer: its name; by default the last one.
        title: text above.
        caption: text below.
        page: `width` in inches and `dpi` of `Page`, which say how the figure is laid out.

    Raises:
        DataError: there is no such layer.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> sequences = dv.text_sequences("(a)((a))")
    >>> views = dv.recurrent(dv.RecurrentModel(recurrent=nn.GRU(3, 4)), sequences, groups=2, progress=False)
    >>> dv.draw_recurrent(views).savefig("gru.png")  # doctest: +SKIP
    """
    chosen = views.layers[-1] if layer is None else views[layer]
    return recurrent_figure.draw_recurrent(views, chosen, title, caption, Page(**page))


def draw_cell(
    views: RecurrentViews,
    layer: str,
    unit: int,
    start: int = 0,
    count: int = 600,
    title: str = "",
    caption: str = "",
    **page: Unpack[PageKeywords],
) -> Figure:
    """Draw text coloured by the activity of a unit, after Karpathy, Johnson and Fei-Fei 2015.

    Args:
        views: what `dv.recurrent` returns.
        layer: its name.
        unit: from 0.
        start: the first step, counted over all sequences.
        count: steps that are drawn; there are as many as the option `shown` kept.
        title: text above.
        caption: text below.
        page: `width` in inches and `dpi` of `Page`.

    Raises:
        DataError: there is no such layer or unit, or the steps were not kept.
    """
    chosen = views[layer]
    if not 0 <= unit < chosen.units:
        raise DataError(f"unit {unit} given; layer {layer} has 0 to {chosen.units - 1}")
    if not 0 <= start < len(chosen.activity):
        raise DataError(f"step {start} given; the activity of steps 0 to {len(chosen.activity) - 1} was kept")
    return texts.draw_cell(views, chosen, unit, start, start + count, title, caption, Page(**page))


def draw_token_relevance(
    views: RecurrentViews, title: str = "", caption: str = "", **page: Unpack[PageKeywords]
) -> Figure:
    """Draw the outputs that were explained, each token coloured by its relevance.

    Args:
        views: what `dv.recurrent` returns.
        title: text above.
        caption: text below.
        page: `width` in inches and `dpi` of `Page`.

    Raises:
        DataError: no output was explained.
    """
    if not views.relevance:
        raise DataError(f"no output was explained: {views.skipped.get('relevance', 'none was asked for')}")
    return texts.draw_relevance(views, title, caption, Page(**page))


def draw_caption(caption: Caption, title: str = "", text: str = "", **page: Unpack[PageKeywords]) -> Figure:
    """Draw an image, and for each word of its caption where in the image it comes from.

    Args:
        caption: what `dv.explain_caption` returns.
        title: text above.
        text: text below.
        page: `width` in inches and `dpi` of `Page`.
    """
    return caption_figure.draw_caption(caption, title, text, Page(**page))
