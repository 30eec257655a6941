"""Shards: an image store that lies in several files of one folder, `shard-00003-of-00008.h5` and so on.

Each shard is a whole image store, with consecutive images of the packed ones. Its configuration has an entry "shard":
its index from 0, the number of shards ("of"), and the plan, a digest of all that is packed. Shards belong together
where number and plan are equal, whether or not all of them are there yet.
"""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Iterable, Sequence

from deconvviz.data.store_file import StoreFile
from deconvviz.errors import DataError
from deconvviz.results.files import one_line
from deconvviz.types import Pathlike

MOST = 99_999  # shards, so that names have five digits
_NAME = re.compile(r"shard-(\d{5})-of-(\d{5})\.h5")


def shard_path(folder: Pathlike, index: int, count: int) -> pathlib.Path:
    """Return the path of shard `index`, from 0, of `count`.

    >>> shard_path("photos", 3, 8).name
    'shard-00003-of-00008.h5'
    """
    return pathlib.Path(folder) / f"shard-{index:05d}-of-{count:05d}.h5"


def shards_of(path: pathlib.Path) -> int:
    """Return how many shards there are with a file that is named like one of them.

    >>> shards_of(shard_path("photos", 3, 8))
    8
    """
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match.group(2))


def shards_in(folder: Pathlike) -> list[pathlib.Path]:
    """Return the files of a folder that are named like shards, in the order of their names.

    Raises:
        DataError: the folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if _NAME.fullmatch(entry.name))
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {one_line(error)}; change its permissions") from error
    return [pathlib.Path(folder) / name for name in names]


def is_sharded(path: Pathlike) -> bool:
    """Return whether a path is that of a folder with shards."""
    return pathlib.Path(path).is_dir() and bool(shards_in(path))


def open_shards(folder: pathlib.Path) -> list[StoreFile]:
    """Open all shards of a folder, in their order.

    Raises:
        DataError: the folder has no shards, one is missing, damaged or of another store, or they hold images of
            different kinds.
    """
    paths = shards_in(folder)
    if not paths:
        raise DataError(
            f"{folder} is a folder; expected an image store, as `deconvviz pack` writes it, or a folder of its shards"
        )
    count = shards_of(paths[0])
    stray = [path for path in paths if shards_of(path) != count]
    if stray:
        raise DataError(
            f"{stray[0]} is of another store than {paths[0].name}; keep the shards of one store in a folder"
        )
    missing = [path for index in range(count) if not (path := shard_path(folder, index, count)).is_file()]
    if missing:
        raise DataError(
            f"{missing[0]} is missing: {count - len(missing)} of {count} shards are there; give the command that "
            "packed them again, or restore the file"
        )
    files = [StoreFile(path) for path in paths]
    plans = [plan_of(file, index, count) for index, file in enumerate(files)]
    for file, plan in zip(files, plans, strict=True):
        if plan != plans[0]:
            raise DataError(
                f"{file.path} is of another store than {paths[0].name}; keep the shards of one store in a folder"
            )
    refuse_mixture(files)
    return files


def plan_of(file: StoreFile, index: int, count: int) -> str:
    """Return the plan that a shard belongs to; DataError where it is not shard `index` of `count`."""
    shard = file.configuration.get("shard")
    if not isinstance(shard, dict):
        raise DataError(f"{file.path} is no shard but a whole store, named like a shard; move it elsewhere")
    if (shard.get("index"), shard.get("of")) != (index, count):
        raise DataError(
            f"{file.path} is shard {shard.get('index')} of {shard.get('of')}, from 0, under another name; give it its "
            "own name back"
        )
    return str(shard.get("plan"))


def refuse_mixture(files: Iterable[StoreFile]) -> None:
    """Raise DataError where shards hold images of different kinds; those without an image fit all."""
    filled = [file for file in files if len(file)]
    for file in filled[1:]:
        if _kind_in_words(file) != _kind_in_words(filled[0]):
            raise DataError(
                f"{file.names[0]} in {file.path} is {_kind_in_words(file)}, and {filled[0].names[0]} in "
                f"{filled[0].path.name} is {_kind_in_words(filled[0])}; a raw store holds images of one kind: pack "
                "them apart"
            )


def first_with_images(files: Sequence[StoreFile]) -> StoreFile:
    """Return the first file that has images; the first one where none has."""
    return next((file for file in files if len(file)), files[0])


def _kind_in_words(file: StoreFile) -> str:
    if file.kind == "encoded":
        return "an image file"
    return f"{file.dtype} with {file.channels} channels"
