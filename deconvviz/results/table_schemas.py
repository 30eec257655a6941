"""How a table is declared: its columns with types, units and meanings."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """One column, or all columns whose names match.

    Attributes:
        name: with a star for any text.
        type: "text", "integer", "number" or "flag".
        optional: whether it, or a cell of it, may be absent.
        unit: such as "px"; "" where there is none.
        meaning: what it holds.
    """

    name: str
    type: str
    optional: bool
    unit: str
    meaning: str

    def matches(self, name: str) -> bool:
        """Return whether a column's name is meant."""
        return re.fullmatch(re.escape(self.name).replace(r"\*", ".+"), name) is not None


@dataclass(frozen=True, kw_only=True)
class TableSchema:
    """One kind of table.

    Attributes:
        what: what a row is, and the order of the rows.
        written_by: the commands and methods that write it, and the one that returns it as a data frame.
        columns: in their order.
    """

    what: str
    written_by: str
    columns: tuple[Column, ...]


def columns_of(*lines: str) -> tuple[Column, ...]:
    """Read declarations: "name type | unit | meaning"."""
    columns = []
    for line in lines:
        head, unit, meaning = (part.strip() for part in line.split(" | ", 2))
        name, type_ = head.split()
        columns.append(Column(name, type_.rstrip("?"), type_.endswith("?"), unit, meaning))
    return tuple(columns)
