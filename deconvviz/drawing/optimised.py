"""Figures of pictures by optimisation, by the functions that the commands draw with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deconvviz.figures.page import Page
from deconvviz.studies.visualisation import figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from typing_extensions import Unpack

    from deconvviz.figures.page import ColumnsKeywords, PageKeywords
    from deconvviz.studies.visualisation.result import Inversion, Visualisation


def draw_visualisation(
    visualisation: Visualisation, title: str = "", caption: str = "", **page: Unpack[ColumnsKeywords]
) -> Figure:
    """Draw the pictures that channels, classes or directions would like best, each above its values.

    Args:
        visualisation: what `dv.visualise` returns.
        title: text above.
        caption: text below.
        page: `width` in inches, `dpi` and `columns` of `Page`, which say how the figure is laid out.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> network = dv.capture(nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU()), (3, 32, 32))
    >>> preprocess = dv.Preprocess(resize=32, crop=32)
    >>> wanted = dv.visualise(network, "1", [3, 5], preprocess=preprocess, steps=2, progress=False)
    >>> len(dv.draw_visualisation(wanted).axes)
    2
    """
    return figure.draw_visualisation(visualisation, title, caption, Page(**page))


def draw_inversion(inversion: Inversion, title: str = "", caption: str = "", **page: Unpack[PageKeywords]) -> Figure:
    """Draw an image and what each layer still knows of it, a row for each network, with the errors below.

    Args:
        inversion: what `dv.invert` returns.
        title: text above.
        caption: text below.
        page: `width` in inches and `dpi` of `Page`, which say how the figure is laid out.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> network = dv.capture(nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU()), (3, 32, 32))
    >>> preprocess = dv.Preprocess(resize=32, crop=32)
    >>> picture = preprocess.picture(dv.Scenes(1)[0][0])
    >>> inversion = dv.invert(network, picture, ["0", "1"], preprocess=preprocess, steps=2, progress=False)
    >>> len(dv.draw_inversion(inversion).axes)
    3
    """
    return figure.draw_inversion(inversion, title, caption, Page(**page))
