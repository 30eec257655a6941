"""Tables of numbers as CSV files."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from typing import Any

from deconvviz.results.files import Pathlike, atomic


def write_csv(path: Pathlike, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table atomically; floats keep seven digits. Raises DataError where it cannot be written."""
    with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([f"{v:.7g}" if isinstance(v, float) else v for v in row] for row in rows)
