"""Training against a loop written from its definition, its files, and what goes wrong."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from additions import PLAIN, squares
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from deconvviz.cli.main import cli
from deconvviz.data.decode import encode
from deconvviz.data.images import ImageStore
from deconvviz.data.memory import InMemoryImages
from deconvviz.data.pack import pack
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.sampling import random_crops, split
from deconvviz.errors import DataError, MismatchError, TrainingError
from deconvviz.models.load import load_model
from deconvviz.models.zfnet import zfnet
from deconvviz.studies.training.labelled import training_and_validation
from deconvviz.studies.training.recipe import Recipe
from deconvviz.studies.training.recorder import PAPER_EPOCHS, SnapshotRecorder
from deconvviz.studies.training.snapshots_command import SNAPSHOT_EPOCHS
from deconvviz.studies.training.train import NetworkTraining, train


def network(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(dropout), nn.Linear(96, 2)
    )


def run(model: nn.Module, out: pathlib.Path, recipe: Recipe, images: Any = None, **options: Any) -> Any:
    options = {"preprocess": PLAIN, "progress": False, **options}
    return train(model, images or squares(), out, recipe, **options)


def same(one: nn.Module, two: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_the_steps_are_the_papers(tmp_path: pathlib.Path) -> None:
    """Full batches, so order does not matter: momentum, decay and the filters' limit, in float64 from the formulas."""
    images, recipe = squares(), Recipe(epochs=6, batch_size=99, lr=0.05, weight_decay=0.01, augment=False, validation=0)
    model = network()
    with torch.no_grad():
        model[0].weight.mul_(2)  # so that some filters pass the limit
    ours = network().double()
    ours.load_state_dict(model.state_dict())
    first = run(model, tmp_path / "t.pth", recipe, images).history[0]

    known = images.labels >= 0
    small = np.stack([PLAIN.picture(image) for image in np.asarray(images.pictures)[known]])  # 16 px become 12
    cut = small.astype(np.float64) / 255
    x = torch.from_numpy(((cut - PLAIN.mean) / PLAIN.std).transpose(0, 3, 1, 2).copy())
    weights = list(ours.parameters())
    velocity = [torch.zeros_like(w) for w in weights]
    limited, labels = 0, torch.from_numpy(images.labels[known])
    for epoch in range(6):
        probabilities = torch.softmax(ours(x), 1)
        loss = -torch.log(probabilities[torch.arange(len(x)), labels]).mean()
        if epoch == 0:
            assert first["loss"] == pytest.approx(loss.item(), rel=1e-5)
            assert first["accuracy"] == pytest.approx(float((probabilities.argmax(1) == labels).double().mean()))
        gradients = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            for w, v, g in zip(weights, velocity, gradients, strict=True):
                v.mul_(0.9).add_(g + 0.01 * w)
                w.sub_(0.05 * v)
            for f in range(6):
                rms = float((weights[0][f] ** 2).mean() ** 0.5)
                limited += rms > 0.1
                weights[0][f] *= min(1, 0.1 / rms)
    assert 0 < limited < 36
    for a, b in zip(model.parameters(), weights, strict=True):
        assert torch.allclose(a.double(), b, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_batches_that_do_not_fit_go_in_parts(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = Recipe(epochs=2, batch_size=16, lr=0.05, validation=0)
    whole = run(network(), tmp_path / "whole.pth", recipe)
    outputs = NetworkTraining._outputs

    def narrow(self: NetworkTraining, pictures: torch.Tensor) -> torch.Tensor:
        if len(pictures) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return outputs(self, pictures)

    monkeypatch.setattr(NetworkTraining, "_outputs", narrow)
    parts = run(network(), tmp_path / "parts.pth", recipe)
    assert capsys.readouterr().err.count("out of memory: continuing with batches of 4") == 1
    for ours, theirs in zip(parts.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert [record["accuracy"] for record in parts.history] == [record["accuracy"] for record in whole.history]
    assert parts.history[1]["loss"] == pytest.approx(whole.history[1]["loss"], rel=1e-5)


def test_it_learns_and_tells_the_truth(tmp_path: pathlib.Path) -> None:
    """The accuracies it reports are those of the network in the file, on images it did not train on."""
    images = squares(200)
    found = run(network(), tmp_path / "t.pth", Recipe(epochs=12, batch_size=16, validation=0.3), images)
    last = found.history[-1]
    assert last["validation_accuracy"] > 0.9 and last["loss"] < found.history[0]["loss"] / 2
    assert [row["epoch"] for row in found.history] == list(range(1, 13))
    content = torch.load(tmp_path / "t.pth", weights_only=True)
    again = network().eval()
    again.load_state_dict(content["state_dict"])
    _, held = split(images.labels, 0.3, 0)
    x = torch.stack([PLAIN(images[int(i)][0]) for i in held])
    right = (again(x).argmax(1).numpy() == images.labels[held]).mean()
    assert abs(right - last["validation_accuracy"]) < 1e-9 and content["classes"] == ["dark", "bright"]
    assert "validation accuracy" in repr(found)


def test_the_rate_falls_on_a_plateau(tmp_path: pathlib.Path) -> None:
    recipe = Recipe(epochs=9, lr=1e-12, patience=2, factor=0.5, validation=0.3)  # too small a rate to change anything
    rates = [row["lr"] for row in run(network(), tmp_path / "t.pth", recipe).history]
    assert np.allclose(rates, [1e-12] * 4 + [5e-13] * 3 + [2.5e-13] * 2, rtol=1e-9, atol=0)


def test_which_images_are_learned_from_and_which_are_held_out() -> None:
    """All of a known class, the first class among them; images of unknown class are in neither part."""
    learned, held_out = training_and_validation(squares(), squares(10, seed=1), Recipe(epochs=1))
    assert learned.tolist() == list(range(39)) and held_out.tolist() == list(range(9))
    learned, held_out = training_and_validation(squares(), None, Recipe(epochs=1, validation=0.2))
    assert sorted([*learned.tolist(), *held_out.tolist()]) == list(range(39)) and len(held_out) == 8


def test_the_rate_follows_the_validation_error(tmp_path: pathlib.Path) -> None:
    """Replay the rule on the reported accuracies: it falls after more than `patience` epochs without a better one."""
    recipe = Recipe(epochs=14, batch_size=16, patience=1, factor=0.3, validation=0.3)
    history = run(network(), tmp_path / "t.pth", recipe, squares(120)).history
    rate, best, bad = recipe.lr, 9.0, 0
    for row in history:
        assert row["lr"] == pytest.approx(rate)
        error = 1 - row["validation_accuracy"]
        best, bad = (error, 0) if error < best * (1 - 1e-4) else (best, bad + 1)
        if bad > 1:
            rate, bad = rate * 0.3, 0
    assert recipe.lr * 1e-4 < rate < recipe.lr  # it fell, and improvements held it up


def test_every_epoch_has_its_own_order_and_crops(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deconvviz.studies.training import train as training

    seen: list[NDArray[np.uint8]] = []

    def noted(pictures: NDArray[np.uint8], size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
        seen.append(pictures)
        return random_crops(pictures, size, rng)

    monkeypatch.setattr(training, "random_crops", noted)
    run(network(), tmp_path / "t.pth", Recipe(epochs=2, batch_size=13, validation=0), preprocess=Preprocess(16, 12))
    first, second = np.concatenate(seen[:3]), np.concatenate(seen[3:])
    assert first.shape == (39, 16, 16, 3) and not np.array_equal(first, second)
    assert {image.tobytes() for image in first} == {image.tobytes() for image in second}  # each image once an epoch
    assert len({image.tobytes() for image in first}) == 39


class Stop(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 3, 7, 9, 16])  # of 4 steps an epoch; every second one is committed
def test_continued_equals_straight(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, stop: int) -> None:
    """Stopped after any step, with dropout and momentum: the same weights, history and snapshots in the end."""
    recipe = Recipe(epochs=4, batch_size=8, patience=0, validation=0.2)
    straight = run(network(0.5), tmp_path / "s.pth", recipe, recorder=SnapshotRecorder(tmp_path / "s.h5", (1, 3)))
    from deconvviz.studies.training import train as training

    steps, renormalise = 0, training.renormalise  # type: ignore[attr-defined]

    def counted(model: nn.Module, radius: float) -> None:
        nonlocal steps
        renormalise(model, radius)
        steps += 1
        if steps == stop:
            raise Stop

    options: dict[str, Any] = {"commit_every": 2}
    with monkeypatch.context() as patch:
        patch.setattr(training, "renormalise", counted)
        with pytest.raises(Stop):
            recorder = SnapshotRecorder(tmp_path / "k.h5", (1, 3))
            run(network(0.5), tmp_path / "k.pth", recipe, recorder=recorder, **options)
    torch.manual_seed(999)  # whatever the state of the new process
    recorder = SnapshotRecorder(tmp_path / "k.h5", (1, 3), resume=True)
    ended = run(network(0.5), tmp_path / "k.pth", recipe, recorder=recorder, **options)
    assert same(straight.model, ended.model)
    assert without_seconds(straight.history) == without_seconds(ended.history)
    from deconvviz.results.snapshots import Snapshots

    one, two = Snapshots(tmp_path / "s.h5"), Snapshots(tmp_path / "k.h5")
    assert one.epochs == two.epochs == (1, 3, 4) and one.history == two.history and len(one.history) == 4
    for name, array in one.weights(3).items():
        assert np.array_equal(array, two.weights(3)[name])


def without_seconds(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history]


def test_more_epochs_train_on(tmp_path: pathlib.Path) -> None:
    whole = run(network(0.5), tmp_path / "w.pth", Recipe(epochs=3))
    run(network(0.5), tmp_path / "p.pth", Recipe(epochs=1))
    content = (tmp_path / "p.pth").read_bytes()
    assert len(run(network(0.5), tmp_path / "p.pth", Recipe(epochs=1)).history) == 1  # finished: nothing happens
    assert (tmp_path / "p.pth").read_bytes() == content
    assert same(whole.model, run(network(0.5), tmp_path / "p.pth", Recipe(epochs=3)).model)


@pytest.mark.parametrize(("lr", "std"), [(1e30, 0.3), (1e37, 1e-6)])  # first the loss overflows, or the weights
def test_divergence_keeps_the_last_good_checkpoint(tmp_path: pathlib.Path, lr: float, std: float) -> None:
    out, preprocess = tmp_path / "t.pth", Preprocess(12, 12, std=(std,) * 3)
    with pytest.raises(
        TrainingError, match=r"diverged.*keeps the last good checkpoint.*lower learning rate than 1e\+3"
    ):
        run(network(), out, Recipe(epochs=5, lr=lr, radius=0, batch_size=8), commit_every=1, preprocess=preprocess)
    content = torch.load(out, weights_only=True)
    assert all(torch.isfinite(tensor).all() for tensor in content["state_dict"].values())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"recipe": Recipe(epochs=1, seed=5)}, "recipe"),
        ({"images": squares(40, seed=3)}, "images"),
        ({"preprocess": Preprocess(resize=14, crop=12)}, "preprocess"),
        ({"name": "other"}, "model"),
    ],
)
def test_another_training_is_refused(tmp_path: pathlib.Path, change: dict[str, Any], named: str) -> None:
    out = tmp_path / "t.pth"
    run(network(), out, Recipe(epochs=1))
    before = out.read_bytes()
    options = {"recipe": Recipe(epochs=1), **change}
    with pytest.raises(MismatchError, match=f"\\({named}:? "):
        run(network(), out, **options)
    assert out.read_bytes() == before


