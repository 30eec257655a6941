"""Projections: a unit's activation, carried back to the pixels that caused it."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deconvviz.deconv.plan import WindowPlan, make_plan
from deconvviz.deconv.rules import Policy
from deconvviz.deconv.windows import Sweep
from deconvviz.errors import ProjectionError
from deconvviz.graph.layers import as_maps, as_value
from deconvviz.graph.network import Network
from deconvviz.types import Box

Unit = tuple[int, str, int, tuple[int, int]]
SEEDS = ("one", "activation")
MEMORY = 256 * 2**20  # bytes of values that one batch of units may keep


@dataclass(frozen=True)
class Projection:
    """What one unit carries back to the image.

    Attributes:
        image: index of the image among those given.
        layer, channel, position: the unit; position is (y, x) on the layer's map.
        rule: "deconvnet", "guided" or "gradient".
        value: the unit's activation.
        window: the pixels that the unit sees, cut to the image.
        pixels: [C, h, w], the projection there; zero everywhere else.
        image_shape: (C, H, W).
        linearised: ops on the way that are not linear and were replaced by their vector-Jacobian product.
    """

    image: int
    layer: str
    channel: int
    position: tuple[int, int]
    rule: str
    value: float
    window: Box
    pixels: Tensor
    image_shape: tuple[int, int, int]
    linearised: tuple[str, ...] = ()

    def full(self) -> Tensor:
        """Return the projection on a zero canvas of the image's shape, [C, H, W]."""
        canvas = self.pixels.new_zeros(self.image_shape)
        canvas[:, self.window.top : self.window.bottom, self.window.left : self.window.right] = self.pixels
        return canvas

    def __repr__(self) -> str:
        unit = f"{self.layer}:{self.channel}@{self.position[0]},{self.position[1]}"
        size = f"{self.window.bottom - self.window.top}x{self.window.right - self.window.left} px"
        place = f"{size} at {tuple(self.window)[:2]}"
        return f"Projection({unit} of image {self.image}, {self.rule}, value {self.value:.4g}, {place})"

    def _repr_png_(self) -> bytes:
        from PIL import Image

        pixels = self.pixels.detach().float().cpu()
        scaled = (127.5 + 127.5 * pixels / pixels.abs().max().clamp(min=1e-30)).round().to(torch.uint8)
        picture = scaled.permute(1, 2, 0).expand(-1, -1, 3).contiguous().numpy()
        buffer = io.BytesIO()
        Image.fromarray(picture).resize((4 * picture.shape[1], 4 * picture.shape[0]), 0).save(buffer, "PNG")
        return buffer.getvalue()


def parse_unit(text: str) -> tuple[str, int, tuple[int, int] | None]:
    """Read a unit as a user writes it, `layer:channel` or `layer:channel@y,x`.

    Raises:
        ProjectionError: the text has another form.
    """
    match = re.fullmatch(r"(.+):(\d+)(?:@(\d+),(\d+))?", text.strip())
    if not match:
        raise ProjectionError(
            f"unit {text!r} given; expected layer:channel or layer:channel@y,x, as in features.5:12@3,4"
        )
    layer, channel, y, x = match.groups()
    return layer, int(channel), None if y is None else (int(y), int(x))


