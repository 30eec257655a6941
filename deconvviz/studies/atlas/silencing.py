"""What decisions a filter carries: how probable each class is with the filter, and with the filter switched off."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from deconvviz.data.feed import Feed
from deconvviz.graph.network import Network
from deconvviz.halving import AtOnce
from deconvviz.results.results import Result, require_same
from deconvviz.run.options import RunOptions
from deconvviz.studies.atlas.inputs import AtlasInputs
from deconvviz.studies.mining.result import Mined
from deconvviz.types import Array, Floats, Ints, Pathlike

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deconvviz.run.options import RunKeywords

SILENCED_KIND, SILENCED_SCHEMA = "silenced filters", 1
WHEN = ("before", "after")
CLASSES = 3  # that are listed of each filter
BATCH = 32  # changed values in one pass, by default
COMMIT = 100  # images between commits


def filter_silencing(
    inputs: AtlasInputs,
    mined: Mined,
    channels: Mapping[str, Sequence[int]],
    out: Pathlike,
    *,
    k: int = 9,
    **run: Unpack[RunKeywords],
) -> dict[str, dict[str, Array]]:
    """Set each filter to zero on its strongest images; calling again with the same arguments resumes.

    Only what comes after the layer runs anew, with `Network.split`.

    Args:
        inputs: the network and the images.
        mined: the maxima of the layers.
        channels: layer -> the filters to silence.
        out: path of the file.
        k: images of each filter, where it is above zero in so many.
        run: `batch_size` and `progress` of `RunOptions`.

    Returns:
        For each layer the classes whose mean probability over these images falls most, the one that falls most first:
        "off/classes" int64 [C, 3], -1 where no further one falls; "off/before" and "off/after" float32 [C, 3], their
        mean probabilities with the filter and without it, in 0..1, NaN there.

    Raises:
        MismatchError: `out` was written with other settings.

    Source: our choice: a lesion of one filter (`deconvviz lesion`), on the images in which it fires most.
    """
    options = RunOptions(**run)
    channels_by_layer = {layer: [int(channel) for channel in numbers] for layer, numbers in channels.items()}
    config = {**inputs.identity, "layers": list(channels_by_layer), "channels": channels_by_layer, "k": k}
    if pathlib.Path(out).exists():
        result = Result.load(out, SILENCED_KIND, SILENCED_SCHEMA)
        require_same(out, result.config, config, "remove it or choose another output")
        arrays, done = result.arrays, int(result.state["done"])
    else:
        shape = {layer: (inputs.network.layer(layer).units[0], inputs.network.outputs) for layer in channels_by_layer}
        arrays = {f"{layer}/off/{when}": np.zeros(shape[layer]) for layer in channels_by_layer for when in WHEN}
        done = 0
    strongest = {layer: _strongest(mined, layer, numbers, k) for layer, numbers in channels_by_layer.items()}
    images = sorted({image for by_image in strongest.values() for image in by_image})
    silencing = _Silencing(inputs, tuple(channels_by_layer), options.batch_size or BATCH)
    feed = Feed(inputs.store, inputs.preprocess, images, workers=options.workers)
    with options.bar("image", len(images), "silencing", done) as bar:
        for (place,), x in feed.tensors(1, inputs.network.device, inputs.network.dtype, start=done):
            before = silencing.probabilities(x)
            for layer, by_image in strongest.items():
                filters = by_image.get(images[place])
                if filters is not None:
                    arrays[f"{layer}/off/before"][filters] += before
                    arrays[f"{layer}/off/after"][filters] += silencing.without(layer, x, filters)
            if (place + 1) % COMMIT == 0 or place + 1 == len(images):
                state = {"done": int(place) + 1, "total": len(images)}
                Result(SILENCED_KIND, SILENCED_SCHEMA, config, inputs.provenance, arrays, state).save(out)
            bar.update()
    return {
        layer: falling(
            arrays[f"{layer}/off/before"], arrays[f"{layer}/off/after"], _counts(by_image, inputs.network, layer)
        )
        for layer, by_image in strongest.items()
    }


def falling(before: Floats, after: Floats, images: Ints) -> dict[str, Array]:
    """Return the classes that fall most, from sums of probabilities over the images of each filter.

    Args:
        before: float64 [C, outputs], with the filter.
        after: float64 [C, outputs], without it.
        images: int64 [C], the number of images of each filter.

    >>> arrays = falling(np.array([[1.2, 0.8]]), np.array([[0.2, 1.8]]), np.array([2]))
    >>> arrays["off/classes"].tolist(), arrays["off/before"].round(2).tolist(), arrays["off/after"].round(2).tolist()
    ([[0, -1, -1]], [[0.6000000238418579, nan, nan]], [[0.10000000149011612, nan, nan]])
    """
    means = [sums / np.maximum(images, 1)[:, None] for sums in (before, after)]
    fall = np.pad(means[0] - means[1], ((0, 0), (0, max(CLASSES - before.shape[1], 0))))
    classes = np.argsort(-fall, axis=1, kind="stable")[:, :CLASSES]
    falls = np.take_along_axis(fall, classes, 1) > 0
    listed = [
        np.where(falls, np.take_along_axis(mean, np.minimum(classes, mean.shape[1] - 1), 1), np.nan) for mean in means
    ]
    return {
        "off/classes": np.where(falls, classes, -1).astype(np.int64),
        "off/before": listed[0].astype(np.float32),
        "off/after": listed[1].astype(np.float32),
    }


class _Silencing:
    """Silences filters on one image after the other.

    Attributes:
        network: in the form that runs forward only.
        at_once: changed values in one pass.
    """

    def __init__(self, inputs: AtlasInputs, layers: tuple[str, ...], batch_size: int) -> None:
        self.network = inputs.network.forward_only("fp32", keep=layers)
        self.at_once = AtOnce(batch_size, "changed values")

    def probabilities(self, x: Tensor) -> Floats:
        """Return the probabilities of the classes for image x [1, C, h, w], float64 [1, outputs]."""
        with torch.inference_mode():
            return np.asarray(self.network.readout.probabilities_of(self.network(x)).double().cpu().numpy())

    def without(self, layer: str, x: Tensor, filters: Ints) -> Floats:
        """Return the same without each of some filters of a layer, int64 [m], float64 [m, outputs]."""
        with torch.inference_mode():
            value, tail = self.network.split(layer, x)

            def part(start: int, stop: int) -> Tensor:
                changed = value.repeat(stop - start, *[1] * (value.ndim - 1))
                rows = torch.arange(stop - start)
                self.network.maps(layer, changed)[rows, torch.from_numpy(filters[start:stop])] = 0
                images = torch.zeros(stop - start, dtype=torch.int64, device=x.device)
                return self.network.readout.probabilities_of(tail(changed, images))

            return np.asarray(torch.cat([*self.at_once.parts(len(filters), part)]).double().cpu().numpy())


def _strongest(mined: Mined, layer: str, channels: Sequence[int], k: int) -> dict[int, Ints]:
    """Return image -> the filters, int64 [m], of whose k strongest images it is one, where they are above zero."""
    table = mined[layer]
    filters_by_image: dict[int, list[int]] = {}
    for channel in channels:
        for image in table.images[channel, :k][table.values[channel, :k] > 0]:
            filters_by_image.setdefault(int(image), []).append(channel)
    return {image: np.array(filters, np.int64) for image, filters in filters_by_image.items()}


def _counts(by_image: Mapping[int, Ints], network: Network, layer: str) -> Ints:
    counts = np.zeros(network.layer(layer).units[0], np.int64)
    for filters in by_image.values():
        counts[filters] += 1
    return counts
