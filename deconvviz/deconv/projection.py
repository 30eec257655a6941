"""Projection: what one unit carries back to the image; and the conventions by which it is computed."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TypedDict

from torch import Tensor

from deconvviz.arrays import pictures_of
from deconvviz.choices import LRN_POLICIES, OVERLAPS, PRECISIONS, SEEDS, Precision
from deconvviz.deconv.rules import PixelBounds
from deconvviz.errors import ProjectionError, require, require_choice
from deconvviz.notebook import Shown
from deconvviz.types import Box, Pixels

Unit = tuple[int, str, int, tuple[int, int]]  # image, layer, channel, (y, x) on the layer's map


class SignalKeywords(TypedDict, total=False):
    """The fields of `SignalOptions`, as the keyword arguments of `project` and `project_units`."""

    overlap: str
    lrn: str
    seed: str
    windowed: bool
    bounds: PixelBounds | None
    shifts: int
    noise: float
    samples: int
    precision: Precision


@dataclass(frozen=True, kw_only=True)
class SignalOptions:
    """Conventions of a projection where papers are silent or differ.

    Attributes:
        overlap: where pooling windows overlap, "sum" adds their signals, "last" keeps that of the last window.
        lrn: contrast normalisation hands the signal on ("identity") or takes its "gradient".
        seed: the signal that starts at the unit: "one", or its "activation" as in the paper. Every rule scales with
            it, so a picture of one unit looks the same.
        windowed: compute only the part of each map that the unit depends on. The result is the same without.
        bounds: (lowest, highest) value of a pixel as the network sees it, two tensors [C], as `Preprocess.bounds`
            gives them; the LRP rules with a rule of their own for pixels need them. None: that rule is left out.
        shifts: the mean over so many small shifts of the image, a square number; 1 is the image as it is. The shifts
            lie on a square grid over one stride of the layer, at least 4 pixels; the unit moves along where its map
            has a position for that. The phase of strided filters drops out.
        noise: the mean over `samples` images with normal noise of this standard deviation, as a share of the image's
            range; Smilkov et al. 2017, arXiv 1706.03825.
        samples: copies of the image that `noise` draws; each shift has its own.
        precision: "fp32" computes as the network was captured, and never in TF32; "tf32" and "bf16" are faster on a
            GPU and good enough for figures; "fp64". The pixels are float32 at least.

    Raises:
        ProjectionError: an option has an unknown word, `shifts` is no square number, or `noise` is below 0.
    """

    overlap: str = "sum"
    lrn: str = "identity"
    seed: str = "one"
    windowed: bool = True
    bounds: PixelBounds | None = None
    shifts: int = 1
    noise: float = 0.0
    samples: int = 16
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        require_choice("seed", self.seed, SEEDS, ProjectionError)
        require_choice("overlap", self.overlap, OVERLAPS, ProjectionError)
        require_choice("precision", self.precision, PRECISIONS, ProjectionError)
        require_choice("lrn", self.lrn, LRN_POLICIES, ProjectionError)
        require(
            self,
            ProjectionError,
            shifts=(self.shifts >= 1 and math.isqrt(self.shifts) ** 2 == self.shifts, "a square number: 1, 4, 9, 16"),
            noise=(0 <= self.noise < math.inf, "0 or more"),
            samples=(self.samples >= 1, "at least 1"),
        )

    @property
    def averages(self) -> bool:
        """Whether a projection is a mean over changed copies of the image."""
        return self.shifts > 1 or self.noise > 0


@dataclass(frozen=True)
class Projection(Shown, drawn_by="draw_projection"):
    """What one unit carries back to the image.

    Attributes:
        image: index of the image among those given.
        layer: name of the unit's layer.
        channel: of the layer.
        position: (y, x) on the layer's map.
        rule: one of `choices.RULES`.
        value: the unit's activation.
        window: the pixels that the unit depends on, clipped to the image.
        pixels: [C, h, w], the projection inside the window; it is zero everywhere else.
        image_shape: (C, H, W).
        linearised: names of ops on the way that are not linear, for which their vector-Jacobian product stands.
        seen: [C, H, W], the image as the network received it: a part of the images that were given, not a copy; None
            where it was not kept.
    """

    image: int
    layer: str
    channel: int
    position: tuple[int, int]
    rule: str
    value: float
    window: Box
    pixels: Tensor
    image_shape: tuple[int, int, int]
    linearised: tuple[str, ...] = ()
    seen: Tensor | None = field(default=None, repr=False, compare=False)

    @property
    def picture(self) -> Pixels | None:
        """uint8 [H, W, 3], the image with its contrast stretched, made when it is asked for; None where `seen` is."""
        return None if self.seen is None else pictures_of(self.seen[None])[0]

    def full(self) -> Tensor:
        """Return the projection on a zero canvas of the image's shape, [C, H, W]."""
        canvas = self.pixels.new_zeros(self.image_shape)
        top, left, bottom, right = self.window
        canvas[:, top:bottom, left:right] = self.pixels
        return canvas

    def __repr__(self) -> str:
        unit = f"{self.layer}:{self.channel}@{self.position[0]},{self.position[1]}"
        place = f"{self.window.height}x{self.window.width} px at {tuple(self.window)[:2]}"
        return f"Projection({unit} of image {self.image}, {self.rule}, value {self.value:.4g}, {place})"


def parse_unit(text: str) -> tuple[str, int, tuple[int, int] | None]:
    """Read a unit as a user writes it, `layer:channel` or `layer:channel@y,x`.

    Returns:
        The layer's name, the channel, and (y, x) on the layer's map or None.

    Raises:
        ProjectionError: the text has another form.

    >>> parse_unit("features.5:12@3,4")
    ('features.5', 12, (3, 4))
    """
    match = re.fullmatch(r"(.+):(\d+)(?:@(\d+),(\d+))?", text.strip())
    if not match:
        raise ProjectionError(
            f"unit {text!r} given; expected layer:channel or layer:channel@y,x, as in features.5:12@3,4"
        )
    layer, channel, y, x = match.groups()
    return layer, int(channel), None if y is None else (int(y), int(x))
