"""The views of a generator as one page, with its figures and tables: a folder that opens offline."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from deconvviz.figures.tiles import rendered
from deconvviz.studies.latent import figure
from deconvviz.studies.latent.tables import TABLES
from deconvviz.types import Pathlike
from deconvviz.version import __version__
from deconvviz.web.page import FIGURES, keep_figure, write_page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from deconvviz.studies.latent.result import Directions, LatentViews, Units

    Drawn = Callable[[str, Figure, str], dict[str, str]]

PAGE = "index.html"


def write_views(folder: Pathlike, views: LatentViews, *, scorer: str, command: str) -> pathlib.Path:
    """Write the page of some views, its figures and its tables into a folder; return the page's path.

    Args:
        folder: is made where it does not exist.
        views: of a generator.
        scorer: what the scorer is called; "" where there is none.
        command: the command that makes the page.

    Raises:
        DataError: a file cannot be written.
    """
    place = pathlib.Path(folder)
    (place / FIGURES).mkdir(parents=True, exist_ok=True)
    drawn = partial(_drawn, place, command)
    sections = [_codes(views, drawn)]
    if views.directions is not None:
        sections.append(_directions(views.directions, drawn, scorer, views))
    axes = drawn("axes", figure.draw_axes(views), f"Images along principal axes of {views.axes.layer}")
    text = f"Directions of z that move the layer {views.axes.layer} along its principal axes; no scorer takes part."
    sections.append({"id": "axes", "name": "Principal axes", "text": text, "figures": [axes], "facts": []})
    if views.units is not None:
        sections.append(_units(views, views.units, drawn))
    views.save_tables(place)
    values = {"views": views, "sections": sections, "command": command, "version": __version__, "scorer": scorer}
    write_page(place / PAGE, "latent.html", {**values, "tables": list(TABLES)})
    return place / PAGE


def _codes(views: LatentViews, drawn: Drawn) -> dict[str, Any]:
    """Return what the page says about codes."""
    sweeps = views.sweeps
    figures = []
    for n in range(len(sweeps.categories)):
        alt = f"Categorical code {n}, a column for each category"
        figures.append(drawn(f"code-{n}", figure.draw_categories(views, n), alt))
    if len(sweeps.places):
        figures.append(drawn("sweeps", figure.draw_sweeps(views), "One place of z swept, a row each"))
    facts = [
        f"Categorical code {n} and the scorer's class share {information:.3f} nats; by chance up to {chance:.3f}."
        for n, (information, chance) in enumerate(zip(sweeps.information, sweeps.chance, strict=True))
    ]
    text = "A row changes a single code and leaves the rest of z alone; a column of a categorical code is a category."
    return {"id": "codes", "name": "Codes", "text": text, "figures": figures, "facts": facts}


def _directions(found: Directions, drawn: Drawn, scorer: str, views: LatentViews) -> dict[str, Any]:
    """Return what the page says about directions."""
    figures = []
    for name in found.names:
        drawing = figure.draw_direction(views, name)
        figures.append(drawn(f"direction-{name}", drawing, f"Images along the direction of {name}"))
    text = (
        f"The normal of a linear SVM between the samples that {scorer} scores highest and lowest; below each image is "
        "its score. Conditional directions are orthogonal to all others. A direction shows what the scorer takes for "
        "its class, which need not be what a person does."
    )
    facts = [
        f"{name}: high and low samples are told apart {100 * found.accuracy[n]:.0f} % (by chance 50 %)."
        for n, name in enumerate(found.names)
    ]
    named = {"id": "directions", "name": "Directions of scores", "text": text, "figures": figures, "facts": facts}
    return {**named, "matrices": _matrices(found)}


def _units(views: LatentViews, units: Units, drawn: Drawn) -> dict[str, Any]:
    """Return what the page says about units."""
    figures = [drawn("units", figure.draw_units(views), f"Units of {units.layer}, off and on")]
    if units.parts:
        drawing = figure.draw_effects(views)
        figures.append(drawn("effects", drawing, "What units do to the area of each part"))
    text = (
        f"Units of {units.layer}, with the samples in which each is most active, then two as they are, with the unit "
        "off, and with it on everywhere. A unit is named by the part on which it fires best, if it does so better than "
        "chance. A unit that is on everywhere may show what no image has."
    )
    return {"id": "units", "name": "Units", "text": text, "figures": figures, "facts": []}


def _drawn(folder: pathlib.Path, command: str, name: str, made: Figure, alt: str) -> dict[str, str]:
    """Write a figure, and return what the page says about it."""
    plain = re.sub(r"[^A-Za-z0-9.]+", "_", name)
    return keep_figure(folder, plain, rendered(made, "png", f"{alt}\n{command}"), alt)


def _matrices(found: Directions) -> list[dict[str, Any]]:
    """Return the tables of the directions: cosines, and what each moves."""
    matrices = {
        "Cosines between the directions": found.cosines,
        "Rise of each score along each direction, in deviations over the samples": found.moved[0],
        "The same along the conditional directions": found.moved[1],
    }
    return [
        {
            "name": name,
            "heads": found.names,
            "rows": [(label, [f"{v:+.2f}" for v in row]) for label, row in zip(found.names, matrix, strict=True)],
        }
        for name, matrix in matrices.items()
    ]
