"""A dissection as a figure: for each layer which concepts its channels detect, and pictures of those named best."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from deconvviz.figures.bars import rows_from_top
from deconvviz.figures.page import OWN, Page
from deconvviz.figures.sheet import CAPTION, SMALL, Sheet, shortened
from deconvviz.figures.tiles import enlarged, ringed
from deconvviz.studies.dissection.naming import CHANNELS, PART, PICTURES, Concept, Detection, NamingRule, strongest
from deconvviz.types import Floats, Mask, Pixels
from deconvviz.words import counted

if TYPE_CHECKING:
    from deconvviz.studies.dissection.result import Dissection, Examples

COLOURS = {"part": "#0072b2", "object": "#56b4e9", "class": "#e69f00", "colour": "#cc79a7", "texture": "#009e73"}
MOST = 20  # concepts that are listed
ROW, LETTER, NAMES = 0.13, 0.047, 24  # inches: of a concept's row, of a letter; letters of a name
BARS, SIDE, GAP, HEAD = 1.3, 0.62, 0.04, 0.17  # inches: of the bars; of a picture, between two, and above them
ACROSS, BETWEEN = 3, 0.15  # channels beside each other; inches between them
ABOVE, BELOW = 0.3, 0.45  # inches: for a layer's name, and for the axis of its bars
LEAST = 0.3  # inches of a picture
TILE, DIM = 160, 0.55  # pixels of a picture at least; what is left of the light where a channel does not fire
LINE = (1.0, 0.84, 0.0)  # around the firing pixels: yellow, which all eyes see on most photos


def draw_dissection(
    dissection: Dissection, title: str, caption: str, page: Page = OWN, rule: NamingRule | None = None
) -> Figure:
    """Draw for each layer how many channels are named after each concept, and examples of nine of them.

    Args:
        dissection: a complete one.
        title: text above.
        caption: text below.
        page: what is asked for of the page.
        rule: when a channel is named.
    """
    room = 0.2 + NAMES * LETTER + BARS + 0.3  # of the list of concepts
    cell = PICTURES * (SIDE + GAP) + BETWEEN
    across = page.across(CHANNELS, ACROSS, cell, room)
    side = page.fitted(SIDE, room + across * (PICTURES * GAP + BETWEEN), across * PICTURES, LEAST)
    found = {name: dissection.detections(name, rule) for name in dissection.layers}
    heights = []
    for name, layer in dissection.layers.items():
        shown = 0 if layer.examples is None else len(layer.examples.channels)
        listed = len(_units(found[name])[:MOST])
        heights.append(ABOVE + max(-(-shown // across) * (side + HEAD), ROW * max(listed, 1) + BELOW) + 0.1)
    width = page.width or room + across * cell
    sheet = Sheet(width, sum(heights), title, caption, page=page)
    top = sheet.top
    for (name, layer), height in zip(dissection.layers.items(), heights, strict=True):
        named = len({detection.channel for detection in found[name] if detection.named})
        names = len(_units(found[name]))
        more = f"; the {MOST} most frequent of {names} names" * (names > MOST)
        text = f"{name}: {named} of {counted(len(layer.fires), 'channel')} named{more}"
        sheet.text(0.1, top - 0.12, text, ha="left", va="center", fontsize=8, weight="bold")
        _draw_units(sheet, found[name], top - ABOVE)
        if layer.examples is not None:
            _draw_examples(sheet, layer.examples, found[name], room, top - ABOVE, side, across)
        top -= height
    return sheet.figure


def caption_of(dissection: Dissection, images: str, rule: NamingRule) -> str:
    """Return what the figure shows, of which images, and when a channel is named."""
    quantile, top = dissection.config["quantile"], dissection.config["top"]
    parts = any(concept.kind == PART for concept in dissection.concepts)
    wide = "part, a colour" if parts else "colour"
    of_parts = f"by a part from an intersection over union (IoU) of {rule.iou:g} on, " * parts
    of_classes = f"; a class names it where it is over-represented among the at most {top} strongest images that give "
    of_classes += f"a value above zero (Fisher's exact test, p below {rule.alpha:g} after Bonferroni's correction)"
    return (
        f"A channel fires where its map, resized to the picture, is above the {quantile:g} quantile of its values over "
        f"{counted(dissection.total, 'image')} of {images}. It is named {of_parts}by a {wide} or a "
        f"texture from {rule.share:.0%} of its firing pixels on, if that is at least {rule.times:g} times what chance "
        f"gives{of_classes * bool(dissection.classes)}. A channel may have several names.\n"
        "Pictures: the four strongest images of the channels that are named best, one for each name, dark where the "
        "channel does not fire. The percentage is the share of a channel's firing pixels in the concept, or of its "
        "strongest images in the class; beside it stands what the masks of other pictures would give."
    )


def _units(found: list[Detection]) -> list[tuple[Concept, int]]:
    """Return the concepts that name channels with their numbers of channels, the most frequent first."""
    units = Counter(Concept(detection.kind, detection.name) for detection in found if detection.named)
    return sorted(units.items(), key=lambda item: (-item[1], item[0]))


def _draw_units(sheet: Sheet, found: list[Detection], top: float) -> None:
    units = _units(found)
    if not units:
        sheet.text(0.1, top - 0.1, "no channel is named", ha="left", va="center", fontsize=CAPTION)
        return
    listed = units[:MOST]
    height = ROW * len(listed)
    axes = sheet.axes(0.2 + NAMES * LETTER, top - height, BARS, height)
    rows = rows_from_top(len(listed))
    axes.barh(rows, [number for _, number in listed], height=0.72, color=[COLOURS[c.kind] for c, _ in listed])
    axes.set_yticks(rows, [shortened(concept.name, NAMES) for concept, _ in listed], fontsize=SMALL)
    axes.set_ylim(-0.6, len(listed) - 0.4)
    axes.tick_params(axis="x", labelsize=SMALL, pad=2)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    axes.set_xlabel("channels of this name", fontsize=SMALL, labelpad=1)
    for spine in ("top", "right"):
        axes.spines[spine].set_visible(False)
    _draw_legend(axes, [concept.kind for concept, _ in listed])


def _draw_legend(axes: Axes, kinds: list[str]) -> None:
    patches = [Patch(color=colour, label=kind) for kind, colour in COLOURS.items() if kind in kinds]
    if len(kinds) > 4:
        axes.legend(handles=patches, fontsize=SMALL - 1, loc="lower right", frameon=False, handlelength=0.8)


def _draw_examples(
    sheet: Sheet, examples: Examples, found: list[Detection], left: float, top: float, side: float, across: int
) -> None:
    """Draw the pictures of some channels, which are dark where the channel does not fire."""
    cell = PICTURES * (side + GAP) + BETWEEN
    best_of = {detection.channel: detection for detection in strongest(found)}  # the name that a channel stands for
    for number, channel in enumerate(examples.channels.tolist()):
        row, column = divmod(number, across)
        x, y = left + column * cell, top - row * (side + HEAD) - side - HEAD / 2
        best = best_of.get(channel)
        named = "no name" if best is None else f"{best.name} ({measure_of(best)})"
        text = shortened(f"{channel}: {named}", int((cell - 0.1) / LETTER))
        sheet.text(x, y + side + 0.03, text, ha="left", va="bottom", fontsize=SMALL)
        for place, (picture, above) in enumerate(zip(examples.pictures[number], examples.above[number], strict=True)):
            sheet.picture(_lit(picture, above), x + place * (side + GAP), y, side)


def measure_of(detection: Detection) -> str:
    """Return how well a channel detects a concept, beside what chance gives, in a few words."""
    if detection.kind == PART:
        return f"{detection.share:.0%}, IoU {detection.iou:.2f}, by chance {detection.iou_chance:.3f}"
    p = f", p {detection.p:.1g}" if not np.isnan(detection.p) else ""
    return f"{detection.share:.0%}, by chance {detection.share_chance:.0%}{p}"


def _lit(picture: Pixels, above: Mask) -> Floats:
    """Return a picture that is dark where a channel does not fire, with a line around where it does."""
    dark = picture / 255.0 * np.where(above, 1, DIM)[..., None]
    return ringed(enlarged(dark, TILE), enlarged(above[..., None], TILE)[..., 0], LINE)
