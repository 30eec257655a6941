"""nn.Module -> Network, by torch.export. The one importer of torch.export.

The exported graph is brought into one plain form, so that nothing downstream meets a special case:
every op out of place and with complete positional arguments, every value a single tensor, no assertions,
contrast normalisation as one op, and the batch size a value of its own.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from deconvviz.errors import CaptureError
from deconvviz.graph.evaluating import evaluating
from deconvviz.graph.fuse import fuse_response_norm
from deconvviz.graph.network import Network
from deconvviz.graph.ops import op_name, op_of

aten = torch.ops.aten


def capture(model: nn.Module, input_shape: Sequence[int]) -> Network:
    """Turn a module into a `Network`: the graph of what it computes in eval mode, for any batch size.

    The network shares the model's weights; the model itself (mode, gradients, hooks, buffers) stays as it was.

    Args:
        model: a module that takes one float tensor [N, *input_shape].
        input_shape: the shape of one image, (channels, height, width).

    Returns:
        The network, on the model's device and of its dtype.

    Raises:
        CaptureError: the model does not accept such an image, or does what torch.export cannot follow.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU())
    >>> network = capture(model, (3, 32, 32))
    >>> layer = network.layers["1"]
    >>> layer.kind, layer.shape, layer.receptive_field.size, layer.stride
    ('ReLU', (8, 15, 15), (3, 3), (2, 2))
    """
    shape = tuple(int(n) for n in input_shape)
    if not shape or min(shape) < 1:
        raise CaptureError(f"input shape {input_shape} given; expected positive sizes such as (3, 224, 224)")
    first = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    example = torch.zeros(2, *shape, dtype=first.dtype, device=first.device)
    with evaluating(model), torch.no_grad():
        program = _export(model, example)
    state = {spec.arg.name for spec in program.graph_signature.input_specs if spec.target}
    if _aliased_writes(program.graph, state):
        program = program.run_decompositions({})
    graph, tensors = _plain(program)
    parameters = {name: sum(p.numel() for p in module.parameters()) for name, module in model.named_modules()}
    return Network(graph, tensors, shape, parameters, program.call_spec.out_spec, type(model).__name__)


def _export(model: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    shape = tuple(example.shape[1:])
    try:
        model(example[:1])  # the model's own complaint is clearer than the exporter's
    except Exception as error:
        raise CaptureError(
            f"{type(model).__name__} does not accept an image of shape {shape}: {_first_line(error)}; "
            "give the input shape that the model was built for"
        ) from error
    try:
        batch = torch.export.Dim("batch")
        return torch.export.export(model, (example,), strict=False, dynamic_shapes=({0: batch},))
    except Exception as error:
        raise CaptureError(
            f"torch.export cannot follow {type(model).__name__} with input {shape}: {_first_line(error)}; "
            "look for control flow that depends on values, or a batch size written into the code"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# --- in-place ops ----------------------------------------------------------------------------------------------------


def _written(node: fx.Node) -> fx.Node | None:
    """Return the node whose value an in-place op overwrites."""
    if isinstance(node.target, torch._ops.OpOverload):
        for argument, value in zip(node.target._schema.arguments, node.args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write and isinstance(value, fx.Node):
                return value
    return None


def _may_alias(node: fx.Node) -> bool:
    if node.target is operator.getitem or op_of(node).may_alias:
        return True
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(r.alias_info and not r.alias_info.is_write for r in schema.returns)


def _aliased_writes(graph: fx.Graph, state: set[str]) -> bool:
    """Return whether an in-place op changes a value that is read later under another name, or a weight or buffer.

    Only then must torch's own functionalisation rewrite the graph; the plain case (relu_ after a convolution)
    is a renaming, and keeps the ops as the model wrote them.
    """
    order = {node: i for i, node in enumerate(graph.nodes)}
    root: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        source = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else node
        root[node] = root[source] if node.op == "call_function" and _may_alias(node) else node
    for node in graph.nodes:
        target = _written(node)
        if target is None:
            continue
        if not hasattr(aten, op_name(node).rstrip("_")):
            return True
        if target.name in state:
            return True
        relatives = [n for n in order if root[n] is root[target] and n is not target]
        if any(order[user] > order[node] for n in relatives for user in n.users):
            return True
    return False


# --- the plain form --------------------------------------------------------------------------------------------------


class Pick:
    """One output of an op that returns several outputs, as an op of its own."""

    def __init__(self, target: Callable[..., Any], index: int) -> None:
        self.target, self.index = target, index
        self._opname = getattr(target, "_opname", str(target))
        self.__name__ = f"{self._opname}_{index}"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.target(*args, **kwargs)[self.index]


def _plain(program: torch.export.ExportedProgram) -> tuple[fx.Graph, dict[str, Tensor]]:
    """Copy the exported graph in plain form; weights and constants become `get_attr` nodes."""
    graph, tensors = fx.Graph(), {}
    names: dict[fx.Node, fx.Node] = {}  # exported value -> ours; an in-place op moves the name to its result
    sources = {spec.arg.name: spec.target for spec in program.graph_signature.input_specs if spec.target}
    batch: fx.Node | None = None
    symbol = ""
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in sources:
            target = str(sources[node.name])
            tensors[target] = _tensor(program, target)
            names[node] = graph.create_node("get_attr", target, name=node.name)
        elif node.op == "placeholder":
            batch = graph.placeholder("batch_size")
            names[node] = graph.placeholder("image")
            symbol = str(node.meta["val"].shape[0])
        elif node.op == "call_function":
            if isinstance(node.meta.get("val"), torch.SymInt) and str(node.meta["val"]) == symbol:
                assert batch is not None
                names[node] = batch
            elif node.meta.get("val") is not None:
                _copy(graph, node, names)
        elif node.op == "get_attr":  # a sub-graph: torch.cond, map, ...
            raise CaptureError(f"the model branches or loops inside its graph ({node.target}); capture a part without")
        elif node.op == "output":
            specs = program.graph_signature.output_specs  # functionalised writes come first, as further outputs
            kept = [v for v, o in zip(node.args[0], specs, strict=True) if o.kind.name == "USER_OUTPUT"]
            graph.output(fx.node.map_arg(kept, lambda n: names[n]))
        if (node in names and names[node].op != "placeholder") or node.op == "placeholder":
            _describe(names[node], node, symbol)
    fuse_response_norm(graph)
    graph.eliminate_dead_code()
    return graph, tensors


def _tensor(program: torch.export.ExportedProgram, target: str) -> Tensor:
    value = program.state_dict[target] if target in program.state_dict else program.constants[target]
    assert isinstance(value, Tensor)
    return value.detach()


def _copy(graph: fx.Graph, node: fx.Node, names: dict[fx.Node, fx.Node]) -> None:
    """Copy one op: out of place, with all arguments, and with a single result."""
    if isinstance(node.meta["val"], list | tuple):
        return  # its outputs are copied where they are picked
    source: Any = node
    index: Any = None
    target: Any = node.target
    if target is operator.getitem:
        source, index = node.args
        target = source.target
    written = _written(node)
    if written is not None:
        packet = getattr(aten, op_name(node)[:-1])
        target = getattr(packet, node.target._overloadname)  # type: ignore[union-attr]
    args, kwargs = _complete(target, source.args, source.kwargs)
    args, kwargs = fx.node.map_arg((args, kwargs), lambda n: names[n])
    target, args = _canonical(target, index, args)
    names[node] = graph.create_node("call_function", target, args, kwargs, name=node.name)
    if written is not None:
        names[written] = names[node]


def _complete(target: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Write out the defaults of an op: all positional arguments; keyword-only ones stay as they were given."""
    if not isinstance(target, torch._ops.OpOverload):
        return tuple(args), dict(kwargs)
    rest = dict(kwargs)
    full = list(args)
    for argument in target._schema.arguments[len(args) :]:
        if not argument.kwarg_only:
            full.append(rest.pop(argument.name, argument.default_value))
    return tuple(full), rest


