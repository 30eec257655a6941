"""How results show themselves in a notebook: each as a picture above its text. One mixin for all of them."""

from __future__ import annotations

import base64
import html
import importlib
import io
from typing import TYPE_CHECKING, Any, ClassVar

from deconvviz.errors import DataError, DeconvvizError
from deconvviz.progress import in_notebook

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDEST, HIGHEST = 1400, 1600  # pixels of a picture
EDGE = 0.06  # inches: a figure without a caption has axes whose labels end at its border
MOST_BYTES = 110_000  # of a picture; a notebook keeps it twice, as PNG and within the HTML, a third longer in text
COLOURS = 256  # of a picture that would be larger
SMALLER = 0.8  # of its sides, again and again until it fits


class Shown:
    """A result that a notebook shows as a picture above its text; `print` and `repr` give the text alone.

    The picture is that of a public drawing function: a class names it where it inherits, as in
    `class Evolution(Shown, drawn_by="draw_evolution")`, whose picture is `dv.draw_evolution(evolution)`. It is imported
    and called when a notebook asks, or by `show()`. Where that fails, a line below the text says why.
    """

    _drawn_by: ClassVar[str]

    def __init_subclass__(cls, drawn_by: str = "", **keywords: Any) -> None:
        """Note the public name of the function that draws the class."""
        super().__init_subclass__(**keywords)
        if drawn_by:
            cls._drawn_by = drawn_by

    def show(self) -> None:
        """Show the picture of the result: below the cell of a notebook, else in the program that shows pictures here.

        Raises:
            DataError: there is no notebook, and no program that shows pictures; the message says how to save it.
        """
        if in_notebook():
            from IPython.display import display

            display(self)  # type: ignore[no-untyped-call, unused-ignore]
            return
        from PIL import Image, ImageShow

        draw = getattr(importlib.import_module("deconvviz"), self._drawn_by)
        if not ImageShow.show(Image.open(io.BytesIO(png_of(draw(self))))):
            raise DataError(
                f"no program shows pictures here; save it: deconvviz.{self._drawn_by}(result).savefig('result.png')"
            )

    def text_as_html(self) -> str:
        """Return the text below the picture, as HTML."""
        return f"<pre>{html.escape(repr(self))}</pre>"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        # Notebooks ask for this first: the picture is drawn once for both of its forms.
        picture, reason = _picture(self)
        bundle = {"text/plain": repr(self), "text/html": _html(self, picture, reason)}
        return bundle if picture is None else {**bundle, "image/png": base64.b64encode(picture).decode()}

    def _repr_html_(self) -> str:
        return _html(self, *_picture(self))

    def _repr_png_(self) -> bytes | None:
        return _picture(self)[0]


def png_of(figure: Figure) -> bytes:
    """Return a figure as a small PNG file, at most MOST_BYTES, and empty the figure.

    Args:
        figure: a matplotlib figure.

    >>> from matplotlib.figure import Figure
    >>> figure = Figure(figsize=(30, 3), dpi=100)
    >>> png_of(figure)[1:4]
    b'PNG'
    """
    width, height = figure.get_size_inches()
    buffer = io.BytesIO()
    dpi = min(figure.dpi, WIDEST / width, HIGHEST / height)
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", bbox_inches="tight", pad_inches=EDGE)
    figure.clear()
    return buffer.getvalue() if buffer.tell() <= MOST_BYTES else _compressed(buffer)


def _compressed(buffer: io.BytesIO) -> bytes:
    """Return a PNG file with few colours, and with fewer pixels where that is not enough."""
    from PIL import Image

    picture = Image.open(buffer).convert("RGB")
    while True:
        smaller = io.BytesIO()
        picture.quantize(COLOURS, Image.Quantize.FASTOCTREE).save(smaller, "PNG", optimize=True)
        if smaller.tell() <= MOST_BYTES:
            return smaller.getvalue()
        picture = picture.resize((max(1, int(SMALLER * picture.width)), max(1, int(SMALLER * picture.height))))


def _picture(result: Shown) -> tuple[bytes | None, str]:
    """Return the picture of a result, or None and why there is none, in one line."""
    try:
        # By its name, as the command line finds its commands: nothing of what draws is imported before.
        draw = getattr(importlib.import_module("deconvviz"), result._drawn_by)
        return png_of(draw(result)), ""
    except DeconvvizError as error:
        return None, " ".join(str(error).split())
    except Exception as error:  # a notebook shows the text, whatever happened to the picture
        return None, " ".join(f"{type(error).__name__}: {error}".split())


def _html(result: Shown, picture: bytes | None, reason: str) -> str:
    text = result.text_as_html()
    if picture is None:
        return f"{text}<p>No picture: {html.escape(reason)}</p>"
    source = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    return f'<img src="{source}" alt="{html.escape(type(result).__name__)}" style="max-width: 100%">{text}'
