"""Mining on a Ray cluster: every shard commits to its own file, and the files are joined as `merge` joins them."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass
from typing import Any

from deconvviz.data.datasets import Images, labels_of
from deconvviz.errors import DataError
from deconvviz.graph.network import Network
from deconvviz.results.results import require_same
from deconvviz.run.cluster import RayOptions
from deconvviz.run.on_ray import ShardedJob, joined_on_ray
from deconvviz.run.sharding import ShardedKeywords, ShardedOptions
from deconvviz.studies.mining.merge import merge
from deconvviz.studies.mining.mine import configuration, mine
from deconvviz.studies.mining.result import Mined, load_mined
from deconvviz.types import Pathlike


@dataclass(frozen=True, kw_only=True)
class MiningJob(ShardedJob):
    """What the nodes have to know to mine a shard.

    Attributes:
        layers: names of the layers.
        k: images that are kept for each channel.
        options: of `ShardedOptions`, as keyword arguments.
    """

    layers: tuple[str, ...]
    k: int
    options: ShardedKeywords

    def run(self, shard: tuple[int, int], path: pathlib.Path, cpus: int) -> None:
        """Mine a shard; see `ShardedJob.run`."""
        options: ShardedKeywords = {**self.options, "shard": shard, "workers": cpus, "progress": False}
        about: dict[str, Any] = {"preprocess": self.model.preprocess, "sources": self.sources}
        mine(self.model.network(), self.images.open(), self.layers, self.k, path, **about, **options)

    def done(self, path: pathlib.Path) -> int:
        """Return how many images a file holds."""
        return load_mined(path).done


def mine_on_ray(network: Network, store: Images, job: MiningJob, out: Pathlike, cluster: RayOptions) -> Mined:
    """Mine a store on a Ray cluster; the file is the one that `mine` would have written here.

    The strongest images and all counts are equal; values are equal but for float32 rounding, because a shard computes
    with `cluster.cpus` threads.
    Unfinished shards are in the folder `OUT.shards`; calling again with the same arguments goes on with them.

    Args:
        network: the captured network, which says what the file has to be of.
        store: the images that the job names.
        job: what is mined of what.
        out: path of the mined file, on storage that every node sees.
        cluster: where, and in how many shards.

    Raises:
        DataError: `cluster` cannot be used, or a file cannot be read or written.
        MismatchError: `out`, or a shard of an earlier run, is of another job.
        DeconvvizError: what `mine` raises.
    """
    settings, path = ShardedOptions(**job.options), pathlib.Path(out)
    for name in job.layers:
        network.layer(name)  # a name that does not exist is found here, and not on every node
    if path.exists():
        mined = load_mined(path)
        expected = configuration(network, store, job.layers, job.k, job.model.preprocess, settings)
        require_same(path, mined.config, expected, "remove it or choose another output")
        if not mined.complete:
            raise DataError(f"{path} was begun without Ray; finish it with the same command without --ray")
        return mined
    total = len(settings.indices(labels_of(store)))
    with settings.bar("image", total, "mining on Ray") as bar:
        return joined_on_ray(job, path, cluster, bar, total, lambda files: merge(files, path))
