"""Which text is coloured by what: the activity of a unit, and the relevance of tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deconvviz.figures.page import OWN, Page
from deconvviz.studies.recurrent.naming import activity_words, layer_words, shown_token
from deconvviz.studies.recurrent.text_figure import ColouredText, draw_coloured, together_marks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from deconvviz.studies.recurrent.result import LayerViews, RecurrentViews, TokenRelevance


def coloured_text(
    views: RecurrentViews, start: int, values: np.ndarray, heading: str = "", marked: frozenset[int] = frozenset()
) -> ColouredText:
    """Return the tokens of some steps with a number each.

    Args:
        views: whose tokens they are.
        start: the first step.
        values: [n], the numbers of the steps from there on.
        heading: what stands above the text.
        marked: places from 0 of tokens that are underlined.
    """
    stop, sequences = start + len(values), views.sequences
    ends = np.zeros(len(sequences) + 1, bool)
    ends[sequences.starts[1:] - 1] = True
    tokens = [sequences.token(step) for step in range(start, stop)]
    return ColouredText(
        heading=heading,
        tokens=tokens,
        values=np.asarray(values, np.float64),
        ends=[bool(ends[start + n]) or token == "\n" for n, token in enumerate(tokens)],
        gap=int(sequences.words or not sequences.vocabulary),
        marked=marked,
    )


def draw_cell(
    views: RecurrentViews,
    layer: LayerViews,
    unit: int,
    start: int,
    stop: int,
    title: str = "",
    caption: str = "",
    page: Page = OWN,
) -> Figure:
    """Draw the text of some steps coloured by the activity of a unit; arguments as of `dv.draw_cell`."""
    values = layer.activity[start:stop, unit]
    marked = together_marks(layer.together, start, start + len(values))
    text = coloured_text(views, start, values, marked=marked)
    words = activity_words(views.kind)
    most = 1.0 if views.kind != "RNN" else float(np.abs(values).max(initial=0)) or 1.0
    underlined = (
        " Underlined: the chosen range, and others in which the most of its units are on together." if marked else ""
    )
    return draw_coloured(
        [text],
        f"{words} of unit {unit}",
        title or f"{views.network}: unit {unit} of {layer_words(layer.name)}",
        caption
        or f"Each token is coloured by the {words} after it was read. A line is a sequence or ends in ⏎.{underlined}",
        most,
        page,
    )


def draw_relevance(views: RecurrentViews, title: str = "", caption: str = "", page: Page = OWN) -> Figure:
    """Draw the tokens of all outputs that were explained; arguments as of `dv.draw_token_relevance`."""
    scaled = []
    for each in views.relevance:
        most = float(np.abs(each.relevance).max(initial=0)) or 1.0
        marked = frozenset({each.step - each.start})
        scaled.append(coloured_text(views, each.start, each.relevance / most, relevance_words(views, each), marked))
    return draw_coloured(
        scaled,
        "relevance, over the\nlargest of its text",
        title or f"{views.network}: which tokens made an output",
        caption
        or "Layer-wise relevance propagation (Arras et al. 2017): gates take nothing, the signals that they let "
        "through take all. Red speaks for the output, blue against it. Underlined is the token after which it is read.",
        1.0,
        page,
    )


def relevance_words(views: RecurrentViews, each: TokenRelevance) -> str:
    """Return what is explained, in words: the output, its score, and where the rest of it is."""
    sequence, place = views.where(each.step)
    total = float(each.relevance.sum())
    parts = f"tokens {total:+.2f}, biases and stabiliser {each.kept:+.2f}"
    earlier = f", states before {each.before:+.2f}" if each.before else ""
    return (
        f"sequence {sequence}, step {place}: output {shown_token(each.name)}, score {each.score:.2f} ({parts}{earlier})"
    )
