"""On real networks: without the channels that decide, the decision changes more often than without random ones."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import torch

import deconvviz as dv
from deconvviz.data.sampling import spread
from deconvviz.deconv.decision import RULE, Decisions
from deconvviz.metrics.intervals import paired_interval

SILENCED, PHOTOS = 0.05, 100  # share of the layer's channels that are silenced, and photos
NETWORKS = {
    ("squeezenet", "features.12"): ("torchvision:squeezenet1_0", "squeezenet1_0-imagenet-fp16.pth"),
    ("squeezenet", "features.7"): ("torchvision:squeezenet1_0", "squeezenet1_0-imagenet-fp16.pth"),
    ("lite0", "blocks.6"): ("timm:tf_efficientnet_lite0", "efficientnet_lite0-imagenet-fp16.pth"),
    ("lite0", "blocks.4"): ("timm:tf_efficientnet_lite0", "efficientnet_lite0-imagenet-fp16.pth"),
}


def changed_by_lesions(
    name: str, layer: str, rule: str, folder: pathlib.Path, photos: int = PHOTOS
) -> dict[str, np.ndarray]:
    """Whether each decision changes, bool [photos], and the class's probability before and after, by who is silenced.

    Every photo loses the same number of channels: those with the largest shares, or as many drawn at random among
    those that are not zero on it.
    """
    model, weights = NETWORKS[name, layer]
    loaded = dv.load_model(model, str(folder / weights))
    preprocess = dv.Preprocess.from_dict(loaded.settings)
    network = dv.capture(loaded.model, preprocess.shape)
    images = dv.open_images(folder / "imagenet-sample")
    decisions, rng = Decisions(network, [layer], rule), np.random.default_rng(0)
    rows: dict[str, list[np.ndarray]] = {key: [] for key in ("top", "random", "before", "p top", "p random")}
    chosen = spread(np.asarray(images.labels), photos)
    for start in range(0, len(chosen), 10):
        pictures = np.stack([preprocess.picture(images[int(i)][0]) for i in chosen[start : start + 10]])
        x = preprocess.tensor(pictures)
        shared = decisions.of(x)
        maps = network.maps(layer, shared.relevance[layer]).flatten(2).sum(2)
        fires = network.maps(layer, shared.values[layer]).flatten(2).abs().amax(2) > 0
        count = round(SILENCED * maps.shape[1])
        drawn = torch.from_numpy(rng.random(maps.shape)) + fires.double()
        value, tail = network.split(layer, x)
        classes = shared.classes[:, None]
        with torch.no_grad():
            rows["before"].append(tail(value).softmax(1).gather(1, classes)[:, 0].numpy())
            for key, order in (("top", maps), ("random", drawn)):
                silent = torch.zeros_like(maps).scatter(1, order.topk(count, 1).indices, 1.0)
                scores = tail(value * (1 - silent)[:, :, None, None])
                rows[key].append((scores.argmax(1) != shared.classes).numpy())
                rows[f"p {key}"].append(scores.softmax(1).gather(1, classes)[:, 0].numpy())
    return {key: np.concatenate(parts) for key, parts in rows.items()}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "layer"), [*NETWORKS])
def test_relevant_channels_carry_the_decision(name: str, layer: str, data: pathlib.Path) -> None:
    changed = changed_by_lesions(name, layer, RULE, data)
    top, random = changed["top"], changed["random"]
    low, high = paired_interval(np.sum(top & ~random), np.sum(random & ~top), len(top))
    print(f"{name} {layer}: {top.mean():.2f} against {random.mean():.2f}, difference {low:.2f} to {high:.2f}")
    assert low > 0
    fall, control = changed["before"] - changed["p top"], changed["before"] - changed["p random"]
    assert fall.mean() > control.mean()