def test_wrong_inputs(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "t.pth"
    with pytest.raises(TrainingError, match=r"returns \[1, 2\].*expected \[1, 3\]"):
        images = InMemoryImages(squares().pictures, squares().labels, ("a", "b", "c"))
        run(network(), out, Recipe(epochs=1), images)
    with pytest.raises(DataError, match="validation images are the training images"):
        run(network(), out, Recipe(epochs=1), validation=squares())
    with pytest.raises(DataError, match="no folder"):
        run(network(), tmp_path / "none" / "t.pth", Recipe(epochs=1))
    unknown = InMemoryImages(squares().pictures, [-1] * 40, ("dark", "bright"))
    with pytest.raises(DataError, match="0 of 40 images have a class"):
        run(network(), out, Recipe(epochs=1), unknown)
    with pytest.raises(TrainingError, match="not known how images are prepared"):
        train(network(), squares(), out, progress=False)
    assert not out.exists()
    torch.save({"a": torch.zeros(1)}, out)
    with pytest.raises(DataError, match="is no training"):
        run(network(), out, Recipe(epochs=1))
    with pytest.raises(TrainingError, match="commit every 0 given; expected at least 1"):
        run(network(), out, Recipe(epochs=1), commit_every=0)
    with pytest.raises(TypeError, match="seed"):  # it is the recipe's: taken here, it would be without effect
        run(network(), out, Recipe(epochs=1), seed=3)
    for wrong in ({"lr": 0.0}, {"epochs": 0}, {"momentum": 1.0}, {"precision": "fp8"}, {"validation": 1.0}):
        with pytest.raises(TrainingError, match=next(iter(wrong))):
            Recipe(**wrong)


def test_half_precision(tmp_path: pathlib.Path) -> None:
    full = run(network(), tmp_path / "f.pth", Recipe(epochs=3, batch_size=8))
    half = run(network(), tmp_path / "h.pth", Recipe(epochs=3, batch_size=8, precision="bf16"))
    a, b = full.model[0].weight, half.model[0].weight
    assert b.dtype == torch.float32 and not torch.equal(a, b) and torch.allclose(a, b, atol=0.01)


@given(st.integers(1, 6), st.integers(1, 9), st.integers(0, 6), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_crops_are_crops(count: int, size: int, more: int, seed: int) -> None:
    """Each is a part of its picture, perhaps mirrored: every pixel tells its place."""
    side = size + more
    rows, columns = np.mgrid[:side, :side]
    pictures = np.stack([np.stack([rows, columns, np.full_like(rows, n)], 2) for n in range(count)]).astype(np.uint8)
    for n, cut in enumerate(random_crops(pictures, size, np.random.default_rng(seed))):
        top, left = int(cut[0, 0, 0]), int(cut[0, :, 1].min())
        part = pictures[n, top : top + size, left : left + size]
        assert np.array_equal(cut, part) or np.array_equal(cut, part[:, ::-1])


def test_every_crop_and_both_sides_occur() -> None:
    pictures = np.broadcast_to(np.arange(25, dtype=np.uint8).reshape(1, 5, 5, 1), (900, 5, 5, 3))
    cut = random_crops(np.ascontiguousarray(pictures), 3, np.random.default_rng(0))
    corners = {(int(c[0].min()), bool(c[0, 0, 0] > c[0, 1, 0])) for c in cut[..., :1]}
    assert len(corners) == 18


@given(st.lists(st.integers(-1, 3), min_size=8, max_size=60), st.sampled_from([0.25, 0.5]), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_split(given_labels: list[int], share: float, seed: int) -> None:
    labels = np.array(given_labels)
    try:
        training, held = split(labels, share, seed)
    except DataError:
        return
    assert not set(training) & set(held)
    assert sorted([*training, *held]) == np.flatnonzero(labels >= 0).tolist()
    for label in set(given_labels) - {-1}:
        assert (labels[held] == label).sum() == round(share * (labels == label).sum())
    assert all(np.array_equal(a, b) for a, b in zip((training, held), split(labels, share, seed), strict=True))


Command = Callable[..., str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    root, images = tmp_path_factory.mktemp("train"), squares(24)
    for n in range(23):
        path = root / "photos" / images.classes[images.labels[n]] / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(np.kron(images.pictures[n], np.ones((3, 3, 1), np.uint8))))
    pack(root / "photos", root / "photos.h5", progress=False)
    return root


ZFNET = ["--input", "32", "--width", "0.05", "--fc", "400,400", "--batch-size", "8", "--device", "cpu", "--quiet"]


def command(*arguments: object) -> str:
    result = CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
@pytest.mark.parametrize("source", ["photos.h5", "photos", "scenes:30"])
def test_the_command(folder: pathlib.Path, tmp_path: pathlib.Path, source: str) -> None:
    """Train on each kind of images; the file is a model for the other commands, with its own preprocessing."""
    images = source if source.startswith("scenes") else folder / source
    out = tmp_path / "z.pth"
    text = command("train", "zfnet", images, *ZFNET, "--epochs", 1, "--validation", 0.2, "-o", out, "--lr", 0.001)
    packed = source.endswith(".h5")
    assert ("next: deconvviz mine zfnet /" if packed else "next:\n  deconvviz pack ") in text
    assert packed or "\n  deconvviz mine zfnet images.h5 --weights " in text
    loaded = load_model("zfnet", str(out))
    assert loaded.settings["crop"] == 32 and loaded.settings["resize"] == 37 and loaded.settings["std"] == [1 / 255] * 3
    assert loaded.model.arguments["classes"] == (10 if source.startswith("scenes") else 2)
    command("mine", "zfnet", folder / "photos.h5", "--weights", out, "-l", "conv3", "-o", tmp_path / "m.h5", "--quiet")
    assert "conv5" in command("layers", "zfnet", "--weights", out)


def test_store_and_folder_train_alike(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for source in ("photos.h5", "photos"):
        command("train", "zfnet", folder / source, *ZFNET, "--epochs", 1, "-o", tmp_path / f"{source}.pth")
    a, b = (load_model("zfnet", str(tmp_path / f"{source}.pth")) for source in ("photos.h5", "photos"))
    assert same(a.model, b.model)


def test_another_model_trains_with_its_own_preprocessing(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "m.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    net = nn.Sequential(nn.Conv2d(3, 4, 5, 4), nn.ReLU(), nn.AdaptiveMaxPool2d(2), "
        "nn.Flatten(), nn.Linear(16, 2))\n"
        "    return net, {'resize': 40, 'crop': 36, 'mean': (0.5,) * 3, 'std': (0.5,) * 3}\n"
    )
    out, spec = tmp_path / "o.pth", f"{tmp_path / 'm.py'}:make"
    command("train", spec, folder / "photos.h5", "--epochs", 2, "-o", out, "--quiet", "--device", "cpu")
    loaded = load_model(spec, str(out))
    assert (loaded.settings["resize"], loaded.settings["crop"]) == (40, 36)
    store = ImageStore.open(folder / "photos.h5")
    x = Preprocess.from_dict(loaded.settings)(store[0][0])[None]
    assert loaded.model(x).shape == (1, 2)


def test_a_folder_with_a_broken_image(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1\.png.*deconvviz pack"):
        command("train", "zfnet", tmp_path, *ZFNET, "-o", tmp_path / "o.pth")
    assert not (tmp_path / "o.pth").exists()


def test_the_command_records_the_papers_epochs() -> None:
    """The command does not import the recorder for its --help: it has the epochs as text."""
    assert ",".join(map(str, PAPER_EPOCHS)) == SNAPSHOT_EPOCHS


@pytest.mark.slow
def test_the_default_size_suits_the_images(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    command(
        "train", "zfnet", folder / "photos.h5", "--width", "0.05", "--epochs", 1, "-o", tmp_path / "o.pth", "--quiet"
    )
    assert load_model("zfnet", str(tmp_path / "o.pth")).model.arguments["input_size"] == 32  # images of 48 px
    assert zfnet(3).arguments["input_size"] == 224
