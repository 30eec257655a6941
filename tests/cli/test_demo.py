"""The packaged network is what the README says, and the demo's page is whole and true."""

from __future__ import annotations

import html.parser
import pathlib
import re
import shlex

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import deconvviz as dv
from deconvviz.cli.demo import TRAINING
from deconvviz.cli.main import cli
from deconvviz.errors import DataError
from deconvviz.models.load import DEMO, DEMO_SNAPSHOTS, load_model
from deconvviz.results.snapshots import Snapshots
from deconvviz.studies.training.recorder import PAPER_EPOCHS

# How far accuracy and loss of a retrained epoch may be from the packaged ones: with another number of threads the sums
# have another order, which moved them by up to 0.023.
BAND = 0.06


@pytest.mark.slow
def test_the_packaged_network_recognises_unseen_scenes() -> None:
    loaded = load_model("demo")
    scenes, pre = dv.Scenes(400, seed=99), dv.Preprocess.from_dict(loaded.settings)
    with torch.inference_mode():
        given = loaded.model(torch.stack([pre(scenes[i][0]) for i in range(len(scenes))])).argmax(1).numpy()
    assert (given == scenes.labels).mean() > 0.95
    assert loaded.settings["crop"] == 64 and not loaded.model.training


def test_the_packaged_files() -> None:
    assert DEMO.stat().st_size + DEMO_SNAPSHOTS.stat().st_size < 5e6
    found, state = Snapshots(DEMO_SNAPSHOTS), load_model("demo").model.state_dict()
    assert found.epochs == PAPER_EPOCHS and len(found.history) == 64
    last = found.weights(64)
    assert all(np.array_equal(last[name], tensor.half().numpy()) for name, tensor in state.items())
    text = DEMO_SNAPSHOTS.read_bytes() + DEMO.read_bytes()
    assert b"/home" not in text and b"/tmp" not in text and b"/root" not in text
    assert shlex.split(found.sources["command"])[1 : len(TRAINING) + 1] == list(TRAINING)


@pytest.mark.slow
def test_trained_again_it_learns_alike(tmp_path: pathlib.Path) -> None:
    """Three epochs by the packaged recipe reach the packaged accuracies, within BAND."""
    arguments = [*TRAINING, "--epochs", "3", "--device", "cpu", "--quiet", "--out", str(tmp_path / "z.pth")]
    arguments += ["--snapshots", str(tmp_path / "e.h5"), "--snapshot-half"]
    assert CliRunner().invoke(cli, arguments, catch_exceptions=False).exit_code == 0
    ours, packaged = Snapshots(tmp_path / "e.h5"), Snapshots(DEMO_SNAPSHOTS)
    assert ours.epochs == (1, 2, 3)  # the last one is always kept
    for one, other in zip(ours.history, packaged.history[:3], strict=True):
        assert abs(one["validation_accuracy"] - other["validation_accuracy"]) <= BAND
        assert abs(one["loss"] - other["loss"]) <= BAND
    for name, tensor in packaged.weights(1).items():
        other = ours.weights(1)[name].astype(np.float64)
        assert np.corrcoef(tensor.ravel().astype(np.float64), other.ravel())[0, 1] > 0.98 or tensor.ndim == 1


class Page(html.parser.HTMLParser):
    """What a page shows and asks for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.ids: set[str | None] = set()
        self.anchors: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.ids.add(found.get("id"))
        self.sources += [str(found[key]) for key in ("src", "href", "data", "poster", "srcset") if key in found]
        if tag == "img":
            self.images.append(found)
        if tag == "a":
            self.anchors.append(str(found["href"]))


@pytest.mark.slow
def test_a_demo(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One with a network of its own, and two of the packaged one in its place: one test, since each takes long."""
    made = tmp_path / "a demo"
    made.mkdir()
    (made / ".scenes.h5.0123.part").touch()  # what a kill leaves does not hinder the next run
    arguments = ["demo", "--out", str(made), "--images", "60", "--quiet"]
    with monkeypatch.context() as patched:
        its_own_network_is_shown(made, arguments, patched)
    assert CliRunner().invoke(cli, arguments, catch_exceptions=False).exit_code == 0
    before = (made / "index.html").read_bytes()
    assert b"for 64 epochs" in before
    its_page_is_whole(made)
    its_commands_can_be_typed(made)
    assert CliRunner().invoke(cli, arguments, catch_exceptions=False).exit_code == 0
    without = re.compile(rb"in \d+ seconds")
    assert without.sub(b"", before) == without.sub(b"", (made / "index.html").read_bytes())


