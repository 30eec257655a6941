"""Layer-wise relevance propagation over the op table: a policy that a signal goes down by, like the deconvnet's.

Every op takes the relevance of its output and shares it out among its inputs in proportion to what they contributed:

    epsilon   R_j = a_j * sum_k w_jk R_k / (z_k + eps sign(z_k))       any op that is linear in its inputs
    z+        the same with w^+ and b^+ for a_j >= 0; a_j < 0 counts with w^-                    convolutions

Rectifiers, dropout and normalisation of contrast hand the relevance through; max pooling gives it to the winner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, fx

from deconvviz.deconv.switches import unpool
from deconvviz.graph.ops import Call, op_name, op_of, vector_jacobian


@dataclass(frozen=True)
class LRP:
    """How relevance goes down: `convolution` is "epsilon" or "z+"; `epsilon` keeps small sums in bounds."""

    convolution: Literal["epsilon", "z+"] = "epsilon"
    epsilon: float = 1e-6

    def reads_values(self, node: fx.Node) -> bool:
        """Every share depends on the values."""
        return True

    def transpose(self, call: Call, signal: Tensor) -> Sequence[Tensor | None]:
        """Return the relevance of each data input of one call, from that of its output."""
        op, name = op_of(call.node), op_name(call.node)
        if op.kind in ("rectifier", "lrn"):
            return [signal]
        if op.kind == "max_pool":
            height, width = call.inputs[0].shape[2:]
            return [unpool(signal, call.extra["switches"], height, width)]
        if op.identity or op.reshapes or op.reorders or name == "cat":
            return vector_jacobian(call, signal)
        if name == "conv2d" and self.convolution == "z+":
            return [self._positive(call, signal)]
        return self._shared(call, signal)

    def _shared(self, call: Call, signal: Tensor) -> list[Tensor | None]:
        """The epsilon rule; the bias is among the contributions and takes its share with it."""
        parts = vector_jacobian(call, signal / self._away_from_zero(call.run()))
        return [None if part is None else part * value for part, value in zip(parts, call.inputs, strict=True)]

    def _positive(self, call: Call, signal: Tensor) -> Tensor:
        """The z+ rule: what is positive of a w, a >= 0 by w^+ and a < 0 by w^-."""
        value, weight, bias, *rest = call.args
        total, parts = torch.zeros_like(signal), list[tuple[Tensor, Call]]()
        for a, w in ((value.clamp(min=0), weight.clamp(min=0)), (value.clamp(max=0), weight.clamp(max=0))):
            part = Call(call.target, (a, w, None, *rest), call.kwargs, [a], call.node)
            total, parts = total + part.run(), [*parts, (a, part)]
        if bias is not None:
            total = total + bias.clamp(min=0)[:, None, None]
        share = signal / self._away_from_zero(total)
        found = torch.zeros_like(value)
        for a, part in parts:
            product = vector_jacobian(part, share)[0]
            assert product is not None
            found += a * product
        return found

    def _away_from_zero(self, z: Tensor) -> Tensor:
        return z + self.epsilon * torch.where(z >= 0, 1.0, -1.0).to(z.dtype)
