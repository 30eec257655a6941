"""Tables on the device against a full sort in NumPy in float64; nothing waits for the device between two commits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from in_memory import drawn_scenes
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import deconvviz as dv
from deconvviz.data.memory import InMemoryImages
from deconvviz.studies.mining.mine import MiningRun, mine
from deconvviz.studies.mining.reduction import LayerTable, Maxima, ranking_keys, values_and_images
from deconvviz.studies.mining.result import MinedLayer
from deconvviz.studies.mining.spread import Spread
from deconvviz.studies.mining.topk import Activity, TopK

FEW = [-np.inf, -1.5, -0.0, 0.0, 1.0, 2.0]  # values that tie often
PRE = dv.Preprocess(resize=16, crop=16)


def ranked(maps: np.ndarray[Any, Any], images: list[int], k: int) -> list[list[tuple[float, int, int, int]]]:
    """(value, image, y, x) of each channel by a plain sort of Python tuples; an image counts with its best position."""
    table = []
    for channel in range(maps.shape[1]):
        best = []
        for image, map_ in zip(images, maps[:, channel].astype(np.float64), strict=True):
            order = sorted((-value, y, x) for (y, x), value in np.ndenumerate(map_))
            value, y, x = order[0]
            best += [(-value, image, y, x)] if -value > -np.inf else []
        best = sorted(best, key=lambda entry: (-entry[0], *entry[1:]))[:k]
        table.append(best + [(-np.inf, -1, -1, -1)] * (k - len(best)))
    return table


def as_rows(layer: MinedLayer) -> list[list[tuple[float, int, int, int]]]:
    return [
        [(float(v), int(n), int(y), int(x)) for v, n, (y, x) in zip(*row, strict=True)]
        for row in zip(layer.values, layer.images, layer.positions, strict=True)
    ]


def empty(channels: int, k: int, columns: int) -> LayerTable:
    layer = MinedLayer(name="layer", top=TopK.empty(channels, k), activity=Activity.empty(channels))
    return LayerTable.of(layer, columns, "cpu")


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 5), st.sampled_from([torch.contiguous_format, torch.channels_last]), st.booleans())
def test_ties_are_in_the_order_of_image_y_x(data: st.DataObject, k: int, layout: Any, searched: bool) -> None:
    shape = data.draw(st.tuples(st.integers(1, 12), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)))
    maps = data.draw(arrays.arrays(np.float32, shape, elements=st.sampled_from(FEW)))
    images = data.draw(st.permutations(range(100, 100 + len(maps))))
    cut = data.draw(st.integers(0, len(maps)))
    table = empty(shape[1], k, shape[3])
    with pytest.MonkeyPatch.context() as patch:
        if searched:  # as on a GPU, where only the maps that enter the table are searched
            from deconvviz.studies.mining import reduction

            pooled = reduction._maxima

            def unsearched(maps: Tensor, images: Tensor) -> Maxima:
                return pooled(maps, images)._replace(places=None, maps=maps)

            patch.setattr(reduction, "_maxima", unsearched)
        for part in (slice(0, cut), slice(cut, None)):
            if len(maps[part]):
                batch = torch.from_numpy(maps[part]).contiguous(memory_format=layout)
                table = table.with_batch(batch, torch.tensor(images[part]), counting=True)
    assert as_rows(table.mined("layer")) == ranked(maps, list(images), k)
    again = LayerTable.of(table.mined("layer"), shape[3], "cpu")  # to the host and back
    assert torch.equal(again.keys, table.up_to_date().keys)
    assert as_rows(again.mined("layer")) == as_rows(table.mined("layer"))


@given(arrays.arrays(np.float32, 30, elements=st.floats(-np.inf, np.inf, width=32)))
def test_keys_have_the_order_of_values_and_then_images(values: np.ndarray[Any, Any]) -> None:
    images = np.random.default_rng(0).permutation(30) * 100_000_007  # up to 2.9 of 4.2 billion
    keys = ranking_keys(torch.from_numpy(values), torch.from_numpy(images))
    order = [n for n in keys.argsort(descending=True).tolist() if values[n] > -np.inf]
    assert order == [n for n in np.lexsort((images, -values)).tolist() if values[n] > -np.inf]
    back, owners = values_and_images(keys.numpy())
    np.testing.assert_array_equal(back, values)
    np.testing.assert_array_equal(owners, np.where(values > -np.inf, images, -1))


@pytest.mark.parametrize("counting", [False, True])
def test_batches_that_wait_change_nothing(counting: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many images enter a table at once, it holds the same to the last bit; no maps are kept for it."""
    from deconvviz.studies.mining import reduction

    maps = torch.randn(20, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    found = []
    for together in (1, 5, 128):
        monkeypatch.setattr(reduction, "TOGETHER", together)
        spread = Spread.empty(3, np.arange(20))
        table = LayerTable.of(
            MinedLayer(name="layer", top=TopK.empty(3, 4), activity=Activity.empty(3), spread=spread), 5, "cpu"
        )
        most = 0
        for start in range(0, 20, 2):
            table = table.with_batch(maps[start : start + 2], torch.arange(start, start + 2), counting)
            assert all(batch.maps is None for batch in table.waiting)
            most = max(most, len(table.waiting))
        assert (most, table.images) == ({1: 0, 5: 2, 128: 10}[together], 20)
        found.append(table.mined("layer"))
    for other in found[1:]:
        assert as_rows(other) == as_rows(found[0]) == ranked(maps.numpy(), [*range(20)], 4)
        for key in ("fired", "total", "maximum", "broken"):
            np.testing.assert_array_equal(getattr(other.activity, key), getattr(found[0].activity, key))
        assert other.spread is not None and found[0].spread is not None
        np.testing.assert_array_equal(other.spread.counts, found[0].spread.counts)
        np.testing.assert_array_equal(other.spread.maxima, found[0].spread.maxima)


def test_a_table_with_batches_that_wait_knows_that_it_is_wrong() -> None:
    maps = torch.zeros(2, 1, 2, 2)
    maps[1, 0, 0, 1] = torch.nan
    table = empty(1, 2, 2).with_batch(maps, torch.arange(2)).with_batch(torch.ones(1, 1, 2, 2), torch.tensor([2]))
    assert len(table.waiting) == 2 and bool(table.up_to_date().doubtful)


# --- nothing waits


class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the ops that make the host wait for a device, or move values between devices."""

    NAMES = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "item", "masked_select", "unique")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().split("::")[1].split(".")[0]
        device = (kwargs or {}).get("device")
        self.count += name.startswith(self.NAMES) or (name == "_to_copy" and device is not None)
        by_mask = name.startswith("index") and any(
            isinstance(i, Tensor) and i.dtype == torch.bool for i in (args[1] if isinstance(args[1], list) else [])
        )
        self.count += by_mask
        return func(*args, **(kwargs or {}))


def small_network() -> dv.Network:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU())
    return dv.capture(model.eval(), (3, 16, 16))


def waits(count: int) -> int:
    network = small_network()
    with Waits() as mode:
        mine(
            network, drawn_scenes(count, 0), ["2", "4"], preprocess=PRE, batch_size=4, commit_every=100, progress=False
        )
    return mode.count


def test_the_number_of_waits_does_not_grow_with_the_batches() -> None:
    few = waits(8)
    assert few >= 1  # the commit itself, so that the mode does count
    assert waits(32) == few


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_nothing_waits_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between commits a wait raises; the tables are those of the CPU."""
    images, network = drawn_scenes(40, 0), small_network().to("cuda")
    job: dict[str, Any] = {"preprocess": PRE, "batch_size": 8, "commit_every": 100, "progress": False}
    mine(network, images, ["2", "4"], **job)  # constants are sent, and kernels loaded, once
    batch = MiningRun._with_batch

    def strict(self: MiningRun, *given: Any) -> dict[str, LayerTable]:
        torch.cuda.set_sync_debug_mode("error")
        try:
            return batch(self, *given)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(MiningRun, "_with_batch", strict)
    mined, on_cpu = (mine(n, images, ["2", "4"], **job) for n in (network, small_network()))
    for name in mined:
        np.testing.assert_allclose(mined[name].values, on_cpu[name].values, rtol=2e-3, atol=2e-3)
        assert (mined[name].images == on_cpu[name].images).mean() > 0.8


# --- values that are not finite are found at a commit


class Poisoned(nn.Module):
    """x, and NaN where a pixel is white in an otherwise dark image."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(x - 2.0) * 1e38 * 1e38 * 0


def test_only_the_batches_since_the_last_commit_are_mined_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = np.random.default_rng(0).integers(0, 100, (40, 16, 16, 3), np.uint8)
    pictures[25, 3, 5] = 255
    network = dv.capture(Poisoned(), (3, 16, 16))
    fed, batch = list[tuple[int, bool]](), MiningRun._with_batch

    def seen(self: MiningRun, tables: Any, given: Any) -> dict[str, LayerTable]:
        fed.append((int(given.places[0]), self.counting))
        return batch(self, tables, given)

    monkeypatch.setattr(MiningRun, "_with_batch", seen)
    mined = mine(
        network, InMemoryImages(pictures), list(network.layers)[-1:], preprocess=PRE, batch_size=5, commit_every=2,
        progress=False,
    )  # fmt: skip
    before = [(n, False) for n in range(0, 30, 5)]
    assert fed == before + [(n, True) for n in range(20, 40, 5)]
    (layer,) = mined.values()
    assert layer.activity.broken.tolist() == [1, 1, 1] and np.isfinite(layer.values).all()
