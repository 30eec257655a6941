"""Text coloured by a number for each token, as a figure: the activity of a unit, or the relevance of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from deconvviz.figures.page import OWN, Page
from deconvviz.figures.sheet import CAPTION, Sheet
from deconvviz.studies.recurrent.figure import signed_scale
from deconvviz.studies.recurrent.naming import shown_token
from deconvviz.studies.recurrent.together import Together

if TYPE_CHECKING:
    from deconvviz.types import Floats

LETTER, LINE, NATURAL, LEAST, BAR = 0.062, 0.19, 6.6, 3.0, 0.85  # inches: a letter, a line, widths, the bar's room


@dataclass(frozen=True)
class ColouredText:
    """Tokens with a number each.

    Attributes:
        heading: what stands above them.
        tokens: their text.
        values: float64 [n].
        ends: whether a line ends behind each token, bool [n].
        gap: letters between two tokens, 1 for words.
        marked: places of tokens that are underlined.
    """

    heading: str
    tokens: Sequence[str]
    values: Floats
    ends: Sequence[bool]
    gap: int = 0
    marked: frozenset[int] = frozenset()


def draw_coloured(
    texts: Sequence[ColouredText], label: str, title: str, caption: str, most: float = 1.0, page: Page = OWN
) -> Figure:
    """Draw texts one below the other, each token on the colour of its value.

    Args:
        texts: what is drawn.
        label: the quantity, beside the colour bar.
        title: text above.
        caption: text below.
        most: the value of the strongest colour, above and below zero.
        page: what is asked for of the page.
    """
    width = page.fitted(NATURAL, BAR + 0.3, 1, 1.5)
    laid = [_laid_out(text, int(width / LETTER)) for text in texts]
    used = max((column + letters for places in laid for _, column, letters in places), default=1) * LETTER
    headings = max((0.05 * len(text.heading) for text in texts), default=0.0)
    width = width if page.width is not None else min(width, max(used, headings, LEAST))
    lines = [max((row for row, _, _ in places), default=0) + 1 for places in laid]
    heights = [LINE * (count + (1.2 if text.heading else 0.3)) for count, text in zip(lines, texts, strict=True)]
    body = max(sum(heights), 1.5)
    sheet = Sheet(width + BAR + 0.3, body, title, caption, page=page)
    axes = sheet.axes(0.15, sheet.bottom, width, body)
    axes.set(xlim=(0, width), ylim=(body, 0))
    axes.set_axis_off()
    scale, top = signed_scale(most), 0.0
    for text, places, height in zip(texts, laid, heights, strict=True):
        if text.heading:
            axes.text(0, top + LINE * 0.75, text.heading, fontsize=CAPTION, va="baseline", color="0.25")
            top += LINE
        boxes = []
        for number, (row, column, letters) in enumerate(places):
            x, y = column * LETTER, top + row * LINE
            boxes.append(Rectangle((x, y + 0.015), letters * LETTER, LINE - 0.03))
            shown = shown_token(text.tokens[number])
            axes.text(x, y + LINE * 0.72, shown, fontsize=6.6, family="monospace", va="baseline", color="black")
            if number in text.marked:
                low = y + LINE - 0.01
                axes.plot([x, x + letters * LETTER], [low, low], color="black", linewidth=1.3, solid_capstyle="butt")
        axes.add_collection(PatchCollection(boxes, facecolors=scale.to_rgba(text.values, alpha=0.75), linewidths=0))
        top += height - (LINE if text.heading else 0)
    bar = min(body, 1.5)
    sheet.colour_bar(scale, label, 0.15 + width + 0.15, sheet.top - bar, bar)
    return sheet.figure


def _laid_out(text: ColouredText, columns: int) -> list[tuple[int, int, int]]:
    """Return (line, column, letters) of each token."""
    row, column, found = 0, 0, []
    for token, end in zip(text.tokens, text.ends, strict=True):
        letters = len(shown_token(token))
        if column and column + letters > columns:
            row, column = row + 1, 0
        found.append((row, column, letters))
        column += letters + text.gap
        if end:
            row, column = row + 1, 0
    return found


def together_marks(found: Together | None, start: int, stop: int) -> frozenset[int]:
    """Return the places from start on that lie in the chosen range, or in one of the others."""
    ranges = [] if found is None else [(found.start, found.stop), *found.ranges.tolist()]
    return frozenset(step - start for low, high in ranges for step in range(max(low, start), min(high, stop)))
