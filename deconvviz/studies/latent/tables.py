"""The tables of a generator's views, as CSV files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deconvviz.results.tables import Table

if TYPE_CHECKING:
    from deconvviz.studies.latent.result import LatentViews

Rows = Iterator[Sequence[Any]]
FORMS = ("plain", "conditional")


def direction_rows(views: LatentViews) -> Rows:
    """Yield a row for each direction, plain and conditional, and each score."""
    directions = views.directions
    if directions is not None:
        for form, name in enumerate(FORMS):
            for a, direction in enumerate(directions.names):
                for b, score in enumerate(directions.names):
                    numbers = (directions.cosines[a, b], directions.moved[form, a, b])
                    own_values = (directions.accuracy[a], directions.monotonic[form, a])
                    yield direction, name, score, *map(float, (*own_values, *numbers))


def _walks(views: LatentViews) -> Rows:
    directions = views.directions
    if directions is not None:
        for form, name in enumerate(FORMS):
            for a, direction in enumerate(directions.names):
                for row in range(directions.scores.shape[2]):
                    for step, value in enumerate(directions.steps.tolist()):
                        for b, score in enumerate(directions.names):
                            yield direction, name, row, value, score, float(directions.scores[form, a, row, step, b])


def _codes(views: LatentViews) -> Rows:
    yield from enumerate(views.sweeps.change.tolist())


def _axes(views: LatentViews) -> Rows:
    for axis, vector in enumerate(views.axes.vectors):
        for place, value in enumerate(vector.tolist()):
            yield axis, float(views.axes.explained[axis]), float(views.axes.linear[axis]), place, value


def _units(views: LatentViews) -> Rows:
    units = views.units
    if units is not None:
        for unit in range(len(units.change)):
            samples = " ".join(map(str, units.top_samples[unit].tolist()))
            common = unit, float(units.change[unit]), float(units.top_values[unit, 0]), samples
            for m, part in enumerate(units.parts or ("",)):
                iou, chance = (float(units.iou[unit, m]), float(units.chance[m])) if units.parts else ("", "")
                yield *common, part, iou, chance


def _effects(views: LatentViews) -> Rows:
    units = views.units
    if units is not None:
        for n, unit in enumerate(units.chosen.tolist()):
            for m, part in enumerate(units.parts):
                yield unit, part, *map(float, (*units.removed[n, m], units.levels[n], *units.inserted[n, m]))


DIRECTIONS = ("direction", "form", "score", "accuracy", "monotonic", "cosine", "moved")
TABLES: Mapping[str, Table[LatentViews]] = {
    "directions.csv": ("latent directions", DIRECTIONS, direction_rows),
    "walks.csv": ("latent walks", ("direction", "form", "row", "step", "score", "value"), _walks),
    "codes.csv": ("latent codes", ("place", "change"), _codes),
    "axes.csv": ("latent axes", ("axis", "explained", "linear", "place", "value"), _axes),
    "units.csv": ("generator units", ("unit", "change", "largest", "samples", "part", "iou", "chance"), _units),
    "effects.csv": (
        "unit effects",
        (
            "unit",
            "part",
            "removed",
            "removed_low",
            "removed_high",
            "level",
            "inserted",
            "inserted_low",
            "inserted_high",
        ),
        _effects,
    ),
}
"""File name -> kind of the table, its columns, and the function that yields its rows."""
