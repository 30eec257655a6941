"""The rules of a projection: what each kind of op does to the signal on its way back to the image.

Three rules differ at rectifiers only. With g the signal from above and x the rectifier's input:

    gradient   g * f'(x)                    Simonyan et al. 2013
    deconvnet  max(g, 0)                    Zeiler and Fergus 2013, section 2.1, "Rectification"
    guided     max(g, 0) * [0 < x < cap]    Springenberg et al. 2014, section 3

The papers define the last two for ReLU. For the rectifiers that came later (SiLU, GELU, hard swish, leaky ReLU, ...)
they are taken as they are written: the signal is clamped, and the guided rule masks where the input was not positive.
`cap` is 6 for ReLU6, the upper bound of a hardtanh, and infinite for all others.

    gradient-x-input   the gradient, times the pixels; Shrikumar et al. 2016
    lrp-...            relevance, shared out at every op in proportion to what was contributed; see `relevance`

`WAYS` lists all of them by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, fx

from deconvviz.choices import LRN_POLICIES, OVERLAPS
from deconvviz.deconv.relevance import LRP, Convolution, only_rectified, upper_half
from deconvviz.deconv.switches import unpool
from deconvviz.errors import ProjectionError, require_choice
from deconvviz.graph.ops import Call, is_linear, op_name, op_of, vector_jacobian
from deconvviz.registry import Registry

Rectify = Callable[[Call, Tensor], Tensor]
RULES: Registry[Rectify] = Registry("rule")


def _gradient(call: Call, signal: Tensor) -> Tensor:
    if op_name(call.node) == "relu":
        passed: Tensor = torch.ops.aten.threshold_backward(signal, call.inputs[0], 0)
        return passed  # not a product: where it is off, inf and NaN end too
    product = vector_jacobian(call, signal)[0]
    assert product is not None
    return product


def _deconvnet(call: Call, signal: Tensor) -> Tensor:
    return signal.nan_to_num(0, 0, 0).clamp_(min=0)  # behind a root of zero it is infinite


def _guided(call: Call, signal: Tensor) -> Tensor:
    passed: Tensor = torch.ops.aten.hardtanh_backward(_deconvnet(call, signal), call.inputs[0], 0, _cap(call))
    return passed


def _cap(call: Call) -> float:
    """Return the input from which on the rectifier's value does not rise any more."""
    name = op_name(call.node)
    return 6.0 if name == "relu6" else float(call.args[2]) if name == "hardtanh" else math.inf


for _name, _rule in {"deconvnet": _deconvnet, "guided": _guided, "gradient": _gradient}.items():
    RULES.add(_name, _rule)


PixelBounds = tuple[Tensor, Tensor]


class BackwardRule(Protocol):
    """How a signal goes back through the ops of a graph: a projection's `Policy`, or relevance propagation."""

    def reads_values(self, node: fx.Node) -> bool:
        """Return whether the signal behind this op depends on the values that ran through it forwards."""

    def transpose(self, call: Call, signal: Tensor) -> Sequence[Tensor | None]:
        """Return the signal at each data input of one call, from the signal at its output."""


@dataclass(frozen=True)
class Policy:
    """How a projection's signal goes back: the rule at rectifiers, overlapping switches and contrast normalisation.

    Attributes:
        rule: "deconvnet", "guided" or "gradient".
        overlap: "sum" or "last"; see `switches.unpool`.
        lrn: "identity" hands the signal through; "gradient" takes the vector-Jacobian product. The paper is silent.

    Raises:
        ProjectionError: another value.
    """

    rule: str = "deconvnet"
    overlap: str = "sum"
    lrn: str = "identity"

    def __post_init__(self) -> None:
        require_choice("rule", self.rule, tuple(RULES), ProjectionError)
        require_choice("overlap", self.overlap, OVERLAPS, ProjectionError)
        require_choice("lrn", self.lrn, LRN_POLICIES, ProjectionError)

    def reads_values(self, node: fx.Node) -> bool:
        """True where the signal's way through this op depends on the values that ran through it."""
        kind = op_of(node).kind
        if kind == "rectifier":
            return self.rule != "deconvnet"
        return self.lrn == "gradient" if kind == "lrn" else not is_linear(node)

    def transpose(self, call: Call, signal: Tensor) -> Sequence[Tensor | None]:
        """Return the signal for each data input of one call from the signal at its output."""
        op = op_of(call.node)
        if op.kind == "rectifier":
            return [RULES[self.rule](call, signal)]
        if op.kind == "stop" and self.rule == "gradient":
            return [None]
        if op.kind == "max_pool":
            height, width = call.inputs[0].shape[2:]
            return [unpool(signal, call.extra["switches"], height, width, self.overlap)]
        if op.kind == "lrn" and self.lrn == "identity":
            return [signal]
        return op.transpose(call, signal) if op.transpose else vector_jacobian(call, signal)


@dataclass(frozen=True, kw_only=True)
class Descent:
    """What a rule may depend on, apart from the values: the conventions of `SignalOptions`, and the way itself.

    Attributes:
        overlap: see `Policy`.
        lrn: see `Policy`.
        bounds: see `LRP.bounds`.
        steps: the nodes from the image to the unit's layer.
        proportional: whether the signal that starts is in proportion to the value where it starts.
    """

    overlap: str
    lrn: str
    bounds: PixelBounds | None
    steps: tuple[fx.Node, ...]
    proportional: bool = False


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way down from a unit to the pixels.

    Attributes:
        policy: what each op does to the signal.
        times_input: the signal at the image is multiplied by the pixels.
        folded: it runs on the network with every BatchNorm folded into its convolution, because the rule depends on
            how a linear map is split into ops.
    """

    policy: Callable[[Descent], BackwardRule]
    times_input: bool = False
    folded: bool = False


WAYS: Registry[Way] = Registry("rule")


def _rectified_by(rule: str) -> Callable[[Descent], BackwardRule]:
    return lambda way: Policy(rule, way.overlap, way.lrn)


def _relevance(rule: Convolution) -> Callable[[Descent], BackwardRule]:
    return lambda way: LRP(rule, bounds=way.bounds, normalisation="pass", rectified=_rectified(way))


def _composite(way: Descent) -> BackwardRule:
    upper, rectified = upper_half(way.steps), _rectified(way)
    return LRP("gamma", bounds=way.bounds, normalisation="pass", upper=upper, rectified=rectified)


def _epsilon(way: Descent) -> BackwardRule:
    return LRP("epsilon", normalisation="pass", rectified=_rectified(way))


def _rectified(way: Descent) -> frozenset[fx.Node]:
    return only_rectified(way.steps) if way.proportional else frozenset()


for _name in RULES:
    WAYS.add(_name, Way(policy=_rectified_by(_name)))
WAYS.add("gradient-x-input", Way(policy=_rectified_by("gradient"), times_input=True))
WAYS.add("lrp-epsilon", Way(policy=_epsilon, folded=True))
WAYS.add("lrp-gamma", Way(policy=_relevance("gamma"), folded=True))
WAYS.add("lrp-zplus", Way(policy=_relevance("z+"), folded=True))
WAYS.add("lrp-composite", Way(policy=_composite, folded=True))
