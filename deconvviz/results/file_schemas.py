"""How an HDF5 file is declared: its settings and its arrays, with types, axes, ranges and meanings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

KINDS_OF_TYPES = {"i": "iu", "f": "f", "n": "iufb", "u8": "u", "b": "b", "t": "OSU"}


@dataclass(frozen=True)
class ArraySchema:
    """One array, or all arrays whose names match.

    Attributes:
        name: with a star for any text.
        type: a key of KINDS_OF_TYPES.
        axes: names, numbers, or "...".
        least: the smallest value; None where there is none.
        finite: whether NaN and infinity are refused.
        optional: whether it may be absent.
        dtype: as it is written, such as "float32".
        meaning: what it holds, with unit and order.
    """

    name: str
    type: str
    axes: tuple[str, ...]
    least: int | None = None
    finite: bool = False
    optional: bool = False
    dtype: str = ""
    meaning: str = ""

    def match(self, name: str) -> re.Match[str] | None:
        """Return how a name matches; the star's text is its only group, where there is a star."""
        return re.fullmatch(re.escape(self.name).replace(r"\*", "(.+)", 1).replace(r"\*", ".+"), name)


@dataclass(frozen=True, kw_only=True)
class FileSchema:
    """One kind of HDF5 file.

    Attributes:
        version: of its layout, the attribute "schema".
        what: what it holds, in a sentence.
        written_by: the commands and functions that write it.
        read_by: the function that reads it.
        settings: attribute or key of an attribute in JSON -> what it says.
        arrays: of the file, the first that matches a name counts.
    """

    version: int
    what: str
    written_by: str
    read_by: str
    settings: Mapping[str, str]
    arrays: tuple[ArraySchema, ...]


def arrays_of(*lines: str) -> tuple[ArraySchema, ...]:
    """Read declarations: "name type axes | least, finite, ? | dtype: meaning"."""
    result = []
    for line in lines:
        text, flags, note = (part.strip() for part in line.split(" | ", 2))
        name, type_, *axes = text.split()
        words = flags.replace(",", " ").split()
        least = next((int(word) for word in words if word.lstrip("-").isdecimal()), None)
        dtype, _, meaning = note.partition(": ")
        result.append(ArraySchema(name, type_, tuple(axes), least, "finite" in words, "?" in words, dtype, meaning))
    return tuple(result)
