"""How far trained features carry against random ones, the figure of it, and the command."""

from __future__ import annotations

import csv
import dataclasses
import pathlib
import sys
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import deconvviz as dv
from deconvviz.errors import DataError, DeconvvizError
from deconvviz.models.load import LoadedModel
from deconvviz.studies.probing.command import ProbeOptions
from deconvviz.studies.probing.command import probe as command
from deconvviz.studies.probing.figure import draw_probing
from deconvviz.studies.probing.result import ProbeResult, Transfer
from deconvviz.studies.probing.settings import ProbeSettings
from deconvviz.studies.probing.starts import untrained
from deconvviz.studies.probing.transfer import some_of_each, transfer


def test_some_of_each() -> None:
    labels = np.array([1, 0, 0, -1, 1, 1, 0, 0, 2])
    assert some_of_each(labels, None).tolist() == [0, 1, 2, 4, 5, 6, 7, 8]
    some = some_of_each(labels, 2, seed=4)
    assert sorted(labels[some]) == [0, 0, 1, 1, 2] and some.tolist() == sorted(set(some.tolist()))
    assert len({tuple(some_of_each(labels, 2, seed)) for seed in range(20)}) > 3
    with pytest.raises(DataError, match="limit 0"):
        some_of_each(labels, 0)


def test_untrained(tmp_path: pathlib.Path) -> None:
    loaded = dv.load_model("demo")
    random, again, other = (untrained(loaded, seed) for seed in (0, 0, 1))
    assert str(random) == str(loaded.model) and not random.training
    weights = [one.get_parameter("conv3.weight") for one in (random, again, other, loaded.model)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2]) and not torch.equal(weights[0], weights[3])
    (tmp_path / "m.py").write_text(
        "import torch\ndef make():\n    m = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))\n"
        "    torch.nn.init.ones_(m[0].weight)\n    return m\n"
    )
    trained = dv.load_model(f"{tmp_path}/m.py:make")  # a factory that gives trained weights
    fresh = untrained(trained).get_parameter("0.weight")
    assert fresh.shape == (4, 3, 3, 3) and fresh.std() > 0.05 and (trained.model.get_parameter("0.weight") == 1).all()