def _canonical(target: Any, index: int | None, args: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """Give an op that torch decomposed its plain name back, so that one record serves both."""
    if target is aten.conv2d.padding:
        return _plain_padding(args)
    if index is None:
        return target, args
    name = getattr(target, "_opname", "")
    if name == "_native_batch_norm_legit_no_training":
        x, weight, bias, mean, variance, momentum, eps = args
        return aten.batch_norm.default, (x, weight, bias, mean, variance, False, momentum, eps, True)
    if name == "max_pool2d_with_indices" and index == 0:
        return aten.max_pool2d.default, args
    return Pick(target, index), args


def _plain_padding(args: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """Write "valid" and "same" padding as numbers; that of an even kernel, which is not symmetric, stays."""
    x, weight, bias, stride, padding, dilation, groups = args
    totals = [d * (k - 1) for k, d in zip(weight.meta["shape"][2:], dilation * (2 // len(dilation)), strict=True)]
    if padding == "valid":
        totals = [0, 0]
    if any(total % 2 for total in totals):
        return aten.conv2d.padding, args
    return aten.conv2d.default, (x, weight, bias, stride, [total // 2 for total in totals], dilation, groups)


def _describe(ours: fx.Node, node: fx.Node, symbol: str) -> None:
    """Note a value's shape and the module calls that it was computed in, outermost first."""
    value = node.meta.get("val")
    if isinstance(value, Tensor):
        ours.meta["shape"] = tuple(n if isinstance(n, int) else -1 for n in value.shape)
        ours.meta["batched"] = value.dim() > 0 and str(value.shape[0]) == symbol
    stack = node.meta.get("nn_module_stack") or {}
    ours.meta["modules"] = [
        (key.removeprefix("L__self__"), path, kind if isinstance(kind, str) else kind.__name__)
        for key, (path, kind) in stack.items()
        if key.startswith("L__self__")
    ]
