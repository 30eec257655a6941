"""Trained networks bear out the limits of the checks."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
from diagnosed import found, subject_of

import deconvviz as dv
from deconvviz.data.preprocess import Preprocess
from deconvviz.studies.diagnosis.checks import pairs as checks_pairs
from deconvviz.studies.diagnosis.checks import responses as checks_responses
from deconvviz.studies.diagnosis.checks import spectrum as checks_spectrum
from deconvviz.studies.diagnosis.measures.similarity import filter_cosines
from deconvviz.studies.diagnosis.measures.spectra import band_shares, flatness, noisy


@pytest.mark.slow
def test_the_packaged_network_is_as_healthy_as_the_limits_say() -> None:
    loaded = dv.load_model("demo")
    preprocess = Preprocess.from_dict(loaded.settings)
    subject = subject_of(loaded.model, dv.Scenes(200, seed=7), preprocess)
    for name in ("dead", "dominating", "flipped", "frequency", "saturated", "class-blind", "rank"):
        assert found(name, subject) == [], name
    ratios = [float((f.rms / np.median(f.rms)).max()) for name in subject.layers if (f := subject.filters(name))]
    assert len(ratios) == 7 and max(ratios) < 1.7
    first = subject.filters("relu1")
    assert first is not None and 0.3 < band_shares(first).mean(0)[1] < 0.4 and checks_spectrum.MIDDLE[0] < 0.3
    assert checks_responses.RANKS[0] < 0.05


def test_squeezenet_bears_out_the_limits(data: pathlib.Path) -> None:
    loaded = dv.load_model("torchvision:squeezenet1_0", str(data / "squeezenet1_0-imagenet-fp16.pth"))
    preprocess = Preprocess.from_dict(loaded.settings)
    subject = subject_of(loaded.model, dv.Scenes(8), preprocess)
    assert len(subject.layers) == 25
    ratios, twins = [], 0
    for name in subject.layers:
        filters = subject.filters(name)
        assert filters is not None
        ratios.append(float((filters.rms / np.median(filters.rms)).max()))
        if name != "features.9.expand1x1_activation":  # 7 of its filters are dead on 500 photos, and 6 of them alike
            twins += int(np.triu(filter_cosines(filters) >= checks_pairs.SAME, 1).sum())
    assert 2.2 < max(ratios) < 2.4 and twins == 10
    first = subject.filters(subject.layers[0])
    assert first is not None and not noisy(first.weights).any() and 0.53 < flatness(first.weights).max() < 0.55
    assert np.isclose(band_shares(first).mean(0)[1], 0.36, atol=0.01)
