"""Examples: the strongest images of the channels that are named best, and where in them each channel fires."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from deconvviz.data.feed import Feed
from deconvviz.data.pictures import resized
from deconvviz.graph.network import Network
from deconvviz.studies.dissection.firing import Axis, firing, sampled
from deconvviz.studies.dissection.naming import CHANNELS, PICTURES, Detection, strongest
from deconvviz.studies.dissection.result import DissectedLayer, Dissection, Examples
from deconvviz.types import Ints


@torch.inference_mode()
def with_examples(dissection: Dissection, forward: Network, feed: Feed) -> Dissection:
    """Return a complete dissection with examples of the channels that are named best, at most nine names of a layer.

    Args:
        dissection: complete.
        forward: the network for forward passes, which keeps the layers.
        feed: the images that were dissected.
    """
    place_of = {int(image): place for place, image in enumerate(feed.indices)}
    layers = {}
    for name, layer in dissection.layers.items():
        best = strongest(dissection.detections(name))[:CHANNELS]
        layers[name] = replace(layer, examples=_examples(forward, feed, name, layer, best, place_of))
    return replace(dissection, layers=layers)


def _examples(
    forward: Network,
    feed: Feed,
    name: str,
    layer: DissectedLayer,
    best: Sequence[Detection],
    place_of: dict[int, int],
) -> Examples:
    rows, columns = sampled(*feed.preprocess.shape[1:])
    size = len(rows), len(columns)
    channels: Ints = np.array([detection.channel for detection in best], np.int64)
    pictures = np.zeros((len(best), PICTURES, *size, 3), np.uint8)
    above = np.zeros((len(best), PICTURES, *size), bool)
    assert layer.thresholds is not None  # of a complete dissection
    for row, channel in enumerate(channels):
        images = layer.top.images[channel][:PICTURES]
        images = images[images >= 0]
        original = feed.pictures([place_of[int(image)] for image in images])
        maps = forward.maps(
            name, forward.activations(feed.tensor(original, forward.device, forward.dtype), [name])[name]
        )
        threshold = torch.from_numpy(layer.thresholds[[channel]]).to(forward.device)
        axes = (
            Axis.of(length, pixels, looked_at, forward.device)
            for length, pixels, looked_at in zip(maps.shape[2:], original.shape[1:3], (rows, columns), strict=True)
        )
        for image, _, place in firing(maps[:, [channel]], threshold, *axes):
            above[row].reshape(PICTURES, -1)[image.cpu().numpy(), place.cpu().numpy()] = True
        for column, picture in enumerate(feed.preprocess.display(original)):
            pictures[row, column] = resized(picture, size)
    return Examples(channels=channels, pictures=pictures, above=above)
