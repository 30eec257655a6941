"""Trained networks bear out the limits of the checks."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
from diagnosed import found, subject_of

import deconvviz as dv
from deconvviz.data.datasets import open_images
from deconvviz.data.preprocess import Preprocess
from deconvviz.studies.diagnosis.checks import pairs as checks_pairs
from deconvviz.studies.diagnosis.checks import responses as checks_responses
from deconvviz.studies.diagnosis.checks import spectrum as checks_spectrum
from deconvviz.studies.diagnosis.measures.readers import constant_by_input, readers_of
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


def test_a_network_of_depthwise_layers_is_as_healthy_as_the_limits_say(data: pathlib.Path) -> None:
    """EfficientNet-Lite0: large weights make up for quiet inputs, and what is dead is told where it begins."""
    loaded = dv.load_model("timm:tf_efficientnet_lite0", str(data / "efficientnet_lite0-imagenet-fp16.pth"))
    images, preprocess = open_images(str(data / "imagenet-sample")), Preprocess.from_dict(loaded.settings)
    subject = subject_of(loaded.model, images, preprocess, limit=12)
    assert {(finding.layer, finding.severity) for finding in found("dominating", subject)} <= {("bn1.act", "note")}
    depthwise = [name for name in subject.layers if subject.depthwise(name)]
    assert len(depthwise) == 16
    dead = {finding.layer: {*finding.channels} for finding in found("dead", subject)}
    assert dead["bn1.act"] == {11, 16, 28, 31} and not dead["bn1.act"] & dead.get("blocks.0.0.bn1.act", set())
    for layer in depthwise:
        source, caused = constant_by_input(subject, layer)
        assert source == subject.layers[subject.layers.index(layer) - 1]
        assert not dead.get(layer, set()) & {*np.flatnonzero(caused).tolist()}
        readers = readers_of(subject.network, source)
        assert readers.depthwise == (layer,) and not readers.others and not readers.mixed
