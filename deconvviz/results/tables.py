"""Tables of numbers as CSV files."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from typing import Any

from deconvviz.results.files import atomic
from deconvviz.types import Pathlike


def write_csv(path: Pathlike, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table atomically; floats are written with seven digits.

    Args:
        path: of the CSV file.
        columns: names of the columns.
        rows: the values of each row, in the order of the columns.

    Raises:
        DataError: the file cannot be written.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_csv(f"{folder}/t.csv", ["layer", "share"], [["conv1", 1 / 3]])
    ...     pathlib.Path(folder, "t.csv").read_text()
    'layer,share\\nconv1,0.3333333\\n'
    """
    with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([f"{cell:.7g}" if isinstance(cell, float) else cell for cell in row] for row in rows)
