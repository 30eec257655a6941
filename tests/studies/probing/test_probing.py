"""Features against pooling by hand, their file against kills; probes against plain scikit-learn and planted truth."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.errors import CaptureError, DataError, DeconvvizError, LayerNotFound, MismatchError
from deconvviz.graph.choose import default_layers
from deconvviz.models.load import Loaded
from deconvviz.results.features import FeatureArrays, Features, FeatureWriter, write_features
from deconvviz.studies.probing import measure as probing
from deconvviz.studies.probing.command import probe as command
from deconvviz.studies.probing.features import LIMIT, Pooling, stream_features
from deconvviz.studies.probing.figure import draw_probing
from deconvviz.studies.probing.measure import Probed, ProbeSettings, class_accuracy, draw_splits, probe
from deconvviz.studies.probing.transfer import Transfer, some_of_each, transfer, untrained

COUNT, LAYERS = 60, ("1", "2", "5")
PLAIN = dv.Preprocess(resize=None, crop=(20, 28), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


class Noise:
    """Images in memory, higher than wide never: rows and columns must not be confused."""

    classes = ("one", "two", "three")

    def __init__(self, count: int = COUNT, seed: int = 0) -> None:
        self.images = np.random.default_rng(seed).integers(0, 256, (count, 20, 28, 3), np.uint8)
        self.labels, self.names = np.arange(count) % 3, [str(n) for n in range(count)]
        self.fingerprint = f"noise {count} {seed}"

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        return self.images[index], int(self.labels[index])


def model(seed: int = 1) -> nn.Module:
    """Layers 1: maps 6 x 18 x 26, 2: 6 x 9 x 13, 5: a vector of 10."""
    torch.manual_seed(seed)
    layers = (nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(702, 10), nn.ReLU())
    return nn.Sequential(*layers).eval()


def streamed(out: pathlib.Path, images: Noise | None = None, **changes: Any) -> Features:
    options: dict[str, Any] = {"preprocess": PLAIN, "progress": False, "batch_size": 4, "commit_every": 2} | changes
    network = options.pop("network", None) or dv.capture(model(), (3, 20, 28))
    return stream_features(network, images or Noise(), options.pop("layers", LAYERS), out, **options)


def pooled(maps: NDArray[np.float64], how: str, grid: tuple[int, int]) -> NDArray[np.float64]:
    """Bins from floor(i H / g) to ceil((i + 1) H / g), one after the other."""
    channels, rows, columns = maps.shape
    found = np.empty((channels, *grid))
    for c in range(channels):
        for i in range(grid[0]):
            for j in range(grid[1]):
                top, bottom = math.floor(i * rows / grid[0]), math.ceil((i + 1) * rows / grid[0])
                left, right = math.floor(j * columns / grid[1]), math.ceil((j + 1) * columns / grid[1])
                values = maps[c, top:bottom, left:right]
                found[c, i, j] = values.max() if how == "max" else values.mean()
    return found.ravel()


# --- features


@pytest.mark.parametrize(
    ("pool", "grids"),
    [
        ("max", {"1": (18, 26), "2": (9, 13)}),
        ("max 6x6", {"1": (6, 6), "2": (6, 6)}),
        ("mean 1x1", {"1": (1, 1), "2": (1, 1)}),
        ("mean 4x20", {"1": (4, 20), "2": (4, 13)}),
        ("all", {"1": (18, 26), "2": (9, 13)}),
    ],
)
def test_features_are_pooled_activations(pool: str, grids: dict[str, tuple[int, int]], tmp_path: pathlib.Path) -> None:
    """One image at a time, in float64, by the network as it was captured."""
    images, exact = Noise(9), dv.capture(model().double(), (3, 20, 28))
    found = streamed(tmp_path / "f.h5", images, pool=pool)
    assert found.complete and len(found) == 9 and list(found.layers) == list(LAYERS)
    assert found.classes == images.classes and found.labels.tolist() == images.labels.tolist()
    for n in range(9):
        values = exact.activations(PLAIN(images[n][0])[None].double(), LAYERS)
        for layer, grid in grids.items():
            row = found.rows(layer, np.array([n]))
            assert row.dtype == np.float32 and row.shape == (1, found.layers[layer])
            expected = pooled(values[layer][0].detach().numpy(), pool.split()[0], grid)
            np.testing.assert_allclose(row[0], expected, atol=1e-5)
        np.testing.assert_allclose(found.rows("5", np.array([n]))[0], values["5"][0].detach(), atol=1e-5)


def test_any_batch_size(tmp_path: pathlib.Path) -> None:
    one, every = streamed(tmp_path / "one.h5", batch_size=1), np.arange(COUNT)[::-1]
    for size, commits, workers in ((7, 1, 1), (64, 20, 3)):
        other = streamed(tmp_path / f"{size}.h5", batch_size=size, commit_every=commits, workers=workers)
        for layer in LAYERS:
            np.testing.assert_allclose(other.rows(layer, every), one.rows(layer, every), atol=1e-5)
        assert other.config == one.config


def test_chosen_images_half_precision_and_bf16(tmp_path: pathlib.Path) -> None:
    whole, chosen = streamed(tmp_path / "w.h5"), np.array([41, 3, 17])
    half = streamed(tmp_path / "h.h5", chosen=chosen, dtype="float16")
    assert half.labels.tolist() == [41 % 3, 0, 17 % 3]
    rows = half.rows("2", np.array([2, 0, 1, 1]))
    assert np.array_equal(rows, whole.rows("2", chosen[[2, 0, 1, 1]]).astype(np.float16))
    rough = streamed(tmp_path / "b.h5", precision="bf16").rows("2", chosen)
    exact = whole.rows("2", chosen)
    assert 0 < np.abs(rough - exact).max() < 0.05 * np.abs(exact).max()


def test_a_convolution_before_its_batch_norm(tmp_path: pathlib.Path) -> None:
    """In a fast network both are one op, unless the convolution's own value is asked for."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()
    nn.init.uniform_(net[1].weight, 0.3, 3)  # type: ignore[arg-type]
    network = dv.capture(net, (3, 20, 28))
    found, x = streamed(tmp_path / "f.h5", Noise(3), network=network, layers=("0", "1")), PLAIN(Noise(3)[2][0])[None]
    for layer in ("0", "1"):
        expected = network.activations(x, [layer])[layer].detach().flatten()
        np.testing.assert_allclose(found.rows(layer, np.array([2]))[0], expected, atol=1e-5)


