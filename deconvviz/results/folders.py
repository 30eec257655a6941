"""A folder that one command fills, and continues where it was interrupted."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from deconvviz.errors import DataError
from deconvviz.results.files import Pathlike, one_line
from deconvviz.results.results import Result, require_same


def claim(folder: Pathlike, kind: str, config: Mapping[str, Any]) -> None:
    """Make a folder for results of this kind, or take the one that was made for the same configuration.

    The folder `data` in it, and a file KIND.h5 there, tell whose it is and what was asked. What a killed command had
    half written is removed; two commands must not fill one folder at a time.

    Raises:
        MismatchError: it was made otherwise. DataError: it holds other files, or cannot be made.
    """
    folder = pathlib.Path(folder)
    note = folder / "data" / f"{kind}.h5"
    if note.is_file():
        require_same(folder, Result.load(note, kind, 1).config, config, "remove it or choose another output with -o")
        for part in folder.rglob(".*.part"):
            part.unlink(missing_ok=True)
        return
    if folder.exists() and (not folder.is_dir() or _foreign(folder)):
        what = "holds other files" if folder.is_dir() else "is a file"
        raise DataError(f"{folder} {what}; give another folder with -o")
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make {folder}: {one_line(error)}; give another folder with -o") from error
    Result(kind, 1, dict(config)).save(note)


def _foreign(folder: pathlib.Path) -> bool:
    """Whether there is more than a command leaves that was killed before it had begun."""
    data = folder / "data"
    inside = [path for path in folder.iterdir() if path != data]
    if data.is_dir():
        inside += [path for path in data.iterdir() if not path.name.endswith(".part")]
    return bool(inside)
