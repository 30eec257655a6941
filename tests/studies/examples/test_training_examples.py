"""Training images as explanation: each number against its definition, and planted duplicates and wrong labels."""

from __future__ import annotations

import itertools
import pathlib
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from in_memory import noise
from numpy.typing import NDArray
from scipy import optimize, special, stats
from torch import nn
from torch.nn import functional

import deconvviz as dv
from deconvviz.cli.main import cli
from deconvviz.data.memory import InMemoryImages
from deconvviz.errors import DataError, DeconvvizError, MismatchError
from deconvviz.results.features import FeatureArrays
from deconvviz.studies.examples.last_layer import Curvature, LastLayer, TrainingFeatures
from deconvviz.studies.examples.prototypes import criticisms, kernel_of, prototypes

Floats = NDArray[np.float64]
PLAIN = dv.Preprocess(resize=12, crop=12)
CLASSES = ("cat", "dog", "owl")


class Skipping(nn.Module):
    """A residual network with BatchNorm, whose last layer reads a mean over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.inner = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding=1)
        self.pool, self.last = nn.AdaptiveAvgPool2d(1), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(self.first(x)).relu()
        return self.last(self.pool((h + self.inner(h)).relu()).flatten(1))


def network_named(kind: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    if kind == "residual":
        model: nn.Module = Skipping()
        model.norm.running_var.uniform_(0.5, 2)
    else:
        model = nn.Sequential(nn.Conv2d(3, 4, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    return model.eval()


def labelled(count: int = 12, seed: int = 0) -> InMemoryImages:
    return InMemoryImages(noise(count, 12, 12, seed=seed), np.arange(count) % 3, CLASSES)


def recorded(kind: str, path: pathlib.Path) -> dv.Snapshots:
    """Snapshots of two epochs with different weights and learning rates, and of the untrained network."""
    recorder = dv.SnapshotRecorder(path, epochs=(0, 1, 2))
    for epoch, rate in ((0, 1.0), (1, 0.1), (2, 0.03)):
        recorder(epoch, network_named(kind, seed=epoch + 5), lr=rate)
    return dv.Snapshots(path)


def gradients(model: nn.Module, images: InMemoryImages) -> Floats:
    """The gradient of each image's loss with respect to the last layer, from autograd in float64."""
    last = list(model.double().parameters())[-2:]
    rows = []
    for picture, label in (images[n] for n in range(len(images))):
        loss = functional.cross_entropy(model(PLAIN(picture)[None].double()), torch.tensor([label]))
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, last)]).numpy())
    return np.stack(rows)


@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_tracin_is_the_sum_of_products_of_gradients(kind: str, tmp_path: pathlib.Path) -> None:
    images, snapshots = labelled(), recorded(kind, tmp_path / "s.h5")
    network = dv.capture(network_named(kind), PLAIN.shape)
    picture = noise(12, 12, seed=9)
    about: dict[str, Any] = {
        "preprocess": PLAIN,
        "snapshots": snapshots,
        "model": network_named(kind),
        "progress": False,
    }
    found = dv.examples(network, picture, images, target=1, count=12, lengths=True, **about)
    expected, own = np.zeros(12), np.zeros(12)
    for epoch, rate in ((1, 0.1), (2, 0.03)):  # not the untrained network
        model = network_named(kind, seed=epoch + 5)
        of_images = gradients(model, images)
        of_picture = gradients(model, InMemoryImages(picture[None], [1], CLASSES))[0]
        expected += rate * of_images @ of_picture
        own += rate * np.square(of_images).sum(1)
    measured = np.zeros(12)
    for row in (found.row("tracin for"), found.row("tracin against")):
        measured[row.images] = row.values
    assert np.allclose(measured, expected, rtol=1e-4, atol=1e-7)
    assert (np.diff(found.row("tracin for").values) <= 0).all() and (
        np.diff(found.row("tracin against").values) >= 0
    ).all()
    suspects = dv.suspects(network, images, lengths=True, **about)
    assert np.allclose(suspects.values, own[suspects.images], rtol=1e-4) and (np.diff(suspects.values) <= 0).all()


