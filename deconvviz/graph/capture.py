"""nn.Module -> Network, from what torch.export writes down.

The exported graph is brought into one plain form, so that nothing downstream meets a special case:
every op out of place and with complete positional arguments, every value a single tensor, no assertions,
contrast normalisation as one op, and the batch size a value of its own.
"""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from deconvviz.errors import CaptureError, InputRefused
from deconvviz.graph.any_order import in_any_order
from deconvviz.graph.calling import Call, called, parts_in_words, same
from deconvviz.graph.checked import check_captured
from deconvviz.graph.evaluating import (
    changes_with_its_mode,
    evaluating,
    gradients_not_asked_for,
    outside_inference_mode,
    unchanged,
    without_inference_tensors,
)
from deconvviz.graph.exporting import Exported, export, first_line, require_module, unwrapped
from deconvviz.graph.functions import MARK
from deconvviz.graph.fuse import fuse_response_norm
from deconvviz.graph.network import Network
from deconvviz.graph.ops import op_name, op_of
from deconvviz.graph.scores import example_of
from deconvviz.graph.table import norm_of_batch, overwritten, subsampled
from deconvviz.words import counted

aten = torch.ops.aten


def capture(model: nn.Module, input_shape: Sequence[int], call: Call | None = None) -> Network:
    """Turn a module into a `Network`: the graph of what it computes in eval mode, for any batch size.

    The network shares the model's weights; the model itself (mode, gradients, hooks, buffers) stays as it was.

    Args:
        model: a module that takes one float tensor [N, *input_shape].
        input_shape: the shape of one image, (channels, height, width).
        call: how a model with further inputs takes images: a function from images to its one argument, to a tuple of
            arguments or to a dict of keyword arguments; see `called`.

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
    shape = _shape(input_shape)
    bare = unwrapped(model)
    require_module(bare)
    inner = without_inference_tensors(bare)
    changing = changes_with_its_mode(inner)
    first = next((p for p in inner.parameters() if p.is_floating_point()), torch.zeros(()))
    example = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)).to(first)
    with unchanged(inner), evaluating(inner), outside_inference_mode(), torch.no_grad(), gradients_not_asked_for():
        _complaint(inner, example[:1], call)
        output = called(inner, example, call)
        random = not same(called(inner, example, call), output)
        try:
            exported = export(inner, example, output, call)
        except CaptureError as error:
            raise CaptureError(f"{error}{parts_in_words(inner, example)}") from error
        state = {spec.arg.name for spec in exported.program.graph_signature.input_specs if spec.target}
        if _aliased_writes(exported.program.graph, state):
            exported = replace(exported, program=exported.program.run_decompositions({}))
        names = dict(bare.named_modules(remove_duplicate=False))
        graph, tensors = _plain(exported, _other_names(names))
        parameters = {name: sum(p.numel() for p in module.parameters()) for name, module in names.items()}
        structure = exported.program.call_spec.out_spec
        network = Network(graph, tensors, shape, parameters, structure, type(inner).__name__)
        check_captured(network, example, output, random)
        evaluated = {name: tensor.clone() for name, tensor in network.tensors.items()} if changing else {}
    network.tensors |= {name: each for name, each in evaluated.items() if not torch.equal(each, network.tensors[name])}
    network.module_names = weakref.WeakKeyDictionary({module: name for name, module in reversed(names.items())})
    network.example = example_of(output)
    return network


def _shape(input_shape: Sequence[int]) -> tuple[int, int, int]:
    shape = tuple(int(n) for n in input_shape)
    if len(shape) != 3 or min(shape) < 1:
        what = " of a signal or a volume" if shape and min(shape) >= 1 else ""
        raise CaptureError(
            f"input shape {tuple(input_shape)}{what} given; expected three positive sizes, (channels, height, width), "
            "such as (3, 224, 224)"
        )
    return shape


def _complaint(model: nn.Module, image: Tensor, call: Call | None) -> None:
    """Raise InputRefused where a model fails on one image: its own complaint is clearer than the exporter's."""
    try:
        called(model, image, call)
    except Exception as error:
        raise InputRefused(
            f"{type(model).__name__} does not accept an image of shape {tuple(image.shape[1:])}: {first_line(error)}; "
            f"{_advice(model, image.shape[1], error)}"
        ) from error


