"""Files that older versions wrote still open, and unfinished or finished jobs resume from them.

`tests/frozen/VERSION.zip` was written by the commands of that version, with the small network of `model.py` in it on 20
generated pictures of 32 px; sources are relative to the folder.
"""

from __future__ import annotations

import json
import pathlib
import zipfile

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import deconvviz as dv
from deconvviz.cam.learned.files import load_explainer
from deconvviz.cli.main import cli
from deconvviz.models.weights import read_weights
from deconvviz.results.features import Features
from deconvviz.results.tiles import load_gallery
from deconvviz.studies.evaluation.result import Evaluation
from deconvviz.studies.lesions.result import Lesions

FROZEN = sorted((pathlib.Path(__file__).parent / "frozen").glob("*.zip"))
MODEL = ["--input", "32", "--resize", "32", "--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25", "--weights", "none"]


@pytest.fixture(params=FROZEN, ids=lambda path: path.stem)
def frozen(request: pytest.FixtureRequest, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    with zipfile.ZipFile(request.param) as archive:
        archive.extractall(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> str:
    """Run a command and return what it printed."""
    outcome = CliRunner().invoke(cli, [*arguments, "--quiet"], catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


def same_torch() -> None:
    """Skip what follows under another torch: a network's fingerprint holds the ops that torch exports."""
    made_by = dv.load_mined("mined.h5").sources["versions"]["torch"].split("+")[0]
    if made_by != torch.__version__.split("+")[0]:
        pytest.skip(f"the samples were made with torch {made_by}")


def unchanged(path: pathlib.Path) -> tuple[bytes, int]:
    return path.read_bytes(), path.stat().st_mtime_ns


def test_there_are_samples_and_they_are_small() -> None:
    assert [path.stem for path in FROZEN][:1] == ["0.1.0"]
    assert sum(path.stat().st_size for path in FROZEN) < 300_000


def test_image_stores(frozen: pathlib.Path) -> None:
    raw, encoded = dv.ImageStore.open("raw.h5"), dv.ImageStore.open("encoded.h5")
    assert (len(raw), raw.kind, len(encoded), encoded.kind) == (20, "raw", 5, "encoded")
    scenes = dv.Scenes(20, seed=1)
    for index in range(5):  # the pixels themselves: generated again, they are the same
        assert np.array_equal(encoded[index][0], scenes[index][0]) and encoded[index][1] == scenes[index][1]
    assert raw[0][0].shape == (32, 32, 3) and raw.names[7] == scenes.names[7]


def test_mined_files_open_and_are_not_mined_again(frozen: pathlib.Path) -> None:
    mined = dv.load_mined("mined.h5")
    assert mined.complete and list(mined) == ["1", "4"]
    assert mined["4"].values.shape == (6, 3) and np.isfinite(mined["4"].values).all()
    assert any(name.startswith("projections/1/deconvnet/") for name in mined.figure_arrays)
    assert mined["4"].spread is None and mined["4"].merge(mined["4"]).spread is None  # schema 1 has no ranges
    same_torch()
    before = unchanged(frozen / "mined.h5")
    run("mine", "model.py:tiny", "raw.h5", *MODEL, "-l", "1", "-l", "4", "-k", "3", "-o", "mined.h5")
    assert unchanged(frozen / "mined.h5") == before  # model, images and settings still have the same fingerprints


def test_a_training_goes_on(frozen: pathlib.Path) -> None:
    weights = read_weights("training.pth")
    assert len(weights.classes) == 10 and len(weights.state) == 6
    arguments = ["train", "model.py:tiny", "raw.h5", "--input", "32", "--resize", "32", "--batch-size", "10"]
    arguments += ["--lr", "0.01", "--validation", "0", "--snapshots", "snapshots.h5", "--out", "training.pth"]
    before = unchanged(frozen / "training.pth")
    run(*arguments, "--epochs", "2")
    assert unchanged(frozen / "training.pth") == before
    run(*arguments, "--epochs", "3")
    history = torch.load("training.pth", weights_only=True)["history"]
    assert [row["epoch"] for row in history] == [1, 2, 3]
    snapshots = dv.Snapshots("snapshots.h5")
    assert snapshots.epochs == (1, 2, 3) and snapshots.until_next == 3  # the last one is always kept
    assert len(snapshots.history) == 3 and set(snapshots.weights(2)) == set(weights.state)


def test_an_explainer_explains_and_its_training_goes_on(frozen: pathlib.Path) -> None:
    explainer = load_explainer("explainer.pth")
    assert (explainer.name, list(explainer.layers), explainer.outputs) == ("l-cam-fm", ["4"], 10)
    same_torch()
    arguments = ["train-cam", "l-cam-fm", "model.py:tiny", "raw.h5", *MODEL, "-l", "4", "--batch-size", "10"]
    run(*arguments, "--validation", "0", "-o", "explainer.pth", "--epochs", "2")
    table = (frozen / "explainer.csv").read_text().splitlines()
    assert [line.split(",")[1] for line in table] == ["epoch", "1", "2"]


def test_evaluations_and_lesions(frozen: pathlib.Path) -> None:
    evaluation = Evaluation.load("evaluation.h5")
    assert (
        evaluation.complete and list(evaluation.values) == ["grad-cam"] and evaluation.pictures.shape == (4, 32, 32, 3)
    )
    lesions = Lesions.load("lesions.h5")
    assert lesions.complete and lesions.images == 20 and len(lesions.drop) == 6
    written = (frozen / "lesions.csv").read_text()
    lesions.save_csv("again.csv")
    assert (frozen / "again.csv").read_text() == written
    evaluation.save_csv("again.csv")
    assert (frozen / "again.csv").read_text() == (frozen / "evaluation.csv").read_text()


@pytest.mark.slow
def test_an_atlas_is_made_of_its_files(frozen: pathlib.Path) -> None:
    gallery = load_gallery("atlas/data/01-4.h5")
    assert gallery.config["layer"] == "4" and gallery.arrays["patches"][0].shape[0] == 2
    features = Features("atlas/data/maxima.h5")
    assert features.done == 20 and features.layers == {"1": 4, "4": 6}
    same_torch()
    files = sorted((frozen / "atlas" / "data").glob("*.h5"))
    before = [unchanged(path) for path in files]
    arguments = ["atlas", "model.py:tiny", "raw.h5", *MODEL, "-l", "1", "-l", "4", "--top", "2", "--invariance"]
    run(*arguments, "--occlusion", "--decisions", "2", "-m", "grad-cam", "-o", "atlas")
    assert [unchanged(path) for path in files] == before  # nothing was computed again
    assert (frozen / "atlas" / "index.html").is_file()


@pytest.mark.slow
def test_a_diagnosis_is_read_as_json(frozen: pathlib.Path) -> None:
    diagnosis = json.loads((frozen / "diagnosis.json").read_text())
    assert (diagnosis["kind"], diagnosis["schema"]) == ("diagnosis", 1)
    run("diagnose", "model.py:tiny", "raw.h5", *MODEL, "-o", "now")
    now = json.loads((frozen / "now" / "diagnosis.json").read_text())
    assert now.keys() == diagnosis.keys() | {"leanings"}  # which schema 3 has
    # Schema 2 joins the layers of a finding, and has checks of the images; schema 3 has checks of classes' channels.
    later = ("enlarged", "chance", "class-channels", "outside-object")
    kept = [one for one in now["findings"] if one["check"] not in later]
    rows = [{**row, "check": one["check"]} for one in kept for row in one["layers"]]
    pairs = [
        sorted(each, key=lambda one: (one["check"], one["layer"], one["value"]))
        for each in (diagnosis["findings"], rows)
    ]
    for old, new in zip(*pairs, strict=True):
        assert all(old[key] == new[key] for key in ("check", "layer", "channels", "severity"))
        assert new["value"] == pytest.approx(old["value"], rel=1e-4)
