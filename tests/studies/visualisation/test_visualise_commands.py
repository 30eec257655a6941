"""The commands `visualise` and `invert`: what they write, and what they refuse before any work."""

from __future__ import annotations

import csv
import pathlib

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import deconvviz as dv
from deconvviz.cli.main import cli
from deconvviz.errors import DeconvvizError


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
