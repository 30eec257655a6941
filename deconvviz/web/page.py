"""Static pages: a template is filled with values, and pictures can be written into the page itself."""

from __future__ import annotations

import base64
import io
import pathlib
from collections.abc import Mapping
from typing import Any

import jinja2
from PIL import Image

from deconvviz.results.files import atomic
from deconvviz.types import Pathlike, Pixels
from deconvviz.words import counted

SHARED = "deconvviz.web"  # the package with the templates that several pages share
FIGURES = "figures"  # the folder of a page's figures


def write_page(path: Pathlike, template: str, values: Mapping[str, Any], package: str = SHARED) -> None:
    """Fill a template and write the page atomically; all text is escaped.

    Args:
        path: of the page.
        template: name of a file in the folder `templates` of `package`; it may include those of `deconvviz.web`.
        values: name -> value, for every name in the template.
        package: the package that the template belongs to.

    Raises:
        DataError: the page cannot be written.
        jinja2.UndefinedError: the template names a value that was not given, which is a defect of the caller.
    """
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(name) for name in dict.fromkeys((package, SHARED))]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["counted"] = counted
    text = environment.get_template(template).render(values)
    with atomic(path) as temporary:
        temporary.write_text(text, "utf-8")


def keep_figure(folder: Pathlike, name: str, content: bytes, alt: str) -> dict[str, str]:
    """Write a figure's file atomically, FOLDER/figures/NAME.png, and return what `macros.html` shows of it.

    Args:
        folder: of the page; it has a folder "figures".
        name: of the file, without its ending.
        content: of the PNG file.
        alt: what the figure shows, in words.

    Returns:
        "picture", the figure as `embedded` returns it; "file", its path from the page on; and "alt".

    Raises:
        DataError: the file cannot be written.
    """
    path = pathlib.Path(folder, FIGURES, f"{name}.png")
    with atomic(path) as temporary:
        temporary.write_bytes(content)
    return {"picture": embedded(path), "file": f"{FIGURES}/{path.name}", "alt": alt}


def embedded(path: Pathlike) -> str:
    """Return a picture file as a data: address, so that a page needs no other files.

    The picture in the page is WebP, a tenth of the size of a PNG. The file itself is not changed, for print.
    """
    with Image.open(path) as picture:
        return _embedded(picture.convert("RGB"))


def embedded_pixels(pixels: Pixels) -> str:
    """Return a picture, uint8 [h, w, 3], as a data: address, as `embedded` does."""
    return _embedded(Image.fromarray(pixels))


def _embedded(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=90, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