def _advice(model: nn.Module, channels: int, error: Exception) -> str:
    """Return what to do about a model that fails on an image of so many channels."""
    if isinstance(error, TypeError) and "missing" in str(error) and "argument" in str(error):
        return "give its further inputs with call=, or --call FILE.py:FUNCTION"
    first = next((each for each in model.modules() if isinstance(each, (nn.Conv1d, nn.Conv2d, nn.Conv3d))), None)
    if isinstance(first, (nn.Conv1d, nn.Conv3d)):
        return f"its first convolution is a {type(first).__name__}, and only networks of images are taken"
    if first is not None and first.in_channels != channels:
        wanted = counted(first.in_channels, "channel")
        return f"its first convolution takes {wanted}: give as many values with --mean and --std, or that input shape"
    return "give the input shape that the model was built for"


def _other_names(names: Mapping[str, nn.Module]) -> dict[str, list[str]]:
    """Return for the name of a module the others that it has, where it stands in several places."""
    names_by_module: dict[int, list[str]] = {}
    for name, module in names.items():
        names_by_module.setdefault(id(module), []).append(name)
    return {name: [n for n in names_by_module[id(module)] if n != name] for name, module in names.items()}


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


def _plain(exported: Exported, others: Mapping[str, list[str]]) -> tuple[fx.Graph, dict[str, Tensor]]:
    """Copy the exported graph in plain form; weights and constants become `get_attr` nodes."""
    graph, tensors, call_names = fx.Graph(), {}, CallNames(others)
    program = exported.program
    names: dict[fx.Node, fx.Node] = {}  # exported value -> ours; an in-place op moves the name to its result
    entered: dict[int, dict[int, fx.Node]] = {}  # call of an autograd function -> place -> its argument
    sources = {spec.arg.name: spec.target for spec in program.graph_signature.input_specs if spec.target}
    batch: fx.Node | None = None
    symbol = ""
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in sources:
            source = str(sources[node.name])
            target = source.removeprefix(exported.prefix)
            tensors[target] = exported.tensor(source)
            names[node] = graph.create_node("get_attr", target, name=node.name)
        elif node.op == "placeholder":
            if batch is None:
                batch = graph.placeholder("batch_size")
                symbol = str(node.meta["val"].shape[0])
            names[node] = graph.placeholder("image")
        elif node.op == "call_function":
            if isinstance(node.meta.get("val"), torch.SymInt) and str(node.meta["val"]) == symbol:
                assert batch is not None
                names[node] = batch
            elif node.target is MARK:
                argument, call, place, leaves = node.args
                if not leaves:
                    entered.setdefault(call, {})[place] = names[node] = names[argument]
                    continue
                arguments = tuple(entered[call][at] for at in sorted(entered[call]))
                names[node] = graph.call_function(exported.calls[call].output(place), arguments)
            elif node.meta.get("val") is not None:
                _copy(graph, node, names)
        elif node.op == "output":
            graph.output(fx.node.map_arg(_returned(program, node), lambda n: names[n]))
        if (node in names and names[node].op != "placeholder") or node.op == "placeholder":
            _describe(names[node], node, symbol, exported.prefix, call_names)
    fuse_response_norm(graph)
    graph.eliminate_dead_code()
    return graph, tensors


