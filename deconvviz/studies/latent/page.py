"""The views of a generator as one page, with its figures and tables: a folder that opens offline."""

from __future__ import annotations

import pathlib
import re
from typing import TYPE_CHECKING, Any

from deconvviz.figures.page import Page
from deconvviz.figures.tiles import rendered
from deconvviz.results.files import atomic
from deconvviz.studies.latent import figure
from deconvviz.studies.latent.tables import TABLES, save_tables
from deconvviz.types import Pathlike
from deconvviz.version import __version__
from deconvviz.web.page import embedded, write_page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from deconvviz.studies.latent.result import LatentViews

PAGE, FIGURES = "index.html", "figures"


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
    whole = Page(caption=False)
    sweeps, found, units = views.sweeps, views.directions, views.units

    def drawn(name: str, made: Figure, alt: str) -> dict[str, str]:
        return _drawn(place, command, name, made, alt)

    sections: list[dict[str, Any]] = []
    codes = [
        drawn(
            f"code-{n}",
            figure.draw_categories(views, n, page=whole),
            f"Categorical code {n}, a column for each category",
        )
        for n in range(len(sweeps.categories))
    ]
    if len(sweeps.places):
        codes.append(drawn("sweeps", figure.draw_sweeps(views, page=whole), "One place of z swept, a row each"))
    agreement = [
        f"Categorical code {n} and the scorer's class share {found_:.3f} nats; by chance up to {chance:.3f}."
        for n, (found_, chance) in enumerate(zip(sweeps.information, sweeps.chance, strict=True))
    ]
    text = "A row changes a single code and leaves the rest of z alone; it is followed as far as the head of a column says."
    sections.append({"id": "codes", "name": "Codes", "text": text, "figures": codes, "facts": agreement})
    if found is not None:
        made = [
            drawn(
                f"direction-{name}",
                figure.draw_direction(views, name, page=whole),
                f"Images along the direction of {name}",
            )
            for name in found.names
        ]
        sections.append(
            {
                "id": "directions",
                "name": "Directions of scores",
                "text": f"The normal of a linear SVM between the samples that {scorer} scores highest and lowest. Conditional "
                "directions are orthogonal to all others. A direction shows what the scorer takes for its class, which "
                "need not be what a person does.",
                "figures": made,
                "facts": [],
                "tables": _tables(views),
            }
        )
    axes = drawn("axes", figure.draw_axes(views, page=whole), f"Images along principal axes of {views.axes.layer}")
    text = f"Directions of z that move the layer {views.axes.layer} along its principal axes; no scorer takes part."
    sections.append({"id": "axes", "name": "Principal axes", "text": text, "figures": [axes], "facts": []})
    if units is not None:
        made = [drawn("units", figure.draw_units(views, page=whole), f"Units of {units.layer}, off and on")]
        if units.parts:
            made.append(
                drawn("effects", figure.draw_effects(views, page=whole), "What units do to the area of each part")
            )
        text = (
            "A unit is named by the part on which it fires best, if it does so better than chance. Switched off it shows "
            "what it causes; a value that never occurs, such as a unit that is on everywhere, may show what no image has."
        )
        sections.append({"id": "units", "name": "Units", "text": text, "figures": made, "facts": []})
    save_tables(views, place)
    values = {"views": views, "sections": sections, "command": command, "version": __version__, "scorer": scorer}
    write_page(place / PAGE, "latent.html", {**values, "tables": list(TABLES)})
    return place / PAGE


def _drawn(folder: pathlib.Path, command: str, name: str, made: Figure, alt: str) -> dict[str, str]:
    """Write a figure, and return what the page says about it."""
    path = folder / FIGURES / f"{re.sub(r'[^A-Za-z0-9.]+', '_', name)}.png"
    content = rendered(made, "png", f"{alt}\n{command}")
    with atomic(path) as temporary:
        temporary.write_bytes(content)
    return {"picture": embedded(path), "file": f"{FIGURES}/{path.name}", "alt": alt}


def _tables(views: LatentViews) -> list[dict[str, Any]]:
    """Return the tables of the directions: cosines, and what each moves."""
    found = views.directions
    assert found is not None
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
