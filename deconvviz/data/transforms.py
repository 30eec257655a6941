"""Pictures moved, scaled and turned: each transform is an inverse map, from a pixel to the place that it came from.

A map is a float64 [3, 3] matrix on (x, y, 1) in pixels, x to the right, y down, from the picture's centre. The product
of two maps does one transform after the other.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from skimage.filters import gaussian
from skimage.transform import warp

from deconvviz.arrays import PEAKS
from deconvviz.choices import INTERPOLATIONS, PADDINGS, TRANSFORMS
from deconvviz.errors import DataError, nearest, require_choice
from deconvviz.lengths import Length
from deconvviz.types import Array, Box, Floats, Ints, Picture
from deconvviz.words import counted

if TYPE_CHECKING:
    from deconvviz.data.preprocess import Preprocess

Matrix = NDArray[np.float64]
SPLINE_ORDERS = dict(zip(INTERPOLATIONS, (1, 3), strict=True))
SCALES = (0.1, 10.0)  # the smallest and the largest factor
PAPER_SHIFT, SHIFT_STEP = Length(60), Length(5)  # the paper's largest shift, and this package's step

# --- maps -----------------------------------------------------------------------------------------------------------


def translation(dx: float, dy: float) -> Matrix:
    """Return the inverse map that moves the content dx pixels to the right and dy pixels down.

    >>> translation(3, 0) @ np.array([5, 7, 1])
    array([2., 7., 1.])
    """
    return np.array([[1, 0, -dx], [0, 1, -dy], [0, 0, 1]], np.float64)


def scaling(factor: float) -> Matrix:
    """Return the inverse map that enlarges the content by a factor about the centre.

    Raises:
        DataError: a factor outside SCALES.
    """
    if not SCALES[0] <= factor <= SCALES[1]:
        raise DataError(f"scale {factor:g} given; expected {SCALES[0]:g} to {SCALES[1]:g}")
    return np.diag([1 / factor, 1 / factor, 1.0])


def rotation(degrees: float) -> Matrix:
    """Return the inverse map that turns the content counter-clockwise, as it is seen, about the centre."""
    angle = math.radians(degrees % 360)
    # cos(90 degrees) is 6e-17 in floating point, and right angles have to be permutations of the pixels
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], np.float64)


def is_identity(inverse: Matrix) -> bool:
    """Return whether a map leaves every pixel where it is."""
    return np.array_equal(inverse, np.eye(3))


# --- kinds of transforms --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transform:
    """One kind of transform.

    Attributes:
        kind: its name in options, tables and files.
        title: what happens to the picture.
        unit: of a step.
        inverse: makes the inverse map of one step.
        default_steps: makes the steps of figure 5 for pictures of a height and a width in pixels, ascending.
        limit: gives the largest absolute value of a step for pictures of a height and a width in pixels.
    """

    kind: str
    title: str
    unit: str
    inverse: Callable[[float], Matrix]
    default_steps: Callable[[int, int], Floats]
    limit: Callable[[int, int], float]

    @property
    def label(self) -> str:
        """The label of an axis over its steps."""
        return f"{self.title} ({self.unit})"


def _shifts(side: int) -> Floats:
    """Return figure 5's shifts along a side in pixels: 60 of 224 pixels either way, as a share of the side."""
    step = SHIFT_STEP.of(side)
    count = round(PAPER_SHIFT.exactly(side)) // step
    return np.arange(-count, count + 1, dtype=np.float64) * step


_TRANSFORMS = {
    transform.kind: transform
    for transform in (
        Transform(
            kind="translate-y",
            title="vertical translation",
            unit="px, down",
            inverse=lambda step: translation(0, step),
            default_steps=lambda height, width: _shifts(height),
            limit=lambda height, width: height - 1,
        ),
        Transform(
            kind="translate-x",
            title="horizontal translation",
            unit="px, right",
            inverse=lambda step: translation(step, 0),
            default_steps=lambda height, width: _shifts(width),
            limit=lambda height, width: width - 1,
        ),
        Transform(
            kind="scale",
            title="scale",
            unit="ratio",
            inverse=scaling,
            default_steps=lambda height, width: np.linspace(1, 1.8, 17),
            limit=lambda height, width: math.inf,  # `scaling` has its own limits
        ),
        Transform(
            kind="rotation",
            title="rotation",
            unit="degrees, counter-clockwise",
            inverse=rotation,
            default_steps=lambda height, width: np.arange(0, 360, 10, dtype=np.float64),
            limit=lambda height, width: 360,
        ),
    )
}


def transform_of(kind: str) -> Transform:
    """Return a kind of transform by its name.

    Raises:
        DataError: the kind is not in `choices.TRANSFORMS`.

    >>> transform_of("scale").label
    'scale (ratio)'
    """
    if kind not in _TRANSFORMS:
        raise DataError(f"no transform {kind!r}; {nearest(kind, TRANSFORMS)}")
    return _TRANSFORMS[kind]


