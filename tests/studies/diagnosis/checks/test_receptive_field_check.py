"""Receptive fields that are too small, or not used, are found where they were built in; each number has an oracle."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from diagnosed import Planted, found, subject_of
from in_memory import noise
from scipy.signal import convolve2d
from torch import nn

import deconvviz as dv
from deconvviz.data.memory import InMemoryImages
from deconvviz.data.truth import SceneTruth
from deconvviz.studies.diagnosis.checks import receptive_field as checks_field
from deconvviz.studies.diagnosis.measures.fields import effective_fields, object_boxes, object_side, readers_of_context
from deconvviz.studies.diagnosis.subject import Subject


def tower(count: int, dilation: int = 1, weights: str = "even", channels: int = 4) -> nn.Module:
    layers: list[nn.Module] = []
    for n in range(count):
        conv = nn.Conv2d(3 if n == 0 else channels, channels, 3, 1, dilation, dilation)
        if weights == "even":
            nn.init.constant_(conv.weight, 0.05)
        elif weights == "centre":
            nn.init.constant_(conv.weight, 0.001)
            conv.weight.data[..., 1, 1] = 0.3
        nn.init.constant_(conv.bias, 0.1)  # type: ignore[arg-type]
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
    truth = subject.options.truth
    assert truth is not None
    boxes = object_boxes(subject, truth)
    for place, (top, left, bottom, right) in boxes.items():
        mask = subject.preprocess.mask(truth.masks(int(subject.indices[place]))[""])
        rows, columns = np.nonzero(mask)
        assert (top, left, bottom, right) == (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)
    sides = sorted(max(b - t, r - left) for t, left, b, r in boxes.values())
    assert object_side(boxes.values()) == np.median(sides)


@pytest.mark.slow
def test_a_field_smaller_than_the_objects_is_found() -> None:
    short = scenes(tower(2))
    (finding,) = found("receptive-field", short)
    assert (finding.severity, finding.layer) == ("serious", "3") and finding.value < 0.5
    assert finding.value == 5 / object_side(object_boxes(short, short.options.truth).values())  # type: ignore[arg-type]
    side = object_side(object_boxes(short, short.options.truth).values())  # type: ignore[arg-type]
    (medium,) = found("receptive-field", scenes(tower(3, 1 + int(side) // 8)))
    assert medium.severity == "warning" and 0.5 <= medium.value < 1
    assert found("receptive-field", scenes(tower(3, 9))) == []  # 55 px, evenly weighted


@pytest.mark.slow
def test_a_field_that_is_not_used_is_found() -> None:
    (finding,) = found("receptive-field", scenes(tower(3, 9, "centre")))
    assert finding.severity == "note" and finding.unit == "effective field / object"
    preprocess = dv.Preprocess(None, 64, (0.5,) * 3, (0.25,) * 3)
    unknown = subject_of(tower(3, 9, "centre"), InMemoryImages(noise(4, 64, 64)), preprocess)
    (finding,) = found("receptive-field", unknown)
    assert finding.severity == "note" and finding.unit == "effective / theoretical field"
    assert found("receptive-field", subject_of(tower(3, 9), InMemoryImages(noise(4, 64, 64)), preprocess)) == []


@pytest.mark.slow
def test_layers_beyond_the_image_are_found() -> None:
    (finding,) = [f for f in found("receptive-field", scenes(tower(5, 9))) if "border" in f.source]
    assert (finding.layer, finding.severity) == ("8", "note")  # the fifth convolution reads what sees 73 of 64 px
    assert finding.value == 73 / 64 and "see the whole image" in finding.title
    assert finding.evidence.labels == ("0", "2", "4", "6", "8") and finding.evidence.named == (4,)
    assert finding.evidence.arrays["values"].tolist() == [1, 19, 37, 55, 73] and finding.evidence.mark == 64
    (two,) = [f for f in found("receptive-field", scenes(tower(6, 9))) if "border" in f.source]
    assert two.what.endswith("So does each unit that the convolution after it reads (10).")
    readers = readers_of_context(dv.capture(tower(5, 9).eval(), (3, 64, 64)))
    assert readers == [("0", 1), ("2", 19), ("4", 37), ("6", 55), ("8", 73)]
    assert not [f for f in found("receptive-field", scenes(tower(4, 9))) if "border" in f.source]


@pytest.mark.slow
def test_what_was_measured_is_kept_as_long_as_its_subject() -> None:
    subject = subject_of(tower(1), InMemoryImages(noise(2, 32, 32)))
    first = checks_field.measured_field(subject, "1")
    assert checks_field.measured_field(subject, "1") is first
    assert checks_field.measured_field(subject_of(tower(1), InMemoryImages(noise(2, 32, 32))), "1") is not first
    gone = weakref.ref(subject)
    del subject
    gc.collect()
    assert gone() is None


PLANTED = {"receptive-field": Planted(lambda _: scenes(tower(2)), lambda _: scenes(tower(3, 9)))}
