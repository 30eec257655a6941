"""Features that had not settled are found where they were planted, and each number has an oracle."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from diagnosed import Planted, found, skipped, subject_of
from in_memory import noise
from torch import Tensor, nn

from deconvviz.data.memory import InMemoryImages
from deconvviz.results.snapshots import Snapshots, write_epoch
from deconvviz.studies.diagnosis.measures.settling import settling, weights_over_time
from deconvviz.studies.diagnosis.options import DiagnosisOptions
from deconvviz.studies.diagnosis.subject import Subject


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
    assert subject.options.snapshots is not None
    layers = settling(weights_over_time(subject.network, subject.options.snapshots))
    assert [one.layer for one in layers] == ["0", "4"]
    # At the mean pace throughout; at rest from epoch 5 on; half the way in the last ten of 19 epochs; never moved.
    assert np.allclose(layers[0].pace, [1, 0, (0.5 / 10) / (1 / 19), 0], atol=1e-5)
    assert np.allclose(layers[0].distance[:, 0], 1 - np.array([0, 1, 4, 9, 19]) / 19, atol=1e-5)
    assert np.allclose(layers[0].distance[:, 1], [1, 0.75, 0, 0, 0], atol=1e-5)
    assert np.isnan(layers[0].distance[:, 3]).all() and np.isnan(layers[1].distance).all()


@pytest.mark.slow
def test_unsettled_features_are_found(tmp_path: pathlib.Path) -> None:
    moving = followed(tmp_path / "moving.h5", lambda epoch, f: (epoch - 1) / 19)
    (finding,) = found("unsettled", moving)
    assert (finding.layer, finding.severity, finding.value) == ("0", "serious", 100.0)
    assert "0.005, 0.05 of its highest value" in finding.what
    some = followed(tmp_path / "some.h5", lambda epoch, f: (epoch - 1) / 19 if f == 2 else min(epoch, 5) / 5)
    (finding,) = found("unsettled", some)
    assert (finding.severity, finding.value, finding.channels) == ("note", 25.0, (2,))
    assert "lower the learning rate" not in finding.remedy  # it had come down to 0.05 of its highest value
    rested = followed(tmp_path / "rested.h5", lambda epoch, f: 1 - np.exp(-epoch / 2))
    assert found("unsettled", rested) == [] and not skipped("unsettled", rested)


@pytest.mark.slow
def test_snapshots_that_do_not_fit_are_told(tmp_path: pathlib.Path) -> None:
    subject = followed(tmp_path / "s.h5", lambda epoch, f: (epoch - 1) / 19)
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    stranger = subject_of(other, InMemoryImages(noise(2, 32, 32)), snapshots=subject.options.snapshots)
    assert found("unsettled", stranger) == [] and "another network" in skipped("unsettled", stranger)
    none = subject_of(other, InMemoryImages(noise(2, 32, 32)))
    assert found("unsettled", none) == [] and "--snapshots" in skipped("unsettled", none)


def test_what_is_missing_is_told(tmp_path: pathlib.Path) -> None:
    """Layers, epochs and shapes that the snapshots lack are named."""
    subject = followed(tmp_path / "s.h5", lambda epoch, f: (epoch - 1) / 19)
    state = {name: tensor.cpu() for name, tensor in subject.network.tensors.items()}

    def said(name: str, states: dict[int, dict[str, Tensor]]) -> str:
        for epoch, tensors in states.items():
            arrays = {key: tensor.numpy() for key, tensor in tensors.items()}
            write_epoch(tmp_path / name, {"epoch": epoch}, arrays, {"network": "x"}, {})
        subject.options = DiagnosisOptions(progress=False, snapshots=Snapshots(tmp_path / name))
        return skipped("unsettled", subject)

    assert "hold those of 3, 7" in said("two.h5", {3: {n: t + 1 for n, t in state.items()}, 7: state})
    first = {"0.weight": state["0.weight"]}
    partly = said("part.h5", {epoch: {"0.weight": first["0.weight"] * epoch / 3} for epoch in (1, 2, 3)})
    assert partly == "in part: the snapshots do not hold 4"
    wider = {"0.weight": torch.zeros(5, 3, 3, 3)}
    assert "of 0 are 5x3x3x3 in them, and 4x3x3x3" in said("wide.h5", {1: wider})
    assert "epoch 2 does not hold 0" in said("gap.h5", {1: first, 2: {"4.weight": state["4.weight"]}})


def test_the_network_itself_is_the_last_point_in_time(tmp_path: pathlib.Path) -> None:
    """A training that went on after its last kept weights: the network stands for its last recorded epoch."""
    subject = followed(tmp_path / "s.h5", lambda epoch, f: (epoch - 1) / 19)
    write_epoch(tmp_path / "s.h5", {"epoch": 30}, None, {"network": "x"}, {})
    tensors = {name: tensor + 1 if name == "0.weight" else tensor for name, tensor in subject.network.tensors.items()}
    network = subject.network.replaced(subject.network.graph, tensors)
    layers = settling(weights_over_time(network, Snapshots(tmp_path / "s.h5")))
    assert layers[0].epochs.tolist() == [1, 2, 5, 10, 20, 30]


PLANTED = {
    "unsettled": Planted(
        lambda folder: followed(folder / "moving.h5", lambda epoch, f: (epoch - 1) / 19),
        lambda folder: followed(folder / "rested.h5", lambda epoch, f: 1 - np.exp(-epoch / 2)),
    )
}
