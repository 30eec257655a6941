"""An atlas on a Ray cluster: the galleries of several layers are made at the same time, each into its own file."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from deconvviz.data.images import ImageStore
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import DataError
from deconvviz.results.snapshots import Snapshots
from deconvviz.run.cluster import RayOptions
from deconvviz.run.on_ray import run_on_ray
from deconvviz.run.options import RunOptions
from deconvviz.run.shipping import Place, RemoteImages, RemoteModel
from deconvviz.studies.atlas.inputs import AtlasInputs
from deconvviz.studies.atlas.make import AtlasMaker
from deconvviz.studies.atlas.result import AtlasOptions
from deconvviz.studies.mining.result import load_mined


@dataclass(frozen=True)
class AtlasJob:
    """What the nodes have to know to make the gallery of a layer.

    Attributes:
        model: loaded and captured by each node.
        images: the packed store, opened by each node.
        snapshots: of the training; None for none.
        mined: path of the mined file, which every node sees.
        folder: of the atlas, which every node sees.
        layers: a shard is one of them.
        preprocess: arguments of `Preprocess`.
        shown: the channels of the images that figures show.
        sources: where model and images came from, for the files.
        options: what the atlas shows.
        run: of `RunOptions`, as keyword arguments.
    """

    model: RemoteModel
    images: RemoteImages
    snapshots: Place | None
    mined: str
    folder: str
    layers: tuple[str, ...]
    preprocess: Mapping[str, Any]
    shown: tuple[int, ...]
    sources: Mapping[str, Any]
    options: AtlasOptions
    run_keywords: Mapping[str, Any]

    def shipped(self, put: Callable[[Any], Any]) -> AtlasJob:
        """Return the job with its files; see `ShardedJob.shipped`."""
        snapshots = self.snapshots and self.snapshots.shipped(put)
        return replace(self, model=self.model.shipped(put), images=self.images.shipped(put), snapshots=snapshots)

    def run(self, shard: tuple[int, int], path: pathlib.Path, cpus: int) -> None:
        """Make the gallery of a layer; see `ShardedJob.run`."""
        images = self.images.open()
        if not isinstance(images, ImageStore):
            raise DataError(f"{self.images.text} given; an atlas is made of a packed store: `deconvviz pack`")
        inputs = AtlasInputs(
            network=self.model.network(),
            model=self.model.module(),
            store=images,
            preprocess=replace(Preprocess.from_dict(dict(self.preprocess)), shown=self.shown),
            mined=load_mined(self.mined),
            snapshots=None if self.snapshots is None else Snapshots(self.snapshots.here()),
            sources=self.sources,
        )
        run = RunOptions(**{**self.run_keywords, "workers": cpus, "progress": False})
        maker = AtlasMaker(inputs=inputs, options=self.options, run=run, folder=pathlib.Path(self.folder))
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
    inputs, mined = maker.inputs, maker.mined
    job = AtlasJob(
        model=model,
        images=RemoteImages.of(str(inputs.store.path)),
        snapshots=None if inputs.snapshots is None else Place.of(inputs.snapshots.path),
        mined=str(pathlib.Path(mined.path or maker.data / "mined.h5").resolve()),
        folder=str(maker.folder.resolve()),
        layers=tuple(layers),
        preprocess=inputs.preprocess.as_dict(),
        shown=inputs.preprocess.shown,
        sources=inputs.sources,
        options=maker.options,
        run_keywords=maker.run.keywords(),
    )
    paths = [maker.files[layer].resolve() for layer in layers]
    with maker.run.bar("layer", len(layers), "galleries on Ray") as bar:
        run_on_ray(job, maker.data.resolve(), cluster, bar, paths)
