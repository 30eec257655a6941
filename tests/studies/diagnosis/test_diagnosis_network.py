"""The network's checks: each finds a flaw that was built in, and is silent without it; each number has an oracle."""

from __future__ import annotations

import gc
import pathlib
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.signal import convolve, convolve2d
from torch import Tensor, nn
from torch.nn import functional as F

import deconvviz as dv
from deconvviz.data.truth import SceneTruth
from deconvviz.results.snapshots import Snapshots, write_epoch
from deconvviz.studies.diagnosis.checks import network as checks_network
from deconvviz.studies.diagnosis.checks import training as checks_training
from deconvviz.studies.diagnosis.checks.classes import confused
from deconvviz.studies.diagnosis.checks.network import ALIASING, aliasing, receptive_field
from deconvviz.studies.diagnosis.checks.training import removable, unsettled
from deconvviz.studies.diagnosis.finding import Check, Finding
from deconvviz.studies.diagnosis.measures.fields import effective_fields, object_boxes, object_side, readers_of_context
from deconvviz.studies.diagnosis.measures.neighbours import neighbours, save_neighbours
from deconvviz.studies.diagnosis.measures.removal import Removal, removable_layers, removals
from deconvviz.studies.diagnosis.measures.settling import settling
from deconvviz.studies.diagnosis.measures.shifts import blurred, shift_changes, strided_ops
from deconvviz.studies.diagnosis.subject import Subject

PLAIN = dv.Preprocess(resize=None, crop=32, mean=(0.5,) * 3, std=(0.25,) * 3)


class Shown:
    """Images in memory, as `Images` has them."""

    def __init__(self, pictures: NDArray[np.uint8], labels: Sequence[int] = (), classes: Sequence[str] = ()) -> None:
        self.pictures, self.classes = pictures, tuple(classes)
        self.labels = np.array(labels or [-1] * len(pictures), np.int64)
        self.names, self.fingerprint = tuple(f"{n}.png" for n in range(len(pictures))), "shown"

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        return self.pictures[index], int(self.labels[index])


def noise(count: int, side: int = 32, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)


def smooth(count: int, side: int = 32, seed: int = 0) -> NDArray[np.uint8]:
    """Pictures without fine detail: a few pixels of noise, enlarged."""
    few = torch.from_numpy(np.random.default_rng(seed).random((count, 3, 5, 5)))
    large = F.interpolate(few, size=(side, side), mode="bicubic", align_corners=True).clamp(0, 1)
    return np.asarray((large * 255).round().byte().permute(0, 2, 3, 1).numpy(), np.uint8)


def subject_of(model: nn.Module, images: Any, preprocess: dv.Preprocess = PLAIN, **options: Any) -> Subject:
    return Subject(dv.capture(model.eval(), preprocess.shape), images, preprocess, **options)


def found_by(check: Check, subject: Subject) -> list[Finding]:
    return list(check(subject))


