"""Examples: the strongest images of the channels that are named best, and where in them each channel fires."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconvviz.data.feed import Feed
from deconvviz.data.pictures import resized
from deconvviz.graph.network import Network
from deconvviz.studies.dissection.firing import Axis, firing, sampled
from deconvviz.studies.dissection.naming import CHANNELS, PICTURES, Detection, strongest
from deconvviz.studies.dissection.result import DissectedLayer, Dissection, Examples
from deconvviz.types import Ints, Picture


class FiringNotes:
    """Where channels fire in their strongest images, noted while the second pass has their maps.

    Which channels are examples is known only at its end; without the notes, their images would run through the network
    once more. A note is a bit for each looked-at pixel.

    Attributes:
        notes: (layer, channel, image) -> the packed bits, uint8.
    """

    def __init__(self, dissection: Dissection) -> None:
        self.notes: dict[tuple[str, int, int], NDArray[np.uint8]] = {}
        self._strongest = {name: layer.top.images[:, :PICTURES] for name, layer in dissection.layers.items()}

    def add(self, layer: str, maps: Tensor, images: Ints, thresholds: Tensor, rows: Axis, columns: Axis) -> None:
        """Note where channels fire in those of some images that are among their strongest.

        Args:
            layer: its name.
            maps: [N, C, h, w], of the layer.
            images: int64 [N], indices into the store.
            thresholds: float32 [C].
            rows: of the maps.
            columns: of the maps.
        """
        channels, _, places = np.nonzero(self._strongest[layer][:, :, None] == images)
        if not len(channels):
            return
        of_map, of_image = (torch.from_numpy(numbers).to(maps.device) for numbers in (channels, places))
        above = torch.zeros(len(channels), rows.pixels * columns.pixels, dtype=torch.bool, device=maps.device)
        for _, pair, place in firing(maps[of_image, of_map][None], thresholds[of_map], rows, columns):
            above[pair, place] = True
        for channel, image, bits in zip(channels, images[places], np.packbits(above.cpu().numpy(), 1), strict=True):
            self.notes[layer, int(channel), int(image)] = bits


@torch.inference_mode()
def with_examples(dissection: Dissection, forward: Network, feed: Feed, noted: FiringNotes | None = None) -> Dissection:
    """Return a complete dissection with examples of the channels that are named best, at most nine names of a layer.

    Args:
        dissection: complete.
        forward: the network for forward passes, which keeps the layers.
        feed: the images that were dissected.
        noted: what the second pass has noted; what is missing there is computed.
    """
    notes = {} if noted is None else noted.notes
    place_of = {int(image): place for place, image in enumerate(feed.indices)}
    layers = {}
    for name, layer in dissection.layers.items():
        best = strongest(dissection.detections(name))[:CHANNELS]
        layers[name] = replace(layer, examples=_examples(forward, feed, name, layer, best, place_of, notes))
    return replace(dissection, layers=layers)


def _examples(
    forward: Network,
    feed: Feed,
    name: str,
    layer: DissectedLayer,
    best: Sequence[Detection],
    place_of: dict[int, int],
    notes: Mapping[tuple[str, int, int], NDArray[np.uint8]],
) -> Examples:
    rows, columns = sampled(*feed.preprocess.shape[1:])
    size = len(rows), len(columns)
    channels: Ints = np.array([detection.channel for detection in best], np.int64)
    pictures = np.zeros((len(best), PICTURES, *size, 3), np.uint8)
    above = np.zeros((len(best), PICTURES, *size), bool)
    for row, channel in enumerate(channels.tolist()):
        images = [int(image) for image in layer.top.images[channel][:PICTURES] if image >= 0]
        original = feed.pictures([place_of[image] for image in images])
        missing = [column for column, image in enumerate(images) if (name, channel, image) not in notes]
        for column, image in enumerate(images):
            if column not in missing:
                bits = np.unpackbits(notes[name, channel, image], count=len(rows) * len(columns))
                above[row, column] = bits.reshape(size)
        if missing:
            above[row, missing] = _above(forward, feed, name, layer, channel, original[missing])
        for column, picture in enumerate(feed.preprocess.display(original)):
            pictures[row, column] = resized(picture, size)
    return Examples(channels=channels, pictures=pictures, above=above)


def _above(
    forward: Network, feed: Feed, name: str, layer: DissectedLayer, channel: int, original: Picture
) -> NDArray[np.bool_]:
    """Return where a channel fires in pictures as the feed gives them, bool [N, rows, columns]."""
    rows, columns = sampled(*feed.preprocess.shape[1:])
    maps = forward.maps(name, forward.activations(feed.tensor(original, forward.device, forward.dtype), [name])[name])
    assert layer.thresholds is not None  # of a complete dissection
    threshold = torch.from_numpy(layer.thresholds[[channel]]).to(forward.device)
    axes = (
        Axis.of(length, pixels, looked_at, forward.device)
        for length, pixels, looked_at in zip(maps.shape[2:], original.shape[1:3], (rows, columns), strict=True)
    )
    above = np.zeros((len(original), len(rows) * len(columns)), bool)
    for image, _, place in firing(maps[:, [channel]], threshold, *axes):
        above[image.cpu().numpy(), place.cpu().numpy()] = True
    return above.reshape(-1, len(rows), len(columns))
