"""Aliasing is found where it was built in, and each number has an oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diagnosed import Planted, found, skipped, subject_of
from in_memory import noise
from numpy.typing import NDArray
from scipy.signal import convolve
from torch import Tensor, nn
from torch.nn import functional as F

import deconvviz as dv
from deconvviz.data.memory import InMemoryImages
from deconvviz.studies.diagnosis.checks import aliasing as checks_aliasing
from deconvviz.studies.diagnosis.checks.aliasing import ALIASING, measured_shifts
from deconvviz.studies.diagnosis.measures.shifts import blurred, shift_changes, strided_ops
from deconvviz.studies.diagnosis.subject import Subject


def shifted_by_hand(x: Tensor, layer: nn.Module, stride: int, blur: bool) -> tuple[float, NDArray[np.float64]]:
    """Move the image by one pixel, phase by phase, run the strided layer each time, and compare: float64, from scratch.

    The layer is given without its stride; the anti-aliased one is blurred by a box convolved with itself.
    """
    dense = layer(x).detach().numpy()
    margin = stride - 1
    spread = dense[:, :, margin:-margin, margin:-margin].var((0, 2, 3)).sum()
    if blur:
        box = np.ones(stride) / stride
        triangle = np.convolve(box, box)
        dense = convolve(dense, np.outer(triangle, triangle)[None, None], "valid")
    else:
        dense = dense[:, :, margin:-margin, margin:-margin]
    changes = np.zeros(dense.shape[1])
    for axis in (2, 3):
        moved = np.moveaxis(dense, axis, -1)
        total, count = np.zeros(dense.shape[1]), 0
        for phase in range(stride):  # the strided layer on the image, and on the image moved by one pixel
            here, there = moved[..., phase::stride], moved[..., phase + 1 :: stride]
            here = here[..., : there.shape[-1]]
            total += ((there - here) ** 2).sum((0, 2, 3))
            count += here[:, 0].size
        changes += total / count / 2
    return float(np.sqrt(changes.sum() / spread)), np.sqrt(changes)


@pytest.mark.parametrize("stride", [2, 3])
def test_shift_change_is_that_of_moved_images(stride: int) -> None:
    torch.manual_seed(1)
    conv, norm = nn.Conv2d(3, 5, 5, stride), nn.BatchNorm2d(5)
    nn.init.uniform_(norm.running_mean, -0.3, 0.3)  # type: ignore[arg-type]
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    model = nn.Sequential(conv, norm, nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)).double().eval()
    x = torch.randn(4, 3, 29, 29, dtype=torch.float64)
    x = F.avg_pool2d(x, 3, 1, 1)
    model(x)
    (change,) = shift_changes(dv.capture(model, (3, 29, 29)), [x[:3], x[3:]])
    dense = nn.Sequential(nn.Conv2d(3, 5, 5).double(), norm, nn.ReLU()).eval()
    dense[0].load_state_dict(conv.state_dict())
    expected = [shifted_by_hand(x, dense, stride, blur) for blur in (False, True)]
    assert change.layer == "0" and change.stride == (stride, stride)
    assert np.isclose(change.strided, expected[0][0], rtol=1e-9)
    assert np.isclose(change.reference, expected[1][0], rtol=1e-9)
    assert np.allclose(change.channels, expected[0][1] / expected[1][1], rtol=1e-9)


def test_padding_is_no_response() -> None:
    """What reads padding is left out: a bright image's dark border would be a change that no shift makes."""
    model = nn.Sequential(nn.Conv2d(3, 2, 5, 2, 2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)).double().eval()
    x = F.avg_pool2d(torch.randn(2, 3, 33, 33, dtype=torch.float64), 5, 1, 2) + 9
    model(x)
    (padded,) = shift_changes(dv.capture(model, (3, 33, 33)), [x])
    bare = nn.Sequential(nn.Conv2d(3, 2, 5), nn.ReLU()).double()
    bare[0].load_state_dict(model[0].state_dict())
    assert np.isclose(padded.strided, shifted_by_hand(x, bare, 2, False)[0], rtol=1e-9)


def test_pooling_and_other_strides_are_found() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, (2, 1)),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3),
        nn.AvgPool2d(3, 2),
        nn.Flatten(),
        nn.LazyLinear(2),
    )
    model(torch.zeros(1, 3, 32, 32))
    ops = strided_ops(dv.capture(model.eval(), (3, 32, 32)))
    assert [(op.layer, op.stride) for op in ops] == [("0", (2, 1)), ("2", (2, 2)), ("4", (2, 2))]
    assert ops[0].end is not ops[0].node and ops[1].end is ops[1].node


