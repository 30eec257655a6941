"""How filters of an atlas respond while a grey square covers their strongest image."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from deconvviz.cam.captured import Captured
from deconvviz.cam.occluder import GREY, Occluder, UnderWindows
from deconvviz.data.preprocess import Preprocess
from deconvviz.graph.network import Network
from deconvviz.graph.program import Values
from deconvviz.results.results import Result
from deconvviz.run.options import RunOptions
from deconvviz.studies.atlas.filter_arrays import LayerArrays, by_layer, loaded
from deconvviz.studies.atlas.inputs import AtlasInputs
from deconvviz.studies.mining.result import Mined
from deconvviz.types import Array, Ints, Pathlike

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deconvviz.run.options import RunKeywords

BATCH = 32  # images in one pass, by default
COMMIT = 20  # images between commits
OCCLUSION_KIND = "occlusion of filters"


def filter_occlusion(
    inputs: AtlasInputs,
    mined: Mined,
    channels: Mapping[str, Sequence[int]],
    out: Pathlike,
    **run: Unpack[RunKeywords],
) -> LayerArrays:
    """Move a grey square over each filter's strongest image; calling again with the same arguments resumes.

    The sides of the square are a quarter of the image's, its stride is an eighth. All layers are read in the same
    passes.

    Args:
        inputs: the network and the images.
        mined: the maxima of the layers.
        channels: layer -> the filters to measure.
        out: path of the file.
        run: `batch_size` and `progress` of `RunOptions`.

    Returns:
        For each layer, with W windows: "occlusion/values" float32 [C, W], the sum of the filter's map while the square
        covers each window; "occlusion/whole" float32 [C], the sum without a square; "occlusion/image" int64 [C], the
        image. The values of filters that were not measured are NaN, and their image is -1.

    Raises:
        MismatchError: `out` was written with other settings.

    Source: Zeiler and Fergus 2013, section 4.2 and figure 7 (b).
    """
    options = RunOptions(**run)
    channels_by_layer = {layer: [int(channel) for channel in numbers] for layer, numbers in channels.items()}
    occluder = occluder_for(inputs.preprocess)
    config = {
        **inputs.identity,
        "layers": list(channels_by_layer),
        "channels": channels_by_layer,
        "square": list(occluder.square),
    }
    done = 0
    if pathlib.Path(out).exists():
        result = loaded(out, OCCLUSION_KIND, config)
        arrays, done = result.arrays, int(result.state["done"])
    else:
        arrays = _unmeasured(mined, channels_by_layer, len(occluder))
    images = sorted({int(i) for layer in channels_by_layer for i in arrays[f"{layer}/occlusion/image"] if i >= 0})
    measurement = OcclusionMeasurement(inputs, occluder, tuple(channels_by_layer), options.batch_size or BATCH)
    with options.bar("image", len(images), "occluding", done) as bar:
        for number, image in enumerate(images[done:], done + 1):
            measurement.measure(image, arrays)
            if number % COMMIT == 0 or number == len(images):
                Result(OCCLUSION_KIND, 1, config, {}, arrays, {"done": number, "total": len(images)}).save(out)
            bar.update()
    return by_layer(arrays, list(channels_by_layer))


def occluder_for(preprocess: Preprocess) -> Occluder:
    """Return the windows of `filter_occlusion` on a preprocessed picture.

    >>> occluder_for(Preprocess(resize=64, crop=64)).square
    (16, 16)
    """
    height, width = preprocess.shape[1:]
    square, stride = ((max(height // parts, 1), max(width // parts, 1)) for parts in (4, 8))
    return Occluder((height, width), square, stride)


class OcclusionMeasurement:
    """Measures filters under a square, image after image.

    Attributes:
        inputs: the network and the images.
        occluder: the square and its windows.
        layers: names of the layers that are read.
        batch_size: images in one pass; a CPU takes fewer, which its cache holds.
    """

    def __init__(self, inputs: AtlasInputs, occluder: Occluder, layers: tuple[str, ...], batch_size: int) -> None:
        self.inputs, self.occluder, self.layers, self.batch_size = inputs, occluder, layers, batch_size
        network = inputs.network
        self._network = network.forward_only("fp32", keep=layers)
        self._forward: dict[tuple[str, ...], LayerMaps] = {}
        self._grey = inputs.preprocess.level(GREY).to(network.device, network.dtype)[None, :, None, None]

    def measure(self, image: int, arrays: Mapping[str, Array]) -> None:
        """Write the sums of the maps of all filters whose strongest image this is into the arrays."""
        network = self.inputs.network
        x = self.inputs.feed.tensor(self.inputs.feed.pictures([image]), network.device, network.dtype)
        rows = {layer: np.flatnonzero(arrays[f"{layer}/occlusion/image"] == image) for layer in self.layers}
        channels = {layer: numbers for layer, numbers in rows.items() if len(numbers)}
        forward = self._forward.setdefault(tuple(channels), LayerMaps(self._network, tuple(channels)))
        under = UnderWindows(forward, self.occluder, self.batch_size, x.device)
        with torch.inference_mode():
            for layer, sums in _sums(forward(x), channels).items():
                arrays[f"{layer}/occlusion/whole"][channels[layer]] = sums[0]
            for windows, maps in under.batches(x, self._grey):
                for layer, sums in _sums(maps, channels).items():
                    arrays[f"{layer}/occlusion/values"][channels[layer][:, None], windows.numpy()] = sums.T


class LayerMaps(Captured):
    """A captured network that returns the maps of some layers, by name, in the place of its output."""

    def __init__(self, network: Network, layers: tuple[str, ...]) -> None:
        super().__init__(network)
        self.layers = layers

    @property
    def reads(self) -> list[fx.Node]:
        """The nodes of the layers."""
        return [self.network.layer(layer).node for layer in self.layers]

    def returned(self, values: Values) -> dict[str, Tensor]:
        """Return name -> maps [N, K, h, w]."""
        nodes = zip(self.layers, self.reads, strict=True)
        return {layer: self.network.maps(layer, values[node]) for layer, node in nodes}


def _sums(maps: Mapping[str, Tensor], channels: Mapping[str, Ints]) -> dict[str, NDArray[np.float32]]:
    """Return the sums of the maps of some filters of each layer, float32 [m, filters]."""
    return {layer: maps[layer][:, numbers].sum((2, 3)).float().cpu().numpy() for layer, numbers in channels.items()}


def _unmeasured(mined: Mined, channels: Mapping[str, Sequence[int]], windows: int) -> dict[str, Array]:
    """Return the arrays of an occlusion that has not begun: NaN, and the image on which each filter is measured."""
    arrays: dict[str, Array] = {}
    for layer, numbers in channels.items():
        images = np.full(len(mined[layer].values), -1)
        fires = mined[layer].values[:, 0] > 0
        images[numbers] = np.where(fires, mined[layer].images[:, 0], -1)[numbers]
        arrays[f"{layer}/occlusion/image"] = images
        arrays[f"{layer}/occlusion/whole"] = np.full(len(images), np.nan, np.float32)
        arrays[f"{layer}/occlusion/values"] = np.full((len(images), windows), np.nan, np.float32)
    return arrays
