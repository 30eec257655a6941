"""Names of channels from a table: which concepts a layer's filters detect, for titles, pages and findings."""

from __future__ import annotations

import csv
import pathlib
from collections.abc import Collection, Mapping

from deconvviz.errors import DataError
from deconvviz.types import Pathlike

NAME_COLUMNS = (
    *("layer", "channel", "name", "kind", "named"),
    *("iou", "iou_chance", "share", "share_chance", "p", "threshold"),
)

Names = Mapping[str, Mapping[int, str]]
"""Layer -> channel -> its name."""


def read_names(path: Pathlike, layers: Collection[str] = ()) -> Names:
    """Read the names of channels from a table that `deconvviz dissect` wrote, or from one of your own.

    Args:
        path: a CSV file with the columns layer, channel and name. Where it has a column `named` too, rows with 0 in it
            are left out. Several names of a channel are joined by commas, in their order.
        layers: those that are shown; none for any.

    Returns:
        layer -> channel -> its name.

    Raises:
        DataError: the file cannot be read, lacks a column, a channel is no number, or no layer that is shown has names.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = pathlib.Path(folder, "n.csv").write_text("layer,channel,name\\nconv5,3,wheel\\nconv5,3,black\\n")
    ...     read_names(f"{folder}/n.csv")
    {'conv5': {3: 'wheel, black'}}
    """
    try:
        with pathlib.Path(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), reader.fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read the names in {path}: {error}; expected a table of `deconvviz dissect`") from error
    missing = [name for name in NAME_COLUMNS[:3] if name not in columns]
    if missing:
        raise DataError(f"{path} has no column {missing[0]!r}; expected layer, channel and name")
    names: dict[str, dict[int, str]] = {}
    for line, row in enumerate(rows, 2):
        if row.get("named") == "0":
            continue
        if not (row["channel"] or "").isdecimal() or not row["layer"] or not row["name"]:
            raise DataError(f"{path}, line {line}: expected a layer, the number of a channel and a name")
        of_layer, channel = names.setdefault(row["layer"], {}), int(row["channel"])
        of_layer[channel] = ", ".join(filter(None, (of_layer.get(channel), row["name"])))
    require_names_of(names, layers, path)
    return names


def require_names_of(names: Names, layers: Collection[str], path: Pathlike) -> None:
    """Raise DataError where names from a file are of other layers than all of those that are shown."""
    if layers and names and not set(layers) & set(names):
        raise DataError(f"{path} names filters of {', '.join(names)}; expected a table of {', '.join(layers)}")
