"""Layer-wise relevance propagation: one more rule for a signal that goes back through the graph, as the deconvnet is.

Every op takes the relevance of its output and shares it out among its inputs in proportion to what they contributed.
With a the input, w and b the weights, z = a w + b the output, and R the relevance of the output:

    epsilon   R_j = a_j sum_k w_jk R_k / (z_k + eps sign z_k)                            Bach et al. 2015, equation 58
    z+        the same with w^+ and b^+ for a_j >= 0; a_j < 0 counts with w^-            Montavon et al. 2017, section 4
    gamma     the same with w + gamma w^+ and b + gamma b^+ where z_k > 0, and with w + gamma w^- where z_k < 0;
              negative a_j take the other part of w                                      Montavon et al. 2019
    alpha-beta  alpha times the share by positive products a w and b^+, minus (alpha - 1) times that by negative ones
                                                                                         Bach et al. 2015, equation 60
    z^B       R_j = sum_k (a_j w_jk - l_j w_jk^+ - h_j w_jk^-) R_k / sum_j (...), for pixels between l and h
                                                                                         Montavon et al. 2017, section 4
    flat      R_j = sum_k R_k / n_k, n_k the number of pixels under a filter             Lapuschkin et al. 2019
    w^2       R_j = sum_k w_jk^2 R_k / sum_j w_jk^2                                      Montavon et al. 2017, section 4

The other ops, each by a stated rule:

    rectifiers, contrast normalisation, dropout   hand the relevance through
    max pooling                                    gives it to the winner, by the switches
    views, permutations, slices, borders,
    concatenation                                  move it along with the values
    sums, means, scalings, attention's values      epsilon: in proportion to what each part contributed
    products a b of two values                     all to the other factor where one is a gate (it comes from a sigmoid
                                                   or a softmax), half to each otherwise; Arras et al. 2017
    quotients a / b of two values                  all to a; b is held constant
    softmax, sigmoid and other gates               take nothing; Ali et al. 2022 treat attention weights so
    layer_norm                                     epsilon, with the standard deviation held constant; Ali et al. 2022
    any other op                                   epsilon over its vector-Jacobian product; it is named as linearised
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, fx

from deconvviz.deconv.switches import unpool
from deconvviz.graph.ops import Call, op_name, op_of, reads_pixels, vector_jacobian
from deconvviz.graph.reach import data_inputs

Convolution = Literal["epsilon", "gamma", "z+", "alpha-beta"]
Pixels = Literal["as the others", "flat", "w^2"]
GAMMA = 0.25  # as in zennit's composites


@dataclass(frozen=True)
class LRP:
    """How relevance goes back.

    Attributes:
        convolution: rule at convolutions: "epsilon", "gamma", "z+" or "alpha-beta". Linear maps always take epsilon.
        epsilon: keeps small sums away from zero.
        gamma: weight of the favoured part in the gamma rule.
        alpha: weight of the positive part in the alpha-beta rule; that of the negative part is alpha - 1.
        bounds: (lowest, highest) value that a pixel can take, each a tensor [C] or [N, C]; convolutions that read the
            image directly then take the rule z^B. None: they take the rule that `pixels` says.
        pixels: rule at convolutions that read the image directly: "flat" or "w^2", which do not look at the pixels'
            values, or "as the others".
        upper: convolutions that take epsilon whatever `convolution` says. With those of the upper half of the way it is
            the composite by depth of Montavon et al. 2019: gamma below, epsilon above.
        normalisation: rule at a BatchNorm that stands alone: "epsilon", or "pass", which hands the relevance through.
        rectified: convolutions of whose outputs only those above zero can have relevance, see `only_rectified`. Their
            rules are computed by fewer convolutions.
    """

    convolution: Convolution = "epsilon"
    epsilon: float = 1e-6
    gamma: float = GAMMA
    alpha: float = 2.0
    bounds: tuple[Tensor, Tensor] | None = None
    pixels: Pixels = "as the others"
    upper: frozenset[fx.Node] = frozenset()
    normalisation: Literal["epsilon", "pass"] = "epsilon"
    rectified: frozenset[fx.Node] = frozenset()

    def reads_values(self, node: fx.Node) -> bool:
        """Return whether the shares at an op depend on the values, and not on their shapes or the switches alone."""
        return not self._hands_through(node) and op_of(node).kind != "max_pool" and not _moves_or_ends(node)

    def transpose(self, call: Call, signal: Tensor) -> Sequence[Tensor | None]:
        """Return the relevance of each data input of one call, from that of its output."""
        op, name = op_of(call.node), op_name(call.node)
        if self._hands_through(call.node):
            return [signal]
        if op.kind == "max_pool":
            height, width = call.inputs[0].shape[2:]
            return [unpool(signal, call.extra["switches"], height, width)]
        if name in GATES:
            return [None] * len(call.inputs)
        if _moves_or_ends(call.node):
            return op.transpose(call, signal) if op.transpose else vector_jacobian(call, signal)
        if len(call.inputs) > 1 and (name in PRODUCTS or op.weighted):  # filters may follow from the image
            return self._factors(call, signal)
        if name == "conv2d":
            return [self._convolution(call, signal)]
        return self._shared(call, signal)

    def _hands_through(self, node: fx.Node) -> bool:
        """Return whether the relevance of an op's output is that of its input."""
        op = op_of(node)
        return op.kind in ("rectifier", "lrn") or (op.normalises and self.normalisation == "pass")

    # --- rules ---

    def _shared(self, call: Call, signal: Tensor) -> list[Tensor | None]:
        """Return the relevance by the epsilon rule; the bias is a contribution too, and its share is lost."""
        op, share = op_of(call.node), self._share(call, signal)
        if op_name(call.node) == "layer_norm":
            return [call.inputs[0] * _layer_norm_transpose(call, share)]
        parts = op.transpose(call, share) if op.transpose else vector_jacobian(call, share)
        return [None if part is None else part * value for part, value in zip(parts, call.inputs, strict=True)]

    def _convolution(self, call: Call, signal: Tensor) -> Tensor:
        if reads_pixels(call.node) and self.bounds is not None:
            return self._bounded(call, signal)
        if reads_pixels(call.node) and self.pixels != "as the others":
            return self._by_weights(call, signal)
        rule = "epsilon" if call.node in self.upper else self.convolution
        if rule == "gamma":
            return self._gamma(call, signal)
        if rule == "z+":
            return self._of_sign(call, signal)
        if rule == "alpha-beta":
            positive, negative = self._of_sign(call, signal), self._of_sign(call, signal, -1)
            return self.alpha * positive - (self.alpha - 1) * negative
        value, weight = call.args[:2]
        return _returned([_with(call, value, weight)], self._share(call, signal))

    def _of_sign(self, call: Call, signal: Tensor, sign: int = 1) -> Tensor:
        """Return the relevance where products a w of one sign count alone, as the z+ rule has it for positive ones."""
        value, weight, bias = call.args[:3]
        favoured = weight.clamp(min=0) if sign > 0 else weight.clamp(max=0)  # of values above zero
        if never_negative(call.node):
            parts = [_with(call, value, favoured)]
        else:
            parts = [
                _with(call, value.clamp(min=0), favoured),
                _with(call, value.clamp(max=0), weight - favoured),
            ]
        total = sum(part.run() for part in parts) + sign * self.epsilon  # no part of it has the other sign
        if bias is not None:
            total = total + (bias.clamp(min=0) if sign > 0 else bias.clamp(max=0))[:, None, None]
        return _returned(parts, signal / total)

    def _by_weights(self, call: Call, signal: Tensor) -> Tensor:
        """Return the relevance shared among the pixels under a filter: alike, or by the squares of its weights."""
        value, weight = call.args[:2]
        inside = call.inside() if call.inside else None
        ones = torch.ones_like(value) if inside is None else torch.ones_like(value) * inside
        part = _with(call, ones, torch.ones_like(weight) if self.pixels == "flat" else weight.square())
        return _returned([part], signal / self._away_from_zero(part.run()))

    def _gamma(self, call: Call, signal: Tensor) -> Tensor:
        """Return the relevance by the gamma rule, which favours what has the sign of the output.

        With the contributions c = a w, c^+ = (c + |c|) / 2, and s the sign of the output, the denominator is
        z + gamma / 2 (z + s |a| |w| + s |b|), and so all four combinations of signs are two convolutions: one of a with
        w, and one of |a| with |w|. An output of zero hands nothing on.
        """
        value, weight, bias = call.args[:3]
        if call.node in self.rectified and never_negative(call.node):
            return self._gamma_above_zero(call, signal)
        magnitude = value if never_negative(call.node) else value.abs()
        signed, unsigned = _with(call, value, weight), _with(call, magnitude, weight.abs())
        out, half, size = call.value(), self.gamma / 2, unsigned.run()
        if bias is not None:
            size.add_(bias.abs()[:, None, None])
        if call.node in self.rectified:  # what has relevance is above zero; the clamp is for the rest
            total = out.mul(1 + half).add_(size, alpha=half).add_(self.epsilon).clamp_(min=self.epsilon)
            share = share_of_unsigned = torch.div(signal, total, out=total)
        else:
            sign = out.sign()
            total = out.abs().mul_(1 + half).add_(size, alpha=half).add_(self.epsilon)
            share = torch.div(signal * sign, total, out=total)
            share_of_unsigned = share * sign
        from_signed, from_unsigned = _returned([signed], share), _returned([unsigned], share_of_unsigned)
        return from_signed.mul_(1 + half).add_(from_unsigned, alpha=half)

    def _gamma_above_zero(self, call: Call, signal: Tensor) -> Tensor:
        """Return the relevance by the gamma rule where no input is below zero, and only outputs above it have any.

        Then s = 1 and a = |a|, so that both convolutions are one, with the weights w + gamma w^+.
        """
        value, weight, bias = call.args[:3]
        favoured = torch.add(weight, weight.clamp(min=0), alpha=self.gamma)
        constants = None if bias is None else torch.add(bias, bias.clamp(min=0), alpha=self.gamma)
        size: Tensor = Call(
            call.target, (value, favoured, constants, *call.args[3:]), call.kwargs, [value], call.node
        ).run()
        size.add_(self.epsilon).clamp_(min=self.epsilon)  # what is smaller belongs to outputs without relevance
        return _returned([_with(call, value, favoured)], torch.div(signal, size, out=size))

    def _bounded(self, call: Call, signal: Tensor) -> Tensor:
        """Return the relevance by the rule z^B, for a convolution that reads pixels; padding is no pixel."""
        assert self.bounds is not None
        value, weight = call.args[:2]
        inside = call.inside() if call.inside else None
        low, high = (bound.to(value)[..., None, None].expand_as(value) for bound in self.bounds)
        if inside is not None:
            low, high = low * inside, high * inside
        parts = [
            _with(call, value, weight),
            _with(call, -low, weight.clamp(min=0)),
            _with(call, -high, weight.clamp(max=0)),
        ]
        return _returned(parts, signal / self._away_from_zero(sum(part.run() for part in parts)))

    def _factors(self, call: Call, signal: Tensor) -> list[Tensor | None]:
        """Return the relevance of the factors of a product or quotient of two values."""
        name, sources = op_name(call.node), data_inputs(call.node)
        if name == "scaled_dot_product_attention":  # the weights of the mean are a gate; the values are averaged
            parts = self._shared(call, signal)
            return [None, None, parts[2], *[None] * (len(parts) - 3)]
        gates = [is_gate(source) for source in sources[:2]]
        weights = (0.5, 0.5)
        if name == "div" or gates == [False, True]:
            weights = (1.0, 0.0)
        elif gates == [True, False]:
            weights = (0.0, 1.0)
        if name in ("mul", "div"):
            each = [signal.sum_to_size(value.shape) for value in call.inputs[:2]]
        else:
            each = [part for part in self._shared(call, signal)[:2] if part is not None]
        both = [part * weight for part, weight in zip(each, weights, strict=True)]
        return [*both, *[None] * (len(call.inputs) - 2)]

    def _share(self, call: Call, signal: Tensor) -> Tensor:
        """Return the relevance over the output, by the epsilon rule."""
        if call.node in self.rectified:
            return signal / call.value().clamp(min=0).add_(self.epsilon)
        return signal / self._away_from_zero(call.value())

    def _away_from_zero(self, z: Tensor) -> Tensor:
        positive = z + 0.0  # makes a positive zero of a negative one
        return positive.add_(torch.copysign(z.new_tensor(self.epsilon), positive))


