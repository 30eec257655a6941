"""Measure lesions: how much worse a trained network gets when a filter, or a whole layer, is silenced.

Nothing is trained. What comes before a layer runs once for all its filters; what follows it runs again for each of
them, and only on the images whose values change.
"""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from deconvviz.arrays import widened
from deconvviz.cam.engine import whole_images
from deconvviz.choices import LESION_UNITS, LESION_VALUES
from deconvviz.data.datasets import Images
from deconvviz.data.feed import Feed
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.sampling import spread
from deconvviz.errors import DataError, require
from deconvviz.graph.digest import architecture
from deconvviz.graph.memory import fitting
from deconvviz.graph.network import Network
from deconvviz.graph.scores import Readout
from deconvviz.halving import AtOnce
from deconvviz.models.labels import class_label
from deconvviz.results.results import require_same, stamped
from deconvviz.run.options import RunKeywords, RunOptions
from deconvviz.studies.lesions.result import WHOLE, Lesions
from deconvviz.types import Floats, Ints, Pathlike
from deconvviz.words import counted

if TYPE_CHECKING:
    from typing_extensions import Unpack

AT_ONCE = 32  # changed values in one pass, by default


class LesionKeywords(RunKeywords, total=False):
    """The fields of `LesionOptions`, as the keyword arguments of `lesion`."""

    by: str
    how: str
    count: int | None
    indices: Sequence[int] | Ints | None


@dataclass(frozen=True, kw_only=True)
class LesionOptions(RunOptions):
    """What is silenced, on which images, and how the job runs.

    Attributes:
        by: "filter" silences one channel at a time; "layer" silences all channels of a layer at once.
        how: the value that replaces a channel: "zero", or the channel's "mean" over the positions of all images that
            take part. A first pass finds the means; an interruption begins that pass anew.
        count: number of images, spread over the classes, of those whose class is known; None takes all of them.
        indices: the images to take, by their indices; None takes all of them.

    Raises:
        DataError: a value out of its range.
    """

    by: str = "filter"
    how: str = "zero"
    count: int | None = None
    indices: Sequence[int] | Ints | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self,
            DataError,
            by=(self.by in LESION_UNITS, " or ".join(LESION_UNITS)),
            how=(self.how in LESION_VALUES, " or ".join(LESION_VALUES)),
            count=(self.count is None or self.count >= 1, "at least 1 image"),
        )


def lesion(
    network: Network,
    images: Images,
    layers: Sequence[str],
    *,
    preprocess: Preprocess,
    outputs: Sequence[int] | Ints,
    out: Pathlike | None = None,
    sources: Mapping[str, Any] | None = None,
    **options: Unpack[LesionKeywords],
) -> Lesions:
    """Silence each filter, or each layer, of a trained network in turn, and measure the loss of accuracy.

    A filter is a channel of a layer's value: it is silenced at every position. Where the value holds tokens, a filter
    is a feature of every token. An image is classified correctly where its class's output is the largest, the first of
    equal ones. A filter that does not change an image's value, such as one that is zero there, takes no pass.

    With `out`, the sums are written after every few images, and calling again with the same arguments resumes.

    Args:
        network: a captured network, on the device that computes.
        images: labelled images; those of unknown class are left out.
        layers: names from `network.layers`.
        preprocess: how an image becomes the network's input.
        outputs: int64 [classes], the network's output that stands for each class of the images, as
            `models.labels.outputs_of` returns it.
        out: path of the HDF5 file of the result.
        sources: where the model and the images came from, for the file.
        options: `by`, `how`, `count` and `indices` of `LesionOptions`, and `batch_size` (32 by default; the changed
            values that run at once), `precision`, `workers` and `progress` of `RunOptions`.

    Returns:
        The lesions in the order of the layers and of their channels. With by="layer" and a network in which nothing
        passes a layer by, the silenced network's output is the same for every image: such a lesion says little.

    Raises:
        LayerNotFound: a name in `layers` does not exist.
        CamError: a layer's value has no channels.
        CaptureError: the preprocessing gives images of another shape, or the network does not return one score for each
            class.
        DataError: no layer, no image, a label or an output out of range, or an option out of its range.
        MismatchError: `out` was written with other settings.

    Source: derived; the paper removes layers and trains again (Zeiler and Fergus 2013, section 5.1, here `ablate`).

    >>> from torch import nn
    >>> import deconvviz as dv
    >>> model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> _ = nn.init.eye_(model[0].weight.data[:, :, 0, 0]), nn.init.zeros_(model[0].bias)
    >>> red, green, blue = (np.broadcast_to(colour, (8, 8, 3)).astype(np.uint8) * 255 for colour in np.eye(3))
    >>> images = dv.InMemoryImages([red, green, blue], [0, 1, 2], ("red", "green", "blue"))
    >>> plain = dv.Preprocess(resize=None, crop=8, mean=(0, 0, 0), std=(1, 1, 1))
    >>> network = dv.capture(model.eval(), plain.shape)
    >>> lesions = dv.lesion(network, images, ["1"], preprocess=plain, outputs=[0, 1, 2], progress=False)
    >>> lesions.accuracy, lesions.lost.tolist()  # without its filter a colour is taken for the first class, red
    (1.0, [0, 1, 1])
    """
    how = LesionOptions(**options)
    layers, outputs = _names(layers), np.asarray(outputs, np.int64)
    indices = _indices(images, outputs, how)
    _check(network, layers, outputs)
    network.check_input(preprocess.shape)
    config = {
        "model": network.name,
        "model_fingerprint": network.fingerprint,
        "images_fingerprint": images.fingerprint,
        "chosen": _digest(indices),
        "outputs": _digest(outputs),
        "layers": layers,
        "by": how.by,
        "how": how.how,
        "precision": how.precision,
        "preprocess": preprocess.as_dict(),
    }
    lesions = _resumed(
        network, config, stamped({"architecture": architecture(network), **(sources or {})}), len(indices), out
    )
    if lesions.complete:
        return lesions
    feed = Feed(images, preprocess, indices, workers=how.workers)
    forward = network.forward_only(how.precision, keep=layers)
    return LesionRun(forward, feed, outputs, how, network.dtype).resume(lesions, out)


