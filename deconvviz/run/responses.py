"""What every channel of several layers responds to some images, gathered in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconvviz.arrays import widened
from deconvviz.errors import CaptureError, DataError
from deconvviz.graph.network import Network
from deconvviz.run.options import RunOptions
from deconvviz.types import Floats, Ints

ROWS = 4000  # sampled positions of a layer, over all images: enough to tell a correlation of 0.95 from one of 0.94
SHUFFLES, CONFIDENCE = 20, 0.95  # of the classes: what selectivity is reached by chance
Singles = NDArray[np.float32]
Batch = tuple[Ints, Tensor]  # places of the images, and the network's input [n, C, H, W]


@dataclass(frozen=True, kw_only=True)
class LayerResponses:
    """The responses of one layer to n images.

    Attributes:
        layer: name of the layer.
        maxima: float32 [n, channels], the largest value of each map.
        means: float32 [n, channels], the mean of each map.
        firing: float32 [n, channels], the share of positions of each map whose value is above zero.
        lowest: float32 [channels], the smallest value in any image; `highest` is the largest.
        squares: float64 [channels], the mean square over images and positions.
        samples: float32 [rows, channels], the layer's values at positions drawn at random, the same number of positions
            in each image: row r is of image r // (rows / n).
    """

    layer: str
    maxima: Singles
    means: Singles
    firing: Singles
    lowest: Singles
    squares: Floats
    samples: Singles

    @property
    def highest(self) -> Singles:
        """float32 [channels], the largest value in any image."""
        return np.asarray(self.maxima.max(0))

    @property
    def constant(self) -> NDArray[np.bool_]:
        """bool [channels], whether the value is the same everywhere; that of a rectified filter is then zero."""
        reach = np.abs(np.stack([self.highest, self.lowest])).max()
        return np.asarray(self.highest - self.lowest <= 1e-6 * reach)

    def by_class(self, labels: Ints, classes: int) -> Floats:
        """Return the mean response to the images of each class.

        Args:
            labels: int64 [n], the class of each image, negative where it is unknown.
            classes: number of classes.

        Returns:
            float64 [classes, channels]; NaN where a class has no image.
        """
        labelled = labels >= 0
        totals = np.zeros((classes, self.means.shape[1]))
        np.add.at(totals, labels[labelled], self.means[labelled].astype(np.float64))
        counts = np.bincount(labels[labelled], minlength=classes).astype(float)
        counts[counts == 0] = np.nan
        return np.asarray(totals / counts[:, None])

    def selectivities(self, labels: Ints, classes: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Return the class selectivity index of each channel, and what it would reach by chance.

        Args:
            labels: int64 [n], the class of each image, negative where it takes no part.
            classes: number of classes.
            rng: draws SHUFFLES orders of the labels.

        Returns:
            float64 [channels], see `selectivity`, and float64 [channels], its 95th percentile over the shuffles.
        """
        labelled, by_chance = np.flatnonzero(labels >= 0), []
        for _ in range(SHUFFLES):
            shuffled = labels.copy()
            shuffled[labelled] = rng.permutation(labels[labelled])
            by_chance.append(selectivity(self.by_class(shuffled, classes)))
        return selectivity(self.by_class(labels, classes)), np.quantile(by_chance, CONFIDENCE, axis=0)


