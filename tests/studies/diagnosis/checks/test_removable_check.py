"""Layers that could be left out are found where they were planted, and each number has an oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diagnosed import PLAIN, Planted, found, skipped, subject_of
from in_memory import noise
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.data.memory import InMemoryImages
from deconvviz.studies.diagnosis.checks import removable as checks_removable
from deconvviz.studies.diagnosis.checks.removable import removable
from deconvviz.studies.diagnosis.measures.removal import Removal, removable_layers, removals
from deconvviz.studies.diagnosis.subject import Subject


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


def test_a_convolution_and_its_batchnorm_are_left_out_once() -> None:
    """The convolution can be bypassed; to set the value behind its BatchNorm to zero would be the same layer again."""

    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x + self.bn(self.conv(x)))

    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), Normed(), nn.Conv2d(6, 4, 1), nn.Flatten(), nn.LazyLinear(3))
    model(torch.zeros(1, 3, 16, 16))
    layers = [part.layer for part in removable_layers(dv.capture(model.eval(), (3, 16, 16)))]
    assert layers == ["2"] and "2.bn" not in layers


@pytest.mark.slow
def test_removals_are_those_of_the_changed_module() -> None:
    model, images = (
        layered().eval(),
        InMemoryImages(noise(60, 32, 32), [n % 8 for n in range(60)], [str(n) for n in range(8)]),
    )
    x = torch.stack([PLAIN(picture) for picture in images.pictures])
    for outputs in (None, np.arange(8)):
        subject = subject_of(model, images, outputs=outputs)
        intact = model(x).argmax(1)
        wanted = intact if outputs is None else torch.from_numpy(images.labels)
        every = removals(subject, removable_layers(subject.network), np.arange(60))
        assert [one.part.layer for one in every] == ["2", "3", "5.left", "5.right"]
        for one in every:
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
        assert sum(one.lost for one in every) > 0


@pytest.mark.slow
def test_layers_that_do_nothing_are_found() -> None:
    images = InMemoryImages(noise(200, 32, 32))
    model = layered()
    nn.init.zeros_(model[2].conv.weight)  # type: ignore[arg-type]
    nn.init.zeros_(model[2].conv.bias)  # type: ignore[arg-type]
    nn.init.dirac_(model[3].weight)  # type: ignore[arg-type]
    nn.init.zeros_(model[3].bias)  # type: ignore[arg-type]
    nn.init.zeros_(model[5].right.weight)  # type: ignore[arg-type]
    nn.init.constant_(model[5].right.bias, -1.0)  # type: ignore[arg-type]
    findings = found("removable", subject_of(model, images))
    assert [f.layer for f in findings] == ["2", "3", "5.right"]
    assert {f.layer: f.severity for f in findings} == {"2": "warning", "3": "warning", "5.right": "warning"}
    assert all(0 < f.value < 2 for f in findings)
    heavy = nn.Sequential(*layered(), nn.Linear(8, 300), nn.Linear(300, 8))
    nn.init.zeros_(heavy[5].right.weight)  # type: ignore[arg-type]
    nn.init.zeros_(heavy[5].right.bias)  # type: ignore[arg-type]
    assert {f.layer: f.severity for f in found("removable", subject_of(heavy, images))}["5.right"] == "note"
    sound = subject_of(strong(layered()), images)
    assert found("removable", sound) == [] and not skipped("removable", sound)


def strong(model: nn.Sequential) -> nn.Sequential:
    """Make every layer matter: larger weights, and outputs that do not all lean to one class."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=2 / module.weight[0].numel() ** 0.5)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    x = torch.stack([PLAIN(picture) for picture in noise(50, 32, 32, seed=7)])
    with torch.no_grad():
        model[-1].bias -= model(x).mean(0)
    return model


def test_the_interval_decides_not_the_drop(monkeypatch: pytest.MonkeyPatch) -> None:
    """200 images of which one is lost leave room for a loss of 2.2 points; with none it is 1.4 (Bonett and Price)."""
    subject = subject_of(layered(), InMemoryImages(noise(200, 32, 32)))
    part = removable_layers(subject.network)[0]
    for lost, gained, upper in ((0, 0, 1.37), (1, 0, 2.17), (3, 3, 2.74), (0, 1, 1.18)):
        monkeypatch.setattr(
            checks_removable,
            "measured_removals",
            lambda _, a=lost, b=gained: (Removal(part=part, lost=a, gained=b, images=200),),
        )
        values = [finding.value for finding in removable(subject).findings]
        more, fewer = lost + 1, gained + 1
        centre = (more - fewer) / 202
        expected = 100 * (centre + 1.959964 * (((more + fewer) / 202 - centre**2) / 202) ** 0.5)
        assert np.isclose(expected, upper, atol=0.02), expected
        assert values == ([pytest.approx(expected, rel=1e-6)] if expected <= 2 else [])


def test_too_few_images_cannot_tell() -> None:
    subject = subject_of(layered(), InMemoryImages(noise(30, 32, 32)))
    assert found("removable", subject) == [] and "30 images" in skipped("removable", subject)
    chain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    subject = subject_of(chain, InMemoryImages(noise(3, 32, 32)))
    assert found("removable", subject) == [] and "no layer" in skipped("removable", subject)


def test_of_a_deep_network_some_layers_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks_removable, "PARTS", 2)
    subject = subject_of(strong(layered()), InMemoryImages(noise(200, 32, 32)))
    assert len(checks_removable.measured_removals(subject)) == 2
    run = removable(subject)
    assert run.skipped is not None and run.skipped.part and "2 of 4" in run.skipped.reason
    assert str(run.skipped).startswith("in part: ") and run.measured is not None and run.measured.value is not None


def with_idle_branch(idle: bool) -> Subject:
    """A network of which a branch's values are always cut off by the rectifier, or are not."""
    model = strong(layered())
    if idle:
        nn.init.zeros_(model[5].right.weight)  # type: ignore[arg-type]
        nn.init.constant_(model[5].right.bias, -1.0)  # type: ignore[arg-type]
    return subject_of(model, InMemoryImages(noise(200, 32, 32)))


PLANTED = {"removable": Planted(lambda _: with_idle_branch(True), lambda _: with_idle_branch(False))}
