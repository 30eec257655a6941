"""Mining against a full sort in NumPy, and everything that may not change its result: batches, threads, shards, breaks.

Pixels of 0 or 1 and weights that are multiples of 1/4 make every sum exact in whatever order it is taken, so results
are compared bit for bit; and values of few kinds tie often.
"""

from __future__ import annotations

import json
import pathlib
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from seals import unsealed
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.data.decode import encode
from deconvviz.data.images import ImageStore
from deconvviz.data.pack import pack
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.sampling import spread
from deconvviz.errors import CaptureError, DataError, LayerNotFound, MismatchError
from deconvviz.graph.network import Network
from deconvviz.results.results import Result
from deconvviz.studies.mining.merge import merge
from deconvviz.studies.mining.mine import mine
from deconvviz.studies.mining.result import COUNTS, KIND, SCHEMA, TABLES, Mined, load_mined

COUNT = 60
SHAPE = (3, 16, 32)
LAYERS = ("conv1", "relu1", "conv2", "relu2", "fc")
PLAIN = Preprocess(32, (16, 32), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
NO_MEMORY = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate"


class Exact(nn.Module):
    """Channel 0 of conv1 is 1 everywhere, so that all images tie; channel 0 of relu2 is dead."""

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.relu1 = nn.Conv2d(3, 6, 3, padding=1), nn.ReLU()
        self.conv2, self.relu2 = nn.Conv2d(6, 8, 3, stride, padding=1), nn.ReLU()
        self.pool, self.fc = nn.MaxPool2d(2), nn.Linear(8, 5)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data = torch.randint(-2, 3, parameter.shape, generator=generator) / 4
        self.conv1.weight.data[0], self.conv1.bias.data[0] = 0, 1
        self.conv2.bias.data[0] = -1000

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu2(self.conv2(self.pool(self.relu1(self.conv1(x)))))
        return self.fc(x.mean((2, 3)))


class Lively(nn.Module):
    """Random weights and BatchNorm statistics."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv1, self.bn1, self.relu1 = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU()
        self.conv2, self.bn2, self.relu2 = nn.Conv2d(6, 8, 3, 2, bias=False), nn.BatchNorm2d(8), nn.ReLU()
        for norm in (self.bn1, self.bn2):
            for tensor, low in ((norm.running_mean, -0.5), (norm.running_var, 0.5), (norm.weight, 0.5), (norm.bias, 0)):
                nn.init.uniform_(tensor, low, low + 1)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.relu2(self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x))))))


class Odd(nn.Module):
    """x, but infinite beyond 2.5 on either side and NaN above 3.5."""

    def forward(self, x: Tensor) -> Tensor:
        high, higher, low = (torch.relu(v) * 1e38 * 1e38 for v in (x - 2.5, x - 3.5, -2.5 - x))  # 0 or infinite
        return x + high - low + (higher - higher)


def packed(folder: pathlib.Path, pictures: Sequence[NDArray[np.uint8]]) -> ImageStore:
    (folder / "in").mkdir(parents=True)
    for index, picture in enumerate(pictures):
        (folder / "in" / f"{index:03d}.png").write_bytes(encode(picture))
    pack(folder / "in", folder / "store.h5", progress=False)
    return ImageStore.open(folder / "store.h5")


def black_and_white(seed: int) -> list[NDArray[np.uint8]]:
    """Images of which each tenth repeats the one before it; some are larger than what the network sees."""
    rng = np.random.default_rng(seed)
    pictures: list[NDArray[np.uint8]] = []
    for index in range(COUNT):
        shape = [(32, 32), (32, 40), (36, 32)][index % 3]
        pixels = rng.random((*shape, 3)) < rng.uniform(0.05, 0.95)
        pictures.append(pictures[-1] if index % 10 == 9 else pixels.astype(np.uint8) * 255)
    return pictures


@pytest.fixture(scope="module")
def exact() -> Network:
    return dv.capture(Exact(), SHAPE)


@pytest.fixture(scope="module")
def lively() -> Network:
    return dv.capture(Lively(), (3, 32, 32))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    return packed(tmp_path_factory.mktemp("exact"), black_and_white(0))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    rng = np.random.default_rng(1)
    # Coarse blocks, so that images differ in more than noise.
    blocks = [rng.integers(0, 256, (5, 6, 3), np.uint8).repeat(8, 0).repeat(8, 1) for _ in range(24)]
    return packed(tmp_path_factory.mktemp("photos"), blocks)


Run = Callable[..., Mined]


@pytest.fixture(scope="module")
def run(exact: Network, store: ImageStore) -> Run:
    """`run(**changes)`: mine the exact network, with these settings changed."""

    def run(
        network: Network = exact, images: ImageStore = store, layers: Sequence[str] = LAYERS, **changes: Any
    ) -> Mined:
        settings: dict[str, Any] = {"k": 9, "batch_size": 7, "preprocess": PLAIN, "progress": False, **changes}
        return mine(network, images, layers, **settings)

    return run


@pytest.fixture(scope="module")
def whole(run: Run) -> Mined:
    return run()


def activations(network: Network, store: ImageStore, layer: str, preprocess: Preprocess = PLAIN) -> NDArray[np.float32]:
    pictures = np.stack([preprocess.picture(image) for image, _ in store])
    maps = network.maps(layer, network.activations(preprocess.tensor(pictures), [layer])[layer])
    return maps.detach().numpy()


def full_sort(maps: NDArray[np.float32], k: int) -> dict[str, NDArray[Any]]:
    """The table of maps [N, C, H, W], and the channels' counts, each channel by itself."""
    finite = np.isfinite(maps)
    flat = np.where(finite, maps, -np.inf).reshape(*maps.shape[:2], -1)
    best, where = flat.max(2).T, flat.argmax(2).T  # [C, N]; argmax gives the first of equals
    order = np.stack([np.lexsort((np.arange(len(maps)), -row))[:k] for row in best])
    values, images = (
        np.take_along_axis(best, order, 1),
        np.where(np.take_along_axis(best, order, 1) > -np.inf, order, -1),
    )
    positions = np.stack(np.divmod(np.take_along_axis(where, order, 1), maps.shape[3]), 2)
    positions[images < 0] = -1
    gap = ((0, 0), (0, k - order.shape[1]))
    total = (np.where(finite, maps, 0).astype(np.float64).sum((2, 3)) / np.maximum(finite.sum((2, 3)), 1)).sum(0)
    return {
        "values": np.pad(values, gap, constant_values=-np.inf),
        "images": np.pad(images, gap, constant_values=-1),
        "positions": np.pad(positions, (*gap, (0, 0)), constant_values=-1),
        "fired": (best > 0).sum(1),
        "total": total,
        "maximum": best.max(1),
        "broken": (~finite).sum((0, 2, 3)),
    }


def assert_is_full_sort(
    mined: Mined, layer: str, maps: NDArray[np.float32], k: int, images: NDArray[np.int64] | None = None
) -> None:
    """Compare with a full sort of maps [N, C, H, W]; `images` are those that were mined, by default all."""
    images = np.arange(len(maps)) if images is None else images
    maps = maps[images]
    found = {key: getattr(mined[layer].top, key) for key in TABLES}
    found |= {key: getattr(mined[layer].activity, key) for key in COUNTS}
    expected = full_sort(maps, k)
    table = expected["images"]
    expected["images"] = np.where(table >= 0, images[np.maximum(table, 0)], -1)
    for key, array in found.items():
        if key == "total":  # a sum of fractions, in an order of its own
            np.testing.assert_allclose(array, expected[key], rtol=1e-13)
            continue
        np.testing.assert_array_equal(array, expected[key], err_msg=f"{layer}: {key}")
    assert found["values"].dtype == found["maximum"].dtype == np.float32
    assert mined[layer].activity.images == len(maps)
    np.testing.assert_array_equal(mined[layer].activity.dead, expected["fired"] == 0)
    np.testing.assert_allclose(mined[layer].activity.mean, expected["total"] / len(maps), rtol=1e-13)


def assert_same(a: Mined, b: Mined) -> None:
    """Assert that two results agree in every bit, and in what decides whether they belong together."""
    assert json.loads(json.dumps(a.config)) == json.loads(json.dumps(b.config))  # in a file, tuples are lists
    assert (a.done, a.total) == (b.done, b.total)
    assert list(a) == list(b)
    for name in a:
        assert a[name].activity.images == b[name].activity.images
        for part, keys in (("top", TABLES), ("activity", COUNTS)):
            for key in keys:
                one, other = (getattr(getattr(m[name], part), key) for m in (a, b))
                assert one.dtype == other.dtype
                np.testing.assert_array_equal(one, other, err_msg=f"{name}: {key}")


def no_images(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(self: ImageStore, index: int) -> None:
        pytest.fail("an image was read")

    monkeypatch.setattr(ImageStore, "__getitem__", read)


# --- the result


@pytest.mark.parametrize("layer", LAYERS)
def test_equals_a_full_sort(layer: str, whole: Mined, exact: Network, store: ImageStore) -> None:
    assert_is_full_sort(whole, layer, activations(exact, store, layer), 9)


def test_what_the_exact_network_was_made_for(whole: Mined) -> None:
    assert whole["conv1"].images[0].tolist() == list(range(9))  # all tie: by index
    assert whole["conv1"].positions[0].tolist() == [[0, 0]] * 9 and (whole["conv1"].values[0] == 1).all()
    assert whole["relu2"].activity.dead[0] and not whole["relu2"].activity.dead.all()
    images = whole["conv2"].images[1:].tolist()
    pairs = [(i, i + 1) for i in range(8, COUNT, 10)]  # equal images
    beside = [row.index(b) - row.index(a) for row in images for a, b in pairs if a in row and b in row]
    assert beside and set(beside) == {1}
    assert not any(b in row and a not in row for row in images for a, b in pairs)  # the later one enters last


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_batches_and_workers_do_not_matter(batch_size: int, workers: int, run: Run, whole: Mined) -> None:
    assert_same(run(batch_size=batch_size, workers=workers), whole)


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 2, 3, 4, 5])
def test_shards_merge_to_the_whole(parts: int, run: Run, whole: Mined, tmp_path: pathlib.Path) -> None:
    files = [tmp_path / f"{i}.h5" for i in range(parts)]
    for i, file in enumerate(files):
        shard = run(out=file, shard=(i, parts), batch_size=3 + 4 * i)
        assert shard.total == len(range(i, COUNT, parts))
        assert set(shard["conv2"].images.flatten() % parts) == {i}
    for seed in range(3):
        random.Random(seed).shuffle(files)
        assert_same(merge(files, tmp_path / "merged.h5", overwrite=True), whole)
        assert_same(load_mined(tmp_path / "merged.h5"), whole)
    assert_same(run(out=tmp_path / "merged.h5"), whole)  # the merged file is that of the whole job