def gather(
    network: Network, batches: Iterable[Batch], images: int, layers: Sequence[str], run: RunOptions
) -> tuple[dict[str, LayerResponses], Singles | None]:
    """Run the images once, and return what each layer responds and the network's scores.

    Args:
        network: a captured network.
        batches: its inputs, each image once, with the places 0 .. images - 1.
        images: number of images.
        layers: names from `network.layers`.
        run: precision, progress bar, and the seed of the sampled positions, which do not depend on the batch size.

    Returns:
        layer -> `LayerResponses`, and the scores, float32 [images, outputs]; None where the network returns anything
        else than scores.

    Raises:
        LayerNotFound: a layer does not exist.
        CaptureError: the images do not have the network's input shape.
        DataError: a value is not finite.
    """
    recorders = {name: _LayerRecorder(name, network.layer(name).units, images, run.seed) for name in layers}
    try:
        scores: Singles | None = np.zeros((images, network.outputs), np.float32)
    except CaptureError:
        scores = None
    forward = network.forward_only(run.precision, keep=list(layers))
    with torch.inference_mode(), run.bar("image", images, "responses") as bar:
        for places, x in batches:
            if scores is None:
                values = forward.activations(x, layers)
            else:
                values, output = forward.observed(x, list(layers))
                scores[places] = forward.readout.scores(output).float().cpu().numpy()
            for name, value in values.items():
                recorders[name].add(places, forward.maps(name, value).to(widened(value.dtype)))
            bar.update(len(places))
    return {name: recorder.responses() for name, recorder in recorders.items()}, scores


def _tensors(output: object) -> Iterator[Tensor]:
    """Yield the tensors in what a network returns."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict | list | tuple):
        for item in output.values() if isinstance(output, dict) else output:
            yield from _tensors(item)


class _LayerRecorder:
    """Fills the arrays of one layer, batch by batch."""

    def __init__(self, layer: str, units: tuple[int, int, int], images: int, seed: int) -> None:
        channels, rows, columns = units
        self.layer, self.seed = layer, seed
        self.positions = rows * columns
        self.each = min(self.positions, -(-ROWS // images))  # sampled positions of an image
        self.maxima, self.means, self.firing = (np.empty((images, channels), np.float32) for _ in range(3))
        self.samples = np.empty((images, self.each, channels), np.float32)
        self.lowest = np.full(channels, np.inf, np.float32)
        self.squares = np.zeros(channels)

    def add(self, places: Ints, maps: Tensor) -> None:
        """Record the maps [n, channels, rows, columns] of the images at some places."""
        flat = maps.flatten(2)
        squares = flat.square().mean(2).double().sum(0).cpu().numpy()
        if not np.isfinite(squares).all():
            raise DataError(
                f"layer {self.layer!r} gives values that are not finite for images {places[0]} to {places[-1]}; "
                "repair the network first: its training diverged, or its precision is too low"
            )
        self.squares += squares
        self.maxima[places] = flat.amax(2).cpu().numpy()
        self.means[places] = flat.mean(2).cpu().numpy()
        self.firing[places] = (flat > 0).float().mean(2).cpu().numpy()
        self.lowest = np.minimum(self.lowest, flat.amin((0, 2)).float().cpu().numpy())
        positions = np.stack(
            [np.random.default_rng([self.seed, int(i)]).permutation(self.positions)[: self.each] for i in places]
        )
        index = torch.from_numpy(positions).to(flat.device)[:, None, :].expand(-1, flat.shape[1], -1)
        self.samples[places] = flat.gather(2, index).transpose(1, 2).cpu().numpy()

    def responses(self) -> LayerResponses:
        """Return what was recorded."""
        return LayerResponses(
            layer=self.layer,
            maxima=self.maxima,
            means=self.means,
            firing=self.firing,
            lowest=self.lowest,
            squares=self.squares / len(self.maxima),
            samples=self.samples.reshape(-1, self.samples.shape[2]),
        )


def selectivity(by_class: Floats) -> Floats:
    """Return the class selectivity index of each filter.

    Args:
        by_class: float64 [classes, channels], mean responses, at least 0; NaN for a class without images, which is left
            out.

    Returns:
        float64 [channels], 0 for a filter that never responds.

    Source: Morcos et al. 2018, section 2.3: (m - r) / (m + r), m of the best class and r the mean of the others.

    >>> selectivity(np.array([[3.0, 1.0], [1.0, 1.0]]))
    array([0.5, 0. ])
    """
    means = by_class[~np.isnan(by_class).any(1)]
    best = means.max(0)
    rest = (means.sum(0) - best) / max(len(means) - 1, 1)
    total = best + rest
    return np.asarray(np.divide(best - rest, total, out=np.zeros_like(total), where=total > 0))
