"""The command `lesion`: filters and layers of trained networks, the files it writes, and what it refuses."""

from __future__ import annotations

import csv
import pathlib

import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

import deconvviz as dv
from deconvviz.errors import DataError
from deconvviz.studies.lesions.command import lesion
from deconvviz.studies.lesions.result import Lesions


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(lesion, [*arguments, "--quiet", "--device", "cpu"], catch_exceptions=False)


def call(*arguments: str) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
def test_the_command_on_filters_of_a_trained_zfnet(tmp_path: pathlib.Path) -> None:
    torch.manual_seed(0)
    weights, out = tmp_path / "full.pth", tmp_path / "lesions.csv"
    images, recipe = dv.Scenes(30, seed=5), dv.Recipe(epochs=1, batch_size=16, validation=0)
    model = dv.zfnet(10, 64, width=0.04)
    dv.train(model, images, weights, recipe, name="zfnet", arguments=model.arguments, progress=False)
    arguments = ["--weights", str(weights), "-o", str(out)]
    text = call("zfnet", "scenes:30:7", *arguments, "-l", "relu3", "-l", "relu5", "--how", "mean", "--count", "20")
    assert "Lesions of 25 filters (mean), 20 images" in text
    with out.open() as file:
        ranked = list(csv.DictReader(file))
    drops = [float(row["drop"]) for row in ranked]
    assert len(ranked) == 15 + 10 and drops == sorted(drops, reverse=True)
    with Image.open(out.with_suffix(".png")) as figure:
        assert figure.width > 1500 and "of 20 images of scenes:30:7 correctly" in figure.info["Description"]
    assert Lesions.load(out.with_suffix(".h5")).complete


@pytest.mark.slow
def test_the_command_on_layers(tmp_path: pathlib.Path) -> None:
    out = str(tmp_path / "l.csv")
    text = call("demo", "scenes:12:9", "--by", "layer", "-o", out)
    assert "Lesions of 21 layers (zero), 12 images" in text  # all modules but the two dropouts
    (tmp_path / "names.txt").write_text("\n".join(reversed(dv.Scenes(1).classes)))
    swapped = str(tmp_path / "swapped.csv")
    call("demo", "scenes:12:9", "-l", "fc8", "--classes", str(tmp_path / "names.txt"), "-o", swapped)
    intact, reversed_names = (Lesions.load(tmp_path / f"{name}.h5") for name in ("l", "swapped"))
    assert intact.accuracy > 0.8 > 0.2 > reversed_names.accuracy


def test_what_the_command_refuses(tmp_path: pathlib.Path) -> None:
    for arguments, complaint in (
        (["demo", "scenes:12"], "no layer given; name one with -l"),
        (["demo", "scenes:12", "-l", "relu3", "-o", "x.txt"], "ends in .csv"),
    ):
        with pytest.raises(DataError, match=complaint):
            call(*arguments[:2], "-o", str(tmp_path / "x.csv"), *arguments[2:])
    for option in ("--epochs", "--no-augment"):  # nothing is trained here
        result = invoke("demo", "scenes:12", "-l", "relu3", "-o", str(tmp_path / "x.csv"), option)
        assert result.exit_code == 2 and f"No such option '{option}'" in result.output
    assert not list(tmp_path.glob("x*"))