def test_more_shards_than_images(run: Run, tmp_path: pathlib.Path) -> None:
    files = [tmp_path / f"{i}.h5" for i in range(5)]
    found = [run(out=file, shard=(i, 5), limit=3) for i, file in enumerate(files)]
    assert [f.total for f in found] == [1, 1, 1, 0, 0] and all(f.complete for f in found)
    assert_same(merge(files[::-1], tmp_path / "merged.h5"), run(limit=3))


@pytest.mark.parametrize("limit", [1, 4, 17, COUNT, 1000])
def test_limit(limit: int, run: Run, exact: Network, store: ImageStore) -> None:
    mined = run(limit=limit)
    assert mined.done == mined.total == min(limit, COUNT)
    assert_is_full_sort(
        mined, "conv2", activations(exact, store, "conv2"), 9, spread(store.labels, limit)
    )  # fewer images than k at first


def test_k_above_the_number_of_images(run: Run, exact: Network, store: ImageStore) -> None:
    assert_is_full_sort(run(k=COUNT + 5), "relu1", activations(exact, store, "relu1"), COUNT + 5)
    assert_is_full_sort(run(k=1), "relu1", activations(exact, store, "relu1"), 1)


@pytest.mark.parametrize("batch_size", [5, 32])
def test_nan_and_infinite_values(batch_size: int, run: Run, store: ImageStore) -> None:
    conv = Exact().conv1
    conv.bias.data[0] = 100
    network = dv.capture(nn.Sequential(conv, Odd()), SHAPE)
    maps = activations(network, store, "1")
    assert np.isnan(maps[:, 0]).all() and np.isnan(maps[:, 1:]).any()
    assert np.isposinf(maps).any() and np.isneginf(maps).any() and np.isfinite(maps[:, 1:]).any((2, 3)).all()
    mined = run(network, layers=["0", "1"], batch_size=batch_size)
    assert_is_full_sort(mined, "1", maps, 9)
    assert mined["1"].activity.broken[0] == COUNT * 16 * 32 and (mined["1"].images[0] == -1).all()
    assert np.isfinite(mined["1"].values[1:]).all() and not mined["0"].activity.broken.any()


