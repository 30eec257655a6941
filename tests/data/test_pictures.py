"""Pictures from arrays, by hand and against loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deconvviz.arrays import stretched
from deconvviz.data.pictures import grey_picture, outlined, resized, side_that_holds, signed_picture, tile
from deconvviz.types import Box, Floats, Pixels


def noise(*shape: int) -> Pixels:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, np.uint8)


def test_the_contrast_by_hand() -> None:
    # sizes that are not zero: 1, 2, 3, 4, 5; their 75th percentile is 4
    signed = np.array([0.0, -1.0, 2.0, -3.0, 4.0, 5.0]).reshape(1, 6, 1)
    assert stretched(signed, 75).ravel() == pytest.approx([0.5, 0.375, 0.75, 0.125, 1, 1])
    assert stretched(signed, 100).ravel() == pytest.approx([0.5, 0.4, 0.7, 0.2, 0.9, 1])
    assert stretched(2.5 * signed, 75) == pytest.approx(stretched(signed, 75))  # each by itself
    assert stretched(signed).shape == (1, 6, 1)


def test_a_pixel_keeps_its_colour() -> None:
    # sizes 1, 4, 2: the median is 2. Of the pixel above it all colours shrink together.
    signed = np.array([[[1.0, 0.5, 0.0], [4.0, -2.0, 1.0], [-1.0, 0.0, 2.0]]])
    expected = [[[0.75, 0.625, 0.5], [1, 0.25, 0.625], [0.25, 0.5, 1]]]
    assert stretched(signed, 50) == pytest.approx(np.array(expected))


def test_what_is_mostly_zero_is_still_shown() -> None:
    lonely = np.zeros((100, 100, 3))
    assert (stretched(lonely) == 0.5).all()
    lonely[3, 4, 1], lonely[9, 9, 0] = -0.5, 0.25  # the 99th percentile of these two sizes is 0.25 + 0.99 * 0.25
    assert stretched(lonely)[3, 4, 1] == 0 and stretched(lonely)[9, 9, 0] == pytest.approx(0.5 + 0.125 / 0.4975)
    assert stretched(lonely, 100)[3, 4, 1] == 0 and stretched(lonely, 100)[9, 9, 0] == 0.75
    assert (stretched(lonely) == 0.5).sum() == lonely.size - 2
    assert stretched(np.zeros((0, 4, 3))).shape == (0, 4, 3)


def test_signed_pictures_round_to_the_nearest_level() -> None:
    signed = np.random.default_rng(0).normal(size=(7, 9, 3))
    sizes = sorted(max(abs(value) for value in signed[y, x]) for y, x in np.ndindex(7, 9))
    peak = sizes[61] + 0.38 * (sizes[62] - sizes[61])  # 99 % of the way from the first to the 63rd: 61.38
    picture = signed_picture(signed)
    assert picture.dtype == np.uint8 and picture.shape == (7, 9, 3)
    for y, x, c in np.ndindex(7, 9, 3):
        level = 127.5 + 127.5 * signed[y, x, c] / max(peak, *np.abs(signed[y, x]))
        assert abs(int(picture[y, x, c]) - level) <= 0.5 + 1e-9
    grey = signed_picture(signed[..., :1])
    assert grey.shape == (7, 9, 3) and (grey == grey[..., :1]).all()


def test_grey_pictures_by_hand() -> None:
    picture = grey_picture(np.array([[0.0, 0.4], [1.0, -3.0], [7.0, 0.501]]))
    assert picture[..., 0].tolist() == [[0, 102], [255, 0], [255, 128]] and (picture == picture[..., :1]).all()


def test_resizing_is_pillows() -> None:
    picture = noise(20, 30, 3)
    assert resized(picture, (20, 30)) is picture
    expected = Image.fromarray(picture).resize((12, 40), Image.Resampling.BICUBIC)  # Pillow: (width, height)
    assert np.array_equal(resized(picture, (40, 12)), np.asarray(expected))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 20))
def test_tiles_take_the_nearest_pixels(height: int, width: int, side: int) -> None:
    picture = noise(height, width, 3)
    scaled = tile(picture, side)
    assert scaled.shape == (side, side, 3) and scaled.flags.c_contiguous
    for y, x in np.ndindex(side, side):
        assert (scaled[y, x] == picture[y * height // side, x * width // side]).all()


def test_outlines_by_hand() -> None:
    blank = np.zeros((6, 7, 3), np.uint8)
    picture = outlined(blank, Box(1, 2, 5, 6), (200, 100, 50))
    expected = [
        [0, 0, 0, 0, 0, 0, 0],
        [0, 0, 1, 1, 1, 1, 0],
        [0, 0, 1, 0, 0, 1, 0],
        [0, 0, 1, 0, 0, 1, 0],
        [0, 0, 1, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 0],
    ]
    assert (picture == np.array(expected)[..., None] * np.array((200, 100, 50))).all() and not blank.any()
    thick = outlined(np.zeros((150, 150, 3), np.uint8), Box(0, 0, 150, 150), (1, 1, 1))  # 150 / 75 = 2 pixels
    assert thick[..., 0].sum() == 150**2 - 146**2
    tiny = outlined(np.zeros((150, 150, 3), np.uint8), Box(9, 9, 10, 10), (1, 1, 1))  # thinner than its line
    assert tiny[9, 9, 0] == 1


def smallest_side(energy: Floats, centre: tuple[int, int], share: float) -> int:
    """Square after square, the sum of what is inside."""
    for half in range(1000):
        rows = slice(max(centre[0] - half, 0), max(centre[0] + half + 1, 0))
        columns = slice(max(centre[1] - half, 0), max(centre[1] + half + 1, 0))
        if energy[rows, columns].sum() >= share * energy.sum() * (1 - 1e-12):
            return 2 * half + 1
    raise AssertionError


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.tuples(st.integers(-3, 11), st.integers(-3, 11)),
    st.floats(0.01, 1),
    st.integers(0, 100),
)
def test_the_smallest_square(height: int, width: int, centre: tuple[int, int], share: float, seed: int) -> None:
    energy = np.random.default_rng(seed).integers(0, 4, (height, width)).astype(float)
    energy[0, 0] += 1
    assert side_that_holds(energy, centre, share) == smallest_side(energy, centre, share)


def test_the_smallest_square_by_hand() -> None:
    energy = np.zeros((9, 9))
    energy[4, 4], energy[4, 6], energy[0, 4] = 6, 3, 1
    sides = [side_that_holds(energy, (4, 4), share) for share in (0.6, 0.61, 0.9, 0.91, 1.0)]
    assert sides == [1, 5, 5, 9, 9]
    assert side_that_holds(np.zeros((5, 5)), (2, 2), 0.98) == 1
    even = np.full((1, 20), 0.1)  # sums of tenths are not exact: a share of k / 20 is still k pixels
    assert [side_that_holds(even, (0, 0), k / 20) for k in range(1, 21)] == [2 * k - 1 for k in range(1, 21)]
