"""Mining on a Ray cluster: every shard commits to its own file, and the files are joined as `merge` joins them."""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from deconvviz.data.datasets import Images, labels_of
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import DataError
from deconvviz.graph.network import Network
from deconvviz.results.results import require_same
from deconvviz.run.cluster import RayOptions
from deconvviz.run.on_ray import run_on_ray
from deconvviz.run.shipping import RemoteImages, RemoteModel
from deconvviz.studies.mining.merge import merge
from deconvviz.studies.mining.mine import configuration, mine
from deconvviz.studies.mining.options import MiningOptions
from deconvviz.studies.mining.result import Mined, load_mined
from deconvviz.types import Pathlike

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deconvviz.studies.mining.options import MiningKeywords


@dataclass(frozen=True)
class MiningJob:
    """What the nodes have to know to mine a shard.

    Attributes:
        model: loaded and captured by each node.
        images: the packed store, opened by each node.
        layers: names of the layers.
        k: images that are kept for each channel.
        preprocess: arguments of `Preprocess`.
        sources: where model and images came from, for the file.
        options: of `MiningOptions`, as keyword arguments.
    """

    model: RemoteModel
    images: RemoteImages
    layers: tuple[str, ...]
    k: int
    preprocess: Mapping[str, Any]
    sources: Mapping[str, Any]
    options: Mapping[str, Any]

    def shipped(self, put: Callable[[Any], Any]) -> MiningJob:
        """Return the job with its files; see `ShardedJob.shipped`."""
        return replace(self, model=self.model.shipped(put), images=self.images.shipped(put))

    def run(self, shard: tuple[int, int], path: pathlib.Path, cpus: int) -> None:
        """Mine a shard; see `ShardedJob.run`."""
        mine(
            self.model.network(),
            self.images.open(),
            self.layers,
            self.k,
            path,
            preprocess=Preprocess.from_dict(self.preprocess),
            sources=self.sources,
            **{**self.options, "shard": shard, "workers": cpus, "progress": False},
        )

    def done(self, path: pathlib.Path) -> int:
        """Return how many images a file holds."""
        return load_mined(path).done


def mine_on_ray(
    network: Network,
    store: Images,
    layers: Sequence[str],
    k: int,
    out: Pathlike,
    *,
    model: RemoteModel,
    cluster: RayOptions,
    preprocess: Preprocess,
    sources: Mapping[str, Any],
    **options: Unpack[MiningKeywords],
) -> Mined:
    """Mine a store on a Ray cluster; the file is the one that `mine` would have written here.

    The strongest images and all counts are equal; means of activations are equal but for the order of a sum.
    Unfinished shards are in the folder `OUT.shards`; calling again with the same arguments goes on with them.

    Args:
        network: the captured network, which says what the file has to be of.
        store: a packed store.
        layers: names from `network.layers`.
        k: images that are kept for each channel.
        out: path of the mined file, on storage that every node sees.
        model: how the nodes get the network.
        cluster: where, and in how many shards.
        preprocess: how an image becomes the network's input.
        sources: where model and weights came from, for the file.
        options: as for `mine`, but for `shard`.

    Raises:
        DataError: `cluster` cannot be used, or a file cannot be read or written.
        MismatchError: `out`, or a shard of an earlier run, is of another job.
        DeconvvizError: what `mine` raises.
    """
    settings = MiningOptions(**options)
    path, folder = pathlib.Path(out), pathlib.Path(f"{out}.shards")
    names = tuple(dict.fromkeys(layers))
    for name in names:
        network.layer(name)  # a name that does not exist is found here, and not on every node
    if path.exists():
        mined = load_mined(path)
        expected = configuration(network, store, names, k, preprocess, settings)
        require_same(path, mined.config, expected, "remove it or choose another output")
        if not mined.complete:
            raise DataError(f"{path} was begun without Ray; finish it with the same command without --ray")
        return mined
    images = RemoteImages.of(str(getattr(store, "path", "")))
    total = len(settings.indices(labels_of(store)))
    where = {"images": images.text, **sources}
    remote_options = {name: value for name, value in options.items() if name not in ("shard", "workers", "progress")}
    job = MiningJob(model, images, names, k, preprocess.as_dict(), where, remote_options)
    with settings.bar("image", total, "mining on Ray") as bar:
        files = run_on_ray(job, folder, cluster, bar)
    merged = merge(files, path)
    shutil.rmtree(folder, ignore_errors=True)
    return merged