# --- aliasing --------------------------------------------------------------------------------------------------------


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
    nn.init.uniform_(norm.running_mean, -0.3, 0.3)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    model = nn.Sequential(conv, norm, nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)).double().eval()
    x = torch.randn(4, 3, 29, 29, dtype=torch.float64)
    x = F.avg_pool2d(x, 3, 1, 1)
    model(x)
    (found,) = shift_changes(dv.capture(model, (3, 29, 29)), [x[:3], x[3:]])
    dense = nn.Sequential(nn.Conv2d(3, 5, 5).double(), norm, nn.ReLU()).eval()
    dense[0].load_state_dict(conv.state_dict())
    expected = [shifted_by_hand(x, dense, stride, blur) for blur in (False, True)]
    assert found.layer == "0" and found.stride == (stride, stride)
    assert np.isclose(found.strided, expected[0][0], rtol=1e-9)
    assert np.isclose(found.reference, expected[1][0], rtol=1e-9)
    assert np.allclose(found.channels, expected[0][1] / expected[1][1], rtol=1e-9)


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
        (found,) = shift_changes(dv.capture(model, (1, 200, 200)), [x])
        box = np.ones(stride) / stride
        triangle = np.convolve(box, box)
        at_zero, at_one = (triangle**2).sum(), (triangle[1:] * triangle[:-1]).sum()
        limit = ((at_zero - at_one) * at_zero) ** -0.5
        assert np.isclose(found.ratio, limit, rtol=0.01)
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
    nn.init.zeros_(conv.bias)
    layers = [conv, nn.ReLU()]
    if antialiased:
        size = 2 * stride - 1
        line = stride - (torch.arange(size) - stride + 1).abs()
        pool = nn.Conv2d(4, 4, size, stride, groups=4, bias=False)
        pool.weight.data = (line[:, None] * line / stride**4).expand(4, 1, -1, -1).contiguous().float()
        layers.append(pool)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def test_aliasing_is_found_and_gone_once_blurred() -> None:
    images, preprocess = Shown(noise(12, 64)), dv.Preprocess(None, 64, (0.5,) * 3, (0.25,) * 3)
    subject = subject_of(stripes(3, 4), images, preprocess)
    (finding,) = found_by(aliasing, subject)
    assert (finding.layer, finding.severity) == ("0", "serious") and finding.value > ALIASING[2]
    assert finding.channels and finding.evidence.arrays["pictures"].dtype == np.uint8
    assert len(finding.evidence.labels) == len(finding.evidence.arrays["pictures"])
    assert found_by(aliasing, subject_of(stripes(3, 4, antialiased=True), images, preprocess)) == []
    linear = stripes(3, 4)
    linear[1] = nn.Identity()  # type: ignore[index]
    (finding,) = found_by(aliasing, subject_of(linear, images, preprocess))
    assert finding.severity == "serious"  # nothing but stripes finer than the stride: the blur leaves none of them
    coarse = subject_of(stripes(9, 2), images, preprocess)
    assert found_by(aliasing, coarse) == [] and not coarse.skipped


def test_a_small_change_is_no_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = subject_of(stripes(3, 4), Shown(noise(4, 64)), dv.Preprocess(None, 64, (0.5,) * 3, (0.25,) * 3))
    monkeypatch.setattr(checks_network, "LEAST_CHANGE", 5.0)
    assert found_by(aliasing, subject) == []


def test_without_strides_there_is_nothing_to_check() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    subject = subject_of(model, Shown(noise(2)))
    assert found_by(aliasing, subject) == [] and "stride" in subject.skipped["aliasing"]


# --- receptive field -------------------------------------------------------------------------------------------------


def tower(count: int, dilation: int = 1, weights: str = "even", channels: int = 4) -> nn.Module:
    layers: list[nn.Module] = []
    for n in range(count):
        conv = nn.Conv2d(3 if n == 0 else channels, channels, 3, 1, dilation, dilation)
        if weights == "even":
            nn.init.constant_(conv.weight, 0.05)
        elif weights == "centre":
            nn.init.constant_(conv.weight, 0.001)
            conv.weight.data[..., 1, 1] = 0.3
        nn.init.constant_(conv.bias, 0.1)
        layers += [conv, nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3))


def test_effective_field_of_a_linear_network_is_its_kernels_convolved() -> None:
    model, rng = nn.Sequential(nn.Conv2d(1, 1, 5, 2), nn.Conv2d(1, 1, 3)).double(), np.random.default_rng(3)
    kernels = [rng.normal(size=(5, 5)), rng.normal(size=(3, 3))]
    for conv, kernel in zip(model, kernels, strict=True):
        conv.weight.data = torch.from_numpy(kernel)[None, None]
    x = torch.zeros(3, 1, 41, 41, dtype=torch.float64)
    (field,) = effective_fields(dv.capture(model, (1, 41, 41)), [x[:2], x[2:]], ["1"], 0)
    spread = np.zeros((5, 5))
    spread[::2, ::2] = kernels[1]
    expected = convolve2d(spread, kernels[0]) ** 2  # 9 x 9: what one unit of the second layer sees
    expected /= expected.sum()
    position = dv.capture(model, (1, 41, 41)).layer("1").units[1] // 2
    start = 2 * position
    whole = np.zeros((41, 41))
    whole[start : start + 9, start : start + 9] = expected
    assert field.side == 9 and field.centre == (start + 4, start + 4)
    assert np.allclose(field.energy, whole, atol=1e-12)
    sides = [2 * r + 1 for r in range(5) if expected[4 - r : 5 + r, 4 - r : 5 + r].sum() >= 0.95]
    assert field.effective == sides[0]


