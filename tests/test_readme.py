"""The Python of README and of the tour runs as it is pasted, one block after the other."""

from __future__ import annotations

import functools
import pathlib
import re
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from click.testing import CliRunner
from PIL import Image

import deconvviz as dv
from deconvviz.cam.catalogue import method_declarations
from deconvviz.cam.pairs.catalogue import pair_declarations
from deconvviz.cli.main import cli

ROOT = pathlib.Path(__file__).resolve().parent.parent


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text("utf-8"), flags=re.M | re.S)


@pytest.fixture
def work(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A folder with the photo and the store that the pages name; trained weights are not downloaded."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for n in range(4):
        path = tmp_path / "photos" / "ab"[n % 2] / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (60, 80, 3), np.uint8)).save(path)
    Image.open(tmp_path / "photos" / "a" / "0.png").save(tmp_path / "cat.jpg")
    dv.pack("photos", "photos.h5", progress=False)
    untrained = functools.partial(torchvision.models.squeezenet1_0)
    monkeypatch.setattr(torchvision.models, "squeezenet1_0", lambda weights: untrained())
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/tour.md"])
def test_python_runs_as_it_is_pasted(page: str, work: pathlib.Path) -> None:
    space: dict[str, Any] = {}
    for block in blocks(page):
        exec(compile(block, page, "exec"), space)
    assert space["proj"].full().shape == (3, 224, 224) and (work / "mined.h5").is_file()


def test_the_methods_are_counted() -> None:
    words = {6: "six", 7: "seven", 8: "eight", 9: "nine"}
    text = (ROOT / "README.md").read_text("utf-8")
    assert f"by any of {len(method_declarations())} methods | `cam` |" in text
    assert f"by {words[len(pair_declarations())]} methods, and how well each explains it | `pair` |" in text


@pytest.mark.slow
def test_the_factory_is_one(work: pathlib.Path) -> None:
    """What README calls my_net.py gives the module, its preparation and its names; a checkpoint loads into it."""
    (source,) = [block for block in blocks("README.md") if block.startswith("# my_net.py")]
    (work / "my_net.py").write_text(source)
    loaded = dv.load_model("my_net.py:cifar")
    assert loaded.settings["crop"] == 32 and loaded.classes[0] == "airplane" and len(loaded.classes) == 10
    torch.save({"epoch": 3, "state_dict": loaded.model.state_dict()}, work / "checkpoint.pth.tar")
    (line,) = re.findall(r"^deconvviz (mine my_net.py:cifar .*)$", (ROOT / "README.md").read_text(), flags=re.M)
    result = CliRunner().invoke(cli, [*line.split(), "--quiet"], catch_exceptions=False)
    assert result.exit_code == 0 and "layer2.1" in result.output
