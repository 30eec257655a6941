"""Layers that could be left out and features that had not settled are found, and each number has an oracle."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from diagnosed import PLAIN, found_by, subject_of
from in_memory import noise
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.data.memory import InMemoryImages
from deconvviz.results.snapshots import Snapshots, write_epoch
from deconvviz.studies.diagnosis.checks import training as checks_training
from deconvviz.studies.diagnosis.checks.training import removable, unsettled
from deconvviz.studies.diagnosis.measures.removal import Removal, removable_layers, removals
from deconvviz.studies.diagnosis.measures.settling import settling
from deconvviz.studies.diagnosis.subject import Subject

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
    model, images = (
        layered().eval(),
        InMemoryImages(noise(60, 32, 32), [n % 8 for n in range(60)], [str(n) for n in range(8)]),
    )
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
    images = InMemoryImages(noise(200, 32, 32))
    model = layered()
    nn.init.zeros_(model[2].conv.weight)  # type: ignore[arg-type]
    nn.init.zeros_(model[2].conv.bias)  # type: ignore[arg-type]
    nn.init.dirac_(model[3].weight)  # type: ignore[arg-type]
    nn.init.zeros_(model[3].bias)  # type: ignore[arg-type]
    nn.init.zeros_(model[5].right.weight)  # type: ignore[arg-type]
    nn.init.constant_(model[5].right.bias, -1.0)  # type: ignore[arg-type]
    findings = found_by(removable, subject_of(model, images))
    assert [f.layer for f in findings] == ["2", "3", "5.right"]
    assert {f.layer: f.severity for f in findings} == {"2": "warning", "3": "warning", "5.right": "warning"}
    assert all(0 < f.value < 2 for f in findings)
    heavy = nn.Sequential(*layered(), nn.Linear(8, 300), nn.Linear(300, 8))
    nn.init.zeros_(heavy[5].right.weight)  # type: ignore[arg-type]
    nn.init.zeros_(heavy[5].right.bias)  # type: ignore[arg-type]
    assert {f.layer: f.severity for f in found_by(removable, subject_of(heavy, images))}["5.right"] == "note"
    sound = subject_of(strong(layered()), images)
    assert found_by(removable, sound) == [] and not sound.skipped


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
    subject = subject_of(layered(), InMemoryImages(noise(4, 32, 32)))
    part = removable_layers(subject.network)[0]
    for lost, gained, upper in ((0, 0, 1.37), (1, 0, 2.17), (3, 3, 2.74), (0, 1, 1.18)):
        monkeypatch.setattr(
            checks_training, "measured_removals", lambda _, a=lost, b=gained: (Removal(part, a, b, 200),)
        )
        found = [finding.value for finding in removable(subject)]
        more, fewer = lost + 1, gained + 1
        centre = (more - fewer) / 202
        expected = 100 * (centre + 1.959964 * (((more + fewer) / 202 - centre**2) / 202) ** 0.5)
        assert np.isclose(expected, upper, atol=0.02), expected
        assert found == ([pytest.approx(expected, rel=1e-6)] if expected <= 2 else [])


def test_too_few_images_cannot_tell() -> None:
    subject = subject_of(layered(), InMemoryImages(noise(30, 32, 32)))
    assert found_by(removable, subject) == [] and "30 images" in subject.skipped["removable"]
    chain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    subject = subject_of(chain, InMemoryImages(noise(3, 32, 32)))
    assert found_by(removable, subject) == [] and "no layer" in subject.skipped["removable"]


def test_of_a_deep_network_some_layers_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks_training, "PARTS", 2)
    subject = subject_of(strong(layered()), InMemoryImages(noise(200, 32, 32)))
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
    return subject_of(model, InMemoryImages(noise(2, 32, 32)), snapshots=snapshots)


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
    stranger = subject_of(other, InMemoryImages(noise(2, 32, 32)), snapshots=subject.snapshots)
    assert found_by(unsettled, stranger) == [] and "another network" in stranger.skipped["unsettled"]
    none = subject_of(other, InMemoryImages(noise(2, 32, 32)))
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
