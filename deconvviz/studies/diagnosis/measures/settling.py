"""Whether the filters of a network had come to rest when its training ended, from its snapshots."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from deconvviz.graph.network import Network
from deconvviz.results.snapshots import Snapshots

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Settling:
    """How the filters of one convolution or linear layer moved through a training.

    Attributes:
        layer: the module's name; epochs: float64 [E], ascending.
        distance: float64 [E, filters], of each filter's weights from its last ones, relative to the first epoch's
            distance; NaN for a filter that never moved.
        pace: float64 [filters], how far a filter went each epoch between the last two snapshots, relative to the
            straight way from the first to the last; 0 for one that never moved.
    """

    layer: str
    epochs: Floats
    distance: Floats
    pace: Floats


def weights_over_time(network: Network, snapshots: Snapshots) -> tuple[Floats, dict[str, list[Floats]]] | None:
    """Return the epochs and each layer's filters at them, [filters, weights], ending with the network as it is.

    A last snapshot that is the network itself, to half precision, is not taken twice; one that is not is followed by
    the network, as the state after the last recorded epoch. None where the snapshots are of another network.
    """
    names = [key for key, tensor in network.tensors.items() if key.endswith("weight") and tensor.dim() in (2, 4)]
    last = max([*snapshots.epochs, *(int(row["epoch"]) for row in snapshots.history)], default=0)
    epochs, found = [float(epoch) for epoch in snapshots.epochs], {name: list[Floats]() for name in names}
    for epoch in snapshots.epochs:
        kept = snapshots.weights(epoch)
        for name in names:
            if name not in kept or kept[name].shape != tuple(network.tensors[name].shape):
                return None
            found[name].append(_filters(kept[name]))
    own = {name: _filters(network.tensors[name].detach().to("cpu", torch.float64).numpy()) for name in names}
    if not epochs or not names:
        return None
    if any(not np.allclose(found[name][-1], own[name], rtol=2e-3, atol=1e-5) for name in names):
        if last <= epochs[-1]:
            return None
        epochs.append(float(last))
        for name in names:
            found[name].append(own[name])
    return np.array(epochs), {name.removesuffix(".weight"): found[name] for name in names}


def settling(network: Network, snapshots: Snapshots) -> tuple[Settling, ...] | None:
    """Follow each layer's filters through the snapshots of the network's training.

    None where they are of another network, or there are fewer than three points in time.

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
    return Settling(layer, epochs, relative, np.where(moved, pace, 0.0))


def _filters(weights: NDArray[np.floating]) -> Floats:
    return np.asarray(weights, np.float64).reshape(len(weights), -1)
