"""Directions that were mined: their matrices are in the mined file, which names a network without them."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

from deconvviz.choices import DIRECTIONS
from deconvviz.data.datasets import Images
from deconvviz.data.preprocess import Preprocess
from deconvviz.graph.directions import directions_in, parsed, with_directions
from deconvviz.graph.network import Network
from deconvviz.results.directions import Directions
from deconvviz.run.directions import Learn, learn_directions
from deconvviz.studies.mining.result import Mined, load_mined
from deconvviz.types import Array
from deconvviz.words import counted


def arrays_of(network: Network, layers: Sequence[str]) -> dict[str, Array]:
    """Return the matrices of the directions among some layers, by the names that they have in a mined file."""
    readings = {name: each for name, each in directions_in(network).items() if name in layers}
    weights = {f"directions/{name}/weights": each.weights for name, each in readings.items()}
    return weights | {f"directions/{name}/bias": each.bias for name, each in readings.items()}


def layers_read(network: Network, layers: Sequence[str]) -> dict[str, str]:
    """Return the directions among some layers, each with the layer that it reads."""
    return {name: each.layer for name, each in directions_in(network).items() if name in layers}


def known_of(network: Network, layers: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return what is known of how the directions among some layers were learned; JSON values."""
    return {name: dict(each.about) for name, each in directions_in(network).items() if name in layers}


def with_mined_directions(network: Network, mined: Mined) -> Network:
    """Return the network with the directions that were mined, as the mined file holds them."""
    read = mined.sources.get("directions", {})
    # In the order in which they were added, which is that of the nodes; the sources are sorted by name.
    for name in (name for name in mined.config["layers"] if name in read):
        layer = read[name]
        weights, bias = (mined.figure_arrays[f"directions/{name}/{key}"] for key in ("weights", "bias"))
        network = with_directions(network, layer, weights, bias, name, _about(mined, name))
    return network


def _about(mined: Mined, name: str) -> dict[str, Any]:
    """Return what is known of how mined directions were learned; of an older file, only what their name says."""
    parts = parsed(name)
    kind = parts[1].rpartition(":")[0] if parts else ""
    known: dict[str, Any] = mined.sources.get("directions_about", {}).get(name, {})
    return known or ({"kind": kind} if kind in DIRECTIONS else {})


def subject_of(mined: Mined, layer: str) -> str:
    """Return what a figure of a mined layer shows: the layer by its name, or which directions of which layer."""
    read = mined.sources.get("directions", {}).get(layer)
    if read is None:
        return layer
    nouns = {"nmf": "NMF parts", "pca": "PCA axes"}
    return f"{nouns.get(_about(mined, layer).get('kind', ''), 'directions')} of {read}"


def words_of(mined: Mined, layer: str) -> str:
    """Return what the directions are, for a caption, with a blank in front; "" where the layer is no directions."""
    read = mined.sources.get("directions", {}).get(layer)
    if read is None:
        return ""
    about = _about(mined, layer)
    kind, images, share = about.get("kind", ""), about.get("images"), about.get("explained")
    kinds = {
        "nmf": f"A direction is a part of the channels of {read} by non-negative matrix factorisation (NMF)",
        "pca": f"A direction is a principal axis (PCA) of the channels of {read}",
    }
    words = kinds.get(kind, f"A direction is a row of a matrix, a weight for each channel of {read}")
    words += f", learned from {counted(images, 'image')}" if images else ""
    if share is not None:
        words += (
            f"; all together explain {100 * share:.3g} % of the {'variance' if kind == 'pca' else 'squared values'}"
        )
    positive = "" if kind == "nmf" else " Only its positive end is shown: where the reading is largest."
    return f" {words}.{positive}"


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
            about = {key: value for key, value in _about(begun, name.partition("/")[2]).items() if key != "kind"}
            return Directions(weights=weights, bias=bias, layer=layer, kind=kind, about=about)
        return learn_directions(network, images, layer, kind, count, preprocess=preprocess, **options)

    return learn
