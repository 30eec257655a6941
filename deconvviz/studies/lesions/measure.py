"""Lesions: how much worse a trained network gets when one filter, or a whole layer, is silenced. Nothing is trained."""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from deconvviz.cam.engine import whole_images
from deconvviz.data.datasets import Images
from deconvviz.data.parallel import in_order
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import CamError, CaptureError, DataError
from deconvviz.graph.network import Network
from deconvviz.results.files import Pathlike
from deconvviz.results.results import require_same, versions
from deconvviz.studies.lesions.result import WHOLE, Floats, Ints, Lesions, load_lesions

OPTIONS = {"by": ("filter", "layer"), "how": ("zero", "mean"), "precision": ("fp32", "bf16")}


def lesion(
    network: Network,
    images: Images,
    layers: Sequence[str],
    *,
    preprocess: Preprocess,
    outputs: NDArray[np.int64],
    by: str = "filter",
    how: str = "zero",
    count: int | None = None,
    indices: Sequence[int] | NDArray[np.int64] | None = None,
    batch_size: int = 32,
    precision: str = "fp32",
    workers: int = 2,
    out: Pathlike | None = None,
    progress: bool = True,
    sources: Mapping[str, Any] | None = None,
) -> Lesions:
    """Silence each filter (or each layer as a whole) of a trained network in turn, and rank them by loss of accuracy.

    What comes before a layer runs once for all its filters; a filter that an image leaves as it is, such as one that
    is zero anyway, costs nothing. An image is right where its class's output is the largest, the first of equal ones.
    With `out`, what is done is committed there after every few images; the same call again goes on.

    Args:
        layers: names; a filter is a channel of the layer's value at every position (of tokens: a feature).
        outputs: int64 [classes], the network's output for each class of the images; see `models.labels.outputs_of`.
        by: "filter", or "layer": all channels of a layer at once, one lesion each layer. Where nothing passes the layer
            by, as in a chain, the output then is the same for every image: that tells only where something does.
        how: what stands in the place of a channel: "zero", or the channel's "mean" over the positions of all the images
            that take part, found in a first pass, which an interruption begins anew.
        count: so many images, spread evenly; indices: these ones. By default, all whose class is known.
        batch_size: changed values that run at once; the result does not depend on it but for rounding.
        precision: "fp32", or "bf16"; a network that was captured in float64 stays so.

    Raises:
        LayerNotFound: no such layer. CamError: a layer without channels.
        DataError: labels or outputs out of range, no image, an option that does not exist. CaptureError: another shape,
            or a network that does not return one score for each class.
        MismatchError: `out` belongs to other lesions.
    """
    layers = list(dict.fromkeys([layers] if isinstance(layers, str) else layers))
    outputs, options = np.asarray(outputs, np.int64), {"by": by, "how": how, "precision": precision}
    chosen = _chosen(images, outputs, count, indices)
    _check(network, layers, preprocess, outputs, options, batch_size)
    config = {
        "model": network.name,
        "model_fingerprint": network.fingerprint,
        "images_fingerprint": images.fingerprint,
        "chosen": _digest(chosen),
        "outputs": _digest(outputs),
        "layers": layers,
        **options,
        "preprocess": preprocess.as_dict(),
    }
    found = _start(network, config, {"versions": versions(), **(sources or {})}, len(chosen), out)
    if found.complete:
        return found
    faster = precision == "bf16" or network.dtype == torch.float32
    runs = network.fast(precision, keep=layers) if faster else network
    surgeon = _Surgeon(runs, network.dtype, images, chosen, preprocess, torch.from_numpy(outputs), batch_size, workers)
    return surgeon.run(found, out, progress)


def _chosen(
    images: Images, outputs: Ints, count: int | None, indices: Sequence[int] | NDArray[np.int64] | None
) -> Ints:
    """Return which images take part; raises DataError where there is none, or a label has no output."""
    labels = np.asarray(images.labels)
    chosen = np.arange(len(labels)) if indices is None else np.asarray(indices, np.int64)
    wrong = chosen[(chosen < 0) | (chosen >= len(labels))]
    if len(wrong):
        raise DataError(f"image {wrong[0]} given; expected 0 to {len(labels) - 1}")
    chosen = chosen[labels[chosen] >= 0]
    if not len(chosen) or (count is not None and count < 1):
        raise DataError(f"count {count} of {len(chosen)} images of known class; expected at least one")
    if count is not None and count < len(chosen):
        chosen = chosen[np.linspace(0, len(chosen) - 1, count).round().astype(np.int64)]
    beyond = chosen[labels[chosen] >= len(outputs)]
    if len(beyond):
        raise DataError(
            f"{images.names[int(beyond[0])]} is of class {labels[beyond[0]]}; outputs are given for {len(outputs)} "
            "classes: give one for each class of the images"
        )
    return chosen


def _check(
    network: Network,
    layers: list[str],
    preprocess: Preprocess,
    outputs: Ints,
    options: Mapping[str, str],
    batch_size: int,
) -> None:
    for name, value in options.items():
        if value not in OPTIONS[name]:
            raise DataError(f"{name} {value!r} given; expected {' or '.join(OPTIONS[name])}")
    if not layers or batch_size < 1:
        raise DataError(f"{len(layers)} layers and batches of {batch_size} given; expected at least 1 of each")
    if preprocess.shape != network.input_shape:
        raise CaptureError(f"preprocessing gives images of {preprocess.shape}; the network takes {network.input_shape}")
    for name in layers:
        shape = network.layer(name).shape
        if len(shape) > 3:
            raise CamError(f"layer {name!r} has the shape {list(shape)}, without channels; choose another")
    most = network.outputs
    if outputs.min() < 0 or outputs.max() >= most:
        raise DataError(f"outputs {outputs.min()} to {outputs.max()} given; {network.name} has {most}")


