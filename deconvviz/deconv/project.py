"""Projections: a unit's activation, carried back to the pixels that caused it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deconvviz.deconv.averages import averaged
from deconvviz.deconv.batches import batches
from deconvviz.deconv.places import Places
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

Signal = tuple[Sequence[Tensor], tuple[str, ...]]  # pixels of each unit [C, h, w], and the ops that were linearised


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
        rule: one of `choices.RULES`; see `rules`. The default is the paper's; the command `project` measures by default
            which rule shows the layer best (`--rule auto`).
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
    checked_images = network.checked(images).detach()
    return [replace(projection, seen=checked_images[projection.image]) for projection in projections]


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
        for numbers, folded in product(numbers_by_layer.values(), (False, True)):
            rules_together = [rule for rule in rules if WAYS[rule].folded == folded]
            if rules_together:
                by_rule = _of_layer(network, images, units, numbers, rules_together, options)
                for rule, projected in by_rule.items():
                    projections[rule].update(projected)
    return {rule: [by_number[number] for number in range(len(units))] for rule, by_number in projections.items()}


def _of_layer(
    network: Network,
    images: Tensor,
    units: Sequence[Unit],
    numbers: Sequence[int],
    rules: Sequence[str],
    options: SignalOptions,
) -> dict[str, dict[int, Projection]]:
    """Project the units of one layer by rules that run on the same network: rule -> number of a unit -> projection.

    Activations come from the device once, after the last batch.
    """
    layer, folded = units[numbers[0]][1], WAYS[rules[0]].folded
    runs = (network.without_norms([layer]) if folded else network).in_precision(options.precision)
    inputs = runs.checked(images).to(memory_format=runs.memory_format)
    # "last" lets a window that the unit does not depend on overwrite with zero: only the whole map knows
    plan = make_plan(runs, layer, options.windowed and options.overlap == "sum")
    done: list[tuple[list[int], Tensor, dict[str, Signal]]] = []
    for batch, whole in batches(numbers, units, plan, inputs.element_size(), inputs.device):
        done.append((batch, *_project_batch(runs, plan, inputs, [units[n] for n in batch], rules, options, whole)))
    values = torch.cat([activations for _, activations, _ in done]).tolist()
    projections: dict[str, dict[int, Projection]] = {rule: {} for rule in rules}
    start, shape = 0, network.input_shape
    for batch, _, signals in done:
        for rule, (pixels, linearised) in signals.items():
            boxes = _boxes(plan, runs, [units[number] for number in batch])
            projections[rule] |= {
                number: _projection(units[number], rule, values[start + n], boxes[n], pixels[n], shape, linearised)
                for n, number in enumerate(batch)
            }
        start += len(batch)
    return projections


def _boxes(plan: WindowPlan, network: Network, units: Sequence[Unit]) -> list[tuple[Box, Box]]:
    """Return for each unit the pixels that it depends on, and where its signal holds them."""
    height, width = network.input_shape[1:]
    window = plan.windows.get(network.image)
    if window is None:
        return [(Box(0, 0, height, width),) * 2] * len(units)
    (rows, columns), boxes = window, []
    for _, _, _, (y, x) in units:
        top, left = rows.low + y * rows.jump, columns.low + x * columns.jump
        inside = (min(max(top, 0), height), min(max(left, 0), width))
        end = (max(min(top + rows.size, height), 0), max(min(left + columns.size, width), 0))
        box = Box(*inside, *end)
        boxes.append((box, Box(box.top - top, box.left - left, box.bottom - top, box.right - left)))
    return boxes


def _projection(
    unit: Unit,
    rule: str,
    value: float,
    boxes: tuple[Box, Box],
    pixels: Tensor,
    shape: tuple[int, ...],
    linearised: tuple[str, ...],
) -> Projection:
    box, (top, left, bottom, right) = boxes
    if pixels.shape[1:] != (bottom - top, right - left):  # the window reaches beyond the image
        pixels = pixels[:, top:bottom, left:right].clone()
    depth, height, width = shape
    return Projection(*unit, rule, value, box, pixels, (depth, height, width), linearised)


def _check_unit(network: Network, layer: str, channel: int, position: tuple[int, int]) -> tuple[int, int]:
    """Return the rows and columns of the layer's map; raises ProjectionError where it does not have the unit."""
    channels, rows, columns = network.layer(layer).units
    if not 0 <= channel < channels:
        raise ProjectionError(f"channel {channel} of layer {layer!r} given; expected 0 to {channels - 1}")
    y, x = position or (0, 0)
    if not (0 <= y < rows and 0 <= x < columns):
        raise ProjectionError(f"position {y},{x} of layer {layer!r} given; its map has {rows} x {columns} positions")
    return rows, columns


def _project_batch(
    network: Network,
    plan: WindowPlan,
    images: Tensor,
    units: Sequence[Unit],
    rules: Sequence[str],
    options: SignalOptions,
    whole: bool,
) -> tuple[Tensor, dict[str, Signal]]:
    """Project a batch of units of one layer by several rules, from one forward pass; nothing waits for the device.

    Returns:
        The activations [N], and rule -> `Signal`.
    """
    distinct = sorted({unit[0] for unit in units})
    at = {image: n for n, image in enumerate(distinct)}
    places = Places.of([at[unit[0]] for unit in units], [unit[3] for unit in units], images.device)
    of_batch = torch.tensor([[unit[2] for unit in units], range(len(units))]).to(images.device)
    channels, everyone = of_batch.unbind()
    distinct_images = images if len(distinct) == len(images) else images[torch.tensor(distinct).to(images.device)]
    sweep = Sweep(network, plan, distinct_images, places, whole)
    target, node = sweep.forward(), plan.steps[-1]
    maps, y, x = as_maps(node, target), places.rows, places.columns
    on_window = node in sweep.windows  # the window of the layer itself is the unit
    zero = torch.zeros_like(y)
    values = maps[everyone, channels, zero, zero] if on_window else maps[sweep.places.index, channels, y, x]
    if node in plan.windows:
        start, y, x = maps.new_zeros(len(units), maps.shape[1], 1, 1), zero, zero
    else:
        start = maps.new_zeros(len(units), *maps.shape[1:])
    start[everyone, channels, y, x] = values if options.seed == "activation" else torch.ones_like(values)
    seed = as_value(node, start)
    # A unit of zero starts with no activation; a seed of one would start there too. A GPU is not asked: it would wait
    proportional = options.seed == "activation" or (values.device.type == "cpu" and bool((values != 0).all()))
    return values, {rule: _sent_back(sweep, seed, rule, options, proportional) for rule in rules}


def _sent_back(sweep: Sweep, seed: Tensor, rule: str, options: SignalOptions, proportional: bool) -> Signal:
    """Send the signal of a batch of units back by one rule; `proportional` as in `Descent`."""
    way = WAYS[rule]
    descent = Descent(
        overlap=options.overlap,
        lrn=options.lrn,
        bounds=options.bounds,
        steps=sweep.plan.steps,
        proportional=proportional,
    )
    sweep.linearised.clear()
    signal = sweep.back(seed, way.policy(descent))
    if way.times_input:
        signal = signal * sweep.pixels()
    exact = signal if options.precision in ("fp32", "fp64") else signal.float()
    return _copies(exact), tuple(sorted(sweep.linearised))


def _copies(signal: Tensor) -> Sequence[Tensor]:
    """Return each unit's part of a batch in memory of its own, which a caller may keep without the others."""
    copies: Sequence[Tensor] = torch.ops.aten.unbind_copy.int(signal)
    return copies
