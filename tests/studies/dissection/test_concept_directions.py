"""Directions of concepts: closed forms of linear networks, and what is refused."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import torch
from dissected import PLAIN, SIDE
from torch import nn

import deconvviz as dv
from deconvviz.data.memory import InMemoryImages
from deconvviz.errors import DataError
from deconvviz.studies.dissection.directions import direction

pytest.importorskip("sklearn")


def flat_colours(level: tuple[int, int, int], count: int, seed: int) -> list[np.ndarray]:
    """Pictures of one colour each, which varies a little around a level."""
    rng = np.random.default_rng(seed)
    shades = np.clip(np.array(level) + rng.integers(-30, 31, (count, 3)), 0, 255)
    return [np.broadcast_to(shade.astype(np.uint8), (SIDE, SIDE, 3)) for shade in shades]


def linear_network() -> dv.Network:
    """A linear network: the layer "0" is the picture; class "warm" scores red - blue, class "cold" the opposite."""
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    model[0].weight.data[:] = torch.eye(3)[:, :, None, None]
    model[0].bias.data.zero_()
    model[3].weight.data[:] = torch.tensor([[1.0, 0.0, -1.0], [-1.0, 0.0, 1.0]])
    return dv.capture(model.eval(), PLAIN.shape)


def images() -> InMemoryImages:
    return InMemoryImages(flat_colours((128, 128, 128), 24, 0), [n % 2 for n in range(24)], ("warm", "cold"))


def test_a_linear_network_has_a_closed_form(tmp_path: pathlib.Path) -> None:
    """The gradient of a linear network is the same in every image: the score is the share of w . v > 0."""
    concepts = {"red": InMemoryImages(flat_colours((220, 128, 128), 10, 1))}
    scores = dv.concept_scores(
        linear_network(), images(), ["0"], concepts, outputs=[0, 1], preprocess=PLAIN, sets=8, progress=False
    )
    rows = {score.class_name: score for score in scores.scores}
    assert scores.tests == 3 and set(rows) == {"", "warm", "cold"}
    assert (rows["warm"].score, rows["cold"].score, rows[""].score) == (1, 0, 0.5)
    assert rows["warm"].images == 12 and rows["warm"].chance == pytest.approx(1 - rows["cold"].chance)
    assert 0.1 < rows["warm"].chance < 0.9 and rows["warm"].p == pytest.approx(rows["cold"].p)
    scores.save_csv(tmp_path / "c.csv")
    assert (tmp_path / "c.csv").read_text().count("\n") == 4 and len(scores.to_frame()) == 3


def test_a_concept_of_random_images_has_no_effect() -> None:
    concepts = {"nothing": InMemoryImages(flat_colours((128, 128, 128), 10, 9))}
    scores = dv.concept_scores(
        linear_network(), images(), ["0"], concepts, outputs=[0, 1], preprocess=PLAIN, sets=8, progress=False
    )
    assert min(score.p for score in scores.scores if score.class_name == "") > 0.05


def test_what_is_refused() -> None:
    few = {"few": InMemoryImages(flat_colours((0, 0, 0), 3, 0))}
    enough = {"some": InMemoryImages(flat_colours((0, 0, 0), 6, 0))}
    unlabelled = InMemoryImages(flat_colours((0, 0, 0), 12, 0))
    for concepts, pictures, said in ((few, images(), "at least 5"), (enough, unlabelled, "need classes")):
        with pytest.raises(DataError, match=said):
            dv.concept_scores(linear_network(), pictures, ["0"], concepts, outputs=[0, 1], preprocess=PLAIN)


def test_a_direction_is_the_normal_in_the_units_of_the_features() -> None:
    points = np.random.default_rng(0).normal(size=(400, 2))
    above = points.sum(1) > 0
    features = points * [1, 100]
    x, y = direction(features[above], features[~above])
    assert y / x == pytest.approx(0.01, rel=0.15)