def _digest(numbers: Ints) -> str:
    return f"{len(numbers)}, SHA-256 {hashlib.sha256(numbers.tobytes()).hexdigest()[:12]}"


def _start(
    network: Network, config: dict[str, Any], sources: dict[str, Any], total: int, out: Pathlike | None
) -> Lesions:
    """Return lesions with no image done, or those that the file holds."""
    if out is not None and pathlib.Path(out).exists():
        kept = load_lesions(out)
        require_same(out, kept.config, config, "remove it or choose another output")
        return kept
    if config["by"] == "layer":
        channels = [np.array([WHOLE]) for _ in config["layers"]]
    else:
        channels = [np.arange(network.layer(name).units[0]) for name in config["layers"]]
    layer = np.repeat(np.arange(len(channels)), [len(c) for c in channels])
    none, zero = np.zeros(len(layer), np.int64), np.zeros(len(layer))
    found = Lesions(config, sources, layer, np.concatenate(channels), none, none, zero, zero, total=total)
    if out is not None:
        found.save(out)  # a place that cannot be written to is found out now
    return found


@dataclass
class _Surgeon:
    network: Network
    dtype: torch.dtype
    images: Images
    chosen: Ints
    preprocess: Preprocess
    outputs: Tensor
    batch_size: int
    workers: int

    def run(self, found: Lesions, out: Pathlike | None, progress: bool) -> Lesions:
        """Go through the images that are not done yet, a few at a time, and commit after each of them."""
        layers, whole = found.config["layers"], found.config["by"] == "layer"
        bar = tqdm(total=found.total, initial=found.images, unit="image", desc="lesions", disable=not progress)
        with bar, torch.inference_mode():
            if found.config["how"] == "mean" and not found.means:
                found = replace(found, means=self._means(layers))
            for x, targets in self._batches(found.images):
                intact = _read(self.network(x), targets)
                parts = [self._silenced(x, targets, intact, name, found.means.get(name), whole) for name in layers]
                found = _added(found, intact, [torch.cat(each, 1) for each in zip(*parts, strict=True)])
                if out is not None:
                    found.save(out)
                bar.update(len(x))
        return found

    def _batches(self, begin: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images for the network, int64 the output that stands for each one's class), a few at a time."""
        device, chosen = self.network.device, self.chosen[begin:]
        size = whole_images(self.batch_size, device)
        pictures = in_order(lambda i: self.preprocess.picture(self.images[int(i)][0]), chosen, self.workers)
        for start in range(0, len(chosen), size):
            labels = torch.from_numpy(np.asarray(self.images.labels)[chosen[start : start + size]])
            some = np.stack(list(islice(pictures, len(labels))))
            yield self.preprocess.tensor(some, device, self.dtype), self.outputs[labels].to(device)

    def _means(self, layers: Sequence[str]) -> dict[str, Floats]:
        """Return the mean of each channel over positions and images."""
        sums = {name: np.zeros(self.network.layer(name).units[0]) for name in layers}
        for x, _ in self._batches(0):
            for name, value in self.network.activations(x, layers).items():
                exact = torch.promote_types(value.dtype, torch.float32)
                means = self.network.maps(name, value).mean((2, 3), dtype=exact)
                sums[name] += means.cpu().double().sum(0).numpy()
        return {name: total / len(self.chosen) for name, total in sums.items()}

    def _silenced(
        self,
        x: Tensor,
        targets: Tensor,
        intact: tuple[Tensor, Tensor],
        layer: str,
        means: Floats | None,
        whole: bool,
    ) -> tuple[Tensor, Tensor]:
        """Return what `_read` does, [N, lesions] each, with the channels of a layer silenced one by one, or all."""
        value, tail = self.network.split(layer, x)
        maps = self.network.maps(layer, value)
        fill = torch.zeros(maps.shape[1]) if means is None else torch.from_numpy(means)
        fill = fill.to(maps)[:, None, None]
        changes = (maps != fill).flatten(2).any(2)
        changes = changes.any(1, keepdim=True) if whole else changes
        right, loss = (one[:, None].repeat(1, changes.shape[1]) for one in intact)
        pairs = (torch.split(index, self.batch_size) for index in changes.nonzero(as_tuple=True))
        for images, channels in zip(*pairs, strict=True):
            changed = value[images]  # a copy, which the next line writes through to
            inside = self.network.maps(layer, changed)
            if whole:
                inside[:] = fill
            else:
                inside[torch.arange(len(images)), channels] = fill[channels]
            right[images, channels], loss[images, channels] = _read(tail(changed, images), targets[images])
        return right, loss


def _read(output: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return whether the target's output is the largest, bool [N], and its log-loss in nats [N]."""
    shares = output.to(torch.promote_types(output.dtype, torch.float32)).log_softmax(1)
    return output.argmax(1) == targets, -shares[torch.arange(len(targets)), targets]


def _added(found: Lesions, intact: tuple[Tensor, Tensor], silenced: Sequence[Tensor]) -> Lesions:
    """Add some images to the sums; these are in float64, whatever the network computes in."""
    before, loss = intact[0].cpu().numpy(), intact[1].cpu().double().numpy()
    after, rise = silenced[0].cpu().numpy(), silenced[1].cpu().double().numpy() - loss[:, None]
    return replace(
        found,
        right=found.right + int(before.sum()),
        loss=found.loss + float(loss.sum()),
        lost=found.lost + (before[:, None] & ~after).sum(0),
        gained=found.gained + (~before[:, None] & after).sum(0),
        rise=found.rise + rise.sum(0),
        squares=found.squares + np.square(rise).sum(0),
        images=found.images + len(before),
    )
