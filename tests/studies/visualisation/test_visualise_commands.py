"""The commands `visualise` and `invert`: what they write, and what they refuse before any work."""

from __future__ import annotations

import csv
import pathlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image
from torch import nn

import deconvviz as dv
from deconvviz.cli.main import cli
from deconvviz.errors import DeconvvizError
from deconvviz.studies.mining.cache import ProjectionCache
from deconvviz.studies.mining.panels import panels_from


def invoke(*arguments: object) -> Result:
    words = [*map(str, arguments), "--quiet", "--device", "cpu"]
    return CliRunner().invoke(cli, words, catch_exceptions=False, standalone_mode=False)


def photo(folder: pathlib.Path) -> pathlib.Path:
    path = folder / "scene.png"
    Image.fromarray(dv.Scenes(1)[0][0]).save(path)
    return path


def test_visualise_writes_a_figure_a_table_and_a_file(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "wanted.png"
    text = invoke(
        "visualise", "demo", "-l", "relu3", "-c", "3-5", "--steps", 3, "-o", out, "--save", tmp_path / "w.h5"
    ).output
    assert "Visualisation of relu3" in text and "3 pictures of 64 x 64 px" in text
    with Image.open(out) as figure:
        assert "mean of a channel" in figure.info["Description"]
    rows = list(csv.DictReader(out.with_suffix(".csv").open()))
    assert [row["channel"] for row in rows] == ["3", "4", "5"]
    assert dv.Visualisation.load(tmp_path / "w.h5").pictures.shape == (3, 64, 64, 3)


def test_visualise_classes_directions_and_dreams(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "wanted.png"
    invoke("visualise", "demo", "--target", 2, "--target", 7, "--steps", 2, "-o", out)
    rows = list(csv.DictReader(out.with_suffix(".csv").open()))
    assert [(row["objective"], row["channel"]) for row in rows] == [("class", "2"), ("class", "7")]
    channels = 24
    np.save(tmp_path / "w.npy", np.eye(channels)[:2])
    with pytest.raises(DeconvvizError, match="one for each of its"):
        invoke("visualise", "demo", "-l", "conv3", "--direction", tmp_path / "w.npy", "--steps", 2, "-o", out)
    invoke(
        "visualise", "demo", "-l", "conv3", "--objective", "dream", "--image", photo(tmp_path), "--steps", 2, "-o", out
    )
    assert next(csv.DictReader(out.with_suffix(".csv").open()))["objective"] == "dream"


def test_invert_two_epochs(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "known.png"
    arguments = ("invert", "demo", photo(tmp_path), "-l", "conv1", "-l", "conv3", "--snapshots", "demo", "--steps", 2)
    text = invoke(*arguments, "-o", out, "--save", tmp_path / "k.h5").output
    assert "epoch 1, conv1" in text and "epoch 64, conv3" in text
    rows = list(csv.DictReader(out.with_suffix(".csv").open()))
    assert [(row["network"], row["layer"]) for row in rows][2] == ("epoch 64", "conv1") and len(rows) == 4
    images = dv.Inversion.load(tmp_path / "k.h5").images
    assert np.array_equal(images[0].original, images[1].original)
    assert not np.array_equal(images[0].pictures, images[1].pictures)  # each epoch has its own weights


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("visualise", "demo", "-c", "1"), "no layer given"),
        (("visualise", "demo", "-l", "conv3"), "no channel given"),
        (("visualise", "demo", "-l", "conv3", "-c", "active"), "expected numbers"),
        (("visualise", "demo", "-l", "conv3", "-c", "99999"), "channel of layer 'conv3' 99999 given"),
        (("visualise", "demo", "-l", "conv3", "--target", "3"), "leave --layer out"),
        (("visualise", "demo", "-l", "conv3", "-c", "1", "--canvas", "phase"), "name a packed store with --store"),
        (("visualise", "demo", "-l", "conv3", "-c", "1", "--save", "x.npz"), "ends in .h5"),
        (("visualise", "demo", "-l", "conv3", "--direction", "missing.npy"), "cannot read directions"),
        (("visualise", "demo", "--objective", "class"), "name a class with --target"),
        (("invert", "demo", "PHOTO", "-l", "conv9"), "no layer 'conv9'"),
        (("invert", "demo", "PHOTO", "-l", "conv1", "--epochs", "1"), "--snapshots"),
        (("invert", "demo", "PHOTO", "-l", "conv1", "--snapshots", "demo", "--epochs", "3000"), "no epoch 3000"),
        (("invert", "demo", "PHOTO", "-l", "conv1", "--compare-layer", "a", "--compare-layer", "b"), "one for each -l"),
        (("invert", "demo", "none.png", "-l", "conv1"), "no image none.png"),
    ],
)
def test_refusals(tmp_path: pathlib.Path, arguments: tuple[str, ...], words: str) -> None:
    named = [str(photo(tmp_path)) if word == "PHOTO" else word for word in arguments]
    with pytest.raises(DeconvvizError) as raised:
        invoke(*named, "-o", tmp_path / "out.png")
    assert words in str(raised.value) and not (tmp_path / "out.png").exists()


def test_a_grid_shows_and_keeps_what_filters_would_like_best(tmp_path: pathlib.Path) -> None:
    torch.manual_seed(0)
    network = dv.capture(nn.Sequential(nn.Conv2d(3, 6, 5), nn.ReLU()), (3, 32, 32))
    scenes, preprocess = dv.Scenes(6), dv.Preprocess(resize=32, crop=32)
    mined = dv.mine(network, scenes, ["1"], k=4, preprocess=preprocess, progress=False)
    cache = ProjectionCache(mined, scenes, network, rule="gradient", progress=False)
    panels = panels_from(cache, "1", [2, 4], crop=9)
    made = []

    def make(network: dv.Network, channels: list[int]) -> NDArray[np.float32]:
        made.extend(channels)
        return dv.visualise(network, "1", channels, preprocess=preprocess, steps=2, progress=False).pictures

    pictures = cache.wanted("1", [2, 4], make)
    cache.save(tmp_path / "mined.h5")
    again = ProjectionCache(dv.load_mined(tmp_path / "mined.h5"), scenes, network, progress=False)
    assert np.array_equal(again.wanted("1", [4, 2, 5], make)[2], pictures[2]) and made == [2, 4, 5]
    with_pictures = [replace(panel, wanted=pictures[panel.channel]) for panel in panels.panels]
    figure = dv.draw_grid(replace(panels, panels=tuple(with_pictures)))
    assert len(figure.axes) == len(dv.draw_grid(panels).axes) + 2
