"""Merging: the relevance files of all shards of one job become the file that a single run would have made."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from deconvviz.errors import DataError, MismatchError
from deconvviz.results.results import require_same
from deconvviz.studies.relevance.result import Relevance, load_relevance
from deconvviz.types import Pathlike
from deconvviz.words import counted


def merge_relevance(paths: Sequence[Pathlike], out: Pathlike, overwrite: bool = False) -> Relevance:
    """Join the relevance files of all shards of one job; the order of the files does not matter.

    Args:
        paths: the files of the shards 0/n to n-1/n.
        out: path of the joined file.
        overwrite: whether `out` is replaced if it exists.

    Raises:
        MismatchError: the files are not the complete shards 0/n to n-1/n of one job.
        DataError: a file cannot be read, or `out` exists (unless `overwrite`) or cannot be written.
    """
    if pathlib.Path(out).exists() and not overwrite:
        raise DataError(f"{out} exists already; choose another output, or --force to replace it")
    if not paths:
        raise MismatchError("no files to merge; give the n files of shards 0/n to n-1/n")
    files = [load_relevance(path) for path in paths]
    for path, file in zip(paths, files, strict=True):
        expected = files[0].config | {"shard": file.config["shard"]}
        require_same(path, file.config, expected, "merge shards of one job only", (file.sources, files[0].sources))
        if file.config["shard"] is None:
            raise MismatchError(f"{path} is no shard: it was made without --shard; there is nothing to merge it with")
        if not file.complete:
            raise MismatchError(
                f"{path} is unfinished: {file.done} of {counted(file.total, 'image')}; run its command again first"
            )
    files.sort(key=lambda file: tuple(file.config["shard"]))  # a sum of floats depends on its order
    shards = [tuple(file.config["shard"]) for file in files]
    parts = shards[0][1]
    if shards != [(index, parts) for index in range(parts)]:
        listed = ", ".join(f"{index}/{count}" for index, count in shards)
        raise MismatchError(f"shards {listed} given; expected each of 0/{parts} to {parts - 1}/{parts} once")
    layers = dict(files[0].layers)
    for file in files[1:]:
        layers = {name: layer.merge(file[name]) for name, layer in layers.items()}
    left_out = {name: reason for file in files for name, reason in file.sources.get("left_out", {}).items()}
    total = sum(file.total for file in files)
    merged = Relevance(
        layers=layers,
        config=files[0].config | {"shard": None},
        sources={**files[0].sources, **({"left_out": left_out} if left_out else {})},
        done=total,
        total=total,
        path=pathlib.Path(out),
    )
    merged.save(out)
    return merged
