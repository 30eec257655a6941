"""The command `ablate`: it trains variants, operates on trained networks, and refuses what fits neither."""

from __future__ import annotations

import csv
import pathlib

import pytest
from click.testing import CliRunner
from PIL import Image

import deconvviz as dv
from deconvviz.errors import DataError
from deconvviz.studies.ablation import train as ablation
from deconvviz.studies.ablation.command import ablate
from deconvviz.studies.lesions.result import load_lesions


def call(*arguments: str) -> str:
    result = CliRunner().invoke(ablate, [*arguments, "--quiet", "--device", "cpu"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
def test_the_command_trains_then_operates(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "ablation.csv"
    asked = "--input 64 --width 0.04 --epochs 1 --batch-size 16 --validation scenes:20:6 --variants full,no-6-7"
    train = ["zfnet", "scenes:30:5", "-o", str(table), *asked.split()]
    assert "the networks are in" in call(*train)
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["full", "no-6-7"] and rows[0]["epochs"] == "1"
    with Image.open(table.with_suffix(".png")) as figure:
        assert figure.width > 1500 and "20 images of scenes:20:6" in figure.info["Description"]
    monkeypatch.setattr(ablation, "train", None)
    assert "no-6-7" in call(*train)  # finished: nothing is trained
    out = tmp_path / "lesions.csv"
    weights = ["--weights", str(tmp_path / "ablation" / "full.pth"), "-o", str(out)]
    told = call("zfnet", "scenes:30:7", *weights, "-l", "relu3", "-l", "relu5", "--how", "mean", "--count", "20")
    assert "Lesions of 25 filters (mean), 20 images" in told
    with out.open() as file:
        ranked = list(csv.DictReader(file))
    drops = [float(row["drop"]) for row in ranked]
    assert len(ranked) == 15 + 10 and drops == sorted(drops, reverse=True)
    with Image.open(out.with_suffix(".png")) as figure:
        assert figure.width > 1500
    assert load_lesions(out.with_suffix(".h5")).complete


def test_the_command_on_layers_and_what_it_refuses(tmp_path: pathlib.Path) -> None:
    out = str(tmp_path / "l.csv")
    told = call("demo", "scenes:12:9", "--by", "layer", "-o", out)
    assert "Lesions of 21 layers (zero), 12 images" in told  # all modules but the two dropouts
    (tmp_path / "names.txt").write_text("\n".join(reversed(dv.Scenes(1).classes)))
    swapped = str(tmp_path / "swapped.csv")
    call("demo", "scenes:12:9", "-l", "fc8", "--classes", str(tmp_path / "names.txt"), "-o", swapped)
    assert load_lesions(tmp_path / "l.h5").accuracy > 0.8 > 0.2 > load_lesions(tmp_path / "swapped.h5").accuracy
    cases = [
        (["zfnet", "scenes:12", "-l", "relu3"], "--layer given, which has no effect here"),
        (["zfnet", "scenes:12", "--mean", "0,0,0"], "--mean given"),
        (["demo", "scenes:12", "-l", "relu3", "--epochs", "3"], "--epochs given, which has no effect here"),
        (["demo", "scenes:12", "-l", "relu3", "--no-augment"], "--augment given"),
        (["demo", "scenes:12"], "no layer given; name one with -l"),
        (["zfnet", "scenes:12", "--variants", "full,no-1"], "variant 'no-1' given"),
        (["zfnet", "scenes:12", "-o", "x.txt"], "ends in .csv"),
    ]
    for arguments, complaint in cases:
        with pytest.raises(DataError, match=complaint):
            call(arguments[0], arguments[1], "-o", str(tmp_path / "x.csv"), *arguments[2:])
    assert not list(tmp_path.glob("x*"))
