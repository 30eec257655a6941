"""Maps over pictures: outliers, fine maps, constant maps, and the picture's own colours."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from deconvviz.figures.overlay import CONSTANT, Shades, displayed, draw_maps, overlay

SIDE = 100


def test_single_pixels_do_not_set_the_range() -> None:
    rng = np.random.default_rng(0)
    smooth = np.add.outer(np.linspace(0, 1, SIDE), np.linspace(0, 1, SIDE))
    outliers = smooth.copy()
    outliers[tuple(rng.integers(0, SIDE, (2, 8)))] = 1e6
    outliers[tuple(rng.integers(0, SIDE, (2, 8)))] = -1e6
    kept = np.abs(displayed(outliers) - displayed(smooth))
    assert np.median(kept) < 0.02 and displayed(outliers).std() > 0.15
    signed = displayed(np.where(outliers > 1e5, 1e6, smooth - 1), signed=True)
    assert signed.min() == -1 and signed.max() == 1 and abs(np.median(signed)) < 0.05


def test_fine_maps_are_seen_and_coarse_ones_stay() -> None:
    """A dotted disc, of which a small picture would show a tenth, becomes a disc; a smooth map hardly changes."""
    y, x = np.mgrid[:SIDE, :SIDE]
    disc = (y - 50) ** 2 + (x - 50) ** 2 < 20**2
    dotted = disc & (np.random.default_rng(1).random((SIDE, SIDE)) < 0.1)
    assert dotted[disc].mean() < 0.15 and displayed(dotted.astype(float))[disc].mean() > 0.3
    coarse = np.exp(-((y - 50) ** 2 + (x - 50) ** 2) / 800)
    assert np.abs(displayed(coarse) - coarse).max() < 0.05


def test_the_picture_keeps_its_colours_where_the_map_is_zero() -> None:
    picture = np.zeros((1, 3, 3), np.uint8)
    picture[..., 0] = 200
    shown = overlay(picture, np.array([[0.0, 0.04, 1.0]]))
    np.testing.assert_allclose(shown[0, 0], [200 / 255, 0, 0])
    distance = np.abs(shown[0] - shown[0, 0]).sum(1)
    assert 0 < distance[1] < distance[2]
    both = overlay(picture, np.array([[-1.0, 0.0, 1.0]]), Shades("coolwarm", signed=True))
    np.testing.assert_allclose(both[0, 1], [200 / 255, 0, 0])
    assert both[0, 0, 2] > both[0, 0, 0] and both[0, 2, 0] > both[0, 2, 2]  # blue against it, red for it


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def test_a_constant_map_is_marked() -> None:
    pictures = [np.full((SIDE, SIDE, 3), 90, np.uint8)] * 2
    varied = np.add.outer(np.arange(SIDE), np.arange(SIDE)) / 200
    maps = [[varied, np.zeros((SIDE, SIDE))], [varied, varied]]
    figure = draw_maps(pictures, maps, ["a", "b"], ["one", "two"], "", "")
    assert texts(figure).count(CONSTANT) == 1
    assert CONSTANT not in texts(draw_maps(pictures, [[varied], [varied]], ["a", "b"], ["one"], "", ""))
    assert displayed(np.full((4, 4), 3.0)).max() == 0
