"""Figures for papers: the width, title, caption and columns that are asked for, in every command that draws one."""

from __future__ import annotations

import pathlib
import re

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import deconvviz as dv
from deconvviz.cli import main
from deconvviz.errors import DataError
from deconvviz.figures.contact import draw_contact_sheet
from deconvviz.figures.overlay import Shades, draw_maps
from deconvviz.figures.page import Page
from deconvviz.figures.projection import draw_projection
from deconvviz.figures.tiles import filter_pictures

DRAWING = (
    *("cam", "project", "grid", "fidelity", "evaluate", "occlude", "invariance", "lesion", "ablate", "correspond"),
    *("evolve", "probe", "dissect"),
)
PICTURES = [np.full((8, 8, 3), shade, np.uint8) for shade in (0, 100, 200)]


@pytest.mark.parametrize("name", DRAWING)
def test_commands_that_draw_take_the_same_options(name: str) -> None:
    command = main.cli.get_command(click.Context(main.cli), name)
    assert command is not None
    options = {option for parameter in command.params for option in parameter.opts}
    assert options >= {"--title", "--dpi", "--caption", "--figure-width" if name == "ablate" else "--width"}


@pytest.mark.slow
def test_a_figure_of_a_command_is_as_wide_as_asked(tmp_path: pathlib.Path) -> None:
    Image.fromarray(dv.Scenes(1)[0][0]).save(tmp_path / "a.png")
    words = ["cam", "grad-cam,layercam,hirescam", "demo", str(tmp_path / "a.png"), "-l", "relu5", "--device", "cpu"]
    words += ["--quiet", "-o", str(tmp_path / "f.png"), "--dpi", "100", "--width", "3.3", "--columns", "2"]
    plain = CliRunner().invoke(main.cli, [*words, "--no-caption", "--title", ""])
    assert plain.exit_code == 0, plain.output
    with Image.open(tmp_path / "f.png") as figure:
        assert figure.width == 330
        without, metadata = figure.height, figure.info["Description"]
    assert "p is the probability of the class" in metadata and "Passes over the last image" in metadata
    assert metadata.splitlines()[-1].startswith("deconvviz")
    CliRunner().invoke(main.cli, words)
    with Image.open(tmp_path / "f.png") as figure:
        assert figure.width == 330 and figure.height > without + 60  # a title and several lines of text
    narrow = CliRunner().invoke(main.cli, [*words, "--width", "1"])
    assert isinstance(narrow.exception, DataError)
    told = (
        r"a figure 1 in wide is asked for; this one needs 3\.\d in to be read; give a larger --width or fewer --col.*"
    )
    assert re.fullmatch(told, str(narrow.exception))


def test_signed_maps_have_zero_in_the_middle() -> None:
    map_ = np.array([[-1.0, 0.0, 1.0]]).repeat(3, 0)
    white = [np.full((3, 3, 3), 255, np.uint8)]
    figure = draw_maps(white, [[map_]], ["a"], ["cam"], "", "", Shades("coolwarm", signed=True))
    drawn = np.asarray(figure.axes[1].images[0].get_array())[1]
    blue, middle, red = drawn
    assert blue[2] > blue[0] and red[0] > red[2] and np.ptp(middle) < 0.02
    assert [text.get_text() for text in figure.axes[-1].get_yticklabels()] == ["−1", "0", "1"]


def test_methods_that_do_not_fit_stand_below() -> None:
    maps = [[np.eye(8)] * 5] * 3
    names = [f"method {n}" for n in range(5)]
    figure = draw_maps(PICTURES, maps, ["a", "b", "c"], names, "", "", page=Page(width=4.0, columns=2))
    assert figure.get_size_inches()[0] == 4.0
    assert len([axes for axes in figure.axes if axes.images]) == 3 * (5 + 3)  # each band shows the images
    lefts = {round(axes.get_position().x0, 3) for axes in figure.axes if axes.images}
    assert len(lefts) == 3
    assert {text.get_text() for text in figure.texts} >= {*names, "image"}


@pytest.mark.parametrize("width", [3.3, 6.9, 12.0])
def test_projections_and_contact_sheets_fill_the_page(width: float) -> None:
    page = Page(width=width, title="of the paper", caption=False, dpi=120)
    box = dv.Box(1, 1, 4, 4)
    figures = [draw_projection(PICTURES[0], np.ones((8, 8, 3)), box, "own", "own caption", page)]
    figures.append(draw_contact_sheet(PICTURES, ["a", "b", "c"], page=page))
    for figure in figures:
        assert figure.dpi == 120 and "own" not in " ".join(text.get_text() for text in figure.texts)
        assert "of the paper" in {text.get_text() for text in figure.texts}
    assert figures[0].get_size_inches()[0] == pytest.approx(width)


def test_filters_that_have_vanished_are_grey_and_say_by_how_much() -> None:
    filters = np.random.default_rng(0).normal(size=(4, 3, 3, 3))
    filters[1] *= 1e-4 * np.abs(filters[0]).max() / np.abs(filters[1]).max()
    filters[2] = 0
    (own, no_note), (small, factor), (nothing, zero), _ = filter_pictures(filters, float(np.abs(filters[0]).max()))
    assert (no_note, factor, zero) == ("", "1/10000", "all zero")
    assert np.ptp(own) > 0.5 and np.abs(small - 0.5).max() < 1e-3 and (nothing == 0.5).all()
