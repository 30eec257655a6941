"""The page of a diagnosis and its figures: readable on a phone, with units, and without rows that say nothing."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest
from findings_made import Page, finding, in_layers, made, neighbour

from deconvviz.studies.diagnosis.figure import LIMIT, draw_evidence
from deconvviz.studies.diagnosis.finding import Evidence, Neighbour, TileSet, quantity
from deconvviz.studies.diagnosis.joining import joined, ordered
from deconvviz.studies.diagnosis.page import ROWS, write_report
from deconvviz.studies.diagnosis.result import Diagnosis

CONFIG = {"images": 3, "accuracy": None, "parameters": 7, "input": [3, 8, 8], "layers": ["a"], "model": "m"}
CONFIG |= {"model_fingerprint": "f", "images_fingerprint": "g", "seed": 0}
LONG = "7 of 32 filters have weights whose RMS is above 3 times the median. These make 35% of the squared response. "


def written(folder: pathlib.Path, diagnosis: Diagnosis, other: Diagnosis | None = None) -> str:
    """The text of a report's page."""
    names = ["one", "two"]
    write_report(folder, diagnosis, names=names, images="i", command="c", other=other)
    return (folder / "index.html").read_text()


def many(layers: int) -> Diagnosis:
    """A finding in many layers with long names, and classes of which some are taken for others."""
    changes: dict[str, Any] = {"what": LONG * 2, "unit": "share of filters", "threshold": 0.01}
    rows = [finding("note", 0.1 + n / 100, layer=f"blocks.{n}.expand1x1_activation", **changes) for n in range(layers)]
    (one,) = joined(ordered(rows, ["aliasing"]))
    classes = (neighbour("violin"), neighbour("crane", taken=0, right=2))
    return Diagnosis(
        findings=(one,), checks=(made(value=0.3, unit="share of filters"),), config=CONFIG, classes=classes
    )


# --- the page --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [390, 1280])
def test_sentences_have_the_page_s_width(browser: Any, tmp_path: pathlib.Path, width: int) -> None:
    """No part of the page is wider than the window, and no sentence is squeezed into a column."""
    written(tmp_path, many(20), many(20))
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(f"file://{tmp_path}/index.html")
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.querySelectorAll('.scroll')].every(e => e.scrollWidth <= e.clientWidth)")
    article = page.evaluate("document.querySelector('article').clientWidth")
    sentences = page.evaluate("[...document.querySelectorAll('.rows li p:last-child')].map(each => each.clientWidth)")
    assert len(sentences) == 20 and min(sentences) > min(0.85 * article, 600)
    cells = page.evaluate("[...document.querySelectorAll('.stack td')].map(each => each.clientWidth)")
    assert cells and (width > 800 or min(cells) > 300)
    page.close()


def test_later_layers_are_folded(tmp_path: pathlib.Path) -> None:
    text = written(tmp_path, many(ROWS + 3))
    first, folded = text.split("3 more layers")
    assert "blocks.3.expand" in first and "blocks.2.expand" in folded and "blocks.2.expand" not in first
    assert "more layer" not in written(tmp_path, many(ROWS))


def test_numbers_have_units(tmp_path: pathlib.Path) -> None:
    text = Page(written(tmp_path, many(2), many(2))).text
    assert "11 % of filters" in text and "10 % of filters" in text and "0.11" not in text
    assert "30 % of filters" in text  # what the check measured, where two networks are compared
    assert quantity(0.5, "percentage points of accuracy, at most") == "0.5 percentage points of accuracy, at most"


def test_a_finding_may_have_a_heading_of_its_own(tmp_path: pathlib.Path) -> None:
    one = finding(title="Layers beyond the border")
    text = Page(written(tmp_path, Diagnosis(findings=(one,), checks=(made(),), config=CONFIG))).text
    assert "Layer conv1: Layers beyond the border" in text


def classes_told(folder: pathlib.Path, *classes: Neighbour) -> str:
    return written(folder, Diagnosis(checks=(made(),), config=CONFIG, classes=classes))


