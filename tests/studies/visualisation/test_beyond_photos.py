"""On real networks: an optimised picture makes a unit larger than any of 500 photos does."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest

import deconvviz as dv

NETWORKS = {
    "features.7": ("torchvision:squeezenet1_0", "squeezenet1_0-imagenet-fp16.pth"),
    "blocks.4": ("timm:tf_efficientnet_lite0", "efficientnet_lite0-imagenet-fp16.pth"),
}
CHANNELS, STEPS, SIDE = 20, 64, 128


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("layer", NETWORKS)
def test_nine_of_ten_pictures_exceed_the_largest_mined_activation(
    layer: str, data: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    model, weights = NETWORKS[layer]
    loaded = dv.load_model(model, str(data / weights))
    preprocess = dv.Preprocess.from_dict(loaded.settings)
    network = dv.capture(loaded.model, preprocess.shape)
    photos = dv.open_images(data / "imagenet-sample")
    mined = dv.mine(network, photos, [layer], k=1, preprocess=preprocess, progress=False)
    largest = mined.layers[layer].values[:, 0]
    alive = np.flatnonzero(largest > 0)
    channels = np.random.default_rng(0).choice(alive, CHANNELS, replace=False)
    options: dict[str, Any] = {"objective": "unit", "size": SIDE, "steps": STEPS, "progress": False}
    pictures = dv.visualise(network, layer, channels.tolist(), preprocess=preprocess, **options)
    beyond = pictures.values > largest[channels]
    print(f"{layer}: {beyond.sum()} of {CHANNELS} pictures exceed the largest of {len(photos)} photos")
    assert beyond.mean() >= 0.9
