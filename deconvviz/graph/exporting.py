"""The exported program of a module, whatever it is wrapped in. The one importer of torch.export."""

from __future__ import annotations

import contextlib
import inspect
import io
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from deconvviz.errors import CaptureError
from deconvviz.graph.calling import Call, called
from deconvviz.graph.evaluating import evaluating
from deconvviz.graph.functions import FunctionCall, marked_functions
from deconvviz.graph.idle_hooks import without_idle_hooks

INNER = "inner_of_deconvviz"  # the name of a module within `_OneImage`
NEUTRAL = torch.device("cpu")  # every module is exported as if it were here
LARGEST_BATCH = 65535  # that a GPU's BatchNorm allows an exporter
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


@dataclass(frozen=True)
class Exported:
    """A module as torch.export wrote it down.

    Attributes:
        program: of torch.export, its sub-graphs inlined.
        calls: of torch.autograd.Function, by the number that their marks have.
        prefix: what stands before every name of a module or weight, and does not belong to it.
        weights: the module's own parameters and buffers, by the names that the program has for them.
        device: where the module is.
    """

    program: torch.export.ExportedProgram
    calls: list[FunctionCall]
    prefix: str
    weights: Mapping[str, Tensor]
    device: torch.device

    def tensor(self, name: str) -> Tensor:
        """Return a weight, shared with the module, or a constant of the graph, on the module's device."""
        if name in self.weights:
            value = self.weights[name]
            return value.clone() if value.is_inference() else value.detach()
        constant = self.program.constants[name]
        assert isinstance(constant, Tensor)
        return (constant.clone() if constant.is_inference() else constant.detach()).to(self.device)


