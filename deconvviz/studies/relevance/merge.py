"""Merging: the relevance files of all shards of one job become the file that a single run would have made."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from deconvviz.results.shard_files import all_shards, require_new, sources_of_all
from deconvviz.studies.relevance.result import Relevance, load_relevance
from deconvviz.types import Pathlike


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
    require_new(out, overwrite)
    files = all_shards(paths, load_relevance)
    layers = dict(files[0].layers)
    for file in files[1:]:
        layers = {name: layer.merge(file[name]) for name, layer in layers.items()}
    total = sum(file.total for file in files)
    merged = Relevance(
        layers=layers,
        config=files[0].config | {"shard": None},
        sources=sources_of_all(files),
        done=total,
        total=total,
        path=pathlib.Path(out),
    )
    merged.save(out)
    return merged
