"""Projections: a unit's activation, carried back to the pixels that caused it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deconvviz.arrays import pictures_of
from deconvviz.deconv.averages import averaged
from deconvviz.deconv.plan import WindowPlan, make_plan
from deconvviz.deconv.projection import Projection, SignalOptions, Unit
from deconvviz.deconv.rules import WAYS, Descent
from deconvviz.deconv.windows import Sweep
from deconvviz.errors import ProjectionError, require_choice
from deconvviz.graph.evaluating import differentiable, outside_inference_mode
from deconvviz.graph.layers import as_maps, as_value
from deconvviz.graph.network import Network
from deconvviz.types import Box

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deconvviz.deconv.projection import SignalKeywords


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
        rule: one of `choices.RULES`; see `rules`.
        signal: the fields of `SignalOptions`, such as `seed` or `shifts`.

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
        rule: one of `choices.RULES`; see `rules`.
        signal: the fields of `SignalOptions`, such as `seed` or `shifts`.

    Returns:
        One projection a unit, in the order of `units`.

    Raises:
        LayerNotFound, CaptureError, ProjectionError: as `project`; a ProjectionError also where a unit's image is not
            among `images`.

    Source: Zeiler and Fergus 2013, section 2.1; the windows are this package's.
    """
    projections = project_by_rules(network, images, units, [rule], **signal)[rule]
    pictures = pictures_of(images)
    return [replace(projection, picture=pictures[projection.image]) for projection in projections]


@outside_inference_mode()
def project_by_rules(
    network: Network,
    images: Tensor,
    units: Sequence[Unit],
    rules: Sequence[str],
    **signal: Unpack[SignalKeywords],
) -> dict[str, list[Projection]]:
    """Project many units by several rules; the rules share the forward pass where they run on the same network.

    Arguments and errors are those of `project_units`; `rules` are names of `choices.RULES`.

    Returns:
        rule -> one projection a unit, in the order of `units`.
    """
    options, images = SignalOptions(**signal), differentiable(network.checked(images))
    for rule in rules:
        require_choice("rule", rule, tuple(WAYS), ProjectionError)
    for image, layer, channel, position in units:
        if not 0 <= image < len(images):
            raise ProjectionError(f"image {image} given; expected 0 to {len(images) - 1}")
        _check_unit(network, layer, channel, position)
    if not options.averages:
        return _projected(network, images, units, rules, options)
    once = replace(options, shifts=1, noise=0.0)
    return averaged(
        network, images, units, options, lambda changed, moved: _projected(network, changed, moved, rules, once)
    )


def _projected(
    network: Network, images: Tensor, units: Sequence[Unit], rules: Sequence[str], options: SignalOptions
) -> dict[str, list[Projection]]:
    """Project units, layer by layer and batch by batch."""
    numbers_by_layer: dict[str, list[int]] = {}
    for number, unit in enumerate(units):
        numbers_by_layer.setdefault(unit[1], []).append(number)
    projections: dict[str, dict[int, Projection]] = {rule: {} for rule in rules}
    with torch.no_grad():
        for (layer, numbers), folded in product(numbers_by_layer.items(), (False, True)):
            chosen = [rule for rule in rules if WAYS[rule].folded == folded]
            if not chosen:
                continue
            runs = network.without_norms([layer]) if folded else network
            given = images.contiguous(memory_format=runs.memory_format) if folded else images
            # "last" lets a window that the unit does not depend on overwrite with zero: only the whole map knows
            plan = make_plan(runs, layer, options.windowed and options.overlap == "sum")
            for batch in _batches(numbers, units, plan, given):
                by_rule = _project_batch(runs, plan, given, [units[number] for number in batch], chosen, options)
                for rule, projected in by_rule.items():
                    projections[rule].update(zip(batch, projected, strict=True))
    return {rule: [by_number[number] for number in range(len(units))] for rule, by_number in projections.items()}


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
    """Split the units of a layer so that the values of one batch fit in memory; units of one image stay together."""
    size = plan.units_at_once(3, images.element_size())
    ordered = sorted(numbers, key=lambda number: units[number][0])
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def _project_batch(
    network: Network,
    plan: WindowPlan,
    images: Tensor,
    units: Sequence[Unit],
    rules: Sequence[str],
    options: SignalOptions,
) -> dict[str, list[Projection]]:
    """Project a batch of units of one layer by several rules, from one forward pass."""
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
        image_at, y, x = sweep.index, rows, columns
    values = maps[image_at, channels, y, x]
    start = maps.new_zeros(len(units), *maps.shape[1:])
    start[everyone, channels, y, x] = values if options.seed == "activation" else torch.ones_like(values)
    seed, floats = as_value(node, start), values.tolist()
    return {rule: _sent_back(sweep, seed, units, floats, rule, options) for rule in rules}


def _sent_back(
    sweep: Sweep, seed: Tensor, units: Sequence[Unit], values: Sequence[float], rule: str, options: SignalOptions
) -> list[Projection]:
    """Send the signal of a batch of units back by one rule."""
    way = WAYS[rule]
    descent = Descent(overlap=options.overlap, lrn=options.lrn, bounds=options.bounds, steps=sweep.plan.steps)
    sweep.linearised.clear()
    signal = sweep.back(seed, way.policy(descent))
    if way.times_input:
        signal = signal * sweep.pixels()
    linearised = tuple(sorted(sweep.linearised))
    depth, height, width = sweep.network.input_shape
    return [
        Projection(*unit, rule, value, Box(*box), pixels[inside].clone(), (depth, height, width), linearised)
        for unit, value, (box, inside), pixels in zip(units, values, sweep.image_places(), signal, strict=True)
    ]