def inverse_map(kind: str, step: float) -> Matrix:
    """Return the inverse map of one step of a kind.

    Args:
        kind: of the transform.
        step: pixels of a translation, the factor of a scale, or the degrees of a rotation.

    Raises:
        DataError: the kind does not exist, the step is not a finite number, or a factor lies outside SCALES.

    >>> inverse_map("scale", 2) @ np.array([10, 6, 1])
    array([5., 3., 1.])
    """
    if not math.isfinite(step):
        raise DataError(f"{kind} by {step} given; expected a finite number")
    return transform_of(kind).inverse(step)


def moving(kind: str, steps: Floats) -> NDArray[np.bool_]:
    """Return which steps of a kind move anything, bool [T].

    >>> moving("rotation", np.array([0.0, 90.0, 360.0]))
    array([False,  True, False])
    """
    return np.array([not is_identity(inverse_map(kind, step)) for step in steps], bool)


def default_steps(kind: str, height: int, width: int) -> Floats:
    """Return figure 5's range of a kind: 60 of 224 pixels either way (as a share of the side), 1 to 1.8, 0 to 350.

    The steps are this package's choice: 5 of 224 pixels, 0.05 and 10 degrees.

    Args:
        kind: of the transform.
        height: of the pictures in pixels.
        width: of the pictures in pixels.

    Source: Zeiler and Fergus 2013, figure 5.

    >>> default_steps("translate-y", 64, 64)[[0, 1, -1]]
    array([-17., -16.,  17.])
    """
    return transform_of(kind).default_steps(height, width)


def checked_steps(
    kinds: Sequence[str], steps: Mapping[str, Sequence[float]] | None, shape: tuple[int, ...]
) -> dict[str, Floats]:
    """Return the steps of each kind, ascending and without repetition.

    Args:
        kinds: of transforms.
        steps: kind -> its steps; the default ones where a kind has none.
        shape: of the pictures, (..., height, width).

    Raises:
        DataError: a kind does not exist or is not among `kinds`, a step leaves the picture, or no step moves anything.
    """
    steps_by_kind = dict(steps or {})
    for kind in (*kinds, *steps_by_kind):
        transform_of(kind)
        if kind not in kinds:
            raise DataError(f"steps of {kind!r} given, which is not among the kinds; add it to {', '.join(kinds)}")
    return {kind: _checked(kind, steps_by_kind.get(kind), *shape[-2:]) for kind in dict.fromkeys(kinds)}


def _checked(kind: str, steps: Sequence[float] | None, height: int, width: int) -> Floats:
    values = default_steps(kind, height, width) if steps is None else np.unique(np.asarray(steps, np.float64))
    if not len(values) or not moving(kind, values).any():
        raise DataError(f"steps {values.tolist()} of {kind} move nothing; give steps that do")
    limit, largest = transform_of(kind).limit(height, width), values[np.abs(values).argmax()]
    if abs(largest) > limit:
        raise DataError(f"{kind} by {largest:g} given; expected {-limit} to {limit} for pictures of {width} x {height}")
    return values


# --- pictures -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Canvas:
    """A picture, and the pixels around it that come into view when it moves.

    Attributes:
        pixels: uint8, uint16 or float32 [H, W, C].
        window: the part of the pixels that is the picture, [h, w, C].
        fill: the values of everything beyond the pixels, one for each channel, in units of the pixels; None mirrors
            them there (about the last pixel).

    >>> turned = canvas(np.arange(12, dtype=np.uint8).reshape(2, 2, 3)).transformed(rotation(90))
    >>> turned[..., 0]
    array([[3, 9],
           [0, 6]], dtype=uint8)
    """

    pixels: Picture
    window: Box
    fill: tuple[float, ...] | None = None

    @property
    def picture(self) -> Picture:
        """The picture itself, [h, w, C], as a copy."""
        return np.array(self.window.of(self.pixels), order="C")

    def transformed(self, inverse: Matrix, interpolation: str = "bilinear") -> Picture:
        """Return the picture transformed about its centre.

        A map that shrinks blurs first, with a Gaussian of sigma (shrinking - 1) / 2 pixels, so that nothing aliases.

        Args:
            inverse: the map, from a pixel to the place that it came from.
            interpolation: "bilinear" or "bicubic".

        Returns:
            [h, w, C] of the type of the pixels; integers are rounded to the nearest one.

        Raises:
            DataError: another interpolation.
        """
        require_choice("interpolation", interpolation, INTERPOLATIONS)
        if is_identity(inverse):
            return self.picture
        if np.array_equal(inverse, np.round(inverse)) and np.array_equal(inverse[:, :2], np.eye(3)[:, :2]):
            return self._moved(int(inverse[0, 2]), int(inverse[1, 2]))
        window = self.window
        right, down = (window.width - 1) / 2, (window.height - 1) / 2
        whole = translation(-window.left - right, -window.top - down) @ inverse @ translation(right, down)
        moved = warp(  # type: ignore[no-untyped-call, unused-ignore]
            self._blurred(math.sqrt(abs(np.linalg.det(inverse)))),
            whole,
            output_shape=(window.height, window.width),
            clip=False,
            order=SPLINE_ORDERS[interpolation],
            mode="reflect" if self.fill is None else "constant",
            cval=0.0,
            preserve_range=True,
        )
        return self._of_type(moved + self._zero)

    def _of_type(self, values: Array) -> Picture:
        """Return values in the type of the pixels, rounded and clipped where that is one of integers."""
        peak = PEAKS[str(self.pixels.dtype)]
        return np.asarray(values if peak is None else np.clip(np.rint(values), 0, peak), self.pixels.dtype)

    def _moved(self, right: int, down: int) -> Picture:
        """Return the picture that begins so many pixels further; without interpolation it takes a fifth of the time."""
        rows, columns = self.pixels.shape[:2]
        y = np.arange(self.window.top, self.window.bottom) + down
        x = np.arange(self.window.left, self.window.right) + right
        moved = self.pixels[_mirrored(y, rows)][:, _mirrored(x, columns)]
        if self.fill is not None:
            colour = self._of_type(np.array(self.fill))
            moved[(y < 0) | (y >= rows)] = colour
            moved[:, (x < 0) | (x >= columns)] = colour
        return moved

    @functools.cached_property
    def _zero(self) -> NDArray[np.float32]:
        """The colour that is computed as 0: `warp` pads all channels alike."""
        return np.array(self.fill or (0,) * self.pixels.shape[2], np.float32)

    @functools.cached_property
    def _floats(self) -> NDArray[np.float32]:
        return self.pixels.astype(np.float32) - self._zero

    def _blurred(self, shrinking: float) -> NDArray[np.float32]:
        if shrinking <= 1 + 1e-9:
            return self._floats
        mode = "mirror" if self.fill is None else "constant"  # scipy's name for what numpy calls reflect
        blurred: NDArray[np.float32] = gaussian(  # type: ignore[no-untyped-call, unused-ignore]
            self._floats, (shrinking - 1) / 2, mode=mode, preserve_range=True, channel_axis=2
        )
        return blurred


