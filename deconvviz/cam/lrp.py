"""Layer-wise relevance propagation over the op table: one more policy for a signal that goes back, as the deconvnet is.

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
    """How relevance goes back.

    Attributes:
        convolution: rule at convolutions, "epsilon" or "z+".
        epsilon: keeps small sums away from zero.
    """

    convolution: Literal["epsilon", "z+"] = "epsilon"
    epsilon: float = 1e-6

    def reads_values(self, node: fx.Node) -> bool:
        """Return True: every share depends on the values."""
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
        """Return the relevance by the epsilon rule; the bias is a contribution too, and its share is lost."""
        parts = vector_jacobian(call, signal / self._away_from_zero(call.run()))
        return [None if part is None else part * value for part, value in zip(parts, call.inputs, strict=True)]

    def _positive(self, call: Call, signal: Tensor) -> Tensor:
        """Return the relevance by the z+ rule: only positive products a w count, a >= 0 with w^+ and a < 0 with w^-."""
        value, weight, bias, *rest = call.args
        total, parts = torch.zeros_like(signal), list[tuple[Tensor, Call]]()
        for a, w in ((value.clamp(min=0), weight.clamp(min=0)), (value.clamp(max=0), weight.clamp(max=0))):
            part = Call(call.target, (a, w, None, *rest), call.kwargs, [a], call.node)
            total, parts = total + part.run(), [*parts, (a, part)]
        if bias is not None:
            total = total + bias.clamp(min=0)[:, None, None]
        share = signal / self._away_from_zero(total)
        relevance = torch.zeros_like(value)
        for a, part in parts:
            product = vector_jacobian(part, share)[0]
            assert product is not None
            relevance += a * product
        return relevance

    def _away_from_zero(self, z: Tensor) -> Tensor:
        return z + self.epsilon * torch.where(z >= 0, 1.0, -1.0).to(z.dtype)
