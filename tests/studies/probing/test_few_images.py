"""Whole networks on the few images of a split: their accuracy by hand, resuming, the table, the figure, the command."""

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
from deconvviz.data.datasets import Part
from deconvviz.errors import DataError, MismatchError
from deconvviz.studies.probing import few_images
from deconvviz.studies.probing.command import probe as command
from deconvviz.studies.probing.few_images import train_on_few
from deconvviz.studies.probing.figure import draw_probing
from deconvviz.studies.probing.measure import class_accuracy, draw_splits
from deconvviz.studies.probing.result import ProbeResult, Transfer
from deconvviz.studies.probing.settings import ProbeSettings
from deconvviz.studies.probing.starts import Start, fine_tuned, from_scratch
from deconvviz.studies.training.recipe import Recipe
from deconvviz.studies.training.train import train

SETTINGS = ProbeSettings(per_class=(2, 3), splits=2, test=2, costs=(1.0,))
RECIPE = Recipe(epochs=1, batch_size=16, validation=0.0, radius=0.0)


def starts() -> tuple[dict[str, Start], dv.Preprocess]:
    loaded = dv.load_model("demo")
    preprocess = dv.Preprocess.from_dict(loaded.settings)
    shape = preprocess.shape
    return {"scratch": from_scratch(loaded, 10, shape), "fine-tuned": fine_tuned(loaded, 10, shape, "f")}, preprocess


def test_each_network_is_the_training_that_the_user_could_run(tmp_path: pathlib.Path) -> None:
    images, (both, preprocess) = dv.Scenes(60, seed=5), starts()
    indices = np.arange(60)
    options: dict[str, Any] = {"preprocess": preprocess, "progress": False, "workers": 1}
    found = train_on_few(both, images, indices, SETTINGS, RECIPE, tmp_path / "n.h5", **options)
    assert {name: shares.shape for name, shares in found.items()} == {"scratch": (2, 2), "fine-tuned": (2, 2)}
    assert [path.name for path in tmp_path.iterdir()] == ["n.h5"]
    split = draw_splits(images.labels, SETTINGS)[1]
    seed = int(np.random.SeedSequence([0, 1, 3]).generate_state(1)[0])
    model, tuning = both["fine-tuned"].make(seed)
    assert tuning.body_rate == 0.1 and tuning.head is not None and tuning.head.layer == "fc8"
    recipe = Recipe(epochs=1, batch_size=15, validation=0.0, radius=0.0, seed=seed)  # 30 images in steps of one size
    part = Part(images, split.train[:, :3].ravel())
    trained = train(model, part, tmp_path / "t.pth", recipe, fine_tuning=tuning, **options).model
    pictures = np.stack([preprocess.picture(images[int(i)][0]) for i in split.test])
    predicted = trained(preprocess.tensor(pictures, "cpu")).argmax(1).numpy()
    assert found["fine-tuned"][1, 1] == class_accuracy(images.labels[split.test], predicted)


