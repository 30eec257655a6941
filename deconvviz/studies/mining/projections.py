"""Projections of a mined layer's winners, as the mined file keeps them.

A projection is kept as float16 in units of its largest absolute value, on the pixels that its unit sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconvviz.arrays import evenly
from deconvviz.data.feed import Feed
from deconvviz.data.pictures import side_that_holds
from deconvviz.deconv.project import project_by_rules
from deconvviz.deconv.projection import Projection, Unit
from deconvviz.errors import DataError
from deconvviz.graph.network import Network
from deconvviz.graph.ops import op_name, op_of, reads_pixels
from deconvviz.graph.reach import data_inputs
from deconvviz.halving import AtOnce
from deconvviz.studies.mining.result import MinedLayer, Winner
from deconvviz.types import Box, Floats

MAPS_AT_ONCE = 16  # images whose maps are computed together
ENERGY = 0.98  # share of a projection's energy that the default crop holds


@dataclass(frozen=True, kw_only=True)
class StoredProjection:
    """One projection as the mined file keeps it.

    Attributes:
        pixels: float16 [C, h, w], in units of the largest absolute value.
        box: the pixels of the image that the unit sees; the projection is zero outside.

    >>> projection = StoredProjection(pixels=np.eye(5, dtype=np.float16)[None], box=Box(10, 0, 15, 5))
    >>> projection.centre(), projection.extent()
    ((12, 2), 5)
    >>> window = projection.window(size=(3, 3), image=(32, 32))
    >>> window, projection.cut(window)[..., 0].diagonal()
    (Box(top=11, left=1, bottom=14, right=4), array([1., 1., 1.], dtype=float32))
    """

    pixels: NDArray[np.float16]
    box: Box

    def energy(self) -> Floats:
        """Return the squares of the pixels, summed over the colours, float64 [h, w]."""
        squares: Floats = (self.pixels.astype(np.float64) ** 2).sum(0)
        return squares

    def centre(self) -> tuple[int, int]:
        """Return the centre of the projection's energy, (row, column) in pixels of the image."""
        energy = self.energy()
        if energy.sum() == 0:
            return (self.box.top + self.box.bottom) // 2, (self.box.left + self.box.right) // 2
        rows, columns = (energy.sum(1 - axis) for axis in (0, 1))
        y, x = ((weights * np.arange(len(weights))).sum() / weights.sum() for weights in (rows, columns))
        return self.box.top + round(float(y)), self.box.left + round(float(x))

    def extent(self) -> int:
        """Return the side of the smallest square around the centre that holds ENERGY of the energy.

        It is at most the longer side of the box.
        """
        energy, (y, x) = self.energy(), self.centre()
        side = side_that_holds(energy, (y - self.box.top, x - self.box.left), ENERGY)
        return min(side, max(self.box.height, self.box.width))

    def window(self, size: tuple[int, int], image: tuple[int, int]) -> Box:
        """Return the part of an image that shows the projection; it lies inside the image.

        Where the box fits into it, it is centred on the box, and otherwise on the projection's energy, and moved into
        the box; each axis by itself.

        Args:
            size: height and width of the part in pixels; it is no larger than the image.
            image: height and width of the image in pixels.
        """
        (top, height), (left, width) = (
            _placed(centre, (first, end), min(side, room), room)
            for centre, first, end, side, room in zip(
                self.centre(), self.box[:2], self.box[2:], size, image, strict=True
            )
        )
        return Box(top, left, top + height, left + width)

    def cut(self, window: Box) -> NDArray[np.float32]:
        """Return the projection on a part of the image, float32 [h, w, C]; it is zero outside the projection's box."""
        canvas = np.zeros((window.height, window.width, len(self.pixels)), np.float32)
        common = Box(
            max(window.top, self.box.top),
            max(window.left, self.box.left),
            min(window.bottom, self.box.bottom),
            min(window.right, self.box.right),
        )
        if common.height > 0 and common.width > 0:
            _within(window, common).of(canvas)[:] = _within(self.box, common).of(self.pixels.transpose(1, 2, 0))
        return canvas


