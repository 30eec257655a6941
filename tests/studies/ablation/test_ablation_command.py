"""The command `ablate`: it trains variants, and names `lesion` where version 0.1's spelling is typed."""

from __future__ import annotations

import csv
import pathlib
import subprocess
import sys

import pytest
from click.testing import CliRunner
from PIL import Image

import deconvviz as dv
from deconvviz.errors import DataError, DeconvvizError
from deconvviz.studies.ablation import ablate as ablation
from deconvviz.studies.ablation.command import ablate


def call(*arguments: str) -> str:
    result = CliRunner().invoke(ablate, [*arguments, "--quiet", "--device", "cpu"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
def test_the_command_trains_variants(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "ablation.csv"
    settings = "--input 64 --width 0.04 --epochs 1 --batch-size 16 --validation scenes:20:6 --variants full,no-6-7"
    train = ["zfnet", "scenes:30:5", "-o", str(table), *settings.split()]
    assert "the networks are in" in call(*train)
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["full", "no-6-7"] and rows[0]["epochs"] == "1"
    with Image.open(table.with_suffix(".png")) as figure:
        assert figure.width > 1500 and "20 images of scenes:20:6" in figure.info["Description"]
    monkeypatch.setattr(ablation, "train", None)
    assert "no-6-7" in call(*train)  # finished: nothing is trained
    loaded = dv.load_model("zfnet", str(tmp_path / "ablation" / "full.pth"))
    assert loaded.classes == tuple(dv.Scenes(1).classes)


def test_what_the_command_refuses(tmp_path: pathlib.Path) -> None:
    for arguments, complaint in (
        (["--variants", "full,no-1"], "no variant named 'no-1'"),
        (["-o", "x.txt"], "ends in .csv"),
        (["-o", str(tmp_path / "none" / "x.csv")], "there is no folder"),
    ):
        with pytest.raises(DeconvvizError, match=complaint):
            call("zfnet", "scenes:12", "-o", str(tmp_path / "x.csv"), *arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        "zfnet scenes:12 --weights full.pth -l relu3",
        "zfnet scenes:12 -lrelu3",
        "demo scenes:12 --by layer",
        "demo scenes:12 --by=layer",
        "demo scenes:12",
        "demo scenes:12 --layer relu3 --how mean",
        "torchvision:resnet18 'my photos' --count 8",
        "zfnet scenes:12 --classes names.txt",
        "zfnet scenes:12 --mean 0,0,0",
        "demo scenes:12 -l relu3 --epochs 3",
    ],
)
def test_an_old_spelling_is_answered_with_the_new_command(words: str, tmp_path: pathlib.Path) -> None:
    arguments = [word.strip("'") for word in words.replace("my photos", "my~photos").split()]
    arguments = [word.replace("~", " ") for word in arguments]
    with pytest.raises(DataError) as error:
        call(*arguments, "-o", str(tmp_path / "x.csv"))
    expected = f"deconvviz lesion {words} -o {tmp_path / 'x.csv'} --quiet --device cpu"
    assert str(error.value).endswith(f": {expected}") and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_an_old_spelling_exits_with_2_and_one_line() -> None:
    words = ["ablate", "demo", "scenes:12", "-l", "relu3", "-o", "x.csv"]
    done = subprocess.run([sys.executable, "-m", "deconvviz", *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines() == [
        "deconvviz: `ablate` trains variants of zfnet; to silence parts of a trained network: deconvviz lesion demo "
        "scenes:12 -l relu3 -o x.csv"
    ]


def test_the_old_public_name_says_what_replaces_it() -> None:
    with pytest.raises(AttributeError, match=r"deconvviz\.ablate_variants is called deconvviz\.ablate now"):
        _ = dv.ablate_variants  # type: ignore[attr-defined]
    assert dv.ablate is ablation.ablate
