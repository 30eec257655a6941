"""Trainings without labels: steps from their definition, resuming, the add-on, collapse, bad input."""

from __future__ import annotations

import csv
import pathlib
import re
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from in_memory import drawn_scenes, noise
from torch import Tensor, nn
from torch.nn import functional

import deconvviz as dv
from deconvviz.cli.main import cli
from deconvviz.data.memory import InMemoryImages
from deconvviz.errors import DataError, DeconvvizError, MismatchError, TrainingError
from deconvviz.models.weights import read_weights
from deconvviz.results.snapshots import Snapshots
from deconvviz.studies.pretraining import pretrain as module
from deconvviz.studies.pretraining.objectives import OBJECTIVES, Objective, make_objective
from deconvviz.studies.pretraining.pretrain import Pretraining

PLAIN = dv.Preprocess(resize=18, crop=16, mean=(0.5,) * 3, std=(0.25,) * 3)
SMALL = {"hidden": 16, "out": 8}


def network(dropout: float = 0.2) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(12, 5),
    )  # fmt: skip


@pytest.fixture(scope="module")
def scenes() -> InMemoryImages:
    return drawn_scenes(44, 0)


def recipe(**settings: Any) -> dv.PretrainingRecipe:
    return dv.PretrainingRecipe(**{"epochs": 2, "batch_size": 10, "options": SMALL, "watched": 20, **settings})


def run(model: nn.Module, images: Any, out: pathlib.Path, rules: dv.PretrainingRecipe, **options: Any) -> dv.Pretrained:
    return dv.pretrain(model, images, out, rules, **{"preprocess": PLAIN, "progress": False, "workers": 1, **options})


def same(one: nn.Module, two: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def without_seconds(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history]


def test_two_steps_from_the_definition(tmp_path: pathlib.Path, scenes: InMemoryImages) -> None:
    """One batch of all images, views that are the images themselves: NT-Xent and Adam by hand, in float64."""
    images = InMemoryImages(np.stack([PLAIN.picture(picture) for picture in np.asarray(scenes.pictures)[:12]]))
    views = dv.Views(crop=1, colour=0, jitter=0, grey=0, blur=0, flip=0)
    settings = dv.Preprocess(resize=16, crop=16, mean=(0.5,) * 3, std=(0.25,) * 3)
    rules = recipe(batch_size=12, views=views, weight_decay=0.0, lr=0.01)
    model, ours = network(0).float(), network(0).double()
    objective = make_objective("simclr", 12, SMALL, 0).double()
    history = run(model, images, tmp_path / "t.pth", rules, preprocess=settings).history

    whole = torch.from_numpy(np.stack([settings.picture(each) for each in np.asarray(images.pictures)]) / 255.0)
    x = ((whole - 0.5) / 0.25).permute(0, 3, 1, 2)
    weights = [*ours[:5].parameters(), *objective.parameters()]
    first, second = ([torch.zeros_like(w) for w in weights] for _ in range(2))
    for step in range(1, 3):
        z = functional.normalize(objective.projector(ours[:7](torch.cat([x, x]))), dim=1)
        e = torch.exp(z @ z.T / 0.5)
        partner = [*range(12, 24), *range(12)]
        loss = -torch.stack([torch.log(e[i, partner[i]] / (e[i].sum() - e[i, i])) for i in range(24)]).mean()
        assert history[step - 1]["loss"] == pytest.approx(loss.item(), rel=1e-4)
        assert history[step - 1]["contrast"] == history[step - 1]["loss"]
        with torch.no_grad():
            for w, m, v, g in zip(weights, first, second, torch.autograd.grad(loss, weights), strict=True):
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.999).add_(0.001 * g**2)
                w.sub_(0.01 * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8))
    for name, weight in model[:5].named_parameters():
        if name == "0.bias":  # BatchNorm takes it off again: its gradient is nothing but rounding
            continue
        # Adam's first steps are the sign of the gradient: where that is nearly zero, rounding decides
        close = torch.isclose(weight.double(), ours[:5].get_parameter(name), atol=2e-3)
        assert close.double().mean() > 0.95, name
    assert torch.equal(
        model.get_parameter("8.weight"), network(0).get_parameter("8.weight")
    )  # the classifier takes no part