def _mirrored(places: Ints, length: int) -> Ints:
    """Return the places in 0 .. length - 1 that are seen at these places, mirrored about the first and the last."""
    around: Ints = np.abs(places) % max(2 * (length - 1), 1)
    return np.minimum(around, 2 * (length - 1) - around)


def canvas(picture: Picture, fill: Sequence[float] | None = None) -> Canvas:
    """Return a canvas that holds nothing but a picture.

    Args:
        picture: uint8, uint16 or float32 [h, w, C].
        fill: the colour around it, a value for each channel in the range of the picture's type; None mirrors the
            picture there.

    Raises:
        DataError: another kind of picture or of fill.
    """
    if str(picture.dtype) not in PEAKS or picture.ndim != 3 or picture.size == 0:
        raise DataError(f"expected a picture [h,w,C] of {', '.join(PEAKS)}, got {picture.dtype} {list(picture.shape)}")
    count, peak = picture.shape[2], PEAKS[str(picture.dtype)]
    if fill is not None and (len(fill) != count or (peak and not all(0 <= value <= peak for value in fill))):
        within = f" in 0..{peak}" if peak else ""
        raise DataError(f"fill {tuple(fill)} given; expected {counted(count, 'value')}{within}")
    colour = None if fill is None else tuple(float(value) for value in fill)
    return Canvas(picture, Box(0, 0, picture.shape[0], picture.shape[1]), colour)


def canvas_of(image: Picture, preprocess: Preprocess, padding: str = "reflect") -> Canvas:
    """Return what a network sees of an image, and what comes into view when that moves.

    Args:
        image: uint8, uint16 or float32 [H, W, C].
        preprocess: how the image becomes the network's input.
        padding: "reflect" mirrors the picture; "mean" shows the mean colour of the preprocessing; "border" shows the
            image itself, which the preprocessing resizes beyond its crop, and mirrors what lies beyond that. A larger
            `resize` leaves more of the image around the crop.

    Raises:
        DataError: another padding, or "border" where the resized image is smaller than the crop.
    """
    require_choice("padding", padding, PADDINGS)
    if padding == "border":
        return _with_border(image, preprocess)
    picture = preprocess.picture(image)
    mean = preprocess.mean * (picture.shape[2] // len(preprocess.mean))  # grey for colours
    peak = PEAKS[str(picture.dtype)] or 1
    return canvas(picture, [peak * value for value in mean] if padding == "mean" else None)


def _with_border(image: Picture, preprocess: Preprocess) -> Canvas:
    _, height, width = preprocess.shape
    resized = dataclasses.replace(preprocess, crop=None).picture(image)
    rows, columns = resized.shape[:2]
    if rows < height or columns < width:
        raise DataError(
            f"an image of {columns} x {rows} has no border around a crop of {width} x {height}; choose the padding "
            f"reflect or mean, or resize to {max(height, width)} or more"
        )
    top, left = round((rows - height) / 2), round((columns - width) / 2)  # as Preprocess crops
    return Canvas(resized, Box(top, left, top + height, left + width))
