"""The bench's job on mining decoded images: against the bare network, the captured one, and the feed alone."""

from __future__ import annotations

import copy
import pathlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor

import deconvviz as dv
from deconvviz.data.feed import Feed
from deconvviz.data.parallel import cores
from deconvviz.studies.mining.reduction import LayerTable
from deconvviz.studies.mining.result import MinedLayer
from deconvviz.studies.mining.topk import Activity, TopK

Race = Callable[..., list[float]]
STAGES = ("layer1", "layer2", "layer3", "layer4")
PLAIN = dv.Preprocess(resize=None, crop=224)
SIDE = 256  # of the stored images, of which the network sees the middle


class Noise:
    """A dataset of random images of SIDE px in blocks of 32 px, no two alike."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Any, int]:
        blocks = np.random.default_rng(index).integers(0, 256, (8, 8, 3), np.uint8)
        return blocks.repeat(SIDE // 8, 0).repeat(SIDE // 8, 1), 0


def mining(bench: Any, race: Race, device: torch.device, folder: pathlib.Path) -> None:
    """Four stages of ResNet-50 over a store of pixels, commits to a file included."""
    on_gpu = device.type == "cuda"
    count = (2_560 if bench.quick else 20_480) if on_gpu else (16 if bench.quick else 480)
    batch = 256 if on_gpu else 16
    dv.pack(Noise(count), folder / "decoded.h5", raw=True, size=SIDE, progress=False)
    store = dv.ImageStore.open(folder / "decoded.h5")
    torch.manual_seed(0)
    model = torchvision.models.resnet50(weights=None).eval().to(device)
    network = dv.capture(model, (3, 224, 224))
    for precision in ("fp32", "bf16"):
        fast = network.fast(precision, keep=STAGES)
        x = torch.randn(batch, 3, 224, 224, device=device, dtype=fast.dtype)
        x = x.contiguous(memory_format=torch.channels_last)
        bare = copy.deepcopy(model).to(dtype=fast.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        mine = partial(_mine, network, store, batch, precision, folder)
        feed = Feed(store, PLAIN)
        runs = [
            mine,
            partial(_repeated, bare, x, count),
            partial(_repeated, partial(fast.activations, layers=STAGES), x, count),
        ]
        runs += [partial(_repeated, partial(_reduced, fast), x, count), partial(_fed, feed, batch, device, fast.dtype)]
        ours, plain, captured, reduced, fed = race(1 if bench.quick else 3, *runs)
        title = f"mine 4 stages, ResNet-50, {count} decoded images, {precision}, batch {batch}"
        bench.add(f"{title}, {count / ours:,.0f}/s", f"bare forward, {count / plain:,.0f}/s", (ours, plain), 0.8)
        bench.add(title, f"captured fast forward, {count / captured:,.0f}/s", (ours, captured), 0.95)
        bench.add("forward and reductions alone", "captured fast forward", (reduced, captured), 0.95)
        bench.add(f"feed alone, {cores()} threads, {count / fed:,.0f}/s", "captured fast forward", (fed, captured), 1)


def _mine(network: dv.Network, store: dv.ImageStore, batch: int, precision: Any, folder: pathlib.Path) -> None:
    out = folder / "mined.h5"
    job: dict[str, Any] = {"preprocess": PLAIN, "batch_size": batch, "precision": precision, "progress": False}
    dv.mine(network, store, STAGES, 9, out, **job)
    out.unlink()


@torch.inference_mode()
def _repeated(run: Callable[[Tensor], Any], x: Tensor, count: int) -> None:
    for start in range(0, count, len(x)):
        run(x[: count - start])


def _reduced(network: dv.Network, x: Tensor, layers: Sequence[str] = STAGES) -> None:
    images = torch.arange(len(x), device=x.device)
    for name in layers:
        channels, _, columns = network.layer(name).units
        empty = MinedLayer(name=name, top=TopK.empty(channels, 9), activity=Activity.empty(channels))
        if name not in _TABLES or _TABLES[name].keys.device != x.device:
            _TABLES[name] = LayerTable.of(empty, columns, x.device)

    def entered(name: str, value: Tensor) -> LayerTable:
        table = _TABLES[name]  # of images with other numbers
        return table.with_batch(network.maps(name, value), images + table.images)

    _TABLES.update(network.reduced(x, layers, entered))


_TABLES: dict[str, LayerTable] = {}


def _fed(feed: Feed, batch: int, device: torch.device, dtype: torch.dtype) -> None:
    for _ in feed.tensors(batch, device, dtype):
        pass
