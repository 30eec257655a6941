"""Projections: a unit's activation, carried back to the pixels that caused it."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

import torch
from torch import Tensor

from deconvviz.choices import SEEDS
from deconvviz.deconv.plan import WindowPlan, make_plan
from deconvviz.deconv.rules import Policy
from deconvviz.deconv.windows import Sweep
from deconvviz.errors import ProjectionError, require_choice
from deconvviz.graph.layers import as_maps, as_value
from deconvviz.graph.network import Network
from deconvviz.types import Box

if TYPE_CHECKING:
    from typing_extensions import Unpack

Unit = tuple[int, str, int, tuple[int, int]]  # image, layer, channel, (y, x) on the layer's map
MEMORY = 256 * 2**20  # bytes of values that one batch of units may keep


class SignalKeywords(TypedDict, total=False):
    """The fields of `SignalOptions`, as the keyword arguments of `project` and `project_units`."""

    overlap: str
    lrn: str
    seed: str
    windowed: bool


@dataclass(frozen=True, kw_only=True)
class SignalOptions:
    """Conventions of a projection where papers are silent or differ.

    Attributes:
        overlap: where pooling windows overlap, "sum" adds their signals, "last" keeps that of the last window.
        lrn: contrast normalisation hands the signal on ("identity") or takes its "gradient".
        seed: the signal that starts at the unit: "one", or its "activation" as in the paper. Every rule scales with
            it, so a picture of one unit looks the same.
        windowed: compute only the part of each map that the unit depends on. The result is the same without.

    Raises:
        ProjectionError: another seed; `overlap` and `lrn` are checked by `rules.Policy`.
    """

    overlap: str = "sum"
    lrn: str = "identity"
    seed: str = "one"
    windowed: bool = True

    def __post_init__(self) -> None:
        require_choice("seed", self.seed, SEEDS, ProjectionError)


@dataclass(frozen=True)
class Projection:
    """What one unit carries back to the image.

    Attributes:
        image: index of the image among those given.
        layer: name of the unit's layer.
        channel: of the layer.
        position: (y, x) on the layer's map.
        rule: "deconvnet", "guided" or "gradient".
        value: the unit's activation.
        window: the pixels that the unit depends on, clipped to the image.
        pixels: [C, h, w], the projection inside the window; it is zero everywhere else.
        image_shape: (C, H, W).
        linearised: names of ops on the way that are not linear, for which their vector-Jacobian product stands.
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
        top, left, bottom, right = self.window
        canvas[:, top:bottom, left:right] = self.pixels
        return canvas

    def __repr__(self) -> str:
        unit = f"{self.layer}:{self.channel}@{self.position[0]},{self.position[1]}"
        place = f"{self.window.height}x{self.window.width} px at {tuple(self.window)[:2]}"
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

    Returns:
        The layer's name, the channel, and (y, x) on the layer's map or None.

    Raises:
        ProjectionError: the text has another form.

    >>> parse_unit("features.5:12@3,4")
    ('features.5', 12, (3, 4))
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
    **signal: Unpack[SignalKeywords],
) -> Projection:
    """Project one unit of one image back to its pixels.

    Args:
        network: a captured network.
        x: one image, [1, C, H, W].
        layer: name of the unit's layer.
        channel: of the layer.
        position: (y, x) on the layer's map; None takes the map's strongest position, the first one where several are
            equal.
        rule: "deconvnet", "guided" or "gradient"; see `rules`.
        signal: `overlap`, `lrn`, `seed` and `windowed` of `SignalOptions`.

    Raises:
        LayerNotFound: a layer of this name does not exist.
        CaptureError: x does not fit the network.
        ProjectionError: the channel or the position does not exist, or an op on the way has no transpose.

    Source: Zeiler and Fergus 2013, section 2.1.

    >>> import deconvviz as dv
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3, bias=False), torch.nn.ReLU())
    >>> _ = torch.nn.init.ones_(model[0].weight)
    >>> projection = dv.project(dv.capture(model, (1, 8, 8)), torch.ones(1, 1, 8, 8), "1", 0, (2, 3))
    >>> projection.window, projection.value, projection.pixels.tolist()
    (Box(top=2, left=3, bottom=5, right=6), 9.0, [[[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]])
    """
    if x.shape[0] != 1:
        raise ProjectionError(f"{x.shape[0]} images given; project takes one, project_units takes many")
    if position is None:
        _, columns = _check_unit(network, layer, channel, (0, 0))
        with torch.no_grad():
            unit_map = network.maps(layer, network.activations(x, [layer])[layer])[0, channel]
        position = divmod(int(unit_map.argmax()), columns)
    return project_units(network, x, [(0, layer, channel, position)], rule, **signal)[0]