class _OneImage(nn.Module):
    """A module that takes any arguments, as one that takes an image: its signature is what is exported."""

    def __init__(self, model: nn.Module, call: Call | None) -> None:
        super().__init__()
        self.add_module(INNER, model)
        self.call = call

    def forward(self, image: Tensor) -> Any:
        """Return what the module returns for the image."""
        return called(self.get_submodule(INNER), image, self.call)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module inside nn.DataParallel, DistributedDataParallel and torch.compile.

    >>> unwrapped(nn.DataParallel(nn.ReLU()))
    ReLU()
    """
    while True:
        compiled = getattr(model, "_orig_mod", None)
        if isinstance(model, WRAPPERS):
            model = model.module
        elif isinstance(compiled, nn.Module):
            model = compiled
        else:
            return model


def require_module(model: object) -> None:
    """Refuse what cannot be captured whatever its code, in words that say what it is.

    Raises:
        CaptureError: a class, a function, a state dict, a program that is written down already, or a module that has no
            weights yet.
    """
    given = f"{model.__name__ if isinstance(model, type) else type(model).__name__} given; "
    if isinstance(model, torch.jit.ScriptModule | torch.export.ExportedProgram) or _is_exported(model):
        raise CaptureError(f"{given}expected the module that this program was made of: torch.export reads its code")
    if isinstance(model, Mapping):
        raise CaptureError(f"{given}expected a module: build the network, and load_state_dict() these weights")
    if isinstance(model, type) or not isinstance(model, nn.Module):
        raise CaptureError(f"{given}expected a torch.nn.Module, such as torchvision.models.resnet18()")
    lazy = [name for name, part in model.named_parameters() if nn.parameter.is_lazy(part)]
    if lazy:
        raise CaptureError(
            f"{type(model).__name__} has no {lazy[0]} yet; run it once on images: it makes its weights then"
        )


def _is_exported(model: object) -> bool:
    """Whether a module is what torch.export.ExportedProgram.module() returns: it knows no eval mode."""
    own_eval = getattr(getattr(model, "eval", None), "__func__", None)
    return isinstance(model, fx.GraphModule) and own_eval is not nn.Module.eval


def export(model: nn.Module, example: Tensor, output: Any, call: Call | None = None) -> Exported:
    """Export a module for any batch size.

    Args:
        model: in eval mode, and not in a wrapper; see `unwrapped`.
        example: images [2, ...].
        output: what the module returns for them.
        call: how it takes them, see `called`.

    Raises:
        CaptureError: the module does what torch.export cannot follow.
    """
    kinds = [parameter.kind for parameter in inspect.signature(model.forward).parameters.values()]
    wrapped = not kinds or kinds[0] is inspect.Parameter.VAR_POSITIONAL or call is not None
    module = _OneImage(model, call) if wrapped else model
    weights = dict([*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)])
    with without_idle_hooks(model, example, output, call), _silent():
        try:
            program, calls = _program_on_any_device(module, example)
        except Exception as error:
            raise CaptureError(
                f"torch.export cannot follow {type(model).__name__} with input {tuple(example.shape[1:])}: "
                f"{first_line(error)}; look for control flow that depends on values, or a batch size written into "
                "the code"
            ) from error
    lost = list(dict.fromkeys(call.function.__name__ for call in calls if call.lost))
    if lost:
        warnings.warn(
            f"the backward of {', '.join(lost)}, a torch.autograd.Function, cannot be kept: gradients are those of the "
            "ops that its forward calls",
            stacklevel=3,
        )
    _inline(program.graph_module, {example.device.type, NEUTRAL.type})
    program.graph_module.recompile()
    return Exported(program, calls, f"{INNER}." if wrapped else "", weights, example.device)


def program_bytes(model: nn.Module, shape: tuple[int, ...]) -> bytes:
    """Return the exported program of a module as the bytes of a .pt2 file, which torch alone opens.

    `torch.export.load(path).module()` takes images [N, *shape], of any number. This package does not load such files:
    where torch finds more than tensors in one, it unpickles it, which may run any code.

    Args:
        model: in eval mode.
        shape: of one image, (channels, height, width).

    Raises:
        CaptureError: the module does what torch.export cannot follow.
    """
    first = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    example = torch.zeros(2, *shape).to(first)
    with evaluating(model), torch.no_grad(), _silent():
        try:
            program, _ = _program_on_any_device(model, example)
            file = io.BytesIO()
            torch.export.save(program, file)
        except Exception as error:
            raise CaptureError(f"{type(model).__name__} cannot be exported: {first_line(error)}") from error
    return file.getvalue()


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _program_on_any_device(
    module: nn.Module, example: Tensor
) -> tuple[torch.export.ExportedProgram, list[FunctionCall]]:
    """Export a module as if it were on the CPU, wherever it is, so that the graph is the same.

    An exporter that looks at a GPU's kernels writes down their conditions: that of BatchNorm limits the batch. Only
    where the module names its device in its code is it exported where it is, with a batch within that limit.
    """
    if example.device != NEUTRAL:
        try:
            with _on_neutral_ground(module):
                return _marked_program(module, torch.empty_like(example, device=NEUTRAL), torch.export.Dim("batch"))
        except Exception:
            return _marked_program(module, example, torch.export.Dim("batch", max=LARGEST_BATCH))
    return _marked_program(module, example, torch.export.Dim("batch"))


def _marked_program(
    module: nn.Module, example: Tensor, batch: Any
) -> tuple[torch.export.ExportedProgram, list[FunctionCall]]:
    options: Any = {"strict": False, "dynamic_shapes": ({0: batch},)}
    calls: list[FunctionCall] = []
    try:
        with marked_functions() as calls:
            return torch.export.export(module, (example,), **options), calls
    except Exception:  # the model may do with the copies that marks make what it does not do without
        program = torch.export.export(module, (example,), **options)
    for call in calls:
        call.lost = True
    return program, calls


@contextlib.contextmanager
def _on_neutral_ground(module: nn.Module) -> Iterator[None]:
    """Stand in for every tensor of a module by one on the CPU, within a `with` block; the module gets its own back.

    An exporter reads the shapes of weights, not their values, so that theirs take no memory. Other tensors that a part
    holds, perhaps in a list or dict, may become constants of the graph, and are copied with their values.
    """
    weights = {
        id(tensor) for part in module.modules() for tensor in (*part._parameters.values(), *part._buffers.values())
    }
    twins: dict[int, Tensor] = {}

    def twin(tensor: Tensor) -> Tensor:
        if id(tensor) not in twins:
            other = torch.empty_like(tensor, device=NEUTRAL) if id(tensor) in weights else tensor.detach().to(NEUTRAL)
            is_weight = isinstance(tensor, nn.Parameter)
            twins[id(tensor)] = nn.Parameter(other, tensor.requires_grad) if is_weight else other
        return twins[id(tensor)]

    places: list[tuple[dict[str, Any], str, Any]] = []
    for part in module.modules():
        for holder in (part._parameters, part._buffers, vars(part)):
            for name, value in holder.items():
                if name not in ("_parameters", "_buffers", "_modules") and _holds_tensors(value):
                    places.append((holder, name, value))
    try:
        for holder, name, value in places:
            holder[name] = pytree.tree_map_only(Tensor, twin, value)
        yield
    finally:
        for holder, name, value in places:
            holder[name] = value


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Tensor | list | tuple | dict) and any(
        isinstance(v, Tensor) for v in pytree.tree_leaves(value)
    )


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep torch from printing the graph of a failed export: the error says what is to be said."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


# --- sub-graphs ------------------------------------------------------------------------------------------------------


def _inline(owner: fx.GraphModule, devices: Collection[str]) -> None:
    """Put the ops of `with torch.autocast(...)` and `torch.set_grad_enabled` in the place of their sub-graphs.

    Raises:
        CaptureError: a sub-graph is a branch or a loop.
    """
    for node in list(owner.graph.nodes):
        name = getattr(node.target, "__name__", "") if node.op == "call_function" else ""
        if name not in ("wrap_with_autocast", "wrap_with_set_grad_enabled"):
            continue
        places = [place for place, value in enumerate(node.args) if _is_graph(value, owner)]
        if name == "wrap_with_autocast" and node.args[0] in devices and node.args[2]:
            warnings.warn(
                f"forward() switches torch.autocast on for {node.args[0]}; the network is captured without it, and "
                "computes in the precision of its weights",
                stacklevel=4,
            )
        inner = getattr(owner, node.args[places[0]].target)
        _inline(inner, devices)
        inputs = (n for n in inner.graph.nodes if n.op == "placeholder")
        given = dict(zip(inputs, node.args[places[0] + 1 :], strict=True))
        with owner.graph.inserting_before(node):
            results = owner.graph.graph_copy(inner.graph, given)
        values = list(results) if isinstance(results, list | tuple) else [results]
        for user in list(node.users):
            user.replace_all_uses_with(values[user.args[1]])
            owner.graph.erase_node(user)
        owner.graph.erase_node(node)
    for node in list(owner.graph.nodes):
        if node.op != "get_attr" or not _is_graph(node, owner):
            continue
        if not node.users:
            owner.graph.erase_node(node)
            continue
        kind = getattr(next(iter(node.users)).target, "__name__", "a sub-graph")
        raise CaptureError(
            f"the model branches or loops inside its graph ({kind}); capture a part without, or write it without"
        )


def _is_graph(value: Any, owner: fx.GraphModule) -> bool:
    named = isinstance(value, fx.Node) and value.op == "get_attr"
    return named and isinstance(getattr(owner, str(value.target), None), fx.GraphModule)
