"""A second, independent way to the projections: autograd with the rectifiers' backward replaced.

Nothing here knows how the package captures or walks a network: the model runs as it is, and a function mode gives each
rectifier it calls (module, function or method, in place or not) the backward of the rule.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

RULES = ("deconvnet", "guided", "gradient")
# named as in torch.nn.functional; a name that ends in "_" is the in-place form
RECTIFIERS = {
    *("relu", "relu6", "hardtanh", "leaky_relu", "elu", "celu", "selu"),
    *("silu", "gelu", "hardswish", "mish", "softplus"),
}


class _Ruled(torch.autograd.Function):
    """The value y forwards; backwards to x, the signal clamped at zero where `mask` is given, and times that mask."""

    @staticmethod
    def forward(ctx: Any, _x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
        ctx.mask = mask
        return y.clone()

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> tuple[Tensor, None, None]:
        return (signal if ctx.mask is None else signal.clamp(min=0) * ctx.mask), None, None


class _Rule(TorchFunctionMode):
    """Gives the rectifiers, and the response normalisation, the backward of one rule."""

    def __init__(self, rule: str, lrn: str) -> None:
        super().__init__()
        if rule not in RULES or lrn not in ("identity", "gradient"):
            raise ValueError(f"rule {rule!r}, lrn {lrn!r}")
        self.rule, self.lrn = rule, lrn

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.local_response_norm and self.lrn == "identity":
            with torch.no_grad():
                y = func(*args, **kwargs)
            return _Ruled.apply(args[0], y, None)
        name = getattr(func, "__name__", "")
        if self.rule == "gradient" or name.removesuffix("_") not in RECTIFIERS:
            return func(*args, **kwargs)
        return self.rectify(name, *args, **kwargs)

    def rectify(self, name: str, *args: Any, **kwargs: Any) -> Tensor:
        func = getattr(F, name.removesuffix("_"))
        given: dict[str, Any] = {}
        if inspect.isfunction(func):  # gelu and softplus are builtins: no signature, and never in place
            bound = inspect.signature(func).bind(*args, **kwargs)
            bound.apply_defaults()
            given = bound.arguments
            args, kwargs = (), {**given, "inplace": False}
        x: Tensor = given["input"] if given else args[0]
        with torch.no_grad():
            y = func(*args, **kwargs)
        mask = torch.ones_like(x, dtype=torch.bool)
        if self.rule == "guided":
            mask = (x > 0) & (x < (6.0 if name == "relu6" else given.get("max_val", float("inf"))))
        ruled: Tensor = _Ruled.apply(x, y, mask)
        if name.endswith("_") or given.get("inplace"):
            return x.copy_(ruled)  # whoever else holds x sees it rectified, as in the model
        return ruled


def _forward(model: nn.Module, x: Tensor, layer: str) -> Tensor:
    """What the module `layer` returned, as it was when it returned it."""
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        seen.append(output.clone())  # ours stays, whatever the model later does in place to its own

    handle = model.get_submodule(layer).register_forward_hook(keep)
    try:
        model(x)
    finally:
        handle.remove()
    (value,) = seen  # a module called twice has no single value
    return value


def layer_value(model: nn.Module, x: Tensor, layer: str) -> Tensor:
    """The activations of one layer, without any graph."""
    with torch.no_grad():
        return _forward(model, x.clone(), layer)


def unit(value: Tensor, channel: int, position: tuple[int, int] | None) -> tuple[int, ...]:
    """The full index of one unit; position None: the strongest of its map, or the only one of a vector."""
    if value.dim() == 2:
        return (0, channel)
    if position is None:
        row, column = divmod(int(value[0, channel].argmax()), value.shape[3])
        position = (row, column)
    return (0, channel, *position)


def project_by_autograd(
    model: nn.Module,
    x: Tensor,
    layer: str,
    channel: int,
    position: tuple[int, int] | None,
    rule: str,
    lrn: str = "gradient",
) -> Tensor:
    """The signal [3, H, W] that a one at the chosen unit of `layer` sends back to the image x [1, 3, H, W]."""
    image = x.detach().clone().requires_grad_()
    with torch.enable_grad(), _Rule(rule, lrn):
        value = _forward(model, image.clone(), layer)  # the clone: a network may overwrite its input in place
    (signal,) = torch.autograd.grad(value[unit(value, channel, position)], image)
    return signal[0]
