"""The network under diagnosis and the images it is judged by: what every check asks, computed once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from deconvviz.data.datasets import Images
from deconvviz.data.parallel import in_order
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.truth import Truth
from deconvviz.errors import CaptureError, DataError
from deconvviz.graph.choose import by_depth
from deconvviz.graph.network import Network
from deconvviz.graph.ops import op_of
from deconvviz.results.snapshots import Snapshots
from deconvviz.studies.diagnosis.measures.filters import Filters, filters_of, pictures
from deconvviz.studies.diagnosis.measures.responses import Batch, LayerResponses, gather

LIMIT = 1000  # images, where not told otherwise
PATCH = 0.5  # of the image's side: the largest patch that stands for what a filter sees
Pictures = NDArray[np.uint8]
Indices = Sequence[int] | NDArray[np.intp]


@dataclass(eq=False)
class Subject:
    """What a diagnosis is about. Everything derived is computed when first asked for, and kept.

    Attributes:
        network: captured, on the device that shall compute; model: the module it was captured from, if it is at hand.
        images, preprocess: by which it is judged, and how an image becomes the network's input.
        outputs: int64 [classes of the images], the output that stands for each; None where unknown.
        names: of the network's outputs, empty where unknown.
        truth: where the objects are in the images; snapshots: of the network's training; None where there are none.
        layers: to look at; by default every convolution and linear layer after its rectifier, but the classifier.
        limit: images to take, evenly over all; None for all.
        batch_size: by default 16 on a CPU and 64 on a GPU. seed: of everything drawn at random.
        skipped: check -> why it could not be made; the checks write it.
    """

    network: Network
    images: Images
    preprocess: Preprocess
    model: nn.Module | None = None
    outputs: NDArray[np.int64] | None = None
    names: tuple[str, ...] = ()
    truth: Truth | None = None
    snapshots: Snapshots | None = None
    layers: tuple[str, ...] = ()
    limit: int | None = LIMIT
    batch_size: int | None = None
    workers: int = 2
    seed: int = 0
    progress: bool = False
    skipped: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Settle layers and batch size; raises CaptureError, DataError or LayerNotFound for what does not fit."""
        if self.preprocess.shape != self.network.input_shape:
            raise CaptureError(
                f"preprocessing gives images of {self.preprocess.shape}; the network takes {self.network.input_shape}"
            )
        given = {"images": len(self.images), "limit": self.limit, "batch size": self.batch_size}
        for what, count in given.items():
            if count is not None and count < 1:
                raise DataError(f"{what} {count} given; expected at least 1")
        self.layers = tuple(dict.fromkeys(self.layers)) or self._features()
        for layer in self.layers:
            self.network.layer(layer)
        if self.batch_size is None:
            self.batch_size = 16 if self.network.device.type == "cpu" else 64

    def skip(self, check: str, reason: str) -> None:
        """Note that a check, or a part of it, could not be made."""
        self.skipped[check] = reason

    # --- images ---

    @cached_property
    def chosen(self) -> NDArray[np.int64]:
        """The images that are looked at, int64 [n], ascending indices into `images`."""
        count = len(self.images)
        return np.asarray(np.linspace(0, count - 1, min(count, self.limit or count)).round(), np.int64)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the images' classes, empty where there are none."""
        return tuple(self.images.classes)

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """The class of each chosen image, int64 [n], -1 where unknown."""
        return np.asarray(self.images.labels, np.int64)[self.chosen]

    @cached_property
    def targets(self) -> NDArray[np.int64]:
        """The output that stands for each chosen image's class, int64 [n], -1 where unknown."""
        if self.outputs is None or not len(self.outputs):
            return np.full(len(self.chosen), -1)
        return np.asarray(np.where(self.labels >= 0, self.outputs[np.maximum(self.labels, 0)], -1), np.int64)

    def picture(self, place: int) -> Pictures:
        """Return chosen image `place` as the network sees it, uint8 [h, w, 3]."""
        return self.preprocess.picture(self.images[int(self.chosen[place])][0])

    def batches(self, places: Indices | None = None) -> Iterator[Batch]:
        """Yield (places int64 [m], inputs [m, C, H, W] on its device) of all chosen images, or of `places`."""
        order = np.arange(len(self.chosen)) if places is None else np.asarray(places, np.int64)
        pictures = in_order(self.picture, (int(place) for place in order), self.workers)
        size = self.batch_size or 1
        for start in range(0, len(order), size):
            part = order[start : start + size]
            batch = np.stack(list(islice(pictures, len(part))))
            yield part, self.preprocess.tensor(batch, self.network.device, self.network.dtype)

    # --- responses ---

    @cached_property
    def _gathered(self) -> tuple[dict[str, LayerResponses], NDArray[np.float32] | None]:
        return gather(self.network, self.batches(), len(self.chosen), self.layers, self.seed, self.progress)

    @property
    def responses(self) -> Mapping[str, LayerResponses]:
        """What each layer answers to the chosen images."""
        return self._gathered[0]

    @property
    def logits(self) -> NDArray[np.float32] | None:
        """The network's scores, float32 [n, outputs]; None where it returns anything else."""
        return self._gathered[1]

    # --- layers ---

    def filters(self, layer: str) -> Filters | None:
        """Return the filters behind a layer's channels, None where there are none; see `filters_of`."""
        if layer not in self._filters:
            self._filters[layer] = filters_of(self.network, layer)
        return self._filters[layer]

    @cached_property
    def _filters(self) -> dict[str, Filters | None]:
        return {}

    def rectified(self, layer: str) -> bool:
        """Return whether the layer's value is what a rectifier returned."""
        return op_of(self.network.layer(layer).node).kind == "rectifier"

    def depth(self, layer: str) -> float:
        """Return how deep a layer lies among those looked at: 0 for the first, 1 for the last."""
        return self.layers.index(layer) / max(len(self.layers) - 1, 1)

    def tiles(self, layer: str, channels: Indices) -> Pictures:
        """Return a picture of each channel, uint8 [n, h, w, 3]: of a first layer its filter, else its best patch."""
        found = self.filters(layer)
        if found is not None and found.of_image:
            return pictures(found.weights[list(channels)])
        return self.patches(layer, channels)

    def patches(self, layer: str, channels: Indices) -> Pictures:
        """Return what drives each channel most: its receptive field in its strongest image, uint8 [n, h, w, 3].

        A field of more than half the image's side is cut to that, around the unit's centre. What lies outside the
        image is not shown: the patch is moved inside.
        """
        maxima, shape = self.responses[layer].maxima, self.network.input_shape[1:]
        strongest = maxima[:, list(channels)].argmax(0)
        seen = self.network.layer(layer).receptive_field
        sides = [min(size, max(int(PATCH * room), 1)) for size, room in zip(seen.size, shape, strict=True)]
        found = np.zeros((len(strongest), *sides, 3), np.uint8)
        for places, x in self.batches(np.unique(strongest)):
            with torch.inference_mode():
                maps = self.network.maps(layer, self.network.activations(x, [layer])[layer]).flatten(2)
            for index, channel in enumerate(channels):
                for row in np.flatnonzero(places == strongest[index]):
                    position = divmod(int(maps[row, channel].argmax()), self.network.layer(layer).units[2])
                    starts = []
                    for axis in (0, 1):
                        middle = seen.offset[axis] + position[axis] * seen.stride[axis] + seen.size[axis] // 2
                        starts.append(min(max(middle - sides[axis] // 2, 0), shape[axis] - sides[axis]))
                    top, left = starts
                    found[index] = self.picture(int(places[row]))[top : top + sides[0], left : left + sides[1]]
        return found

    def _features(self) -> tuple[str, ...]:
        """Every weighted layer after its rectifier but the last, whose channels are the classes."""
        return by_depth(self.network)[:-1] or by_depth(self.network)


__all__ = ["LIMIT", "Batch", "Subject"]
