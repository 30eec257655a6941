"""Figures of generators, by the functions that the command draws with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deconvviz.errors import DataError, nearest
from deconvviz.figures.page import Page
from deconvviz.studies.latent import figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from typing_extensions import Unpack

    from deconvviz.figures.page import PageKeywords
    from deconvviz.studies.latent.result import LatentViews

VIEWS = {
    "sweeps": figure.draw_sweeps,
    "axes": figure.draw_axes,
    "units": figure.draw_units,
    "effects": figure.draw_effects,
}


def draw_latent(
    views: LatentViews, view: str = "sweeps", title: str = "", caption: str = "", **page: Unpack[PageKeywords]
) -> Figure:
    """Draw a view of a generator.

    Args:
        views: what `dv.latent` returns.
        view: "sweeps" (single places of z), "code 0" (the categories of the first categorical code), "axes" (of a
            layer), "units" (their images, off and on), "effects" (of units on the area of parts), or the name of a
            score, for the images along its direction.
        title: text above.
        caption: text below.
        page: `width` in inches and `dpi` of `Page`, which say how the figure is laid out.

    Raises:
        DataError: there is no such view.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> module = nn.Sequential(nn.Linear(4, 3 * 64), nn.Sigmoid(), nn.Unflatten(1, (3, 8, 8)))
    >>> few = {"samples": 30, "masked": 4, "units": 2, "rows": 1, "steps": 3}
    >>> views = dv.latent(dv.LatentModel(module=module, limits=(0, 1), name="tiny"), progress=False, **few)
    >>> dv.draw_latent(views, "axes").savefig("axes.png")  # doctest: +SKIP
    """
    kind, _, number = view.partition(" ")
    if kind == "code" and number.isdecimal():
        return figure.draw_categories(views, int(number), title, caption, Page(**page))
    if view in VIEWS:
        return VIEWS[view](views, title, caption, Page(**page))
    codes = [f"code {number}" for number in range(len(views.sweeps.sizes))]
    names = (*codes, *(views.directions.names if views.directions is not None else ()))
    if view not in names:
        raise DataError(f"no view {view!r}; {nearest(view, [*VIEWS, *names], 9)}")
    return figure.draw_direction(views, view, title, caption, Page(**page))