def test_layers_are_mined_once_and_in_order(run: Run, whole: Mined) -> None:
    mined = run(layers=["relu2", "conv1", "relu2"])
    assert list(mined) == mined.config["layers"] == ["relu2", "conv1"]
    np.testing.assert_array_equal(mined["conv1"].values, whole["conv1"].values)


def test_the_default_preprocessing_fits_the_network(run: Run) -> None:
    mined = run(preprocess=None, limit=2)
    assert mined.config["preprocess"] == Preprocess(32, (16, 32)).as_dict()


def test_bf16(lively: Network, photos: ImageStore) -> None:
    settings: dict[str, Any] = {"preprocess": Preprocess(36, 32), "progress": False}
    full = mine(lively, photos, ["relu1", "bn2"], **settings)
    half = mine(lively, photos, ["relu1", "bn2"], precision="bf16", **settings)
    for name in full:
        assert half[name].values.dtype == np.float32
        scale = np.abs(full[name].values).max(1, keepdims=True)
        assert (np.abs(half[name].values - full[name].values) <= 0.02 * scale).all()
        assert not np.array_equal(half[name].values, full[name].values)  # it was computed in bf16


def test_a_float64_network_stays_float64(photos: ImageStore) -> None:
    network = dv.capture(Lively().double().eval(), (3, 32, 32))
    preprocess = Preprocess(36, 32)
    mined = mine(network, photos, ["relu2"], 5, preprocess=preprocess, progress=False)
    pictures = np.stack([preprocess.picture(image) for image, _ in photos])
    maps = network.activations(preprocess.tensor(pictures, dtype=torch.float64), ["relu2"])["relu2"].detach().numpy()
    np.testing.assert_array_equal(mined["relu2"].values, full_sort(maps, 5)["values"].astype(np.float32))


