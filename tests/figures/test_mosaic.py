"""Mosaics by hand, and files of figures."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from deconvviz.errors import DataError
from deconvviz.figures.tiles import format_of, mosaic, rendered


def test_a_mosaic_by_hand() -> None:
    tiles = [np.full((2, 1, 1), level) for level in (0.0, 0.25, 0.5)]
    levels = mosaic(tiles, columns=2, gap=1, background=1.0)
    expected = [
        [0.0, 1.0, 0.25],
        [0.0, 1.0, 0.25],
        [1.0, 1.0, 1.0],
        [0.5, 1.0, 1.0],
        [0.5, 1.0, 1.0],
    ]
    assert levels.shape == (5, 3, 3) and all(levels[..., c].tolist() == expected for c in range(3))
    coloured = mosaic([np.full((1, 1, 3), (0.1, 0.2, 0.3))], columns=1, gap=4, background=0.0)
    assert coloured.tolist() == [[[0.1, 0.2, 0.3]]]
    assert mosaic([], columns=3, gap=2, background=0.5).tolist() == [[[0.5] * 3] * 7]  # room for three of 1 x 1


def test_formats() -> None:
    assert [format_of(name) for name in ("a.png", "b/c.PDF", "d.e.svg")] == ["png", "pdf", "svg"]
    for name in ("a.jpg", "png", "a"):
        with pytest.raises(DataError, match=r"expected a name that ends in \.png, \.pdf, \.svg"):
            format_of(name)


@pytest.mark.parametrize(("kind", "begins"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_a_figure_has_the_same_content_each_time(kind: str, begins: bytes) -> None:
    contents = []
    for _ in range(2):
        figure = Figure(figsize=(1, 1))
        figure.text(0.5, 0.5, "text")
        contents.append(rendered(figure, kind, "how it was made"))
    assert contents[0] == contents[1] and contents[0].startswith(begins)
    assert b"how it was made" in contents[0]
