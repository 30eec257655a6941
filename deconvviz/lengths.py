"""Lengths in pixels where the user gives none: shares of the image's side, so that they fit images of any size.

The papers and their releases state them for images of 224 px, where a share is the published number. It is computed
here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass

REFERENCE = 224  # pixels: the side of the images for which the lengths are published
LEAST_WINDOW = 3  # pixels: a window of 1 would not blur at all


@dataclass(frozen=True)
class Length:
    """A length as a share of the image's shorter side.

    Attributes:
        pixels: the length where that side is 224 px.

    >>> square = Length(32)
    >>> square, square.of(224, 224), square.of(32, 48), square.of(2)
    (32 px of 224, 32, 5, 1)
    """

    pixels: float

    def of(self, *sides: int) -> int:
        """Return the length in whole pixels, at least 1, for an image with these sides."""
        return max(1, round(self.exactly(*sides)))

    def exactly(self, *sides: int) -> float:
        """Return the length in pixels, not rounded.

        >>> Length(15).exactly(112, 300)
        7.5
        """
        return self.pixels * min(sides) / REFERENCE

    def __repr__(self) -> str:
        return f"{self.pixels:g} px of {REFERENCE}"


@dataclass(frozen=True)
class BlurWindow:
    """The window of a Gaussian blur, as a share of the image's shorter side.

    Attributes:
        window: its side where that of the image is 224 px, odd.
        sigma: standard deviation of the Gaussian there. It has the same share of the window for all images.

    >>> BlurWindow(11, 5.0), BlurWindow(11, 5.0).of(224, 224), BlurWindow(51, 50.0).of(64, 64)
    ((11, 5.0) px of 224, (11, 5.0), (15, 14.705882352941176))
    """

    window: int
    sigma: float

    def of(self, *sides: int) -> tuple[int, float]:
        """Return the nearest odd window, at least 3, and sigma in pixels for an image with these sides."""
        window = max(LEAST_WINDOW, 2 * round((self.window * min(sides) / REFERENCE - 1) / 2) + 1)
        return window, self.sigma * window / self.window

    def __repr__(self) -> str:
        return f"({self.window}, {self.sigma}) px of {REFERENCE}"


SQUARE, STRIDE = Length(32), Length(16)  # of the occluder, where none is given: our choice, the paper states neither
PAIR_SQUARE, PAIR_STRIDE = Length(64), Length(8)  # of the occluder of pairs: those of Sammani et al. 2022
STRONG_BLUR = BlurWindow(51, 50.0)  # leaves no object: Group-CAM's, whose release has these numbers for 224 px


def same_share(length: int, side: int, other_side: int) -> int:
    """Return the length that has the same share of another side, in whole pixels.

    >>> same_share(256, 224, 64)  # an image is resized to 8/7 of the crop
    73
    """
    return round(length * other_side / side)