def test_starts_are_random_by_their_seed_or_the_trained_weights() -> None:
    both, _ = starts()
    demo = dv.load_model("demo").model.get_parameter("conv3.weight")
    one, again, other = (both["scratch"].make(seed)[0].get_parameter("conv3.weight") for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert torch.equal(both["fine-tuned"].make(3)[0].get_parameter("conv3.weight"), demo)
    assert both["scratch"].radius == 0.1 and both["fine-tuned"].radius == 0
    kept = fine_tuned(dv.load_model("demo"), 10, (3, 64, 64), "f", keep_statistics=True)
    assert kept.make(3)[1].keep_statistics and not both["fine-tuned"].make(3)[1].keep_statistics
    assert kept.of != both["fine-tuned"].of


def test_interrupted_and_resumed_measures_the_same(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the middle of the second training, and once more between its result and its file's removal."""
    images, (both, preprocess) = dv.Scenes(60, seed=5), starts()
    only = {"fine-tuned": both["fine-tuned"]}
    options: dict[str, Any] = {"preprocess": preprocess, "progress": False, "workers": 1, "commit_every": 1}
    recipe = Recipe(epochs=2, batch_size=8, validation=0.0, radius=0.0)

    def run(name: str) -> dict[str, Any]:
        return train_on_few(only, images, np.arange(60), SETTINGS, recipe, tmp_path / name, **options)

    straight = run("straight.h5")
    steps, step = 0, torch.optim.SGD.step

    def stopping(self: torch.optim.SGD, *arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 9:
            raise KeyboardInterrupt
        return step(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.optim.SGD, "step", stopping)
        run("k.h5")
    assert len(list(tmp_path.glob("k.fine-tuned-*.pth"))) == 1
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pathlib.Path, "unlink", stopped)
        run("k.h5")
    assert np.array_equal(run("k.h5")["fine-tuned"], straight["fine-tuned"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["k.h5", "straight.h5"]
    with pytest.raises(MismatchError, match=r"recipe batch_size: 8 in the file, 16 now.*choose another --features"):
        train_on_few(only, images, np.arange(60), SETTINGS, RECIPE, tmp_path / "k.h5", **options)


def stopped(self: pathlib.Path, missing_ok: bool = False) -> None:
    if self.suffix == ".pth":
        raise KeyboardInterrupt


def made(probes: tuple[str, ...] = ("svm", "softmax")) -> Transfer:
    rng = np.random.default_rng(0)
    settings = ProbeSettings(per_class=(5, 15), costs=(1.0,), splits=3, probes=probes)
    accuracy = rng.random((2, len(probes), 2, 3))
    result = ProbeResult(
        layers={"x": 5, "y": 6}, settings=settings, chance=0.2, accuracy=accuracy, costs=accuracy, tested=9
    )
    return Transfer(
        by_network={"t": result}, by_start={"scratch": rng.random((2, 3)), "fine-tuned": rng.random((2, 3))}
    )


@pytest.mark.parametrize("probes", [("svm", "softmax"), ("svm",)])
def test_the_table_has_them_in_the_columns_of_softmax(tmp_path: pathlib.Path, probes: tuple[str, ...]) -> None:
    found = made(probes)
    found.save_csv(tmp_path / "t.csv")
    with (tmp_path / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["network"], row["layer"]) for row in rows[2:]] == [
        ("scratch", "all layers"),
        ("fine-tuned", "all layers"),
    ]
    row, accuracy = rows[3], found.by_start["fine-tuned"][1]
    assert float(row["softmax_15"]) == pytest.approx(accuracy.mean(), abs=1e-6)
    assert float(row["softmax_15_deviation"]) == pytest.approx(accuracy.std(ddof=1), abs=1e-6)
    assert row["svm_5"] == row["values"] == "" and (rows[0]["softmax_5"] == "") == (probes == ("svm",))
    five = f"5: {100 * found.by_start['fine-tuned'][0].mean():.1f}"
    assert f"fine-tuned, all layers trained, by training images of a class: {five}" in repr(found)


def test_the_figure_has_a_curve_of_each() -> None:
    found = made()
    depth, counts = draw_probing(found, "title", "caption").axes
    drawn = {container.get_label(): container[0] for container in counts.containers}
    assert np.allclose(drawn["from scratch"].get_ydata(), 100 * found.by_start["scratch"].mean(1))
    assert drawn["from scratch"].get_xdata().tolist() == [5, 15]
    assert [text.get_text() for text in depth.get_xticklabels()] == ["x", "y", "all layers"]
    places = {container.get_label(): container[0].get_xdata().tolist() for container in depth.containers}
    assert places["fine-tuned"] == [2] and places["t, softmax"] == [0, 1]
    assert dv.draw_probing(found).axes[1].get_title() == "probes at y"


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(command, [str(a) for a in arguments])
    if code:
        assert result.exit_code, result.output
        return str(result.exception)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
def test_the_command(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = ["demo", "scenes:70:6", "-l", "relu7", "--per-class", "3", "--splits", "2", "--costs", "1"]
    asked += ["--device", "cpu", "--quiet", "--scratch", "--fine-tune", "--train-epochs", "1", "--no-random"]
    asked += ["--features", tmp_path / "f.h5", "-o", tmp_path / "p.csv"]
    text = run(*asked)
    with Image.open(tmp_path / "p.png") as figure:
        assert "standardised; C is 1." in figure.text["Description"]
    assert "from scratch, all layers trained" in text and "fine-tuned, all layers trained" in text
    assert {path.name for path in tmp_path.iterdir()} == {"f.h5", "f.networks.h5", "p.csv", "p.png"}
    before = (tmp_path / "p.csv").read_bytes()
    monkeypatch.setattr(few_images, "train", None)  # nothing is trained again
    run(*asked)
    assert (tmp_path / "p.csv").read_bytes() == before


def test_what_cannot_be_asked_for(tmp_path: pathlib.Path) -> None:
    asked = ["demo", "scenes:70:6", "-l", "relu7", "--per-class", "3", "--device", "cpu", "-o", tmp_path / "p.csv"]
    assert "--keep-statistics given without --fine-tune" in run(*asked, "--keep-statistics", code=2)
    assert "give --scratch instead" in run(*asked, "--fine-tune", "--weights", "none", code=2)
    assert "epochs 0 given" in run(*asked, "--scratch", "--train-epochs", "0", code=2)
    with pytest.raises(DataError, match="without --ray"):
        CliRunner().invoke(
            command,
            [*map(str, asked), "--scratch", "--ray", "local", "--features", str(tmp_path / "f.h5")],
            catch_exceptions=False,
        )
    assert not list(tmp_path.iterdir())