@pytest.mark.slow
def test_trained_features_carry_further(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On scenes that the demo was not trained on: its deep features tell the classes, random ones do not."""
    loaded = dv.load_model("demo")
    networks = {
        "trained": dv.capture(loaded.model, (3, 64, 64)),
        "random": dv.capture(untrained(LoadedModel(loaded.model, {}, "demo", "none")), (3, 64, 64)),
    }
    preprocess, scenes = dv.Preprocess.from_dict(loaded.settings), dv.Scenes(130, seed=5)
    asked = ProbeSettings(per_class=(3, 6), splits=3, costs=(0.1,))
    options: dict[str, Any] = {"preprocess": preprocess, "limit": 12, "progress": False, "pool": "max 4x4"}
    found = transfer(networks, scenes, ("norm1", "relu7"), asked, tmp_path / "f.h5", **options)
    assert {path.name for path in tmp_path.iterdir()} == {"f.h5", "f.random.h5"}
    trained, random = found.by_network["trained"], found.by_network["random"]
    assert trained.tested == random.tested == 60 and trained.config["pool"] == "max 4x4"
    assert trained.mean[1, :, -1].min() > 0.85 > 0.6 > trained.mean[0, :, -1].max()  # it rises with depth
    assert random.mean[1, :, -1].max() < 0.45
    mean, deviation = found.curve("random", "relu7", "softmax")
    assert np.array_equal(mean, random.mean[1, 1]) and np.array_equal(deviation, random.deviation[1, 1])
    alone = transfer({"trained": networks["trained"]}, scenes, ("norm1", "relu7"), asked, **options)
    assert np.array_equal(alone.by_network["trained"].accuracy, trained.accuracy)
    with pytest.raises(DataError, match="12 training images of each class asked for"):  # before any image is read
        transfer(networks, scenes, ("norm1",), ProbeSettings(per_class=(12,)), tmp_path / "g.h5", **options)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "sklearn.svm", None)
        with pytest.raises(DataError, match="scikit-learn"):
            transfer(networks, scenes, ("norm1",), asked, tmp_path / "g.h5", **options)
    assert not (tmp_path / "g.h5").exists()
    found.save_csv(tmp_path / "t.csv")
    with (tmp_path / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["network"], row["layer"]) for row in rows] == [
        (name, layer) for name in ("trained", "random") for layer in ("norm1", "relu7")
    ]
    assert float(rows[3]["svm_6"]) == pytest.approx(float(random.mean[1, 0, 1]), abs=1e-6)


def test_the_figure() -> None:
    rng = np.random.default_rng(0)

    def made(counts: tuple[int, ...]) -> Transfer:
        asked = ProbeSettings(per_class=counts, costs=(1.0,), splits=3)
        shape = (2, 2, len(counts), 3)
        results = {
            name: ProbeResult(
                layers={"x": 5, "y": 6},
                settings=asked,
                chance=0.2,
                accuracy=rng.random(shape),
                costs=np.ones(shape),
                tested=9,
            )
            for name in ("t", "r")
        }
        return Transfer(by_network=results)

    found = made((5, 15))
    depth, counts = draw_probing(found, "title", "caption").axes
    assert len(depth.containers) == len(counts.containers) == 4
    told = {c.get_label(): c[0] for c in depth.containers}
    assert np.allclose(told["r, softmax"].get_ydata(), 100 * found.by_network["r"].mean[:, 1, -1])
    bars = next(c for c in depth.containers if c.get_label() == "r, softmax")[2][0].get_segments()
    assert np.allclose([bar[1, 1] - bar[0, 1] for bar in bars], 200 * found.by_network["r"].deviation[:, 1, -1])
    curve = {c.get_label(): c[0] for c in counts.containers}["t, linear SVM"]
    assert curve.get_xdata().tolist() == [5, 15]
    assert np.allclose(curve.get_ydata(), 100 * found.curve("t", "y", "svm")[0])
    assert any(np.allclose(line.get_ydata(), 20) for line in depth.lines)
    assert len(draw_probing(made((5,)), "title", "caption").axes) == 1


# --- the command -----------------------------------------------------------------------------------------------------


def run(*arguments: object) -> str:
    result = CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
def test_the_command(tmp_path: pathlib.Path) -> None:
    asked = ["demo", "scenes:70:6", "-l", "pool5", "-l", "relu7", "--per-class", "3,5", "--splits", "2"]
    asked += ["--costs", "1", "--device", "cpu", "--quiet"]
    asked += ["--features", str(tmp_path / "f.h5"), "-o", str(tmp_path / "p.csv")]
    text = run(*asked)
    assert "trained: Mean accuracy" in text and "random: Mean accuracy" in text and "wrote" in text
    before, kept = (tmp_path / "p.csv").read_bytes(), (tmp_path / "f.h5").read_bytes()
    with Image.open(tmp_path / "p.png") as figure:
        assert figure.width > 800 and "2 random splits (20 test images" in figure.text["Description"]
    run(*asked)
    assert (tmp_path / "p.csv").read_bytes() == before and (tmp_path / "f.h5").read_bytes() == kept
    alone = run(*asked, "--no-random", "--probes", "svm", "--test", 1)
    assert "random" not in alone and "softmax" not in alone and "10 test images" in alone
    untrained_alone = run(*asked[:-4], "--weights", "none", "-o", tmp_path / "q.csv")
    assert "trained:" not in untrained_alone and "random: Mean" in untrained_alone


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"-o": "x.png"}, "ends in .csv"),
        ({"-o": "none/x.csv"}, "there is no folder"),
        ({"--per-class": "5,x"}, "expected whole numbers"),
        ({"--per-class": "40"}, "40 training images .*at most 10.* with --per-class"),
        ({"--limit": "5", "--per-class": "5"}, "5 training images .* has 5 images, which leaves none"),
        ({"--probes": "svm,tree"}, "no probe named 'tree'"),
        ({"-l": "conv9"}, "no layer 'conv9'.*nearest: conv"),
        ({"--pool": "sum"}, "pooling 'sum' given"),
        ({"data": "nowhere.h5"}, "does not exist"),
    ],
)
def test_wrong_commands(
    change: dict[str, str], complaint: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = {"data": "scenes:110:6", "-o": "p.csv", "--per-class": "5", "--features": "f.h5"} | change
    data = asked.pop("data")
    with pytest.raises(DeconvvizError, match=complaint) as error:
        run("demo", data, "--device", "cpu", "--quiet", *(word for pair in asked.items() for word in pair))
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_numbers_that_nobody_gave_fit_the_images(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """30 images of each class: 5 and 15 are trained on, and the user reads it; what was given stays as it is."""
    asked = ProbeOptions(per_class=None, splits=2, test=None, probes="svm", costs="1")
    scenes = dv.Scenes(300)
    assert asked.fitted(asked.settings(0), scenes, None).per_class == (5, 15)
    chosen = capsys.readouterr().err
    assert "training images of each class: 5, 15, which leave 15 of 30 images of class 'cat' to test" in chosen
    assert asked.fitted(asked.settings(0), scenes, 9).per_class == (5,) and "4 of 9 images" in capsys.readouterr().err
    given = dataclasses.replace(asked, per_class="29")
    assert given.fitted(given.settings(0), scenes, None).per_class == (29,) and not capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "sklearn.svm", None)
    with pytest.raises(DeconvvizError, match="scikit-learn is not installed; install it: pip install scikit-learn"):
        run("demo", "scenes:300", "-o", tmp_path / "p.csv")  # before a model is loaded
