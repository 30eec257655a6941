"""Figures of what the engine returns: maps, projections, images, and the history of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from deconvviz.arrays import evenly
from deconvviz.errors import DataError
from deconvviz.figures import contact, history, overlay, projection, sheet
from deconvviz.figures.page import OWN, Page
from deconvviz.studies.training.result import OF_LABEL
from deconvviz.types import Pixels

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from typing_extensions import Unpack

    from deconvviz.cam.maps import Maps
    from deconvviz.data.datasets import Images
    from deconvviz.deconv.projection import Projection
    from deconvviz.figures.page import ColumnsKeywords, PageKeywords

TARGET_LETTERS, LAYER_LETTERS, NAME_LETTERS = 28, 28, 15  # beside a row, above a column, and above a small picture
THUMBNAIL = 160  # pixels of the larger side of a picture on a contact sheet


class WithHistory(Protocol):
    """What a training leaves: `Snapshots`, a `Trained` network, a `TrainedExplainer`."""

    @property
    def history(self) -> Sequence[Mapping[str, Any]]:
        """A record of metrics for each epoch."""


def draw_maps(
    maps: Maps,
    pictures: Sequence[Pixels] | None = None,
    title: str = "",
    caption: str = "",
    **page: Unpack[ColumnsKeywords],
) -> Figure:
    """Draw maps over their images, a row for each of the first images.

    Args:
        maps: what `dv.cam(...)(images)` returns.
        pictures: uint8 [H, W, 3] of the first images; by default what the network received, with the contrast of each
            image stretched to its range.
        title: text above.
        caption: text below.
        page: `width` in inches, `dpi` and `columns` of `Page`, which say how the figure is laid out.

    >>> import torch
    >>> import deconvviz as dv
    >>> network = dv.capture(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten()), (3, 8, 8))
    >>> maps = dv.cam("eigen-cam", network, "0")(torch.rand(2, 3, 8, 8))
    >>> figure = dv.draw_maps(maps, title="Two images")
    >>> len(figure.axes)  # two images, two maps and a colour bar
    5
    """
    drawn = list(maps.pictures if pictures is None else pictures)[: len(maps)]
    count = len(drawn)
    by_layer = maps.detach().float().cpu().numpy().reshape(len(maps), -1, *maps.shape[-2:])[:count]
    several = by_layer.shape[1] > 1
    columns = [sheet.shortened(name, LAYER_LETTERS, keep_end=True) for name in maps.layers] if several else []
    rows = [sheet.shortened(target, TARGET_LETTERS) for target in maps.targets[:count]] or [""] * count
    of_images = [list(of_image) for of_image in by_layer]
    return overlay.draw_maps(drawn, of_images, rows, columns or [maps.method], title, caption, page=Page(**page))


def overlays(maps: Maps, pictures: Sequence[Pixels] | None = None, colours: str = "viridis") -> Pixels:
    """Return maps over their images as arrays: what the panels of a figure show.

    Args:
        maps: what `dv.cam(...)(images)` returns.
        pictures: uint8 [H, W, 3], of as many of the images as are wanted, from the first on; by default those that the
            maps keep, of the first 6 images.
        colours: name of a matplotlib colour map.

    Returns:
        uint8 [n, H, W, 3], or [n, layers, H, W, 3] of maps of several layers.

    Raises:
        DataError: there are more pictures than maps, or one of another size.

    >>> import torch
    >>> import deconvviz as dv
    >>> network = dv.capture(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten()), (3, 8, 8))
    >>> over = dv.overlays(dv.cam("eigen-cam", network, "0")(torch.rand(2, 3, 8, 8)))
    >>> over.shape, over.dtype
    ((2, 8, 8, 3), dtype('uint8'))
    """
    below = list(maps.pictures if pictures is None else pictures)
    arrays = maps.detach().float().cpu().numpy()
    height, width = arrays.shape[-2:]
    if len(below) > len(arrays) or any(picture.shape != (height, width, 3) for picture in below):
        shapes = ", ".join(str(list(shape)) for shape in sorted({picture.shape for picture in below}))
        raise DataError(
            f"{len(below)} pictures of {shapes} given for {len(arrays)} maps; expected at most one for each, uint8 "
            f"[{height}, {width}, 3]"
        )
    shades = overlay.Shades(colours)
    painted = [
        [overlay.overlay(picture, overlay.displayed(map_), shades) for map_ in of_image]
        for picture, of_image in zip(below, arrays.reshape(len(arrays), -1, height, width), strict=False)
    ]
    over: Pixels = np.rint(255 * np.asarray(painted)).astype(np.uint8).reshape(len(below), *arrays.shape[1:], 3)
    return over


def draw_projection(
    projected: Projection,
    picture: Pixels | None = None,
    title: str = "",
    caption: str = "",
    **page: Unpack[PageKeywords],
) -> Figure:
    """Draw the image, what one unit carries back to it, and its magnitude at each pixel.

    Of a decision, the relevance of each pixel with its sign takes the place of the magnitude.

    Args:
        projected: what `dv.project` or `dv.project_decision` returns, or one of what `dv.project_units` returns.
        picture: uint8 [H, W, 3], the image; by default what the network received, with the contrast stretched.
        title: text above.
        caption: text below.
        page: `width` in inches and `dpi` of `Page`, which say how the figure is laid out.

    Raises:
        DataError: no picture is given, and the projection was made without one.

    >>> import torch
    >>> import deconvviz as dv
    >>> network = dv.capture(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()), (3, 8, 8))
    >>> figure = dv.draw_projection(dv.project(network, torch.rand(1, 3, 8, 8), "1", channel=2))
    >>> len(figure.axes)  # three panels and a colour bar
    4
    """
    picture = projected.picture if picture is None else picture
    if picture is None:
        raise DataError("the projection was made without its picture; give picture=, uint8 [H, W, 3]")
    canvas = projected.full().detach().float().cpu().permute(1, 2, 0).numpy()
    from deconvviz.deconv.decision import DecisionProjection  # imports torch, which other figures do without

    signed = isinstance(projected, DecisionProjection)
    return projection.draw_projection(
        picture, canvas, projected.window, title, caption, page=Page(**page), summed=signed
    )


def draw_images(images: Images, count: int = 20, **page: Unpack[ColumnsKeywords]) -> Figure:
    """Draw a contact sheet: some of the images, evenly spread over all of them, each below its name.

    Args:
        images: an image store, a folder, scenes or images in memory.
        count: how many are drawn at most.
        page: `width` in inches, `dpi` and `columns` of `Page`, which say how the figure is laid out.

    Raises:
        DataError: an image cannot be read.

    >>> import deconvviz as dv
    >>> len(dv.draw_images(dv.Scenes(100), count=6).axes)
    6
    """
    places = evenly(len(images), count).tolist()
    return contact_sheet([(images[place][0], images.names[place]) for place in places], page=Page(**page))


def contact_sheet(named_pictures: Sequence[tuple[Pixels, str]], columns: int = 10, page: Page = OWN) -> Figure:
    """Draw small pictures, each below its name, which is shortened to the width of a picture.

    Args:
        named_pictures: (uint8 [H, W, 3], name) each.
        columns: pictures in a row, at most, where `page` does not ask for another number.
        page: what is asked for of the page.
    """
    pictures = [_thumbnail(picture) for picture, _ in named_pictures]
    names = [sheet.image_label(name, NAME_LETTERS) for _, name in named_pictures]
    return contact.draw_contact_sheet(pictures, names, min(columns, len(names)), page)


def draw_history(trained: WithHistory, title: str = "", caption: str = "", **page: Unpack[PageKeywords]) -> Figure:
    """Draw the metrics of a training over its epochs: a panel for shares of images, and one for all others.

    What is measured layer by layer, a metric named "figure/layer", has a panel for each figure.

    Args:
        trained: `Snapshots`, a `Trained` network or a `TrainedExplainer`. In a training of several phases, the epochs
            are counted through.
        title: text above.
        caption: text below.
        page: `width` in inches and `dpi` of `Page`, which say how the figure is laid out.

    Raises:
        DataError: there is no epoch with a metric yet.

    >>> import tempfile
    >>> import deconvviz as dv
    >>> from deconvviz.results.snapshots import write_epoch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_epoch(f"{folder}/s.h5", {"epoch": 1, "loss": 2.1, "accuracy": 0.3}, None, {}, {})
    ...     write_epoch(f"{folder}/s.h5", {"epoch": 2, "loss": 1.4, "accuracy": 0.6}, None, {}, {})
    ...     figure = dv.draw_history(dv.Snapshots(f"{folder}/s.h5"))
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['share of images', 'value']
    """
    panels = history.panels_of(trained.history, left_out=OF_LABEL)
    if not panels:
        raise DataError("the history holds no epoch with a metric yet; there is nothing to draw")
    return history.draw_curves(panels, title, caption, Page(**page))


def _thumbnail(picture: Pixels) -> Pixels:
    """Return every n-th pixel of a large picture: a contact sheet shows no more."""
    step = max(1, max(picture.shape[:2]) // THUMBNAIL)
    return picture[::step, ::step]
