"""fp32 is fp32 on a GPU: every job sets the switch of TF32 while it computes, both ways, and puts it back.

The switch belongs to the process and can be read without a GPU, so that an op that records it is enough.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import deconvviz as dv
from deconvviz.choices import PRECISIONS
from deconvviz.data.memory import InMemoryImages
from deconvviz.errors import TrainingError
from deconvviz.graph.arithmetic import arithmetic, uses_tf32
from deconvviz.run.loop import Measured, Position, run_steps

Job = Callable[[dv.Network, Any], object]
UNIT = (0, "4", 1, (2, 2))


class Recorded(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes for each convolution, forwards and back, whether TF32 would be used."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: dict[str, set[bool]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "conv" in func.name():
            self.seen.setdefault("back" if "backward" in func.name() else "forward", set()).add(uses_tf32())
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True, params=[True, False])
def of_the_user(request: pytest.FixtureRequest) -> Iterator[bool]:
    """What the user set before, which every test finds again afterwards."""
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    set_before = request.param, "medium" if request.param else "highest"
    torch.backends.cudnn.allow_tf32 = set_before[0]
    torch.set_float32_matmul_precision(set_before[1])
    yield request.param
    assert (torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()) == set_before
    torch.backends.cudnn.allow_tf32 = before[0]
    torch.set_float32_matmul_precision(before[1])


@pytest.fixture(scope="module")
def network() -> dv.Network:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    return dv.capture(nn.Sequential(*layers, nn.Flatten(), nn.Linear(4, 3)), (3, 16, 16))


def images() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def mined(network: dv.Network, precision: Any) -> object:
    pictures = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    preprocess = dv.Preprocess(resize=16, crop=16)
    return dv.mine(
        network, InMemoryImages(list(pictures)), ["1"], preprocess=preprocess, precision=precision, progress=False
    )


FORWARD: dict[str, Job] = {
    "mining": mined,
    "occlusion": lambda network, precision: dv.cam("occlusion", network, precision=precision, square=8)(images()),
    "projection": lambda network, precision: dv.project_units(network, images(), [UNIT], precision=precision),
}


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
@pytest.mark.parametrize("job", FORWARD)
def test_a_job_computes_in_the_precision_that_it_was_given(network: dv.Network, job: str, precision: str) -> None:
    with Recorded() as recorded:
        FORWARD[job](network, precision)
    wanted = precision == "tf32"
    # occlusion looks at the images as they are, too, in the network's own precision
    assert wanted in recorded.seen["forward"] and (job == "occlusion" or recorded.seen["forward"] == {wanted})
    if job == "projection":
        assert recorded.seen["back"] == {wanted}


@pytest.mark.parametrize("captured", [True, False])
def test_gradients_of_explanations_are_fp32(network: dv.Network, captured: bool) -> None:
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    explained = network if captured else nn.Sequential(*layers)
    with Recorded() as recorded:
        dv.cam("grad-cam", explained, "1")(images())
    assert recorded.seen == {"forward": {False}, "back": {False}}


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_steps_of_a_training_compute_in_their_precision_both_ways(precision: str) -> None:
    class Steps:
        position = Position()
        layer = nn.Conv2d(3, 4, 3)

        def batches(self, epoch: int, done: int) -> Iterator[Tensor]:
            yield images()

        def step(self, batch: Tensor, epoch: int) -> Measured:
            self.layer(batch).sum().backward()
            return Measured({"loss": 0.0}, len(batch))

        def end_epoch(self, epoch: int) -> None: ...

        def commit(self) -> None: ...

    class Bar:
        def update(self) -> None: ...

        def set_postfix(self, values: Any) -> None: ...

    with Recorded() as recorded:
        run_steps(Steps(), 1, 1, 1, Bar(), precision)
    assert recorded.seen == {"forward": {precision == "tf32"}, "back": {precision == "tf32"}}


def test_an_error_puts_the_switch_back(of_the_user: bool) -> None:
    with pytest.raises(ZeroDivisionError), arithmetic("tf32"), arithmetic("fp32"):
        raise ZeroDivisionError
    assert uses_tf32() == of_the_user


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_has_its_dtype_and_stays_near_fp64(network: dv.Network, precision: str) -> None:
    fast, exact = network.fast(precision), network.to(torch.float64)(images().double())
    assert fast.precision == precision
    off = (fast(images()).double() - exact).abs().max() / exact.abs().max()
    assert off < {"fp64": 1e-12, "fp32": 1e-5, "tf32": 1e-5, "bf16": 0.05}[precision]
    assert (precision == "bf16") == bool(off > 1e-4)


def test_a_training_says_which_precisions_it_has() -> None:
    from deconvviz.studies.training.recipe import Recipe

    with pytest.raises(TrainingError, match=r"fp64.*fp32 or tf32 or bf16"):
        Recipe(precision="fp64")


@pytest.mark.slow
def test_the_newer_switches_of_torch_are_left_as_they_were() -> None:
    """In a process of its own: PyTorch refuses to read the older switches from then on."""
    code = """
import torch
from deconvviz.graph.arithmetic import arithmetic, uses_tf32
conv, matmul = torch.backends.cudnn.conv, torch.backends.cuda.matmul
conv.fp32_precision, matmul.fp32_precision = "tf32", "ieee"
torch.backends.cudnn.rnn.fp32_precision = "ieee"
with arithmetic("tf32"):
    assert (conv.fp32_precision, matmul.fp32_precision) == ("tf32", "tf32")
    with arithmetic("fp32"):
        assert not uses_tf32()
assert (conv.fp32_precision, matmul.fp32_precision) == ("tf32", "ieee"), "not put back"
"""
    if hasattr(torch.backends.cudnn, "conv"):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