def _returned(program: torch.export.ExportedProgram, output: fx.Node) -> list[Any]:
    """Return what the model returns; functionalised writes come first, as further outputs."""
    specs = program.graph_signature.output_specs
    values: Any = output.args[0]
    return [value for value, spec in zip(values, specs, strict=True) if spec.kind.name == "USER_OUTPUT"]


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
    if target is aten.squeeze.default:  # of two images it keeps the batch; of one image it must, too
        shape = args[0].meta["shape"]
        return aten.squeeze.dims, (args[0], [axis for axis, size in enumerate(shape) if size == 1])
    if getattr(target, "_opname", "") == "upsample_nearest2d" and index is None:
        steps = _whole_steps(args)
        return (subsampled, (args[0], *steps)) if steps else (target, args)
    if target is aten.batch_norm.default and (args[5] or args[3] is None):
        return norm_of_batch, (args[0], args[1], args[2], args[7])
    if target is aten.copy.default:
        return overwritten, args[:2]
    if index is None:
        return in_any_order(target), args
    name = getattr(target, "_opname", "")
    if name == "_native_batch_norm_legit_no_training":
        x, weight, bias, mean, variance, momentum, eps = args
        return aten.batch_norm.default, (x, weight, bias, mean, variance, False, momentum, eps, True)
    if name == "max_pool2d_with_indices" and index == 0:
        return aten.max_pool2d.default, args
    return Pick(target, index), args


def _whole_steps(args: tuple[Any, ...]) -> tuple[int, int] | None:
    """Return by which whole factors interpolation reduces rows and columns; None where it does not reduce by such."""
    before = args[0].meta["shape"][2:]
    size, scales = args[1], args[2] if len(args) > 2 else None
    after = size or [int(n * scale) for n, scale in zip(before, scales or (1, 1), strict=True)]
    if not all(isinstance(n, int) and n > 0 for n in (*before, *after)):
        return None
    if scales and any(1 / scale % 1 for scale in scales):
        return None  # the factor that was given counts, not that of the sizes
    if any(b % a for b, a in zip(before, after, strict=True)):
        return None
    return before[0] // after[0], before[1] // after[1]


def _plain_padding(args: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """Write "valid" and "same" padding as numbers; that of an even kernel, which is not symmetric, stays."""
    x, weight, bias, stride, padding, dilation, groups = args
    totals = [d * (k - 1) for k, d in zip(weight.meta["shape"][2:], dilation * (2 // len(dilation)), strict=True)]
    if padding == "valid":
        totals = [0, 0]
    if any(total % 2 for total in totals):
        return aten.conv2d.padding, args
    return aten.conv2d.default, (x, weight, bias, stride, [total // 2 for total in totals], dilation, groups)


def _describe(ours: fx.Node, node: fx.Node, symbol: str, prefix: str, names: CallNames) -> None:
    """Note a value's shape and the module calls that it was computed in, outermost first."""
    value = node.meta.get("val")
    if isinstance(value, Tensor):
        ours.meta["shape"] = tuple(n if isinstance(n, int) else -1 for n in value.shape)
        ours.meta["batched"] = value.dim() > 0 and str(value.shape[0]) == symbol
    ours.meta["modules"] = []
    for key, (full_path, kind) in (node.meta.get("nn_module_stack") or {}).items():
        name, path = (text.removeprefix("L__self__").removeprefix(prefix) for text in (key, full_path))
        if not key.startswith("L__self__") or name in ("", prefix.rstrip(".")):
            continue
        kind = kind if isinstance(kind, str) else kind.__name__
        ours.meta["modules"] += [(each, path, kind) for each in names.of_call(name, path)]


class CallNames:
    """The names of module calls; a module that stands in several places has several, and its calls are counted.

    Attributes:
        others: name of a module -> the other names that it has.
    """

    def __init__(self, others: Mapping[str, list[str]]) -> None:
        self.others = others
        self._calls: dict[str, list[str]] = {}  # first name of a module -> its calls, as the exporter tells them

    def of_call(self, name: str, path: str) -> list[str]:
        """Return the names of a call: the exporter's own, or all of a module with several, "name@1" for its second."""
        others = self.others.get(path)
        if not others:
            return [name]
        calls = self._calls.setdefault(min(path, *others), [])
        if name not in calls:
            calls.append(name)
        number = calls.index(name)
        return [f"{each}@{number}" if number else each for each in (path, *others)]