def project_units(
    network: Network,
    images: Tensor,
    units: Sequence[Unit],
    rule: str = "deconvnet",
    **signal: Unpack[SignalKeywords],
) -> list[Projection]:
    """Project many units of many images, batched by layer, each on its own window.

    Args:
        network: a captured network.
        images: [N, C, H, W].
        units: (image, layer, channel, (y, x)) each; the image is an index into `images`.
        rule: "deconvnet", "guided" or "gradient"; see `rules`.
        signal: `overlap`, `lrn`, `seed` and `windowed` of `SignalOptions`.

    Returns:
        One projection a unit, in the order of `units`.

    Raises:
        LayerNotFound, CaptureError, ProjectionError: as `project`; a ProjectionError also where a unit's image is not
            among `images`.

    Source: Zeiler and Fergus 2013, section 2.1; the windows are this package's.
    """
    options = SignalOptions(**signal)
    policy = Policy(rule, options.overlap, options.lrn)
    images = network.checked(images)
    numbers_by_layer: dict[str, list[int]] = {}
    for number, (image, layer, channel, position) in enumerate(units):
        if not 0 <= image < len(images):
            raise ProjectionError(f"image {image} given; expected 0 to {len(images) - 1}")
        _check_unit(network, layer, channel, position)
        numbers_by_layer.setdefault(layer, []).append(number)
    projections: dict[int, Projection] = {}
    with torch.no_grad():
        for layer, numbers in numbers_by_layer.items():
            # "last" lets a window that the unit does not depend on overwrite with zero: only the whole map knows
            plan = make_plan(network, layer, options.windowed and options.overlap == "sum")
            for batch in _batches(numbers, units, plan, images):
                batch_units = [units[number] for number in batch]
                projected = _project_batch(network, plan, images, batch_units, policy, options.seed)
                projections.update(zip(batch, projected, strict=True))
    return [projections[number] for number in range(len(units))]


def _check_unit(network: Network, layer: str, channel: int, position: tuple[int, int]) -> tuple[int, int]:
    """Return the rows and columns of the layer's map; raises ProjectionError where it does not have the unit."""
    channels, rows, columns = network.layer(layer).units
    if not 0 <= channel < channels:
        raise ProjectionError(f"channel {channel} of layer {layer!r} given; expected 0 to {channels - 1}")
    y, x = position or (0, 0)
    if not (0 <= y < rows and 0 <= x < columns):
        raise ProjectionError(f"position {y},{x} of layer {layer!r} given; its map has {rows} x {columns} positions")
    return rows, columns


def _batches(numbers: list[int], units: Sequence[Unit], plan: WindowPlan, images: Tensor) -> Iterator[list[int]]:
    """Split the units of a layer so that the values of one batch fit in MEMORY; units of one image stay together."""
    size = max(1, min(256, MEMORY // (3 * plan.elements() * images.element_size())))
    ordered = sorted(numbers, key=lambda number: units[number][0])
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def _project_batch(
    network: Network, plan: WindowPlan, images: Tensor, units: Sequence[Unit], policy: Policy, seed: str
) -> list[Projection]:
    distinct = sorted({unit[0] for unit in units})
    device, everyone = images.device, torch.arange(len(units), device=images.device)
    index = torch.tensor([distinct.index(unit[0]) for unit in units], device=device)
    channels = torch.tensor([unit[2] for unit in units], device=device)
    positions = torch.tensor([unit[3] for unit in units], device=device)
    rows, columns = positions[:, 0], positions[:, 1]
    sweep = Sweep(network, plan, images[distinct], index, rows, columns)
    target, node = sweep.forward(), plan.steps[-1]
    maps = as_maps(node, target)
    if node in plan.windows:  # the window of the layer itself is the unit
        image_at, y, x = everyone, torch.zeros_like(rows), torch.zeros_like(columns)
    else:
        image_at, y, x = index, rows, columns
    values = maps[image_at, channels, y, x]
    start = maps.new_zeros(len(units), *maps.shape[1:])
    start[everyone, channels, y, x] = values if seed == "activation" else torch.ones_like(values)
    signal = sweep.back(as_value(node, start), policy)
    depth, height, width = network.input_shape
    linearised = tuple(sorted(sweep.linearised))
    return [
        Projection(*unit, policy.rule, value, Box(*box), pixels[inside].clone(), (depth, height, width), linearised)
        for unit, value, (box, inside), pixels in zip(units, values.tolist(), sweep.image_places(), signal, strict=True)
    ]
