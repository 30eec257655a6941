"""Pictures moved, scaled and turned: each transform is an inverse map, from a pixel to where it came from.

A map is a float64 [3, 3] matrix on (x, y, 1) in pixels, x to the right, y down, from the picture's centre. Maps are
multiplied to be done one after the other.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from skimage.filters import gaussian
from skimage.transform import warp

from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import DataError, nearest

KINDS = ("translate-y", "translate-x", "scale", "rotation")
UNITS = {"translate-y": "px down", "translate-x": "px right", "scale": "times", "rotation": "degrees counter-clockwise"}
PADDINGS = ("reflect", "mean", "border")
INTERPOLATIONS = {"bilinear": 1, "bicubic": 3}
SCALES = (0.1, 10.0)
Pixels = NDArray[np.uint8]
Matrix = NDArray[np.float64]


def translation(dx: float, dy: float) -> Matrix:
    """Return the inverse map that moves the content dx pixels to the right and dy down."""
    return np.array([[1, 0, -dx], [0, 1, -dy], [0, 0, 1]], np.float64)


def scaling(factor: float) -> Matrix:
    """Return the inverse map that enlarges the content by `factor` about the centre; raises DataError beyond SCALES."""
    if not SCALES[0] <= factor <= SCALES[1]:
        raise DataError(f"scale {factor:g} given; expected {SCALES[0]:g} to {SCALES[1]:g}")
    return np.diag([1 / factor, 1 / factor, 1.0])


def rotation(degrees: float) -> Matrix:
    """Return the inverse map that turns the content counter-clockwise, as it is seen, about the centre."""
    angle = math.radians(degrees % 360)
    # cos(90 degrees) is 6e-17 in floating point, and right angles have to be permutations of the pixels
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], np.float64)


def inverse_map(kind: str, step: float) -> Matrix:
    """Return the inverse map of one step of a kind: pixels of a translation, a factor, or degrees.

    Raises DataError for another kind than KINDS, a step that is no finite number, or a factor beyond SCALES.
    """
    if not math.isfinite(step):
        raise DataError(f"{kind} by {step} given; expected a finite number")
    if kind == "translate-y":
        return translation(0, step)
    if kind == "translate-x":
        return translation(step, 0)
    if kind == "scale":
        return scaling(step)
    if kind == "rotation":
        return rotation(step)
    raise DataError(f"no transform {kind!r}; {nearest(kind, KINDS)}")


def is_identity(inverse: Matrix) -> bool:
    """True for the map that leaves every pixel where it is."""
    return np.array_equal(inverse, np.eye(3))


def moving(kind: str, steps: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which steps of a kind move anything, bool [T]."""
    return np.array([not is_identity(inverse_map(kind, step)) for step in steps], bool)


def default_steps(kind: str, height: int, width: int) -> NDArray[np.float64]:
    """Return figure 5's range of a kind: 60 px of 224 either way (as a share of the side), 1 to 1.8, 0 to 350 degrees.

    The steps are this package's: 5 px of 224, 0.05 and 10 degrees.
    """
    if kind == "scale":
        return np.linspace(1, 1.8, 17)
    if kind == "rotation":
        return np.arange(0, 360, 10, dtype=np.float64)
    side = height if kind == "translate-y" else width
    step = max(1, round(5 * side / 224))
    count = round(60 * side / 224) // step
    return np.arange(-count, count + 1, dtype=np.float64) * step


def checked_steps(
    kinds: Sequence[str], steps: Mapping[str, Sequence[float]] | None, shape: tuple[int, ...]
) -> dict[str, NDArray[np.float64]]:
    """Return the steps of each kind, ascending; raises DataError for ones that do not exist or leave the picture."""
    given, (height, width) = dict(steps or {}), shape[-2:]
    for kind in (*kinds, *given):
        if kind not in KINDS:
            raise DataError(f"no transform {kind!r}; there are {', '.join(KINDS)}")
        if kind not in kinds:
            raise DataError(f"steps of {kind!r} given, which is not among the kinds; add it to {', '.join(kinds)}")
    every = {}
    for kind in dict.fromkeys(kinds):
        values = np.unique(np.asarray(given.get(kind, default_steps(kind, height, width)), np.float64))
        limit = {"translate-y": height - 1, "translate-x": width - 1, "rotation": 360}.get(kind, np.inf)
        if not len(values) or not moving(kind, values).any():
            raise DataError(f"steps {values.tolist()} of {kind} move nothing; give some that do")
        if np.abs(values).max() > limit:
            raise DataError(
                f"{kind} by {values[np.abs(values).argmax()]:g} given; expected {-limit} to {limit} for pictures of "
                f"{width} x {height}"
            )
        every[kind] = values
    return every


