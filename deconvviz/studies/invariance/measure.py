"""Figure 5 of the paper: how features and the output change as an image is translated, scaled and rotated.

Beyond it, a score for every layer and filter: how much less a transform moves their values than another image does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from deconvviz.data.datasets import Images, open_images
from deconvviz.data.parallel import in_order
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.transforms import KINDS, Canvas, canvas_of, checked_steps, inverse_map, moving
from deconvviz.errors import DataError, MismatchError
from deconvviz.graph.choose import by_depth, first_and_last
from deconvviz.graph.network import Network
from deconvviz.studies.invariance.result import Floats, Invariance

REFERENCES = 10  # images whose features are kept: chance is the distance to these


def invariance(
    network: Network,
    images: Any,
    layers: Sequence[str] | str | None = None,
    *,
    preprocess: Preprocess,
    kinds: Sequence[str] = KINDS,
    steps: Mapping[str, Sequence[float]] | None = None,
    which: Sequence[int] | None = None,
    padding: str = "reflect",
    interpolation: str = "bilinear",
    outputs: NDArray[np.int64] | None = None,
    units: Sequence[str] = (),
    batch_size: int = 32,
    progress: bool = True,
) -> Invariance:
    """Measure how far transforms of images move a network's features, and what they do to the probability of a class.

    Args:
        images: what `open_images` takes.
        layers: names; "all" for every convolution and linear layer, None for the first of them and what the last one
            reads (the paper's layers 1 and 7); both after BatchNorm and ReLU where these follow.
        kinds: of KINDS; steps: kind -> steps in pixels (down, right), as factors, or in degrees counter-clockwise; by
            default the paper's ranges, see `default_steps`.
        which: indices of the images, by default the first 5. Chance is measured among the first REFERENCES of them.
        padding, interpolation: what comes into view and how pixels are made, as in `data.transforms`.
        outputs: int64, the output that stands for each class of the images, as `models.labels.outputs_of` tells;
            None follows each image's own top class.
        units: layers whose filters are scored too.
        batch_size: pictures in one pass, which gives all layers and the output.

    Raises:
        DataError: kinds, steps, images, labels or a padding that do not exist. LayerNotFound: such layers.
        CamError: no convolution or linear layer to choose by default.
        MismatchError: pictures of another shape than the network's. CaptureError: a network that returns no scores.

    Source: Zeiler and Fergus 2013, figure 5. The paper does not state its distance: here it is ||f(Tx) - f(x)|| /
    ||f(x)|| over all values of a layer.
    """
    images = open_images(images)
    every, names = checked_steps(kinds, steps, network.input_shape), _names(network, layers)
    probe = _Probe(network, names, units, preprocess)
    chosen = _chosen(images, which)
    labels = _labels(images, chosen, outputs, probe.classes)
    config = {
        "network": network.fingerprint,
        "images": images.fingerprint,
        "which": chosen.tolist(),
        "layers": list(names),
        "steps": {kind: values.tolist() for kind, values in every.items()},
        "padding": padding,
        "interpolation": interpolation,
        "preprocess": preprocess.as_dict(),
        "references": REFERENCES,
    }
    found = Invariance.blank(config, names, [images.names[int(i)] for i in chosen], every, probe.channels)
    passes = len(chosen) * sum(int(moving(kind, values).sum()) for kind, values in every.items())
    references: _Seen | None = None
    with tqdm(total=passes, unit="picture", disable=not progress) as bar, torch.no_grad():
        for start in range(0, len(chosen), REFERENCES):
            block = chosen[start : start + REFERENCES]
            canvases = [canvas_of(images[int(i)][0], preprocess, padding) for i in block]
            base = probe.several([one.picture for one in canvases], batch_size)
            references = references or base
            _note_base(found, start, base, references, labels[start : start + len(block)])
            for jobs, pictures in _transformed(canvases, every, interpolation, batch_size):
                _note_moved(found, start, jobs, probe(pictures), base)
                bar.update(len(jobs))
    return found


# --- what is asked ---------------------------------------------------------------------------------------------------


def _names(network: Network, layers: Sequence[str] | str | None) -> tuple[str, ...]:
    if layers is None:
        return first_and_last(network)
    if layers == "all":
        return by_depth(network)
    return tuple(dict.fromkeys(network.layer(name).name for name in ([layers] if isinstance(layers, str) else layers)))


def _chosen(images: Images, which: Sequence[int] | None) -> NDArray[np.int64]:
    chosen = np.arange(min(5, len(images))) if which is None else np.asarray(which, np.int64)
    if not len(chosen) or len({*chosen.tolist()}) != len(chosen):
        raise DataError(f"images {chosen.tolist()} given; expected at least one, each another")
    if chosen.min() < 0 or chosen.max() >= len(images):
        raise DataError(
            f"image {chosen[(chosen < 0) | (chosen >= len(images))][0]} given; there are 0 to {len(images) - 1}"
        )
    return chosen


def _labels(
    images: Images, chosen: NDArray[np.int64], outputs: NDArray[np.int64] | None, classes: int
) -> NDArray[np.int64]:
    """Return the output to follow for each image, -1 for its own top class."""
    if outputs is None:
        return np.full(len(chosen), -1, np.int64)
    for i, label in zip(chosen, images.labels[chosen], strict=True):
        if not 0 <= label < len(outputs):
            raise DataError(
                f"image {images.names[int(i)]} has the label {label}, outputs stand for 0 to {len(outputs) - 1}; "
                "choose labelled images, or outputs=None to follow each one's own top class"
            )
        if not 0 <= outputs[label] < classes:
            raise DataError(f"output {outputs[label]} given for the label {label}; the network has 0 to {classes - 1}")
    return np.asarray(outputs[images.labels[chosen]], np.int64)


# --- measuring -------------------------------------------------------------------------------------------------------


class _Seen(NamedTuple):
    """Of n pictures: each layer's values [n, ...], the maxima of each map of the layers of units [n, C], and the
    probabilities [n, classes]."""

    values: list[Tensor]
    maxima: dict[str, Tensor]
    shares: Tensor


class _Probe:
    """A network that gives several layers and the output from one pass over pictures."""

    def __init__(self, network: Network, layers: Sequence[str], units: Sequence[str], preprocess: Preprocess) -> None:
        if preprocess.shape != network.input_shape:
            raise MismatchError(
                f"pictures of shape {preprocess.shape} do not fit {network.name}, which takes {network.input_shape}; "
                "give the preprocessing that crop"
            )
        every = (*layers, *units)
        self.channels = {name: network.layer(name).units[0] for name in units}
        fast = network.fast("fp32", keep=every) if network.dtype == torch.float32 else network
        self.network = fast if set(every) <= set(fast.layers) else network  # a functional op may have lost its name
        self.preprocess, self.layers = preprocess, layers
        self.classes, self.every = network.outputs, tuple(dict.fromkeys(every))

    def __call__(self, pictures: Sequence[NDArray[np.uint8]]) -> _Seen:
        network = self.network
        x = self.preprocess.tensor(np.stack(pictures), network.device, network.dtype)
        values, output = network.observed(x, self.every)
        maxima = {name: network.maps(name, values[name]).amax((2, 3)) for name in self.channels}
        return _Seen([values[name] for name in self.layers], maxima, output.double().softmax(1).cpu())

    def several(self, pictures: Sequence[NDArray[np.uint8]], batch_size: int) -> _Seen:
        """Return the same for more pictures than one pass takes."""
        seen = [self(pictures[start : start + batch_size]) for start in range(0, len(pictures), batch_size)]
        values = [torch.cat(parts) for parts in zip(*(one.values for one in seen), strict=True)]
        maxima = {name: torch.cat([one.maxima[name] for one in seen]) for name in self.channels}
        return _Seen(values, maxima, torch.cat([one.shares for one in seen]))


class _Job(NamedTuple):
    """One transformed picture: which of the block's images, which kind, and which of its steps."""

    row: int
    kind: str
    step: int


def _transformed(
    canvases: Sequence[Canvas], every: Mapping[str, Floats], interpolation: str, batch_size: int
) -> Iterator[tuple[list[_Job], list[NDArray[np.uint8]]]]:
    """Yield batches of jobs and their pictures, made in threads while the network is busy with the batch before."""
    jobs = [
        _Job(row, kind, int(step))
        for row in range(len(canvases))
        for kind, steps in every.items()
        for step in np.flatnonzero(moving(kind, steps))
    ]

    def picture(job: _Job) -> NDArray[np.uint8]:
        return canvases[job.row].transformed(inverse_map(job.kind, every[job.kind][job.step]), interpolation)

    pictures = in_order(picture, jobs, max(1, min(batch_size // 8, 8)))
    for start in range(0, len(jobs), batch_size):
        part = jobs[start : start + batch_size]
        yield part, list(islice(pictures, len(part)))


def _note_base(found: Invariance, start: int, base: _Seen, references: _Seen, labels: NDArray[np.int64]) -> None:
    """Note of a block of images, the first of which is image `start`, what is known before any transform."""
    for row in range(len(base.shares)):
        n, shares = start + row, base.shares[row]
        others = [r for r in range(len(references.shares)) if r != n]
        found.targets[n] = labels[row] if labels[row] >= 0 else int(shares.argmax())
        found.untouched[n] = float(shares[int(found.targets[n])])
        for kind in found.steps:
            found.probability[kind][n] = found.untouched[n]
        for m, value in enumerate(base.values):
            found.norms[n, m] = float(_norm(value[row]))
            far = [float(_norm(references.values[m][r] - value[row])) for r in others]
            found.apart[n, m] = np.mean(far) if far else np.nan
        for name, maxima in base.maxima.items():
            far_units = (references.maxima[name][others] - maxima[row]).abs().double().mean(0)  # of none: NaN
            found.units[name].apart[n] = far_units.cpu().numpy()


def _note_moved(found: Invariance, start: int, jobs: Sequence[_Job], seen: _Seen, base: _Seen) -> None:
    rows = [job.row for job in jobs]
    far = [
        torch.stack([_norm(value[n] - origin[row]) for n, row in enumerate(rows)]).tolist()
        for value, origin in zip(seen.values, base.values, strict=True)
    ]
    counts = {kind: int(moving(kind, steps).sum()) for kind, steps in found.steps.items()}
    moved = {name: (seen.maxima[name] - base.maxima[name][rows]).abs().double().cpu().numpy() for name in seen.maxima}
    for n, (row, kind, step) in enumerate(jobs):
        image = start + row
        found.moved[kind][image, step] = [distances[n] for distances in far]
        found.probability[kind][image, step] = float(seen.shares[n, int(found.targets[image])])
        for name, units in found.units.items():
            units.moved[kind][image] += moved[name][n] / counts[kind]


def _norm(difference: Tensor) -> Tensor:
    """The Euclidean norm over everything; half precision would overflow."""
    norm: Tensor = torch.linalg.vector_norm(difference.to(torch.promote_types(difference.dtype, torch.float32)))
    return norm