def test_random_signs_give_the_energy_of_all_channels() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 5), nn.ReLU(), nn.Conv2d(6, 5, 5), nn.ReLU()).double()
    x = torch.randn(150, 3, 15, 15, dtype=torch.float64)
    (field,) = effective_fields(dv.capture(model, (3, 15, 15)), [x], ["3"], 0)
    leaf, energy = x.clone().requires_grad_(), torch.zeros(15, 15, dtype=torch.float64)
    value = model(leaf)
    for channel in range(5):
        (gradient,) = torch.autograd.grad(value[:, channel, 3, 3].sum(), leaf, retain_graph=True)
        energy += gradient.square().sum((0, 1))
    expected = (energy / energy.sum()).numpy()
    assert np.abs(field.energy - expected).sum() < 0.15
    assert abs(field.effective - 9) <= 2


def scenes(model: nn.Module, count: int = 8) -> Subject:
    images = dv.Scenes(count, seed=2)
    preprocess = dv.Preprocess(resize=64, crop=64, mean=(0.5,) * 3, std=(0.25,) * 3)
    return subject_of(model, images, preprocess, truth=SceneTruth(images))


def test_objects_are_measured_as_the_network_sees_them() -> None:
    subject = scenes(tower(1))
    truth = subject.truth
    assert truth is not None
    boxes = object_boxes(subject, truth)
    for place, (top, left, bottom, right) in boxes.items():
        mask = subject.preprocess.mask(truth.masks(int(subject.chosen[place]))[""])
        rows, columns = np.nonzero(mask)
        assert (top, left, bottom, right) == (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)
    sides = sorted(max(b - t, r - left) for t, left, b, r in boxes.values())
    assert object_side(boxes.values()) == np.median(sides)


