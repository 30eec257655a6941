"""Nothing waits for the device between two batches of masks; batches that do not fit are halved; ops are not wasted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import deconvviz as dv
from deconvviz.cam.captured import Captured
from deconvviz.graph.changes import Cut

MASKED: dict[str, dict[str, Any]] = {
    "score-cam": {},
    "occlusion": {"square": 4, "stride": 2},
    "rise": {"masks": 48},
    "is-cam": {"samples": 3},
    "group-cam": {"groups": 16},
    "ablation-cam": {},
    "recipro-cam": {},
    "shap-cam": {"permutations": 2},
}
WAITING = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "lift_fresh")


class Ops(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts ops, and those with which the host waits for a device or sends it numbers."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.all, self.waits = 0, list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().split("::")[1].split(".")[0]
        self.all += 1
        moved = name == "_to_copy" and (kwargs or {}).get("device") is not None
        by_mask = name in ("index", "index_put_", "index_put") and any(
            isinstance(i, Tensor) and i.dtype == torch.bool for i in args[1]
        )
        if name in WAITING or moved or by_mask:
            self.waits.append(name)
        return func(*args, **(kwargs or {}))


def network() -> dv.Network:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 48, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 5),
    )  # fmt: skip
    return dv.capture(model.eval(), (3, 16, 16))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", MASKED)
def test_the_number_of_waits_does_not_grow_with_the_batches(name: str, precision: Any) -> None:
    captured, x, counts = network(), torch.rand(1, 3, 16, 16), []
    for size in (8, 2):
        explainer = dv.cam(name, captured, "4", batch_size=size, precision=precision, **MASKED[name])
        explainer(x, target=1)  # what the network knows of its output is found out once
        with Ops() as ops:
            explainer(x, target=1)
        counts.append((len(ops.waits), ops.all))
    assert counts[0][0] == counts[1][0] > 0 and counts[1][1] > counts[0][1]  # more batches, and not more waits


@pytest.mark.parametrize("name", ["score-cam", "occlusion", "rise"])
def test_bf16_stays_in_bf16_and_channels_last(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call, cut, inputs = Captured.__call__, Cut.__call__, list[Tensor]()

    def seen(self: Captured, x: Tensor) -> Any:
        inputs.append(x)
        return call(self, x)

    def seen_cut(self: Cut, *given: Any) -> Tensor:
        inputs.append(cut(self, *given))
        return inputs[-1]

    explainer = dv.cam(name, network(), "4", precision="bf16", **MASKED[name])
    monkeypatch.setattr(Captured, "__call__", seen)
    monkeypatch.setattr(Cut, "__call__", seen_cut)
    explainer(torch.rand(2, 3, 16, 16), target=1)
    masked = [x for x in inputs if x.dtype == torch.bfloat16]
    assert len(masked) >= len(inputs) - 1 and masked
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in masked)


@pytest.mark.parametrize("name", [*MASKED, "grad-cam"])
def test_batches_that_do_not_fit_are_halved(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    captured, x = network(), torch.rand(2, 3, 16, 16)
    options = MASKED.get(name, {})
    whole = dv.cam(name, captured, "4", **options)(x, target=[1, 2])
    run, sizes = dv.Network.run, list[int]()

    def small(self: dv.Network, given: Any, targets: Any, batch_size: int) -> Any:
        most = 3 if not torch.is_grad_enabled() else 1
        sizes.append(batch_size)
        if batch_size > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return run(self, given, targets, batch_size)

    monkeypatch.setattr(dv.Network, "run", small)
    explainer = dv.cam(name, captured, "4", **options)
    torch.testing.assert_close(explainer(x, target=[1, 2]), whole, rtol=1e-4, atol=1e-4)
    kinds = 2 if name == "group-cam" else 1  # gradients of images, and masked images
    told = capsys.readouterr().err
    assert max(sizes) > (1 if name == "grad-cam" else 3) and told.count("out of memory: continuing") == kinds


def test_grad_cam_runs_little_beside_the_network() -> None:
    """The network has 9 ops forward; the tail of 3 ops runs again, forward and backward."""
    captured, x = network(), torch.rand(1, 3, 16, 16)
    explainer = dv.cam("grad-cam", captured, "4")
    explainer(x, target=1)
    with Ops() as bare, torch.no_grad():
        captured(x)
    with Ops() as ops:
        explainer(x, target=1)
    assert ops.all <= bare.all + 95
