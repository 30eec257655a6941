"""ExplainOptions: how a method runs and how its map is finished, apart from the method's own options."""

from __future__ import annotations

from dataclasses import dataclass

from deconvviz.choices import CONVENTIONS, PRECISIONS, Precision
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import DataError, require


@dataclass(frozen=True, kw_only=True)
class ExplainOptions:
    """How a method runs and how its map is finished.

    Attributes:
        convention: "paper", "pytorch-grad-cam" or "torch-cam": the order of resizing and scaling, see `cam.shaping`.
        align_corners: of the resizing of the finished map.
        batch_size: changed values or masked images in one pass; None takes 32 on a CPU and 256 on a GPU. Of whole
            images a CPU takes 8, which its cache holds, and a GPU no more than are expected to fit.
        precision: of masked images and changed values, as in `RunOptions`; gradients are computed as captured.
        tokens: rows and columns of a transformer's patches, where they cannot be found.
        fuse: how the maps of several layers become one, "mean" or "max", or "none", which keeps them apart; None
            for the method's own way.
        seed: of methods that draw masks, noise or orders.
        preprocess: how pictures become inputs, where they are given as PIL images or uint8 arrays; None for what fits
            the network.
        classes: names of the network's outputs, where targets are given by name; without them, 1000 outputs have those
            of ImageNet.

    Raises:
        DataError: a value out of its range.
    """

    convention: str = "paper"
    align_corners: bool = False
    batch_size: int | None = None
    precision: Precision = "fp32"
    tokens: tuple[int, int] | None = None
    fuse: str | None = None
    seed: int = 0
    preprocess: Preprocess | None = None
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(
            self,
            DataError,
            convention=(self.convention in CONVENTIONS, ", ".join(CONVENTIONS)),
            precision=(self.precision in PRECISIONS, " or ".join(PRECISIONS)),
            fuse=(self.fuse in (None, "mean", "max", "none"), "mean, max or none"),
            batch_size=(self.batch_size is None or self.batch_size >= 1, "at least 1"),
        )

    @property
    def lower(self) -> bool:
        """Whether masked images and changed values are computed in another precision than gradients."""
        return self.precision != "fp32"
