"""The tables of the views of a recurrent network, as CSV files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deconvviz.results.tables import Table
from deconvviz.studies.recurrent.naming import shown_token

if TYPE_CHECKING:
    from deconvviz.studies.recurrent.result import RecurrentViews

Rows = Iterator[Sequence[Any]]


def tracking_rows(views: RecurrentViews) -> Rows:
    """Yield a row for each layer, property and unit, the units by their absolute correlation."""
    for layer in views.layers:
        for name, each in layer.tracked.items():
            for unit in each.order.tolist():
                yield layer.name, name, unit, float(each.correlation[unit]), float(each.p[unit]), each.chance


def _responses(views: RecurrentViews) -> Rows:
    for layer in views.layers:
        for token, count in enumerate(layer.counts.tolist()):
            for unit in range(layer.units) if count else ():
                values = (layer.mean[token, unit], *layer.quantiles[:, token, unit])
                groups = int(layer.token_groups[token]), int(layer.unit_groups[unit])
                word = shown_token(views.sequences.vocabulary[token])
                yield layer.name, word, count, unit, *map(float, values), *groups


def _gates(views: RecurrentViews) -> Rows:
    for layer in views.layers:
        for gate, shares in layer.gates.items():
            for unit, (shut, opened) in enumerate(shares.tolist()):
                yield layer.name, gate, unit, shut, opened


def _passages(views: RecurrentViews) -> Rows:
    for layer in views.layers:
        for unit in range(layer.units):
            for rank, step in enumerate(layer.top_steps[unit].tolist()):
                if step >= 0:
                    value = float(layer.top_values[unit, rank])
                    yield layer.name, unit, rank + 1, value, *views.where(step), text_of(views, *views.passage(step))


def _together(views: RecurrentViews) -> Rows:
    for layer in views.layers:
        found = layer.together
        if found is not None:
            units = " ".join(map(str, found.units.tolist()))
            ranges = [(found.start, found.stop), *found.ranges.tolist()]
            counts = [len(found.units), *found.counts.tolist()]
            for rank, (start, stop) in enumerate(ranges):
                sequence, first = views.where(start)
                others = "" if not rank else int(found.others[rank - 1])
                text = text_of(views, start, stop)
                yield layer.name, rank, sequence, first, first + stop - start - 1, units, counts[rank], others, text


def _relevance(views: RecurrentViews) -> Rows:
    for number, each in enumerate(views.relevance):
        for place, value in enumerate(each.relevance.tolist()):
            step = each.start + place
            token = shown_token(views.sequences.token(step))
            where = views.where(step)
            yield number, shown_token(each.name), each.score, views.where(each.step)[1], *where, token, value


def text_of(views: RecurrentViews, start: int, stop: int) -> str:
    """Return the tokens of a range, with line ends as visible signs."""
    return views.sequences.text(start, stop).replace("\n", "⏎").replace("\t", "⇥")


TRACKING = ("layer", "property", "unit", "correlation", "p", "chance")
TABLES: Mapping[str, Table[RecurrentViews]] = {
    "tracking.csv": ("tracking", TRACKING, tracking_rows),
    "responses.csv": (
        "token responses",
        ("layer", "token", "count", "unit", "mean", "q09", "q25", "q75", "q91", "token_group", "unit_group"),
        _responses,
    ),
    "gates.csv": ("gates", ("layer", "gate", "unit", "shut", "open"), _gates),
    "passages.csv": ("passages", ("layer", "unit", "rank", "activity", "sequence", "step", "text"), _passages),
    "together.csv": (
        "units together",
        ("layer", "rank", "sequence", "first", "last", "units", "on", "others", "text"),
        _together,
    ),
    "relevance.csv": (
        "token relevance",
        ("number", "output", "score", "read_at", "sequence", "step", "token", "relevance"),
        _relevance,
    ),
}
"""File name -> kind of the table, its columns, and the function that yields its rows."""
