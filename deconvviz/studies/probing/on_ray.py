"""Features on a Ray cluster: every shard streams a block of the images into a file of its own; the rows are joined."""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deconvviz.data.preprocess import Preprocess
from deconvviz.results.features import Features, write_features
from deconvviz.results.results import require_same
from deconvviz.run.cluster import RayOptions
from deconvviz.run.features import StreamKeywords, StreamOptions, chosen, stream_features
from deconvviz.run.on_ray import run_on_ray
from deconvviz.run.shipping import RemoteImages, RemoteModel
from deconvviz.studies.probing.transfer import untrained
from deconvviz.types import Ints, Pathlike

ROWS = 1024  # that are copied together


@dataclass(frozen=True)
class StreamJob:
    """What the nodes have to know to stream the features of a shard.

    Attributes:
        model: loaded and captured by each node.
        seed: of random weights; None for the weights of the model.
        images: opened by each node.
        indices: the images to take; shard i of n takes the i-th of n blocks.
        layers: names of the layers.
        preprocess: arguments of `Preprocess`.
        sources: where model and images came from, for the file.
        options: of `StreamOptions`, as keyword arguments.
    """

    model: RemoteModel
    seed: int | None
    images: RemoteImages
    indices: Ints
    layers: tuple[str, ...]
    preprocess: Mapping[str, Any]
    sources: Mapping[str, Any]
    options: StreamKeywords

    def shipped(self, put: Callable[[Any], Any]) -> StreamJob:
        """Return the job with its files; see `ShardedJob.shipped`."""
        return replace(self, model=self.model.shipped(put), images=self.images.shipped(put))

    def block(self, shard: tuple[int, int]) -> Ints:
        """Return the images of a shard, int64."""
        return np.array_split(self.indices, shard[1])[shard[0]]

    def run(self, shard: tuple[int, int], path: pathlib.Path, cpus: int) -> None:
        """Stream the features of a shard; see `ShardedJob.run`."""
        options: StreamKeywords = {**self.options, "workers": cpus, "progress": False}
        seed = self.seed
        stream_features(
            self.model.network(None if seed is None else lambda loaded: untrained(loaded, seed)),
            self.images.open(),
            self.layers,
            path,
            preprocess=Preprocess.from_dict(dict(self.preprocess)),
            indices=self.block(shard),
            sources=self.sources,
            **options,
        )

    def done(self, path: pathlib.Path) -> int:
        """Return how many images a file holds."""
        return Features(path).done


def stream_on_ray(job: StreamJob, out: Pathlike, cluster: RayOptions) -> Features:
    """Stream features on a Ray cluster; the file is the one that `stream_features` would have written here.

    Unfinished shards are in the folder `OUT.shards`; calling again with the same arguments goes on with them.

    Args:
        job: which features of which images.
        out: path of the features file, on storage that every node sees.
        cluster: where, and in how many shards; there are never more than images.

    Raises:
        DataError: `cluster` cannot be used, or a file cannot be read or written.
        MismatchError: `out`, or a shard of an earlier run, is of another job.
        DeconvvizError: what `stream_features` raises.
    """
    path, folder = pathlib.Path(out), pathlib.Path(f"{out}.shards")
    if path.exists() and Features(path).complete:
        _require_job(path, job)
        return Features(path)
    settings = StreamOptions(**job.options)
    with settings.bar("image", len(job.indices), "features on Ray") as bar:
        files = run_on_ray(job, folder, cluster, bar)
    _join(files, path, job)
    shutil.rmtree(folder, ignore_errors=True)
    return Features(path)


def _require_job(path: pathlib.Path, job: StreamJob) -> None:
    """Raise MismatchError where a file that is complete has other images or layers than a job."""
    config = Features(path).config
    expected = {**config, "chosen": chosen(job.indices), "layers": list(job.layers)}
    require_same(path, config, expected, "remove it or choose another file")


def _join(paths: Sequence[pathlib.Path], out: pathlib.Path, job: StreamJob) -> None:
    """Write the rows of all shards into one file; what was joined before an interruption is not copied again."""
    shards = [Features(path) for path in paths]
    first = shards[0]
    config = {name: value for name, value in first.config.items() if name not in ("layers", "dtype")}
    config["chosen"] = chosen(job.indices)
    labels = np.concatenate([shard.labels for shard in shards])
    about = labels, first.classes, config, first.sources, first.config["dtype"]
    with write_features(out, first.layers, *about) as writer:
        start = 0
        for shard in shards:
            for row in range(max(writer.row - start, 0), len(shard), ROWS):
                rows = np.arange(row, min(row + ROWS, len(shard)))
                writer.append({name: shard.rows(name, rows) for name in shard.layers})
                writer.commit()
            start += len(shard)