def module_layers(network: Network) -> list[str]:
    """Return the layers that modules make, but for dropouts; of several with the same value, the first.

    >>> from torch import nn
    >>> from deconvviz.graph.capture import capture
    >>> model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Dropout(), nn.Flatten())
    >>> module_layers(capture(model.eval(), (3, 8, 8)))
    ['0.0', '0.1', '2']
    """
    by_value: dict[Any, str] = {}
    for name, layer in network.layers.items():
        if not layer.functional and "Dropout" not in layer.kind:
            by_value.setdefault(layer.node, name)
    return list(by_value.values())


class Scores(NamedTuple):
    """How a network classifies some images.

    Attributes:
        correct: bool [n] or [n, lesions], whether the target's output is the largest.
        loss: the log-loss of the target in nats, of the same shape.
    """

    correct: Tensor
    loss: Tensor


class LesionRun:
    """The measurement of lesions: batch after batch, the intact network and then every lesion of every layer.

    Attributes:
        network: in the form that runs forward only.
        feed: the images that take part.
        options: what is silenced, and how the job runs.
        input_dtype: dtype of the images that the network is given.
        targets: int64 [n], the output that stands for the class of each image of the feed.
        at_once: number of changed values in one pass; halved where so many do not fit in memory.
    """

    def __init__(
        self, network: Network, feed: Feed, outputs: Ints, options: LesionOptions, input_dtype: torch.dtype
    ) -> None:
        self.network, self.feed, self.options, self.input_dtype = network, feed, options, input_dtype
        self.targets = torch.from_numpy(outputs[feed.labels])
        self.at_once = AtOnce(options.images_at_once(network.device, AT_ONCE), "changed values")

    def resume(self, lesions: Lesions, out: Pathlike | None) -> Lesions:
        """Measure the images that are not done yet, and write the sums to `out` after each batch."""
        layers = lesions.config["layers"]
        bar = self.options.bar("image", lesions.total, "lesions", lesions.images)
        with bar, torch.inference_mode():
            if self.options.how == "mean" and not lesions.means:
                lesions = replace(lesions, means=self.means(layers))
            for x, targets in self.batches(lesions.images):
                intact = scores(self.network(x), targets, self.network.readout)
                silenced = [self.silenced(x, targets, intact, name, lesions.means.get(name)) for name in layers]
                lesions = _with_images(lesions, intact, silenced)
                _require_finite(lesions)
                if out is not None:
                    lesions.save(out)
                bar.update(len(x))
        return lesions

    def batches(self, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images as the network takes them, int64 targets) batch by batch, without the first `start` images."""
        device = self.network.device
        size = fitting(self.network, whole_images(self.at_once.size, device))
        for places, x in self.feed.tensors(size, device, self.input_dtype, start=start):
            yield x, self.targets[torch.from_numpy(places)].to(device)

    def means(self, layers: Sequence[str]) -> dict[str, Floats]:
        """Return layer -> float64 [channels], the mean of each channel over positions and images."""
        sums = {name: np.zeros(self.network.layer(name).units[0]) for name in layers}
        for x, _ in self.batches(0):
            for name, value in self.network.activations(x, layers).items():
                means = self.network.maps(name, value).mean((2, 3), dtype=widened(value.dtype))
                sums[name] += means.cpu().double().sum(0).numpy()
        return {name: total / len(self.feed) for name, total in sums.items()}

    def silenced(self, x: Tensor, targets: Tensor, intact: Scores, layer: str, means: Floats | None) -> Scores:
        """Return the scores after each lesion of a layer, [n, lesions]: its channels one by one, or all at once.

        Args:
            x: [n, C, h, w], images as the network takes them.
            targets: int64 [n].
            intact: the scores of the intact network, [n].
            layer: its name.
            means: float64 [channels], the values that replace the channels; None for zeros.
        """
        value, tail = self.network.split(layer, x)
        maps, whole = self.network.maps(layer, value), self.options.by == "layer"
        fill = torch.zeros(maps.shape[1]) if means is None else torch.from_numpy(means)
        fill = fill.to(maps)[:, None, None]
        changes = (maps != fill).flatten(2).any(2)  # [n, channels]: where a lesion changes an image's value
        changes = changes.any(1, keepdim=True) if whole else changes
        correct, loss = (before[:, None].repeat(1, changes.shape[1]) for before in intact)
        all_images, all_channels = changes.nonzero(as_tuple=True)

        def part(start: int, stop: int) -> None:
            images, channels = all_images[start:stop], all_channels[start:stop]
            changed = value[images]  # a copy, which the next lines write to through `inside`
            inside = self.network.maps(layer, changed)
            if whole:
                inside[:] = fill
            else:
                inside[torch.arange(len(images)), channels] = fill[channels]
            correct[images, channels], loss[images, channels] = scores(
                tail(changed, images), targets[images], self.network.readout
            )

        for _ in self.at_once.parts(len(all_images), part):
            pass
        return Scores(correct, loss)


def scores(output: Any, targets: Tensor, readout: Readout) -> Scores:
    """Return how a network's output classifies images with these targets, int64 [n]."""
    classes = readout.scores(output)
    log_shares = readout.log_probabilities(classes)
    return Scores(classes.argmax(1) == targets, -log_shares[torch.arange(len(targets)), targets])