@given(st.integers(1, 3000), st.integers(1, 230), st.integers(1, 230))
def test_the_default_grid_is_the_finest_that_fits(channels: int, rows: int, columns: int) -> None:
    grid = Pooling.parse("max").bins((channels, rows, columns))
    sides = [(min(rows, g), min(columns, g)) for g in range(1, 231)]
    fitting = [side for side in sides if channels * side[0] * side[1] <= LIMIT]
    assert grid == (max(fitting) if fitting else (1, 1))


def test_the_paper_s_layer_5_stays_whole() -> None:
    assert Pooling().bins((256, 6, 6)) == (6, 6) and Pooling().bins((96, 110, 110)) == (10, 10)


# --- the file: kills, continuing, refusals


def program(folder: pathlib.Path) -> None:
    """Run as a program: kill forks of it at chosen moments, and print how many rows each left."""
    torch.set_num_threads(1)
    network = dv.capture(model(), (3, 20, 28))
    straight, dones = streamed(folder / "straight.h5", network=network), list[int]()
    for moment in (("begin", 0), ("image", 5), ("write", 9), ("image", 25), ("write", 20), ("sync", 3), ("image", 59)):
        child = os.fork()
        if not child:
            signal.alarm(60)
            _die(folder / "killed.h5", network, *moment)
            os._exit(1)
        status = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, moment
        if not (folder / "killed.h5").exists():
            dones.append(-1)
            continue
        left = Features(folder / "killed.h5")
        dones.append(left.done)
        for layer in LAYERS:
            rows = np.arange(left.done)
            assert np.array_equal(left.rows(layer, rows), straight.rows(layer, rows)), (moment, layer)
    print(json.dumps(dones))


