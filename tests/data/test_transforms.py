"""Transforms of pictures land where they should, and equal loops of their definitions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_memory import Picture, noise
from numpy.typing import NDArray
from PIL import Image

import deconvviz as dv
from deconvviz.data.transforms import (
    canvas,
    canvas_of,
    checked_steps,
    default_steps,
    inverse_map,
    moving,
    rotation,
    scaling,
    translation,
)
from deconvviz.errors import DataError

PLAIN = dv.Preprocess(resize=None, crop=24)


def blob(size: int, x: float, y: float, sigma: float = 7.0) -> Picture:
    rows, columns = np.mgrid[:size, :size]
    height = 250 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
    return np.repeat(np.rint(height).astype(np.uint8)[..., None], 3, 2)


def centroid(picture: Picture) -> tuple[float, float]:
    weights, (rows, columns) = picture[..., 0].astype(float), np.mgrid[: len(picture), : picture.shape[1]]
    return float((weights * columns).sum() / weights.sum()), float((weights * rows).sum() / weights.sum())


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("padding", [None, (0.0, 0.0, 0.0)])
def test_a_blob_lands_where_it_should(interpolation: str, padding: tuple[float, float, float] | None) -> None:
    """Independent of the maps: its centroid, in ordinary coordinates (y up) about the picture's centre."""
    size, middle = 128, 63.5
    picture = blob(size, 71, 56.5)
    assert centroid(picture) == pytest.approx((71, 56.5), abs=0.005)
    right, up = 71 - middle, middle - 56.5
    start = canvas(picture, padding)
    turned = (right + 1j * up) * np.exp(1j * np.radians(37))
    expected = {
        "moved": (translation(3.3, -5.6), (right + 3.3, up + 5.6)),
        "larger": (scaling(1.3), (1.3 * right, 1.3 * up)),
        "smaller": (scaling(0.6), (0.6 * right, 0.6 * up)),
        "turned": (rotation(37), (turned.real, turned.imag)),
        "turned, then moved": (rotation(37) @ translation(4, 2.5), (turned.real + 4, turned.imag - 2.5)),
    }
    if padding is None:
        del expected["smaller"]  # its mirror images come into view
    for name, (inverse, (a, b)) in expected.items():
        found = centroid(start.transformed(inverse, interpolation))
        assert found == pytest.approx((middle + a, middle - b), abs=0.01), name
    assert inverse_map("translate-y", 2).tolist() == translation(0, 2).tolist()
    assert inverse_map("translate-x", 2).tolist() == translation(2, 0).tolist()


