"""What networks return, as the commands that read scores take it: the right numbers, or one clear line."""

from __future__ import annotations

import csv
import pathlib
import re
import sys
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

import deconvviz as dv
from deconvviz.cli import main
from deconvviz.errors import DeconvvizError

FILE = """
import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    def __init__(self, classes, end):
        super().__init__()
        torch.manual_seed(11)
        self.conv, self.act, self.down = nn.Conv2d(3, 5, 3, 2), nn.ReLU(), nn.Conv2d(5, 6, 3, 2)
        self.fc, self.end = nn.Linear(6, classes), end
        nn.init.normal_(self.fc.weight)

    def forward(self, x):
        h = self.down(self.act(self.conv(x))).relu()
        return self.end(self.fc(h.mean((2, 3))) * 3, h)

def made(classes, end):
    return lambda: (Net(classes, end), {"resize": 24, "crop": 24})

scores = made(3, lambda y, h: y)
mapping = made(3, lambda y, h: {"features": h, "logits": y})
pair = made(3, lambda y, h: (h, y))
softmax = made(3, lambda y, h: y.softmax(1))
log_softmax = made(3, lambda y, h: F.log_softmax(y, 1))
by_hand = made(3, lambda y, h: y.exp() / y.exp().sum(1, keepdim=True))
labels = made(3, lambda y, h: y.sigmoid())
one = made(1, lambda y, h: y)
one_sigmoid = made(1, lambda y, h: {"p": y.sigmoid()})
one_as_two = made(1, lambda y, h: torch.cat([y, torch.zeros_like(y)], 1))
pixels = made(3, lambda y, h: {"out": h[:, :3]})
flat = made(1, lambda y, h: y.squeeze(1))
several = made(3, lambda y, h: (y, y * 2))
nothing = made(3, lambda y, h: {"boxes": h.flatten(2)})
"""
EXCLUSIVE = ("scores", "mapping", "pair", "softmax", "log_softmax", "by_hand")
SINGLE = ("one", "one_sigmoid")
READABLE = (*EXCLUSIVE, "labels", *SINGLE)
REFUSED = ("pixels", "flat", "several", "nothing")
TINY = ("--weights", "none", "--device", "cpu", "--quiet")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The file of the networks, and some pictures of two classes."""
    folder = tmp_path_factory.mktemp("outputs")
    (folder / "net.py").write_text(FILE)
    scenes = dv.Scenes(6, seed=3)
    for number in range(6):
        path = folder / "photos" / ("ant" if number % 2 else "bee") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scenes[number][0]).save(path)
    return folder


def asked(command: str, kind: str, work: pathlib.Path, out: pathlib.Path) -> list[str]:
    """The words of a command; what it writes begins with `out`."""
    model, photos = f"{work / 'net.py'}:{kind}", str(work / "photos")
    photo = str(work / "photos" / "bee" / "0.png")
    words = {
        "cam": ["score-cam", model, photo, "-l", "act", "-o", f"{out}.svg", "-t", "0"],
        "evaluate": [model, photos, "-m", "score-cam", "-l", "act", "-o", f"{out}.csv", "--steps", "4"],
        "occlude": [model, photo, "-o", f"{out}.svg", "--square", "12", "--stride", "12", "-t", "0"],
        "invariance": [model, photos, "-o", f"{out}.png", "--count", "2", "--kinds", "scale", "--steps", "scale=1,1.3"],
        "lesion": [model, photos, "-l", "act", "-o", f"{out}.csv", "--count", "4"],
        "diagnose": [model, photos, "-o", str(out), "--checks", "dead", "-l", "act"],
        "atlas": [model, photos, "-o", str(out), "-l", "act", "--rule", "gradient", "--decisions", "2"],
        "train-cam": ["l-cam-fm", model, photos, "-l", "act", "-o", f"{out}.pth", "--epochs", "1", "--validation", "0"],
    }[command]
    return [command, *words, *TINY]


def invoke(words: list[str]) -> Result:
    """Run a command; what it cannot do it must say as a DeconvvizError of one line."""
    result = CliRunner().invoke(main.cli, words)
    error = result.exception
    if result.exit_code and not isinstance(error, DeconvvizError):
        raise AssertionError(f"{words[0]} ended in {type(error).__name__}: {error}\n{result.output}") from error
    assert error is None or "\n" not in str(error)
    return result


def row(out: pathlib.Path) -> dict[str, float]:
    with out.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    return {key: float(value) for key, value in rows[0].items() if re.fullmatch(r"-?\d+\.?\d*(e-?\d+)?", value or "")}


def probability(work: pathlib.Path, kind: str) -> float:
    """The probability of class 0 of the first picture, from the scores alone."""
    loaded = dv.load_model(f"{work / 'net.py'}:{'one' if kind in SINGLE else 'scores'}", "none")
    picture = np.asarray(Image.open(work / "photos" / "bee" / "0.png").convert("RGB"))
    raw = loaded.model.eval()(dv.Preprocess.from_dict(loaded.settings)(picture)[None]).detach().double()[0]
    return float(raw.sigmoid()[0] if kind in (*SINGLE, "labels") else raw.softmax(0)[0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", READABLE)
def test_cam_prints_the_probability(kind: str, work: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert invoke(asked("cam", kind, work, tmp_path / "c")).exit_code == 0
    assert f"p {probability(work, kind):.2f}" in (tmp_path / "c.svg").read_text()


Tables = Callable[[str], dict[str, float]]


@pytest.fixture(scope="module")
def table(work: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Tables:
    """The table of `evaluate` for a kind of output, without the columns of time."""
    folder = tmp_path_factory.mktemp("tables")

    @cache
    def of_kind(kind: str) -> dict[str, float]:
        assert invoke(asked("evaluate", kind, work, folder / kind)).exit_code == 0, kind
        return {key: value for key, value in row(folder / kind).items() if "sec" not in key}

    return of_kind


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "like"),
    [
        ("softmax", "scores"),
        ("one", "one_as_two"),
        *(
            pytest.param(kind, "scores", marks=pytest.mark.slow)
            for kind in ("mapping", "pair", "log_softmax", "by_hand")
        ),
        pytest.param("one_sigmoid", "one_as_two", marks=pytest.mark.slow),
    ],
)
def test_evaluate_measures_the_same_however_scores_are_returned(kind: str, like: str, table: Tables) -> None:
    """Score-CAM and the metrics read probabilities alone, which these networks share: a sigmoid is a softmax with 0."""
    found, wanted = table(kind), table(like)
    assert found.keys() == wanted.keys() and len(wanted) > 5
    assert all(found[key] == pytest.approx(wanted[key], abs=2e-3) for key in wanted), (found, wanted)
    assert 0 < wanted["deletion"] < 1


@pytest.mark.slow
def test_evaluate_reads_labels_each_for_itself(table: Tables) -> None:
    assert abs(table("labels")["deletion"] - table("scores")["deletion"]) > 5e-3


@pytest.mark.slow
def test_evaluate_shows_mistakes_among_some_of_the_images(work: pathlib.Path, tmp_path: pathlib.Path) -> None:
    words = asked("evaluate", "one_as_two", work, tmp_path / "some")
    assert invoke([*words, "--limit", "3"]).exit_code == 0 and (tmp_path / "some.wrong.png").exists()


QUICK = ("mapping", "one")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [k if k in QUICK else pytest.param(k, marks=pytest.mark.slow) for k in READABLE])
@pytest.mark.parametrize("command", ["occlude", "invariance", "lesion", "diagnose"])
def test_commands_that_read_scores(command: str, kind: str, work: pathlib.Path, tmp_path: pathlib.Path) -> None:
    result = invoke(asked(command, kind, work, tmp_path / "out"))
    if result.exit_code:  # two classes of pictures, and outputs of another number
        assert command == "lesion" and kind not in SINGLE
        assert "class" in str(result.exception)
        return
    assert any(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("command", ["cam", "evaluate", "occlude", "invariance", "lesion"])
def test_what_has_no_scores_is_answered_in_one_line(
    command: str, kind: str, work: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    result = invoke(asked(command, kind, work, tmp_path / "out"))
    assert result.exit_code and re.search("score|output|class", str(result.exception))


@pytest.mark.parametrize("kind", REFUSED)
def test_what_needs_no_scores_goes_on_without(kind: str, work: pathlib.Path, tmp_path: pathlib.Path) -> None:
    result = invoke(asked("diagnose", kind, work, tmp_path / "out"))
    assert result.exit_code == 0, result.exception
    assert (tmp_path / "out" / "index.html").exists() and "expected one score for each class" in result.output


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*READABLE, *REFUSED])
@pytest.mark.parametrize("command", ["atlas", "train-cam"])
def test_long_commands(command: str, kind: str, work: pathlib.Path, tmp_path: pathlib.Path) -> None:
    words = asked(command, kind, work, tmp_path / "out")
    if command == "atlas":
        store = tmp_path / "photos.h5"
        dv.pack(work / "photos", store, progress=False)
        words = [str(store) if word == str(work / "photos") else word for word in words]
    result = invoke(words)
    assert result.exit_code == 0 or kind in REFUSED, result.exception


def test_the_program_exits_with_two(
    work: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["deconvviz", *asked("cam", "several", work, tmp_path / "c")])
    with pytest.raises(SystemExit) as ended:
        main.main()
    told = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("images: ")]
    assert ended.value.code == 2 and len(told) == 1 and told[0].startswith("deconvviz: ")


@pytest.mark.slow
def test_maps_of_one_output_are_not_the_same_for_yes_and_no(work: pathlib.Path, tmp_path: pathlib.Path) -> None:
    maps = []
    for target in ("0", "1", "yes", "no"):
        words = asked("cam", "one", work, tmp_path / target)
        words[words.index("-t") + 1] = target
        words[words.index("-o") + 1] = str(tmp_path / f"{target}.npz")
        assert invoke(words).exit_code == 0
        with np.load(tmp_path / f"{target}.npz") as arrays:
            maps.append(torch.from_numpy(arrays["score-cam"]))
    assert torch.equal(maps[0], maps[2]) and torch.equal(maps[1], maps[3]) and not torch.equal(maps[0], maps[1])
