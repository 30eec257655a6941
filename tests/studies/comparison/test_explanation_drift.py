"""The drift of explanations between two networks: zero for the same one, and by numerical integration."""

from __future__ import annotations

import csv
import math
import pathlib

import numpy as np
import pytest
import torch
from tiny_explainers import TINY_PREPROCESS, TINY_SIZE, lively_explainer, tiny, tiny_net
from torch import nn

import deconvviz as dv
from deconvviz.cam.learned.bump import Bump
from deconvviz.cam.learned.files import configuration, save_explainer
from deconvviz.data.memory import InMemoryImages
from deconvviz.errors import CamError, DeconvvizError, MismatchError
from deconvviz.studies.comparison.drift import ExplanationDrift


def pictures(count: int = 9) -> InMemoryImages:
    rng = np.random.default_rng(3)
    return InMemoryImages([rng.integers(0, 256, (*TINY_SIZE, 3), np.uint8) for _ in range(count)])


def drift(first: dv.Network, second: dv.Network, explainer: Bump | str) -> ExplanationDrift:
    return dv.explanation_drift(
        first, second, pictures(), explainer, preprocess=TINY_PREPROCESS, batch_size=4, progress=False
    )


def bump() -> Bump:
    explainer = lively_explainer("bump")
    assert isinstance(explainer, Bump)
    return explainer


def test_a_network_has_not_drifted_from_itself() -> None:
    """Zero exactly; a network of other weights has drifted, and its bumps are those of the explainer on its maps."""
    model, network = tiny_net()
    same = drift(network, network, bump())
    assert same.mean == 0 and same.half_width == 0 and (same.first == same.second).all() and len(same.names) == 9
    shown = dv.cam("bump", network, explainer=bump())
    x = torch.stack([TINY_PREPROCESS(pictures()[n][0]) for n in range(9)]).double()
    shown(x)
    np.testing.assert_allclose(same.first, shown.extras["bump"], rtol=1e-6)
    other, _ = tiny_net(4)
    second = dv.capture(other, (3, *TINY_SIZE))
    found = drift(network, second, bump())
    assert found.mean > 0 and (found.first == same.first).all()
    with torch.no_grad():
        classes = model(x).argmax(1)  # of the first network, also for the second
        values = {"2": other[:3](x), "4": other[:5](x)}
        np.testing.assert_allclose(found.second, bump().bumps(values, classes), rtol=1e-5)


def test_distance_by_numerical_integration(tmp_path: pathlib.Path) -> None:
    """sqrt(1 - sum sqrt(p q)) over a fine grid of two normal densities; shift and widths by hand; the table."""
    first, second = np.array([[30.0, 32, 4], [32, 32, 6]]), np.array([[36.0, 24, 5], [32, 32, 6]])
    found = ExplanationDrift(first=first, second=second, size=(64, 80), names=("a", "b"))
    y, x = np.mgrid[-40:110:0.25, -40:110:0.25]

    def density(row: float, column: float, sigma: float) -> np.ndarray:
        return np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * sigma**2)) / (2 * math.pi * sigma**2)

    coefficient = np.sqrt(density(*first[0]) * density(*second[0])).sum() * 0.25**2
    assert found.distances == pytest.approx([math.sqrt(1 - coefficient), 0.0], rel=1e-6, abs=1e-9)
    assert found.shifts.tolist() == [10 / 64, 0] and found.widths.tolist() == [1.25, 1]
    assert found.half_width == pytest.approx(1.959964 * found.distances[0] / 2, rel=1e-9)
    found.save_csv(tmp_path / "drift.csv")
    (row, _) = csv.DictReader((tmp_path / "drift.csv").open())
    assert float(row["distance"]) == pytest.approx(found.distances[0], rel=1e-5) and row["image"] == "a"


def test_bad_input(tmp_path: pathlib.Path) -> None:
    """An explainer of another method or network, and a network of another shape, are told."""
    _, network = tiny_net()
    other = dv.capture(tiny_net(4)[0], (3, *TINY_SIZE))
    explainer = bump()
    save_explainer(explainer, tmp_path / "b.pth", configuration(explainer, network, {}))
    single = dv.capture(tiny_net()[0].float(), (3, *TINY_SIZE))
    assert drift(network, network, str(tmp_path / "b.pth")).mean == 0
    with pytest.raises(MismatchError, match="trained for other weights"):
        drift(other, network, str(tmp_path / "b.pth"))
    with pytest.raises(CamError, match="of the method l-cam-fm"):
        drift(network, network, lively_explainer("l-cam-fm"))  # type: ignore[arg-type]
    wide = tiny().double().eval()
    wide[0], wide[3] = nn.Conv2d(3, 6, 3, padding=1).double(), nn.Conv2d(6, 5, 3).double()
    with pytest.raises(MismatchError, match="6 x 5 x 4, the explainer reads 4 x 5 x 4"):
        drift(network, dv.capture(wide, (3, *TINY_SIZE)), explainer)
    with pytest.raises(DeconvvizError, match="preprocessing"):
        dv.explanation_drift(network, network, pictures(), explainer, preprocess=dv.Preprocess(), progress=False)
    del single
