"""Interpreters as attacks need them: maps as tensors through which a gradient reaches the pixels.

To add one, write a subclass of `Interpreter` in a file of this folder, register it, and name the file in
`INTERPRETER_FILES` of `registry.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor

from deconvviz.cam.learned.base import LearnedExplainer
from deconvviz.registry import Registry
from deconvviz.studies.attack.pixels import PixelNetwork
from deconvviz.types import Pathlike


class Pass(NamedTuple):
    """One pass over images, with the graph of its values.

    Attributes:
        x: floating [N, C, H, W] in 0..1, which gradients are taken of.
        scores: [N, K], the scores of the classes.
        values: layer -> its value.
    """

    x: Tensor
    scores: Tensor
    values: dict[str, Tensor]


Reader = Callable[[Pass, Tensor], Tensor]
"""A pass, and int64 [N], the class of each image -> maps [N, h, w] in 0..1, with their graph."""


@dataclass(frozen=True, kw_only=True)
class Explained:
    """What interpreters are made for.

    Attributes:
        network: takes pixels in 0..1.
        layer: whose maps "cam" reads; None where none is given.
        explainer: of "real-time-masking", or its file; None where none is given.
    """

    network: PixelNetwork
    layer: str | None = None
    explainer: LearnedExplainer | Pathlike | None = None


class Interpreter(ABC):
    """An explanation method whose maps an attack changes.

    Attributes:
        name: by which it is asked for.
        explained: what it is made for.
        layers: the layers that it reads from a pass.
    """

    name: ClassVar[str]
    layers: tuple[str, ...] = ()

    def __init__(self, explained: Explained) -> None:
        """Make an interpreter; raises DataError, or the error of what is missing."""
        self.explained = explained

    @abstractmethod
    def reader(self, x: Tensor, classes: Tensor) -> Reader:
        """Return what reads a map off each pass of an attack that begins with images x and explains these classes."""

    def maps(self, made: Callable[[Tensor, Sequence[str]], Pass], x: Tensor, classes: Tensor) -> Tensor:
        """Return the maps [N, h, w] of images as a user would see them, without a graph.

        Args:
            made: makes a pass of images that a gradient can be taken of, with the values of some layers.
            x: [N, C, H, W] in 0..1.
            classes: int64 [N], to explain.
        """
        return self.reader(x, classes)(made(x, self.layers), classes).detach()


INTERPRETERS: Registry[type[Interpreter]] = Registry("interpreter")


def interpreter(kind: type[Interpreter]) -> type[Interpreter]:
    """Register an interpreter under its name."""
    INTERPRETERS.add(kind.name, kind)
    return kind