@given(st.integers(1, 40), st.integers(0, 10**6), st.sampled_from(["bilinear", "bicubic"]), st.booleans())
@settings(max_examples=30, deadline=None)
def test_quarter_turns_are_permutations(size: int, seed: int, interpolation: str, filled: bool) -> None:
    picture = noise(size, size, seed=seed)
    turned = picture
    for quarters in range(1, 5):
        fill = (10.0, 20.0, 30.0) if filled else None
        turned = canvas(turned, fill).transformed(rotation(90), interpolation)
        assert np.array_equal(turned, np.rot90(picture, quarters))
        assert np.array_equal(canvas(picture, fill).transformed(rotation(90 * quarters - 360), interpolation), turned)
    assert np.array_equal(turned, picture)
    assert (
        rotation(90).tolist() == [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
        and rotation(-180).tolist() == np.diag([-1, -1, 1]).tolist()
    )


@given(st.tuples(st.integers(2, 20), st.integers(2, 20)), st.integers(-60, 60), st.integers(-60, 60))
@settings(max_examples=60, deadline=None)
def test_whole_pixels_are_exact(shape: tuple[int, int], dx: int, dy: int) -> None:
    """Against padding the picture by far and cutting it out; an interpolated map of the same shift gives the same."""
    picture, (h, w) = noise(*shape, seed=3), shape
    wide = np.pad(picture, ((60, 60), (60, 60), (0, 0)), mode="reflect")
    mirrored = canvas(picture).transformed(translation(dx, dy))
    assert np.array_equal(mirrored, wide[60 - dy : 60 - dy + h, 60 - dx : 60 - dx + w])
    filled = np.full((h + 120, w + 120, 3), (10, 20, 255), np.uint8)
    filled[60 : 60 + h, 60 : 60 + w] = picture
    found = canvas(picture, (10.2, 19.6, 255)).transformed(translation(dx, dy))
    assert np.array_equal(found, filled[60 - dy : 60 - dy + h, 60 - dx : 60 - dx + w])
    almost = canvas(picture).transformed(translation(dx + 1e-5, dy - 1e-5)).astype(int)
    assert np.abs(almost - mirrored).max() <= 1


def replica(picture: Picture, inverse: NDArray[np.float64], fill: Sequence[float] | None) -> NDArray[np.float64]:
    """Bilinear sampling from its definition, pixel by pixel, in float64."""
    h, w = picture.shape[:2]
    wide = np.pad(picture.astype(float), ((h, h), (w, w), (0, 0)), mode="reflect")
    if fill is not None:
        wide = np.full((3 * h, 3 * w, 3), fill, float)
        wide[h : 2 * h, w : 2 * w] = picture
    out = np.zeros(picture.shape)
    for i in range(h):
        for j in range(w):
            x, y, _ = inverse @ [j - (w - 1) / 2, i - (h - 1) / 2, 1]
            x, y = x + (w - 1) / 2 + w, y + (h - 1) / 2 + h
            a, b = int(np.floor(x)), int(np.floor(y))
            u, v = x - a, y - b
            above = (1 - u) * wide[b, a] + u * wide[b, a + 1]
            below = (1 - u) * wide[b + 1, a] + u * wide[b + 1, a + 1]
            out[i, j] = (1 - v) * above + v * below
    return out


@pytest.mark.parametrize("fill", [None, (100.0, 50.0, 200.0)])
@pytest.mark.parametrize(
    "inverse", [rotation(33), scaling(1.37), translation(2.25, -3.7), rotation(200) @ scaling(1.1)]
)
def test_bilinear_is_what_it_says(inverse: NDArray[np.float64], fill: tuple[float, float, float] | None) -> None:
    picture = noise(21, 26, seed=8)
    found = canvas(picture, fill).transformed(inverse)
    assert np.abs(found - replica(picture, inverse, fill)).max() <= 0.502  # rounded to the nearest, computed in float32


def test_shrinking_does_not_alias() -> None:
    """A board of single pixels becomes grey; a smooth picture stays what it is."""
    board = np.repeat(((np.indices((64, 64)).sum(0) % 2) * 255).astype(np.uint8)[..., None], 3, 2)
    small = canvas(board).transformed(scaling(1 / 3)).astype(float)  # every third pixel would be a board again
    assert small.std() < 5 and abs(small.mean() - 127.5) < 1
    shrunk = canvas(blob(63, 31, 31, sigma=2.0)).transformed(scaling(1 / 3))[16:47, 16:47, 0].astype(float)
    spread = (shrunk.sum(0) * (np.arange(31) - 15.0) ** 2).sum() / shrunk.sum()
    assert spread == pytest.approx((2.0**2 + 1) / 9, rel=0.05)  # blurred by a sigma of (3 - 1) / 2, then a third
    ramp = np.repeat(np.repeat(np.arange(64, dtype=np.uint8)[None] * 3, 64, 0)[..., None], 3, 2)
    middle = canvas(ramp, (90, 90, 90)).transformed(scaling(0.6))[30, 16:48, 0]
    assert np.abs(middle - 3 * (31.5 + (np.arange(16, 48) - 31.5) / 0.6)).max() <= 1


def test_paddings() -> None:
    """reflect mirrors, mean shows the mean colour, border the photo itself and mirrors beyond it."""
    photo, pre = noise(92, 61, seed=4), dv.Preprocess(resize=50, crop=(40, 32), mean=(0.1, 0.5, 0.9))
    resized = np.asarray(Image.fromarray(photo).resize((50, 75), Image.Resampling.BILINEAR))
    top, left = round((75 - 40) / 2), round((50 - 32) / 2)
    picture = pre.picture(photo)
    assert np.array_equal(picture, resized[top : top + 40, left : left + 32])
    for padding in ("reflect", "mean", "border"):
        made = canvas_of(photo, pre, padding)
        for kind, step in (("translate-x", 0), ("translate-y", 0.0), ("scale", 1), ("rotation", 0), ("rotation", 360)):
            assert np.array_equal(made.transformed(inverse_map(kind, step)), picture), (padding, kind)
        assert np.array_equal(made.transformed(translation(4, 0))[:, 4:], picture[:, :-4]), padding
    moved = {padding: canvas_of(photo, pre, padding).transformed(translation(7, 12)) for padding in ("mean", "border")}
    assert (moved["mean"][:12] == [26, 128, 230]).all() and (moved["mean"][:, :7] == [26, 128, 230]).all()
    assert np.array_equal(moved["border"], resized[top - 12 : top + 28, left - 7 : left + 25])
    beyond = canvas_of(photo, pre, "border").transformed(translation(0, 22))
    assert np.array_equal(beyond[4:], resized[:36, left : left + 32])
    assert np.array_equal(beyond[:4], resized[4:0:-1, left : left + 32])
    half = canvas_of(photo, pre, "border").transformed(translation(-0.5, 0)).astype(float)
    between = (
        resized[top : top + 40, left : left + 32].astype(float) + resized[top : top + 40, left + 1 : left + 33]
    ) / 2
    assert np.abs(half - between).max() <= 0.5
    grey = dv.Preprocess(resize=50, crop=32, mean=(0.2,), std=(1.0,))
    assert canvas_of(photo, grey, "mean").transformed(translation(40, 0))[0, 0].tolist() == [51, 51, 51]


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (
            lambda: canvas_of(noise(9, 9), PLAIN, "zeros"),
            "padding 'zeros' given; expected one of reflect, mean, border",
        ),
        (lambda: canvas_of(noise(9, 9), PLAIN, "border"), "9 x 9 has no border around a crop of 24 x 24"),
        (
            lambda: canvas(noise(9, 9)[..., 0]),
            r"expected a picture \[h,w,C\] of uint8, uint16, float32, got uint8 \[9, 9\]",
        ),
        (lambda: canvas(noise(9, 9), (1, 2)), r"fill \(1, 2\) given"),
        (lambda: canvas(noise(9, 9)).transformed(rotation(3), "cubic"), "interpolation 'cubic' given"),
        (lambda: scaling(0.01), "scale 0.01 given; expected 0.1 to 10"),
        (lambda: inverse_map("rotate", 3), "no transform 'rotate'; nearest: .*rotation"),
        (lambda: inverse_map("rotation", float("nan")), "expected a finite number"),
    ],
)
def test_wrong_transforms(call: Any, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint) as error:
        call()
    assert "\n" not in str(error.value)


def test_default_steps_are_the_papers() -> None:
    assert default_steps("translate-y", 224, 200).tolist() == list(range(-60, 61, 5))
    assert default_steps("translate-x", 200, 224).tolist() == list(range(-60, 61, 5))
    assert default_steps("translate-y", 64, 224).tolist() == list(range(-17, 18))
    assert default_steps("scale", 9, 9) == pytest.approx([1 + n / 20 for n in range(17)])
    assert default_steps("rotation", 9, 9).tolist() == list(range(0, 351, 10))
    steps = checked_steps(("scale", "rotation"), {"scale": [1.5, 0.5, 1, 1.5]}, (3, 9, 9))
    assert list(steps) == ["scale", "rotation"] and steps["scale"].tolist() == [0.5, 1, 1.5]
    assert moving("scale", steps["scale"]).tolist() == [True, False, True]
    assert moving("rotation", np.array([-360.0, 0, 90, 360])).tolist() == [False, False, True, False]