def test_by_default_tracin_has_embeddings_of_length_1() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(5, 4, generator=generator).numpy().astype(np.float64)
    layer = LastLayer(torch.randn(3, 5, generator=generator, dtype=torch.float64))
    training = features(rows, np.array([0, 1, 2, 0, 1]))
    a, y = training.rows(0, 1), torch.tensor([2])
    v = layer.weights.numpy()
    augmented = np.column_stack([rows.astype(np.float32), np.ones(5)])
    residual = special.softmax(augmented @ v.T, axis=1) - np.eye(3)[[0, 1, 2, 0, 1]]
    of_image = special.softmax(augmented[0] @ v.T) - np.eye(3)[2]
    unit = augmented / np.linalg.norm(augmented, axis=1, keepdims=True)
    assert np.allclose(layer.tracin(training, a, y, lengths=False), (residual @ of_image) * (unit @ unit[0]))
    assert np.allclose(layer.squares(training, lengths=False), np.square(residual).sum(1))


def features(rows: Floats, labels: NDArray[np.int64]) -> TrainingFeatures:
    return TrainingFeatures(FeatureArrays({"e": rows}, labels), "e", labels)


def two_clouds(count: int = 200, seed: int = 0) -> tuple[Floats, NDArray[np.int64]]:
    """Points of two classes that overlap, in 3 dimensions; float32 values, as files keep them."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    rows = rng.normal(size=(count, 3)) + 0.8 * labels[:, None]
    return rows.astype(np.float32).astype(np.float64), labels.astype(np.int64)


def regression(rows: Floats, labels: NDArray[np.int64], penalty: float, total: int, start: Floats) -> Floats:
    """The softmax regression with the smallest sum of losses / total + penalty / 2 |V|^2, by scipy."""
    augmented = np.column_stack([rows, np.ones(len(rows))])
    hot = np.eye(2)[labels]

    def loss(flat: Floats) -> tuple[float, Floats]:
        v = flat.reshape(2, 4)
        scores = augmented @ v.T
        value = -(hot * special.log_softmax(scores, axis=1)).sum() / total + penalty / 2 * np.square(flat).sum()
        gradient = (special.softmax(scores, axis=1) - hot).T @ augmented / total + penalty * v
        return value, gradient.ravel()

    return np.asarray(optimize.minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-8}).x)


def test_influence_is_what_leaving_out_and_training_again_does() -> None:
    """Leave-one-out retraining on 200 points: the rank correlation with influence is above 0.9 (Koh and Liang)."""
    rows, labels = two_clouds()
    penalty = 0.01
    training = features(rows, labels)
    layer = LastLayer.fitted(training, 2, penalty)
    whole = regression(rows, labels, penalty, 200, np.zeros(8))
    assert np.allclose(layer.weights.numpy().ravel(), whole, atol=1e-4)
    test = np.array([[0.3, 0.9, -0.2, 1.0]])

    def loss(flat: Floats) -> float:
        return float(-special.log_softmax(test @ flat.reshape(2, 4).T, axis=1)[0, 1])

    rises = []
    for n in range(200):
        kept = np.arange(200) != n
        rises.append(loss(regression(rows[kept], labels[kept], penalty, 200, whole)) - loss(whole))
    influence = Curvature(layer, training, penalty, 0.1).influence(torch.from_numpy(test), torch.tensor([1])).numpy()
    assert stats.spearmanr(influence, rises)[0] > 0.99
    assert 0.9 < np.polyfit(influence, rises, 1)[0] < 1.15  # in nats, not only in order


def test_conjugate_gradients_solve_as_the_factorised_hessian_and_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels = two_clouds(40, seed=1)
    training, damping = features(rows, labels), 0.05
    layer = LastLayer(torch.randn(2, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64))
    vector = torch.randn(2, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    a, y = training.rows(0, 40), training.outputs

    def loss(flat: torch.Tensor, of: slice = slice(None)) -> torch.Tensor:
        return functional.cross_entropy(a[of] @ flat.reshape(2, 4).T, y[of])

    hessian = torch.func.hessian(loss)(layer.weights.flatten()) + damping * torch.eye(8, dtype=torch.float64)
    expected = torch.linalg.solve(hessian, vector.flatten()).reshape(2, 4)
    exact = Curvature(layer, training, damping, 0.1)
    assert exact.exact and torch.allclose(exact.solve(vector), expected, rtol=1e-9)
    weights, each = layer.weights.flatten(), [slice(n, n + 1) for n in range(40)]
    per_image = torch.stack([torch.func.grad(partial(loss, of=one))(weights) for one in each])
    own = (per_image @ torch.linalg.inv(hessian) * per_image).sum(1) / 40
    assert torch.allclose(exact.self_influence(), own, rtol=1e-9)
    monkeypatch.setattr("deconvviz.studies.examples.last_layer.EXACT", 0)
    monkeypatch.setattr("deconvviz.studies.examples.last_layer.BLOCK", 7)
    iterative = Curvature(layer, training, damping, 0.1)
    assert not iterative.exact and torch.allclose(iterative.solve(vector), expected, rtol=1e-5) and iterative.steps > 1
    default = Curvature(layer, training, None, 0.1).damping
    assert default == pytest.approx(0.1 * float((hessian.diagonal() - damping).mean()))


def test_prototypes_and_criticisms_are_the_greedy_optimum() -> None:
    points = np.random.default_rng(4).normal(size=(9, 2))
    squares = np.square(points[:, None] - points[None]).sum(-1)
    median = np.median([squares[i, j] for i, j in itertools.combinations(range(9), 2)])
    kernel = kernel_of(points)
    assert np.allclose(kernel, np.exp(-squares / median))

    def fit(chosen: list[int]) -> float:
        pairs = kernel[np.ix_(chosen, chosen)].sum() / len(chosen) ** 2
        return float(2 * kernel[:, chosen].sum() / (9 * len(chosen)) - pairs)

    chosen: list[int] = []
    for _ in range(3):
        chosen.append(max((n for n in range(9) if n not in chosen), key=lambda n: fit([*chosen, n])))
    assert prototypes(kernel, 3).tolist() == chosen

    def critique(found: list[int]) -> float:
        rarity = sum(abs(kernel[n].mean() - kernel[n, chosen].mean()) for n in found)
        return float(rarity + np.linalg.slogdet(kernel[np.ix_(found, found)])[1])

    rare: list[int] = []
    for _ in range(4):
        rare.append(max((n for n in range(9) if n not in [*chosen, *rare]), key=lambda n: critique([*rare, n])))
    assert criticisms(kernel, np.array(chosen), 4).tolist() == rare
    assert len(prototypes(kernel, 20)) == 9 and len(criticisms(kernel, np.arange(9), 2)) == 0


@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_a_duplicate_of_the_image_comes_first(kind: str) -> None:
    images, network = labelled(), dv.capture(network_named(kind), PLAIN.shape)
    found = dv.examples(network, images[7][0], images, preprocess=PLAIN, progress=False, count=4, target=1, against=2)
    nearest = found.row("nearest")
    assert nearest.images[0] == 7 and nearest.values[0] == pytest.approx(1, abs=1e-6) and nearest.values[1] < 1
    assert (nearest.pictures[0] == found.picture).all()
    assert set(found.row("nearest of class").images.tolist()) <= {1, 4, 7, 10}
    assert set(found.row("nearest of other class").images.tolist()) <= {2, 5, 8, 11}
    last = "2" if kind == "plain" else "pool"
    values = network.activations(torch.stack([PLAIN(images[n][0]) for n in range(12)]), [last])[last].flatten(1).numpy()
    cosine = values @ values[7] / np.linalg.norm(values, axis=1) / np.linalg.norm(values[7])
    assert np.allclose(nearest.values, np.sort(cosine)[::-1][:4], atol=1e-5)


def test_without_a_linear_last_layer_a_regression_takes_its_place(tmp_path: pathlib.Path) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 3, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    network, images = dv.capture(model.eval(), PLAIN.shape), labelled()
    found = dv.examples(network, images[0][0], images, preprocess=PLAIN, progress=False)
    assert found.layer == "1" and "not linear in '1'" in found.notes[0]
    with pytest.raises(DataError, match="TracIn needs the last layer's own gradients"):
        recorder = dv.SnapshotRecorder(tmp_path / "s.h5", epochs=(1,))
        recorder(1, model)
        snapshots = dv.Snapshots(tmp_path / "s.h5")
        dv.suspects(network, images, preprocess=PLAIN, snapshots=snapshots, model=model, progress=False)


def test_planted_wrong_labels_come_first(tmp_path: pathlib.Path) -> None:
    """Of 60 coloured images 6 have a wrong label; all 6 come first by TracIn, though the network learned most."""
    rng = np.random.default_rng(0)
    true = np.arange(60) % 3
    pictures = rng.integers(0, 90, (60, 12, 12, 3)).astype(np.uint8)
    pictures[np.arange(60), :, :, true] += 130
    labels = true.copy()
    wrong = np.arange(0, 60, 11)
    labels[wrong] = (true[wrong] + 1) % 3
    images, model = InMemoryImages(pictures, labels, CLASSES), network_named("plain")
    optimiser, recorder = (
        torch.optim.SGD(model.parameters(), 0.05),
        dv.SnapshotRecorder(tmp_path / "s.h5", epochs=(5, 30)),
    )
    x, y = torch.stack([PLAIN(picture) for picture in pictures]), torch.from_numpy(labels)
    for epoch in range(1, 31):
        optimiser.zero_grad()
        functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if epoch in (5, 30):
            recorder(epoch, model, lr=0.05)
    network = dv.capture(model.eval(), PLAIN.shape)
    about: dict[str, Any] = {"snapshots": dv.Snapshots(tmp_path / "s.h5"), "model": model, "progress": False}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = dv.suspects(network, images, preprocess=PLAIN, **about)
    assert set(found.images[:6].tolist()) == set(wrong.tolist())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    found.save_csv(tmp_path / "t.csv")
    lines = (tmp_path / "t.csv").read_text().splitlines()
    assert len(lines) == 61 and lines[0] == "rank,image,index,class,predicted,probability,self_influence"
    assert len(dv.draw_suspects(found).axes) == 32


def test_kept_features_are_read_again_and_refuse_another_network(tmp_path: pathlib.Path) -> None:
    images, network = labelled(), dv.capture(network_named("plain"), PLAIN.shape)
    about: dict[str, Any] = {"preprocess": PLAIN, "progress": False, "features": tmp_path / "f.h5", "target": 0}
    first = dv.examples(network, images[2][0], images, **about)
    stamp = (tmp_path / "f.h5").stat().st_mtime_ns
    again = dv.examples(network, images[2][0], images, **about)
    assert (tmp_path / "f.h5").stat().st_mtime_ns == stamp
    assert all((a.images == b.images).all() for a, b in zip(first.rows, again.rows, strict=True))
    with pytest.raises(MismatchError):
        dv.examples(dv.capture(network_named("plain", seed=1), PLAIN.shape), images[2][0], images, **about)


def test_unknown_rates_count_the_same_and_are_told(tmp_path: pathlib.Path) -> None:
    recorder = dv.SnapshotRecorder(tmp_path / "s.h5", epochs=(1,))
    recorder(1, network_named("plain"))
    snapshots, network = dv.Snapshots(tmp_path / "s.h5"), dv.capture(network_named("plain"), PLAIN.shape)
    found = dv.suspects(
        network, labelled(), preprocess=PLAIN, snapshots=snapshots, model=network_named("plain"), progress=False
    )
    assert any("no learning rates" in note for note in found.notes)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (InMemoryImages(noise(4, 12, 12)), "no labels"),
        (InMemoryImages(noise(4, 12, 12), [0, 0, 0, 0], CLASSES), "of one class"),
        (
            InMemoryImages(noise(4, 12, 12), [0, 1, 2, 3], ["a", "b", "c", "d"]),
            "4 classes, such as 'a', the",
        ),
        (InMemoryImages(noise(4, 12, 12)[..., :1], [0, 1, 2, 1], CLASSES), "channel"),
    ],
)
def test_training_images_that_do_not_fit_are_refused(images: InMemoryImages, message: str) -> None:
    network = dv.capture(network_named("plain"), PLAIN.shape)
    with pytest.raises(DeconvvizError, match=message):
        dv.suspects(network, images, preprocess=PLAIN, progress=False)
    with pytest.raises(DeconvvizError, match=message):
        dv.examples(network, noise(12, 12), images, preprocess=PLAIN, progress=False)


def test_snapshots_and_options_that_do_not_fit_are_refused(tmp_path: pathlib.Path) -> None:
    network, images = dv.capture(network_named("plain"), PLAIN.shape), labelled()
    snapshots = recorded("residual", tmp_path / "s.h5")
    with pytest.raises(MismatchError, match="give the model that was trained"):
        dv.suspects(
            network, images, preprocess=PLAIN, snapshots=snapshots, model=network_named("plain"), progress=False
        )
    with pytest.raises(DataError, match="without a model"):
        dv.suspects(network, images, preprocess=PLAIN, snapshots=snapshots, progress=False)
    for options in ({"count": 0}, {"damping": 0.0}, {"limit": 1}):
        with pytest.raises(DataError, match="given"):
            dv.suspects(network, images, preprocess=PLAIN, progress=False, **options)
    with pytest.raises(DataError, match="classes 0 to 2"):
        dv.examples(network, noise(12, 12), images, preprocess=PLAIN, progress=False, target=3)
    result = CliRunner().invoke(cli, ["examples", "demo", "scenes:9", "-o", str(tmp_path / "e.png")])
    assert isinstance(result.exception, DataError) and "an image and the training images" in str(result.exception)
    assert not (tmp_path / "e.png").exists()


def test_the_command_writes_figures_and_tables(tmp_path: pathlib.Path) -> None:
    from PIL import Image

    Image.fromarray(dv.Scenes(1)[0][0]).save(tmp_path / "scene.png")
    out = tmp_path / "e.png"
    words = [
        "examples",
        "demo",
        str(tmp_path / "scene.png"),
        "scenes:20",
        "--self",
        "-k",
        "3",
        "--quiet",
        "-o",
        str(out),
    ]
    result = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    rows = (tmp_path / "e.csv").read_text().splitlines()
    assert rows[1].startswith("nearest,1,000000-") and rows[1].endswith(",1")
    assert {path.name for path in tmp_path.iterdir()} == {
        "scene.png",
        "e.png",
        "e.csv",
        "e.suspicious.png",
        "e.suspicious.csv",
    }


def test_beside_a_fitted_last_layer_stands_what_the_network_itself_predicts() -> None:
    """A regression on few images says of each what its label says, right or wrong."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 16, 5, stride=2), nn.ReLU(), nn.Conv2d(16, 3, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
    model, images = nn.Sequential(*layers, nn.Flatten()).double().eval(), labelled(6)
    x = torch.stack([PLAIN(images[n][0]) for n in range(len(images))]).double()
    p = model(x).softmax(1)
    found = dv.suspects(dv.capture(model, PLAIN.shape), images, preprocess=PLAIN, batch_size=5, progress=False)
    assert found.predicted.tolist() == p.argmax(1)[found.images].tolist()
    assert np.allclose(found.probability, p[found.images, found.labels].detach().numpy())
    assert "classifies 100.0% of the training images correctly. Wrong labels are learned" in " ".join(found.notes)
