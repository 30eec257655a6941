"""A third explainer, as a user would write one, shows what the training gives it."""

from __future__ import annotations

import pathlib
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import replicas as r
import torch
from corners import Corners
from demo_explainers import SHORT, demo, learn, rows, same_files

from deconvviz.cam.explain import cam
from deconvviz.cam.learned.base import Phase
from deconvviz.cam.registry import METHODS
from deconvviz.data.memory import InMemoryImages
from deconvviz.errors import (
    DataError,
    TrainingError,
)
from deconvviz.models.checkpoints import read_file
from deconvviz.studies.explainers.train import train_explainer


def test_a_third_explainer(tmp_path: pathlib.Path, corners: type[Corners]) -> None:
    """Less than 60 lines of its own, and it trains, is saved, and explains by its file in one pass."""
    import inspect

    assert len(inspect.getsource(corners).splitlines()) < 60
    _, network, preprocess, scenes = demo()
    trained = train_explainer(
        "corners", network, scenes, ["relu5"], tmp_path / "c.pth", preprocess=preprocess, progress=False
    )
    assert trained.history[-1]["loss"] < trained.history[0]["loss"] and len(trained.history) == 2
    explainer = cam("corners", network, explainer=str(tmp_path / "c.pth"))
    x = torch.stack([preprocess(picture) for picture in scenes.pictures[:3]])
    found = explainer(x, [1, 1, 4])
    assert explainer.passes == Counter(forward=3) and torch.equal(found[0], found[1])
    places = torch.load(tmp_path / "c.pth", weights_only=True)["places"][4].double().numpy()
    np.testing.assert_allclose(found[2].numpy(), r.resize(r.mm(places), (64, 64)), atol=1e-6)
    assert "One number a class" in METHODS["corners"].source


@pytest.mark.slow
def test_decisions_labels_and_fakes(tmp_path: pathlib.Path, corners: type[Corners]) -> None:
    """Explained are the network's decisions, or labels; a fake is any other class, for its share of the images."""
    model, _, preprocess, scenes = demo()
    phase = Phase("corners", epochs=1, batch_size=64, lr=0.1, augment=False)
    order = np.random.default_rng([2, 0, 0]).permutation(64)
    with torch.no_grad():
        own = model(torch.stack([preprocess(scenes.pictures[n]) for n in order])).argmax(1)
    learn("corners", tmp_path / "own.pth", phase)
    assert corners.seen[0][:2] == (own.tolist(), [True] * 64)
    mapping = np.roll(np.arange(10), 4)
    learn("corners", tmp_path / "labels.pth", phase, outputs=mapping)
    assert corners.seen[1][0] == mapping[scenes.labels[order]].tolist()
    some = InMemoryImages(scenes.pictures, np.where(np.arange(64) % 2, scenes.labels, -1), scenes.classes)
    learn("corners", tmp_path / "some.pth", phase, outputs=mapping, images=some)
    assert len(corners.seen[2][0]) == 32
    corners.seen = []
    learn("corners", tmp_path / "fakes.pth", replace(phase, epochs=6, fakes=0.3))
    fakes = 0
    for epoch, (classes, real, _) in enumerate(corners.seen):
        with torch.no_grad():
            order = np.random.default_rng([2, 0, epoch]).permutation(64)
            own = model(torch.stack([preprocess(scenes.pictures[n]) for n in order])).argmax(1)
        assert [c == o for c, o in zip(classes, own.tolist(), strict=True)] == real
        fakes += real.count(False)
    assert 0.2 < fakes / (6 * 64) < 0.4
    corners.seen = []
    with pytest.raises(DataError, match="no folder"):
        learn("corners", tmp_path / "none" / "e.pth", phase)
    assert not corners.seen  # told before the first step
    with pytest.raises(DataError, match="no image has a known class"):
        unknown = InMemoryImages(scenes.pictures, None, scenes.classes)
        learn("corners", tmp_path / "none.pth", phase, outputs=mapping, images=unknown)


@pytest.mark.slow
def test_a_loss_that_is_not_finite(tmp_path: pathlib.Path, corners: type[Corners]) -> None:
    """The last good state stays, and from it the training ends as one that never failed."""
    straight, out = tmp_path / "straight.pth", tmp_path / "e.pth"
    learn("corners", straight, replace(SHORT, epochs=3))
    corners.seen, corners.fail_at = [], 7  # the third step of the second epoch
    with pytest.raises(TrainingError, match="step 6"):
        learn("corners", out, replace(SHORT, epochs=3))
    one_epoch = learn("corners", tmp_path / "one.pth", replace(SHORT, epochs=1))
    assert torch.equal(torch.load(out, weights_only=True)["places"], one_epoch.explainer.state_dict()["places"])
    assert len(rows(out)) == 1
    learn("corners", out, replace(SHORT, epochs=3))
    same_files(out, straight)


def test_weights_that_are_not_finite_are_not_kept(tmp_path: pathlib.Path, corners: type[Corners]) -> None:
    with pytest.raises(TrainingError):
        learn("corners", tmp_path / "e.pth", replace(SHORT, epochs=4, lr=1e38), commit_every=1)
    kept = read_file(tmp_path / "e.training.pth")["state_dict"]
    assert all(value.isfinite().all() for value in kept.values())
