"""Every example runs, is short, and writes what it says."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest
from PIL import Image

import deconvviz as dv

EXAMPLES = pathlib.Path(__file__).resolve().parent.parent / "examples"


def run(*args: object) -> str:
    command = [sys.executable, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


LONGER = {"infogan.py": 100}  # it trains two networks against each other, which no function of the package does


def test_examples_are_short() -> None:
    for path in EXAMPLES.glob("*.py"):
        lines = [line for line in path.read_text().split('"""', 2)[2].splitlines() if line.strip()]
        assert len(lines) <= LONGER.get(path.name, 25), path.name


@pytest.mark.slow
def test_project_unit(tmp_path: pathlib.Path) -> None:
    assert "features.7:150" in run(EXAMPLES / "project_unit.py", tmp_path / "p.png")
    assert Image.open(tmp_path / "p.png").size == (224, 224)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("tiles")
    assert "wrote 180 tiles" in run(EXAMPLES / "skimage_tiles.py", folder / "tiles")
    run("-m", "deconvviz", "pack", folder / "tiles", folder / "tiles.h5", "--limit", 40, "--quiet")
    return folder


@pytest.mark.slow
def test_mine_and_compute(tiles: pathlib.Path) -> None:
    out = run(EXAMPLES / "mine_and_compute.py", tiles / "tiles.h5", tiles / "mined.h5")
    assert "features.7: " in out and "strongest: channel" in out


@pytest.mark.slow
def test_own_model(tiles: pathlib.Path) -> None:
    model = f"{EXAMPLES / 'own_model.py'}:make"
    assert "16x32x32" in run("-m", "deconvviz", "layers", model, "--weights", "none")
    mined = tiles / "own.h5"
    run("-m", "deconvviz", "mine", model, tiles / "tiles.h5", "--weights", "none", "-l", "1", "-o", mined, "--quiet")
    run("-m", "deconvviz", "grid", mined, "-l", "1", "-o", tiles / "own.png", "--quiet")
    assert Image.open(tiles / "own.png").size[0] > 500


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[pathlib.Path]:
    folder = tmp_path_factory.mktemp("photos")
    for n in range(2):
        Image.fromarray(dv.Scenes(2, seed=3)[n][0]).resize((96, 96)).save(folder / f"{n}.png")
    return [folder / f"{n}.png" for n in range(2)]


@pytest.mark.slow
def test_explain_detector(photos: list[pathlib.Path], tmp_path: pathlib.Path) -> None:
    assert run(EXAMPLES / "explain_detector.py", photos[0], tmp_path / "box.png", "none").startswith("label ")
    assert Image.open(tmp_path / "box.png").size[0] > 300


@pytest.mark.slow
def test_explain_segment(photos: list[pathlib.Path], tmp_path: pathlib.Path) -> None:
    assert "pixels of class" in run(EXAMPLES / "explain_segment.py", *photos, tmp_path / "m", "none")
    assert Image.open(tmp_path / "m-segment.png").size == Image.open(tmp_path / "m-alike.png").size


@pytest.mark.slow
def test_two_inputs(photos: list[pathlib.Path], tmp_path: pathlib.Path) -> None:
    file, out = EXAMPLES / "two_inputs.py", tmp_path / "dose.png"
    call = ("--call", f"{file}:with_age", "-t", "output:0", "--weights", "none")
    run("-m", "deconvviz", "cam", "hirescam", f"{file}:make", photos[0], *call, "-o", out)
    assert Image.open(out).size[0] > 300


@pytest.mark.slow
def test_character_lstm(tmp_path: pathlib.Path) -> None:
    text = run(EXAMPLES.parent / "tools" / "bracket_text", 60, 1)
    (tmp_path / "t.txt").write_text(text)
    example = EXAMPLES / "character_lstm.py"
    command = [sys.executable, str(example), "t.txt", "3"]
    assert "nats" in subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert (tmp_path / "character_lstm.pth").exists()
    model = dv.load_recurrent(f"{example}:make")
    read = dv.text_sequences(text, model.vocabulary, split="file")
    assert model.units == 48 and read.text(0, len(read)) == text


@pytest.mark.slow
def test_captioner() -> None:
    """Its weights are random here, unless tools/train_captioner has been run in this folder."""
    model = dv.load_recurrent(f"{EXAMPLES / 'captioner.py'}:make")
    caption = dv.explain_caption(model, dv.Scenes(1)[0][0], words=["a", "large", "cat"])
    assert caption.maps.shape == (3, 64, 64) and abs(caption.maps).max() > 0
