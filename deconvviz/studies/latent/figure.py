"""Views of a generator as figures: rows of images along codes, directions and axes, and units with their effects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from deconvviz.errors import DataError
from deconvviz.figures.page import OWN, Page
from deconvviz.figures.sheet import SMALL, Sheet, shortened

if TYPE_CHECKING:
    from deconvviz.studies.latent.result import LatentViews
    from deconvviz.types import Floats

SIDE, GAP, LEFT, LINE, HEAD = 0.72, 0.05, 1.25, 0.14, 0.16  # inches
REMOVED, INSERTED = "#0072b2", "#d55e00"  # blue and vermilion


def draw_rows(
    rows: Sequence[NDArray[np.uint8]],
    labels: Sequence[str],
    heads: Sequence[str],
    title: str,
    caption: str,
    below: Sequence[Sequence[str]] = (),
    page: Page = OWN,
) -> Figure:
    """Draw rows of images with a label at the left of each, and words above the columns.

    Args:
        rows: uint8 [n, H, W, C] each.
        labels: of the rows; line breaks stay.
        heads: of the columns.
        title: text above.
        caption: text below.
        below: words below each image; none for no words.
        page: what is asked for of the page.
    """
    columns = max(map(len, rows))
    side = page.fitted(SIDE, LEFT + GAP * columns + 0.1, columns, 0.4)
    ratio = rows[0].shape[1] / rows[0].shape[2]
    step = side * ratio + GAP + (LINE if below else 0.0)
    sheet = Sheet(LEFT + columns * (side + GAP) + 0.1, HEAD + len(rows) * step, title, caption, page=page)
    for column, head in enumerate(heads):
        sheet.text(LEFT + column * (side + GAP) + side / 2, sheet.top - HEAD + 0.03, head, ha="center", fontsize=SMALL)
    for number, row in enumerate(rows):
        bottom = sheet.top - HEAD - number * step - side * ratio
        words = "\n".join(shortened(line, 24) for line in labels[number].splitlines())
        sheet.text(LEFT - 0.06, bottom + side * ratio / 2, words, ha="right", va="center", fontsize=SMALL)
        for column, picture in enumerate(row):
            left = LEFT + column * (side + GAP)
            sheet.picture(picture, left, bottom, side, side * ratio)
            if below:
                sheet.text(left + side / 2, bottom - 0.02, below[number][column], ha="center", va="top", fontsize=SMALL)
    return sheet.figure


def _numbers(values: Floats) -> list[str]:
    return [f"{value:+.2f}" for value in values]


def draw_sweeps(views: LatentViews, title: str = "", caption: str = "", page: Page = OWN) -> Figure:
    """Draw single places of z swept, a row each; arguments as of `dv.draw_latent`."""
    sweeps = views.sweeps
    if not len(sweeps.places):
        raise DataError("no place of z was swept: all of them belong to categorical codes")
    return draw_rows(
        list(sweeps.images),
        [f"z[{place}]\nchange {sweeps.change[place]:.3f}" for place in sweeps.places.tolist()],
        _numbers(sweeps.values),
        title or f"{views.name}: one place of z swept",
        caption
        or "Each row changes one place of z, whose values are above; all others stay as in the first sample. Change: "
        "mean absolute change of a pixel (0 to 1) from end to end.",
        page=page,
    )


def draw_categories(views: LatentViews, code: int, title: str = "", caption: str = "", page: Page = OWN) -> Figure:
    """Draw a categorical code: a column for each category, a row for each sample; DataError where it is not there."""
    codes = len(views.sweeps.sizes)
    if not 0 <= code < codes:
        raise DataError(f"no categorical code {code}; the generator has {codes}, numbered from 0")
    count = int(views.sweeps.sizes[code])
    images = views.sweeps.categories[code][:, :count]
    return draw_rows(
        list(images),
        [f"sample {row}" for row in range(len(images))],
        [str(category) for category in range(count)],
        title or f"{views.name}: categorical code {code}",
        caption or "Each column is a category of the code; all else of z stays as in the sample of the row.",
        page=page,
    )


def draw_direction(views: LatentViews, attribute: str, title: str = "", caption: str = "", page: Page = OWN) -> Figure:
    """Draw the images along a direction, with the score below each; first the direction, then its conditional one."""
    found = views.directions
    if found is None or attribute not in found.names:
        known = ", ".join(found.names) if found else "none"
        raise DataError(f"no direction {attribute!r}; there are: {known}")
    a = found.names.index(attribute)
    rows, labels, below = [], [], []
    for form, word in enumerate(("direction", "conditional")):
        if form and (len(found.names) == 1 or not found.conditional[a].any()):
            continue
        for row in range(found.images.shape[2]):
            rows.append(found.images[form, a, row])
            labels.append(f"{word}, sample {row}\nmean rank corr. {found.monotonic[form, a]:+.2f}")
            below.append([f"{value:.2f}" for value in found.scores[form, a, row, :, a]])
    others = ", ".join(name for name in found.names if name != attribute)
    return draw_rows(
        rows,
        labels,
        _numbers(found.steps),
        title or f"{views.name}: direction of “{attribute}”",
        caption
        or f"Below each image: the scorer's score of “{attribute}”. Above: the step along the direction."
        + (f" Conditional: orthogonal to the directions of {others}." if others else ""),
        below,
        page,
    )


def draw_axes(views: LatentViews, title: str = "", caption: str = "", page: Page = OWN) -> Figure:
    """Draw the images along the principal axes of a layer."""
    axes = views.axes
    return draw_rows(
        list(axes.images),
        [
            f"axis {n}: {100 * share:.1f} %\nlinear in z: {100 * linear:.0f} %"
            for n, (share, linear) in enumerate(zip(axes.explained, axes.linear, strict=True))
        ],
        _numbers(axes.steps),
        title or f"{views.name}: principal axes of layer {axes.layer}",
        caption
        or "Each row follows a direction of z that moves the layer along a principal axis. Left: its share of the "
        "layer's variance, and how much of what happens along it a linear function of z explains.",
        page=page,
    )


def draw_units(views: LatentViews, title: str = "", caption: str = "", page: Page = OWN) -> Figure:
    """Draw units: their nine images, the first ones with the unit off and on, and what that does to its part."""
    units = views.units
    if units is None:
        raise DataError(f"no unit was looked at: {views.skipped.get('units', 'there is none')}")
    rows, labels = [], []
    for n, unit in enumerate(units.chosen.tolist()):
        edited = units.edited[n]
        rows.append(np.concatenate([units.images[n][:6], edited[0], edited[1]]))
        labels.append(f"unit {unit}{_effect_words(views, n)}")
    return draw_rows(
        rows,
        labels,
        [*(f"top {place + 1}" for place in range(6)), *("as it is", "off", "on") * 2],
        title or f"{views.name}: units of layer {units.layer}",
        caption
        or "Left: the samples in which a unit is most active. Right: the first two as they are, with the unit at 0, "
        "and with it on everywhere. IoU: of where it fires and the part, on images that chose no threshold; a "
        "unit without a name does no better than chance. Off: what that takes from the part's area, in % of the image.",
        page=page,
    )


def _effect_words(views: LatentViews, place: int) -> str:
    units = views.units
    assert units is not None
    unit = int(units.chosen[place])
    name = units.name(unit)
    if not name:
        return f"\nchange {units.change[unit]:.3f}"
    part = units.parts.index(name)
    mean, low, high = 100 * units.removed[place, part]
    return f": {name}, IoU {units.iou[unit, part]:.2f}\noff takes {mean:.1f} %\n({low:.1f} to {high:.1f})"


def draw_effects(views: LatentViews, title: str = "", caption: str = "", page: Page = OWN) -> Figure:
    """Draw what units that were switched do to the area of every part, with intervals."""
    units = views.units
    if units is None or not units.parts:
        raise DataError("no unit was switched with parts known; give a segmenter")
    width, height, gap = 2.2, max(0.9, 0.24 * len(units.parts) + 0.3), 0.62
    columns = min(3, len(units.chosen))
    lines = -(-len(units.chosen) // columns)
    sheet = Sheet(
        0.8 + columns * (width + 0.35),
        lines * (height + gap),
        title or f"{views.name}: what units of layer {units.layer} do to each part",
        caption
        or "Blue circles: what goes from a part's area when the unit is 0. Vermilion squares: the area with it on "
        "everywhere less that with it off. In % of the image; lines are 95 % intervals of the mean over samples.",
        page=page,
    )
    places = np.arange(len(units.parts))
    for n, unit in enumerate(units.chosen.tolist()):
        row, column = divmod(n, columns)
        bottom = sheet.top - row * (height + gap) - height - 0.25
        axes = sheet.panel(0.75 + column * (width + 0.35), bottom, width, height, f"unit {unit}")
        for shift, values, mark, colour in (
            (-0.15, units.removed[n], "o", REMOVED),
            (0.15, units.inserted[n], "s", INSERTED),
        ):
            mean, low, high = 100 * values.T
            error = np.stack([mean - low, high - mean])
            axes.errorbar(mean, places + shift, xerr=error, fmt=mark, color=colour, markersize=3, linewidth=1)
        axes.axvline(0, color="0.5", linewidth=0.6)
        axes.set_yticks(places, [shortened(part, 12) for part in units.parts] if not column else [""] * len(places))
        axes.set_ylim(len(places) - 0.5, -0.5)
        axes.set_xlabel("area (% of the image)", fontsize=SMALL, labelpad=1)
    return sheet.figure
