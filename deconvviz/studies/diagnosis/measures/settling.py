"""Whether the filters of a network had settled when its training ended, from the snapshots of the training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deconvviz.graph.network import Network
from deconvviz.results.snapshots import Snapshots
from deconvviz.types import Floats


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


def weights_over_time(network: Network, snapshots: Snapshots) -> tuple[Floats, dict[str, list[Floats]]] | None:
    """Return the weights of each layer at the epochs of the snapshots, ending with the network as it is.

    A last snapshot that equals the network, to half precision, is not taken twice. Otherwise the network is taken as
    the state after the last recorded epoch, whose weights were not kept.

    Returns:
        The epochs, float64 [E], and layer -> E arrays, float64 [filters, weights]; None where the snapshots are of
        another network, or there are none.
    """
    names = [key for key, tensor in network.tensors.items() if key.endswith("weight") and tensor.dim() in (2, 4)]
    epochs, history = [float(epoch) for epoch in snapshots.epochs], {name: list[Floats]() for name in names}
    for epoch in snapshots.epochs:
        snapshot = snapshots.weights(epoch)
        for name in names:
            if name not in snapshot or snapshot[name].shape != tuple(network.tensors[name].shape):
                return None
            history[name].append(_by_filter(snapshot[name]))
    if not epochs or not names:
        return None
    final = {name: _by_filter(network.tensors[name].detach().cpu().double().numpy()) for name in names}
    if any(not np.allclose(history[name][-1], final[name], rtol=2e-3, atol=1e-5) for name in names):
        last = max([*snapshots.epochs, *(int(row["epoch"]) for row in snapshots.history)])
        if last <= epochs[-1]:
            return None
        epochs.append(float(last))
        for name in names:
            history[name].append(final[name])
    return np.array(epochs), {name.removesuffix(".weight"): history[name] for name in names}


def settling(network: Network, snapshots: Snapshots) -> tuple[Settling, ...] | None:
    """Follow the filters of each layer through the snapshots of the network's training.

    Returns:
        A `Settling` for each layer; None where the snapshots are of another network, or show fewer than three epochs.

    Source: Zeiler and Fergus 2013, section 4.1 and figure 4, asks when features converge; this measure, of the weights,
    is this package's.
    """
    followed = weights_over_time(network, snapshots)
    if followed is None or len(followed[0]) < 3:
        return None
    epochs, layers = followed
    return tuple(_settling(name, epochs, np.stack(weights)) for name, weights in layers.items())


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