def _die(out: pathlib.Path, network: dv.Network, moment: str, when: int) -> None:
    """Stream until the moment: an image is read, a write is half done, rows are written but do not count yet."""

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    class Deadly(Noise):
        def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
            if moment == "image" and index == when:
                kill()
            return super().__getitem__(index)

    calls, whole, sync = iter(range(10**6)), FeatureWriter._write, os.fsync

    def torn(self: FeatureWriter, offset: int, data: memoryview) -> None:
        if next(calls) == when:
            whole(self, offset, data[: len(data) // 2])
            kill()
        whole(self, offset, data)

    def synced(descriptor: int) -> None:
        if next(calls) == when:
            kill()
        sync(descriptor)

    if moment == "write":
        FeatureWriter._write = torn  # type: ignore[method-assign]
    elif moment in ("sync", "begin"):
        os.fsync = synced
    streamed(out, Deadly(), network=network, workers=1)


@pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has imported torch")
def test_killed_and_continued(tmp_path: pathlib.Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    dones = json.loads(done.stdout)
    assert dones[0] == -1 and dones[1:] == sorted(dones[1:]) and len({n for n in dones if 0 < n < COUNT}) >= 3, dones
    streamed(tmp_path / "killed.h5")
    assert (tmp_path / "killed.h5").read_bytes() == (tmp_path / "straight.h5").read_bytes()
    left = {path.name for path in tmp_path.iterdir()} - {"killed.h5", "straight.h5"}
    assert len(left) == 1 and all(name.startswith(".killed.h5.") for name in left)  # of the kill while it was begun


def test_an_error_keeps_what_was_done(tmp_path: pathlib.Path) -> None:
    class Broken(Noise):
        def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
            if index == 23:
                raise DataError("no image 23")
            return super().__getitem__(index)

    out = tmp_path / "f.h5"
    with pytest.raises(DataError, match="no image 23"):
        streamed(out, Broken(), commit_every=1000)
    assert (done := Features(out).done) == 20 and not Features(out).complete
    with pytest.raises(DataError, match=r"rows 0 to 20 asked of .*f.h5; it has 20 so far"):
        Features(out).rows("1", np.arange(21))
    read: list[int] = []

    class Counted(Noise):
        def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
            read.append(index)
            return super().__getitem__(index)

    assert streamed(out, Counted()).complete and sorted(read) == list(range(done, COUNT))
    assert out.read_bytes() == pathlib.Path(streamed(tmp_path / "g.h5").path).read_bytes()
    read.clear()
    assert streamed(out, Counted()).complete and not read


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"network": 2}, "model_fingerprint"),
        ({"images": Noise(seed=1)}, "images_fingerprint"),
        ({"layers": ("1", "5")}, "layers"),
        ({"pool": "mean"}, "pool"),
        ({"dtype": "float16"}, "dtype"),
        ({"precision": "bf16"}, "precision"),
        ({"chosen": np.arange(COUNT)[::-1]}, "chosen"),
        ({"preprocess": dv.Preprocess(resize=None, crop=(20, 28))}, "preprocess"),
    ],
)
def test_another_question_is_refused(change: dict[str, Any], named: str, tmp_path: pathlib.Path) -> None:
    streamed(tmp_path / "f.h5")
    before = (tmp_path / "f.h5").read_bytes()
    if "network" in change:
        change = {"network": dv.capture(model(change["network"]), (3, 20, 28))}
    with pytest.raises(MismatchError, match=named):
        streamed(tmp_path / "f.h5", **change)
    assert (tmp_path / "f.h5").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "kind", "complaint"),
    [
        ({"layers": ("1", "conv9")}, LayerNotFound, "no layer 'conv9'"),
        ({"layers": ()}, DataError, "layers 0 given"),
        ({"batch_size": 0}, DataError, "batch size 0 given"),
        ({"chosen": np.zeros(0, np.int64)}, DataError, "images 0 given"),
        ({"pool": "max 0x3"}, DataError, "pooling 'max 0x3' given; expected max, mean, all"),
        ({"pool": "median"}, DataError, "pooling 'median' given"),
        ({"dtype": "int8"}, DataError, "dtype 'int8' given"),
        ({"preprocess": dv.Preprocess(crop=8)}, CaptureError, r"images of \(3, 8, 8\)"),
    ],
)
def test_wrong_settings(
    change: dict[str, Any], kind: type[DeconvvizError], complaint: str, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(kind, match=complaint) as error:
        streamed(tmp_path / "f.h5", **change)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_values_that_cannot_be_kept(tmp_path: pathlib.Path) -> None:
    large = model()
    with torch.no_grad():
        large[0].weight.mul_(1e6)  # type: ignore[operator, union-attr]
    network = dv.capture(large, (3, 20, 28))
    with pytest.raises(DataError, match=r"1 gives image 0 values up to .*e.06, which float16 cannot hold"):
        streamed(tmp_path / "f.h5", network=network, dtype="float16")
    with torch.no_grad():
        large[4].bias[3] = torch.nan  # type: ignore[index, union-attr]
    with pytest.raises(DataError, match="5 gives image 0 a value that is not finite"):
        streamed(tmp_path / "g.h5", network=dv.capture(large, (3, 20, 28)))


def test_disks_and_files(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "f.h5"
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 10**4))  # type: ignore[attr-defined]
        with pytest.raises(DataError, match=r"the features of 60 images take 0.0 GB.* 0.0 GB free"):
            streamed(out)
    assert not list(tmp_path.iterdir())
    with pytest.raises(DataError, match="there is no folder"):
        streamed(tmp_path / "none" / "f.h5")

    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def write(self, data: memoryview) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    writer = write_features(out, {"a": 3}, np.zeros(4, np.int64), ("x",), {}, {})
    writer.append({"a": np.ones((2, 3))})
    writer.commit()
    writer._file = Full(writer._file)  # type: ignore[assignment]
    with pytest.raises(DataError, match="No space left on device; free some space"):
        writer.append({"a": np.ones((2, 3))})
    assert Features(out).done == 2
    out.write_bytes(out.read_bytes()[:-1])
    with pytest.raises(DataError, match="no readable features file"):
        Features(out)
    out.write_text("text")
    with pytest.raises(DataError, match="no readable features file"):
        streamed(out)
    dv.pack(dv.Scenes(2), tmp_path / "store.h5", progress=False)
    with pytest.raises(DataError, match="expected a features file"):
        Features(tmp_path / "store.h5")
    with pytest.raises(LayerNotFound, match="no features of layer 'b'; nearest: a"):
        FeatureArrays({"a": np.ones((2, 3))}, np.zeros(2, np.int64)).rows("b", np.arange(2))


