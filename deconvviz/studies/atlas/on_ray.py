"""An atlas on a Ray cluster: the projections of layers, and of blocks of filters in large ones, at the same time."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from deconvviz.data.datasets import name_of_store
from deconvviz.results.results import Result, read_config, stamped
from deconvviz.results.snapshots import Snapshots
from deconvviz.results.tiles import TILES_KIND, TILES_SCHEMA, joined_tiles
from deconvviz.run.cluster import RayOptions
from deconvviz.run.on_ray import ShardedJob, run_on_ray
from deconvviz.run.options import RunOptions
from deconvviz.run.shipping import Place, RemoteImages, RemoteModel
from deconvviz.studies.atlas.inputs import AtlasInputs
from deconvviz.studies.atlas.make import AtlasMaker
from deconvviz.studies.atlas.result import AtlasOptions
from deconvviz.studies.mining.result import load_mined

BLOCK = 256  # filters: each block chooses the rule of its layer and the crop again, which takes as long as some dozens


@dataclass(frozen=True, kw_only=True)
class AtlasJob(ShardedJob):
    """What the nodes have to know to make the projections of a block of filters.

    Attributes:
        snapshots: of the training; None for none.
        mined: path of the mined file, which every node sees.
        folder: of the atlas, which every node sees.
        blocks: a shard is one of them: a layer, and the first filter and the end among those that are shown.
        options: what the atlas shows.
        run_options: how a node computes.
    """

    snapshots: Place | None
    mined: pathlib.Path
    folder: pathlib.Path
    blocks: tuple[tuple[str, int, int], ...]
    options: AtlasOptions
    run_options: RunOptions

    def shipped(self, put: Callable[[Any], Any]) -> AtlasJob:
        """Return the job with its files; see `ShardedJob.shipped`."""
        return replace(super().shipped(put), snapshots=self.snapshots and self.snapshots.shipped(put))

    def run(self, shard: tuple[int, int], path: pathlib.Path, cpus: int) -> None:
        """Project a block of filters; see `ShardedJob.run`."""
        if path.exists():
            return
        inputs = AtlasInputs(
            network=self.model.network(),
            model=self.model.loaded().model,
            store=self.images.open_store(),
            preprocess=self.model.preprocess,
            mined=load_mined(self.mined),
            snapshots=None if self.snapshots is None else Snapshots(self.snapshots.here()),
            sources=self.sources,
        )
        run = replace(self.run_options, workers=cpus, progress=False)
        maker = AtlasMaker(inputs=inputs, options=self.options, run=run, folder=self.folder)
        layer, start, stop = self.blocks[shard[0]]
        galleries = maker.galleries
        config = {**galleries.config(layer), "rows": [start, stop]}
        arrays = galleries.tiles(layer, range(start, stop))
        Result(TILES_KIND, TILES_SCHEMA, config, stamped(dict(self.sources)), arrays).save(path)

    def done(self, path: pathlib.Path) -> int:
        """Return the number of filters: the file of a block is written as a whole."""
        if not path.exists():
            return 0
        start, stop = read_config(path, TILES_KIND, TILES_SCHEMA)["rows"]
        return int(stop - start)


def galleries_on_ray(maker: AtlasMaker, layers: Sequence[str], model: RemoteModel, cluster: RayOptions) -> None:
    """Make the galleries of some layers, their projections on a Ray cluster.

    Everything else of a gallery takes far less time, or one pass for all layers, and is done here.

    Args:
        maker: of the atlas; its mined file and its maxima exist.
        layers: whose galleries are made.
        model: how the nodes get the network.
        cluster: where; a shard is a layer, or BLOCK filters of one that has more.

    Raises:
        DataError: `cluster` cannot be used, a node does not see the folder or a file.
        DeconvvizError: what making a gallery raises.
    """
    inputs, blocks = maker.inputs, blocks_of({layer: len(maker.galleries.channels(layer)) for layer in layers})
    job = AtlasJob(
        model=model,
        images=RemoteImages.of(name_of_store(inputs.store)),
        sources=inputs.sources,
        snapshots=None if inputs.snapshots is None else Place.of(inputs.snapshots.path),
        mined=(maker.mined.path or maker.data / "mined.h5").absolute(),
        folder=maker.folder.absolute(),
        blocks=tuple(blocks),
        options=maker.options,
        run_options=maker.run,
    )
    names = {block: maker.files[block[0]].with_suffix(f".filters-{block[1]}-{block[2]}.h5") for block in blocks}
    with maker.run.bar("filter", sum(stop - start for _, start, stop in blocks), "projecting on Ray") as bar:
        run_on_ray(job, maker.data, cluster, bar, lambda _: list(names.values()))
    for layer in layers:
        parts = [names[block] for block in blocks if block[0] == layer]
        tiles = joined_tiles([Result.load(part, TILES_KIND, TILES_SCHEMA).arrays for part in parts])
        maker.galleries.make(layer, tiles).save(maker.files[layer])
        for part in parts:
            part.unlink()


def blocks_of(filters: Mapping[str, int], most: int = BLOCK) -> list[tuple[str, int, int]]:
    """Return the blocks of layers that have so many filters: (layer, first filter, end), at least one of each layer.

    >>> blocks_of({"conv1": 64, "conv5": 600}, most=256)
    [('conv1', 0, 64), ('conv5', 0, 256), ('conv5', 256, 512), ('conv5', 512, 600)]
    """
    return [
        (layer, start, min(start + most, count))
        for layer, count in filters.items()
        for start in range(0, max(count, 1), most)
    ]
