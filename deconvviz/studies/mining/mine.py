"""Top-k mining: one pass over a store finds, for every channel of every layer, the images that activate it most."""

from __future__ import annotations

import contextlib
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deconvviz.data.datasets import Images, labels_of, limited, place_of
from deconvviz.data.feed import Feed, InputBatch
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.recent import note_images
from deconvviz.errors import DataError, require
from deconvviz.graph.digest import architecture
from deconvviz.graph.memory import fitting
from deconvviz.graph.network import Network
from deconvviz.halving import AtOnce
from deconvviz.results.results import stamped
from deconvviz.results.shard_files import begun
from deconvviz.run.sharding import ShardedOptions
from deconvviz.studies.mining.directions import arrays_of, known_of, layers_read
from deconvviz.studies.mining.reduction import LayerTable
from deconvviz.studies.mining.result import Mined, MinedLayer, load_mined
from deconvviz.studies.mining.spread import Spread
from deconvviz.studies.mining.topk import Activity, TopK
from deconvviz.types import Ints, Pathlike
from deconvviz.words import counted

if TYPE_CHECKING:
    from tqdm import tqdm
    from typing_extensions import Unpack

    from deconvviz.run.sharding import ShardedKeywords


def mine(
    network: Network,
    store: Images,
    layers: Sequence[str],
    k: int = 9,
    out: Pathlike | None = None,
    *,
    preprocess: Preprocess | None = None,
    sources: Mapping[str, Any] | None = None,
    **options: Unpack[ShardedKeywords],
) -> Mined:
    """Find, for every channel of some layers, the k images of a store that activate it most, and where in them.

    An image counts once for each channel, with its strongest position. The result does not depend on batch size,
    workers or order. With `out`, what is done is written to that file every `commit_every` batches; calling again with
    the same arguments resumes.

    Args:
        network: a captured network, on the device that shall compute.
        store: the images, such as an `ImageStore`.
        layers: names from `network.layers`.
        k: images that are kept for each channel.
        out: path of the mined file; None keeps the result in memory only.
        preprocess: how an image becomes the network's input; by default resized and cropped to the network's input
            size, normalised for ImageNet networks.
        sources: where model and weights came from, for the file; the path of the store is added.
        options: `limit`, `shard` and `commit_every` of `ShardedOptions`; `batch_size`, `precision`, `workers` and
            `progress` of `RunOptions`. A batch that does not fit in memory is halved, and so are later ones.

    Returns:
        layer name -> `MinedLayer`.

    Raises:
        LayerNotFound: a name in `layers` does not exist.
        CaptureError: the preprocessing does not fit the network, or one image does not fit in memory.
        DataError: no layer, a k below 1, an option out of its range, or a file that cannot be read or written.
        MismatchError: `out` was written with another model, store, list of layers or other settings.

    Source: Zeiler and Fergus 2013, section 4 (top 9 activations of a feature map).

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> network = dv.capture(nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU()), (3, 32, 32))
    >>> preprocess = dv.Preprocess(resize=32, crop=32)
    >>> mined = mine(network, dv.Scenes(20), ["1"], k=4, preprocess=preprocess, progress=False)
    >>> mined["1"].images.shape, mined["1"].positions.shape, mined["1"].activity.images
    ((8, 4), (8, 4, 2), 20)
    """
    settings = ShardedOptions(**options)
    preprocess = preprocess or Preprocess.to_fit(network.input_shape)
    network.check_input(preprocess.shape)
    names = list(dict.fromkeys([layers] if isinstance(layers, str) else layers))
    require({"layers": names, "k": k}, DataError, layers=(bool(names), "at least one name"), k=(k >= 1, "at least 1"))
    feed = Feed(store, preprocess, settings.indices(labels_of(store)), workers=settings.workers)
    where: dict[str, Any] = place_of(store)
    where["receptive_fields"] = {name: [list(of) for of in network.layer(name).receptive_field] for name in names}
    where["architecture"] = architecture(network)
    where["image_size"] = list(preprocess.shape[1:])
    if read := layers_read(network, names):
        where["directions"] = read
        where["directions_about"] = known_of(network, names)
    note_images(store)
    fast_network = network.forward_only(settings.precision, keep=names)
    empty = Mined(
        layers={name: _empty_layer(network, name, k, feed.indices) for name in names},
        config=configuration(network, store, names, k, preprocess, settings),
        sources=stamped({**where, **(sources or {})}),
        done=0,
        total=len(feed),
        path=None if out is None else pathlib.Path(out),
        figure_arrays=arrays_of(network, names),
    )
    return MiningRun(fast_network, feed, settings, empty.path, names).run(begun(empty, load_mined))


