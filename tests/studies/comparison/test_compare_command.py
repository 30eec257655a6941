"""The command `compare`: the ways of naming two networks, the files and the page, and what it refuses."""

from __future__ import annotations

import csv
import json
import pathlib
import re
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from compared import PREPROCESS, compare, model, silenced

import deconvviz as dv
from deconvviz.cli.networks import named_network
from deconvviz.data.datasets import Part
from deconvviz.errors import DataError, DeconvvizError, MismatchError, ModelError
from deconvviz.studies.comparison.command import compare as command
from deconvviz.studies.comparison.page import write_comparison

FACTORY = """
import torch
from torch import nn
def net():
    torch.manual_seed({seed})
    return nn.Sequential(nn.Conv2d(3, 5, 5, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
                         nn.Linear(20, 10)), {{"resize": 32, "crop": 32}}
"""


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(command, [*arguments, "--quiet", "--device", "cpu"], catch_exceptions=False)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A factory, two weights files of it, and snapshots that do not name their model."""
    folder = tmp_path_factory.mktemp("networks")
    (folder / "net.py").write_text(FACTORY.format(seed=0))
    net = dv.load_model(f"{folder}/net.py:net").model
    net[0].weight.data[2] = 0.5 * (-1.0) ** (torch.arange(5)[:, None] + torch.arange(5))  # unlike the others
    record = dv.SnapshotRecorder(folder / "s.h5", (1, 2))
    torch.save(net.state_dict(), folder / "a.pth")
    record(1, net)
    with torch.no_grad():
        net[0].weight[2] = 0
        net[0].bias[2] = -1
    torch.save(net.state_dict(), folder / "b.pth")
    record(2, net)
    return folder


def test_the_drift_of_explanations(files: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """With a bump of the network before, the page tells how far explanations drift; another's is refused at once."""
    from deconvviz.cam.learned.base import LEARNED
    from deconvviz.cam.learned.files import configuration, save_explainer

    before, after = (str(files / name) for name in ("a.pth", "b.pth"))
    loaded = dv.load_model(f"{files}/net.py:net", weights=before)
    network = dv.capture(loaded.model, (3, 32, 32))
    torch.manual_seed(0)
    bump = LEARNED["bump"]({"1": (5, 14, 14)}, 10, width=4)
    bump.input_shape = (3, 32, 32)
    save_explainer(bump, tmp_path / "bump.pth", configuration(bump, network, {}))
    about = ["scenes:12:3", "--model", f"{files}/net.py:net", "--bump", str(tmp_path / "bump.pth"), "--limit", "8"]
    about += ["-l", "1", "--checks", "none", "--filters", "0", "--decisions", "0", "-o"]
    result = invoke(before, after, *about, str(tmp_path / "page"))
    assert result.exit_code == 0, result.output
    other = dv.capture(dv.load_model(f"{files}/net.py:net", weights=after).model, (3, 32, 32))
    images = Part(dv.Scenes(12, seed=3), np.flatnonzero(kept_images(tmp_path / "page" / "drift.csv")))
    preprocess = dv.Preprocess.from_dict(loaded.settings)
    found = dv.explanation_drift(network, other, images, bump, preprocess=preprocess, progress=False)
    page = (tmp_path / "page" / "index.html").read_text()
    assert found.mean > 0 and f"<strong>{found.mean:.3f}</strong>" in page and repr(found) in result.output
    with pytest.raises(MismatchError, match="trained for other weights"):
        invoke(after, before, *about, str(tmp_path / "other"))
    with pytest.raises(MismatchError, match="prepare images differently"):
        invoke("demo", before, *about, str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def kept_images(drift: pathlib.Path) -> list[bool]:
    """Which of twelve images a table of the drift has."""
    names = {row["image"] for row in csv.DictReader(drift.read_text().splitlines())}
    return [name in names for name in dv.Scenes(12, seed=3).names]


def test_the_command_on_two_weights_files(files: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "page"
    arguments = [str(files / "a.pth"), str(files / "b.pth"), "scenes:24:3", "--model", f"{files}/net.py:net"]
    arguments += ["-o", str(out), "-l", "1", "--checks", "dead", "--filters", "2", "-k", "4", "--decisions", "2"]
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    assert "1: 5 filters, 5 with its own number" in result.output and "1 gone, 0 new" in result.output
    assert "new: dead, layer 1" in result.output and f"open {out / 'index.html'}" in result.output
    assert {path.name for path in out.iterdir()} == {
        *("index.html", "data", "figures", "filters.csv", "findings.csv", "comparison.json")
    }
    content = json.loads((out / "comparison.json").read_text())
    assert content["layers"][0]["gone"] == [2] and content["networks"] == ["a.pth", "b.pth"]
    with (out / "filters.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["kept", "kept", "gone", "kept", "kept"]
    page = (out / "index.html").read_text()
    assert page.count("data:image/webp") == 4 and not re.search(r'src="(?!data:)', page)
    assert all((out / name).is_file() for name in re.findall(r'href="(figures/[^"]+)"', page))
    before = (out / "comparison.json").read_bytes()
    assert invoke(*arguments).exit_code == 0 and (out / "comparison.json").read_bytes() == before


def test_two_epochs_of_one_file_and_a_model_with_weights(files: pathlib.Path) -> None:
    spec = f"{files}/net.py:net"
    one, two = (named_network(f"{files}/s.h5:{epoch}", spec) for epoch in (1, 2))
    assert (one.name, two.name) == ("s.h5, epoch 1", "s.h5, epoch 2")
    assert not two.loaded.model[0].weight[2].any() and one.loaded.model[0].weight[2].any()
    last = named_network(f"{files}/s.h5", spec)
    assert last.name == "s.h5, epoch 2"
    plain = named_network(f"{spec}:{files}/b.pth")
    assert plain.name == f"{spec} (b.pth)"
    assert (plain.loaded.model[0].weight == two.loaded.model[0].weight).all()
    assert named_network("demo:64").loaded.classes[0] == "cat" and named_network("demo:none").name == "demo (none)"


def test_a_file_of_train_names_its_model(tmp_path: pathlib.Path) -> None:
    net = dv.zfnet(10, 32, width=0.04)
    recipe = dv.Recipe(epochs=1, batch_size=16, validation=0)
    dv.train(net, dv.Scenes(16), tmp_path / "z.pth", recipe, name="zfnet", arguments=net.arguments, progress=False)
    named = named_network(f"{tmp_path}/z.pth")
    assert named.loaded.spec == "zfnet" and named.name == "z.pth" and len(named.loaded.classes) == 10


def test_refusals(files: pathlib.Path, tmp_path: pathlib.Path) -> None:
    spec, out = f"{files}/net.py:net", str(tmp_path / "out")
    with pytest.raises(ModelError, match="does not name its model; give --model"):
        named_network(f"{files}/a.pth")
    with pytest.raises(ModelError, match="does not name its model; give --model"):
        named_network(f"{files}/s.h5:1")
    with pytest.raises(DataError, match="holds no epoch 7"):
        named_network(f"{files}/s.h5:7", spec)
    with pytest.raises(ModelError, match="no such file"):
        named_network(f"{files}/nothing.pth")
    with pytest.raises(ModelError, match="no such file"):
        named_network(f"{files}/nothing.h5:3")
    with pytest.raises(MismatchError, match="does not fit"):
        named_network(f"{files}/s.h5:1", "torchvision:squeezenet1_1")
    with pytest.raises(MismatchError, match="different architectures"):
        invoke("demo:1", spec, "scenes:8", "-o", out, "--checks", "none")
    with pytest.raises(DeconvvizError, match="nothing"):
        invoke("demo:1", "demo:2", "scenes:8", "-o", out, "--checks", "nothing")
    assert not pathlib.Path(out).exists()


def test_text_from_files_is_escaped(tmp_path: pathlib.Path) -> None:
    net = model()
    result = compare(net, silenced(net, 1), names=("<script>a</script>", "b & c"), class_names=["<i>"] * 10)
    write_comparison(tmp_path, result, images="<b>photos</b>", command="deconvviz compare '<x>'")
    page = (tmp_path / "index.html").read_text()
    assert "<script>a" not in page and "<b>photos" not in page and "<i>" not in page and "<x>" not in page
    assert "&lt;script&gt;a" in page and "&lt;i&gt;" in page and PREPROCESS.crop == 32


@pytest.mark.browser
def test_the_page_in_a_browser(tmp_path: pathlib.Path, browser: Any) -> None:
    net = model()
    result = compare(net, silenced(net, 1), class_names=list(dv.Scenes(1).classes))
    page_path = write_comparison(tmp_path, result, images="scenes", command="deconvviz compare")
    problems: list[str] = []
    for width in (1200, 390):
        tab = browser.new_page(viewport={"width": width, "height": 800})
        tab.on("console", lambda message: problems.append(message.text))
        tab.on("requestfailed", lambda request: problems.append(request.url))
        tab.goto(page_path.resolve().as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
        assert tab.evaluate(broken) == 0 and tab.locator("img").count() == 5
        tab.close()
    assert not problems
