"""Network: a captured graph that runs to a layer and no further, or from a layer on."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from deconvviz.choices import OUTPUTS
from deconvviz.errors import CaptureError, LayerNotFound, nearest, require_choice
from deconvviz.graph import layers as tables
from deconvviz.graph.digest import fingerprint
from deconvviz.graph.fast import DTYPES, accelerated, in_channels_last, with_folded_norms
from deconvviz.graph.inputs import check_shape, checked_images
from deconvviz.graph.layers import Layer
from deconvviz.graph.program import Program, Values
from deconvviz.graph.scores import WithScores
from deconvviz.graph.steps import crossing

Reduced = TypeVar("Reduced")


class Network(Program, WithScores):
    """What a model computes, as a graph of ops. `capture` makes it.

    Attributes:
        name: the class of the model.
        graph: the torch.fx graph in plain form.
        tensors: weights, buffers and constants by name, shared with the captured model.
        input_shape: shape of one image, (channels, height, width).
        layers: ordered mapping from the name of a layer to its `Layer`.
        parameters: name of a module -> number of its parameters; "" is the whole model.
        image: the node that holds the images.
        precision: "as captured" or one of `choices.PRECISIONS`. Float32 is computed in TF32 for "tf32" only.
        folded: layers that `fast` folded into another one -> the name of that one.
    """

    def __init__(
        self,
        graph: fx.Graph,
        tensors: dict[str, Tensor],
        input_shape: tuple[int, ...],
        parameters: Mapping[str, int],
        out_spec: Any,
        name: str,
    ) -> None:
        super().__init__(graph, tensors)
        self.input_shape, self.name = input_shape, name
        self.parameters, self.out_spec = dict(parameters), out_spec
        self.output = next(n for n in graph.nodes if n.op == "output")
        self.memory_format = torch.preserve_format
        self.folded: dict[str, str] = {}
        self.outputs_are = "auto"
        self.example: Any = None
        self.module_names: Mapping[nn.Module, str] = {}
        tables.annotate(graph, self.image)
        self.layers: Mapping[str, Layer] = tables.layer_table(graph, input_shape, parameters)
        self._forms: dict[str | tuple[str, ...], tuple[int, Network]] = {}
        self._bypasses: dict[tuple[fx.Node, tuple[fx.Node, ...]], list[fx.Node]] = {}

    # --- running ---

    def __call__(self, x: Tensor) -> Any:
        """Return what the model returns for images x [N, *input_shape]."""
        outputs = self.output_nodes()
        values = self.run({self.image: self.checked(x)}, outputs, x.shape[0])
        return self.packed(values)

    def activations(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Return the values of `layers` for images x; no op past the deepest of them runs.

        Args:
            x: [N, *input_shape], on the network's device and of its dtype.
            layers: names from `self.layers`.

        Returns:
            name -> Tensor [N, *layer.shape]: what the module returned, before any later in-place op.

        Raises:
            LayerNotFound: a name in `layers` does not exist; the message lists the nearest ones.
            CaptureError: x has another shape, dtype or device than the network.

        >>> import deconvviz as dv
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
        >>> dv.capture(model, (3, 8, 8)).activations(torch.zeros(2, 3, 8, 8), ["1"])["1"].shape
        torch.Size([2, 4, 6, 6])
        """
        nodes = {name: self.layer(name).node for name in layers}
        values = self.run({self.image: self.checked(x)}, list(nodes.values()), x.shape[0])
        return {name: values[node] for name, node in nodes.items()}

    def reduced(self, x: Tensor, layers: Sequence[str], reduce: Callable[[str, Tensor], Reduced]) -> dict[str, Reduced]:
        """Return what a function makes of the values of `layers`, each as soon as it is computed.

        A value that no later op needs is released then: this takes less memory than `activations`, and less time where
        the function finds the value in the processor's cache.

        Args:
            x: [N, *input_shape], on the network's device and of its dtype.
            layers: names from `self.layers`.
            reduce: of the name of a layer and its value [N, *layer.shape].

        Returns:
            name -> what `reduce` returned.

        Raises:
            LayerNotFound, CaptureError: as those of `activations`.

        >>> import deconvviz as dv
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
        >>> network = dv.capture(model, (3, 8, 8))
        >>> network.reduced(torch.zeros(2, 3, 8, 8), ["1", "0"], lambda name, value: value.amin() >= 0)["1"]
        tensor(True)
        """
        names: dict[fx.Node, list[str]] = {}  # a block is a layer, and so is its last part
        for name in layers:
            names.setdefault(self.layer(name).node, []).append(name)
        reduced_by_layer: dict[str, Reduced] = {}

        def take(node: fx.Node, value: Tensor) -> None:
            reduced_by_layer.update({name: reduce(name, value) for name in names[node]})

        self.run({self.image: self.checked(x)}, list(names), x.shape[0], take)
        return {name: reduced_by_layer[name] for name in layers}

    def observed(self, x: Tensor, layers: Sequence[str]) -> tuple[dict[str, Tensor], Any]:
        """Return the values of `layers` and what the model returns, from one pass.

        Arguments and errors are those of `activations`.
        """
        nodes = {name: self.layer(name).node for name in layers}
        outputs = self.output_nodes()
        values = self.run({self.image: self.checked(x)}, [*nodes.values(), *outputs], x.shape[0])
        return {name: values[node] for name, node in nodes.items()}, self.packed(values)

    def after(self, layer: str, x: Tensor | None = None) -> Callable[[Tensor], Any]:
        """Return a function from values of a layer to the model's output: what comes after the layer.

        Nothing before the layer runs again. Values that bypass the layer (a skip connection around it) are computed
        once, from `x`, and kept.

        Args:
            layer: name of the layer.
            x: images [N, *input_shape]; needed only where values bypass the layer.

        Returns:
            A function that takes values [M, *layer.shape] and returns what the model returns for them. Where values
            bypass the layer, M is a multiple of N, and the M / N changed values of one image stand together.

        Raises:
            LayerNotFound: a layer of this name does not exist.
            CaptureError: values bypass the layer and x was not given, or M is not a multiple of N.
        """
        bypassing = self._bypassing(self.layer(layer).node, self.output_nodes())
        if not bypassing:
            return self._tail(layer, {})
        if x is None:
            names = ", ".join(node.name for node in bypassing[:3])
            raise CaptureError(
                f"the output does not follow from {layer!r} alone: {names} bypass it; give the images too: "
                f"after({layer!r}, x)"
            )
        (_, tail), count = self.split(layer, x), x.shape[0]

        def each(value: Tensor) -> Any:
            many = value.shape[0]
            if many % count:
                raise CaptureError(f"{many} values given for {count} images; expected a multiple of {count}")
            return tail(value, torch.arange(count, device=value.device).repeat_interleave(many // count))

        return each

    def split(self, layer: str, x: Tensor) -> tuple[Tensor, Callable[..., Any]]:
        """Split the network at a layer: what comes before it runs once, what comes after it as often as it is called.

        Args:
            layer: name of the layer.
            x: images [N, *input_shape].

        Returns:
            The value of the layer [N, *layer.shape], and a function `tail(value, images=None)` that returns what the
            model returns for values [M, *layer.shape]. `images`, int64 [M], says to which image of x each value
            belongs; None means one value for each image, in order.

        Raises:
            LayerNotFound: a layer of this name does not exist.
            CaptureError: x has another shape, dtype or device than the network.
        """
        node = self.layer(layer).node
        bypassing = self._bypassing(node, self.output_nodes())
        with torch.no_grad():
            values = self.run({self.image: self.checked(x)}, [node, *bypassing], x.shape[0])
        return values[node], self._tail(layer, {other: values[other] for other in bypassing})

    def checked(self, x: Tensor) -> Tensor:
        """Return images as this network takes them; see `checked_images`."""
        return checked_images(self, x)

    # --- looking ---

    def layer(self, name: str) -> Layer:
        """Return a layer by name; raises LayerNotFound with the nearest names."""
        if name in self.layers:
            return self.layers[name]
        if name in self.folded:
            raise LayerNotFound(f"layer {name!r} was folded into {self.folded[name]!r}; use fast(keep=[{name!r}])")
        raise LayerNotFound(f"no layer {name!r} in {self.name}; {nearest(name, self.layers)}")

    def maps(self, layer: str, value: Tensor) -> Tensor:
        """View a layer's value as maps [N, channels, rows, columns]; a vector has one position, tokens one column."""
        return tables.as_maps(self.layer(layer).node, value)

    @property
    def fingerprint(self) -> str:
        """Digest of the graph and every weight: equal networks have equal fingerprints, on any device."""
        return fingerprint(self.graph, self.tensors, self.input_shape)

    def table(self, modules_only: bool = False) -> str:
        """Return the layers as a text table: name, kind, shape, receptive field, stride, parameters."""
        return tables.text_table(self.layers, modules_only)

    def __repr__(self) -> str:
        count = self.parameters.get("", 0)
        shape = " x ".join(map(str, self.input_shape))
        return f"Network({self.name}, input {shape}, {len(self.layers)} layers, {count:,} parameters, {self.precision})"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p><pre>{html.escape(self.table(modules_only=True))}</pre>"

    def name_of(self, node: fx.Node) -> str | None:
        """Return the name of the layer whose value a node holds, None where it has none; of several the first."""
        return self.names.get(node)

    @cached_property
    def names(self) -> Mapping[fx.Node, str]:
        """Node -> the name of the layer whose value it holds; see `name_of`."""
        return {layer.node: name for name, layer in reversed(list(self.layers.items()))}

    def check_input(self, shape: Sequence[int]) -> None:
        """Raise CaptureError unless images of this shape, (channels, height, width), fit the network."""
        check_shape(self, shape)

    # --- other forms ---

    def to(self, target: torch.device | torch.dtype | str) -> Network:
        """Return the same network with its tensors on another device or of another float dtype."""
        moved = {
            name: t.to(target) if not isinstance(target, torch.dtype) or t.is_floating_point() else t
            for name, t in self.tensors.items()
        }
        return self.replaced(self.graph, moved)

    def replaced(self, graph: fx.Graph, tensors: dict[str, Tensor]) -> Network:
        """Return a network with another graph or other tensors, and everything else alike."""
        copy, mapping = fx.Graph(), dict[fx.Node, fx.Node]()
        copy.output(copy.graph_copy(graph, mapping))
        for node, twin in mapping.items():
            twin.meta = dict(node.meta)
        out = Network(copy, tensors, self.input_shape, self.parameters, self.out_spec, self.name)
        out.memory_format, out.precision, out.folded = self.memory_format, self.precision, dict(self.folded)
        out.outputs_are, out.example, out.module_names = self.outputs_are, self.example, self.module_names
        return out

    def with_outputs(self, kind: str) -> Network:
        """Return the same network with another way from its output to probabilities.

        Args:
            kind: one of `choices.OUTPUTS`; see `readout_of`.

        Raises:
            CaptureError: another kind.
        """
        require_choice("outputs", kind, OUTPUTS, CaptureError)
        out = self.replaced(self.graph, self.tensors)
        out.outputs_are = kind
        return out

    def fast(self, precision: str = "fp32", keep: Sequence[str] = ()) -> Network:
        """Return an equal network for jobs that only run forward: BatchNorm folded, channels-last, in a precision.

        A convolution that was folded with its BatchNorm is not a layer any more, unless it is in `keep`. It has copies
        of the weights: what a training changes afterwards, it does not have.
        """
        return accelerated(self, precision, keep)

    def without_norms(self, keep: Sequence[str] = ()) -> Network:
        """Return an equal network with each BatchNorm folded into the convolution that it alone reads; it is kept.

        Its weights are channels-last, in which convolutions are faster in both directions.

        Args:
            keep: layers whose values are read; raises LayerNotFound where one does not exist.
        """
        key = tuple(sorted(keep))
        return self._form(key, lambda: in_channels_last(with_folded_norms(self, key)))

    def forward_only(self, precision: str = "fp32", keep: Sequence[str] = ()) -> Network:
        """Return the network for jobs that only run forward: `fast`, but a float64 network stays float64 in "fp32".

        Args:
            precision: one of `choices.PRECISIONS`.
            keep: layers whose values the job reads.

        Raises:
            CaptureError: another precision. LayerNotFound: a name in `keep` does not exist.
        """
        if precision == "fp32" and self.dtype == torch.float64:
            for name in keep:
                self.layer(name)
            return self
        return self.fast(precision, keep)

    def in_precision(self, precision: str) -> Network:
        """Return the same network in one of `choices.PRECISIONS`; in "fp32" it is as it was captured."""
        if precision == "fp32":
            return self
        form = self._form(precision, lambda: self.to(DTYPES[precision]))
        form.precision = precision
        return form

    # --- inside ---

    def _form(self, key: str | tuple[str, ...], make: Callable[[], Network]) -> Network:
        """Return a form of this network that holds copies of its weights; made again where these have changed."""
        now = self.version
        if self._forms.get(key, (-1, self))[0] != now:
            self._forms[key] = now, make()
        return self._forms[key][1]

    def output_nodes(self) -> list[fx.Node]:
        """Return the nodes whose values the model returns, in their order."""
        return [n for n in pytree.tree_leaves(self.output.args[0]) if isinstance(n, fx.Node)]

    def packed(self, values: Values) -> Any:
        """Return the values of `output_nodes` in the form in which the model returns them."""
        leaves = [values[n] if isinstance(n, fx.Node) else n for n in pytree.tree_leaves(self.output.args[0])]
        return pytree.tree_unflatten(leaves, self.out_spec)

    def _tail(self, layer: str, bypassing: Values) -> Callable[..., Any]:
        """Return the function from a layer's values to the output, with the values that bypass the layer."""
        node, outputs = self.layer(layer).node, self.output_nodes()

        def tail(value: Tensor, images: Tensor | None = None) -> Any:
            expected = self.layers[layer].shape
            if tuple(value.shape[1:]) != expected:
                raise CaptureError(f"value of shape {tuple(value.shape)} given for {layer!r}; expected [N, {expected}]")
            values_given = {
                other: kept_value if images is None or kept_value.shape[0] == 1 else kept_value[images]
                for other, kept_value in bypassing.items()
            }
            return self.packed(self.run({**values_given, node: value}, outputs, value.shape[0]))

        return tail

    def _bypassing(self, node: fx.Node, outputs: Sequence[fx.Node]) -> list[fx.Node]:
        """Return the nodes whose values the output needs and that do not follow from `node`."""
        key = node, tuple(outputs)
        if key not in self._bypasses:
            plan = self._plan(frozenset({node, self.image}), tuple(outputs))
            self._bypasses[key] = crossing(self.graph, node, plan, outputs)
        return self._bypasses[key]