def project(
    network: Network,
    x: Tensor,
    layer: str,
    channel: int,
    position: tuple[int, int] | None = None,
    rule: str = "deconvnet",
    *,
    overlap: str = "sum",
    lrn: str = "identity",
    seed: str = "one",
    windowed: bool = True,
) -> Projection:
    """Project one unit of one image back to its pixels.

    Args:
        network: a captured network.
        x: one image, [1, C, H, W].
        layer, channel: the unit's map.
        position: (y, x) on the map; None takes the map's strongest position, the first one where several are.
        rule, overlap, lrn: see `rules.Policy`.
        seed: the signal that starts at the unit: "one", or its "activation" as in the paper. Every rule scales
            with it, so a picture of one unit looks the same.
        windowed: compute only the part of each map that the unit sees. The result is the same without.

    Raises:
        LayerNotFound, CaptureError: no such layer; x does not fit the network.
        ProjectionError: no such channel or position, or an op on the way that has no transpose.

    Source: Zeiler and Fergus 2013, section 2.1.
    """
    if x.shape[0] != 1:
        raise ProjectionError(f"{x.shape[0]} images given; project takes one, project_units takes many")
    if position is None:
        rows, columns = _checked_unit(network, layer, channel, (0, 0))
        with torch.no_grad():
            chosen = network.maps(layer, network.activations(x, [layer])[layer])[0, channel]
        best = int(chosen.argmax())
        assert best < rows * columns
        position = (best // columns, best % columns)
    unit = (0, layer, channel, position)
    return project_units(network, x, [unit], rule, overlap=overlap, lrn=lrn, seed=seed, windowed=windowed)[0]


def project_units(
    network: Network,
    images: Tensor,
    units: Sequence[Unit],
    rule: str = "deconvnet",
    *,
    overlap: str = "sum",
    lrn: str = "identity",
    seed: str = "one",
    windowed: bool = True,
) -> list[Projection]:
    """Project many units of many images, batched by layer, each on its own window.

    Args:
        network: a captured network.
        images: [N, C, H, W].
        units: (image, layer, channel, (y, x)) each.
        rule, overlap, lrn, seed, windowed: as for `project`.

    Returns:
        One Projection a unit, in the order of `units`.

    Raises:
        As `project`; a unit's image that is not among `images` is a ProjectionError too.
    """
    policy = Policy(rule, overlap, lrn)
    if seed not in SEEDS:
        raise ProjectionError(f"seed {seed!r} given; expected one of {', '.join(SEEDS)}")
    images = network.checked(images)
    layers: dict[str, list[int]] = {}
    for number, (image, layer, channel, position) in enumerate(units):
        if not 0 <= image < len(images):
            raise ProjectionError(f"image {image} given; expected 0 to {len(images) - 1}")
        _checked_unit(network, layer, channel, position)
        layers.setdefault(layer, []).append(number)
    found: dict[int, Projection] = {}
    with torch.no_grad():
        for layer, numbers in layers.items():
            # "last" lets a window that the unit does not see overwrite with zero: only the whole map knows
            plan = make_plan(network, layer, windowed and overlap == "sum")
            for batch in _batches(numbers, units, plan, images):
                for number, projection in zip(
                    batch, _project_batch(network, plan, images, [units[n] for n in batch], policy, seed), strict=True
                ):
                    found[number] = projection
    return [found[number] for number in range(len(units))]


def _checked_unit(network: Network, layer: str, channel: int, position: tuple[int, int]) -> tuple[int, int]:
    channels, rows, columns = network.layer(layer).units
    if not 0 <= channel < channels:
        raise ProjectionError(f"channel {channel} of layer {layer!r} given; expected 0 to {channels - 1}")
    y, x = position or (0, 0)
    if not (0 <= y < rows and 0 <= x < columns):
        raise ProjectionError(f"position {y},{x} of layer {layer!r} given; its map has {rows} x {columns} positions")
    return rows, columns


def _batches(numbers: list[int], units: Sequence[Unit], plan: WindowPlan, images: Tensor) -> Iterator[list[int]]:
    """Split the units of a layer so that one batch's values fit in MEMORY; units of one image stand together."""
    size = max(1, min(256, MEMORY // (3 * plan.elements() * images.element_size())))
    ordered = sorted(numbers, key=lambda number: units[number][0])
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def _project_batch(
    network: Network, plan: WindowPlan, images: Tensor, units: Sequence[Unit], policy: Policy, seed: str
) -> list[Projection]:
    distinct = sorted({unit[0] for unit in units})
    device = images.device
    index = torch.tensor([distinct.index(unit[0]) for unit in units], device=device)
    positions = torch.tensor([unit[3] or (0, 0) for unit in units], device=device)
    rows, columns = positions[:, 0], positions[:, 1]
    sweep = Sweep(network, plan, images[distinct], index, rows, columns)
    target, node = sweep.forward(), plan.steps[-1]
    every, channels = torch.arange(len(units), device=device), torch.tensor([u[2] for u in units], device=device)
    maps = as_maps(node, target)
    if node in plan.windows:  # the window of the layer itself is the unit
        image_at, y, x = every, torch.zeros_like(rows), torch.zeros_like(columns)
    else:
        image_at, y, x = index, rows, columns
    values = maps[image_at, channels, y, x]
    start = maps.new_zeros(len(units), *maps.shape[1:])
    start[every, channels, y, x] = values if seed == "activation" else torch.ones_like(values)
    signal = sweep.back(as_value(node, start), policy)
    places, named = sweep.image_places(), tuple(sorted(sweep.linearised))
    depth, height, width = network.input_shape
    found = []
    for (image, layer, channel, position), value, (box, inside), pixels in zip(
        units, values.tolist(), places, signal, strict=True
    ):
        cut, shape = pixels[inside].clone(), (depth, height, width)
        unit = (image, layer, channel, position or (0, 0))
        found.append(Projection(*unit, policy.rule, value, Box(*box), cut, shape, named))
    return found
