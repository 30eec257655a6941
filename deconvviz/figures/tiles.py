"""Mosaics of small pictures, and how a figure becomes the content of a file."""

from __future__ import annotations

import io
import math
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped]

from deconvviz.arrays import GREY, stretched
from deconvviz.errors import DataError
from deconvviz.types import Box, Floats, Mask, Pathlike

FORMATS = ("png", "pdf", "svg")
FADE = 0.45  # share of white in what surrounds a patch
VANISHED = 0.01  # of a layer's largest weight: a filter with smaller ones only has no contrast of its own


def mosaic(tiles: Sequence[NDArray[Any]], columns: int, gap: int, background: float) -> Floats:
    """Lay tiles out row by row, with gaps.

    Args:
        tiles: [h, w, 3] or [h, w, 1] each, of one size, in 0..1.
        columns: tiles in a row.
        gap: pixels between two tiles.
        background: level in 0..1 of the gaps, and of the places that stay empty at the end of the last row.

    Returns:
        float64 [rows, columns, 3].

    >>> mosaic([np.zeros((1, 1, 1)), np.full((1, 1, 1), 0.5)], columns=2, gap=1, background=1.0)[..., 0]
    array([[0. , 1. , 0.5]])
    """
    rows = math.ceil(len(tiles) / columns) if tiles else 1
    height, width = tiles[0].shape[:2] if tiles else (1, 1)
    out = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), background)
    for index, tile in enumerate(tiles):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        out[top : top + height, left : left + width] = tile  # one channel broadcasts to grey
    return out


def enlarged(tile: NDArray[Any], least: int) -> NDArray[Any]:
    """Return a tile with every pixel as a square of pixels, so that its shorter side has at least `least` of them.

    So a small image is drawn as its pixels, without interpolation. A tile that is large enough stays as it is.

    Args:
        tile: [h, w, C].
        least: pixels.

    >>> enlarged(np.array([[[1], [2]]]), 2)[..., 0]
    array([[1, 1, 2, 2],
           [1, 1, 2, 2]])
    """
    factor = math.ceil(least / max(min(tile.shape[:2]), 1))
    return tile if factor == 1 else np.repeat(np.repeat(tile, factor, 0), factor, 1)


def filter_pictures(filters: NDArray[np.floating[Any]], largest: float | None = None) -> list[tuple[NDArray[Any], str]]:
    """Return the pictures of a layer's filters, each with its own contrast, and a note where a filter has vanished.

    A filter whose weights are far smaller than the layer's largest one's would show noise with its own contrast: it
    is drawn in the largest one's scale, where it is grey, and the note says how many times smaller it is.

    Args:
        filters: signed weights, floating [n, h, w, C].
        largest: absolute value of the layer's largest weight, where `filters` are a part of it.

    Returns:
        A picture [h, w, C] in 0..1 and a note for each filter.

    Source: Zeiler and Fergus 2013, figure 6 (a), where a few filters dominate the others.

    >>> weights = np.array([[[[2.0]]], [[[0.001]]]])
    >>> [(picture.round(3).item(), note) for picture, note in filter_pictures(weights)]
    [(1.0, ''), (0.5, '1/2000')]
    """
    sizes = np.abs(filters).reshape(len(filters), -1).max(1, initial=0)
    scale = max(float(largest if largest is not None else sizes.max(initial=0)), 1e-30)
    pictures: list[tuple[NDArray[Any], str]] = []
    for weights, size in zip(filters, sizes.tolist(), strict=True):
        if size < VANISHED * scale:
            pictures.append(
                (GREY + GREY * weights / scale, f"1/{float(f'{scale / size:.2g}'):.0f}" if size else "all zero")
            )
        else:
            pictures.append((stretched(weights, 100), ""))
    return pictures


def vanished_words(notes: Iterable[str]) -> str:
    """Return what the notes of `filter_pictures` mean, as a sentence for a caption; "" where no filter has one.

    >>> vanished_words(["", ""])
    ''
    >>> vanished_words(["", "1/300"])[-53:]
    '1/N below it says how many times smaller its own are.'
    """
    drawn = {note for note in notes if note}
    if not drawn:
        return ""
    zero = "; all zero: it has no other weights" * ("all zero" in drawn)
    return (
        f"A filter whose weights are all below a hundredth of the layer's largest has the contrast of that one; "
        f"1/N below it says how many times smaller its own are{zero}."
    )


def faded(picture: Floats, inside: Box) -> Floats:
    """Return a picture in 0..1, [h, w, C], that is mixed with white outside of a box: its surroundings step back.

    >>> faded(np.zeros((1, 2, 1)), Box(0, 0, 1, 1))[0, :, 0]
    array([0.  , 0.45])
    """
    pale = FADE + (1 - FADE) * picture
    inside.of(pale)[:] = inside.of(picture)
    return np.asarray(pale)


def ringed(picture: Floats, region: Mask, colour: tuple[float, float, float]) -> Floats:
    """Return a picture [h, w, 3] with the outline of a region: a line of two pixels, a dark one outside of it.

    >>> ringed(np.ones((3, 3, 3)), np.eye(3, dtype=bool) & (np.arange(3) == 1), (0.5, 0, 0))[1, :, 0]
    array([0. , 0.5, 0. ])
    """
    inner = region & ~ndimage.binary_erosion(region, iterations=2, border_value=1)
    outer = ndimage.binary_dilation(region) & ~region
    out = np.array(picture)
    out[outer], out[inner] = 0.0, colour
    return out


def format_of(path: Pathlike) -> str:
    """Return the format that a figure's file name asks for; raises DataError for an ending that is not in FORMATS.

    >>> format_of("grid.PNG")
    'png'
    """
    suffix = pathlib.Path(path).suffix.lower().lstrip(".")
    if suffix not in FORMATS:
        raise DataError(f"{path} given; expected a name that ends in {', '.join('.' + f for f in FORMATS)}")
    return suffix


def rendered(figure: Figure, kind: str, description: str) -> bytes:
    """Return the content of a figure's file; the same figure has the same content.

    Args:
        figure: a matplotlib figure.
        kind: one of FORMATS.
        description: how the figure was made; it goes into the file's metadata.
    """
    keys: dict[str, dict[str, Any]] = {
        "png": {"Description": description, "Software": "deconvviz"},
        "pdf": {"Subject": description, "Creator": "deconvviz", "CreationDate": None},
        "svg": {"Description": description, "Creator": "deconvviz", "Date": None},
    }
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "deconvviz", "pdf.fonttype": 42}):
        figure.savefig(buffer, format=kind, metadata=keys[kind], facecolor="white")
    return buffer.getvalue()
