"""A sheet's lengths are inches, its caption takes the room of its lines, and nothing sticks out of the page."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

import deconvviz as dv
from deconvviz.figures.contact import draw_contact_sheet
from deconvviz.figures.projection import draw_projection
from deconvviz.figures.sheet import Sheet, wrapped

LONG = "Each of these words takes some room on the line, so that the caption is wrapped again and again. " * 4


def texts_outside(figure: Figure) -> list[str]:
    """The visible texts of a figure that do not lie on its page as a whole, by matplotlib's own measure."""
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    page = figure.bbox
    outside = []
    texts: list[Any] = figure.findobj(lambda artist: hasattr(artist, "get_text") and artist.get_visible())
    for text in texts:
        place = text.get_window_extent(canvas.get_renderer())
        if text.get_text().strip() and not (
            place.x0 >= page.x0 and place.x1 <= page.x1 and place.y0 >= page.y0 and place.y1 <= page.y1
        ):
            outside.append(text.get_text())
    return outside


def test_a_page_is_body_title_and_caption() -> None:
    sheet = Sheet(4.0, 2.0, "title", "one line")
    assert sheet.figure.get_size_inches().tolist() == pytest.approx([4.0, 0.2 + 0.13 + 2.0 + 0.5])
    assert (sheet.bottom, sheet.top, sheet.width) == pytest.approx((0.33, 2.33, 4.0))
    assert sheet.height == pytest.approx(2.83)
    three = Sheet(4.0, 2.0, "title", "one\ntwo\nthree")
    assert three.bottom == pytest.approx(0.2 + 3 * 0.13) and three.height == pytest.approx(0.59 + 2 + 0.5)
    bare = Sheet(4.0, 2.0, "", "")
    assert (bare.bottom, bare.top, bare.height) == pytest.approx((0.08, 2.08, 2.16)) and not bare.figure.texts


def test_axes_are_where_they_are_put() -> None:
    sheet = Sheet(5.0, 3.0, "title", "caption")
    axes = sheet.axes(1.0, 2.0, 3.0, 0.5)
    left, bottom, right, top = axes.get_position().extents
    assert [5 * left, 5 * right] == pytest.approx([1, 4])
    assert [sheet.height * bottom, sheet.height * top] == pytest.approx([2, 2.5])
    sheet.text(1.25, 0.5, "here")
    assert sheet.figure.texts[-1].get_position() == pytest.approx((0.25, 0.5 / sheet.height))


def test_a_picture_is_square_unless_a_height_is_given() -> None:
    sheet = Sheet(5.0, 3.0, "title", "caption")
    grey = np.arange(6.0).reshape(2, 3, 1) / 5
    axes = sheet.picture(grey, 1.0, 1.0, 2.0)
    box, shown = axes.get_position(original=True), axes.get_position()
    assert 5 * box.width == pytest.approx(2) and sheet.height * box.height == pytest.approx(2)
    assert sheet.height * shown.height == pytest.approx(4 / 3)  # 2 rows, 3 columns: shown undistorted
    assert (shown.y0 + shown.y1) / 2 == pytest.approx((box.y0 + box.y1) / 2)
    assert np.array_equal(np.asarray(axes.images[0].get_array()), np.repeat(grey, 3, 2))
    assert not len(axes.get_xticks()) and not len(axes.get_yticks())
    low = sheet.picture(np.zeros((2, 4, 3), np.uint8), 1.0, 1.0, 2.0, 1.0)
    assert sheet.height * low.get_position().height == pytest.approx(1)


def test_captions_are_wrapped_and_their_own_line_breaks_stay() -> None:
    assert wrapped("one two three", 0.6) == ["one two", "three"]  # (0.6 - 0.2) / 0.05 = 8 letters
    assert wrapped("one two three", 0.9) == ["one two three"]
    assert wrapped("one\n\ntwo", 0.6) == ["one", "", "two"] and wrapped("", 3) == []
    assert " ".join(wrapped(LONG, 3)).split() == LONG.split()
    assert wrapped("ab", 0.1) == ["a", "b"]  # never less than a letter a line


