"""Captions say what is drawn, and nothing of what is not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import deconvviz as dv
from deconvviz.choices import RULES
from deconvviz.cli.notes import PROJECTION_NOTE
from deconvviz.cli.project import _caption
from deconvviz.studies.mining.cache import ProjectionCache
from deconvviz.studies.mining.grid_command import _caption as grid_caption
from deconvviz.studies.mining.panels import panels_from

PREPROCESS = dv.Preprocess(resize=16, crop=16)


def network(scale: float = 1.0) -> dv.Network:
    """A layer whose last filter is so many times as large as it was."""
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 4, 5, stride=2)
    convolution.weight.data[3] *= scale
    return dv.capture(nn.Sequential(convolution, nn.ReLU()).eval(), PREPROCESS.shape)


@pytest.mark.parametrize("rule", RULES)
def test_the_note_on_deconvnet_and_guided_stands_with_them_alone(rule: str) -> None:
    projection = dv.project(network(), torch.rand(1, 3, 16, 16), "1", 0, (1, 1), rule)
    assert (PROJECTION_NOTE in _caption(projection, "cat.jpg", "")) == (rule in ("deconvnet", "guided"))


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_the_grid_says_what_stands_below_vanished_weights(scale: float) -> None:
    images, subject = dv.Scenes(6), network(scale)
    mined = dv.mine(subject, images, ["0"], k=2, preprocess=PREPROCESS, progress=False)
    panels = panels_from(ProjectionCache(mined, images, subject, rule="gradient", progress=False), "0", [0, 3], crop=5)
    caption = grid_caption(mined, panels, "scenes", "")
    assert ("1/N below it says how many times smaller" in caption) == (scale < 1)
