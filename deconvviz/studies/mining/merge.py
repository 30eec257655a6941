"""Merging: the mined files of all shards of one job become the file that a single run would have made."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

from deconvviz.errors import DataError, MismatchError
from deconvviz.results.results import require_same
from deconvviz.studies.mining.result import Mined, load_mined
from deconvviz.types import Pathlike
from deconvviz.words import counted


def merge(paths: Sequence[Pathlike], out: Pathlike, overwrite: bool = False) -> Mined:
    """Join the mined files of all shards of one job into the file that a single run would have made.

    The order of the files does not matter.

    Args:
        paths: the files of the shards 0/n to n-1/n.
        out: path of the joined file.
        overwrite: whether `out` is replaced if it exists.

    Returns:
        What the joined file holds.

    Raises:
        MismatchError: the files are not the complete shards 0/n to n-1/n of one job.
        DataError: a file cannot be read, or `out` exists (unless `overwrite`) or cannot be written.
    """
    if pathlib.Path(out).exists() and not overwrite:
        raise DataError(f"{out} exists already; choose another output, or --force to replace it")
    files = [load_mined(path) for path in paths]
    _require_one_job(paths, files)
    # A sum of floats depends on its order; sorted, the result does not depend on the order of the paths.
    files.sort(key=lambda file: tuple(file.config["shard"]))
    _require_every_shard(files)
    layers = dict(files[0].layers)
    for file in files[1:]:
        layers = {name: layer.merge(file[name]) for name, layer in layers.items()}
    total = sum(file.total for file in files)
    merged = Mined(
        layers=layers,
        config=files[0].config | {"shard": None},
        sources=_sources(files),
        done=total,
        total=total,
        path=pathlib.Path(out),
        figure_arrays={name: each for name, each in files[0].figure_arrays.items() if name.startswith("directions/")},
    )
    merged.save(out)
    return merged


def _sources(files: Sequence[Mined]) -> dict[str, Any]:
    """Return the sources of the first file, with the images that any of the shards had to leave out."""
    left_out = {name: reason for file in files for name, reason in file.sources.get("left_out", {}).items()}
    return {**files[0].sources, **({"left_out": left_out} if left_out else {})}


def _require_one_job(paths: Sequence[Pathlike], files: Sequence[Mined]) -> None:
    """Raise MismatchError unless the files are finished shards that were mined with the same settings."""
    if not files:
        raise MismatchError("no files to merge; give the n files of shards 0/n to n-1/n")
    for path, file in zip(paths, files, strict=True):
        expected = files[0].config | {"shard": file.config["shard"]}
        both = file.sources, files[0].sources
        require_same(path, file.config, expected, "merge shards of one job only", both)
        if not file.complete:
            raise MismatchError(
                f"{path} is unfinished: {file.done} of {counted(file.total, 'image')}; run its command again first"
            )
    for path, file in zip(paths, files, strict=True):
        if file.config["shard"] is None:
            raise MismatchError(f"{path} is no shard: it was mined without --shard; there is nothing to merge it with")


def _require_every_shard(files: Sequence[Mined]) -> None:
    """Raise MismatchError unless the files, sorted by shard, are each shard of one division once."""
    shards = [tuple(file.config["shard"]) for file in files]
    parts = shards[0][1]
    if shards != [(index, parts) for index in range(parts)]:
        listed = ", ".join(f"{index}/{count}" for index, count in shards)
        raise MismatchError(f"shards {listed} given; expected each of 0/{parts} to {parts - 1}/{parts} once")