def test_unrelated_neighbours_reach_what_the_kernels_tell() -> None:
    """Of white noise the changes are 2 and 2 (R0 - R1) R0, by the kernel's autocorrelation R along and across."""
    x = torch.randn(6, 1, 200, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for stride in (2, 3, 4):
        conv = nn.Conv2d(1, 1, 1, stride, bias=False).double()
        nn.init.ones_(conv.weight)
        model = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        (change,) = shift_changes(dv.capture(model, (1, 200, 200)), [x])
        box = np.ones(stride) / stride
        triangle = np.convolve(box, box)
        at_zero, at_one = (triangle**2).sum(), (triangle[1:] * triangle[:-1]).sum()
        limit = ((at_zero - at_one) * at_zero) ** -0.5
        assert np.isclose(change.ratio, limit, rtol=0.01)
        assert stride > 2 or np.isclose(limit, ALIASING[2])


def test_the_blur_keeps_constants_and_stops_what_would_alias_to_them() -> None:
    assert torch.allclose(blurred(torch.full((1, 2, 9, 9), 3.0), (3, 3)), torch.full((1, 2, 5, 5), 3.0))
    wave = torch.cos(2 * torch.pi * torch.arange(24.0) / 3).expand(1, 1, 24, 24)
    assert float(blurred(wave, (3, 3)).abs().max()) < 1e-6


def stripes(period: float, stride: int, antialiased: bool = False) -> nn.Module:
    """A first layer of four filters that answer to stripes, strided as it is or blurred before its stride."""
    side = 9
    at = torch.arange(side) - side // 2
    window = torch.hann_window(side + 2, periodic=False)[1:-1]
    filters = []
    for angle in (0.0, 0.8, 1.6, 2.4):
        across = at[:, None] * np.sin(angle) + at[None] * np.cos(angle)
        filters.append(torch.cos(2 * torch.pi * across / period) * window[:, None] * window)
    conv = nn.Conv2d(3, 4, side, 1 if antialiased else stride)
    weights = torch.stack(filters)[:, None].expand(-1, 3, -1, -1)
    conv.weight.data = weights - weights.mean((2, 3), keepdim=True)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    layers = [conv, nn.ReLU()]
    if antialiased:
        size = 2 * stride - 1
        line = stride - (torch.arange(size) - stride + 1).abs()
        pool = nn.Conv2d(4, 4, size, stride, groups=4, bias=False)
        pool.weight.data = (line[:, None] * line / stride**4).expand(4, 1, -1, -1).contiguous().float()
        layers.append(pool)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def test_aliasing_is_found_and_gone_once_blurred() -> None:
    images, preprocess = InMemoryImages(noise(12, 64, 64)), dv.Preprocess(None, 64, (0.5,) * 3, (0.25,) * 3)
    subject = subject_of(stripes(3, 4), images, preprocess)
    (finding,) = found("aliasing", subject)
    assert (finding.layer, finding.severity) == ("0", "serious") and finding.value > ALIASING[2]
    passing = [channel for channel in range(4) if measured_shifts(subject)[0].channels[channel] >= ALIASING[0]]
    assert sorted(finding.channels) == passing and f"{len(passing)} of 4 channels pass" in finding.what
    assert finding.evidence.arrays["pictures"].dtype == np.uint8
    assert len(finding.evidence.labels) == len(finding.evidence.arrays["pictures"])
    assert found("aliasing", subject_of(stripes(3, 4, antialiased=True), images, preprocess)) == []
    linear = stripes(3, 4)
    linear[1] = nn.Identity()
    (finding,) = found("aliasing", subject_of(linear, images, preprocess))
    assert finding.severity == "serious"  # nothing but stripes finer than the stride: the blur leaves none of them
    coarse = subject_of(stripes(9, 2), images, preprocess)
    assert found("aliasing", coarse) == [] and not skipped("aliasing", coarse)


def test_a_small_change_is_no_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = subject_of(
        stripes(3, 4), InMemoryImages(noise(4, 64, 64)), dv.Preprocess(None, 64, (0.5,) * 3, (0.25,) * 3)
    )
    monkeypatch.setattr(checks_aliasing, "LEAST_CHANGE", 5.0)
    assert found("aliasing", subject) == []


def test_without_strides_there_is_nothing_to_check() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    subject = subject_of(model, InMemoryImages(noise(2, 32, 32)))
    assert found("aliasing", subject) == [] and "stride" in skipped("aliasing", subject)


def striped(antialiased: bool) -> Subject:
    """Noise, and a network of fine stripes with a stride of 4, blurred before its stride or not."""
    preprocess = dv.Preprocess(None, 64, (0.5,) * 3, (0.25,) * 3)
    return subject_of(stripes(3, 4, antialiased), InMemoryImages(noise(12, 64, 64)), preprocess)


PLANTED = {"aliasing": Planted(lambda _: striped(False), lambda _: striped(True))}


def test_stripes_of_which_the_blur_leaves_nothing_are_aliased_altogether() -> None:
    model = nn.Conv2d(1, 1, 1, stride=2, bias=False)
    stripes = torch.ones(2, 1, 16, 16)
    stripes[0, :, :, ::2] = stripes[1, :, ::2] = -1
    (change,) = shift_changes(dv.capture(model, (1, 16, 16)), [stripes])
    assert change.reference == 0 and change.strided > 1 and change.ratio == 1000
    (constant,) = shift_changes(dv.capture(model, (1, 16, 16)), [torch.ones(2, 1, 16, 16)])
    assert np.isnan(constant.ratio)


@pytest.mark.parametrize("dead_first", [True, False])
def test_a_dead_layer_does_not_hide_the_worst_one(dead_first: bool) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, stride=2, padding=1) for _ in range(2)]
    with torch.no_grad():
        layers[0].weight.zero_()
        layers[0].bias.fill_(-1)

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = layers if dead_first else layers[::-1]

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.first(x)) + torch.relu(self.second(x))

    images = InMemoryImages(np.random.default_rng(0).integers(0, 255, (12, 32, 32, 3), dtype=np.uint8))
    preprocess = dv.Preprocess(resize=32, crop=32)
    network = dv.capture(Both().eval(), preprocess.shape)
    found = dv.diagnose(network, images, preprocess=preprocess, checks=["aliasing"], progress=False)
    (check,) = (each for each in found.checks if each.name == "aliasing")
    assert check.value is not None and check.value > 2.1