@pytest.mark.parametrize("objective", [*OBJECTIVES])
@pytest.mark.parametrize(
    "attention", [None, {"form": "plain"}, {"form": "module", "partner": "neighbour", "weight": 0.5}]
)
def test_every_objective_with_and_without_the_addon(
    tmp_path: pathlib.Path, scenes: InMemoryImages, objective: str, attention: dict[str, Any] | None
) -> None:
    options = {**SMALL, **({"prototypes": 6, "freeze": 2} if objective == "swav" else {})}
    model = network()
    rules = recipe(objective=objective, options=options, attention=attention, lr=0.005)
    result = run(model, scenes, tmp_path / "t.pth", rules)
    assert [record["epoch"] for record in result.history] == [1, 2] and result.width == 12 and result.classifier == "8"
    terms = {name for name in result.history[0] if name.startswith("masked_")}
    assert bool(terms) == (attention is not None)
    for record in result.history:
        parts = [value for name, value in record.items() if name not in ("epoch", "loss", "seconds", "collapsed")]
        named = [name for name in record if not name.startswith(("embedding", "projection"))]
        listed = [record[name] for name in named if name not in ("epoch", "loss", "seconds", "collapsed")]
        assert record["loss"] == pytest.approx(sum(listed), rel=1e-5) and all(np.isfinite(parts))
    # Nothing of the training is left in the network: no hook, no further weight, and equal outputs of a fresh one
    fresh = network()
    fresh.load_state_dict(read_weights(tmp_path / "t.pth").state)
    x = torch.rand(3, 3, 16, 16)
    assert [*fresh.state_dict()] == [*network().state_dict()] and torch.equal(fresh.eval()(x), model(x))
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in model.modules())
    with (tmp_path / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [*rows[0]] == [*result.history[0]] and float(rows[1]["loss"]) == pytest.approx(result.history[1]["loss"])
    content = torch.load(tmp_path / "t.pth", weights_only=True)
    assert content["identity"]["pretraining"]["objective"] == objective


def test_the_addon_switched_off_is_plain_training(
    tmp_path: pathlib.Path, scenes: InMemoryImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the option no line of the add-on runs, so that weights are those of a package without it, bit for bit."""

    def broken(*_: Any, **__: Any) -> Any:
        raise AssertionError("the add-on ran")

    plain = run(network(), scenes, tmp_path / "a.pth", recipe())
    monkeypatch.setattr(module, "SpatialAttention", broken)
    monkeypatch.setattr(
        "deconvviz.studies.pretraining.body.Body.masking", lambda self, change: broken() if change else None
    )
    again = run(network(), scenes, tmp_path / "b.pth", recipe())
    assert same(plain.model, again.model)


class Stop(Exception):
    pass


@pytest.mark.parametrize("stop", [1, 4, 6])  # of 4 steps an epoch; every second one is committed
def test_continued_equals_straight(
    tmp_path: pathlib.Path, scenes: InMemoryImages, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    """Stopped after any step, with dropout, prototypes, a queue and the add-on: all files and weights are the same."""
    rules = recipe(objective="swav", options={**SMALL, "freeze": 3, "queue": 20}, attention={"form": "module"}, lr=0.01)
    recorder = dv.SnapshotRecorder(tmp_path / "s.h5", (1, 2))
    straight = run(network(), scenes, tmp_path / "s.pth", rules, recorder=recorder)
    steps, step = 0, Pretraining.step

    def counted(self: Pretraining, batch: Any, epoch: int) -> Any:
        nonlocal steps
        steps += 1
        if steps > stop:
            raise Stop
        return step(self, batch, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(Pretraining, "step", counted)
        with pytest.raises(Stop):
            recorder = dv.SnapshotRecorder(tmp_path / "k.h5", (1, 2))
            run(network(), scenes, tmp_path / "k.pth", rules, recorder=recorder, commit_every=2)
    torch.manual_seed(999)  # whatever the state of the new process
    recorder = dv.SnapshotRecorder(tmp_path / "k.h5", (1, 2), resume=True)
    ended = run(network(), scenes, tmp_path / "k.pth", rules, recorder=recorder, commit_every=2)
    assert same(straight.model, ended.model)
    assert without_seconds(straight.history) == without_seconds(ended.history)
    one, two = Snapshots(tmp_path / "s.h5"), Snapshots(tmp_path / "k.h5")
    assert one.epochs == two.epochs == (1, 2) and one.history == two.history
    assert (tmp_path / "k.csv").read_text().splitlines()[0] == (tmp_path / "s.csv").read_text().splitlines()[0]


def test_more_epochs_train_on(tmp_path: pathlib.Path, scenes: InMemoryImages) -> None:
    whole = run(network(), scenes, tmp_path / "w.pth", recipe(epochs=3))
    run(network(), scenes, tmp_path / "p.pth", recipe(epochs=1))
    content = (tmp_path / "p.pth").read_bytes()
    assert len(run(network(), scenes, tmp_path / "p.pth", recipe(epochs=1)).history) == 1  # finished: nothing happens
    assert (tmp_path / "p.pth").read_bytes() == content
    assert same(whole.model, run(network(), scenes, tmp_path / "p.pth", recipe(epochs=3)).model)


# --- collapse


def test_a_planted_collapse_is_noticed_and_said(
    tmp_path: pathlib.Path, scenes: InMemoryImages, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loss without its repulsion: views agree, and nothing keeps images apart."""

    class Attraction(Objective):
        def __init__(self, inputs: int) -> None:
            super().__init__()
            self.projector = nn.Sequential(nn.Linear(inputs, 8), nn.ReLU(), nn.Linear(8, 8))

        def terms(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
            return {"attraction": (a - b).square().sum(1).mean() + (a - 1).square().mean()}

    monkeypatch.setitem(OBJECTIVES._entries, "attraction", Attraction)
    rules = recipe(objective="attraction", options={}, epochs=25, lr=0.02)
    result = run(network(), scenes, tmp_path / "t.pth", rules, progress=True)
    assert result.history[-1]["collapsed"] == 1 and result.history[-1]["projection_spread"] < 0.1
    assert "projections of all images are nearly the same" in result.collapse and result.collapse in repr(result)
    assert "has collapsed: " in capsys.readouterr().err
    with (tmp_path / "t.csv").open() as file:
        assert [row["collapsed"] for row in csv.DictReader(file)][-1] == "1"
    assert torch.load(tmp_path / "t.pth", weights_only=True)["history"][-1]["collapsed"] == 1


def test_images_that_are_all_alike_collapse(tmp_path: pathlib.Path) -> None:
    images = InMemoryImages(np.full((20, 16, 16, 3), 90, np.uint8))
    result = run(network(), images, tmp_path / "t.pth", recipe(epochs=1))
    told = re.search(r"projections of all images are nearly the same: their spread is (\S+) ", result.collapse)
    assert result.collapsed == [1] and told is not None
    assert float(told[1]) == pytest.approx(0, abs=1e-12)  # exactly zero on some processors only


def test_a_training_that_works_is_not_called_collapsed(tmp_path: pathlib.Path, scenes: InMemoryImages) -> None:
    easy = dv.Views(crop=0.8, colour=0.1, grey=0)
    result = run(network(0), scenes, tmp_path / "t.pth", recipe(epochs=8, lr=0.005, batch_size=22, views=easy))
    assert not result.history[-1]["collapsed"] and not result.collapse
    assert result.history[-1]["loss"] < result.history[0]["loss"]


# --- refusals


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rules": recipe(seed=5)}, "pretraining"),
        ({"rules": recipe(objective="barlow-twins")}, "pretraining"),
        ({"rules": recipe(attention={})}, "pretraining"),
        ({"preprocess": dv.Preprocess(resize=17, crop=16)}, "preprocess"),
        ({"name": "other"}, "model"),
    ],
)
def test_another_training_is_refused(
    tmp_path: pathlib.Path, scenes: InMemoryImages, change: dict[str, Any], named: str
) -> None:
    out = tmp_path / "t.pth"
    run(network(), scenes, out, recipe(epochs=1))
    before = out.read_bytes()
    options = {"rules": recipe(epochs=1), **change}
    with pytest.raises(MismatchError, match=f"\\({named}:? "):
        run(network(), scenes, out, options.pop("rules"), **options)
    assert out.read_bytes() == before


def test_files_of_trainings_with_labels_are_another_kind(tmp_path: pathlib.Path) -> None:
    """Neither training goes on with the file of the other."""
    images, rules = drawn_scenes(30, 1), dv.Recipe(epochs=1, validation=0)
    model = dv.zfnet(classes=10, input_size=32, width=0.05, fc=(40, 40))
    settings = dv.Preprocess(resize=36, crop=32)
    dv.train(model, images, tmp_path / "t.pth", rules, preprocess=settings, progress=False)
    with pytest.raises(MismatchError, match=r"pretraining: None in the file.*recipe: .* in the file, None now"):
        run(model, images, tmp_path / "t.pth", recipe(epochs=1), preprocess=settings)
    run(model, images, tmp_path / "p.pth", recipe(epochs=1), preprocess=settings)
    with pytest.raises(MismatchError, match=r"pretraining: .* in the file, None now"):
        dv.train(model, images, tmp_path / "p.pth", rules, preprocess=settings, progress=False)


def test_wrong_inputs(tmp_path: pathlib.Path, scenes: InMemoryImages) -> None:
    out = tmp_path / "t.pth"
    with pytest.raises(TrainingError, match="44 images given, and a batch has 64; give more images or a smaller batch"):
        run(network(), scenes, out, recipe(batch_size=64))
    with pytest.raises(DataError, match=r"expected a name such as weights\.pth"):
        run(network(), scenes, tmp_path / "t.csv", recipe())
    with pytest.raises(DataError, match="no folder"):
        run(network(), scenes, tmp_path / "none" / "t.pth", recipe())
    with pytest.raises(TrainingError, match="not known how images are prepared"):
        run(network(), scenes, out, recipe(), preprocess=None)
    with pytest.raises(TrainingError, match="no maps before its embedding"):
        flat = nn.Sequential(nn.Flatten(), nn.Linear(768, 8), nn.ReLU(), nn.Linear(8, 2))
        run(flat, scenes, out, recipe(attention={}))
    with pytest.raises(TrainingError, match="inputs of 16 x 12 given"):
        run(network(), scenes, out, recipe(), preprocess=dv.Preprocess(resize=18, crop=(16, 12)))
    for wrong in ({"lr": 0.0}, {"epochs": 0}, {"batch_size": 1}, {"precision": "fp8"}, {"least_spread": 1.0}):
        with pytest.raises(TrainingError, match=next(iter(wrong)).replace("_", " ")):
            recipe(**wrong)
    with pytest.raises(DataError, match="option 'heads' given, which spatial-attention does not have"):
        recipe(attention={"heads": 2})
    with pytest.raises(DeconvvizError, match="no objective named 'moco'"):
        recipe(objective="moco")
    assert not out.exists()
    (tmp_path / "t.csv").write_text("mine")
    with pytest.raises(DataError, match=r"t\.csv exists, and no t\.pth to resume from"):
        run(network(), scenes, out, recipe())
    assert (tmp_path / "t.csv").read_text() == "mine" and not out.exists()


def test_maps_that_are_not_all_that_the_embedding_reads(tmp_path: pathlib.Path, scenes: InMemoryImages) -> None:
    class TwoWays(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)
            self.fc = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc((self.one(x) + self.two(x)).mean((2, 3)) + x.mean((1, 2, 3))[:, None])

    with pytest.raises(TrainingError, match="the maps of two are not all that the embedding"):
        run(TwoWays(), scenes, tmp_path / "t.pth", recipe(attention={}))


def test_a_batch_that_does_not_fit_is_refused_with_the_reason(
    tmp_path: pathlib.Path, scenes: InMemoryImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    def narrow(self: Pretraining, x: Tensor) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Pretraining, "_terms", narrow)
    with pytest.raises(
        TrainingError, match=r"a batch of 10 images, two views each, does not fit.*compares all of them"
    ):
        run(network(), scenes, tmp_path / "t.pth", recipe())


def test_divergence_keeps_the_last_good_checkpoint(tmp_path: pathlib.Path, scenes: InMemoryImages) -> None:
    out = tmp_path / "t.pth"
    with pytest.raises(TrainingError, match=r"diverged.*keeps the last good checkpoint"):
        run(network(), scenes, out, recipe(lr=1e37, objective="barlow-twins"), commit_every=1)
    content = torch.load(out, weights_only=True)
    assert all(torch.isfinite(tensor).all() for tensor in content["state_dict"].values())


def test_half_precision(tmp_path: pathlib.Path, scenes: InMemoryImages) -> None:
    full = run(network(), scenes, tmp_path / "f.pth", recipe(epochs=1))
    half = run(network(), scenes, tmp_path / "h.pth", recipe(epochs=1, precision="bf16"))
    assert half.model[0].weight.dtype == torch.float32 and not same(full.model, half.model)
    assert half.history[0]["loss"] == pytest.approx(full.history[0]["loss"], abs=0.1)


# --- the command


def command(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=code != 0)
    assert (result.exit_code == 0) == (code == 0), result.output
    return result.output if code == 0 else str(result.exception)


QUICK = [
    *["--input", "32", "--width", "0.05", "--fc", "100,100", "--epochs", "1"],
    *["--batch-size", "16", "--device", "cpu", "--quiet", "--workers", "1"],
]


def test_the_command_and_the_commands_that_take_its_file(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "z.pth"
    command("pack", "scenes:40", tmp_path / "s.h5", "--quiet")
    extra = [
        "--objective",
        "swav",
        "--with",
        "spatial-attention",
        "--option",
        "form=module",
        "--option",
        "prototypes=12",
    ]
    said = command("pretrain", "zfnet", tmp_path / "s.h5", *QUICK, *extra, "-o", out, "--snapshots", tmp_path / "e.h5")
    assert "swav" in said and f"wrote {out} and {out.with_suffix('.csv')}" in said and "deconvviz probe zfnet" in said
    identity = torch.load(out, weights_only=True)["identity"]["pretraining"]
    assert identity["options"] == {"prototypes": 12} and identity["attention"] == {"form": "module"}
    loaded = dv.load_model("zfnet", str(out))
    assert loaded.model.arguments["classes"] == 10 and loaded.settings["crop"] == 32 and loaded.classes == ()
    command("mine", "zfnet", tmp_path / "s.h5", "--weights", out, "-l", "relu3", "-o", tmp_path / "m.h5", "--quiet")
    probed = [
        "--weights",
        out,
        "-l",
        "relu7",
        "--per-class",
        "2",
        "--costs",
        "1",
        "--splits",
        "2",
        "-o",
        tmp_path / "p.csv",
        "--quiet",
    ]
    assert "relu7" in command("probe", "zfnet", tmp_path / "s.h5", *probed)
    assert Snapshots(tmp_path / "e.h5").epochs == (1,)


def test_images_without_labels(tmp_path: pathlib.Path) -> None:
    from deconvviz.data.decode import encode

    (tmp_path / "photos").mkdir()
    for number, picture in enumerate(noise(20, 40, 40)):
        (tmp_path / "photos" / f"{number}.png").write_bytes(encode(picture))
    command("pretrain", "zfnet", tmp_path / "photos", *QUICK, "-o", tmp_path / "z.pth")
    assert dv.load_model("zfnet", str(tmp_path / "z.pth")).model.arguments["classes"] == 1000


def test_bad_input_gets_one_line(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "z.pth"
    for arguments, complaint in (
        (("--option", "form=module"), "option 'form' given, which simclr does not have"),
        (("--with", "spatial-attention", "--option", "partner=other"), "partner 'other' given"),
        (("--option", "temperature"), "expected KEY=VALUE"),
        (("--batch-size", 64), "40 images given, and a batch has 64"),
        (("--crop", 0), "crop 0.0 given; expected a share above 0"),
    ):
        assert complaint in command("pretrain", "zfnet", "scenes:40", *QUICK, *arguments, "-o", out, code=2)
    assert "demo is trained already" in command("pretrain", "demo", "scenes:40", *QUICK, "-o", out, code=2)
    assert not list(tmp_path.iterdir())


def test_a_notebook_shows_the_curves(tmp_path: pathlib.Path, scenes: InMemoryImages) -> None:
    result = run(network(), scenes, tmp_path / "t.pth", recipe(objective="barlow-twins"))
    figure = dv.draw_pretraining(result)
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "effective rank", "spread, 0..1"]
    assert [line.get_label() for line in figure.axes[0].lines] == ["loss", "agreement", "redundancy"]
    assert list(result.to_frame()["epoch"]) == [1, 2]