def _with_images(lesions: Lesions, intact: Scores, silenced: Sequence[Scores]) -> Lesions:
    """Add some images to the sums, which are float64 whatever the network computes in."""
    correct, loss = (torch.cat(columns, 1).cpu() for columns in zip(*silenced, strict=True))
    before, loss_before = intact.correct.cpu().numpy(), intact.loss.cpu().double().numpy()
    return lesions.with_images(before, loss_before, correct.numpy(), loss.double().numpy())


def _require_finite(lesions: Lesions) -> None:
    """Raise DataError where a network gives no scores: then no image is decided, and a sum of losses says nothing."""
    if not np.isfinite(lesions.loss):
        raise DataError("the intact network's log-loss of some images is NaN or infinite; no lesion can be measured")
    broken = np.flatnonzero(~np.isfinite(lesions.rise + lesions.squares))
    if len(broken):
        others = f" and {counted(len(broken) - 1, 'other')}" if len(broken) > 1 else ""
        raise DataError(
            f"without {lesions.name(int(broken[0]))}{others} the log-loss is NaN or infinite: the network may divide "
            "by what is silenced; leave the layer out, or take means for what is silenced (how='mean', --how mean)"
        )


def _names(layers: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([layers] if isinstance(layers, str) else layers))


def _indices(images: Images, outputs: Ints, options: LesionOptions) -> Ints:
    """Return the images that take part; raises DataError where there is none, or a label has no output."""
    labels = np.asarray(images.labels)
    indices = np.arange(len(labels)) if options.indices is None else np.asarray(options.indices, np.int64)
    beyond = indices[(indices < 0) | (indices >= len(labels))]
    if len(beyond):
        raise DataError(f"image {beyond[0]} given; expected 0 to {len(labels) - 1}")
    indices = indices[labels[indices] >= 0]
    if not len(indices):
        raise DataError("no image of known class given; expected at least one")
    if options.count is not None:
        indices = indices[spread(labels[indices], options.count)]
    without_output = indices[labels[indices] >= len(outputs)]
    if len(without_output):
        image = int(without_output[0])
        label = class_label(int(labels[image]), images.classes)
        raise DataError(
            f"{images.names[image]} is of {label}; outputs are given for "
            f"{counted(len(outputs), 'class')}: give one for each "
            "class of the images"
        )
    return indices


def _check(network: Network, layers: Sequence[str], outputs: Ints) -> None:
    if not layers:
        raise DataError("no layer given; expected at least 1")
    for name in layers:
        network.layer(name).require_channels()
    if outputs.min() < 0 or outputs.max() >= network.outputs:
        raise DataError(f"outputs {outputs.min()} to {outputs.max()} given; {network.name} has {network.outputs}")


def _digest(numbers: Ints) -> str:
    return f"{len(numbers)}, SHA-256 {hashlib.sha256(numbers.tobytes()).hexdigest()[:12]}"


def _resumed(
    network: Network, config: dict[str, Any], sources: dict[str, Any], total: int, out: Pathlike | None
) -> Lesions:
    """Return the lesions that the file holds, or lesions of which no image is done yet."""
    if out is not None and pathlib.Path(out).exists():
        lesions = Lesions.load(out)
        require_same(out, lesions.config, config, "remove it or choose another output", (lesions.sources, sources))
        return lesions
    if config["by"] == "layer":
        channels = [np.array([WHOLE]) for _ in config["layers"]]
    else:
        channels = [np.arange(network.layer(name).units[0]) for name in config["layers"]]
    lesions = Lesions.empty(config, sources, channels, total)
    if out is not None:
        lesions.save(out)  # before the work: a place that cannot be written to is found out now
    return lesions
