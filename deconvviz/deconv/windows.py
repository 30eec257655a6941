"""Running a network on just the part of each value that one unit depends on, and sending a signal back through it.

`plan.make_plan` walks the graph backwards from a layer and notes for every value the interval of rows and columns
on which a unit at position (y, x) depends. Units of one layer have windows of one size, so they form batches. A value
is kept either as a whole, one for each distinct image, or as windows, one for each unit. A window may extend beyond the
border of its map. An op that reads beside its own position finds zero there, which is what the padding of a convolution
would be; max pooling reads minus infinity instead, and average pooling divides by its own count. So the value, the
switches and the projection of a unit are exact. An op that reads its own position alone, such as a rectifier, is left
to compute anything outside the map: nothing else is made of it.

Where many units share few images, their windows overlap, and running forward once over the whole images costs less than
over all windows (`whole`). The way back runs on windows all the same: those of the switches, and of values where a rule
reads them, are then cut out of the whole maps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from deconvviz.deconv import switches
from deconvviz.deconv.memory import EVERYTHING_STAYS, MemoryPlan
from deconvviz.deconv.places import Places, pixels_read
from deconvviz.deconv.plan import WindowPlan, descendants, stays, then
from deconvviz.deconv.rules import BackwardRule
from deconvviz.deconv.totals import kept_by, total_of
from deconvviz.errors import ProjectionError
from deconvviz.graph.computing import computing
from deconvviz.graph.network import Network
from deconvviz.graph.ops import Call, is_linear, op_name, op_of
from deconvviz.graph.reach import Reach, axes_of, data_inputs, edges, lengths, map_axes, shape_of


@dataclass
class Sweep:
    """One batch of units: forward over their windows, then a signal back to the image.

    Attributes:
        network: the network that runs.
        plan: which of its values are windows, and in which order they are computed.
        images: [M, C, H, W], the distinct images.
        places: where the N units are.
        whole: whether the forward pass runs on whole images.
        memory: where memory is used again; only of a plan without windows, for units that share no image.
        values: node -> its value, as windows [N, ...] or whole [M, ...].
        calls: node -> the call that computed its value, with the switches of max pooling.
        linearised: names of ops for which the vector-Jacobian product stands on the way back.
    """

    network: Network
    plan: WindowPlan
    images: Tensor
    places: Places
    whole: bool = False
    memory: MemoryPlan = EVERYTHING_STAYS
    values: dict[fx.Node, Tensor] = field(default_factory=dict)
    calls: dict[fx.Node, Call] = field(default_factory=dict)
    linearised: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._find_constants()

    def _find_constants(self) -> None:
        constants = {n for step in self.plan.steps for n in step.all_input_nodes if not n.meta["data"]}
        ordered = [n for n in self.network.graph.nodes if n in constants and n is not self.network.batch_size]
        self.constants = {
            count: {**self.network.run({}, ordered, count), self.network.batch_size: count}
            for count in {len(self.images), len(self.places.index)}
        }

    # --- forward ---

    def forward(self, windows: Tensor | None = None) -> Tensor:
        """Compute every value up to the layer and return the layer's: [N, ...] at the units, or [M, ...] whole.

        Args:
            windows: [N, C, h, w], what the units see, where it is not to be cut out of the images.
        """
        with computing(self.network.precision):
            for node in self.plan.steps:
                if node is self.network.image:
                    self.values[node] = self._image(node) if windows is None else windows
                elif node in self.windows:
                    self.values[node] = self._run_window(node)
                else:
                    call = self._call(node, [self.values[n] for n in data_inputs(node)], len(self.images))
                    call.out = (
                        torch.relu_(call.inputs[0]) if node in self.memory.overwriting else switches.execute(call)
                    )
                    self.values[node] = call.out
                    if self.memory.kept is None or node in self.memory.passed:
                        self.calls[node] = call
                    for spent in self.memory.release.get(node, ()):
                        del self.values[spent]
                    if self.places.shared and not self._holds_images(node):
                        self._give_each_unit_its_image()
                        return self.forward(windows)
        return self.values[self.plan.steps[-1]]

    @property
    def windows(self) -> dict[fx.Node, Reach]:
        """The windows on which the forward pass runs."""
        return {} if self.whole else self.plan.windows

    def _holds_images(self, node: fx.Node) -> bool:
        """Return whether the first dimension of a node's value, and no other, counts the images.

        It does not where heads of an attention stand before the images, or where windows of all images form one batch.
        """
        shape = shape_of(node)
        return shape[:1] == (-1,) and -1 not in shape[1:] and len(self.values[node]) == len(self.images)

    def _give_each_unit_its_image(self) -> None:
        """Begin again with one image for each unit, as values that do not count images first cannot be shared."""
        self.images = self.images[self.places.index]
        self.places, self.whole = self.places.each_its_image(), False
        self.values.clear()
        self.calls.clear()
        self._find_constants()

    def _image(self, node: fx.Node) -> Tensor:
        window = self.windows.get(node)
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
        # Calls know nothing of the sweep: two that hold each other keep their maps until Python looks for cycles
        window = None if size is None else self.plan.windows[node]
        call.inside = partial(pixels_read, node, self.network.image, window, self.places)
        return call

    def _run_window(self, node: fx.Node) -> Tensor:
        op = op_of(node)
        call = self._window_call(node)
        out = switches.execute(call)
        if op.counts:
            call.extra["counts"] = self._counts(node)
            out = out / call.extra["counts"]
        self.calls[node] = call
        call.out = out
        return out

    def _window_call(self, node: fx.Node, reads: bool = True) -> Call:
        """Return the call of a node on windows; its inputs have their shapes alone where nothing reads their values."""
        op, window = op_of(node), self.plan.windows[node]
        inputs = []
        for source, reach in edges(node):
            assert reach is not None
            needed = then(window, reach)
            if not reads:
                inputs.append(self.values[source].new_empty(self._window_shape(source, needed)))
                continue
            inputs.append(self._fetch(source, needed, None if stays(source, reach, node) else op.fill))
        return self._call(node, inputs, len(self.places.index), (window[0].size, window[1].size))

    def _window_shape(self, node: fx.Node, window: Reach) -> list[int]:
        shape, axes = [len(self.places.index), *self.values[node].shape[1:]], map_axes(node)
        for axis, interval in zip(axes, window, strict=True):
            shape[axis] = interval.size
        return shape

    def _fetch(self, source: fx.Node, window: Reach, fill: float | None) -> Tensor:
        """Return one input on the window that its reader needs, [N, ...]; `fill` is what it reads outside the map."""
        stored, value, axes = self.windows.get(source), self.values[source], map_axes(source)
        if stored is None:
            value = self.cut(value, source, window)
        else:
            for axis, stored_interval, interval in zip(axes, stored, window, strict=True):
                value = value.narrow(axis, interval.low - stored_interval.low, interval.size)
        zero_outside = stored is None or source is self.network.image
        return value if fill is None or (zero_outside and fill == 0) else self._filled(value, source, window, fill)

    def cut(self, value: Tensor, node: fx.Node, window: Reach) -> Tensor:
        """Cut the window of each unit out of whole maps [M, ...]; it is zero outside the map."""
        axes = map_axes(node)
        return self.places.cut(value, window, axes)

    def _filled(self, value: Tensor, node: fx.Node, window: Reach, fill: float) -> Tensor:
        """Return a value on windows that holds `fill` outside the map."""
        axes = map_axes(node)
        outside = self.places.outside(window, axes, value.dim(), lengths(node))
        return value if outside is None else value.masked_fill(outside, fill)

    def _counts(self, node: fx.Node) -> Tensor:
        """Return the divisor of average pooling at each position of the window of each unit, [N, 1, h, w]."""
        counts = op_of(node).counts
        assert counts is not None
        factors = []
        for numbers, covered in zip(counts(node), self.places.covered(self.plan.windows[node]), strict=True):
            table = torch.tensor(numbers, dtype=self.images.dtype, device=self.images.device).clamp(min=1)
            factors.append(table[covered.clamp(0, len(numbers) - 1)])
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
        image = self.network.image
        signals = self.signals_at([image], {self.plan.steps[-1]: seed}, policy)
        if image not in signals:
            return self.images.new_zeros(len(self.places.index), *self.images.shape[1:])
        window = self.plan.windows.get(image)
        return self._filled(signals[image], image, window, 0.0) if window else signals[image]

    def signals_at(
        self,
        nodes: Sequence[fx.Node],
        seeds: Mapping[fx.Node, Tensor],
        policy: BackwardRule,
        taken: dict[fx.Node, Tensor] | None = None,
    ) -> dict[fx.Node, Tensor]:
        """Send signals back to some values, and no further than to the first of them.

        Args:
            nodes: among the plan's steps.
            seeds: node -> the signal that starts at it.
            policy: what each kind of op does to the signal.
            taken: where given, it gets for each op that was passed what the op kept for itself of each image's signal,
                float64 [N]: the sum at its output minus the sums at its inputs. Only of a plan without windows.

        Returns:
            node -> the signal that arrives at it; a node that no signal reaches is absent.
        """
        signals, passed = dict(seeds), descendants(nodes, self.plan.steps)
        totals = None if taken is None else {node: total_of(seed) for node, seed in seeds.items()}
        arrived: dict[fx.Node, Tensor] = {}
        with computing(self.network.precision):
            for node in reversed(self.plan.steps):
                if node in nodes and node in signals:
                    arrived[node] = signals[node]
                if node in passed and node in signals:
                    signal = signals.pop(node)
                    parts = self._step_back(node, signal, policy, signals)
                    if self.memory.kept is not None:  # the signal comes no second time
                        del self.calls[node]
                        if node not in self.memory.kept:
                            del self.values[node]
                    if taken is not None and totals is not None:
                        taken[node] = kept_by(node, signal, parts, totals)
        return arrived

    def _step_back(
        self,
        node: fx.Node,
        signal: Tensor,
        policy: BackwardRule,
        signals: dict[fx.Node, Tensor],
    ) -> Sequence[Tensor | None]:
        """Send the signal of one op back to its inputs, add it to what is there, and return it, input by input."""
        window = self.plan.windows.get(node)
        call = self._window_of_call(node, policy) if window else self._expanded(node, policy)
        if window:
            if not all(stays(source, reach, node) for source, reach in edges(node)):
                signal = self._filled(signal, node, window, 0.0)
            if "counts" in call.extra:
                signal = signal / call.extra["counts"]
        if not is_linear(node):
            self.linearised.add(op_name(node))
        parts = self._transposed(call, signal, policy)
        for (source, reach), part in zip(edges(node), parts, strict=True):
            if part is not None:
                placed = self._placed(part, source, then(window, reach) if window and reach else None)
                signals[source] = signals[source] + placed if source in signals else placed
        return parts

    def _window_of_call(self, node: fx.Node, policy: BackwardRule) -> Call:
        """Return the call of a node on windows; after a forward pass over whole images, they are cut out here."""
        if node in self.windows:
            return self.calls[node]
        reads, op, window = policy.reads_values(node), op_of(node), self.plan.windows[node]
        call = self._window_call(node, reads)
        if op.counts:
            call.extra["counts"] = self._counts(node)
        if "switches" in self.calls[node].extra:
            call.extra["switches"] = self._window_of_switches(node)
        axes = map_axes(node)
        call.later = partial(self.places.cut, self.values[node], window, axes)  # many rules do not look at it
        return call

    def _window_of_switches(self, node: fx.Node) -> Tensor:
        """Return the switches of max pooling on windows: positions in the window that was pooled, not in its map."""
        source, window = data_inputs(node)[0], self.plan.windows[node]
        needed = then(window, node.meta["geometry"].reach[0])
        width, (rows, columns) = lengths(source)[1], self.places.starts(needed)
        switches = self.cut(self.calls[node].extra["switches"], node, window)
        row = torch.div(switches, width, rounding_mode="floor")
        column = switches - row * width - columns[:, None, None, None]
        places = (row - rows[:, None, None, None]) * needed[1].size + column
        return places.clamp_(0, needed[0].size * needed[1].size - 1)  # outside of the map, where the signal is zero

    def pixels(self) -> Tensor:
        """Return the images as the units see them: [N, C, h, w] on the windows, or whole."""
        image = self.network.image
        if image in self.windows:
            return self.values[image]
        window = self.plan.windows.get(image)
        return self.images[self.places.index] if window is None else self.cut(self.images, image, window)

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
        if not self.places.shared:
            return call
        index = self.places.index
        if policy.reads_values(node):
            inputs = [value[index] for value in call.inputs]
        else:  # only their shapes count
            inputs = [value[:1].expand(len(index), *value.shape[1:]) for value in call.inputs]
        twin = self._call(node, inputs, len(index))
        twin.extra = {key: value[index] for key, value in call.extra.items()}
        twin.later = partial(_rows_of, call, index)  # many rules do not look at it
        return twin

    def _placed(self, part: Tensor, source: fx.Node, window: Reach | None) -> Tensor:
        """Bring a signal from the window that its reader fetched into the shape in which the value is kept."""
        stored, axes = self.plan.windows.get(source), axes_of(source)
        if window is None or axes is None or (stored is None and all(i.jump == 0 for i in window)):
            return part
        if stored is None:
            return self.places.put(part, window, axes, lengths(source))
        if stored == window:
            return part
        out = part.new_zeros(self._window_shape(source, stored))
        view = out
        for axis, stored_interval, interval in zip(axes, stored, window, strict=True):
            view = view.narrow(axis, interval.low - stored_interval.low, interval.size)
        view.copy_(part)
        return out


def _rows_of(call: Call, index: Tensor) -> Tensor:
    """Return some rows of the value of a call."""
    return call.value()[index]