@pytest.mark.parametrize("width", [2.5, 4.0, 9.0])
def test_no_text_sticks_out_of_the_page(width: float) -> None:
    sheet = Sheet(width, 1.5, "A title", LONG)
    image = sheet.picture(np.zeros((2, 2, 3)), 0.3, sheet.bottom, 1.0).images[0]
    sheet.colour_bar(image, "magnitude (1)", 1.4, sheet.bottom, 1.0)
    panel = sheet.panel(0.5, sheet.bottom + 0.3, 1.0, 0.9, "a panel")
    assert panel.get_title() == "a panel" and panel.get_axisbelow()
    assert not texts_outside(sheet.figure)
    sheet.text(width - 0.05, 1.0, "too far to the right")
    assert texts_outside(sheet.figure) == ["too far to the right"]  # the measure itself sees it


@pytest.mark.parametrize("shape", [(40, 40), (30, 50)])
def test_the_figure_of_a_projection(shape: tuple[int, int]) -> None:
    picture = np.full((*shape, 3), 100, np.uint8)
    projection = np.zeros((*shape, 3))
    projection[10, 20] = (3.0, 0.0, 4.0)  # a magnitude of 5
    projection[11, 20] = (0.0, -2.5, 0.0)
    figure = draw_projection(picture, projection, dv.Box(8, 18, 14, 23), "layer:1@2,3", LONG)
    assert not texts_outside(figure)
    shown = figure.axes[2].images[1].get_array()
    # the 99th percentile of the magnitudes 2.5 and 5, by hand: 2.5 + 0.99 * 2.5
    assert shown is not None and shown[10, 20] == 1 and shown[11, 20] == pytest.approx(2.5 / 4.975)
    assert np.count_nonzero(shown) == 2
    for axes in figure.axes[:3]:
        box = axes.get_position()
        width, height = figure.get_size_inches()
        assert box.height * height / (box.width * width) == pytest.approx(shape[0] / shape[1])
        boxes: list[Any] = list(axes.patches)
        assert [patch.get_bbox().extents.tolist() for patch in boxes] == [[17.5, 7.5, 22.5, 13.5]] * 2
    flat = draw_projection(picture, np.zeros((*shape, 3)), dv.Box(0, 0, 3, 3), "dead", "nothing")
    assert not np.any(flat.axes[2].images[1].get_array())  # a projection of zeros divides nothing


def test_a_contact_sheet_has_each_picture_below_its_name() -> None:
    pictures = [np.full((4, 4, 3), 20 * n, np.uint8) for n in range(7)]
    figure = draw_contact_sheet(pictures, [f"name {n}" for n in range(7)], columns=3)
    assert [axes.images[0].get_array()[0, 0, 0] for axes in figure.axes] == [20 * n / 255 for n in range(7)]
    assert not texts_outside(figure) and [text.get_text() for text in figure.texts] == [f"name {n}" for n in range(7)]
    boxes = [axes.get_position() for axes in figure.axes]
    for box, text in zip(boxes, figure.texts, strict=True):
        x, y = text.get_position()
        assert box.x0 < x < box.x1 and y > box.y1
    assert boxes[3].x0 == pytest.approx(boxes[0].x0) and boxes[3].y1 < boxes[0].y0  # the fourth begins the second row
    assert min(box.y0 for box in boxes) > 0 and max(box.x1 for box in boxes) < 1


def test_a_dollar_in_a_name_begins_no_formula_wherever_it_stands() -> None:
    name = "cash $x_1$ dollar$"
    sheet = Sheet(4, 3, name, name)
    panel = sheet.panel(1, 1, 2.5, 1.5, name)
    panel.barh([name, "other"], [1, 1000], label=name)
    panel.set(xlabel=name, ylabel=name, xscale="log")
    panel.legend(title=name)
    panel.annotate(name, (10, 0))
    fixed = sheet.panel(1, 0.5, 2.5, 0.2)
    fixed.set_xticks([0, 1], [name, name])
    FigureCanvasAgg(sheet.figure).draw()  # type: ignore[no-untyped-call]
    texts = [text for text in sheet.figure.findobj(Text) if text.get_text() == name]
    # Title, caption, panel, two labels, legend and its title, note; three ticks with a label on either side.
    assert len(texts) == 14
    assert not any(text.get_parse_math() for text in texts)
    powers = [label for label in panel.get_xticklabels() if label.get_text()]
    assert powers and all("10^" in label.get_text() and label.get_parse_math() for label in powers)
