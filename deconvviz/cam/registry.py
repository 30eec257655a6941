"""The registry of explanation methods, and what an entry says of itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from deconvviz.cam.engine import View
from deconvviz.errors import DataError
from deconvviz.registry import Registry

Needs = Literal["layer", "layers", "image", "inner", "trained"]
Formula = Callable[..., Tensor]


@dataclass(frozen=True)
class Method:
    """One method: `formula(view, **options)` returns maps [N, h, w] at the layer's size or [N, H, W] at the image's.

    needs: "layer" where it explains one layer (several are fused by the caller), "layers" where it takes the views of
    several at once, "image" where it has no layer, "inner" where it wraps another method, "trained" where a trained
    explainer tells its layers.
    fuse: how several layers' maps become one, "mean" or "max".
    source: the paper, and what was settled where sources differ.
    order: how its map is finished where the user asks for the paper's convention, see `cam.shaping`.
    """

    name: str
    formula: Formula
    needs: Needs
    fuse: str
    source: str
    order: str = "paper"

    @property
    def options(self) -> Mapping[str, Any]:
        """The options and their defaults."""
        skipped = 2 if self.needs == "inner" else 1
        parameters = list(inspect.signature(self.formula).parameters.values())[skipped:]
        return {p.name: p.default for p in parameters}

    def layers_for(self, layers: Sequence[str]) -> Sequence[str]:
        """Return the layers to give to `cam` where `layers` are those for all methods: a trained one has its own."""
        return () if self.needs == "trained" else layers

    def checked(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the given options; raises DataError for one that the method does not have."""
        unknown = sorted(set(given) - set(self.options))
        if unknown:
            known = ", ".join(f"{name}={value!r}" for name, value in self.options.items()) or "none"
            raise DataError(f"{self.name} has no option {unknown[0]!r}; its options are: {known}")
        return dict(given)


METHODS: Registry[Method] = Registry("method")


def method(name: str, needs: Needs = "layer", fuse: str = "mean") -> Callable[[Formula], Formula]:
    """Register a formula; its docstring is the source."""

    def register(formula: Formula) -> Formula:
        METHODS.add(name, Method(name, formula, needs, fuse, inspect.cleandoc(formula.__doc__ or "")))
        return formula

    return register


__all__ = ["METHODS", "Method", "View", "method"]