def its_own_network_is_shown(made: pathlib.Path, arguments: list[str], patched: pytest.MonkeyPatch) -> None:
    """--train, with a short training, and two layers of five: its own weights and snapshots, and the page says so."""
    from deconvviz.cli import demo

    short = "train zfnet scenes:60 --input 64 --resize 72 --width 0.1 --fc 200,200 --batch-size 16 --epochs 2"
    patched.setattr(demo, "TRAINING", tuple(short.split()))
    patched.setattr(demo, "LAYERS", ("conv1", demo.READ_LAYER))
    assert CliRunner().invoke(cli, [*arguments, "--train"], catch_exceptions=False).exit_code == 0
    text = (made / "index.html").read_text("utf-8")
    assert "on this machine, just now" in text and "for 2 epochs" in text and "deconvviz evolve" in text
    assert load_model("zfnet", str(made / "zfnet.pth")).model.arguments["width"] == 0.1
    assert Snapshots(made / "evolution.h5").epochs == (1, 2)


def its_page_is_whole(made: pathlib.Path) -> None:
    text = (made / "index.html").read_text("utf-8")
    page = Page(text)
    own = [source for source in page.sources if not source.startswith(("data:image/webp;base64,", "#"))]
    example = [source for source in own if source.startswith("atlas/filter.html#conv3:")]
    assert set(own) == {"atlas/index.html", "diagnosis/index.html", *example} and len(example) == 1
    assert all((made / source.partition("#")[0]).is_file() for source in own)  # nothing from elsewhere
    assert "@import" not in text and text.count("url(") == text.count("url(#lesson-tip)") and "<script" not in text
    assert len(page.images) == 2 + 1 + 5 + 3 and all(image["alt"] for image in page.images)
    assert {anchor[1:] for anchor in page.anchors if anchor.startswith("#")} <= page.ids
    assert "275 filters" in (made / "atlas" / "index.html").read_text("utf-8")
    for name in ("conv1", "conv2", "conv3", "conv4", "conv5", "evolution", "invariance", "occlusion", "pictures"):
        with Image.open(made / f"{name}.png") as figure:
            assert min(figure.size) > 200
    # what projections do not show stands where the user reads, and after what they do show
    assert text.index("unpools") < text.index("<svg") < text.index("This is filter") < text.index("randomised")


def its_commands_can_be_typed(made: pathlib.Path) -> None:
    """Each figure's command, as the page prints it, makes that figure again."""
    text = (made / "index.html").read_text("utf-8")
    typed = [
        html.unescape(line) for block in re.findall(r"<pre>(.*?)</pre>", text, re.S) for line in block.splitlines()
    ]
    (grid,) = {line for line in typed if line.startswith("deconvviz grid") and "conv3.png" in line}
    figure, (before, described) = made / "conv3.png", picture(made / "conv3.png")
    figure.unlink()
    result = CliRunner().invoke(cli, shlex.split(grid)[1:], catch_exceptions=False)
    assert result.exit_code == 0 and np.array_equal(picture(figure)[0], before)
    assert grid in described  # and the figure says how it was made


def picture(path: pathlib.Path) -> tuple[np.ndarray, str]:
    with Image.open(path) as figure:
        return np.asarray(figure), figure.text["Description"]


def test_a_folder_with_other_files_is_left_alone(tmp_path: pathlib.Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(DataError, match="holds other files"):
        CliRunner().invoke(cli, ["demo", "--out", str(tmp_path)], catch_exceptions=False)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(DataError, match="is a file"):
        CliRunner().invoke(cli, ["demo", "--out", str(tmp_path / "thesis.tex")], catch_exceptions=False)


@pytest.mark.slow
def test_it_runs_in_half_precision() -> None:
    """Contrast normalisation pools over channels, for which a CPU has no kernel in bf16."""
    loaded, scenes = load_model("demo"), dv.Scenes(4, seed=11)
    network = dv.capture(loaded.model, (3, 64, 64))
    x = torch.stack([dv.Preprocess.from_dict(loaded.settings)(scenes[n][0]) for n in range(4)])
    half, exact = network.fast("bf16")(x).float(), network(x).detach()
    assert half.dtype == torch.float32 and float((half - exact).abs().max()) < 0.1 * float(exact.abs().max())
    assert not torch.equal(half, exact) and torch.equal(half.argmax(1), exact.argmax(1))


@pytest.mark.slow
def test_demo_is_a_model_everywhere(tmp_path: pathlib.Path) -> None:
    def run(*arguments: object) -> str:
        result = CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    assert "conv5" in run("layers", "demo")
    run("pack", "scenes:50:3", tmp_path / "s.h5", "--quiet")
    Image.fromarray(dv.ImageStore.open(tmp_path / "s.h5")[4][0]).save(tmp_path / "one.png")
    run("project", "demo", tmp_path / "one.png", "-l", "conv5", "-c", 3, "-o", tmp_path / "p.png")
    run("mine", "demo", tmp_path / "s.h5", "-l", "conv4", "-o", tmp_path / "m.h5", "--quiet")
    run("evolve", "demo", tmp_path / "s.h5", "-l", "conv2", "--epochs", "1,64", "-o", tmp_path / "e.png", "--quiet")
