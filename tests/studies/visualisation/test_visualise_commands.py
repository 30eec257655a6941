"""The commands `visualise` and `invert`: what they write, and what they refuse before any work."""

from __future__ import annotations

import csv
import pathlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image
from torch import nn

import deconvviz as dv
from deconvviz.cli.main import cli
from deconvviz.errors import DeconvvizError, MismatchError
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


def description(path: pathlib.Path) -> str:
    with Image.open(path) as figure:
        return str(figure.info["Description"])


def test_directions_of_a_file(tmp_path: pathlib.Path) -> None:
    """What `directions` wrote is followed at its own layer and network, and its layer is one like any other."""
    out, file = tmp_path / "out.png", tmp_path / "parts.npz"
    invoke("directions", "demo", "scenes:6", "-l", "relu5", "--count", 3, "-o", file)
    invoke(
        "visualise", "demo", "-l", "relu5", "--direction", file, "--steps", 2, "-o", out, "--save", tmp_path / "a.h5"
    )
    weights = dv.Directions.load(file).weights
    np.save(tmp_path / "w.npy", weights)
    matrix = ("--direction", tmp_path / "w.npy", "--save", tmp_path / "b.h5")
    invoke("visualise", "demo", "-l", "relu5", *matrix, "--steps", 2, "-o", out)
    learned, plain = (dv.Visualisation.load(tmp_path / f"{name}.h5") for name in "ab")
    assert learned.channels.tolist() == [0, 1, 2] and np.array_equal(learned.pictures, plain.pictures)
    for words in (("-l", "relu3"), ("-l", "relu5", "--weights", "none")):
        with pytest.raises(MismatchError):
            invoke("visualise", "demo", *words, "--direction", file, "--steps", 2, "-o", out)
    layer = f"relu5[{file}]"
    text = invoke("visualise", "demo", "-l", layer, "-c", "0,2", "--steps", 2, "-o", out).output
    assert f"Visualisation of {layer}" in text
    invoke("invert", "demo", photo(tmp_path), "-l", "conv1", "-l", layer, "--steps", 2, "-o", out)
    assert [row["layer"] for row in csv.DictReader(out.with_suffix(".csv").open())] == ["conv1", layer]
    epochs = ("--snapshots", "demo", "--epochs", "1,64", "--steps", 2)
    with pytest.raises(MismatchError, match="other weights"):
        invoke("invert", "demo", photo(tmp_path), "-l", layer, *epochs, "-o", out)
    invoke("invert", "demo", photo(tmp_path), "-l", f"relu5[{tmp_path / 'w.npy'}]", *epochs, "-o", out)
    assert "may be the optimiser's" in description(out)


def test_a_figure_says_what_its_numbers_are(tmp_path: pathlib.Path) -> None:
    out, mined = tmp_path / "out.png", tmp_path / "mined.h5"
    CliRunner().invoke(cli, ["pack", "scenes:5", str(tmp_path / "scenes.h5")], catch_exceptions=False)
    invoke("mine", "demo", tmp_path / "scenes.h5", "-l", "relu3", "-o", mined)
    phase = ("--canvas", "phase", "--store", tmp_path / "scenes.h5", "--size", 64)
    invoke("visualise", "demo", "-l", "relu3", "--mined", mined, "-c", 3, *phase, "--steps", 1, "-o", out)
    text = " ".join(description(out).split())
    assert "1 step, which began with noise, changed the phase of each frequency alone" in text
    assert "the mean over 5 images of scenes.h5" in text and "`" not in text
    assert "largest activation over 5 images, from mined.h5" in text
    unit = ("--objective", "unit", "--steps", 1, "-o", out)
    invoke("visualise", "demo", "-l", "relu3", "-c", 3, *unit, "--save", tmp_path / "u.h5")
    made = dv.Visualisation.load(tmp_path / "u.h5")
    network = dv.capture(dv.load_model("demo").model, (3, 64, 64))
    rows, columns = network.layer("relu3").units[1:]
    assert made.config["position"] == [rows // 2, columns // 2]  # the pictures have the size of the network's images
    assert f"at {made.place} (row, column)" in description(out)


def test_pictures_stand_in_rows() -> None:
    """Each channel's variants are a row; three pictures are one row, nine are 3 x 3; no line is wider than its tile."""
    torch.manual_seed(0)
    network = dv.capture(nn.Sequential(nn.Conv2d(3, 12, 5), nn.ReLU()), (3, 16, 16))
    settings: dict[str, Any] = {"preprocess": dv.Preprocess(resize=16, crop=16), "steps": 1, "progress": False}

    def rows(count: int, variants: int = 1, **page: Any) -> list[int]:
        made = dv.visualise(network, "1", range(count), variants=variants, **settings)
        tops = [round(axes.get_position().y0, 3) for axes in dv.draw_visualisation(made, **page).axes]
        return [tops.count(top) for top in dict.fromkeys(tops)]

    assert rows(3) == [3] and rows(9) == [3, 3, 3] and rows(2, 4) == [4, 4]
    assert rows(2, 4, columns=3) == [3, 1, 3, 1] and rows(4, 2, columns=5) == [4, 4]
    one = dv.visualise(network, "1", [0], **settings)
    figure = dv.draw_visualisation(replace(one, values=np.array([2.3854e4]), strongest=np.array([1.4136e6])))
    assert figure.axes[0].get_position().width > 0.9
    assert {"mean 23,850", "strongest 1.41 million"} <= {text.get_text() for text in figure.texts}
    narrow = dv.draw_visualisation(replace(one, strongest=np.array([1.4136e6])), width=1.0)
    assert {"strongest", "1.41 million"} <= {text.get_text() for text in narrow.texts}


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
        (("visualise", "demo", "-l", "conv3", "-c", "active"), "expected numbers such as 5,40,100-110"),
        (("visualise", "demo", "-l", "conv3", "-c", "3", "--objective", "dream"), "dream takes none: leave -c out"),
        (("visualise", "demo", "-l", "conv3", "-c", "99999"), "channel of layer 'conv3' 99999 given"),
        (("visualise", "demo", "-l", "conv3", "--target", "3"), "leave --layer out"),
        (("visualise", "demo", "-l", "conv3", "-c", "1", "--canvas", "phase"), "name a packed store with --store"),
        (("visualise", "demo", "-l", "conv3", "-c", "1", "--save", "x.npz"), "ends in .h5"),
        (("visualise", "demo", "-l", "conv3", "--direction", "missing.npy"), "no file missing.npy"),
        (("visualise", "demo", "--objective", "class"), "name a class with --target"),
        (("invert", "demo", "PHOTO", "-l", "conv9"), "no layer 'conv9'"),
        (("invert", "demo", "PHOTO", "-l", "conv1", "--epochs", "1"), "--snapshots"),
        (("invert", "demo", "PHOTO", "-l", "conv1", "--snapshots", "demo", "--epochs", "3000"), "no epoch 3000"),
        (
            ("invert", "demo", "PHOTO", "-l", "conv1", "--compare", "demo", *("--compare-layer", "a") * 2),
            "one for each -l",
        ),
        (("invert", "demo", "none.png", "-l", "conv1"), "no image none.png"),
        (
            (
                "invert",
                "demo",
                "PHOTO",
                "-l",
                "conv1",
                "--compare",
                "torchvision:squeezenet1_0",
                "--compare-weights",
                "none",
            ),
            "name the layers of torchvision:squeezenet1_0 with --compare-layer",
        ),
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
