"""The registry of explanation methods, and what an entry says about its method."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from deconvviz.cam.engine import View
from deconvviz.lengths import BlurWindow, Length
from deconvviz.registry import Registry, require_numbers, require_options

Needs = Literal["layer", "layers", "image", "inner", "trained"]
Formula = Callable[..., Tensor]


@dataclass(frozen=True)
class Method:
    """One explanation method.

    Attributes:
        name: by which users know it.
        formula: `formula(view, **options)` returns maps [N, h, w] at the size of the layer or [N, H, W] at that of the
            image.
        needs: "layer" for a method that explains one layer (the maps of several are fused), "layers" for one that takes
            the views of several layers at once, "image" for one without a layer, "inner" for one that wraps another
            method, "trained" for one whose trained explainer says which layers it reads.
        fuse: how the maps of several layers become one, "mean" or "max".
        source: the paper, and what was decided where sources differ.
        order: how its map is finished in the paper's convention, see `cam.shaping`.
        lengths: the options in pixels -> their defaults, shares of the image's side; the formula is given the pixels.
        passes: what it runs for one image, in the terms of `View.passes` and of its options; K are a layer's channels,
            P its positions, `layers` those that are explained, and `windows` what fits into the image.
    """

    name: str
    formula: Formula
    needs: Needs
    fuse: str
    source: str
    order: str = "paper"
    lengths: Mapping[str, Length | BlurWindow] = field(default_factory=dict)
    passes: str = "1 forward"

    @property
    def options(self) -> Mapping[str, Any]:
        """The options and their defaults."""
        arguments = 2 if self.needs == "inner" else 1  # the view, and the wrapped method
        parameters = list(inspect.signature(self.formula).parameters.values())[arguments:]
        return {parameter.name: self.lengths.get(parameter.name, parameter.default) for parameter in parameters}

    def lengths_of(self, size: tuple[int, int], options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options in pixels, by name: what `options` say, else the share of an image's (height, width)."""
        shares: dict[str, Any] = {name: share.of(*size) for name, share in self.lengths.items()}
        return shares | {name: options[name] for name in shares if options.get(name) is not None}

    def layers_for(self, layers: Sequence[str]) -> Sequence[str]:
        """Return the layers to give to `cam` where `layers` are those for all methods: a trained one has its own."""
        return () if self.needs == "trained" else layers

    def checked(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options; raises DataError for one that the method does not have, or for no sensible number."""
        require_options(self.name, self.options, options)
        require_numbers(self.options, options)
        return dict(options)


METHODS: Registry[Method] = Registry("method")


def method(
    name: str,
    needs: Needs = "layer",
    fuse: str = "mean",
    lengths: Mapping[str, Length | BlurWindow] | None = None,
    passes: str = "",
) -> Callable[[Formula], Formula]:
    """Register a formula under a name; its docstring says what it computes and where it comes from.

    passes: what it runs for one image, such as "1 forward, K tail"; see `Method`.
    A parameter of the formula that is a length in pixels has no default of its own: `lengths` says its share.
    """

    def register(formula: Formula) -> Formula:
        source = inspect.cleandoc(formula.__doc__ or "")
        METHODS.add(name, Method(name, formula, needs, fuse, source, lengths=lengths or {}, passes=passes))
        return formula

    return register


__all__ = ["METHODS", "Method", "View", "method"]
