"""Several labels an image: the loss from its definition, average precision, resuming, and what is refused."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from additions import squares
from click.testing import CliRunner
from torch import nn

import deconvviz as dv
from deconvviz.cli.main import cli
from deconvviz.data.label_table import LabelTable, SeveralLabels
from deconvviz.data.memory import InMemoryImages
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import DataError, TrainingError
from deconvviz.metrics.ranking import average_precision
from deconvviz.studies.training.additions.registry import addition
from deconvviz.studies.training.objectives import EachLabel
from deconvviz.studies.training.recipe import Recipe
from deconvviz.studies.training.train import train

PLAIN = Preprocess(resize=16, crop=16, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


def corners(folder: pathlib.Path, count: int = 60) -> SeveralLabels:
    """Pictures with a bright patch in some of their corners: "top" is a label, and so is "left"; some have neither."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(90, 140, (count, 16, 16, 3), np.uint8)
    rows = []
    for n, picture in enumerate(pictures):
        for label, place in (("top", (0, 8)), ("left", (8, 0))):
            if rng.random() < 0.5:
                y, x = place
                picture[y : y + 8, x : x + 8] = 250
                rows.append(f"{n},{label}")
        rows.append(f"{n},any")
    (folder / "labels.csv").write_text("image,label\n" + "\n".join(rows[:-1]) + "\n")  # the last image has no row
    return SeveralLabels(InMemoryImages(pictures), LabelTable.read(folder / "labels.csv"))


def network(outputs: int = 3) -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Conv2d(3, 6, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(216, outputs))


def test_the_loss_is_that_of_each_label_by_itself(tmp_path: pathlib.Path) -> None:
    """One step on all images, in float64 from the definition of binary cross-entropy."""
    images = corners(tmp_path)
    recipe = Recipe(epochs=1, batch_size=99, lr=0.1, validation=0, augment=False, radius=0)
    model, ours = network(), network().double()
    record = train(model, images, tmp_path / "t.pth", recipe, preprocess=PLAIN, progress=False).history[0]
    known = np.flatnonzero(images.known)
    pictures = np.stack([images[int(i)][0] for i in known]) / 255.0
    x = torch.from_numpy(((pictures - PLAIN.mean) / PLAIN.std).transpose(0, 3, 1, 2).copy())
    truth = torch.from_numpy(images.targets[known].astype(np.float64))
    p = 1 / (1 + torch.exp(-ours(x)))
    loss = -(truth * p.log() + (1 - truth) * (1 - p).log()).mean()
    assert record["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert record["accuracy"] == pytest.approx(float(((p > 0.5) == (truth > 0.5)).double().mean()), abs=1e-6)
    gradients = torch.autograd.grad(loss, list(ours.parameters()))
    for new, old, gradient in zip(model.parameters(), ours.parameters(), gradients, strict=True):
        torch.testing.assert_close(new.double(), old - 0.1 * gradient, rtol=1e-4, atol=1e-6)


def test_average_precision_is_told_of_every_label(tmp_path: pathlib.Path) -> None:
    images = corners(tmp_path)
    recipe = Recipe(epochs=12, batch_size=16, lr=0.05, validation=0.4, augment=False)
    options: dict[str, Any] = {"preprocess": PLAIN, "progress": False}
    result = train(network(), images, tmp_path / "t.pth", recipe, **options)
    assert set(result.average_precision) == {"any", "left", "top"} and result.classes == ("any", "left", "top")
    last = result.history[-1]
    assert last["validation_map"] == pytest.approx(np.mean(list(result.average_precision.values())))
    assert last["validation_map"] > 0.9 and "validation_top5" not in last and "mean average precision" in repr(result)
    result.save_csv(tmp_path / "h.csv")
    assert "average_precision_left" in (tmp_path / "h.csv").read_text().splitlines()[0]
    figure = dv.draw_history(result)
    named = {text.get_text() for axes in figure.axes for text in axes.get_legend().get_texts()}
    assert "validation map" in named and not any("left" in name for name in named)
    again = train(network(), images, tmp_path / "t.pth", recipe, **options)  # it is over: the file has it all
    assert again.history == result.history


def test_a_label_that_no_held_out_image_has_is_left_out_of_the_mean() -> None:
    truth = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    scores = torch.tensor([[0.5, 2.0, 1.0], [1.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
    measured = EachLabel(("a", "b", "c")).validated([(scores[:2], truth[:2]), (scores[2:], truth[2:])])
    expected = average_precision(truth.numpy() > 0, scores.double().numpy())[:2]
    assert "average_precision_c" not in measured and measured["validation_map"] == pytest.approx(expected.mean())
    nothing = EachLabel(("a",)).validated([(scores[:, :1], torch.zeros(3, 1))])
    assert set(nothing) == {"validation_loss", "validation_accuracy"}


def test_additions_that_need_one_class_are_refused(tmp_path: pathlib.Path) -> None:
    images = corners(tmp_path)
    recipe = Recipe(epochs=1, batch_size=32, validation=0)
    with pytest.raises(TrainingError, match="mixup needs the one class of each image"):
        train(network(), images, tmp_path / "t.pth", recipe, preprocess=PLAIN, additions=[addition("mixup")])
    hidden = [addition("hide-and-seek", cells=2)]
    train(network(), images, tmp_path / "t.pth", recipe, preprocess=PLAIN, additions=hidden, progress=False)


def test_the_command(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.Conv2d(3, 6, 5, stride=2), nn.ReLU(),"
        " nn.Flatten(), nn.Linear(216, 7)), {'resize': 16, 'crop': 16}\n"
    )
    images = squares(24)
    (tmp_path / "images").mkdir()
    for name, picture in zip(images.names, images.pictures, strict=True):
        Image.fromarray(picture).save(tmp_path / "images" / f"{name}.png")
    rows = [f"{name}.png,{'even' if n % 2 else 'odd'}\n{name}.png,all" for n, name in enumerate(images.names[:20])]
    (tmp_path / "labels.csv").write_text("image,label\n" + "\n".join(rows) + "\n")

    def run(*words: object, code: int = 0) -> str:
        common = ["--epochs", 1, "--validation", "0.4", "--device", "cpu", "--quiet", "--workers", 1, "-o", "t.pth"]
        result = CliRunner().invoke(cli, ["train", "m.py:make", "images", *map(str, [*common, *words])])
        assert bool(result.exit_code) == bool(code), result.output
        return result.output + str(result.exception or "")

    text = run("--labels", "labels.csv", "--head", "new")
    assert "4 of 24 images have no row in labels.csv: left out" in text and "mean average precision" in text
    assert dv.load_model("m.py:make", "t.pth").classes == ("all", "even", "odd")
    (tmp_path / "t.pth").unlink()
    for table, complaint in (("x.png,cat", "no image 'x.png'"), (f"{images.names[0]}.png,", "no label")):
        (tmp_path / "wrong.csv").write_text(f"image,label\n{table}\n")
        assert complaint in run("--labels", "wrong.csv", "--head", "new", code=2) and not (tmp_path / "t.pth").exists()


def test_images_without_a_single_class_are_refused_where_one_is_needed(tmp_path: pathlib.Path) -> None:
    images = corners(tmp_path)
    network_of = dv.capture(network().eval(), (3, 16, 16))
    with pytest.raises(DataError, match="expected at least 2 classes"):
        dv.transfer({"a": network_of}, images, ["1"], preprocess=PLAIN, progress=False)