def configuration(
    network: Network, store: Images, layers: Sequence[str], k: int, preprocess: Preprocess, settings: ShardedOptions
) -> dict[str, Any]:
    """Return what has to be equal for a mined file to be gone on with; JSON values. Arguments are those of `mine`."""
    return {
        "model": network.name,
        "model_fingerprint": network.fingerprint,
        "store_fingerprint": store.fingerprint,
        "layers": list(layers),
        "k": k,
        "preprocess": preprocess.as_dict(),
        "precision": settings.precision,
        "limit": settings.limit,
        **limited(len(store), settings.limit),
        "shard": list(settings.shard) if settings.shard else None,
    }


def _empty_layer(network: Network, name: str, k: int, images: Ints) -> MinedLayer:
    channels, _, _ = network.layer(name).units
    top, activity = TopK.empty(channels, k), Activity.empty(channels)
    return MinedLayer(name=name, top=top, activity=activity, spread=Spread.empty(channels, images))


class MiningRun:
    """One run of mining: it adds batch after batch to what was found before.

    Between two commits the tables stay on the network's device, and nothing waits for it. Whether values were met that
    are not finite is therefore asked at a commit: if so, the batches since the last one are mined again, and from there
    on such values are counted.

    Attributes:
        network: the network for forward passes.
        feed: the images to mine.
        settings: how the job runs.
        path: of the mined file; None where the result stays in memory.
        at_once: images in one pass; halved where they do not fit in memory.
        counting: whether values that are not finite are counted.
    """

    def __init__(
        self, network: Network, feed: Feed, settings: ShardedOptions, path: pathlib.Path | None, layers: Sequence[str]
    ) -> None:
        self.network, self.feed, self.settings, self.path = network, feed, settings, path
        size = fitting(network, settings.images_at_once(network.device), layers, kept=False)
        advice = f"the layers are {', '.join(layers)}: ask for fewer layers at once, or use another --device"
        self.at_once = AtOnce(size, "images", advice)
        self.counting = False

    def run(self, mined: Mined) -> Mined:
        """Mine the images that are not done yet, and return the whole result."""
        with self.settings.bar("image", mined.total, "mining", mined.done) as bar, torch.inference_mode():
            while not mined.complete:
                bar.n = mined.done
                mined = self._mined_on(mined, bar)
        unused = mined.sources.get("left_out", {})
        if unused:
            name, reason = next(iter(unused.items()))
            warnings.warn(f"{counted(len(unused), 'image')} left out, the first {name}: {reason}", stacklevel=3)
        return mined

    def _mined_on(self, mined: Mined, bar: tqdm[Any]) -> Mined:
        """Mine to the end, or until a commit finds that values have to be counted; return what was committed last."""
        tables = {name: self._table(layer) for name, layer in mined.layers.items()}
        done, sources, uncommitted = mined.done, mined.sources, 0
        batches = self.feed.on_device(self.at_once.size, self.network.device, start=mined.done, tolerant=True)
        with contextlib.closing(batches):
            for batch in batches:
                tables = self._with_batch(tables, batch)
                images = len(batch.places) + len(batch.left_out)
                done, sources = done + images, _with_left_out(sources, batch.left_out)
                uncommitted += 1
                if uncommitted >= self.settings.commit_every or done == mined.total:
                    tables = {name: table.up_to_date() for name, table in tables.items()}
                    if bool(torch.stack([table.doubtful for table in tables.values()]).any()):
                        self.counting = True
                        return mined
                    layers = {name: table.mined(name) for name, table in tables.items()}
                    mined = replace(mined, layers=layers, done=done, sources=sources)
                    if self.path is not None:
                        mined.save(self.path)
                    uncommitted = 0
                bar.update(images)
        return mined

    def _table(self, layer: MinedLayer) -> LayerTable:
        _, _, columns = self.network.layer(layer.name).units
        return LayerTable.of(layer, columns, self.network.device)

    def _with_batch(self, tables: dict[str, LayerTable], batch: InputBatch) -> dict[str, LayerTable]:
        """Return the tables with one batch added; a batch that does not fit in memory goes in halves."""

        def part(start: int, stop: int) -> dict[str, LayerTable]:
            x = self.feed.tensor(batch.pictures[start:stop], self.network.device, self.network.dtype)
            images = batch.images[start:stop]

            def with_maps(name: str, value: Tensor) -> LayerTable:
                return tables[name].with_batch(self.network.maps(name, value), images, self.counting)

            return self.network.reduced(x, list(tables), with_maps)

        for larger in self.at_once.parts(len(batch.places), part):
            tables = larger
        return tables


def _with_left_out(sources: Mapping[str, Any], left_out: Mapping[str, str]) -> dict[str, Any]:
    """Return the sources of a result with images that could not be used, name -> reason."""
    return {**sources, "left_out": {**sources.get("left_out", {}), **left_out}} if left_out else dict(sources)