# --- which layers


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inside, self.relu = nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.relu(self.inside(x)))


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.passed_by, self.second, self.last = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(self.second(torch.relu(x + self.passed_by(x))))  # type: ignore[no-any-return]


def test_default_layers() -> None:
    """The last value of each stage that everything passes through, and not the output's; a ZFNet's are the paper's."""
    demo = dv.capture(dv.load_model("demo").model, (3, 64, 64))
    assert default_layers(demo) == ("norm1", "norm2", "relu3", "relu4", "pool5", "relu6", "relu7")
    assert default_layers(demo, pooled=False) == ("norm1", "norm2", "relu3", "relu4", "relu5", "relu6", "relu7")
    assert default_layers(demo, 3) == ("norm1", "relu4", "relu7")
    blocks = nn.Sequential(*(Residual(4) for _ in range(3)))
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), blocks, nn.Flatten(), nn.Dropout(), nn.Linear(4 * 144, 5))
    # the blocks' insides are passed by; flattened or dropped, the last block's value is the same
    assert default_layers(dv.capture(net.eval(), (3, 14, 14))) == ("1", "2.0", "2.1", "2.2")
    assert default_layers(dv.capture(Skip().eval(), (3, 14, 14))) == ("first", "second")
    with pytest.raises(DataError, match="name the layers"):
        default_layers(dv.capture(nn.Conv2d(3, 4, 3), (3, 14, 14)))


# --- splits and accuracy


