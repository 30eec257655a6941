"""New heads, frozen parts and a slower body: what moves, what stays bit for bit, and the files that come of it."""

from __future__ import annotations

import copy
import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from additions import squares
from click.testing import CliRunner
from torch import Tensor, nn
from torch.nn import functional

import deconvviz as dv
from deconvviz.cli.main import cli
from deconvviz.data.datasets import Part
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import LayerNotFound, MismatchError, TrainingError
from deconvviz.models.heads import PLACE
from deconvviz.models.load import load_model
from deconvviz.results.snapshots import Snapshots
from deconvviz.run.heads import new_head
from deconvviz.studies.probing.measure import class_accuracy, draw_splits
from deconvviz.studies.training.fine_tuning import FineTuning, Parts
from deconvviz.studies.training.recipe import Recipe
from deconvviz.studies.training.train import train

PLAIN = Preprocess(resize=12, crop=12, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
RECIPE = Recipe(epochs=2, batch_size=16, lr=0.05, validation=0.2, weight_decay=0.01)
FACTORY = """
import torch
from torch import nn

def make():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(288, 5)
    ), {"resize": 12, "crop": 12, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4)}
"""


def body() -> nn.Module:
    """The network of FACTORY, with running statistics that are not those of the beginning."""
    space: dict[str, Any] = {}
    exec(FACTORY, space)
    model: nn.Module = space["make"]()[0]
    model.train()
    with torch.no_grad():
        model(torch.randn(32, 3, 12, 12) * 2 + 1)
    return model.eval()


def trained(out: pathlib.Path, tuning: FineTuning, model: nn.Module, recipe: Recipe = RECIPE, **options: Any) -> Any:
    return train(model, squares(), out, recipe, preprocess=PLAIN, progress=False, fine_tuning=tuning, **options)


def states(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(("kind", "freeze", "kept"), [("new", "all", 9), ("gap", "3", 3), ("lse", "all", 9)])
def test_frozen_parts_stay_bit_for_bit(tmp_path: pathlib.Path, kind: str, freeze: str, kept: int) -> None:
    """Weights, BatchNorm statistics and counters; a filter above the paper's limit is not scaled back either."""
    model = body()
    with torch.no_grad():
        model.get_parameter("0.weight").mul_(5)
    head = new_head(model, kind, 2, PLAIN.shape)
    before = states(model)
    result = trained(tmp_path / "t.pth", FineTuning(head=head, freeze=freeze, body_rate=0.5), model)
    for name, tensor in result.model.state_dict().items():
        number = name.partition(".")[0]
        frozen = number.isdigit() and int(number) < kept
        assert torch.equal(tensor, before[name]) == frozen, name
    assert all(parameter.requires_grad for parameter in result.model.parameters())
    assert result.model.get_parameter("0.weight").square().mean().sqrt() > 0.1


def test_batchnorm_keeps_its_statistics_and_learns(tmp_path: pathlib.Path) -> None:
    for keep in (True, False):
        model = body()
        before = states(model)
        tuning = FineTuning(head=new_head(model, "new", 2, PLAIN.shape), keep_statistics=keep)
        after = trained(tmp_path / f"{keep}.pth", tuning, model).model.state_dict()
        for layer in ("1", "5"):
            for name in ("running_mean", "running_var", "num_batches_tracked"):
                assert torch.equal(after[f"{layer}.{name}"], before[f"{layer}.{name}"]) == keep
            assert not torch.equal(after[f"{layer}.weight"], before[f"{layer}.weight"])
    with pytest.raises(MismatchError, match="keep_statistics"):
        other = body()
        trained(tmp_path / "True.pth", FineTuning(head=new_head(other, "new", 2, PLAIN.shape)), other)
    model = body()
    parts = Parts(model, FineTuning(keep_statistics=True), PLAIN.shape)
    parts.train_mode()
    x = torch.randn(4, 3, 12, 12)
    assert torch.equal(model[:8](x), model.eval()[:8](x))  # what comes before dropout is as in use


def test_frozen_parts_drop_nothing_and_use_their_statistics() -> None:
    model = body()
    head = new_head(model, "new", 2, PLAIN.shape)
    parts = Parts(model, FineTuning(head=head, freeze="all"), PLAIN.shape)
    parts.train_mode()
    x = torch.randn(8, 3, 12, 12)
    with parts.without_gradients():
        assert torch.equal(model(x), body_with(model)(x))
        assert [n for n, p in model.named_parameters() if p.requires_grad] == ["9.weight", "9.bias"]
    assert not model[1].training and model[9].training
    until = Parts(model, FineTuning(head=head, freeze="3"), PLAIN.shape)
    until.train_mode()
    assert [module.training for module in model.children()] == [False] * 4 + [True] * 6


def body_with(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).eval()


class WithToken(nn.Module):
    """A weight of the network's own, read before its first block."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.ones(1, 4, 1, 1))
        self.stem, self.block, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.fc(self.block(self.stem(x) + self.token).mean((2, 3)))
        return scores


def test_which_weights_are_frozen_and_which_are_slower() -> None:
    model = WithToken()
    parts = Parts(model, FineTuning(freeze="stem", body_rate=0.1), (3, 8, 8))
    groups = parts.groups(2.0)
    assert [group["lr"] for group in groups] == [2.0, 0.2]
    assert [{id(p) for p in group["params"]} for group in groups] == [
        {id(p) for p in part.parameters()} for part in (model.fc, model.block)
    ]
    plain = Parts(model, FineTuning(), (3, 8, 8)).groups(2.0)
    assert [id(p) for p in plain[0]["params"]] == [id(p) for p in model.parameters()] and len(plain) == 1


def test_rates_of_head_and_body_are_those_of_the_formula(tmp_path: pathlib.Path) -> None:
    """One step on all images, by hand: the head moves by the gradient times the rate, the body by a tenth of it."""
    images, recipe = squares(), Recipe(epochs=1, batch_size=99, lr=0.02, validation=0, augment=False, radius=0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    ours = copy.deepcopy(model).double()
    result = trained(tmp_path / "t.pth", FineTuning(body_rate=0.1), model, recipe)
    known = images.labels >= 0
    pictures = np.stack([PLAIN.picture(image) for image in np.asarray(images.pictures)[known]])
    x = torch.from_numpy(((pictures / 255.0 - PLAIN.mean) / PLAIN.std).transpose(0, 3, 1, 2).copy())
    loss = functional.cross_entropy(ours(x), torch.from_numpy(images.labels[known]))
    gradients = torch.autograd.grad(loss, list(ours.parameters()))
    rates = [0.002, 0.002, 0.02, 0.02]
    for new, old, gradient, rate in zip(result.model.parameters(), ours.parameters(), gradients, rates, strict=True):
        torch.testing.assert_close(new.double(), old - rate * gradient, rtol=1e-4, atol=1e-6)
    assert result.history[0]["lr"] == 0.02


def test_interrupted_and_resumed_ends_the_same(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start() -> tuple[nn.Module, FineTuning]:
        model = body()
        return model, FineTuning(head=new_head(model, "gap", 2, PLAIN.shape, 3), freeze="3", body_rate=0.1)

    torch.manual_seed(0)
    model, tuning = start()
    torch.manual_seed(0)
    again, _ = start()
    straight = trained(tmp_path / "straight.pth", tuning, model)
    steps = 0
    step = torch.optim.SGD.step

    def stopping(self: torch.optim.SGD, *arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 4:
            raise KeyboardInterrupt
        return step(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.optim.SGD, "step", stopping)
        trained(tmp_path / "k.pth", tuning, again, commit_every=1)
    torch.manual_seed(0)
    resumed = trained(tmp_path / "k.pth", tuning, start()[0], commit_every=1)
    ended = states(resumed.model)
    assert all(torch.equal(tensor, ended[name]) for name, tensor in states(straight.model).items())
    with pytest.raises(MismatchError, match=r"body_rate: 0\.1 in the file, None now"):
        trained(tmp_path / "k.pth", FineTuning(head=tuning.head, freeze="3"), start()[0])
    with pytest.raises(MismatchError, match="freeze: 3 in the file, 6 now"):
        trained(tmp_path / "k.pth", FineTuning(head=tuning.head, freeze="6", body_rate=0.1), start()[0])


@pytest.mark.slow
def test_the_head_alone_agrees_with_the_softmax_probe(tmp_path: pathlib.Path) -> None:
    """The same features and classifier by two ways: SGD on the head, and scikit-learn's logistic regression."""
    pytest.importorskip("sklearn")
    images, model = squares(80), body()
    flat = dv.capture(nn.Sequential(*list(model.children())[:8]).eval(), PLAIN.shape)
    settings = dv.ProbeSettings(probes=("softmax",), per_class=(12,), splits=3, costs=(1.0, 100.0))
    options: dict[str, Any] = {"preprocess": PLAIN, "pool": "all", "progress": False}
    found = dv.transfer({"trained": flat}, images, ["7"], settings, **options).by_network["trained"]
    recipe = Recipe(epochs=30, batch_size=12, lr=0.02, validation=0.0, augment=False)
    shares = []
    for number, split in enumerate(draw_splits(images.labels, settings)):
        network = copy.deepcopy(model)
        tuning = FineTuning(head=new_head(network, "new", 2, PLAIN.shape, number), freeze="all")
        part = Part(images, split.train.ravel())
        out = tmp_path / f"{number}.pth"
        network = train(network, part, out, recipe, preprocess=PLAIN, progress=False, fine_tuning=tuning).model
        pictures = np.stack([PLAIN.picture(images[i][0]) for i in split.test])
        predicted = network(PLAIN.tensor(pictures, "cpu")).argmax(1).numpy()
        shares.append(class_accuracy(images.labels[split.test], predicted))
    spread = max(float(found.deviation[0, 0, 0]), float(np.std(shares, ddof=1)), 0.02)
    assert abs(float(np.mean(shares)) - float(found.mean[0, 0, 0])) <= 2 * spread and np.mean(shares) > 0.7


def test_what_cannot_be_frozen(tmp_path: pathlib.Path) -> None:
    model = body()
    head = new_head(model, "new", 2, PLAIN.shape)
    with pytest.raises(LayerNotFound, match=r"no layer 'conv9' to freeze until; nearest: .* or all"):
        trained(tmp_path / "t.pth", FineTuning(head=head, freeze="conv9"), model)
    with pytest.raises(TrainingError, match="'9' is frozen, and with it the head"):
        trained(tmp_path / "t.pth", FineTuning(head=head, freeze="9"), model)
    with pytest.raises(TrainingError, match="body rate 0 given; expected a positive factor"):
        FineTuning(body_rate=0)
    shifted = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(TrainingError, match=r"gives its scores.*--head new"):
        trained(tmp_path / "t.pth", FineTuning(freeze="all"), shifted)
    with pytest.raises(TrainingError, match=r"returns \[1, 5\] .* expected \[1, 2\].*--head new"):
        trained(tmp_path / "t.pth", FineTuning(), body())
    assert not list(tmp_path.iterdir())


# --- the command -----------------------------------------------------------------------------------------------------


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(cli, [str(each) for each in arguments])
    assert bool(result.exit_code) == bool(code), result.output
    return result.output + str(result.exception or "")


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.py").write_text(FACTORY)
    images = squares(30)
    for name, label, picture in zip(images.names, images.labels, images.pictures, strict=True):
        path = tmp_path / "images" / images.classes[label] / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    return tmp_path


@pytest.mark.parametrize("kind", ["new", "gap", "wildcat"])
def test_a_trained_file_is_opened_by_other_commands(folder: pathlib.Path, kind: str) -> None:
    common = ["--epochs", 2, "--batch-size", 8, "--device", "cpu", "--quiet", "--workers", 1]
    head = ["--weights", "DEFAULT", "--head", kind, "--freeze", "3", "--body-rate", "0.1"]
    text = run("train", "m.py:make", "images", "-o", "t.pth", "--snapshots", "s.h5", *head, *common)
    assert ("cam cam m.py:make" in text) == (kind == "gap")
    loaded = load_model("m.py:make", "t.pth")
    assert loaded.classes == ("bright", "dark") and tuple(loaded.settings["mean"]) == (0.4, 0.5, 0.6)
    head_of_file = loaded.head
    assert head_of_file is not None and head_of_file.kind == kind and head_of_file.classes == 2
    x = torch.randn(2, 3, 12, 12)
    model = body()
    head_of_file.put_on(model)
    model.load_state_dict(torch.load("t.pth", weights_only=True)["state_dict"])
    assert torch.equal(loaded.model(x), model.eval()(x))
    assert (PLACE in run("layers", "m.py:make", "--weights", "t.pth", "--device", "cpu")) == (kind != "new")
    config = Snapshots("s.h5").config
    assert config["head"]["kind"] == kind and config["freeze"] == "3" and config["body_rate"] == 0.1
    run("pack", "images", "s.store.h5", "--quiet")
    run(
        "mine",
        "m.py:make",
        "s.store.h5",
        "--weights",
        "t.pth",
        "-l",
        "4",
        "-o",
        "mined.h5",
        "--device",
        "cpu",
        "--quiet",
    )
    again = ["--weights", "t.pth", "--head", "new", "--freeze", "all"]
    run("train", "m.py:make", "images", "-o", "u.pth", *again, *common)
    twice = load_model("m.py:make", "u.pth")
    assert twice.head is not None and twice.head.place == (PLACE if kind != "new" else "9")
    run("train", "m.py:make", "images", "-o", "v.pth", "--weights", "t.pth", *common)  # its head goes on as it is
    assert load_model("m.py:make", "v.pth").head == head_of_file


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--head", "mean"], "'mean' is not one of"),
        (["--head", "new", "--freeze", "conv9"], "no layer 'conv9' to freeze until"),
        (["--head", "new", "--body-rate", "-1"], "body rate -1.0 given"),
        (["--head", "new", "--weights", "none.pth"], "none.pth"),
    ],
)
def test_wrong_commands(folder: pathlib.Path, words: list[str], complaint: str) -> None:
    text = run("train", "m.py:make", "images", "-o", "t.pth", "--epochs", 1, "--quiet", *words, code=2)
    assert complaint in text and not (folder / "t.pth").exists()


def test_the_demo_is_adapted_and_drawn(folder: pathlib.Path) -> None:
    common = ["--epochs", 1, "--device", "cpu", "--quiet", "--workers", 1]
    assert "--head new" in run("train", "demo", "scenes:20", "-o", "d.pth", *common, code=2)
    head = ["--weights", "DEFAULT", "--head", "gap", "--freeze", "all", "--validation", "0.25"]
    run("train", "demo", "scenes:40:9", "-o", "d.pth", *head, *common)
    loaded, demo = load_model("demo", "d.pth"), load_model("demo")
    assert tuple(loaded.settings["mean"]) == tuple(demo.settings["mean"]) and loaded.head is not None
    assert loaded.head.layer == "relu5"
    assert torch.equal(loaded.model.get_parameter("conv5.weight"), demo.model.get_parameter("conv5.weight"))
