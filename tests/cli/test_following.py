"""What commands say of a network of the user's own: the command that follows, and what they assume."""

from __future__ import annotations

import pathlib
import shlex

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from deconvviz.cli.main import cli
from deconvviz.errors import MismatchError, ModelError

MODEL = """
import torch
from torch import nn
from torch.nn import functional as F

class Plain(nn.Sequential):
    pass

def tiny():
    torch.manual_seed(3)
    return Plain(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 2),
    )

def prepared():
    return tiny(), {"resize": 20, "crop": 20, "mean": (0.4, 0.4, 0.4), "std": (0.2, 0.2, 0.2)}
"""
WEIGHTS_NOTE, ASSUMED_NOTE = "note: the weights are those with which", "assumed, because nothing is known: "


@pytest.fixture
def work(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """The folder that commands run in: a model file, weights of its network, and pictures of two classes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(MODEL)
    random = np.random.default_rng(0)
    for n in range(12):
        path = tmp_path / "my photos" / "ab"[n % 2] / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (24, 24, 3), np.uint8)).save(path)
    space: dict[str, object] = {}
    exec(MODEL, space)
    state = space["tiny"]().state_dict()
    torch.save({"state_dict": {name: value + 0.01 for name, value in state.items()}}, tmp_path / "own weights.pth")
    return tmp_path


def run(*words: str) -> Result:
    result = CliRunner().invoke(cli, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def next_commands(result: Result) -> list[list[str]]:
    """The commands after "next", as a shell would split them."""
    _, _, said = result.output.rpartition("; next")
    lines = [line[line.index("deconvviz ") :] for line in said.splitlines() if "deconvviz " in line]
    return [shlex.split(line)[1:] for line in lines]


PACK = ("pack", "my photos", "photos.h5", "--quiet")
MINE = ("mine", "net.py:tiny", "photos.h5", "-l", "2", "--quiet", "-k", "2")


def test_mine_is_followed_by_a_figure(work: pathlib.Path) -> None:
    """With all that the network was given: the figure is drawn from a file and a store whose names have spaces."""
    run(*PACK)
    own = ("--weights", "own weights.pth", "--input", "20", "--image-channels", "2,1,0", "--device", "cpu")
    mined = run(*MINE, *own, "-o", "my mined.h5")
    assert WEIGHTS_NOTE not in mined.output
    (following,) = next_commands(mined)
    assert following[:2] == ["grid", "my mined.h5"] and following[following.index("--image-channels") + 1] == "2,1,0"
    assert "wrote 2.png" in run(*following, "--quiet").output
    part = run(*MINE, *own, "--shard", "0/2", "-o", "part.h5").output
    assert "shard 0 of 2; `deconvviz merge` joins" in part and "next" not in part


@pytest.mark.slow
def test_train_cam_is_followed_by_a_map(work: pathlib.Path) -> None:
    """The weights, the input and the names of the classes are given again; the picture is one of the folder."""
    (work / "names.txt").write_text("a\nb\n")
    own = ("--weights", "own weights.pth", "--input", "20", "--mean", "0.5,0.5,0.5", "--std", "0.2,0.2,0.2")
    asked = ("train-cam", "l-cam-fm", "net.py:tiny", "my photos", "-l", "2", "--epochs", "1", "--quiet")
    trained = run(*asked, *own, "--classes", "names.txt", "-o", "lcam.pth")
    (following,) = next_commands(trained)
    assert set(own) | {"--classes", "names.txt"} <= set(following)
    assert "wrote cam.png" in run(*following, "--quiet").output
    without = [word for n, word in enumerate(following) if "--weights" not in following[max(0, n - 1) : n + 1]]
    with pytest.raises(MismatchError, match=r"for other weights of the same architecture .*\(--weights FILE\)"):
        run(*without, "--quiet")


@pytest.mark.slow
def test_train_is_followed_by_what_shows_the_network(work: pathlib.Path) -> None:
    asked = ("train", "net.py:prepared", "my photos", "--epochs", "1", "--batch-size", "4", "--quiet")
    commands = next_commands(run(*asked, "--snapshots", "evolution.h5", "-o", "trained.pth"))
    assert [words[0] for words in commands] == ["pack", "mine", "evolve"]
    for words in commands:
        run(*words, "--quiet")
    assert (work / "evolution.png").is_file()


def test_weights_that_nobody_loaded_are_named(work: pathlib.Path) -> None:
    """Once, where they matter: not in the table of layers, nor where a file or random weights are asked for."""
    run(*PACK)
    said = run(*MINE, "--input", "20", "-o", "m.h5").output
    assert said.count(WEIGHTS_NOTE) == 1 and "tiny of net.py returned the network" in said and "--weights FILE" in said
    assert WEIGHTS_NOTE not in run(*MINE, "--input", "20", "--weights", "none", "-o", "n.h5").output
    assert WEIGHTS_NOTE not in run("layers", "net.py:tiny").output
    with pytest.raises(
        MismatchError, match="other weights of the same architecture, which --weights of a command names: fingerp"
    ):
        run(*MINE, "--input", "20", "--weights", "own weights.pth", "-o", "m.h5")


@pytest.mark.parametrize(
    ("words", "note"),
    [
        (
            ["net.py:tiny"],
            "; 224 px and ImageNet's mean and standard deviation are assumed, because nothing is known: --input",
        ),
        (["net.py:tiny", "--input", "20"], "; ImageNet's mean and standard deviation are assumed, because"),
        (
            ["net.py:tiny", "--mean", "0,0,0", "--std", "1,1,1"],
            "; 224 px are assumed, because nothing is known: --input",
        ),
        (
            ["net.py:tiny", "--weights", "none"],
            "; 224 px are assumed, because nothing is known: --input",
        ),
        (["net.py:prepared"], ""),
        (["demo"], ""),
    ],
)
def test_what_is_assumed_of_the_input_is_said(words: list[str], note: str, work: pathlib.Path) -> None:
    said = run("layers", *words).output
    assert note in said and (ASSUMED_NOTE in said) == bool(note)


def test_only_what_the_file_defines_is_suggested(work: pathlib.Path) -> None:
    with pytest.raises(ModelError) as error:
        run("layers", "net.py:tinny")
    assert str(error.value).endswith("nearest: tiny, Plain")
    with pytest.raises(ModelError) as error:
        run("layers", "net.py:nn_or_F")
    named = str(error.value).partition("nearest: ")[2].split(", ")
    assert set(named) <= {"Plain", "tiny", "prepared"}
