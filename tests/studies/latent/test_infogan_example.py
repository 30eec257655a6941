"""examples/infogan.py: a short training teaches its critic, and all that the file makes is taken by the package."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import deconvviz as dv
from deconvviz.models.load import load_model
from deconvviz.models.python_files import function_from

EXAMPLE = pathlib.Path(__file__).resolve().parents[3] / "examples" / "infogan.py"
FEW: dict[str, Any] = {"samples": 24, "masked": 8, "units": 1, "rows": 1, "steps": 2, "axes": 1, "progress": False}


def test_a_short_training_and_what_takes_it(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where the example keeps its weights
    generator, critic, history = function_from(f"{EXAMPLE}:train", "example")(0, 30, 120)
    assert history.shape == (30, 2) and np.isfinite(history).all()
    losses, bounds = history.T
    # A critic that knows nothing has the loss 2 log 2, whatever the generator makes; then it tells scenes from pictures
    # that are made at random, until the generator answers.
    assert abs(losses[0] - 2 * np.log(2)) < 0.1 and losses[10:].mean() < 1.2
    assert (bounds <= np.log(10)).all()
    torch.save(nn.ModuleList([generator, critic]).state_dict(), "infogan.pth")

    model, judge = dv.load_latent(f"{EXAMPLE}:make"), load_model(f"{EXAMPLE}:discriminator", "none")
    z = torch.from_numpy(model.sample(3, np.arange(4)))
    with torch.no_grad():
        np.testing.assert_allclose(model.module.eval()(z), generator(z), atol=1e-5)
    views = dv.latent(model, scorer=judge, segment=function_from(f"{EXAMPLE}:colours", "example"), **FEW)
    assert views.name == "InfoGAN" and views.sweeps.sizes.tolist() == [10] and views.first.shape[1:] == (32, 32, 3)
    assert views.units is not None and views.units.parts == ("red", "green", "blue", "bright", "dark")
    assert views.directions is not None and views.directions.names == ("scene",)
    assert views.classes == ("scene", "generated") and views.sweeps.counts.sum() == 24
    network, x = dv.capture(critic, (3, 32, 32)), torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        np.testing.assert_allclose(network(x), critic(x), atol=1e-5)
