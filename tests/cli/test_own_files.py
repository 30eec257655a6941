"""What a command reads is not written over, and what cannot work is told before the work."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file

import deconvviz as dv
from deconvviz.cli.machine import what_the_machine_lacks
from deconvviz.cli.main import cli
from deconvviz.errors import ModelError

SMALL = ["--epochs", "1", "--input", "32", "--width", "0.06", "--fc", "32,32"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("own")
    for name in "ab":
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 80, 3), np.uint8)).save(folder / f"{name}.png")
    dv.pack(dv.Scenes(20, seed=3), folder / "s.h5", progress=False)
    (folder / "t.csv").write_text("image,box\n")
    (folder / "two.txt").write_text("a\nb\n")
    (folder / "w.pth").write_bytes(b"weights")
    save_file({}, folder / "empty.safetensors")
    return folder


def told(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, line: str) -> str:
    """Run a command that is refused; return what it says. No file of the folder has changed."""
    monkeypatch.chdir(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    outcome = CliRunner().invoke(cli, line.split())
    assert outcome.exit_code != 0 and "Traceback" not in outcome.output
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    return str(outcome.exception) + outcome.output


@pytest.mark.parametrize(
    "line",
    [
        "project demo a.png -l relu5 -c 3 -o a.png",
        "project demo a.png -l relu5 -c 3 -o ../{folder}/a.png",
        "cam grad-cam demo a.png -l relu5 -o a.png",
        "occlude demo a.png -o a.png",
        "maps demo a.png -l relu5 -o a.png",
        "invert demo a.png -l relu5 --steps 1 -o a.png",
        "pair demo a.png b.png -o b.png",
        "examples demo a.png scenes:20 -o a.png",
        "tree demo scenes:20 --image a.png -o a.png",
        "visualise demo -l relu5 -c 1 --steps 1 --image a.png -o a.png",
        "relevance demo scenes:20 -l relu5 --image a.png -o a.h5",
        "dissect demo s.h5 -l relu5 --truth t.csv -o t.csv",
        "lesion demo s.h5 -l relu5 --count 2 --classes t.csv -o t.csv",
        "prune demo s.h5 --weights w.pth --keep 0.7 -o w.pth",
        "train zfnet s.h5 --csv s.h5 -o t.pth",
    ],
)
def test_what_is_read_is_not_written_over(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    said = told(folder, monkeypatch, line.replace("{folder}", folder.name))
    assert "is read, and would be replaced" in said, said


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("train zfnet s.h5 --csv t.pth -o t.pth", "given for two results"),
        ("train zfnet s.h5 --csv history.txt -o t.pth", "ends in .csv"),
        ("train zfnet s.h5 --csv nowhere/h.csv -o t.pth", "there is no folder"),
        ("train zfnet s.h5 --snapshots t.csv -o t.pth", "t.csv"),
        ("train zfnet s.h5 --seed -1 -o t.pth", "--seed"),
        ("cam rise demo a.png --seed 99999999999999999999999 -o c.png", "--seed"),
        ("dissect demo s.h5 -l relu5 --classes two.txt -o n.csv", "--classes given without --concept"),
        ("dissect demo s.h5 -l relu5 --classes two.txt --concept x=. -o n.csv", "2 class names given for 10 outputs"),
        ("train-cam bump demo s.h5 -l relu5 --classes two.txt -o e.pth", "2 class names given for 10 outputs"),
        ("project demo a.png -l relu5 -c ² -o c.png", "'²'"),
        ("visualise demo -l relu5 --channels 3-1 -o c.png", "channels '3-1' given; expected"),
        ("visualise demo -l relu5 --channels 0-99999999999 -o c.png", "channels '0-99999999999' given; expected"),
        ("cam grad-cam demo a.png --weights empty.safetensors -o c.png", "it holds nothing"),
        ("cam rise demo a.png --option nope=3 -o c.png", "no option 'nope'"),
        ("cam rise demo a.png --option masks=0 -o c.png", "masks 0 given; expected a whole number of at least 1"),
        ("cam rise demo a.png --option masks=1e99 -o c.png", "masks 1e+99 given; expected a whole number"),
        ("cam smoothgrad demo a.png --option noise=nan -o c.png", "noise nan given; expected a finite number"),
        ("cam grad-cam demo a.png -l relu5 --colours nope -o c.png", "colours 'nope' given; nearest"),
        ("cam grad-cam demo a.png -l relu5 --width nan -o c.png", "expected a finite number"),
        ("cam grad-cam demo a.png -l relu5 --classes two.txt -o c.png", "2 class names given for 10 outputs"),
        ("relevance demo scenes:4 -l relu5 --classes two.txt -o r.h5", "2 class names given for 10 outputs"),
        ("compare demo demo scenes:10 --classes two.txt -o compared", "2 class names given for 10 outputs"),
        ("evaluate demo scenes:4 -l relu5 -m grad-cam --option nope=1 -o e.csv", "no option 'nope'"),
    ],
)
def test_told_before_the_work(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, line: str, words: str) -> None:
    said = told(folder, monkeypatch, line)
    assert words in said, said


def test_folders_of_systems_are_no_classes(tmp_path: pathlib.Path) -> None:
    for name in ("x", "y", "__MACOSX"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "photos" / name / "a.png")
    assert dv.open_images(tmp_path / "photos").classes == ("x", "y")
    (tmp_path / "list.csv").write_text("path,label\n#1.png,cat\n# a comment,\nn.png,dog\n")
    for name in ("#1.png", "n.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    dv.pack(tmp_path / "list.csv", tmp_path / "l.h5", progress=False)
    assert list(dv.ImageStore.open(tmp_path / "l.h5").names) == ["#1.png", "n.png"]


def test_what_a_machine_lacks() -> None:
    assert "not enough memory" in str(
        what_the_machine_lacks(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    )
    assert "cannot be written" in str(what_the_machine_lacks(OSError(28, "No space left on device")))
    assert what_the_machine_lacks(RuntimeError("a bug")) is None


DIVERGED = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = torch.nan
    return model, {"resize": 32, "crop": 32}
"""


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("lesion", ["-l", "1", "-o", "t.csv"]),
        ("attack", ["-o", "t.h5"]),
        ("evaluate", ["-m", "grad-cam", "-l", "1", "-o", "t.csv"]),
        ("ensemble", ["-o", "t.csv"]),
        ("prune", ["--keep", "0.5", "-o", "t.pth"]),
    ],
)
def test_a_network_that_diverged_leaves_no_file(
    command: str, options: list[str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pathlib.Path("net.py").write_text(DIVERGED)
    with pytest.raises(ModelError, match=r"the scores of Sequential are NaN, and so are weights, 0\.weight first"):
        CliRunner().invoke(cli, [command, "net.py:make", "scenes:6", *options], catch_exceptions=False)
    assert {path.name for path in tmp_path.iterdir()} <= {"net.py", "__pycache__"}
