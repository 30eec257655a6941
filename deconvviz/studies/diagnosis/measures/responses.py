"""What every filter of several layers answers to some images, gathered in one pass: what the checks look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from deconvviz.errors import CaptureError, DataError
from deconvviz.graph.network import Network

ROWS = 4000  # sampled positions of a layer, over all images: enough to tell a correlation of 0.95 from one of 0.94
Floats = NDArray[np.float32]
Batch = tuple[NDArray[np.int64], Tensor]  # places among the images, and the network's input [n, C, H, W]


@dataclass(frozen=True)
class LayerResponses:
    """One layer's answers to n images.

    Attributes:
        layer: its name.
        maxima, means, firing: float32 [n, channels], of each map: its maximum, its mean, the share of positions > 0.
        lowest: float32 [channels], the smallest value anywhere; `highest` is the largest.
        squares: float64 [channels], the mean square over images and positions.
        samples: float32 [rows, channels], whole columns of the layer at `rows` places drawn at random, the same number
            in each image: row r is of image r // (rows / n).
    """

    layer: str
    maxima: Floats
    means: Floats
    firing: Floats
    lowest: Floats
    squares: NDArray[np.float64]
    samples: Floats

    @property
    def highest(self) -> Floats:
        """float32 [channels], the largest value anywhere."""
        return np.asarray(self.maxima.max(0))

    @property
    def constant(self) -> NDArray[np.bool_]:
        """bool [channels], true where the value is the same everywhere: of a rectified filter, always zero."""
        reach = np.abs(np.stack([self.highest, self.lowest])).max()
        return np.asarray(self.highest - self.lowest <= 1e-6 * reach)

    def by_class(self, labels: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
        """Return the mean response per class, float64 [classes, channels], NaN where a class has no image.

        labels: int64 [n], negative where unknown.
        """
        known = labels >= 0
        totals = np.zeros((classes, self.means.shape[1]))
        np.add.at(totals, labels[known], self.means[known].astype(np.float64))
        counts = np.bincount(labels[known], minlength=classes).astype(float)
        counts[counts == 0] = np.nan
        return np.asarray(totals / counts[:, None])


def gather(
    network: Network, batches: Iterator[Batch], images: int, layers: Sequence[str], seed: int, progress: bool = False
) -> tuple[dict[str, LayerResponses], Floats | None]:
    """Run the images once, and return what each layer answers and the network's scores.

    Args:
        network: a captured network; batches: its inputs, each image once, places 0 .. images - 1 in order.
        layers: names from `network.layers`.
        seed: of the sampled positions, which do not depend on the batch size.

    Returns:
        layer -> `LayerResponses`; the scores, float32 [images, outputs], None where the network returns anything else.

    Raises:
        LayerNotFound: no such layer. CaptureError: images of another shape than the network's.
        DataError: a value is not finite.
    """
    gatherers = {name: _Gatherer(name, network.layer(name).units, images, seed) for name in layers}
    try:
        scores: Floats | None = np.zeros((images, network.outputs), np.float32)
    except CaptureError:
        scores = None
    fast = network.fast(keep=list(layers))
    with torch.inference_mode(), tqdm(total=images, unit="image", desc="responses", disable=not progress) as bar:
        for places, x in batches:
            values, output = fast.observed(x, list(layers)) if scores is not None else (fast.activations(x, layers), 0)
            for name, value in values.items():
                gatherers[name].add(places, fast.maps(name, value).float())
            if scores is not None:
                scores[places] = next(iter(_tensors(output))).float().cpu().numpy()
            bar.update(len(places))
    return {name: gatherer.result() for name, gatherer in gatherers.items()}, scores


def _tensors(output: object) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict | list | tuple):
        for item in output.values() if isinstance(output, dict) else output:
            yield from _tensors(item)


class _Gatherer:
    """Fills one layer's arrays, batch by batch."""

    def __init__(self, layer: str, units: tuple[int, int, int], images: int, seed: int) -> None:
        channels, rows, columns = units
        self.layer, self.seed = layer, seed
        self.positions = rows * columns
        self.each = min(self.positions, -(-ROWS // images))
        self.maxima, self.means, self.firing = (np.empty((images, channels), np.float32) for _ in range(3))
        self.samples = np.empty((images, self.each, channels), np.float32)
        self.lowest = np.full(channels, np.inf, np.float32)
        self.squares = np.zeros(channels)

    def add(self, places: NDArray[np.int64], maps: Tensor) -> None:
        flat = maps.flatten(2)
        squares = flat.square().mean(2).double().sum(0).cpu().numpy()
        if not np.isfinite(squares).all():
            raise DataError(
                f"layer {self.layer!r} gives values that are not finite for images {places[0]} to {places[-1]}; "
                "mend the network first: its training diverged, or its precision is too low"
            )
        self.squares += squares
        self.maxima[places] = flat.amax(2).cpu().numpy()
        self.means[places] = flat.mean(2).cpu().numpy()
        self.firing[places] = (flat > 0).float().mean(2).cpu().numpy()
        self.lowest = np.minimum(self.lowest, flat.amin((0, 2)).cpu().numpy())
        drawn = np.stack(
            [np.random.default_rng([self.seed, int(i)]).permutation(self.positions)[: self.each] for i in places]
        )
        chosen = torch.from_numpy(drawn).to(flat.device)[:, None, :].expand(-1, flat.shape[1], -1)
        self.samples[places] = flat.gather(2, chosen).transpose(1, 2).cpu().numpy()

    def result(self) -> LayerResponses:
        rows = self.samples.reshape(-1, self.samples.shape[2])
        return LayerResponses(
            self.layer, self.maxima, self.means, self.firing, self.lowest, self.squares / len(self.maxima), rows
        )
