"""Directions that were mined: their matrices are in the mined file, which names a network without them."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

from deconvviz.data.datasets import Images
from deconvviz.data.preprocess import Preprocess
from deconvviz.graph.directions import directions_in, with_directions
from deconvviz.graph.network import Network
from deconvviz.results.directions import Directions
from deconvviz.run.directions import Learn, learn_directions
from deconvviz.studies.mining.result import Mined, load_mined
from deconvviz.types import Array


def arrays_of(network: Network, layers: Sequence[str]) -> dict[str, Array]:
    """Return the matrices of the directions among some layers, by the names that they have in a mined file."""
    readings = {name: each for name, each in directions_in(network).items() if name in layers}
    weights = {f"directions/{name}/weights": each.weights for name, each in readings.items()}
    return weights | {f"directions/{name}/bias": each.bias for name, each in readings.items()}


def layers_read(network: Network, layers: Sequence[str]) -> dict[str, str]:
    """Return the directions among some layers, each with the layer that it reads."""
    return {name: each.layer for name, each in directions_in(network).items() if name in layers}


def with_mined_directions(network: Network, mined: Mined) -> Network:
    """Return the network with the directions that were mined, as the mined file holds them."""
    for name, layer in mined.sources.get("directions", {}).items():
        weights, bias = (mined.figure_arrays[f"directions/{name}/{key}"] for key in ("weights", "bias"))
        network = with_directions(network, layer, weights, bias, name)
    return network


def learner(network: Network, preprocess: Preprocess, images: Images, out: str, **options: Any) -> Learn:
    """Return what learns directions from the images that are mined, or takes those of a mined file that is resumed.

    Args:
        network: a captured network.
        preprocess: how an image becomes its input.
        images: that are mined.
        out: path of the mined file.
        options: `limit`, and options of `RunOptions`.
    """
    begun = load_mined(out) if pathlib.Path(out).exists() else None

    def learn(layer: str, kind: str, count: int) -> Directions:
        name = f"directions/{layer}[{kind}:{count}]"
        if begun is not None and f"{name}/weights" in begun.figure_arrays:
            weights, bias = (begun.figure_arrays[f"{name}/{key}"] for key in ("weights", "bias"))
            return Directions(weights=weights, bias=bias, layer=layer, kind=kind)
        return learn_directions(network, images, layer, kind, count, preprocess=preprocess, **options)

    return learn