def test_mistakes_are_listed_and_nothing_else(tmp_path: pathlib.Path) -> None:
    right = neighbour("violin", "cello", taken=0, right=2)
    wrong = neighbour("crane", "flamingo", neighbour_images=0, shared=())
    alone = neighbour("lynx", "tabby", shared=())
    text = classes_told(tmp_path, right, wrong, alone)
    section = text[text.index('id="classes"') : text.index('id="checks"')]
    assert "violin" not in section and "2 classes have images" in section
    crane, lynx = (section[section.index(name) :].split("</tr>")[0] for name in ("crane", "lynx"))
    assert "no images of it" in crane and "none" in lynx and "no images of it" not in lynx
    assert "<details>" in section  # two images of a class tell about single pictures
    assert "<details>" not in classes_told(tmp_path, neighbour(images=9, taken=4)).split('id="checks"')[0]
    assert "No image was taken for another class" in classes_told(tmp_path, right)


# --- figures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("values", "mark"), [([0.2, 0.985, 0.995], 0.99), ([0.0, 1.0], 0.01), ([0.4], None)])
def test_shares_have_the_same_bars_in_every_figure(values: list[float], mark: float | None) -> None:
    evidence = Evidence(kind="histogram", arrays={"values": np.array(values)}, x="share of positions", mark=mark)
    axes: Any = draw_evidence(evidence, "t", "c").axes[0]
    edges = np.unique([round(x, 6) for bar in axes.patches for x in (bar.get_x(), bar.get_x() + bar.get_width())])
    assert np.allclose(edges, np.unique([*np.linspace(0, 1, 41), *([] if mark is None else [mark])]), atol=1e-6)
    assert axes.xaxis.get_major_formatter()(0.2) == "20 %"
    legend = axes.get_legend()
    assert mark is None or legend.get_texts()[0].get_text() == f"threshold: {100 * mark:g} %"


def test_bars_that_the_finding_names_are_marked() -> None:
    evidence = Evidence(
        kind="bars",
        arrays={"values": np.arange(3.0)},
        labels=tuple("abc"),
        y="px",
        mark=1.5,
        mark_name="the image",
        named=(2,),
    )
    axes = draw_evidence(evidence, "t", "c").axes[0]
    colours = {tuple(bar.get_facecolor()) for bar in axes.patches[:2]}
    assert len(colours) == 1 and tuple(axes.patches[2].get_facecolor()) not in colours and LIMIT
    assert axes.get_legend().get_texts()[0].get_text() == "the image: 1.5"


def test_tiles_of_a_set_stand_close_together() -> None:
    """Within a set the gap is small, between sets it is several times as large; each set has its label and its line."""
    sets = (
        TileSet(tiles=2, label="by weights"),
        TileSet(tiles=3, label="by responses"),
        TileSet(tiles=2, label="both"),
    )
    names = tuple(f"filter {n}" for n in range(7))
    evidence = Evidence(kind="tiles", arrays={"pictures": np.zeros((7, 8, 8, 3), np.uint8)}, labels=names, sets=sets)
    figure = draw_evidence(evidence, "t", "c")
    boxes = [axes.get_position() for axes in figure.axes]
    inside = boxes[1].x0 - boxes[0].x1
    apart = boxes[2].x0 - boxes[1].x1
    assert 0 < 4 * inside < apart and boxes[5].y1 < boxes[4].y0  # the third set is in the next row
    assert max(box.x1 for box in boxes) <= 1 and min(box.y0 for box in boxes) > 0
    texts = [text.get_text() for text in figure.texts]
    assert {"by weights", "by responses", "both", *names} <= {*texts} and len(figure.artists) == 3


def test_layers_keep_their_names_in_the_list() -> None:
    assert [row.layer for row in joined(ordered(in_layers(1.1, 5.0), ["aliasing"]))[0].rows] == ["b", "a"]
