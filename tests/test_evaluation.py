"""The table of methods by metrics: its numbers from their definitions, its file, its command."""

from __future__ import annotations

import csv
import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import deconvviz as dv
from deconvviz.cam.explain import Explainer
from deconvviz.cli.main import cli
from deconvviz.data.pack import pack
from deconvviz.errors import CamError, DataError, MismatchError
from deconvviz.studies.evaluation import Evaluation, evaluate

METHODS: dict[str, dict[str, Any]] = {"grad-cam": {}, "rise": {"masks": 40}}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[dv.Network, dv.ImageStore, dv.Preprocess]:
    folder = tmp_path_factory.mktemp("evaluation")
    pack(dv.Scenes(12, seed=31), folder / "s.h5", progress=False)
    loaded = dv.load_model("demo")
    return (
        dv.capture(loaded.model, (3, 64, 64)),
        dv.ImageStore.open(folder / "s.h5"),
        dv.Preprocess.from_dict(loaded.settings),
    )


def run(given: tuple[dv.Network, dv.ImageStore, dv.Preprocess], **options: Any) -> Evaluation:
    network, store, preprocess = given
    return evaluate(network, store, METHODS, ["relu5"], preprocess=preprocess, progress=False, **options)


def test_the_numbers_by_definition(given: tuple[dv.Network, dv.ImageStore, dv.Preprocess]) -> None:
    network, store, preprocess = given
    found = run(given, limit=5, fill="black", metrics=["faithfulness", "adcc"])
    black = (-torch.tensor(preprocess.mean) / torch.tensor(preprocess.std))[:, None, None]
    explainer = dv.cam("grad-cam", network, "relu5")
    for n in range(5):
        x = preprocess(store[n][0])[None]
        before = network(x).softmax(1)[0]
        c = int(before.argmax())
        assert found.predicted[n] == c and found.labels[n] == store[n][1]
        assert found.probability[n] == pytest.approx(float(before[c]), abs=1e-5)
        map_ = explainer(x, c)[0]
        row = dict(zip(found.columns, found.values["grad-cam"][n], strict=True))
        for share in (100, 50, 15):
            flat = map_.flatten()
            keep = torch.zeros_like(flat)
            best = torch.argsort(flat, descending=True, stable=True)[: round(share / 100 * len(flat))]
            keep[best] = flat[best]
            mask = keep.reshape(map_.shape)
            after = float(network(x * mask + black * (1 - mask)).softmax(1)[0, c])
            p = float(before[c])
            assert row[f"average_drop_{share}"] == pytest.approx(max(0, p - after) / p, abs=1e-4)
            assert row[f"increase_{share}"] == float(after > p)
            assert row[f"average_gain_{share}"] == pytest.approx(max(0, after - p) / (1 - p) if p < 1 else 0, abs=1e-3)
        masked = float(network(x * map_).softmax(1)[0, c])
        again = explainer(x * map_, c)[0]
        alike = (np.corrcoef(map_.flatten(), again.flatten())[0, 1] + 1) / 2
        parts = (alike, 1 - float(map_.mean()), 1 - max(0, float(before[c]) - masked) / float(before[c]))
        assert row["adcc"] == pytest.approx(3 / sum(1 / part for part in parts), abs=1e-3)
        assert row["forward_passes"] == 2  # one whole pass, and one from the layer on for the gradient
    rise = found.values["rise"][:, found.columns.index("forward_passes")]
    assert (rise == 41).all() and (found.values["rise"][:, -1] > 0).all()


def test_interrupted_and_continued(
    given: tuple[dv.Network, dv.ImageStore, dv.Preprocess], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, calls, original = run(given, metrics=["faithfulness"]), 0, Explainer.__call__

    def failing(self: Explainer, *arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return original(self, *arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Explainer, "__call__", failing)
        run(given, metrics=["faithfulness"], out=tmp_path / "e.h5")
    counted = []

    def counting(self: Explainer, *arguments: Any, **options: Any) -> Any:
        counted.append(len(arguments[0]))
        return original(self, *arguments, **options)

    monkeypatch.setattr(Explainer, "__call__", counting)
    ended = run(given, metrics=["faithfulness"], out=tmp_path / "e.h5")
    assert sum(counted) == 12 + 4 and ended.complete  # the first eight images of the first method were kept
    for name in METHODS:
        assert np.allclose(ended.values[name][:, :-1], straight.values[name][:, :-1], atol=1e-6)
    assert np.array_equal(ended.predicted, straight.predicted)
    with pytest.raises(MismatchError, match="fill: mean in the file, black now"):
        run(given, metrics=["faithfulness"], out=tmp_path / "e.h5", fill="black")


def test_means_and_intervals() -> None:
    rows = np.array([[1.0, 2.0], [3.0, 2.0], [np.nan, np.nan]])
    found = Evaluation({}, {}, {"a": rows}, ("x", "y"), *[np.zeros(3)] * 3, ("",) * 3, ())  # type: ignore[arg-type]
    assert found.mean("a").tolist() == [2, 2] and not found.complete
    assert np.allclose(found.error("a"), [1.96 * np.sqrt(2) / np.sqrt(2), 0])


def test_the_command(given: tuple[dv.Network, dv.ImageStore, dv.Preprocess], tmp_path: pathlib.Path) -> None:
    _, store, _ = given
    table = tmp_path / "table.csv"
    asked = ["evaluate", "demo", str(store.path), "-l", "relu5", "-m", "grad-cam", "-m", "rise", "--limit", "4"]
    asked += ["--option", "masks=20", "--steps", "5", "-o", str(table), "--quiet", "--device", "cpu"]
    result = CliRunner().invoke(cli, asked, catch_exceptions=False)
    assert result.exit_code == 0 and "grad-cam" in result.output and "of 4 labelled images" in result.output
    assert (tmp_path / "table.wrong.csv").read_text().startswith("image,true,predicted")
    assert (tmp_path / "table.confusions.csv").read_text().startswith("true,predicted,images")
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["grad-cam", "rise"] and rows[0]["images"] == "4"
    assert 0 <= float(rows[1]["deletion"]) <= 1 and float(rows[1]["forward_passes"]) == 21
    with Image.open(table.with_suffix(".png")) as figure:
        assert figure.width > 1000
    wrong = (
        (["-m", "grad-cam", "--metrics", "ad"], DataError, "'ad' given; expected some of faithfulness"),
        (["-m", "none"], DataError, ""),
        (["-m", "grad-cam", "-o", "x.txt"], DataError, "ends in .csv"),
        (["-m", "grad-cam"], CamError, "name one"),
    )
    for more, kind, complaint in wrong[:1] + wrong[2:]:
        arguments = ["evaluate", "demo", str(store.path), "-o", str(tmp_path / "y.csv"), "--quiet", *more]
        with pytest.raises(kind, match=complaint):
            CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert not (tmp_path / "y.csv").exists() and not (tmp_path / "y.h5").exists()