def test_batchnorm_is_folded_and_a_convolution_before_it_keeps_its_own_value(
    lively: Network, photos: ImageStore
) -> None:
    preprocess = Preprocess(36, 32)
    norms, convs = ["bn1", "relu1", "bn2", "relu2"], ["conv1", "bn1", "conv2", "relu2"]
    for layers in (norms, convs):
        mined = mine(lively, photos, layers, 5, preprocess=preprocess, progress=False)
        for name in layers:
            maps, found = activations(lively, photos, name, preprocess), mined[name]
            np.testing.assert_allclose(found.values, full_sort(maps, 5)["values"], rtol=1e-5, atol=1e-5)
            at = (found.images, np.arange(maps.shape[1])[:, None], found.positions[..., 0], found.positions[..., 1])
            np.testing.assert_allclose(maps[at], found.values, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(found.activity.total, full_sort(maps, 5)["total"], rtol=1e-5, atol=1e-4)
    assert "conv1" not in lively.fast(keep=norms).layers and "conv1" in lively.fast(keep=convs).layers


# --- too little memory


@pytest.mark.parametrize(
    "error",
    [RuntimeError(NO_MEMORY), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), MemoryError()],
    ids=["cpu", "cuda", "numpy"],
)
def test_out_of_memory_halves_the_batch(
    error: BaseException, run: Run, whole: Mined, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes, compute = [], Network.reduced

    def small(self: Network, x: Tensor, layers: Sequence[str], reduce: Any) -> dict[str, Any]:
        sizes.append(len(x))
        if len(x) > 4:
            raise error
        return compute(self, x, layers, reduce)

    monkeypatch.setattr(Network, "reduced", small)
    assert_same(run(batch_size=32), whole)
    assert sizes[:4] == [32, 16, 8, 4] and max(sizes[4:]) == 4 and sum(sizes[3:]) == COUNT  # halved once and for all
    assert "batches of 4" in capsys.readouterr().err


def test_out_of_memory_at_batch_1(
    run: Run, whole: Mined, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    def none(self: Network, x: Tensor, layers: Sequence[str], reduce: Any) -> dict[str, Any]:
        raise RuntimeError(NO_MEMORY)

    told = r"one image does not fit in memory.*fewer layers"
    with monkeypatch.context() as patch, pytest.raises(CaptureError, match=told):
        patch.setattr(Network, "reduced", none)
        run(out=tmp_path / "m.h5")
    assert load_mined(tmp_path / "m.h5").done == 0
    assert_same(run(out=tmp_path / "m.h5"), whole)


def test_another_error_is_not_tried_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def broken(self: Network, x: Tensor, layers: Sequence[str], reduce: Any) -> dict[str, Any]:
        sizes.append(len(x))
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Network, "reduced", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        run(batch_size=32)
    assert sizes == [32]


# --- the file: continued, finished, refused


def interrupted(run: Run, after: int, **settings: Any) -> None:
    """Run until image `after` is to be read, as if the user pressed Ctrl-C then."""
    read = ImageStore.__getitem__

    def cut(self: ImageStore, index: int) -> Any:
        if index >= after:
            raise KeyboardInterrupt
        return read(self, index)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ImageStore, "__getitem__", cut)
        run(**settings)


@pytest.mark.slow
@pytest.mark.parametrize("commit_every", [1, 2, 100])
def test_continues_to_the_same_file(commit_every: int, run: Run, whole: Mined, tmp_path: pathlib.Path) -> None:
    out, straight = tmp_path / "m.h5", tmp_path / "straight.h5"
    done = 0
    for after in (3, 20, 21, 45, 59):
        interrupted(run, after, out=out, commit_every=commit_every)
        done += (after - done) // (7 * commit_every) * 7 * commit_every
        found = load_mined(out)
        assert found.done == found["conv1"].activity.images == done and not found.complete
        assert "unfinished" in repr(found)
    assert_same(run(out=out, commit_every=commit_every), whole)
    run(out=straight)
    assert out.read_bytes() == straight.read_bytes()
    one, other = (Result.load(path, KIND, SCHEMA) for path in (out, straight))
    assert one.arrays.keys() == other.arrays.keys() and (one.config, one.state) == (other.config, other.state)
    assert_same(load_mined(out), whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.h5", "straight.h5"]


def test_continues_with_other_batches_and_workers(run: Run, whole: Mined, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "m.h5"
    interrupted(run, 30, out=out, commit_every=1, batch_size=4, workers=1)
    interrupted(run, 50, out=out, commit_every=1, batch_size=9, workers=3)
    assert load_mined(out).done == 28 + 18
    assert_same(run(out=out, batch_size=64), whole)
    assert_same(load_mined(out), whole)


def test_a_shard_continues(run: Run, tmp_path: pathlib.Path) -> None:
    interrupted(run, 40, out=tmp_path / "m.h5", shard=(1, 2), commit_every=1)
    assert load_mined(tmp_path / "m.h5").done == 14
    assert_same(run(out=tmp_path / "m.h5", shard=(1, 2)), run(shard=(1, 2)))


def test_a_finished_file_is_returned_at_once(
    run: Run, whole: Mined, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    out = tmp_path / "m.h5"
    run(out=out)
    before = out.read_bytes(), out.stat().st_ino
    no_images(monkeypatch)
    again = run(out=out)
    assert_same(again, whole)
    assert again.complete and (out.read_bytes(), out.stat().st_ino) == before


def changed(name: str, exact: Network, folder: pathlib.Path) -> dict[str, Any]:
    """The settings of another job; `name` is what the message must call the difference."""
    if name == "model_fingerprint":
        weight = exact.tensors["fc.bias"] + 1
        return {"network": exact.replaced(exact.graph, exact.tensors | {"fc.bias": weight})}
    if name == "store_fingerprint":
        return {"images": packed(folder / "other", black_and_white(1)[:5])}
    others: dict[str, Any] = {
        "layers": LAYERS[:2],
        "k": 8,
        "preprocess": Preprocess(32, (16, 32)),
        "precision": "bf16",
        "limit": 40,
        "shard": (0, 2),
    }
    return {name: others[name]}


@pytest.mark.slow
@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(
    "name", ["model_fingerprint", "store_fingerprint", "layers", "k", "preprocess", "precision", "limit", "shard"]
)
def test_another_job_is_refused(
    name: str, finished: bool, run: Run, exact: Network, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    out = tmp_path / "m.h5"
    if finished:
        run(out=out)
    else:
        interrupted(run, 30, out=out, commit_every=1)
    before, settings = out.read_bytes(), changed(name, exact, tmp_path)
    no_images(monkeypatch)
    with pytest.raises(MismatchError) as caught:
        run(out=out, **settings)
    message = str(caught.value)
    called = {
        "model_fingerprint": "(other weights of the same architecture, which --weights of a command names: ",
        "store_fingerprint": "(the images (fingerprint): ",
    }
    assert called.get(name, f"({name}") in message and str(out) in message and "\n" not in message
    # Nothing else differs; a part says how it was chosen, and of a preprocessing both means and deviations differ.
    assert message.count(" now") == (2 if name in ("limit", "preprocess") else 1)
    assert out.read_bytes() == before


def test_another_stride_is_another_model(exact: Network, run: Run, tmp_path: pathlib.Path) -> None:
    """The weights are equal, and so are the names of the ops: what differs are their arguments."""
    run(out=tmp_path / "m.h5", limit=5)
    with pytest.raises(MismatchError, match=r"other settings \(another architecture: fingerprint "):
        run(dv.capture(Exact(stride=2), SHAPE), out=tmp_path / "m.h5", limit=5)


def foreign(kind: str, mined: bytes, path: pathlib.Path) -> None:
    """Put at `path` what is no mined file that can be continued."""
    if kind.startswith("cut"):
        path.write_bytes(mined[: round(len(mined) * float(kind[3:]))])
    elif kind == "text":
        path.write_text("layer,channel,image\n" * 100)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "projections":
        Result("projections", 1, {}).save(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(mined)
        with unsealed(path) as file:
            if kind == "newer":
                file.attrs["schema"] = SCHEMA + 1
            elif kind == "table missing":
                del file["layers/conv2/positions"]
            elif kind == "config missing":
                del file.attrs["config"]
            elif kind == "config damaged":
                file.attrs["config"] = "{"
            else:
                file.clear()
                file.attrs.clear()
                file["x"] = np.arange(4)


@pytest.mark.parametrize(
    "kind",
    [
        *("cut0.02", "cut0.3", "cut0.7", "cut0.99", "cut0.9999", "text", "empty", "folder", "other", "projections"),
        *("newer", "table missing", "config missing", "config damaged"),
    ],
)
def test_a_foreign_or_damaged_file_is_refused(
    kind: str, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    out = tmp_path / "m.h5"
    run(out=tmp_path / "whole.h5", limit=9)
    foreign(kind, (tmp_path / "whole.h5").read_bytes(), out)
    before = out.read_bytes() if out.is_file() else None
    no_images(monkeypatch)
    attempts: list[Callable[[], Mined]] = [lambda: run(out=out, limit=9), lambda: load_mined(out)]
    attempts.append(lambda: merge([out], tmp_path / "n.h5"))
    for attempt in attempts:
        with pytest.raises(DataError) as caught:
            attempt()
        assert str(out) in str(caught.value) and "\n" not in str(caught.value)
    if kind == "newer":
        assert "update" in str(caught.value)
    assert (out.read_bytes() if out.is_file() else None) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.h5", "whole.h5"]


def test_the_store_is_not_taken_for_the_output(run: Run, store: ImageStore) -> None:
    before = store.path.read_bytes()
    with pytest.raises(DataError, match="expected a mined file"):
        run(out=store.path)
    assert store.path.read_bytes() == before


def test_output_in_a_missing_folder(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    no_images(monkeypatch)
    with pytest.raises(DataError, match="there is no folder"):
        run(out=tmp_path / "missing" / "m.h5")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"layers": ["relu3"]}, LayerNotFound, "relu1"),
        ({"layers": []}, DataError, r"layers \[\] given; expected at least one name"),
        ({"k": 0}, DataError, "k 0"),
        ({"batch_size": 0}, DataError, "batch size 0"),
        ({"limit": 0}, DataError, "limit 0"),
        ({"shard": (2, 2)}, DataError, "shard 2/2"),
        ({"shard": (-1, 2)}, DataError, "shard -1/2"),
        ({"precision": "fp8"}, DataError, "fp32 or tf32 or bf16 or fp64"),
        ({"preprocess": Preprocess(40, 36)}, CaptureError, r"\(3, 36, 36\).*\(3, 16, 32\)"),
    ],
)
def test_settings_that_make_no_sense(
    settings: dict[str, Any],
    error: type[Exception],
    message: str,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: pathlib.Path,
) -> None:
    no_images(monkeypatch)
    with pytest.raises(error, match=message):
        run(out=tmp_path / "m.h5", **settings)
    assert not (tmp_path / "m.h5").exists()


# --- merging


def assert_refused(files: Sequence[pathlib.Path], message: str) -> None:
    """Assert that merging is refused in any order, with nothing written."""
    out = files[0].parent / "merged.h5" if files else pathlib.Path("merged.h5")
    for order in (list(files), list(files)[::-1]):
        with pytest.raises(MismatchError, match=message) as caught:
            merge(order, out)
        assert "\n" not in str(caught.value) and not out.exists()


@pytest.mark.slow
def test_merge_refuses_what_is_not_one_whole_job(run: Run, store: ImageStore, tmp_path: pathlib.Path) -> None:
    parts = [tmp_path / f"{i}.h5" for i in range(3)]
    for i, file in enumerate(parts):
        run(out=file, shard=(i, 3), limit=20)
    assert_refused(parts[:2], "0/3, 1/3 given; expected each of 0/3 to 2/3")
    assert_refused(parts[1:], "1/3, 2/3 given")
    assert_refused([*parts, parts[1]], "0/3, 1/3, 1/3, 2/3 given")
    assert_refused([parts[0], parts[0], parts[2]], "0/3, 0/3, 2/3 given")
    assert_refused([], "no files")

    for name, value in [("k", 3), ("limit", 30), ("layers", ["conv1"])]:
        other, settings = tmp_path / f"other-{name}.h5", {"limit": 20, name: value}
        run(out=other, shard=(2, 3), **settings)
        assert_refused([*parts[:2], other], rf"\({name}: ")

    run(out=tmp_path / "half.h5", shard=(1, 2), limit=20)
    assert_refused([parts[0], tmp_path / "half.h5"], "0/3, 1/2 given|1/2, 0/3 given")
    run(out=tmp_path / "whole.h5", limit=20)
    assert_refused([tmp_path / "whole.h5", *parts[1:]], "whole.h5 is no shard")

    last = int(spread(store.labels, 20)[2::3][5])
    interrupted(run, last, out=tmp_path / "unfinished.h5", shard=(2, 3), limit=20, batch_size=2, commit_every=1)
    assert_refused([*parts[:2], tmp_path / "unfinished.h5"], "unfinished.h5 is unfinished: 4 of 6 images")
    run(out=tmp_path / "unfinished.h5", shard=(2, 3), limit=20)
    assert_same(merge([*parts[:2], tmp_path / "unfinished.h5"], tmp_path / "merged.h5"), run(limit=20))


def test_merge_into_a_missing_folder(run: Run, tmp_path: pathlib.Path) -> None:
    run(out=tmp_path / "0.h5", limit=5, shard=(0, 1))
    with pytest.raises(DataError, match="there is no folder"):
        merge([tmp_path / "0.h5"], tmp_path / "missing" / "m.h5")
    with pytest.raises(DataError, match="does not exist"):
        merge([tmp_path / "1.h5"], tmp_path / "m.h5")
    with pytest.raises(DataError, match="exists already"):
        merge([tmp_path / "0.h5"], tmp_path / "0.h5")
