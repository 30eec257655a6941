"""The registry of methods that explain a pair of images, and what an entry says about its method.

They are apart from the methods of one image, which explain a score of the network's output: commands that take any of
those, such as `evaluate`, have no second image.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from deconvviz.errors import DataError
from deconvviz.lengths import Length
from deconvviz.registry import Registry

Reads = Literal["each", "both"]
PairFormula = Callable[..., Any]


@dataclass(frozen=True)
class PairMethod:
    """One method that explains why two images are alike.

    Attributes:
        name: by which users know it.
        formula: of a method that reads "each" image for itself, `formula(view, **options)` returns maps [N, h, w] of
            the images of a `View`, whose score is the cosine with the other image's embedding. Of one that reads
            "both", `formula(a, b, **options)` returns the maps of both.
        reads: "each" or "both".
        cost: how many passes it takes, in words; the defaults count, at 224 px.
        needs: "image", or "layer" for a method that explains a layer with rows and columns.
        source: the paper, and what was decided where sources differ.
        lengths: the options in pixels -> their defaults, shares of the image's side; the formula is given the pixels.
        random: whether it draws at random, which the seed settles.
    """

    name: str
    formula: PairFormula
    reads: Reads
    cost: str
    needs: str
    source: str
    lengths: Mapping[str, Length] = field(default_factory=dict)

    @property
    def options(self) -> Mapping[str, Any]:
        """The options and their defaults."""
        parameters = list(inspect.signature(self.formula).parameters.values())[1 if self.reads == "each" else 2 :]
        return {parameter.name: self.lengths.get(parameter.name, parameter.default) for parameter in parameters}

    def options_for(self, size: tuple[int, int], options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options for images of a (height, width): those given, and the lengths in pixels of the others."""
        lengths = {name: length.of(*size) for name, length in self.lengths.items()}
        return {**lengths, **options}

    def checked(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options; raises DataError for one that the method does not have."""
        unknown = sorted(set(options) - set(self.options))
        if unknown:
            defaults = ", ".join(f"{name}={value!r}" for name, value in self.options.items()) or "none"
            raise DataError(f"{self.name} has no option {unknown[0]!r}; its options are: {defaults}")
        return dict(options)


PAIR_METHODS: Registry[PairMethod] = Registry("pair method")


def pair_method(
    name: str, *, reads: Reads, cost: str, needs: str = "image", lengths: Mapping[str, Length] | None = None
) -> Callable[[PairFormula], PairFormula]:
    """Register a formula under a name; its docstring says what it computes and where it comes from."""

    def register(formula: PairFormula) -> PairFormula:
        source = inspect.cleandoc(formula.__doc__ or "")
        PAIR_METHODS.add(name, PairMethod(name, formula, reads, cost, needs, source, lengths or {}))
        return formula

    return register
