"""Leaning: which channels one class leans on, as a row of a table; and the figure of classes against channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deconvviz.results.tables import write_csv
from deconvviz.studies.diagnosis.finding import Evidence
from deconvviz.types import Floats, Ints, Pathlike

COLUMNS = (
    "class",
    "images",
    "right",
    "layer",
    "filters",
    "leans_on",
    "strongest_share",
    "channels",
    "nearest",
    "taken_for_it",
    "shared",
    "overlap",
    "wrong",
    "foreign",
)
ROWS = 40  # classes in the figure


@dataclass(frozen=True, kw_only=True)
class Leaning:
    """Which channels of a layer one class leans on.

    Attributes:
        name: the class.
        images: how many of its images were sent back to the layer.
        right: how many images of the class are classified correctly; where none is, those that are not were sent back.
        layer: the layer, the last one with rows and columns.
        filters: how many channels it has.
        channels: the channels that the class leans on, the strongest first.
        shares: the share of each of them in the strength of all channels for this class, in 0..1.
        nearest: the class that its images are most often, or most nearly, taken for.
        taken: how many are.
        shared: those of `channels` that the nearest class leans on too, the strongest for this class first.
        overlap: of the channels that either class leans on, the share that both do; None where no images of the nearest
            class were looked at.
        wrong: how many of its wrong decisions were sent back.
        foreign: the mean share of the evidence for these decisions that comes from other channels than `channels`, in
            0..1; None where there are none.
    """

    name: str
    images: int
    right: int
    layer: str
    filters: int
    channels: tuple[int, ...]
    shares: tuple[float, ...]
    nearest: str
    taken: int
    shared: tuple[int, ...]
    overlap: float | None
    wrong: int
    foreign: float | None


def save_leanings(leanings: Sequence[Leaning], path: Pathlike) -> None:
    """Write a table with a row for each class; channels are separated by spaces, the strongest first.

    Raises:
        DataError: the file cannot be written.
    """
    write_csv(path, "class channels", COLUMNS, (_row(each) for each in leanings))


def leaning_evidence(leanings: Sequence[Leaning]) -> Evidence:
    """Return the figure of classes against the channels that they lean on, of at most ROWS classes.

    Those of which most images are taken for another class come first, each followed by the class that they are taken
    for. A channel stands below the class that leans on it most, so that shared channels are seen beside the diagonal.
    """
    order = sorted(range(len(leanings)), key=lambda n: -leanings[n].taken / max(leanings[n].images, 1))
    places = {leanings[n].name: n for n in order}
    rows: list[int] = []
    for n in order:
        rows += [n] if n not in rows else []
        nearest = places.get(leanings[n].nearest)
        if leanings[n].taken and nearest is not None and nearest not in rows:
            rows.append(nearest)
    chosen = [leanings[n] for n in rows[:ROWS]]
    columns, values = strength_table(chosen)
    return Evidence(
        kind="matrix",
        arrays={"values": values, "columns": columns},
        labels=tuple(each.name for each in chosen),
        x=f"channels of {chosen[0].layer} that a class leans on; each below the class that leans on it most",
        y="share of the channel in what drives the class's score (%)",
    )


def strength_table(leanings: Sequence[Leaning]) -> tuple[Ints, Floats]:
    """Return the channels that any of these classes leans on, int64 [n], and each class's shares in percent.

    Returns:
        The channels in the order of the first class with the largest share, within it the largest first; and float64
        [classes, n], NaN where a class does not lean on the channel.
    """
    every = np.unique([channel for each in leanings for channel in each.channels]).astype(np.int64)
    values = np.full((len(leanings), len(every)), np.nan)
    for row, each in enumerate(leanings):
        values[row, np.searchsorted(every, each.channels)] = 100 * np.asarray(each.shares)
    filled = np.nan_to_num(values)
    order = np.lexsort((-filled.max(0), filled.argmax(0))) if len(every) else np.arange(0)
    return every[order], values[:, order]


def _row(each: Leaning) -> tuple[object, ...]:
    return (
        each.name,
        each.images,
        each.right,
        each.layer,
        each.filters,
        len(each.channels),
        max(each.shares, default=0.0),
        " ".join(map(str, each.channels)),
        each.nearest,
        each.taken,
        " ".join(map(str, each.shared)),
        "" if each.overlap is None else each.overlap,
        each.wrong,
        "" if each.foreign is None else each.foreign,
    )
