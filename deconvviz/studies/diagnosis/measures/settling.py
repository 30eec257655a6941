"""Whether the filters of a network had settled when its training ended, from the snapshots of the training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deconvviz.errors import MismatchError
from deconvviz.graph.network import Network
from deconvviz.results.snapshots import Snapshots
from deconvviz.types import Array, Floats

LEAST = 3  # epochs: two have no pace to compare


@dataclass(frozen=True, kw_only=True)
class Settling:
    """How the filters of one convolution or linear layer moved during a training.

    Attributes:
        layer: name of the module.
        epochs: float64 [E], the epochs of the snapshots, ascending.
        distance: float64 [E, filters], the distance of each filter's weights from its final ones, divided by that of
            the first epoch; NaN for a filter that never moved.
        pace: float64 [filters], how far a filter moved per epoch between the last two snapshots, divided by the
            straight distance per epoch from the first to the last; 0 for a filter that never moved.
    """

    layer: str
    epochs: Floats
    distance: Floats
    pace: Floats


@dataclass(frozen=True, kw_only=True)
class WeightHistory:
    """The weights of a network during its training.

    Attributes:
        epochs: float64 [E], ascending; the last one is that of the network as it is.
        weights: name of a convolution or linear layer -> E arrays, float64 [filters, weights].
        missing: layers of the network that the snapshots do not hold.
    """

    epochs: Floats
    weights: dict[str, list[Floats]]
    missing: tuple[str, ...] = ()


def weights_over_time(network: Network, snapshots: Snapshots) -> WeightHistory:
    """Return the weights of each layer at the epochs of the snapshots, ending with the network as it is.

    A last snapshot that equals the network, to half precision, is not taken twice. Otherwise the network is taken as
    the state after the last recorded epoch, whose weights were not kept. Layers that the snapshots do not hold are left
    out.

    Raises:
        MismatchError: the snapshots are of another network, or show fewer than three epochs; the message says what is
            missing.
    """
    epochs = [float(epoch) for epoch in snapshots.epochs]
    if not epochs:
        raise MismatchError(f"the snapshots hold the weights of no epoch; {LEAST} are needed")
    every = [key for key, tensor in network.tensors.items() if key.endswith("weight") and tensor.dim() in (2, 4)]
    history: dict[str, list[Floats]] = {}
    for epoch in snapshots.epochs:
        snapshot = snapshots.weights(epoch)
        if epoch == snapshots.epochs[0]:
            history = {name: [] for name in every if name in snapshot}
        for name, weights in history.items():
            _require_shape(name, snapshot, tuple(network.tensors[name].shape), epoch)
            weights.append(_by_filter(snapshot[name]))
    if not history:
        raise MismatchError("the snapshots are of another network: they hold none of this network's weights")
    final = {name: _by_filter(network.tensors[name].detach().cpu().double().numpy()) for name in history}
    changed = [name for name in final if not np.allclose(history[name][-1], final[name], rtol=2e-3, atol=1e-5)]
    if changed:
        last = max([*snapshots.epochs, *(int(row["epoch"]) for row in snapshots.history)])
        if last <= epochs[-1]:
            raise MismatchError(
                f"the snapshots are of another network: {_layer_of(changed[0])} has other weights after their last "
                f"epoch ({epochs[-1]:g}) than in the network"
            )
        epochs.append(float(last))
        for name in history:
            history[name].append(final[name])
    if len(epochs) < LEAST:
        listed = ", ".join(f"{epoch:g}" for epoch in epochs)
        raise MismatchError(
            f"the weights of {LEAST} epochs or more are needed, and the snapshots hold those of {listed}"
        )
    missing = tuple(_layer_of(name) for name in every if name not in history)
    by_layer = {_layer_of(name): weights for name, weights in history.items()}
    return WeightHistory(epochs=np.array(epochs), weights=by_layer, missing=missing)


def _require_shape(name: str, snapshot: Mapping[str, Array], shape: tuple[int, ...], epoch: int) -> None:
    """Raise MismatchError where a snapshot lacks a weight, or has it in another shape than the network."""
    if name not in snapshot:
        raise MismatchError(f"the snapshot of epoch {epoch} does not hold {_layer_of(name)}, which an earlier one does")
    if snapshot[name].shape != shape:
        sizes = ["x".join(map(str, each)) for each in (snapshot[name].shape, shape)]
        raise MismatchError(
            f"the snapshots are of another network: the weights of {_layer_of(name)} are {sizes[0]} in them, and "
            f"{sizes[1]} in the network"
        )


def _layer_of(name: str) -> str:
    return name.removesuffix(".weight")


def settling(history: WeightHistory) -> tuple[Settling, ...]:
    """Follow the filters of each layer through a training.

    Returns:
        A `Settling` for each layer.

    Source: Zeiler and Fergus 2013, section 4.1 and figure 4, asks when features converge; this measure, of the weights,
    is this package's.
    """
    return tuple(_settling(name, history.epochs, np.stack(weights)) for name, weights in history.weights.items())


def _settling(layer: str, epochs: Floats, weights: Floats) -> Settling:
    distance = np.linalg.norm(weights - weights[-1], axis=2)
    way, span = distance[0], epochs[-1] - epochs[0]
    moved = way > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = np.where(moved, distance / way, np.nan)
        pace = (distance[-2] / (epochs[-1] - epochs[-2])) / (way / span)
    return Settling(layer=layer, epochs=epochs, distance=relative, pace=np.where(moved, pace, 0.0))


def _by_filter(weights: NDArray[np.floating]) -> Floats:
    """Return weights [filters, ...] as float64 [filters, weights]."""
    return np.asarray(weights, np.float64).reshape(len(weights), -1)