@dataclasses.dataclass(frozen=True, eq=False)
class Canvas:
    """A picture and what is known around it.

    pixels: uint8 [H,W,3]. window: top, left, height and width of the picture among them.
    fill: the colour, in 0..255, of all that lies beyond the pixels; None mirrors them there (about the last pixel).
    """

    pixels: Pixels
    window: tuple[int, int, int, int]
    fill: tuple[float, float, float] | None = None

    @property
    def picture(self) -> Pixels:
        """The picture itself, uint8 [h,w,3], a copy."""
        top, left, height, width = self.window
        return np.array(self.pixels[top : top + height, left : left + width], order="C")

    def transformed(self, inverse: Matrix, interpolation: str = "bilinear") -> Pixels:
        """Transform the picture about its centre: uint8 [h,w,3], rounded to the nearest integer.

        A map that shrinks blurs first, with a Gaussian of sigma (shrinking - 1) / 2 pixels, so that nothing aliases.
        Raises DataError for an interpolation other than "bilinear" and "bicubic".
        """
        if interpolation not in INTERPOLATIONS:
            raise DataError(f"interpolation {interpolation!r} given; expected {' or '.join(INTERPOLATIONS)}")
        if is_identity(inverse):
            return self.picture
        if np.array_equal(inverse, np.round(inverse)) and np.array_equal(inverse[:, :2], np.eye(3)[:, :2]):
            return self._moved(int(inverse[0, 2]), int(inverse[1, 2]))
        top, left, height, width = self.window
        right, down = (width - 1) / 2, (height - 1) / 2
        whole = translation(-left - right, -top - down) @ inverse @ translation(right, down)
        moved = warp(  # type: ignore[no-untyped-call, unused-ignore]
            self._blurred(math.sqrt(abs(np.linalg.det(inverse)))),
            whole,
            output_shape=(height, width),
            clip=False,
            order=INTERPOLATIONS[interpolation],
            mode=self._beyond,
            cval=0.0,
            preserve_range=True,
        )
        return np.asarray(np.clip(np.rint(moved + self._zero), 0, 255), np.uint8)

    def _moved(self, right: int, down: int) -> Pixels:
        """Return the picture that begins so many pixels further; without interpolation it takes a fifth of the time."""
        (top, left, height, width), (rows, columns) = self.window, self.pixels.shape[:2]
        y, x = np.arange(height) + top + down, np.arange(width) + left + right
        moved = self.pixels[_mirrored(y, rows)][:, _mirrored(x, columns)]
        if self.fill is not None:
            colour = np.rint(self.fill).astype(np.uint8)
            moved[(y < 0) | (y >= rows)] = colour
            moved[:, (x < 0) | (x >= columns)] = colour
        return moved

    @functools.cached_property
    def _zero(self) -> NDArray[np.float32]:
        """The colour that is computed as 0: `warp` pads the three channels alike."""
        return np.array(self.fill or (0, 0, 0), np.float32)

    @functools.cached_property
    def _floats(self) -> NDArray[np.float32]:
        return self.pixels.astype(np.float32) - self._zero

    @property
    def _beyond(self) -> str:
        return "reflect" if self.fill is None else "constant"

    def _blurred(self, shrinking: float) -> NDArray[np.float32]:
        if shrinking <= 1 + 1e-9:
            return self._floats
        mode = "mirror" if self.fill is None else "constant"  # scipy's name for what numpy calls reflect
        blurred: NDArray[np.float32] = gaussian(  # type: ignore[no-untyped-call, unused-ignore]
            self._floats, (shrinking - 1) / 2, mode=mode, preserve_range=True, channel_axis=2
        )
        return blurred


def _mirrored(places: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Return the places within 0 .. length - 1 that are seen at these, mirrored about the first and the last."""
    around: NDArray[np.int64] = np.abs(places) % max(2 * (length - 1), 1)
    return np.minimum(around, 2 * (length - 1) - around)


def canvas(picture: Pixels, fill: Sequence[float] | None = None) -> Canvas:
    """Return a canvas of nothing but a picture, uint8 [h,w,3]; raises DataError for another kind of picture or fill."""
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or picture.size == 0:
        raise DataError(f"expected a picture as uint8 [h,w,3], got {picture.dtype} {list(picture.shape)}")
    if fill is not None and (len(fill) != 3 or not all(0 <= value <= 255 for value in fill)):
        raise DataError(f"fill {tuple(fill)} given; expected three values in 0..255")
    colour = None if fill is None else (float(fill[0]), float(fill[1]), float(fill[2]))
    return Canvas(picture, (0, 0, *picture.shape[:2]), colour)


def canvas_of(image: Pixels, preprocess: Preprocess, padding: str = "reflect") -> Canvas:
    """Return what a network sees of an image, uint8 [H,W,3], and what comes into view when that moves.

    padding: "reflect" mirrors the picture, "mean" shows the preprocessing's mean colour, "border" shows the image
        itself, which the preprocessing resizes beyond its crop, and mirrors what lies beyond that; a larger `resize`
        leaves more of the image around the crop.
    Raises DataError for another padding, and for "border" where the resized image is smaller than the crop.
    """
    if padding not in PADDINGS:
        raise DataError(f"padding {padding!r} given; expected one of {', '.join(PADDINGS)}")
    if padding == "border":
        return _with_border(image, preprocess)
    mean = preprocess.mean * (3 // len(preprocess.mean))
    return canvas(preprocess.picture(image), [255 * value for value in mean] if padding == "mean" else None)


def _with_border(image: Pixels, preprocess: Preprocess) -> Canvas:
    _, height, width = preprocess.shape
    resized = dataclasses.replace(preprocess, crop=None).picture(image)
    rows, columns = resized.shape[:2]
    if rows < height or columns < width:
        raise DataError(
            f"an image of {columns} x {rows} has no border around a crop of {width} x {height}; choose the padding "
            f"reflect or mean, or resize to {max(height, width)} or more"
        )
    window = (round((rows - height) / 2), round((columns - width) / 2), height, width)  # as Preprocess crops
    return Canvas(resized, window)