@settings(deadline=None)
@given(
    counts=st.lists(st.integers(0, 12), min_size=2, max_size=5),
    per_class=st.integers(1, 6),
    test=st.one_of(st.none(), st.integers(1, 4)),
    seed=st.integers(0, 9),
)
def test_splits(counts: list[int], per_class: int, test: int | None, seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat([-1, *range(len(counts))], [3, *counts]))
    asked = ProbeSettings(per_class=(per_class,), splits=3, test=test, costs=(1.0,), seed=seed)
    present = [n for n, count in enumerate(counts) if count]
    if len(present) < 2 or min(counts[n] for n in present) <= per_class:
        with pytest.raises(DataError):
            draw_splits(labels, asked)
        return
    splits = draw_splits(labels, asked)
    for split in splits:
        assert labels[split.train].tolist() == [[n] * per_class for n in present]
        everything = [*split.train.ravel(), *split.test]
        assert len(everything) == len(set(everything))
        rest = {n: counts[n] - per_class for n in present}
        expected = {n: left if test is None else min(left, test) for n, left in rest.items()}
        assert {n: int((labels[split.test] == n).sum()) for n in present} == expected
        assert len(split.test) == sum(expected.values())
    again = draw_splits(labels, asked)
    assert all(
        np.array_equal(a.train, b.train) and np.array_equal(a.test, b.test) for a, b in zip(splits, again, strict=True)
    )
    if max(counts) > 8 and per_class > 2:
        assert any(not np.array_equal(splits[0].train, other.train) for other in splits[1:])


def test_accuracy_is_the_mean_over_the_classes() -> None:
    truth = np.array([0] * 8 + [1] * 2 + [5] * 4)
    predicted = np.array([0] * 6 + [1] * 2 + [1, 0] + [0] * 4)
    assert class_accuracy(truth, predicted) == pytest.approx((6 / 8 + 1 / 2 + 0) / 3)  # 7 of 14 would be 0.5


# --- probes


def table(noise: float, counts: tuple[int, ...] = (30,) * 4, width: int = 200, seed: int = 0) -> FeatureArrays:
    """Features around a random centre for each class, with scales and offsets that the probes have to level."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    values = rng.normal(size=(len(counts), width))[labels] + noise * rng.normal(size=(len(labels), width))
    scaled = values * rng.lognormal(0, 2, width) + rng.normal(0, 50, width)
    order = rng.permutation(len(labels))
    return FeatureArrays({"a": scaled[order].astype(np.float32)}, labels[order], ("p", "q", "r", "s"))


def test_what_is_separable_is_told_apart() -> None:
    asked = ProbeSettings(per_class=(3, 10), splits=3)
    found = probe(table(0.3), settings=asked, progress=False)
    assert found.accuracy.shape == (1, 2, 2, 3) and (found.accuracy == 1).all() and (found.deviation == 0).all()
    assert found.chance == 0.25 and found.tested == 80 and found.layers == {"a": 200}


def test_noise_is_at_chance() -> None:
    """Some 4 standard errors of one split's 400 images, which several splits of the same images can only narrow."""
    rng, labels = np.random.default_rng(3), np.repeat(np.arange(10), 45)
    noise = FeatureArrays({"a": rng.normal(size=(450, 600)).astype(np.float32)}, labels)
    found = probe(noise, settings=ProbeSettings(per_class=(5,), splits=4, costs=(0.1, 10.0)), progress=False)
    assert np.abs(found.mean - 0.1).max() < 4 * math.sqrt(0.1 * 0.9 / 400)


