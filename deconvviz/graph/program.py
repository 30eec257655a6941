"""A program: ops in order, of which is run what some values need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from deconvviz.graph.computing import computing
from deconvviz.graph.fast import in_bf16
from deconvviz.graph.ops import affine_norm, op_name
from deconvviz.graph.steps import Plan, make_plan, names_a_device

Values = dict[fx.Node, Any]


class Program:
    """What `Network` runs.

    Attributes:
        graph: the torch.fx graph in plain form.
        tensors: weights, buffers and constants by name.
        batch_size: the node that holds the number of images.
        image: the node that holds the images.
        precision: "as captured" or one of `choices.PRECISIONS`. Float32 is computed in TF32 for "tf32" only.
    """

    def __init__(self, graph: fx.Graph, tensors: dict[str, Tensor]) -> None:
        self.graph, self.tensors, self.precision = graph, tensors, "as captured"
        self.batch_size, self.image, *_ = [n for n in graph.nodes if n.op == "placeholder"]
        self._norms = frozenset(n for n in graph.nodes if n.op == "call_function" and op_name(n) == "batch_norm")
        self._placed = frozenset(n for n in graph.nodes if names_a_device(n))
        self._plans: dict[Any, Plan] = {}

    @property
    def version(self) -> int:
        """A number that grows whenever a weight is changed in place, as a training does at each step."""
        return sum(tensor._version for tensor in self.tensors.values() if not tensor.is_inference())

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return next((t.device for t in self.tensors.values()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return next((t.dtype for t in self.tensors.values() if t.is_floating_point()), torch.float32)

    def run(
        self,
        given: Values,
        targets: Sequence[fx.Node],
        batch_size: int,
        take: Callable[[fx.Node, Any], None] | None = None,
    ) -> Values:
        """Compute the values of `targets` from the given ones, each op once, and forget what is not needed any more.

        Args:
            given: node -> its value.
            targets: nodes whose values are computed.
            batch_size: number of images that the values belong to.
            take: is given each target and its value as soon as it is computed; such a value is not kept for its own
                sake. None keeps the targets.

        Returns:
            node -> value, of the targets at least where they are kept.
        """
        plan = self._plan(frozenset(given), tuple(targets), take is None)
        values: Values = {node: self.tensors[str(node.target)] for node in plan.weights}
        values.update(given)
        values[self.batch_size] = batch_size
        taken = frozenset(targets) if take is not None else frozenset()
        overwriting = plan.overwriting if self.precision != "as captured" and not torch.is_grad_enabled() else ()
        with computing(self.precision):
            for node in plan.steps:
                if node in overwriting:  # saves a copy of the map
                    values[node] = torch.relu_(values[node.all_input_nodes[0]])
                else:
                    values[node] = self.value(node, values)
                if take is not None and node in taken:
                    take(node, values[node])
                for spent in plan.release.get(node, ()):
                    del values[spent]
        return values

    def value(self, node: fx.Node, values: Values) -> Any:
        """Compute one node from the values of its inputs."""
        if node.op == "get_attr":
            return self.tensors[str(node.target)]
        args, kwargs = self.arguments(node, values)
        if node in self._norms and args[0].requires_grad and len(args[0]) == 1:
            return affine_norm(*args)
        return self.called(node, args, kwargs)

    def called(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        """Call the op of a node, in this program's precision."""
        if self.precision == "bf16":
            return in_bf16(node, args, kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]

    def constant(self, node: fx.Node) -> Tensor | None:
        """Return a weight, or what is computed of weights alone; None where images take part."""
        if node.op == "get_attr":
            return self.tensors[str(node.target)]
        if node.op != "call_function" or node.meta["data"]:
            return None
        with torch.no_grad():
            value: Tensor = self.run({}, [node], 1)[node]
        return value

    def arguments(self, node: fx.Node, values: Values) -> tuple[Any, Any]:
        """Return a node's arguments with values in the place of nodes."""
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
        return self.on_its_device(args, kwargs) if node in self._placed else (args, kwargs)

    def on_its_device(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Return the arguments of an op with the program's device in the place of the CPU, which the export wrote."""
        if "device" in kwargs:
            kwargs = {**kwargs, "device": self.device}
        if any(isinstance(value, torch.device) for value in args):
            args = tuple(self.device if isinstance(value, torch.device) else value for value in args)
        return args, kwargs

    def _plan(self, given: frozenset[fx.Node], targets: tuple[fx.Node, ...], kept: bool = True) -> Plan:
        key = (given, targets, kept)
        if key not in self._plans:
            self._plans[key] = make_plan(self.graph, given | {self.batch_size}, targets, kept)
        return self._plans[key]
