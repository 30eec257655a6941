"""Arrays of the filters of several layers, as the files beside an atlas hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deconvviz.results.results import Result, require_same
from deconvviz.types import Array, Pathlike

ADVICE = "remove it or choose another output"
LayerArrays = dict[str, dict[str, Array]]  # layer -> name -> array; the first axis is that of all the layer's filters


def loaded(out: Pathlike, kind: str, config: Mapping[str, Any]) -> Result:
    """Return a result of schema 1 from a file; raises MismatchError where it was made with other settings."""
    result = Result.load(out, kind, 1)
    require_same(out, result.config, config, ADVICE)
    return result


def by_layer(arrays: Mapping[str, Array], layers: Sequence[str]) -> LayerArrays:
    """Return arrays by layer and name, from arrays whose names begin with that of a layer and a slash."""
    return {
        layer: {
            name.removeprefix(f"{layer}/"): values for name, values in arrays.items() if name.startswith(f"{layer}/")
        }
        for layer in layers
    }