def test_a_field_smaller_than_the_objects_is_found() -> None:
    short = scenes(tower(2))
    (finding,) = found_by(receptive_field, short)
    assert (finding.severity, finding.layer) == ("serious", "3") and finding.value < 0.5
    assert finding.value == 5 / object_side(object_boxes(short, short.truth).values())  # type: ignore[arg-type]
    side = object_side(object_boxes(short, short.truth).values())  # type: ignore[arg-type]
    (medium,) = found_by(receptive_field, scenes(tower(3, 1 + int(side) // 8)))
    assert medium.severity == "warning" and 0.5 <= medium.value < 1
    assert found_by(receptive_field, scenes(tower(3, 9))) == []  # 55 px, evenly weighted


def test_a_field_that_is_not_used_is_found() -> None:
    (finding,) = found_by(receptive_field, scenes(tower(3, 9, "centre")))
    assert finding.severity == "note" and finding.unit == "effective field / object"
    preprocess = dv.Preprocess(None, 64, (0.5,) * 3, (0.25,) * 3)
    unknown = subject_of(tower(3, 9, "centre"), Shown(noise(4, 64)), preprocess)
    (finding,) = found_by(receptive_field, unknown)
    assert finding.severity == "note" and finding.unit == "effective / theoretical field"
    assert found_by(receptive_field, subject_of(tower(3, 9), Shown(noise(4, 64)), preprocess)) == []


def test_layers_beyond_the_image_are_found() -> None:
    (finding,) = [f for f in found_by(receptive_field, scenes(tower(5, 9))) if "border" in f.source]
    assert (finding.layer, finding.severity) == ("8", "note")  # the fifth convolution reads what sees 73 of 64 px
    assert finding.value == 73 / 64
    readers = readers_of_context(dv.capture(tower(5, 9).eval(), (3, 64, 64)))
    assert readers == [("0", 1), ("2", 19), ("4", 37), ("6", 55), ("8", 73)]
    assert not [f for f in found_by(receptive_field, scenes(tower(4, 9))) if "border" in f.source]


# --- removable layers ------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.conv(x))


class Branches(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(channels, 5, 1), nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(torch.cat([self.left(x), self.right(x)], 1))


def layered(seed: int = 0) -> nn.Sequential:
    """A stem, a residual block, a convolution of as many maps, two branches of 8 maps from 6, and a classifier."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2),
        nn.ReLU(),
        Residual(6),
        nn.Conv2d(6, 6, 3, padding=1),
        nn.ReLU(),
        Branches(6),
        nn.AdaptiveAvgPool2d(3),
        nn.Flatten(),
        nn.Linear(72, 8),
    )


def test_what_can_be_left_out() -> None:
    parts = removable_layers(dv.capture(layered().eval(), (3, 32, 32)))
    assert [(part.layer, part.source is None, part.parameters) for part in parts] == [
        ("2", False, 330),
        ("3", False, 330),
        ("5.left", True, 35),
        ("5.right", True, 165),
    ]


def test_removals_are_those_of_the_changed_module() -> None:
    model, images = layered().eval(), Shown(noise(60), [n % 8 for n in range(60)], [str(n) for n in range(8)])
    x = torch.stack([PLAIN(picture) for picture in images.pictures])
    for outputs in (None, np.arange(8)):
        subject = subject_of(model, images, outputs=outputs)
        intact = model(x).argmax(1)
        wanted = intact if outputs is None else torch.from_numpy(images.labels)
        found = removals(subject, removable_layers(subject.network), np.arange(60))
        assert [one.part.layer for one in found] == ["2", "3", "5.left", "5.right"]
        for one in found:
            changed = layered().eval()
            changed.load_state_dict(model.state_dict())
            if one.part.layer in ("2", "3"):
                changed[int(one.part.layer)] = nn.Identity()
            else:
                branch = getattr(changed[5], one.part.layer[2:])
                nn.init.zeros_(branch.weight)
                nn.init.zeros_(branch.bias)
            after = changed(x).argmax(1) == wanted
            before = intact == wanted
            assert (one.lost, one.gained) == (int((before & ~after).sum()), int((after & ~before).sum()))
        assert sum(one.lost for one in found) > 0


def test_layers_that_do_nothing_are_found() -> None:
    images = Shown(noise(200))
    model = layered()
    nn.init.zeros_(model[2].conv.weight)
    nn.init.zeros_(model[2].conv.bias)
    nn.init.dirac_(model[3].weight)
    nn.init.zeros_(model[3].bias)
    nn.init.zeros_(model[5].right.weight)
    nn.init.constant_(model[5].right.bias, -1.0)
    findings = found_by(removable, subject_of(model, images))
    assert [f.layer for f in findings] == ["2", "3", "5.right"]
    assert {f.layer: f.severity for f in findings} == {"2": "warning", "3": "warning", "5.right": "warning"}
    assert all(0 < f.value < 2 for f in findings)
    heavy = nn.Sequential(*layered(), nn.Linear(8, 300), nn.Linear(300, 8))
    nn.init.zeros_(heavy[5].right.weight)
    nn.init.zeros_(heavy[5].right.bias)
    assert {f.layer: f.severity for f in found_by(removable, subject_of(heavy, images))}["5.right"] == "note"
    sound = subject_of(strong(layered()), images)
    assert found_by(removable, sound) == [] and not sound.skipped


def strong(model: nn.Sequential) -> nn.Sequential:
    """Make every layer matter: larger weights, and outputs that do not all lean to one class."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=2 / module.weight[0].numel() ** 0.5)
            nn.init.zeros_(module.bias)
    x = torch.stack([PLAIN(picture) for picture in noise(50, seed=7)])
    with torch.no_grad():
        model[-1].bias -= model(x).mean(0)
    return model


def test_the_interval_decides_not_the_drop(monkeypatch: pytest.MonkeyPatch) -> None:
    """200 images of which one is lost leave room for a loss of 2.2 points; with none it is 1.4 (Bonett and Price)."""
    subject = subject_of(layered(), Shown(noise(4)))
    part = removable_layers(subject.network)[0]
    for lost, gained, upper in ((0, 0, 1.37), (1, 0, 2.17), (3, 3, 2.74), (0, 1, 1.18)):
        monkeypatch.setattr(checks_training, "measured_removals", lambda _, n=(lost, gained): (Removal(part, *n, 200),))
        found = [finding.value for finding in removable(subject)]
        more, fewer = lost + 1, gained + 1
        centre = (more - fewer) / 202
        expected = 100 * (centre + 1.959964 * (((more + fewer) / 202 - centre**2) / 202) ** 0.5)
        assert np.isclose(expected, upper, atol=0.02), expected
        assert found == ([pytest.approx(expected, rel=1e-6)] if expected <= 2 else [])


def test_too_few_images_cannot_tell() -> None:
    subject = subject_of(layered(), Shown(noise(30)))
    assert found_by(removable, subject) == [] and "30 images" in subject.skipped["removable"]
    chain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    subject = subject_of(chain, Shown(noise(3)))
    assert found_by(removable, subject) == [] and "no layer" in subject.skipped["removable"]


def test_of_a_deep_network_some_layers_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks_training, "PARTS", 2)
    subject = subject_of(strong(layered()), Shown(noise(200)))
    assert len(checks_training.measured_removals(subject)) == 2
    list(removable(subject))
    assert "2 of 4" in subject.skipped["removable"]


# --- unsettled features ----------------------------------------------------------------------------------------------


def recorded(path: pathlib.Path, network: nn.Module, states: dict[int, dict[str, Tensor]]) -> Snapshots:
    for epoch, state in states.items():
        arrays = {name: tensor.numpy() for name, tensor in state.items()}
        write_epoch(path, {"epoch": epoch, "lr": 0.1 / epoch}, arrays, {"network": "x"}, {})
    network.load_state_dict(states[max(states)])
    return Snapshots(path)


def followed(path: pathlib.Path, way: Any) -> Subject:
    """A network whose filter f of the first layer is `way(epoch, f)` of the way from its first weights to its last."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    first = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    step = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    states = {}
    for epoch in (1, 2, 5, 10, 20):
        parts = torch.tensor([way(epoch, f) for f in range(4)])[:, None, None, None]
        states[epoch] = {**first, "0.weight": first["0.weight"] + parts * step}
    snapshots = recorded(path, model, states)
    return subject_of(model, Shown(noise(2)), snapshots=snapshots)


def test_pace_of_filters(tmp_path: pathlib.Path) -> None:
    ways = (
        lambda t: (t - 1) / 19,
        lambda t: min(t - 1, 4) / 4,
        lambda t: 0.5 * min(t - 1, 9) / 9 + 0.05 * max(t - 10, 0),
    )
    subject = followed(tmp_path / "s.h5", lambda epoch, f: ways[f](epoch) if f < 3 else 0.0)
    assert subject.snapshots is not None
    found = settling(subject.network, subject.snapshots)
    assert found is not None and [one.layer for one in found] == ["0", "4"]
    # At the mean pace throughout; at rest from epoch 5 on; half the way in the last ten of 19 epochs; never moved.
    assert np.allclose(found[0].pace, [1, 0, (0.5 / 10) / (1 / 19), 0], atol=1e-5)
    assert np.allclose(found[0].distance[:, 0], 1 - np.array([0, 1, 4, 9, 19]) / 19, atol=1e-5)
    assert np.allclose(found[0].distance[:, 1], [1, 0.75, 0, 0, 0], atol=1e-5)
    assert np.isnan(found[0].distance[:, 3]).all() and np.isnan(found[1].distance).all()


def test_unsettled_features_are_found(tmp_path: pathlib.Path) -> None:
    moving = followed(tmp_path / "moving.h5", lambda epoch, f: (epoch - 1) / 19)
    (finding,) = found_by(unsettled, moving)
    assert (finding.layer, finding.severity, finding.value) == ("0", "serious", 100.0)
    assert "0.005, 0.05 of its highest" in finding.what
    some = followed(tmp_path / "some.h5", lambda epoch, f: (epoch - 1) / 19 if f == 2 else min(epoch, 5) / 5)
    (finding,) = found_by(unsettled, some)
    assert (finding.severity, finding.value, finding.channels) == ("note", 25.0, (2,))
    rested = followed(tmp_path / "rested.h5", lambda epoch, f: 1 - np.exp(-epoch / 2))
    assert found_by(unsettled, rested) == [] and not rested.skipped


def test_snapshots_that_do_not_fit_are_told(tmp_path: pathlib.Path) -> None:
    subject = followed(tmp_path / "s.h5", lambda epoch, f: (epoch - 1) / 19)
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    stranger = subject_of(other, Shown(noise(2)), snapshots=subject.snapshots)
    assert found_by(unsettled, stranger) == [] and "another network" in stranger.skipped["unsettled"]
    none = subject_of(other, Shown(noise(2)))
    assert found_by(unsettled, none) == [] and "--snapshots" in none.skipped["unsettled"]


def test_the_network_itself_is_the_last_point_in_time(tmp_path: pathlib.Path) -> None:
    """A training that went on after its last kept weights: the network stands for its last recorded epoch."""
    subject = followed(tmp_path / "s.h5", lambda epoch, f: (epoch - 1) / 19)
    write_epoch(tmp_path / "s.h5", {"epoch": 30}, None, {"network": "x"}, {})
    longer = nn.Conv2d(3, 4, 3)
    tensors = {name: tensor + 1 if name == "0.weight" else tensor for name, tensor in subject.network.tensors.items()}
    network = subject.network.replaced(subject.network.graph, tensors)
    found = settling(network, Snapshots(tmp_path / "s.h5"))
    assert longer is not None and found is not None and found[0].epochs.tolist() == [1, 2, 5, 10, 20, 30]


# --- confused classes ------------------------------------------------------------------------------------------------


def coloured(colours: Sequence[tuple[int, int, int]], each: int = 10) -> Shown:
    """Images of one colour a class, with a little noise."""
    rng = np.random.default_rng(0)
    pictures = [np.clip(np.array(c) + rng.integers(-9, 10, (32, 32, 3)), 0, 255) for c in colours for _ in range(each)]
    labels = [label for label in range(len(colours)) for _ in range(each)]
    return Shown(np.array(pictures, np.uint8), labels, [f"class {n}" for n in range(len(colours))])


class ByColour(nn.Module):
    """Its three maps are red, green and blue; a class's score is how near the mean colour is to its own."""

    def __init__(self, colours: Sequence[tuple[int, int, int]]) -> None:
        super().__init__()
        self.maps = nn.Conv2d(3, 3, 1)
        self.maps.weight.data = torch.eye(3)[:, :, None, None]
        nn.init.constant_(self.maps.bias, 4.0)
        own = (torch.tensor(colours, dtype=torch.float32) / 255 - 0.5) / 0.25 + 4
        self.score = nn.Linear(3, len(colours))
        self.score.weight.data, self.score.bias.data = 2 * own, -own.square().sum(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.score(torch.relu(self.maps(x)).mean((2, 3)))


RED, GREEN, BLUE, DARK = (220, 40, 40), (40, 220, 40), (40, 40, 220), (40, 40, 40)


def test_confused_classes_are_found() -> None:
    model, shown = ByColour([RED, GREEN, BLUE, DARK]), [RED, GREEN, BLUE, DARK]
    clean = subject_of(model, coloured(shown), outputs=np.arange(4))
    assert found_by(confused, clean) == [] and not clean.skipped
    images = coloured(shown)
    images.pictures[10:16] = images.pictures[0:6]  # six of ten images of class 1 look like class 0
    subject = subject_of(model, images, outputs=np.arange(4))
    (finding,) = found_by(confused, subject)
    assert (finding.severity, finding.value) == ("serious", 60.0)
    assert "'class 1'" in finding.what and "'class 0'" in finding.what and "4 are named rightly" in finding.what
    found = {one.name: one for one in neighbours(subject)}
    assert (found["class 1"].taken, found["class 1"].right, found["class 1"].neighbour) == (6, 4, "class 0")
    assert found["class 0"].taken == 0 and found["class 0"].right == 10
    logits = model(torch.stack([PLAIN(p) for p in images.pictures])).detach().double().softmax(1)
    assert np.isclose(found["class 1"].probability, float(logits[10:20, 0].mean()), rtol=1e-4)


def test_shared_filters_respond_to_both() -> None:
    """Yellow and red share the red map; red and blue share none."""
    yellow = (220, 220, 40)
    shown = [RED, yellow, GREEN, BLUE, DARK, (40, 200, 200)]
    images = coloured(shown, 4)
    subject = subject_of(ByColour(shown), images, outputs=np.arange(6))
    means = np.array([images.pictures[images.labels == n].mean((0, 1, 2)) for n in range(6)])
    z = (means - means.mean(0)) / means.std(0)
    differs = 0
    for place, one in enumerate(neighbours(subject)):
        other = int(one.neighbour[-1])
        assert [*one.shared] == [
            c for c in np.argsort(-np.minimum(z[place], z[other])) if min(z[[place, other], c]) >= 1
        ]
        differs += len(one.shared) != (z[other] >= 1).sum()
    assert differs and any(one.shared for one in neighbours(subject))


def test_the_neighbour_is_the_most_frequent_mistake() -> None:
    """Of class 0, two images are narrowly taken for 1; one is surely taken for 2, whose mean probability is higher."""
    subject = subject_of(ByColour([RED, GREEN, BLUE]), coloured([RED, GREEN, BLUE], 4), outputs=np.arange(3))
    scores = np.tile(np.array([[5.0, 0, 0]], np.float32), (12, 1))
    scores[:2], scores[2] = [1, 1.1, 0], [0, 0, 30]
    assert subject.logits is not None
    subject.__dict__["_gathered"] = (subject.responses, scores)
    one = neighbours(subject)[0]
    assert (one.neighbour, one.taken, one.right) == ("class 1", 2, 1)
    scores[1] = [5, 0, 0]  # one each: then the surer one
    assert neighbours(subject)[0].neighbour == "class 2"


def test_one_image_of_a_class_tells_nothing(tmp_path: pathlib.Path) -> None:
    subject = subject_of(ByColour([RED, GREEN]), coloured([RED, GREEN], 1), outputs=np.arange(2))
    assert found_by(confused, subject) == [] and "at most 1 images" in subject.skipped["confused"]
    unknown = subject_of(ByColour([RED, GREEN]), coloured([RED, GREEN]))
    assert found_by(confused, unknown) == [] and "not known" in unknown.skipped["confused"]
    save_neighbours(neighbours(subject), tmp_path / "classes.csv")
    lines = (tmp_path / "classes.csv").read_text().splitlines()
    assert lines[0].startswith("class,images,right,neighbour") and lines[1].startswith("class 0,1,1,class 1,0,")


def test_what_was_measured_is_kept_as_long_as_its_subject() -> None:
    subject = subject_of(tower(1), Shown(noise(2)))
    first = checks_network.measured_field(subject, "1")
    assert checks_network.measured_field(subject, "1") is first
    assert checks_network.measured_field(subject_of(tower(1), Shown(noise(2))), "1") is not first
    gone = weakref.ref(subject)
    del subject
    gc.collect()
    assert gone() is None
