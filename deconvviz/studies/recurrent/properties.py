"""Properties of steps that a cell may track: position in a line, inside quotes, depth of brackets, or a column."""

from __future__ import annotations

import csv
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from deconvviz.errors import DataError, nearest, require_choice
from deconvviz.results.files import one_line
from deconvviz.studies.recurrent.sequences import Sequences
from deconvviz.types import Floats

OPENING, CLOSING, QUOTE = "([{", ")]}", '"'


def position(sequences: Sequences) -> Floats:
    """Return the position in the line of each step, float64 [N]: tokens since the sequence or the line began.

    >>> from deconvviz.studies.recurrent.sequences import text_sequences
    >>> position(text_sequences("ab\\nc", split="file")).tolist()
    [0.0, 1.0, 2.0, 0.0]
    """
    since, distances = 0, []
    for step, place in enumerate(sequences.places):
        since = 0 if not place else since + 1
        distances.append(since)
        if sequences.vocabulary and sequences.token(step) == "\n":
            since = -1
    return np.array(distances, np.float64)


def inside_quotes(sequences: Sequences) -> Floats:
    """Return 1 for each step from a double quote that opens to the one before its partner, 0 elsewhere, float64 [N].

    >>> from deconvviz.studies.recurrent.sequences import text_sequences
    >>> inside_quotes(text_sequences('a"b"c')).tolist()
    [0.0, 1.0, 1.0, 0.0, 0.0]
    """
    return _counted(sequences, lambda inside, token: (inside + token.count(QUOTE)) % 2)


def bracket_depth(sequences: Sequences) -> Floats:
    """Return how many brackets are open after each step, float64 [N]; a bracket that closes nothing changes nothing.

    >>> from deconvviz.studies.recurrent.sequences import text_sequences
    >>> bracket_depth(text_sequences("(a[))")).tolist()
    [1.0, 1.0, 2.0, 1.0, 0.0]
    """

    def after(depth: int, token: str) -> int:
        for letter in token:
            depth = max(depth + (letter in OPENING) - (letter in CLOSING), 0)
        return depth

    return _counted(sequences, after)


PROPERTIES: Mapping[str, Callable[[Sequences], Floats]] = {
    "position": position,
    "quotes": inside_quotes,
    "depth": bracket_depth,
}
"""Name -> function from sequences to a number for each step. Without tokens there is only the position."""


def named_property(text: str, sequences: Sequences) -> tuple[str, Floats]:
    """Return the name of a property, and its value at each step, float64 [N].

    Args:
        text: a name from PROPERTIES, or FILE.csv:COLUMN, a table with a row for each step.
        sequences: the steps.

    Raises:
        DataError: there is no such property, or the table does not fit.
    """
    file, _, column = text.rpartition(":")
    if file:
        return column, _column(file, column, len(sequences))
    require_choice("property", text, PROPERTIES)
    if text != "position" and not sequences.vocabulary:
        raise DataError(f"property {text} asked for; vectors have no tokens: take position, or FILE.csv:COLUMN")
    return text, PROPERTIES[text](sequences)


def properties_of(names: Sequence[str], sequences: Sequences) -> dict[str, Floats]:
    """Return several properties by their names; without names all that the steps have and that vary.

    Two that have one name are refused.
    """
    if names:
        property_by_name: dict[str, Floats] = {}
        for text in names:
            name, values = named_property(text, sequences)
            if name in property_by_name:
                raise DataError(
                    f"two properties are called {name!r}, the second is {text}; give the column another name"
                )
            property_by_name[name] = values
        return property_by_name
    possible = PROPERTIES if sequences.vocabulary else ("position",)
    property_by_name = dict(named_property(name, sequences) for name in possible)
    return {name: values for name, values in property_by_name.items() if np.ptp(values) > 0}


def _counted(sequences: Sequences, after: Callable[[int, str], int]) -> Floats:
    """Carry a number through the tokens of each sequence; return it after each step."""
    number, counts = 0, []
    for step, place in enumerate(sequences.places):
        number = after(number if place else 0, sequences.token(step))
        counts.append(number)
    return np.array(counts, np.float64)


def _column(path: str, column: str, steps: int) -> Floats:
    """Read a column of a table with a row for each step."""
    try:
        with pathlib.Path(path).open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {one_line(error)}; expected a table, FILE.csv:COLUMN") from error
    names = list(rows[0]) if rows else []
    if column not in names:
        raise DataError(f"{path} has no column {column!r}; {nearest(column, names)}")
    if len(rows) != steps:
        raise DataError(f"{path} has {len(rows)} rows; expected one for each of the {steps} steps")
    try:
        values = np.array([float(row[column]) for row in rows])
    except (TypeError, ValueError) as error:
        raise DataError(f"column {column} of {path} has a cell that is not a number ({one_line(error)})") from error
    if not np.isfinite(values).all():
        raise DataError(f"column {column} of {path} has NaN or infinite values; replace them")
    return values
