"""Tables of numbers: as CSV files, and as data frames of pandas."""

from __future__ import annotations

import csv
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from deconvviz.errors import DataError, missing_library
from deconvviz.results.columns import TABLES
from deconvviz.results.files import atomic
from deconvviz.types import Pathlike

if TYPE_CHECKING:
    import pandas as pd

Views = TypeVar("Views")
Table: TypeAlias = tuple[str, Sequence[str], Callable[[Views], Iterable[Sequence[Any]]]]
"""Kind of a table, its columns, and the function that gives its rows of a result."""


def write_csv(path: Pathlike, kind: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table atomically; floats are written with seven digits, and a cell is empty where one is NaN.

    Args:
        path: of the CSV file.
        kind: of the table, whose columns are declared in `results.columns`.
        columns: names of the columns.
        rows: the values of each row, in the order of the columns.

    Raises:
        DataError: the file cannot be written.
        ValueError: a column is not declared, or one is missing.

    >>> import pathlib, tempfile
    >>> columns = ["true", "predicted", "images", "mean_overlap"]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_csv(f"{folder}/t.csv", "confusions", columns, [["cat", "dog", 3, 1 / 3]])
    ...     pathlib.Path(folder, "t.csv").read_text()
    'true,predicted,images,mean_overlap\\ncat,dog,3,0.3333333\\n'
    """
    _require_declared(kind, columns)
    with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(map(_as_text, row) for row in rows)


def _as_text(cell: Any) -> Any:
    if not isinstance(cell, float):
        return cell
    return "" if math.isnan(cell) else f"{cell:.7g}"


def to_frame(kind: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> pd.DataFrame:
    """Return a table as a data frame of pandas, with the columns that its CSV file has, and all digits.

    A cell that is empty in the file is missing in the frame.

    Args:
        kind: of the table, as for `write_csv`.
        columns: names of the columns.
        rows: the values of each row, in the order of the columns.

    Raises:
        DataError: pandas is not installed.
        ValueError: a column is not declared, or one is missing.
    """
    _require_declared(kind, columns)
    try:
        import pandas as pd
    except ImportError as error:
        raise DataError(f"there is no data frame: {missing_library('pandas')}") from error
    frame = pd.DataFrame.from_records([list(row) for row in rows], columns=list(columns))
    for column in frame.columns:
        declared = next(each for each in TABLES[kind].columns if each.matches(column))
        if declared.type == "text":
            frame[column] = frame[column].astype(object)
            continue
        numbers = pd.to_numeric(frame[column].replace("", float("nan")))
        whole = declared.type in ("integer", "flag")
        frame[column] = numbers.astype(("Int64" if numbers.isna().any() else "int64") if whole else "float64")
    return frame


def write_tables(folder: Pathlike, tables: Mapping[str, Table[Views]], views: Views) -> None:
    """Write several tables of one result into a folder that exists.

    Args:
        folder: where the files are written.
        tables: file name -> kind of the table, its columns, and the function that gives its rows.
        views: the result, which these functions are given.

    Raises:
        DataError: a file cannot be written.
        ValueError: as for `write_csv`.
    """
    for name, (kind, columns, rows) in tables.items():
        write_csv(pathlib.Path(folder, name), kind, columns, rows(views))


def rows_of(table: Mapping[str, Iterable[Any]]) -> Iterable[tuple[Any, ...]]:
    """Return the rows of a table that is given by its columns.

    >>> list(rows_of({"layer": ["a", "b"], "share": [1, 2]}))
    [('a', 1), ('b', 2)]
    """
    return zip(*table.values(), strict=True)


def _require_declared(kind: str, columns: Sequence[str]) -> None:
    """Raise ValueError where a table's columns are not those that its kind declares."""
    complaint = undeclared(kind, columns)
    if complaint:
        raise ValueError(complaint)


def undeclared(kind: str, columns: Sequence[str]) -> str:
    """Say how the columns of a table differ from what its kind declares; "" where they do not.

    >>> undeclared("confusions", ["true", "images", "mean_overlap"]), undeclared("confusions", ["true", "size"])
    ('predicted is missing', 'size is no column of a confusions table')
    """
    declared = TABLES[kind].columns
    for name in columns:
        if not any(column.matches(name) for column in declared):
            return f"{name} is no column of a {kind} table"
    for column in declared:
        if not column.optional and "*" not in column.name and column.name not in columns:
            return f"{column.name} is missing"
    return ""
