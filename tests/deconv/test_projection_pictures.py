"""The image of a projection is part of what was given, and becomes a picture where it is looked at."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import deconvviz as dv
from deconvviz.deconv import projection as module


def test_projecting_makes_no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    network = dv.capture(nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU()).eval(), (3, 9, 9))
    images = torch.rand(4, 3, 9, 9)

    def asked(x: torch.Tensor) -> None:
        raise AssertionError("a picture was made")

    with monkeypatch.context() as patched:
        patched.setattr(module, "pictures_of", asked)
        projections = dv.project_units(network, images, [(n, "1", 0, (2, 3)) for n in (3, 0)])
    for projection, number in zip(projections, (3, 0), strict=True):
        assert projection.seen is not None and projection.picture is not None
        assert projection.seen.data_ptr() == images[number].data_ptr()  # no copy
        low, high = images[number].min(), images[number].max()
        expected = 255 * (images[number] - low) / (high - low)
        assert np.abs(projection.picture - expected.permute(1, 2, 0).numpy()).max() <= 0.51
