"""Folders that one command fills; the command resumes there after an interruption."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from deconvviz.errors import DataError
from deconvviz.results.files import one_line
from deconvviz.results.results import Result, require_same
from deconvviz.types import Pathlike


def claim(folder: Pathlike, kind: str, config: Mapping[str, Any]) -> None:
    """Make a folder for one command's files, or take the one that was made with the same settings.

    The file data/KIND.h5 in the folder says which command fills it, and with which settings. Files that a killed
    command left unfinished are removed; two commands must not fill one folder at the same time.

    Args:
        folder: path of the folder; it may exist if it is empty or was claimed before.
        kind: what the folder holds, such as "atlas".
        config: the settings that must agree, JSON values.

    Raises:
        MismatchError: the folder was made with other settings.
        DataError: the folder holds other files, or cannot be made.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     claim(f"{parent}/atlas", "atlas", {"k": 9})
    ...     claim(f"{parent}/atlas", "atlas", {"k": 9})  # resumes
    ...     sorted(path.name for path in pathlib.Path(parent, "atlas").rglob("*"))
    ['atlas.h5', 'data']
    """
    folder = pathlib.Path(folder)
    note = f"data/{kind}.h5"
    begun = (folder / note).is_file()
    if not begun and folder.exists() and (not folder.is_dir() or _holds_other_files(folder)):
        what = "holds other files" if folder.is_dir() else "is a file"
        raise DataError(f"{folder} {what}; give another folder with -o")
    begin_or_resume(folder, note, Result(kind, 1, dict(config)), "remove it or choose another output with -o")
    if begun:
        for unfinished in folder.rglob(".*.part"):
            unfinished.unlink(missing_ok=True)


def begin_or_resume(folder: Pathlike, note: str, fresh: Result, advice: str) -> Result:
    """Return the result file by which a job in a folder resumes; where there is none, begin it.

    Args:
        folder: path of the folder; it is made where it does not exist. Other files in it stay as they are.
        note: the file's name within the folder.
        fresh: what the file holds at the beginning.
        advice: what to do where the file was written with other settings, such as "give another folder".

    Raises:
        MismatchError: the file was written with other settings than those of `fresh`.
        DataError: the file cannot be read, or the folder cannot be made.
    """
    path = pathlib.Path(folder, note)
    if path.is_file():
        result = Result.load(path, fresh.kind, fresh.schema)
        require_same(folder, result.config, fresh.config, advice, (result.sources, fresh.sources))
        return result
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make {folder}: {one_line(error)}; give another folder") from error
    fresh.save(path)
    return fresh


def _holds_other_files(folder: pathlib.Path) -> bool:
    """Return whether a folder holds more than a command leaves that was killed before it wrote its configuration."""
    data = folder / "data"
    others = [path for path in folder.iterdir() if path != data]
    if data.is_dir():
        others += [path for path in data.iterdir() if not path.name.endswith(".part")]
    return bool(others)
