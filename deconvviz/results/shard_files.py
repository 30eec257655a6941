"""Result files of one job in shards: which belong together, and where a job that was interrupted goes on."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from deconvviz.errors import DataError, MismatchError
from deconvviz.results.results import require_same
from deconvviz.types import Pathlike
from deconvviz.words import counted

if TYPE_CHECKING:
    from typing_extensions import Self


class JobResult(Protocol):
    """What a job over images has found so far.

    Attributes:
        config: what decides the result; its "shard" is [i, n], or None.
        sources: where model and images came from; "left_out" holds the images that could not be used.
        done: images that are done.
        total: images to do.
        path: of its file; None where it is in memory only.
    """

    @property
    def config(self) -> dict[str, Any]: ...
    @property
    def sources(self) -> dict[str, Any]: ...
    @property
    def done(self) -> int: ...
    @property
    def total(self) -> int: ...
    @property
    def path(self) -> pathlib.Path | None: ...
    @property
    def complete(self) -> bool:
        """Whether all images are done."""

    def save(self: Self, path: Pathlike) -> None:
        """Write the file atomically."""


Found = TypeVar("Found", bound=JobResult)


def begun(empty: Found, load: Callable[[Pathlike], Found]) -> Found:
    """Return what the file of a job holds already, or the empty result.

    The file is written here, so that a place that cannot be written to is found out before the work and not after it.

    Args:
        empty: the result of no image, with the path of the file.
        load: reads a file.

    Raises:
        MismatchError: the file was made with other settings.
        DataError: it cannot be read or written.
    """
    result = empty
    if empty.path is not None and empty.path.exists():
        result = load(empty.path)
        both = result.sources, empty.sources
        require_same(empty.path, result.config, empty.config, "remove it or choose another output", both)
    if empty.path is not None and (result is empty or not result.complete):
        result.save(empty.path)
    return result


def require_new(out: Pathlike, overwrite: bool) -> None:
    """Raise DataError where a file exists and may not be replaced."""
    if pathlib.Path(out).exists() and not overwrite:
        raise DataError(f"{out} exists already; choose another output, or --force to replace it")


def all_shards(paths: Sequence[Pathlike], load: Callable[[Pathlike], Found]) -> list[Found]:
    """Read the files of all shards of one job, and return them in the order of their shards.

    A sum of floats depends on its order: in this one the joined result does not depend on the order of the paths.

    Raises:
        MismatchError: the files are not the complete shards 0/n to n-1/n of one job.
    """
    if not paths:
        raise MismatchError("no files to merge; give the n files of shards 0/n to n-1/n")
    files = [load(path) for path in paths]
    for path, file in zip(paths, files, strict=True):
        expected = files[0].config | {"shard": file.config["shard"]}
        require_same(path, file.config, expected, "merge shards of one job only", (file.sources, files[0].sources))
        if not file.complete:
            raise MismatchError(
                f"{path} is unfinished: {file.done} of {counted(file.total, 'image')}; run its command again first"
            )
    for path, file in zip(paths, files, strict=True):
        if file.config["shard"] is None:
            raise MismatchError(f"{path} is no shard: it was made without --shard; there is nothing to merge it with")
    files.sort(key=lambda file: tuple(file.config["shard"]))
    require_every_shard([file.config["shard"] for file in files])
    return files


def require_every_shard(shards: Sequence[Sequence[int]]) -> None:
    """Raise MismatchError unless these shards (i, n), sorted, are each one of one division once.

    >>> require_every_shard([(0, 2), (1, 2)])
    """
    pairs = [(index, parts) for index, parts in shards]
    parts = pairs[0][1]
    if pairs != [(index, parts) for index in range(parts)]:
        listed = ", ".join(f"{index}/{count}" for index, count in pairs)
        raise MismatchError(f"shards {listed} given; expected each of 0/{parts} to {parts - 1}/{parts} once")


def sources_of_all(files: Sequence[JobResult]) -> dict[str, Any]:
    """Return the sources of the first file, with the images that any of the shards had to leave out."""
    left_out = {name: reason for file in files for name, reason in file.sources.get("left_out", {}).items()}
    return {**files[0].sources, **({"left_out": left_out} if left_out else {})}
