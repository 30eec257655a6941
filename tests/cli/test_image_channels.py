"""Every command that shows or measures images takes 1, 2, 4 and 6 channels, and refuses other numbers in one line."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import deconvviz as dv
from deconvviz.cli.main import cli
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import DataError

NETWORK = """
import torch
from torch import nn

def tiny(channels):
    torch.manual_seed(0)
    maps = nn.Sequential(nn.Conv2d(channels, 4, 3, stride=2), nn.ReLU())
    return nn.Sequential(maps, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()

def of_1(): return tiny(1)
def of_2(): return tiny(2)
def of_4(): return tiny(4)
def of_6(): return tiny(6)
"""
KINDS = {1: "uint8", 2: "float32", 4: "uint16", 6: "uint16"}
SIDE = 16


class Case:
    """A folder with arrays of two classes, their store, a network, and the options that both need."""

    def __init__(self, folder: pathlib.Path, channels: int) -> None:
        self.folder, self.channels, self.model = folder, channels, f"nets.py:of_{channels}"
        kind = KINDS[channels]
        (folder / "nets.py").write_text(NETWORK)
        rows, columns = np.mgrid[:SIDE, :SIDE]
        for number in range(6):
            waves = [
                np.sin((rows * (number % 2 + 1) + columns * (c + 1) + number) / 3) / 2 + 0.5 for c in range(channels)
            ]
            image = np.stack(waves, -1)
            image = image.astype(np.float32) if kind == "float32" else (image * np.iinfo(kind).max).astype(kind)
            path = folder / "bands" / "ab"[number % 2] / f"{number}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, image)
        dv.pack(folder / "bands", folder / "bands.h5", raw=True, progress=False)
        self.image = "bands/a/0.npy"
        self.options = ["--mean", ",".join(["0.5"] * channels), "--std", ",".join(["0.25"] * channels)]
        self.options += ["--input", str(SIDE), "--resize", str(SIDE), "--weights", "none"]
        self.shown = ["--image-channels", "3,2,1"] if channels > 3 else []


@pytest.fixture
def case(request: pytest.FixtureRequest, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    monkeypatch.chdir(tmp_path)
    yield Case(tmp_path, request.param)


def captions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that collects the captions of figures instead of rendering them."""
    noted: list[str] = []
    monkeypatch.setattr("deconvviz.figures.tiles.rendered", lambda figure, kind, caption: noted.append(caption) or b"x")
    return noted


def says_what_is_shown(case: Case, caption: str) -> bool:
    words = {1: "", 2: "Of the 2 channels of the images, 0 is shown as grey."}
    return words.get(case.channels, "3, 2 and 1 are shown as red, green and blue") in caption


def invoked(*arguments: str) -> None:
    outcome = CliRunner().invoke(cli, [*arguments], catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output


def commands(case: Case) -> dict[str, list[str]]:
    model, both = case.model, [*case.options, *case.shown]
    return {
        "project": ["project", model, case.image, *both, "-l", "0.1", "-c", "1", "-o", "p.png"],
        "cam": ["cam", "grad-cam,occlusion", model, case.image, *both, "-l", "0.1", "-o", "c.png", "--quiet"],
        "occlude": ["occlude", model, "bands.h5", *both, "--images", "0,3", "-o", "o.png", "--quiet"],
        "occlude-file": ["occlude", model, case.image, *both, "-o", "o.png", "--quiet"],
        "evaluate": ["evaluate", model, "bands.h5", *both, "-m", "grad-cam", "-l", "0.1", "-o", "e.csv", "--quiet"],
        "invariance": ["invariance", model, "bands.h5", *both, "-l", "0.1", "-o", "i.png", "--quiet"],
    }


@pytest.mark.slow
@pytest.mark.parametrize("case", [6], indirect=True)
def test_mine_and_grid(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    check_mining_and_its_figure(case, captions(monkeypatch))


@pytest.mark.slow
@pytest.mark.parametrize("case", [1, 2, 4], indirect=True)
def test_mine_and_grid_of_other_channels(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    check_mining_and_its_figure(case, captions(monkeypatch))


def check_mining_and_its_figure(case: Case, noted: list[str]) -> None:
    invoked("mine", case.model, "bands.h5", *case.options, "-l", "0.1", "-k", "3", "-o", "m.h5", "--quiet")
    invoked("grid", "m.h5", "-l", "0.1", *case.shown, "--rule", "gradient", "--mean", "-o", "g.png", "--quiet")
    assert len(noted) == 1 and says_what_is_shown(case, noted[0])
    mined = dv.load_mined("m.h5")
    with dv.ImageStore.open("bands.h5") as store:  # the largest value of a filter on its strongest image, by hand
        preprocess = Preprocess.from_dict(mined.config["preprocess"])
        x = preprocess(store[int(mined["0.1"].images[2, 0])][0]).double().numpy()
    namespace: dict[str, Any] = {}
    exec(NETWORK, namespace)
    convolution = namespace["tiny"](case.channels)[0][0]
    weight, bias = convolution.weight[2].detach().double().numpy(), float(convolution.bias[2])
    side = (SIDE - 3) // 2 + 1
    values = [
        float((x[:, 2 * a : 2 * a + 3, 2 * b : 2 * b + 3] * weight).sum() + bias)
        for a in range(side)
        for b in range(side)
    ]
    assert mined["0.1"].values[2, 0] == pytest.approx(max(0, *values), rel=1e-4)


@pytest.mark.parametrize("case", [6], indirect=True)
def test_projection(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    noted = captions(monkeypatch)
    invoked(*commands(case)["project"])
    assert len(noted) == 1 and says_what_is_shown(case, noted[0])


@pytest.mark.slow
@pytest.mark.parametrize("command", ["project", "cam", "occlude", "occlude-file", "evaluate", "invariance"])
@pytest.mark.parametrize("case", [1, 2, 4, 6], indirect=True)
def test_every_figure(case: Case, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    noted = captions(monkeypatch)
    invoked(*commands(case)[command])
    assert noted and says_what_is_shown(case, noted[0])


@pytest.mark.slow
@pytest.mark.parametrize("case", [1, 2, 4, 6], indirect=True)
def test_diagnose(case: Case) -> None:
    invoked("diagnose", case.model, "bands.h5", *case.options, *case.shown, "-o", "d", "--quiet")
    page = (case.folder / "d" / "index.html").read_text()
    assert says_what_is_shown(case, " ".join(page.split()))


@pytest.mark.slow
@pytest.mark.parametrize("case", [6], indirect=True)
def test_atlas(case: Case) -> None:
    invoked(
        "atlas", case.model, "bands.h5", *case.options, *case.shown, "-l", "0.1", "-o", "a", "--top", "2", "--quiet"
    )
    assert (case.folder / "a" / "index.html").is_file()


@pytest.mark.parametrize("case", [2], indirect=True)
@pytest.mark.parametrize("command", ["mine", "project", "occlude", "evaluate"])
def test_other_numbers_of_channels_are_refused_in_one_line(case: Case, command: str) -> None:
    four = Case.__new__(Case)
    four.model, four.image, four.shown = "nets.py:of_4", case.image, []
    four.options = ["--mean", "0.5,0.5,0.5,0.5", "--std", "1,1,1,1", "--input", "16", "--weights", "none"]
    mine = ["mine", four.model, "bands.h5", *four.options, "-l", "0.1", "-o", "m.h5", "--quiet"]
    outcome = CliRunner().invoke(cli, {**commands(four), "mine": mine}[command])
    assert isinstance(outcome.exception, DataError)
    assert "images of 2 channels (float32) given to a network of 4 channels" in str(outcome.exception)
    assert "\n" not in str(outcome.exception)
    written = {path.name for path in case.folder.iterdir()} - {"__pycache__"}
    assert written == {"bands", "bands.h5", "nets.py"}


@pytest.mark.slow
@pytest.mark.parametrize("case", [1, 2, 4, 6], indirect=True)
def test_evolve(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    noted = captions(monkeypatch)
    namespace: dict[str, Any] = {}
    exec(NETWORK, namespace)
    network, n = namespace["tiny"](case.channels), case.channels
    own = Preprocess(resize=SIDE, crop=SIDE, mean=(0.5,) * n, std=(0.25,) * n)
    of_the_images = case.options[: case.options.index("--weights")]
    known = {"model": case.model, "preprocess": own.as_dict()}
    for name, config, options in [("own", known, []), ("told", {}, ["--model", case.model, *of_the_images])]:
        record = dv.SnapshotRecorder(f"{name}.h5", epochs=(1, 2), config=config)
        for epoch in (1, 2):
            record(epoch, network)
        where = ["-l", "0.1", "--filters", "2", "-o", f"{name}.png", "--quiet"]
        invoked("evolve", f"{name}.h5", "bands.h5", *options, *case.shown, *where)
    assert len(noted) == 2 and says_what_is_shown(case, noted[0]) and noted[0] == noted[1]
    tables = [(case.folder / name).read_text() for name in ("own.csv", "told.csv", "own.layers.csv", "told.layers.csv")]
    assert tables[0] == tables[1] and tables[2] == tables[3]
