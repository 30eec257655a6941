"""A folder of the site: what it was made of, and what does not belong to it any more."""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from deconvviz.errors import DataError
from deconvviz.results.files import atomic

STAMP = "stamp.json"


def make_folder(folder: pathlib.Path) -> None:
    """Make a folder where there is none; raises DataError where that is impossible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the folder {folder}: {error.strerror}; choose another place") from error


def read_stamp(folder: pathlib.Path) -> Any:
    """Return what the folder was made of, or None where it is not complete."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads((folder / STAMP).read_text("utf-8"))
    return None


def write_stamp(folder: pathlib.Path, stamp: Mapping[str, Any]) -> None:
    """Write down that the folder is complete, and what it was made of; the stamp is a folder's last file."""
    with atomic(folder / STAMP) as temporary:
        temporary.write_text(json.dumps(stamp, sort_keys=True) + "\n", "utf-8")


def remove_others(folder: pathlib.Path, names: Collection[str]) -> None:
    """Remove every file of a folder but those named: what an earlier call made of more data, or left half written."""
    for name in {path.name for path in folder.iterdir()} - {*names}:
        (folder / name).unlink()


def remove_parts(folder: pathlib.Path, pages: Iterable[str], parts: Iterable[str]) -> None:
    """Remove what a call that was killed left half written: beside its pages, and in the folders `parts`."""
    unfinished = [path for page in pages for path in folder.glob(f".{page}.*.part")]
    unfinished += [path for name in parts for path in (folder / name).rglob(".*.part")]
    for path in unfinished:
        path.unlink(missing_ok=True)
