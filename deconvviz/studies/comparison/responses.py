"""One pass over the images with both networks: what filters respond together, and what is decided."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from deconvviz.arrays import evenly
from deconvviz.data.datasets import Images, labels_of
from deconvviz.data.feed import Feed
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.sampling import spread
from deconvviz.errors import CaptureError, DataError
from deconvviz.graph.memory import fitting
from deconvviz.graph.network import Network
from deconvviz.graph.scores import Readout
from deconvviz.halving import AtOnce
from deconvviz.results.results import Result, require_same
from deconvviz.studies.comparison.decisions import Decisions
from deconvviz.studies.comparison.matching import Moments
from deconvviz.studies.comparison.options import ComparisonOptions
from deconvviz.types import Array, Ints

KIND, SCHEMA = "compared responses", 1
GRID = 16  # rows and columns of a map at which responses are compared: our choice, it bounds time and memory
OUTCOMES = ("predicted", "confidence", "loss")


def looked_at(images: Images, limit: int | None) -> Ints:
    """Return the images that a comparison looks at, int64 ascending, spread over the classes; without a limit all."""
    return spread(labels_of(images), limit or len(images))


class Side(NamedTuple):
    """One of two networks that are compared.

    Attributes:
        network: captured, on the device that computes.
        preprocess: how an image becomes its input.
        name: what pages call it.
    """

    network: Network
    preprocess: Preprocess
    name: str


@dataclass(frozen=True)
class Pair:
    """Two networks of one architecture, and the images that both look at.

    Attributes:
        before: the network before a change.
        after: the network after it.
        images: the images.
        options: what is compared, and how the job runs.
        layers: names of the layers whose filters are matched.
    """

    before: Side
    after: Side
    images: Images
    options: ComparisonOptions
    layers: tuple[str, ...]

    @property
    def sides(self) -> tuple[Side, Side]:
        """Both networks, in their order."""
        return self.before, self.after

    @property
    def identical(self) -> bool:
        """Whether both networks are one and the same, and prepare images alike."""
        one, two = self.sides
        return one.network.fingerprint == two.network.fingerprint and one.preprocess == two.preprocess

    @property
    def indices(self) -> Ints:
        """int64 [N], the images that are looked at, ascending."""
        return looked_at(self.images, self.options.limit)

    def feed(self, side: Side) -> Feed:
        """Return the images as one of the networks takes them."""
        return Feed(self.images, side.preprocess, self.indices, workers=self.options.workers)

    @property
    def targets(self) -> Ints:
        """int64 [N], the output that stands for the class of each image, -1 where it is unknown."""
        labels, outputs = labels_of(self.images)[self.indices], self.options.outputs
        if outputs is None or not len(outputs):
            return np.full(len(labels), -1)
        return np.asarray(np.where(labels >= 0, np.asarray(outputs)[np.maximum(labels, 0)], -1), np.int64)

    @property
    def scored(self) -> bool:
        """Whether the networks return scores of classes."""
        try:
            return self.before.network.outputs > 1
        except CaptureError:
            return False

    def inputs(self, size: int, start: int) -> Iterator[tuple[Ints, Tensor, Tensor]]:
        """Yield (places, inputs before, inputs after), batch by batch; an image is read once where both take it so."""
        device, dtype = self.before.network.device, self.before.network.dtype
        one, two = self.sides
        batches = self.feed(one).tensors(size, device, dtype, start=start)
        if one.preprocess == two.preprocess:
            yield from ((places, x, x) for places, x in batches)
            return
        others = self.feed(two).tensors(size, device, dtype, start=start)
        yield from ((places, x, y) for (places, x), (_, y) in zip(batches, others, strict=True))


@dataclass(frozen=True)
class Responses:
    """What both networks respond to the images that are done.

    Attributes:
        moments: layer -> sums from which the correlations of its filters follow.
        maxima: layer -> float32 [2, done, C], the largest response of each filter to each image.
        outcomes: name -> [2, done], "predicted", "confidence" and "loss"; empty where there are no scores.
        done: images that are done.
    """

    moments: Mapping[str, Moments]
    maxima: Mapping[str, Array]
    outcomes: Mapping[str, Array] = field(default_factory=dict)
    done: int = 0

    def decisions(self, pair: Pair) -> Decisions | None:
        """Return what both networks decide; None where they return no scores of classes."""
        if not self.outcomes:
            return None
        outcomes: Any = dict(self.outcomes)
        return Decisions(images=pair.indices, targets=pair.targets, identical=pair.identical, **outcomes)

    def save(self, path: pathlib.Path, config: dict[str, Any]) -> None:
        """Write the sums, so that the pass goes on from there."""
        arrays: dict[str, Array] = {f"decisions/{name}": array for name, array in self.outcomes.items()}
        for layer, moments in self.moments.items():
            arrays |= {
                f"layers/{layer}/totals": moments.totals,
                f"layers/{layer}/squares": moments.squares,
                f"layers/{layer}/products": moments.products,
                f"layers/{layer}/maxima": self.maxima[layer],
            }
        places = {layer: moments.places for layer, moments in self.moments.items()}
        Result(KIND, SCHEMA, config, {}, arrays, {"done": self.done, "places": places}).save(path)

    @classmethod
    def resumed(cls, path: pathlib.Path | None, config: dict[str, Any], fresh: Responses) -> Responses:
        """Return what a file holds, or fresh sums where there is none."""
        if path is None or not path.is_file():
            return fresh
        file = Result.load(path, KIND, SCHEMA)
        require_same(path, file.config, config, "remove it or choose another output")
        arrays = file.arrays

        def of(layer: str, name: str) -> Array:
            return arrays[f"layers/{layer}/{name}"]

        return cls(
            moments={
                layer: Moments(places, of(layer, "totals"), of(layer, "squares"), of(layer, "products"))
                for layer, places in file.state["places"].items()
            },
            maxima={layer: of(layer, "maxima") for layer in file.state["places"]},
            outcomes={name: arrays[f"decisions/{name}"] for name in OUTCOMES if f"decisions/{name}" in arrays},
            done=int(file.state["done"]),
        )


class _Sums(NamedTuple):
    """What a batch adds, on the device: of each layer, and of the decisions."""

    layers: dict[str, tuple[int, Tensor, Tensor, Tensor, Tensor]]  # places, totals, squares, products, maxima
    outcomes: tuple[Tensor, ...]


def respond(pair: Pair, path: pathlib.Path | None, config: dict[str, Any]) -> Responses:
    """Run both networks over the images, and return what they respond; calling again resumes from the file.

    Args:
        pair: both networks, and the images.
        path: of the file of sums; None keeps them in memory.
        config: what must be equal for the file to be continued, JSON values.

    Raises:
        DataError: a response is not finite, or the file cannot be written.
        MismatchError: the file was written with other settings.
    """
    fresh = Responses({name: _no_moments(pair, name) for name in pair.layers}, _no_maxima(pair), _no_outcomes(pair))
    responses = Responses.resumed(path, config, fresh)
    total = len(pair.indices)
    if responses.done == total:
        return responses
    run = _Run(pair)
    with pair.options.bar("image", total, "responses", responses.done) as bar, torch.inference_mode():
        waiting: list[_Sums] = []
        done = responses.done
        for count, (places, x, y) in enumerate(pair.inputs(run.at_once.size, responses.done), 1):
            waiting += run.sums(int(places[0]), x, y)
            done += len(places)
            if count % pair.options.commit_every == 0 or done == total:
                responses, waiting = _with(responses, waiting, done), []
                if path is not None:
                    responses.save(path, config)
            bar.update(len(places))
    return responses


class _Run:
    """Both networks in the form that runs forward only."""

    def __init__(self, pair: Pair) -> None:
        self.pair, layers = pair, list(pair.layers)
        options, device = pair.options, pair.before.network.device
        self.networks = [side.network.forward_only(options.precision, keep=layers) for side in pair.sides]
        size = fitting(pair.before.network, options.images_at_once(device), layers)
        self.at_once = AtOnce(size, "images", "ask for fewer layers at once, or use another --device")
        self.targets = torch.from_numpy(pair.targets).to(device)

    def sums(self, first: int, x: Tensor, y: Tensor) -> Iterator[_Sums]:
        """Yield what a batch of images from place `first` on adds, in parts that fit in memory."""
        targets = self.targets[first : first + len(x)]
        yield from self.at_once.parts(
            len(x), lambda start, stop: self._part(x[start:stop], y[start:stop], targets[start:stop])
        )

    def _part(self, x: Tensor, y: Tensor, targets: Tensor) -> _Sums:
        layers = list(self.pair.layers)
        both, scored = list[dict[str, Tensor]](), list[tuple[Readout, Tensor]]()
        for network, inputs in zip(self.networks, (x, y), strict=True):
            if self.pair.scored:
                values, output = network.observed(inputs, layers)
                scored.append((network.readout, network.readout.scores(output)))
            else:
                values = network.activations(inputs, layers)
            both.append({name: network.maps(name, values.pop(name)) for name in layers})
        return _Sums({name: _layer_sums(both[0][name], both[1][name]) for name in layers}, _outcomes(scored, targets))


def _outcomes(scored: Sequence[tuple[Readout, Tensor]], targets: Tensor) -> tuple[Tensor, ...]:
    """Return [2, n] each: the class that a network names, its probability, and the log-loss of the target, or NaN."""
    if not scored:
        return ()
    logs = torch.stack([readout.log_probabilities(scores).double() for readout, scores in scored])
    confidence = torch.stack([readout.probabilities(scores).double().amax(1) for readout, scores in scored])
    loss = -logs[:, torch.arange(len(targets), device=targets.device), targets.clamp(min=0)]
    loss = torch.where(targets >= 0, loss, torch.nan)
    return torch.stack([scores.argmax(1) for _, scores in scored]), confidence.clamp(0, 1), loss


def _layer_sums(before: Tensor, after: Tensor) -> tuple[int, Tensor, Tensor, Tensor, Tensor]:
    """Return what maps [n, C, H, W] of both networks add to the sums of their layer."""
    maxima = torch.stack([before.flatten(2).amax(2), after.flatten(2).amax(2)]).float()
    rows, columns = (torch.from_numpy(evenly(side, GRID)).to(before.device) for side in before.shape[2:])
    a, b = (
        maps.index_select(2, rows).index_select(3, columns).transpose(0, 1).flatten(1).double()
        for maps in (before, after)
    )
    return a.shape[1], torch.stack([a.sum(1), b.sum(1)]), torch.stack([(a * a).sum(1), (b * b).sum(1)]), a @ b.T, maxima


def _with(responses: Responses, waiting: list[_Sums], done: int) -> Responses:
    """Add the sums of some batches; the device is waited for here alone."""
    moments, maxima = {}, {}
    for layer, old in responses.moments.items():
        parts = [each.layers[layer] for each in waiting]
        totals, squares, products = (old.totals.copy(), old.squares.copy(), old.products.copy())
        for _, part_totals, part_squares, part_products, _ in parts:
            totals += part_totals.cpu().numpy()
            squares += part_squares.cpu().numpy()
            products += part_products.cpu().numpy()
        if not np.isfinite(products).all():
            raise DataError(
                f"layer {layer!r} gives values that are not finite; repair the network first: its training diverged, "
                "or its precision is too low"
            )
        moments[layer] = Moments(old.places + sum(part[0] for part in parts), totals, squares, products)
        maxima[layer] = np.concatenate([responses.maxima[layer], *(part[4].cpu().numpy() for part in parts)], 1)
    outcomes = responses.outcomes
    if outcomes:
        outcomes = {
            name: np.concatenate([outcomes[name], *(each.outcomes[place].cpu().numpy() for each in waiting)], 1)
            for place, name in enumerate(OUTCOMES)
        }
    return replace(responses, moments=moments, maxima=maxima, outcomes=outcomes, done=done)


def _no_moments(pair: Pair, layer: str) -> Moments:
    channels, _, _ = pair.before.network.layer(layer).units
    return Moments(0, np.zeros((2, channels)), np.zeros((2, channels)), np.zeros((channels, channels)))


def _no_maxima(pair: Pair) -> dict[str, Array]:
    network = pair.before.network
    return {name: np.zeros((2, 0, network.layer(name).units[0]), np.float32) for name in pair.layers}


def _no_outcomes(pair: Pair) -> dict[str, Array]:
    if not pair.scored:
        return {}
    return {"predicted": np.zeros((2, 0), np.int64), "confidence": np.zeros((2, 0)), "loss": np.zeros((2, 0))}
