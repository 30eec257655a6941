"""Features on a Ray cluster: every shard streams a block of the images into a file of its own; the rows are joined."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deconvviz.data.datasets import Images
from deconvviz.graph.network import Network
from deconvviz.results.features import Features, write_features
from deconvviz.results.results import require_same
from deconvviz.run.cluster import RayOptions
from deconvviz.run.features import StreamKeywords, StreamOptions, configuration, stream_features
from deconvviz.run.on_ray import ShardedJob, joined_on_ray
from deconvviz.run.opening import captured
from deconvviz.studies.probing.starts import untrained
from deconvviz.types import Ints, Pathlike

ROWS = 1024  # that are copied together


@dataclass(frozen=True, kw_only=True)
class StreamJob(ShardedJob):
    """What the nodes have to know to stream the features of a shard.

    Attributes:
        seed: of random weights; None for the weights of the model.
        indices: the images to take; shard i of n takes the i-th of n blocks of batches.
        layers: names of the layers.
        options: of `StreamOptions`, as keyword arguments.
    """

    seed: int | None
    indices: Ints
    layers: tuple[str, ...]
    options: StreamKeywords

    def network(self) -> Network:
        """Return the network whose features are streamed, on this node."""
        model = self.model
        if self.seed is None:
            return model.network()
        loaded = model.loaded()
        return captured(replace(loaded, model=untrained(loaded, self.seed)), model.preprocess, model.device)

    def run(self, shard: tuple[int, int], path: pathlib.Path, cpus: int) -> None:
        """Stream the features of a shard; see `ShardedJob.run`."""
        options: StreamKeywords = {**self.options, "workers": cpus, "progress": False}
        about: dict[str, Any] = {"sources": self.sources, "preprocess": self.model.preprocess}
        about["indices"] = self.block(*shard)
        stream_features(self.network(), self.images.open(), self.layers, path, **about, **options)

    @property
    def batches(self) -> list[Ints]:
        """The images in the batches in which one run on a CPU takes them; on a GPU it takes several together."""
        size = StreamOptions(**self.options).images_at_once("cpu")
        return [self.indices[start : start + size] for start in range(0, len(self.indices), size)]

    def block(self, index: int, parts: int) -> Ints:
        """Return the images of a shard: whole batches, so that as many threads give the features of one run exactly."""
        batches = self.batches
        own = np.array_split(np.arange(len(batches)), parts)[index]
        return np.concatenate([self.indices[:0], *(batches[number] for number in own)])

    def done(self, path: pathlib.Path) -> int:
        """Return how many images a file holds."""
        return Features(path).done


def stream_on_ray(network: Network, images: Images, job: StreamJob, out: Pathlike, cluster: RayOptions) -> Features:
    """Stream features on a Ray cluster; the file is the one that `stream_features` would have written here.

    Unfinished shards are in the folder `OUT.shards`; calling again with the same arguments goes on with them.

    Args:
        network: the captured network, which says what the file has to be of.
        images: those that the job names.
        job: which features of which images.
        out: path of the features file, on storage that every node sees.
        cluster: where, and in how many shards; there are never more than batches.

    Raises:
        DataError: `cluster` cannot be used, or a file cannot be read or written.
        MismatchError: `out`, or a shard of an earlier run, is of another job.
        DeconvvizError: what `stream_features` raises.
    """
    path, settings = pathlib.Path(out), StreamOptions(**job.options)
    config = configuration(network, images, job.indices, job.model.preprocess, settings)
    if path.exists():
        expected = {**config, "layers": list(job.layers), "dtype": settings.dtype}
        require_same(path, Features(path).config, expected, "remove it or choose another file")
        if Features(path).complete:
            return Features(path)
    total = len(job.indices)
    with settings.bar("image", total, "features on Ray") as bar:
        most = len(job.batches)
        return joined_on_ray(job, path, cluster, bar, most, lambda files: _joined(files, path, config))


def _joined(paths: Sequence[pathlib.Path], out: pathlib.Path, config: Mapping[str, Any]) -> Features:
    """Write the rows of all shards into one file; what was joined before an interruption is not copied again."""
    shards = [Features(path) for path in paths]
    first = shards[0]
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
    return Features(out)
