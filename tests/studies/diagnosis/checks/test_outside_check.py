"""Scores that depend on what is around the object are found where they were built in; each number has an oracle."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from diagnosed import PLAIN, Planted, found, noise_images, skipped, subject_of
from torch import nn

from deconvviz.data.truth import OBJECT
from deconvviz.studies.diagnosis.measures.outside import _against, _outside, object_masks, outside_object
from deconvviz.studies.diagnosis.subject import Subject
from deconvviz.types import Mask

SIDE = 32


class Squares:
    """The object is a square in the middle of every image but the first, which is unknown."""

    fingerprint = "squares"

    def __init__(self, side: int = 16) -> None:
        self.side = side

    def masks(self, index: int) -> Mapping[str, Mask]:
        mask, start = np.zeros((SIDE, SIDE), bool), (SIDE - self.side) // 2
        mask[start : start + self.side, start : start + self.side] = True
        return {} if index == 0 else {OBJECT: mask}


def read(outside: float, inside: float = 1.0, object_side: int = 16) -> nn.Sequential:
    """A network whose score has weights of one size on the object and of another one around it."""
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 2))
    weights = torch.full((2, 3, SIDE, SIDE), outside)
    start = (SIDE - object_side) // 2
    weights[:, :, start : start + object_side, start : start + object_side] = inside
    weights[1] *= -1
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(3)[:, :, None, None])
        model[0].bias.fill_(4.0)
        model[3].weight.copy_(weights.flatten(1))
        model[3].bias.zero_()
    return model


def subject(outside: float, inside: float = 1.0, side: int = 16) -> Subject:
    return subject_of(read(outside, inside, side), noise_images(12, side=SIDE), PLAIN, truth=Squares(side))


@pytest.mark.parametrize(
    ("outside", "severity"), [(0.9, None), (1.01, "note"), (1.9, "note"), (2.1, "warning"), (4.5, "serious")]
)
def test_the_ratio_is_that_of_the_weights(outside: float, severity: str | None) -> None:
    findings = found("outside-object", subject(outside))
    assert [each.severity for each in findings] == ([] if severity is None else [severity])
    (layer,) = outside_object(subject(outside))
    assert layer.ratio == pytest.approx(outside, rel=1e-5) and len(layer.ratios) == 11  # the first image is unknown
    share = 0.75 * outside / (0.75 * outside + 0.25)
    assert layer.shares == pytest.approx([share] * 11, rel=1e-5) and not layer.flat
    for finding in findings:
        assert f"{100 * share:.0f} % of it lies outside" in finding.what and len(finding.evidence.sets) == 6


def test_a_network_with_rectifiers_against_autograd() -> None:
    """Each image's ratio from the module itself, at half the resolution of the input."""
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 2, 2), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 14 * 14, 3)
    )
    images = noise_images(8, labels=[0, 1, 2, 0, 1, 2, 0, 1], side=SIDE)
    known = subject_of(model, images, PLAIN, truth=Squares(10), outputs=np.array([2, 0, 1]))
    first, _ = outside_object(known)
    for n, place in enumerate(object_masks(known)[0].tolist()):
        maps = model[:2](PLAIN(images.pictures[place])[None]).detach().requires_grad_()
        target = [2, 0, 1][int(images.labels[place])]
        (g,) = torch.autograd.grad(model[2:](maps)[0, target], maps)
        size = g[0].abs().sum(0).double().numpy()
        mask = Squares(10).masks(1)[OBJECT].reshape(16, 2, 16, 2).mean((1, 3))  # 11 px from the border: parts of places
        inside, outside = (size * mask).sum() / mask.sum(), (size * (1 - mask)).sum() / (1 - mask).sum()
        assert first.ratios[n] == pytest.approx(outside / inside, rel=1e-5)


def test_maps_that_are_averaged_are_left_out() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    one = subject_of(model, noise_images(12, side=SIDE), PLAIN, truth=Squares())
    assert outside_object(one)[0].flat and "averaged right away" in skipped("outside-object", one)


def test_an_image_without_gradient_does_not_hide_that_maps_are_averaged() -> None:
    size = torch.ones(3, 4, 4)
    size[2] = 0  # its score does not depend on the layer
    outside = torch.ones(3, 8, 8)
    outside[:, 2:6, 2:6] = 0
    values = _against(size, outside)
    assert torch.isnan(values[2, 2]) and _outside("a", values, size).flat
    assert not _outside("a", values[2:], size[2:]).flat
    size[0, 0, 0] = 5
    assert not _outside("a", _against(size, outside), size).flat


def test_what_it_needs() -> None:
    plain = subject_of(read(1.0), noise_images(12, side=SIDE), PLAIN)
    assert "--truth" in skipped("outside-object", plain)
    few = subject_of(read(1.0), noise_images(5, side=SIDE), PLAIN, truth=Squares())
    assert "in 4 images; 5 are needed" in skipped("outside-object", few)
    everything = subject_of(read(1.0), noise_images(9, side=SIDE), PLAIN, truth=Squares(SIDE))
    assert "in 0 images" in skipped("outside-object", everything)
    scalar = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU())
    maps = subject_of(scalar, noise_images(9, side=SIDE), PLAIN, truth=Squares())
    assert "score for each class" in skipped("outside-object", maps)


def test_no_gradient_on_the_object_at_all() -> None:
    assert outside_object(subject(1.0, inside=0.0))[0].ratio == pytest.approx(1000)


PLANTED = {"outside-object": Planted(lambda _: subject(3.0), lambda _: subject(0.3))}
