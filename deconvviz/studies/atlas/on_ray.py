"""An atlas on a Ray cluster: the galleries of several layers are made at the same time, each into its own file."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from deconvviz.data.images import ImageStore
from deconvviz.errors import DataError
from deconvviz.results.snapshots import Snapshots
from deconvviz.run.cluster import RayOptions
from deconvviz.run.on_ray import ShardedJob, run_on_ray
from deconvviz.run.options import RunOptions
from deconvviz.run.shipping import Place, RemoteImages, RemoteModel
from deconvviz.studies.atlas.inputs import AtlasInputs
from deconvviz.studies.atlas.make import AtlasMaker
from deconvviz.studies.atlas.result import AtlasOptions
from deconvviz.studies.mining.result import load_mined


@dataclass(frozen=True, kw_only=True)
class AtlasJob(ShardedJob):
    """What the nodes have to know to make the gallery of a layer.

    Attributes:
        snapshots: of the training; None for none.
        mined: path of the mined file, which every node sees.
        folder: of the atlas, which every node sees.
        layers: a shard is one of them.
        options: what the atlas shows.
        run_options: how a node computes.
    """

    snapshots: Place | None
    mined: pathlib.Path
    folder: pathlib.Path
    layers: tuple[str, ...]
    options: AtlasOptions
    run_options: RunOptions

    def shipped(self, put: Callable[[Any], Any]) -> AtlasJob:
        """Return the job with its files; see `ShardedJob.shipped`."""
        return replace(super().shipped(put), snapshots=self.snapshots and self.snapshots.shipped(put))

    def run(self, shard: tuple[int, int], path: pathlib.Path, cpus: int) -> None:
        """Make the gallery of a layer; see `ShardedJob.run`."""
        images = self.images.open()
        if not isinstance(images, ImageStore):
            raise DataError(f"{self.images.text} given; an atlas is made of a packed store: `deconvviz pack`")
        inputs = AtlasInputs(
            network=self.model.network(),
            model=self.model.loaded().model,
            store=images,
            preprocess=self.model.preprocess,
            mined=load_mined(self.mined),
            snapshots=None if self.snapshots is None else Snapshots(self.snapshots.here()),
            sources=self.sources,
        )
        run = replace(self.run_options, workers=cpus, progress=False)
        maker = AtlasMaker(inputs=inputs, options=self.options, run=run, folder=self.folder)
        maker.galleries.make(self.layers[shard[0]]).save(path)

    def done(self, path: pathlib.Path) -> int:
        """Return 1: the file of a layer is written as a whole."""
        return int(path.exists())


def galleries_on_ray(maker: AtlasMaker, layers: Sequence[str], model: RemoteModel, cluster: RayOptions) -> None:
    """Make the galleries of some layers on a Ray cluster.

    Args:
        maker: of the atlas; its mined file and its maxima exist.
        layers: whose galleries are made.
        model: how the nodes get the network.
        cluster: where; each layer is a shard.

    Raises:
        DataError: `cluster` cannot be used, a node does not see the folder or a file.
        DeconvvizError: what making a gallery raises.
    """
    inputs = maker.inputs
    job = AtlasJob(
        model=model,
        images=RemoteImages.of(str(inputs.store.path)),
        sources=inputs.sources,
        snapshots=None if inputs.snapshots is None else Place.of(inputs.snapshots.path),
        mined=(maker.mined.path or maker.data / "mined.h5").absolute(),
        folder=maker.folder.absolute(),
        layers=tuple(layers),
        options=maker.options,
        run_options=maker.run,
    )
    with maker.run.bar("layer", len(layers), "galleries on Ray") as bar:
        run_on_ray(job, maker.data, cluster, bar, lambda _: [maker.files[layer] for layer in layers])
