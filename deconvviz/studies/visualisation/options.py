"""Settings of pictures by optimisation: what is made large, how, and for how many steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deconvviz.choices import CANVASES, OBJECTIVES, Wanted
from deconvviz.errors import DataError, require
from deconvviz.run.options import RunKeywords, RunOptions
from deconvviz.types import Floats, Picture

LEAST_SIDE, MOST_SIDE = 8, 2048  # pixels of a picture
SIDE = 128  # pixels of a picture by default, where the network takes images at least that large
PHASE_SIDE = 512  # of one whose phase alone is optimised: it is seen in crops
PHASE_CROPS = 6


class VisualisationKeywords(RunKeywords, total=False):
    """The fields of `VisualisationOptions`, as the keyword arguments of `visualise`."""

    objective: Wanted
    canvas: str
    steps: int
    rate: float | None
    size: int | None
    views: int | None
    distort: bool
    position: tuple[int, int] | None
    directions: Floats | Sequence[Sequence[float]] | None
    start: Picture | None
    variants: int
    diversity: float
    tv: float
    l2: float


@dataclass(frozen=True, kw_only=True)
class VisualisationOptions(RunOptions):
    """What is made large, and how.

    Attributes:
        objective: "channel": the mean of a channel; "unit": one value of it; "class": a class's score before softmax;
            "direction": the mean of a projection of the channels on a direction; "cosine": the same, over the length
            of the channels' vector; "dream": the mean square of the whole layer (DeepDream).
        canvas: what is optimised: "spectral": Fourier coefficients in decorrelated colours; "pixels"; "phase": the
            phase alone, with the magnitudes of photos (MACO).
        steps: of the optimiser (512 in lucent).
        rate: learning rate; None takes the canvas's own, 0.05 with Adam (lucent) and 1.0 with NAdam for "phase".
        size: side of the pictures in pixels; None takes 128, or the network's own where that is smaller or the layer
            runs at no other. Of a class it is the network's own, of "phase" 512.
        views: views of a picture in each step; None takes 1, and 6 crops for "phase".
        distort: whether views are moved, scaled and turned at random; False optimises the picture as it is.
        position: (row, column) of the unit on the layer's map; None takes the centre.
        directions: floating [D, channels of the layer], of "direction" and "cosine"; `channels` are then rows of it.
        start: a picture, as `preprocess.picture` gives it, that is changed; None begins with nearly grey noise.
        variants: pictures of each channel, which differ in their random numbers.
        diversity: weight of the likeness of a channel's variants, which is taken off, in units of the objective's own
            size (our choice: in lucid it is absolute, which suits one layer and not the next).
        tv: weight of the mean squared difference of neighbouring pixels, in units of the objective's own size.
        l2: weight of the mean squared distance from grey, in units of the objective's own size.

    Raises:
        DataError: a value out of its range, or two that do not go together.
    """

    objective: Wanted = "channel"
    canvas: str = "spectral"
    steps: int = 512
    rate: float | None = None
    size: int | None = None
    views: int | None = None
    distort: bool = True
    position: tuple[int, int] | None = None
    directions: Floats | Sequence[Sequence[float]] | None = None
    start: Picture | None = None
    variants: int = 1
    diversity: float = 1.0
    tv: float = 0.0
    l2: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        needs_directions = self.objective in ("direction", "cosine")
        require(
            self,
            DataError,
            objective=(self.objective in OBJECTIVES, f"one of {', '.join(OBJECTIVES)}"),
            canvas=(self.canvas in CANVASES, f"one of {', '.join(CANVASES)}"),
            steps=(self.steps >= 1, "at least 1"),
            rate=(self.rate is None or self.rate > 0, "a positive number"),
            size=(self.size is None or LEAST_SIDE <= self.size <= MOST_SIDE, f"{LEAST_SIDE} to {MOST_SIDE} px"),
            views=(self.views is None or self.views >= 1, "at least 1"),
            position=(self.position is None or self.objective == "unit", 'a position for the objective "unit" only'),
            variants=(self.variants >= 1, "at least 1"),
            diversity=(self.diversity >= 0, "0 or more"),
            tv=(self.tv >= 0, "0 or more"),
            l2=(self.l2 >= 0, "0 or more"),
        )
        if needs_directions != (self.directions is not None):
            expected = "needs directions" if needs_directions else "takes no directions"
            raise DataError(f'the objective "{self.objective}" {expected}')
        if self.start is not None and self.canvas == "phase":
            raise DataError(
                'a start is given for the canvas "phase", whose magnitudes are those of a store; take another'
            )

    def words(self) -> dict[str, Any]:
        """Return the settings that decide the pictures, as JSON values."""
        names = ("objective", "canvas", "steps", "rate", "distort", "variants", "tv", "l2", "seed", "precision")
        values = {name: getattr(self, name) for name in names}
        values["started_from"] = "noise" if self.start is None else "a picture"
        return values | ({"diversity": self.diversity} if self.variants > 1 else {})


class InversionKeywords(RunKeywords, total=False):
    """The fields of `InversionOptions`, as the keyword arguments of `invert`."""

    canvas: str
    steps: int
    rate: float | None
    tv: float
    alpha: float


@dataclass(frozen=True, kw_only=True)
class InversionOptions(RunOptions):
    """How an image is found again from what a layer makes of it.

    Attributes:
        canvas: "spectral" or "pixels"; see `VisualisationOptions`.
        steps: of the optimiser.
        rate: learning rate at the start, which falls to zero along half a cosine (our choice); None takes 0.05.
        tv: weight of the mean squared difference of neighbouring pixels, over rows and over columns: beta = 2.
        alpha: weight of the mean of |2 p - 1|^6, which keeps pixels p from black and white.

    Raises:
        DataError: a value out of its range.

    Source: Mahendran and Vedaldi 2015, equations 2 and 4 (alpha = 6, beta = 2). The paper's images have zero at grey;
    in pixels of 0..1 the norm would pull to black. Weights of means, and no weight by default: our choice.
    """

    canvas: str = "spectral"
    steps: int = 512
    rate: float | None = None
    tv: float = 0.0
    alpha: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self,
            DataError,
            canvas=(self.canvas in CANVASES[:2], " or ".join(CANVASES[:2])),
            steps=(self.steps >= 1, "at least 1"),
            rate=(self.rate is None or self.rate > 0, "a positive number"),
            tv=(self.tv >= 0, "0 or more"),
            alpha=(self.alpha >= 0, "0 or more"),
        )

    def words(self) -> dict[str, Any]:
        """Return the settings that decide the pictures, as JSON values."""
        names = ("canvas", "steps", "rate", "tv", "alpha", "seed", "precision")
        return {name: getattr(self, name) for name in names}
