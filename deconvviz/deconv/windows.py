"""Running a network on just the part of each value that one unit depends on, and sending a signal back through it.

`plan.make_plan` walks the graph backwards from a layer and notes for every value the interval of rows and columns
on which a unit at position (y, x) depends. Units of one layer have windows of one size, so they form batches. A value
is kept either as a whole, one for each distinct image, or as windows, one for each unit. A window may extend beyond the
border of its map. Positions outside hold zero there, which is what the padding of a convolution would be; max pooling
reads minus infinity instead, and average pooling divides by its own count. So the value, the switches and the
projection of a unit are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from deconvviz.deconv import switches
from deconvviz.deconv.plan import WindowPlan, then
from deconvviz.deconv.rules import BackwardRule
from deconvviz.errors import ProjectionError
from deconvviz.graph.network import Network
from deconvviz.graph.ops import Call, is_linear, op_name, op_of
from deconvviz.graph.reach import Geometry, Interval, Reach, axes_of, data_inputs, lengths, shape_of


@dataclass
class Sweep:
    """One batch of units: forward over their windows, then a signal back to the image.

    Attributes:
        network: the network that runs.
        plan: which of its values are windows, and in which order they are computed.
        images: [M, C, H, W], the distinct images.
        index: int64 [N], the image of each unit.
        rows: int64 [N], the row of each unit on the layer's map.
        columns: int64 [N], the column of each unit on the layer's map.
        values: node -> its value, as windows [N, ...] or whole [M, ...].
        calls: node -> the call that computed its value, with the switches of max pooling.
        linearised: names of ops for which the vector-Jacobian product stands on the way back.
    """

    network: Network
    plan: WindowPlan
    images: Tensor
    index: Tensor
    rows: Tensor
    columns: Tensor
    values: dict[fx.Node, Tensor] = field(default_factory=dict)
    calls: dict[fx.Node, Call] = field(default_factory=dict)
    linearised: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.shared = not torch.equal(self.index, torch.arange(len(self.images), device=self.index.device))
        self._find_constants()

    def _find_constants(self) -> None:
        constants = {n for step in self.plan.steps for n in step.all_input_nodes if not n.meta["data"]}
        ordered = [n for n in self.network.graph.nodes if n in constants and n is not self.network.batch_size]
        self.constants = {
            count: {**self.network.run({}, ordered, count), self.network.batch_size: count}
            for count in {len(self.images), len(self.index)}
        }

    # --- forward ---

    def forward(self, windows: Tensor | None = None) -> Tensor:
        """Compute every value up to the layer and return the layer's: [N, ...] at the units, or [M, ...] whole.

        Args:
            windows: [N, C, h, w], what the units see, where it is not to be cut out of the images.
        """
        for node in self.plan.steps:
            if node is self.network.image:
                self.values[node] = self._image(node) if windows is None else windows
            elif node in self.plan.windows:
                self.values[node] = self._run_window(node)
            else:
                call = self._call(node, [self.values[n] for n in data_inputs(node)], len(self.images))
                self.values[node] = call.out = _execute(call)
                self.calls[node] = call
                if self.shared and not self._holds_images(node):
                    self._give_each_unit_its_image()
                    return self.forward(windows)
        return self.values[self.plan.steps[-1]]

    def _holds_images(self, node: fx.Node) -> bool:
        """Return whether the first dimension of a node's value, and no other, counts the images.

        It does not where heads of an attention stand before the images, or where windows of all images form one batch.
        """
        shape = shape_of(node)
        return shape[:1] == (-1,) and -1 not in shape[1:] and len(self.values[node]) == len(self.images)

    def _give_each_unit_its_image(self) -> None:
        """Begin again with one image for each unit, as values that do not count images first cannot be shared."""
        self.images = self.images[self.index]
        self.index, self.shared = torch.arange(len(self.images), device=self.index.device), False
        self.values.clear()
        self.calls.clear()
        self._find_constants()

    def _image(self, node: fx.Node) -> Tensor:
        window = self.plan.windows.get(node)
        return self.images if window is None else self.cut(self.images, node, window)

    def _call(self, node: fx.Node, inputs: Sequence[Tensor], batch: int, size: tuple[int, int] | None = None) -> Call:
        """Bind the arguments of a node; `size` is that of its output window, whose inputs bring their own padding."""
        supply = iter(inputs)
        constants = self.constants[batch]

        def bound(source: fx.Node) -> Any:
            return next(supply) if source.meta["data"] else constants[source]

        args, kwargs = self.network.on_its_device(*fx.node.map_arg((node.args, node.kwargs), bound))
        on_window = op_of(node).on_window
        if size and on_window:
            args = on_window(node, args, size)
        call = Call(node.target, args, kwargs, list(inputs), node)  # type: ignore[arg-type]
        call.inside = partial(self._inside, node, size is not None)
        return call

    def _run_window(self, node: fx.Node) -> Tensor:
        op, window = op_of(node), self.plan.windows[node]
        geometry: Geometry = node.meta["geometry"]
        inputs = []
        for source, reach in zip(data_inputs(node), geometry.reach, strict=True):
            assert reach is not None
            value = self._fetch(source, then(window, reach))
            if op.fill:
                value = self._filled(value, source, then(window, reach), op.fill)
            inputs.append(value)
        call = self._call(node, inputs, len(self.index), (window[0].size, window[1].size))
        out = _execute(call)
        if op.counts:
            call.extra["counts"] = self._counts(node)
            out = out / call.extra["counts"]
        self.calls[node] = call
        call.out = self._filled(out, node, window, 0.0)
        return call.out

    def _fetch(self, source: fx.Node, window: Reach) -> Tensor:
        """Return one input on the window that its reader needs, [N, ...]."""
        stored = self.plan.windows.get(source)
        if stored is None:
            return self.cut(self.values[source], source, window)
        value, axes = self.values[source], axes_of(source)
        assert axes is not None
        for axis, stored_interval, interval in zip(axes, stored, window, strict=True):
            value = value.narrow(axis, interval.low - stored_interval.low, interval.size)
        return value

    def _places(self, node: fx.Node, window: Reach) -> list[tuple[tuple[Any, ...], tuple[Any, ...]]]:
        """Return for each unit the index of its window in the whole map, and of that part within the window."""
        axes, sizes = axes_of(node), lengths(node)
        assert axes is not None
        places = []
        for position in zip(self.rows.tolist(), self.columns.tolist(), strict=True):
            outer: list[Any] = [slice(None)] * (len(shape_of(node)) - 1)
            inner = list(outer)
            for axis, interval, at, length in zip(axes, window, position, sizes, strict=True):
                low = interval.low + at * interval.jump
                first, last = min(max(low, 0), length), max(min(low + interval.size, length), 0)
                outer[axis - 1], inner[axis - 1] = slice(first, last), slice(first - low, last - low)
            places.append((tuple(outer), tuple(inner)))
        return places

    def cut(self, value: Tensor, node: fx.Node, window: Reach) -> Tensor:
        """Cut the window of each unit out of whole maps [M, ...]; it is zero outside the map."""
        axes = axes_of(node)
        assert axes is not None
        shape = [len(self.index), *value.shape[1:]]
        if all(interval.jump == 0 for interval in window):  # a broadcast operand: the same single position for all
            return value[self.index] if self.shared else value
        shape[axes[0]], shape[axes[1]] = window[0].size, window[1].size
        out = value.new_zeros(shape)
        for n, (image, (outer, inner)) in enumerate(zip(self.index.tolist(), self._places(node, window), strict=True)):
            out[n][inner] = value[image][outer]
        return out

    def outside(self, node: fx.Node, window: Reach) -> Tensor | None:
        """Return a mask, true outside the map, that broadcasts over the window; None where nothing is outside."""
        axes, masks = axes_of(node), []
        assert axes is not None
        for axis, interval, at, length in zip(axes, window, (self.rows, self.columns), lengths(node), strict=True):
            index = _indices(interval, at)
            outside = (index < 0) | (index >= length)
            if outside.any():
                shape = [1] * len(shape_of(node))
                shape[0], shape[axis] = outside.shape
                masks.append(outside.reshape(shape))
        return None if not masks else masks[0] if len(masks) == 1 else masks[0] | masks[1]

    def _filled(self, value: Tensor, node: fx.Node, window: Reach, fill: float) -> Tensor:
        outside = self.outside(node, window)
        return value if outside is None else value.masked_fill(outside, fill)

    def _inside(self, node: fx.Node, windowed: bool) -> Tensor | None:
        """Return which positions of an op's input are pixels, bool [N, 1, h, w] or [1, 1, h, w]; None where all are.

        The op reads the image, perhaps with borders of zeros around it; a window may reach beyond the image as well.
        """
        source = border = data_inputs(node)[0]
        window = then(self.plan.windows[node], node.meta["geometry"].reach[0]) if windowed else None
        shifts = [0, 0]
        while border is not self.network.image:
            reach = border.meta["geometry"].reach[0]
            if reach is None:  # a border of reflected pixels is made of pixels
                break
            shifts = [shift + interval.low for shift, interval in zip(shifts, reach, strict=True)]
            border = data_inputs(border)[0]
        if window is None and source is border:
            return None
        masks = []
        for axis, at in enumerate((self.rows, self.columns)):
            whole = torch.arange(lengths(source)[axis], device=at.device)[None]
            places = shifts[axis] + (whole if window is None else _indices(window[axis], at))
            masks.append((places >= 0) & (places < lengths(border)[axis]))
        return masks[0][:, None, :, None] & masks[1][:, None, None, :]

    def _counts(self, node: fx.Node) -> Tensor:
        """Return the divisor of average pooling at each position of the window of each unit, [N, 1, h, w]."""
        counts = op_of(node).counts
        assert counts is not None
        factors = []
        for numbers, interval, at in zip(counts(node), self.plan.windows[node], (self.rows, self.columns), strict=True):
            table = torch.tensor(numbers, dtype=self.images.dtype, device=self.images.device).clamp(min=1)
            factors.append(table[_indices(interval, at).clamp(0, len(numbers) - 1)])
        return (factors[0][:, :, None] * factors[1][:, None, :])[:, None]

    # --- back ---

    def back(self, seed: Tensor, policy: BackwardRule) -> Tensor:
        """Send a signal [N, ...] from the layer back to the image.

        Args:
            seed: the signal at the layer, on its window or whole.
            policy: what each kind of op does to the signal.

        Returns:
            The signal at the image, [N, C, h, w] on the window of each unit, or [N, C, H, W] whole.

        Raises:
            ProjectionError: an op on the way has no transpose.
        """
        target = self.plan.steps[-1]
        signals = {target: seed}
        for node in reversed(self.plan.steps[1:]):
            signal = signals.pop(node, None)
            if signal is None:
                continue
            window = self.plan.windows.get(node)
            call = self.calls[node] if window else self._expanded(node, policy)
            if window:
                signal = self._filled(signal, node, window, 0.0)
                if "counts" in call.extra:
                    signal = signal / call.extra["counts"]
            if not is_linear(node):
                self.linearised.add(op_name(node))
            for (source, reach), part in zip(_edges(node), self._transposed(call, signal, policy), strict=True):
                if part is not None:
                    placed = self._placed(part, source, then(window, reach) if window and reach else None)
                    signals[source] = signals[source] + placed if source in signals else placed
        image = self.network.image
        if image not in signals:
            return self.images.new_zeros(len(self.index), *self.images.shape[1:])
        window = self.plan.windows.get(image)
        return self._filled(signals[image], image, window, 0.0) if window else signals[image]

    def pixels(self) -> Tensor:
        """Return the images as the units see them: [N, C, h, w] on the windows, or whole."""
        image = self.network.image
        return self.values[image] if image in self.plan.windows else self.images[self.index]

    def image_places(self) -> list[tuple[tuple[int, int, int, int], tuple[Any, ...]]]:
        """Return for each unit the box of pixels that it depends on, and where its signal holds them."""
        image = self.network.image
        window = self.plan.windows.get(image)
        if window is None:
            height, width = lengths(image)
            return [((0, 0, height, width), ())] * len(self.index)
        return [
            ((rows.start, columns.start, rows.stop, columns.stop), inner)
            for (_, rows, columns), inner in self._places(image, window)
        ]

    def _transposed(self, call: Call, signal: Tensor, policy: BackwardRule) -> Sequence[Tensor | None]:
        try:
            return policy.transpose(call, signal)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            modules = call.node.meta["modules"]
            where = f"in layer {modules[-1][0]!r}" if modules and modules[-1][0] else f"({call.node.name})"
            raise ProjectionError(
                f"op {op_name(call.node)!r} {where} has no transpose: {str(error).splitlines()[0]}; "
                "choose a layer before it"
            ) from error

    def _expanded(self, node: fx.Node, policy: BackwardRule) -> Call:
        """Return a call on whole maps, one for each unit: several units may share the forward pass of an image."""
        call = self.calls[node]
        if not self.shared:
            return call
        if policy.reads_values(node):
            inputs = [value[self.index] for value in call.inputs]
        else:  # only their shapes count
            inputs = [value[:1].expand(len(self.index), *value.shape[1:]) for value in call.inputs]
        twin = self._call(node, inputs, len(self.index))
        twin.extra = {key: value[self.index] for key, value in call.extra.items()}
        twin.out = call.value()[self.index] if policy.reads_values(node) else None
        return twin

    def _placed(self, part: Tensor, source: fx.Node, window: Reach | None) -> Tensor:
        """Bring a signal from the window that its reader fetched into the shape in which the value is kept."""
        stored, axes = self.plan.windows.get(source), axes_of(source)
        if window is None or axes is None or (stored is None and all(i.jump == 0 for i in window)):
            return part
        if stored is None:
            out = part.new_zeros(len(self.index), *self.values[source].shape[1:])
            for n, (outer, inner) in enumerate(self._places(source, window)):
                out[n][outer] = part[n][inner]
            return out
        if stored == window:
            return part
        out = part.new_zeros(len(self.index), *self.values[source].shape[1:])
        view = out
        for axis, stored_interval, interval in zip(axes, stored, window, strict=True):
            view = view.narrow(axis, interval.low - stored_interval.low, interval.size)
        view.copy_(part)
        return out


def _edges(node: fx.Node) -> list[tuple[fx.Node, Reach | None]]:
    geometry: Geometry = node.meta["geometry"]
    return list(zip(data_inputs(node), geometry.reach, strict=True))


def _execute(call: Call) -> Tensor:
    """Run a call; max pooling records its switches."""
    if op_of(call.node).kind == "max_pool":
        out, call.extra["switches"] = switches.pool(*call.args)
        return out
    result: Tensor = call.run()
    return result


def _indices(interval: Interval, at: Tensor) -> Tensor:
    """Return the map positions that the interval of each unit covers, [N, size]; some may lie outside the map."""
    return interval.low + at[:, None] * interval.jump + torch.arange(interval.size, device=at.device)
