"""The subject of a diagnosis: a network, the images that it is judged by, and what several checks ask of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from deconvviz.arrays import evenly
from deconvviz.data.datasets import Images, labels_of
from deconvviz.data.feed import Feed
from deconvviz.data.pictures import colour_picture
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.sampling import spread
from deconvviz.errors import CaptureError, DataError
from deconvviz.figures.tiles import filter_pictures
from deconvviz.graph.choose import by_depth
from deconvviz.graph.filters import Filters, filters_of
from deconvviz.graph.network import Network
from deconvviz.graph.ops import op_of
from deconvviz.run.responses import Batch, LayerResponses, gather
from deconvviz.studies.diagnosis.measures.build import Build
from deconvviz.studies.diagnosis.options import DiagnosisOptions
from deconvviz.types import Box, Ints, Pixels

if TYPE_CHECKING:
    from deconvviz.studies.diagnosis.finding import Need

PATCH = 0.5  # of the image's side: the largest patch that is shown for a filter
Indices = Sequence[int] | NDArray[np.integer[Any]]
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(eq=False)
class Subject:
    """A network and the images that it is judged by. What is derived from them is computed when first asked for.

    A *place* is the number of an image among those that are looked at, from 0.

    Attributes:
        network: a captured network, on the device that computes.
        images: the images.
        preprocess: how an image becomes the network's input.
        options: which layers and images are looked at, what is known about them, and how the measurements run.
        memory: results of measurements that are `remembered`.

    Raises:
        CaptureError: the preprocessed images do not have the network's input shape.
        DataError: there is no image.
        LayerNotFound: a name in the options' layers does not exist.
    """

    network: Network
    images: Images
    preprocess: Preprocess
    options: DiagnosisOptions
    memory: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self.network.check_input(self.preprocess.shape)
        if not len(self.images):
            raise DataError("0 images given; expected at least 1")
        for layer in self.layers:
            self.network.layer(layer)

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers that are looked at, in the order that was given, or in the order of computation."""
        depth = by_depth(self.network)
        return tuple(dict.fromkeys(self.options.layers)) or depth[:-1] or depth

    def lacks(self, need: Need) -> str | None:
        """Return why something that a check needs is missing, in words; None where it is there."""
        if need == "labels" and not (self.labels >= 0).any():
            return "the classes of the images are not known; pack a folder whose sub-folders are the classes"
        if need == "outputs" and self.scores < 2:
            return "the network does not return a score for each class"
        if need == "outputs" and not (self.targets >= 0).any():
            return "it is not known which output of the network stands for which class of the images (--classes FILE)"
        if need == "truth" and self.options.truth is None:
            return "it is not known where the objects are in the images (--truth FILE)"
        if need == "snapshots" and self.options.snapshots is None:
            return "no snapshots of the training were given (--snapshots FILE)"
        return None

    # --- images ---

    @cached_property
    def feed(self) -> Feed:
        """The images that are looked at, in ascending order."""
        indices = spread(labels_of(self.images), self.options.limit or len(self.images))
        return Feed(self.images, self.preprocess, indices, workers=self.options.workers)

    @property
    def indices(self) -> Ints:
        """int64 [n], the images that are looked at, as indices into `images`."""
        return self.feed.indices

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the images' classes; empty where they have none."""
        return tuple(self.images.classes)

    @cached_property
    def labels(self) -> Ints:
        """int64 [n], the class of each image that is looked at, -1 where it is unknown."""
        return self.feed.labels

    @cached_property
    def targets(self) -> Ints:
        """int64 [n], the output that stands for the class of each image, -1 where it is unknown."""
        outputs = self.options.outputs
        if outputs is None or not len(outputs):
            return np.full(len(self.feed), -1)
        return np.asarray(np.where(self.labels >= 0, outputs[np.maximum(self.labels, 0)], -1), np.int64)

    def some(self, count: int) -> Ints:
        """Return at most `count` places, evenly chosen, int64."""
        return evenly(len(self.feed), count)

    def picture(self, place: int) -> Pixels:
        """Return the picture at a place that the network sees, as figures show it, uint8 [h, w, 3]."""
        return self.feed.display(place)

    def batches(self, places: Indices | None = None) -> Iterator[Batch]:
        """Yield (places int64 [m], inputs [m, C, H, W] on the network's device), of all places or of those given."""
        size = self.options.images_at_once(self.network.device)
        return self.feed.tensors(size, self.network.device, self.network.dtype, places)

    def watched(self, what: str, places: Indices) -> Iterator[Batch]:
        """Yield what `batches` does of these places, under a progress bar that is called `what`."""
        with self.options.bar("image", len(places), what) as bar:
            for batch in self.batches(places):
                yield batch
                bar.update(len(batch[0]))

    def watched_layers(self, what: str) -> Iterator[tuple[str, LayerResponses]]:
        """Yield each layer with its responses, under a progress bar that is called `what`."""
        with self.options.bar("layer", len(self.responses), what) as bar:
            for item in self.responses.items():
                yield item
                bar.update()

    # --- responses ---

    @cached_property
    def _gathered(self) -> tuple[dict[str, LayerResponses], NDArray[np.float32] | None]:
        return gather(self.network, self.batches(), len(self.feed), self.layers, self.options)

    @property
    def responses(self) -> Mapping[str, LayerResponses]:
        """Layer -> what its channels respond to the images."""
        return self._gathered[0]

    @property
    def logits(self) -> NDArray[np.float32] | None:
        """float32 [n, outputs], the network's scores; None where it returns anything else."""
        return self._gathered[1]

    @property
    def accuracy(self) -> float | None:
        """The share of the images of known class that are classified correctly; None where it is not known."""
        labelled = self.targets >= 0
        if self.logits is None or not labelled.any():
            return None
        return float((self.logits[labelled].argmax(1) == self.targets[labelled]).mean())

    @cached_property
    def scores(self) -> int:
        """How many scores the network returns for an image; 0 where it returns anything else."""
        try:
            return self.network.outputs
        except CaptureError:
            return 0

    # --- layers ---

    @cached_property
    def build(self) -> Build:
        """What the network is built of, as far as advice depends on it."""
        return Build(self.network)

    def depthwise(self, layer: str) -> bool:
        """Return whether each filter of the layer reads one channel alone, of several that the layer reads."""
        filters = self.filters(layer)
        return filters is not None and filters.groups > 1 and filters.weights.shape[1] == 1

    def filters(self, layer: str) -> Filters | None:
        """Return the filters behind a layer's channels; None where there are none. See `filters_of`."""
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
        """Return how deep a layer lies among those that are looked at: 0 for the first, 1 for the last."""
        return self.layers.index(layer) / max(len(self.layers) - 1, 1)

    def tiles(self, layer: str, channels: Indices) -> Pixels:
        """Return a picture of each channel, uint8 [n, h, w, 3]; `tiles_show` says of what."""
        drawn = self._drawn_filters(layer, channels)
        if drawn is None:
            return self.patches(layer, channels)
        return np.stack([picture for picture, _ in drawn])

    def tile_names(self, layer: str, channels: Indices) -> tuple[str, ...]:
        """Return what stands below each picture of `tiles`: the filter, and the RMS of its weights if it vanished."""
        drawn = self._drawn_filters(layer, channels)
        notes = [""] * len(channels) if drawn is None else [note for _, note in drawn]
        return tuple(
            f"filter {channel}{f', RMS {note}' if note else ''}" for channel, note in zip(channels, notes, strict=True)
        )

    def tiles_show(self, layer: str) -> str:
        """Return a sentence about what the pictures of `tiles` show."""
        filters = self.filters(layer)
        if filters is not None and filters.of_image:
            return (
                "The pictures show the weights of each filter with its own contrast; grey is zero. A filter whose "
                "weights are less than a hundredth of the layer's largest is shown on that one's scale, with its RMS."
            )
        return "The pictures show the part of an image that each filter responds to most."

    def _drawn_filters(self, layer: str, channels: Indices) -> list[tuple[Pixels, str]] | None:
        """Return a picture of each filter, uint8 [h, w, 3], and the RMS of one that vanished; None: no pictures."""
        filters = self.filters(layer)
        if filters is None or not filters.of_image:
            return None
        every = filters.as_pictures
        drawn = filter_pictures(every[list(channels)], float(np.abs(every).max()))
        sizes = np.sqrt((every[list(channels)] ** 2).mean((1, 2, 3))).tolist()
        return [
            (colour_picture(picture), f"{size:.1g}" if note else "")
            for (picture, note), size in zip(drawn, sizes, strict=True)
        ]

    def patches(self, layer: str, channels: Indices) -> Pixels:
        """Return what drives each channel most: its receptive field in its strongest image, uint8 [n, h, w, 3].

        A receptive field of more than half the image's side is cut to that around its centre. A patch that would reach
        beyond the image is moved inside.
        """
        strongest = self.responses[layer].maxima[:, list(channels)].argmax(0)
        columns = self.network.layer(layer).units[2]
        patches: list[Pixels] = [np.zeros(0, np.uint8)] * len(strongest)
        for places, x in self.watched(f"pictures of {layer}", np.unique(strongest)):
            with torch.inference_mode():
                maps = self.network.maps(layer, self.network.activations(x, [layer])[layer]).flatten(2)
            for index, channel in enumerate(channels):
                for row in np.flatnonzero(places == strongest[index]):
                    position = divmod(int(maps[row, channel].argmax()), columns)
                    patches[index] = self._patch(layer, position).of(self.picture(int(places[row])))
        return np.stack(patches)

    def _patch(self, layer: str, position: tuple[int, int]) -> Box:
        """Return the rectangle of the image around the receptive field of a unit."""
        seen, room = self.network.layer(layer).receptive_field, self.network.input_shape[1:]
        sides = [min(size, max(int(PATCH * whole), 1)) for size, whole in zip(seen.size, room, strict=True)]
        starts = []
        for axis, side in enumerate(sides):
            middle = seen.offset[axis] + position[axis] * seen.stride[axis] + seen.size[axis] // 2
            starts.append(min(max(middle - side // 2, 0), room[axis] - side))
        (top, left), (height, width) = starts, sides
        return Box(top, left, top + height, left + width)


def remembered(measure: Callable[Concatenate[Subject, P], T]) -> Callable[Concatenate[Subject, P], T]:
    """Compute `measure(subject, ...)` once for each subject and its further, hashable arguments.

    The result stays in the subject's memory, and is forgotten together with it.
    """

    @wraps(measure)
    def recall(subject: Subject, /, *args: P.args, **kwargs: P.kwargs) -> T:
        key = (measure, args, tuple(sorted(kwargs.items())))
        if key not in subject.memory:
            subject.memory[key] = measure(subject, *args, **kwargs)
        result: T = subject.memory[key]
        return result

    return recall


__all__ = ["Batch", "Subject", "remembered"]