GATES = ("sigmoid", "hardsigmoid", "softmax", "_softmax")
PRODUCTS = ("mul", "div", "matmul", "bmm", "scaled_dot_product_attention")
MOVES = (
    *("slice", "select", "split", "split_with_sizes", "chunk", "unbind", "index", "expand", "repeat", "flip", "roll"),
    *("pad", "constant_pad_nd", "to", "_to_copy", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle"),
    "upsample_nearest2d",
)


def _with(call: Call, value: Tensor, weight: Tensor) -> Call:
    """Return a convolution like the given one, of another value with other weights and no bias."""
    return Call(call.target, (value, weight, None, *call.args[3:]), call.kwargs, [value], call.node)


def _returned(parts: Sequence[Call], share: Tensor) -> Tensor:
    """Return the sum over convolutions of what each takes of a share: its input times the transposed share."""
    relevance: Tensor | None = None
    for part in parts:
        transpose = op_of(part.node).transpose
        assert transpose is not None
        product = transpose(part, share)[0]
        assert product is not None
        product.mul_(part.inputs[0])
        relevance = product if relevance is None else relevance.add_(product)
    assert relevance is not None
    return relevance


def _layer_norm_transpose(call: Call, share: Tensor) -> Tensor:
    """Return the transpose of layer normalisation, the standard deviation held constant."""
    value, shape, weight, _, eps = call.args[:5]
    axes = list(range(-len(shape), 0))
    deviation = (value.var(axes, unbiased=False, keepdim=True) + eps).sqrt()
    scaled: Tensor = share / deviation if weight is None else share * weight / deviation
    return scaled - scaled.mean(axes, keepdim=True)


def _moves_or_ends(node: fx.Node) -> bool:
    """Return whether an op moves values, joins them, or takes no relevance."""
    return moves_values(node) or op_name(node) in ("cat", "stack", *GATES)


def is_gate(node: fx.Node) -> bool:
    """Return whether a value is a gate: it comes from a sigmoid or a softmax, with nothing but views between."""
    return op_name(node) in GATES or (moves_values(node) and is_gate(data_inputs(node)[0]))


def moves_values(node: fx.Node) -> bool:
    """Return whether an op only moves, repeats or leaves out values of its one input, perhaps with a border around."""
    op = op_of(node)
    return op.identity or op.reshapes or op.reorders is not None or op_name(node) in MOVES


def never_negative(node: fx.Node) -> bool:
    """Return whether an op reads a value that is never below zero, as the names of the ops before it alone tell."""
    source = data_inputs(node)[0]
    if source.op != "call_function":
        return False
    if op_of(source).kind == "max_pool" or op_of(source).averages or op_of(source).identity:
        return never_negative(source)
    if op_name(source) == "cat":
        return all(_cut_at_zero(part) for part in data_inputs(source))
    return _cut_at_zero(source) or op_name(source) in ("sigmoid", "hardsigmoid")


def _cut_at_zero(node: fx.Node) -> bool:
    """Return whether an op is a rectifier that gives 0 where its input is 0 or less."""
    if op_name(node) == "hardtanh":
        return float(node.args[1]) == 0  # type: ignore[arg-type]
    return op_name(node) in ("relu", "relu6")


def only_rectified(steps: Sequence[fx.Node]) -> frozenset[fx.Node]:
    """Return the convolutions among steps that nothing but a rectifier reads, behind which a zero has no relevance.

    A value of zero has none where every op that reads it shares relevance out in proportion to its inputs, or moves it
    to where the value is zero as well; and where what starts at the last step is in proportion to the value there.

    Args:
        steps: the nodes from the image to the one where relevance starts.
    """
    fading: dict[fx.Node, bool] = {}  # whether a zero of a node's value has no relevance
    for node in reversed(steps):
        fading[node] = all(_fades(reader, fading) for reader in node.users if reader in fading)
    return frozenset(
        node
        for node in steps[:-1]
        if node.op == "call_function"
        and op_name(node) == "conv2d"
        and all(_cut_at_zero(reader) and fading[reader] for reader in node.users if reader in fading)
    )


def _fades(reader: fx.Node, fading: Mapping[fx.Node, bool]) -> bool:
    """Return whether an op gives no relevance to an input of zero, as far as its name tells."""
    op, name = op_of(reader), op_name(reader)
    if op.kind == "max_pool" or moves_values(reader) or name == "cat" or _cut_at_zero(reader):
        return fading[reader]  # the input and the output that it has its relevance from are zero together
    return name in ("conv2d", "linear", "addmm", "add", "add_") or op.averages


def upper_half(steps: Sequence[fx.Node]) -> frozenset[fx.Node]:
    """Return the later half of the convolutions among the steps from the image to a layer; the middle one is below."""
    convolutions = [node for node in steps if node.op == "call_function" and op_name(node) == "conv2d"]
    return frozenset(convolutions[(len(convolutions) + 1) // 2 :])
