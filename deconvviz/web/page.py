"""Static pages: a template, values, and pictures written into the page itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import jinja2
from PIL import Image

from deconvviz.results.files import Pathlike, atomic


def write_page(path: Pathlike, template: str, values: Mapping[str, Any], package: str = "deconvviz.web") -> None:
    """Fill a template of a package, by default of this one, and write the page atomically.

    All text is escaped. Raises DataError where the page cannot be written; a value that the template asks for and that
    is not given is a defect of the caller and raises jinja2.UndefinedError.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template(template).render(values)
    with atomic(path) as temporary:
        temporary.write_text(text, "utf-8")


def embedded(path: Pathlike) -> str:
    """Return a picture as a data: address, so that the page is whole without other files.

    It becomes WebP, a tenth of the size of a PNG; the file itself stays as it is for print.
    """
    buffer = io.BytesIO()
    with Image.open(path) as picture:
        picture.convert("RGB").save(buffer, "WEBP", quality=90, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