@pytest.mark.parametrize("width", [30, 200])  # more training images than features, and fewer: in their span
def test_probes_are_plain_scikit_learn(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same classifiers on all features in float64, splits drawn the same, costs chosen by loops; unbalanced."""
    monkeypatch.setattr(probing, "CHUNK", 7)
    features, costs = table(3.5 if width < 100 else 8, (60, 25, 40), width), (0.01, 1.0, 100.0)
    asked = ProbeSettings(per_class=(4, 15), splits=2, test=30, costs=costs, seed=5)
    found = probe(features, ["a"], asked, progress=False)
    makers = (
        lambda c: LinearSVC(C=c, dual=False, tol=1e-6, max_iter=10000),
        lambda c: LogisticRegression(C=c, tol=1e-6, max_iter=10000),
    )
    x, labels = features.arrays["a"].astype(np.float64), features.labels
    for s, split in enumerate(draw_splits(labels, asked)):
        for k, count in enumerate(asked.per_class):
            rows = np.concatenate([members[:count] for members in split.train])
            scaler = StandardScaler().fit(x[rows])
            inside, outside = (scaler.transform(x[r]) / math.sqrt(width) for r in (rows, split.test))
            folds = np.concatenate([np.arange(count) % 3] * 3)
            for p, make in enumerate(makers):
                scores = []
                for cost in costs:
                    fold_scores = []
                    for f in range(3):
                        guess = make(cost).fit(inside[folds != f], labels[rows][folds != f]).predict(inside[folds == f])
                        truth = labels[rows][folds == f]
                        fold_scores.append(np.mean([(guess[truth == c] == c).mean() for c in range(3)]))
                    scores.append(np.mean(fold_scores))
                best = costs[int(np.argmax(np.round(scores, 9)))]
                assert found.costs[0, p, k, s] == best
                guess = make(best).fit(inside, labels[rows]).predict(outside)
                expected = np.mean([(guess[labels[split.test] == c] == c).mean() for c in range(3)])
                assert found.accuracy[0, p, k, s] == pytest.approx(expected, abs=1e-9)
    assert found.mean.min() > 0.4 and found.mean.max() < 0.95  # neither chance nor certainty, which prove little


def test_the_table(tmp_path: pathlib.Path) -> None:
    asked = ProbeSettings(per_class=(15, 5), splits=2, costs=(1.0,))
    accuracy = np.array([0.5, 0.7, 0.8, 0.8, 0.1, 0.3, 0.2, 0.6]).reshape(1, 2, 2, 2)
    found = Probed({"conv5": 9216}, asked, 0.1, accuracy, np.ones_like(accuracy), 90)
    found.save_csv(tmp_path / "t.csv")
    with (tmp_path / "t.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert asked.per_class == (5, 15)
    expected = {
        "svm_5": 0.6,
        "svm_5_deviation": 0.2 / math.sqrt(2),
        "svm_15": 0.8,
        "svm_15_deviation": 0,
        "softmax_5": 0.2,
        "softmax_5_deviation": 0.2 / math.sqrt(2),
        "softmax_15": 0.4,
        "softmax_15_deviation": 0.4 / math.sqrt(2),
    }
    assert (row.pop("layer"), row.pop("values")) == ("conv5", "9216")
    assert {name: float(value) for name, value in row.items()} == pytest.approx(expected, abs=1e-6)
    assert "60.0 ± 14.1" in repr(found) and "conv5" in repr(found) and "chance 10.0" in repr(found)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"per_class": (5, 12)}, "class 'q' has 12 images; 12 to train on and at least 1 to test need 13"),
        ({"per_class": (2,)}, "2 images a class given; to choose among 5 costs they are split into 3 folds"),
        ({"per_class": ()}, r"per_class \(\) given"),
        ({"per_class": (0,)}, r"per_class \(0,\) given"),
        ({"splits": 1}, "splits 1 given; expected 2 or more"),
        ({"test": 0}, "test 0 given"),
        ({"costs": (0.0,)}, r"costs \(0.0,\) given; expected positive"),
        ({"probes": ()}, r"probes \(\) given; expected some of svm, softmax"),
        ({"probes": ("swm",)}, "no probe named 'swm'; nearest: svm"),
    ],
)
def test_wrong_questions(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(DeconvvizError, match=complaint) as error:
        probe(table(1, (20, 12, 30)), settings=ProbeSettings(**{"per_class": (5,), **change}), progress=False)
    assert "\n" not in str(error.value)


def test_wrong_features(monkeypatch: pytest.MonkeyPatch) -> None:
    few, features = ProbeSettings(per_class=(3,), splits=2), table(1)
    with pytest.raises(LayerNotFound, match="no features of layer 'b'; nearest: a"):
        probe(features, ["b"], few, progress=False)
    for labels in (np.full(120, -1), np.zeros(120, np.int64)):
        with pytest.raises(DataError, match=r"120 images of [01] known classes given"):
            probe(FeatureArrays(features.arrays, labels), settings=few, progress=False)
    values = features.arrays["a"].copy()
    values[:, 4] = np.inf
    with pytest.raises(DataError, match="not finite"):
        probe(FeatureArrays({"a": values}, features.labels), settings=few, progress=False)
    monkeypatch.setitem(sys.modules, "sklearn.svm", None)
    with pytest.raises(DataError, match=r"pip install 'deconvviz\[probe\]'"):
        probe(features, settings=few, progress=False)


# --- transfer


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


def test_trained_features_carry_further(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On scenes that the demo was not trained on: its deep features tell the classes, random ones do not."""
    loaded = dv.load_model("demo")
    networks = {
        "trained": dv.capture(loaded.model, (3, 64, 64)),
        "random": dv.capture(untrained(Loaded(loaded.model, {}, "demo", "none")), (3, 64, 64)),
    }
    preprocess, scenes = dv.Preprocess.from_dict(loaded.settings), dv.Scenes(130, seed=5)
    asked = ProbeSettings(per_class=(3, 6), splits=3, costs=(0.1,))
    options: dict[str, Any] = {"preprocess": preprocess, "limit": 12, "progress": False, "pool": "max 4x4"}
    found = transfer(networks, scenes, ("norm1", "relu7"), asked, tmp_path / "f.h5", **options)
    assert {path.name for path in tmp_path.iterdir()} == {"f.h5", "f.random.h5"}
    trained, random = found.found["trained"], found.found["random"]
    assert trained.tested == random.tested == 60 and trained.config["pool"] == "max 4x4"
    assert trained.mean[1, :, -1].min() > 0.85 > 0.6 > trained.mean[0, :, -1].max()  # it rises with depth
    assert random.mean[1, :, -1].max() < 0.45
    mean, deviation = found.curve("random", "relu7", "softmax")
    assert np.array_equal(mean, random.mean[1, 1]) and np.array_equal(deviation, random.deviation[1, 1])
    alone = transfer({"trained": networks["trained"]}, scenes, ("norm1", "relu7"), asked, **options)
    assert np.array_equal(alone.found["trained"].accuracy, trained.accuracy)
    with pytest.raises(DataError, match="12 images; 12 to train on"):  # before any image is read
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
        return Transfer(
            {name: Probed({"x": 5, "y": 6}, asked, 0.2, rng.random(shape), np.ones(shape), 9) for name in ("t", "r")}
        )

    found = made((5, 15))
    depth, counts = draw_probing(found, "title", "caption").axes
    assert len(depth.containers) == len(counts.containers) == 4
    told = {c.get_label(): c[0] for c in depth.containers}
    assert np.allclose(told["r, softmax"].get_ydata(), 100 * found.found["r"].mean[:, 1, -1])
    bars = next(c for c in depth.containers if c.get_label() == "r, softmax")[2][0].get_segments()
    assert np.allclose([bar[1, 1] - bar[0, 1] for bar in bars], 200 * found.found["r"].deviation[:, 1, -1])
    curve = {c.get_label(): c[0] for c in counts.containers}["t, linear SVM"]
    assert curve.get_xdata().tolist() == [5, 15]
    assert np.allclose(curve.get_ydata(), 100 * found.curve("t", "y", "svm")[0])
    assert any(np.allclose(line.get_ydata(), 20) for line in depth.lines)
    assert len(draw_probing(made((5,)), "title", "caption").axes) == 1


# --- the command


def run(*arguments: object) -> str:
    result = CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command(tmp_path: pathlib.Path) -> None:
    asked = ["demo", "scenes:70:6", "-l", "pool5", "-l", "relu7", "--per-class", "3,5", "--splits", "2"]
    asked += ["--costs", "1", "--device", "cpu", "--quiet"]
    asked += ["--features", str(tmp_path / "f.h5"), "-o", str(tmp_path / "p.csv")]
    text = run(*asked)
    assert "trained: Mean accuracy" in text and "random: Mean accuracy" in text and "wrote" in text
    before, kept = (tmp_path / "p.csv").read_bytes(), (tmp_path / "f.h5").read_bytes()
    with Image.open(tmp_path / "p.png") as figure:
        assert figure.width > 800 and "2 random splits (20 test images" in figure.text["Description"]  # type: ignore[attr-defined]
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
        ({"-o": "none/x.csv"}, "folder that is there"),
        ({"--per-class": "5,x"}, "expected whole numbers"),
        ({"--per-class": "40"}, "40 to train on and at least 1 to test need 41"),
        ({"--limit": "5", "--per-class": "5"}, "has 5 images; 5 to train on"),
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


if __name__ == "__main__":
    program(pathlib.Path(sys.argv[1]))