def _placed(centre: int, box: tuple[int, int], side: int, room: int) -> tuple[int, int]:
    """Return where a window begins along one axis, and its length there.

    Args:
        centre: of the projection's energy.
        box: first pixel of the projection's box, and the one after its last.
        side: length of the window.
        room: length of the image.
    """
    first, end = box
    inside = min(max(centre - side // 2, first), end - side)
    start = inside if side < end - first else (first + end - side) // 2
    return min(max(start, 0), room - side), side


def _within(outer: Box, inner: Box) -> Box:
    """Return a box of an image as a box of the part that `outer` cuts out of the image."""
    return Box(inner.top - outer.top, inner.left - outer.left, inner.bottom - outer.top, inner.right - outer.left)


def sample_of(layer: MinedLayer, most: int) -> list[Winner]:
    """Return the strongest entries of at most `most` filters, evenly chosen among those that are not dead.

    Raises:
        DataError: every filter of the layer is dead.
    """
    alive = np.flatnonzero(~layer.activity.dead & (layer.images[:, 0] >= 0))
    if not layer.activity.images:
        raise DataError(f"no image was mined for {layer.name!r} yet; run `deconvviz mine` again: it goes on")
    if not len(alive):
        raise DataError(f"every filter of {layer.name!r} is dead on these images: there is nothing to show")
    return [Winner(int(channel), 0) for channel in alive[evenly(len(alive), most)]]


def units_of(network: Network, layer: MinedLayer, feed: Feed, winners: Sequence[Winner]) -> tuple[Tensor, list[Unit]]:
    """Return the images of entries of a mined layer's table, each once, and the entries as units of these images.

    Args:
        network: the network that was mined.
        layer: what mining found in the layer.
        feed: all images of the store, prepared as they were mined.
        winners: (channel, rank) of the entries.

    Returns:
        The images [M, C, H, W], on the network's device, and a unit for each entry.
    """
    indices = sorted({int(layer.images[winner]) for winner in winners})
    inputs = feed.tensor(feed.pictures(indices), network.device, network.dtype)
    units: list[Unit] = []
    for winner in winners:
        y, x = map(int, layer.positions[winner])
        units.append((indices.index(int(layer.images[winner])), layer.name, winner.channel, (y, x)))
    return inputs, units


def project_winners(
    network: Network,
    layer: MinedLayer,
    feed: Feed,
    winners: Sequence[Winner],
    rule: str = "deconvnet",
    **averages: Any,
) -> dict[Winner, StoredProjection]:
    """Project entries of a mined layer's table back to the pixels of their images.

    All the images, and all the projections, are in memory together; where they do not fit, half of them.

    Args:
        network: the network that was mined.
        layer: what mining found in the layer.
        feed: all images of the store, prepared as they were mined.
        winners: (channel, rank) of the entries.
        rule: one of `choices.RULES`.
        averages: `shifts`, `noise` and `samples` of `SignalOptions`.

    Returns:
        Each entry's projection.

    Raises:
        ProjectionError: another rule, or an op on the way that has no transpose.
        LayerNotFound: the network does not have the layer.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> network = dv.capture(nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU()), (3, 32, 32))
    >>> scenes, preprocess = dv.Scenes(20), dv.Preprocess(resize=32, crop=32)
    >>> mined = dv.mine(network, scenes, ["1"], k=4, preprocess=preprocess, progress=False)
    >>> winners = mined["1"].winners([0, 7])
    >>> projections = project_winners(network, mined["1"], Feed(scenes, preprocess), winners)
    >>> len(projections), projections[winners[0]].pixels.shape
    (8, (3, 5, 5))
    """

    def part(start: int, stop: int) -> list[StoredProjection]:
        inputs, units = units_of(network, layer, feed, winners[start:stop])
        projected = project_by_rules(network, inputs, units, [rule], bounds=feed.preprocess.bounds(), **averages)
        return stored(projected[rule])

    parts = AtOnce(max(len(winners), 1), "projections").parts(len(winners), part)
    return dict(zip(winners, chain.from_iterable(parts), strict=True))


def stored(projections: Sequence[Projection]) -> list[StoredProjection]:
    """Return projections as a file keeps them: each scaled to a largest value of 1, in half precision.

    They come from the device in one copy.
    """
    if not projections:
        return []
    pixels = [each.pixels for each in projections]
    scaled = torch.cat([(one / one.abs().max().clamp(min=1e-30)).half().flatten() for one in pixels]).cpu().numpy()
    parts = np.split(scaled, np.cumsum([one.numel() for one in pixels])[:-1])
    return [
        StoredProjection(pixels=part.reshape(each.pixels.shape), box=each.window)
        for part, each in zip(parts, projections, strict=True)
    ]


def firing_maps(
    network: Network, layer: MinedLayer, feed: Feed, winners: Sequence[Winner]
) -> dict[Winner, NDArray[np.float16]]:
    """Return the map of each entry's channel on its image, float16 [rows, columns], in units of the entry's value.

    Arguments are those of `units_of`; an image is read and run once, whatever the number of its entries.
    """
    fast = network.forward_only(keep=[layer.name])
    winners_by_image: dict[int, list[Winner]] = {}
    for winner in winners:
        winners_by_image.setdefault(int(layer.images[winner]), []).append(winner)
    images, maps = sorted(winners_by_image), dict[Winner, NDArray[np.float16]]()
    for start in range(0, len(images), MAPS_AT_ONCE):
        group = images[start : start + MAPS_AT_ONCE]
        inputs = fast.checked(feed.tensor(feed.pictures(group), network.device, network.dtype))
        with torch.inference_mode():
            values = fast.maps(layer.name, fast.activations(inputs, [layer.name])[layer.name])
        entries = [(place, winner) for place, image in enumerate(group) for winner in winners_by_image[image]]
        units = [[place, winner.channel, *layer.positions[winner]] for place, winner in entries]
        place, channel, y, x = torch.tensor(np.array(units), device=values.device).T
        own = values[place, channel, y, x].float().abs().clamp(min=1e-30)
        shares = (values[place, channel].float() / own[:, None, None]).clamp(-2, 2).half().cpu().numpy()
        maps |= {winner: share for (_, winner), share in zip(entries, shares, strict=True)}
    return maps


def first_layer_weights(network: Network, layer: str) -> NDArray[np.float32] | None:
    """Return the filters of a layer that reads the image directly, float32 [F, h, w, C]: nothing shows them better.

    Between the convolution and the layer there may be rectifiers of any kind, normalisations of single channels, and
    ops that hand their input on; between the image and the convolution there may be a border. Other layers, and those
    of images with one or two channels, have None.

    >>> from torch import nn
    >>> from deconvviz.graph.capture import capture
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 5), nn.BatchNorm2d(8), nn.Mish(), nn.Conv2d(8, 4, 3)).eval()
    >>> network = capture(model, (3, 32, 32))
    >>> first_layer_weights(network, "2").shape, first_layer_weights(network, "3")
    ((8, 5, 5, 3), None)
    """
    node = network.layer(layer).node
    while op_of(node).kind == "rectifier" or op_of(node).normalises or op_of(node).identity:
        node = data_inputs(node)[0]
    if op_name(node) != "conv2d" or not reads_pixels(node):
        return None
    weight = network.constant(node.args[1])  # type: ignore[arg-type]
    if weight is None or weight.shape[1] < 3:
        return None
    filters: NDArray[np.float32] = weight.detach().to("cpu", torch.float32).permute(0, 2, 3, 1).numpy().copy()
    return filters
