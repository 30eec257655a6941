"""Relevance through gates: which tokens made an output of a recurrent network.

Where a gate meets a signal the signal takes all, and the gate nothing (Arras et al. 2017, "Explaining recurrent neural
network predictions in sentiment analysis"). With R the relevance:

    h' = o tanh(c')            R(c') takes R(h'), and what comes from later steps
    c' = f c + i g             R(c) = f c / c' R(c'),  R(g) = i g / c' R(c')
    g = tanh(W [x, h] + b)     R(W [x, h] + b) = R(g), which the linear rule shares out among x and h
    h' = (1 - z) n + z h       the same as for c', for a GRU; in n, r gates the part of h
    y = sum_j a_j w_j + b      R(a_j) = (a_j w_j + d (e sign y + b) / J) / (y + e sign y) R(y)       the linear rule

e is the stabiliser. With the bias factor d = 0 this is the epsilon rule (Bach et al. 2015, equation 58): biases and the
stabiliser keep what is theirs. With d = 1 they are shared out in equal parts among the J inputs, and nothing is lost:
the relevance of all inputs and of the states before the first step is the output. That is a check, not an explanation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deconvviz.errors import ModelError
from deconvviz.studies.recurrent.model import RecurrentModel
from deconvviz.studies.recurrent.naming import CARRIED
from deconvviz.studies.recurrent.replay import directions_of, outputs_of, replay, weights_of


@dataclass(frozen=True)
class LinearRule:
    """How relevance is shared out among what adds up to a value.

    Attributes:
        epsilon: the stabiliser.
        bias_factor: d, the part of what biases and the stabiliser hold that goes on to the inputs, in 0..1.
    """

    epsilon: float = 1e-3
    bias_factor: float = 0.0

    def share(self, total: Tensor, relevance: Tensor, terms: int) -> tuple[Tensor, Tensor]:
        """Return what a contribution is multiplied with, and what each of J inputs gets beside it for the stabiliser.

        Args:
            total: y, of any shape.
            relevance: R(y), [..., *y.shape].
            terms: J.
        """
        sign = torch.where(total >= 0, 1.0, -1.0).to(total)
        ratio = relevance / (total + self.epsilon * sign)
        return ratio, ratio * (self.bias_factor * self.epsilon * sign / terms)


@dataclass(frozen=True)
class InputRelevance:
    """What an output of a network says of one sequence goes back to.

    Attributes:
        inputs: [K, T, D], the relevance of every number that the network reads, in units of the output.
        before: [K], that of the states before the first step.
        scores: [K], the outputs that were shared out.
    """

    inputs: Tensor
    before: Tensor
    scores: Tensor


@torch.no_grad()
def input_relevance(
    model: RecurrentModel,
    x: Tensor,
    steps: Tensor,
    targets: Tensor,
    *,
    rule: LinearRule | None = None,
    before: Mapping[str, Tensor] | None = None,
) -> InputRelevance:
    """Share K outputs of a network for one sequence out among its inputs.

    Args:
        model: with a linear head.
        x: [T, D], the inputs.
        steps: int64 [K], the step at which each output is read.
        targets: int64 [K], which output of the head it is.
        rule: the linear rule; by default epsilon 0.001 and bias factor 0.
        before: "LAYER.STATE" -> [1, H], as for `replay`.

    Raises:
        ModelError: the model has no head, or one that is not linear.

    >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
    <torch._C.Generator object at ...>
    >>> model = RecurrentModel(recurrent=nn.LSTM(3, 4).double(), head=nn.Linear(4, 2).double())
    >>> x = torch.randn(6, 3, dtype=torch.double)
    >>> found = input_relevance(model, x, torch.tensor([5]), torch.tensor([1]), rule=LinearRule(bias_factor=1.0))
    >>> torch.allclose(found.inputs.sum() + found.before.sum(), found.scores.sum())
    True
    """
    rule, head = rule or LinearRule(), linear_head(model)
    states = {name: values[0] for name, values in replay(model, x[None], None, before).items()}
    earlier = {name: values[0] for name, values in (before or {}).items()}
    read = outputs_of(model, states)
    scores = (read[steps] * head.weight[targets]).sum(1) + _bias(head)[targets]
    relevance = x.new_zeros(len(steps), *read.shape)
    ratio, extra = rule.share(scores, scores, read.shape[1])
    rows = torch.arange(len(steps), device=x.device)
    biases = rule.bias_factor * _bias(head)[targets] / read.shape[1]
    relevance[rows, steps] = (read[steps] * head.weight[targets] + biases[:, None]) * ratio[:, None] + extra[:, None]
    first = x.new_zeros(len(steps))
    for number in reversed(range(model.depth)):
        below = outputs_of(model, states, number - 1) if number else x
        parts = relevance.chunk(model.directions, 2)
        relevance = torch.zeros(len(steps), *below.shape).to(x)
        for layer, part in zip(directions_of(model, number), parts, strict=True):
            of_inputs, of_states = _Layer(model, layer, below, states, earlier, rule).back(part)
            relevance, first = relevance + of_inputs, first + of_states
    return InputRelevance(relevance, first, scores)


def linear_head(model: RecurrentModel) -> nn.Linear:
    """Return the head of a model; raises ModelError where it has none, or one that is not linear."""
    parts = [] if model.head is None else [*model.head.children()] or [model.head]
    parts = [part for part in parts if not isinstance(part, nn.Dropout | nn.Identity)]
    if len(parts) != 1 or not isinstance(parts[0], nn.Linear):
        what = "no head" if model.head is None else f"a head of kind {type(model.head).__name__}"
        raise ModelError(f"{model.name or model.kind} has {what}; relevance starts at a torch.nn.Linear")
    return parts[0]


def _bias(head: nn.Linear) -> Tensor:
    return head.bias if head.bias is not None else head.weight.new_zeros(len(head.weight))


class _Layer:
    """One layer in one direction, in which relevance goes back through time.

    Attributes:
        x: [T, D], its inputs in the order in which it reads.
        states: state or gate -> [T, H], likewise.
        before: state -> [T, H], before each step.
    """

    def __init__(
        self,
        model: RecurrentModel,
        layer: str,
        x: Tensor,
        states: Mapping[str, Tensor],
        earlier: Mapping[str, Tensor],
        rule: LinearRule,
    ) -> None:
        self.model, self.rule, self.backwards = model, rule, layer.endswith("backwards")
        self.weights = weights_of(model, layer)
        parameters = {
            name.removeprefix(f"{layer}."): each for name, each in states.items() if name.rpartition(".")[0] == layer
        }
        self.states = {name: each.flip(0) if self.backwards else each for name, each in parameters.items()}
        self.x = x.flip(0) if self.backwards else x
        zeros = x.new_zeros(model.units)
        self.before = {
            name: torch.cat([earlier.get(f"{layer}.{name}", zeros)[None], self.states[name][:-1]])
            for name in CARRIED[model.kind]
        }

    def back(self, relevance: Tensor) -> tuple[Tensor, Tensor]:
        """Return the relevance of the inputs, [K, T, D], and that of the states before the first step, [K].

        Args:
            relevance: [K, T, H], what arrives at the hidden states from above.
        """
        relevance = relevance.flip(1) if self.backwards else relevance
        hidden = relevance.new_zeros(len(relevance), self.model.units)
        cell, inputs = hidden, []
        for place in reversed(range(len(self.x))):
            hidden = hidden + relevance[:, place]
            if self.model.kind == "LSTM":
                signal, cell = self._split("cell", cell + hidden, place)
                of_inputs, hidden = self._linear(signal, place)
            elif self.model.kind == "GRU":
                signal, kept_signal = self._split("hidden", hidden, place)
                of_inputs, hidden = self._linear(signal, place)
                hidden = hidden + kept_signal
            else:
                of_inputs, hidden = self._linear(hidden, place)
            inputs.append(of_inputs)
        together = torch.stack(inputs if self.backwards else inputs[::-1], 1)
        return together, (hidden + cell).sum(1) if self.model.kind == "LSTM" else hidden.sum(1)

    def _split(self, state: str, relevance: Tensor, place: int) -> tuple[Tensor, Tensor]:
        """Share the relevance of a state, new part + kept part, out: (of the candidate, of the state before)."""
        values = {name: each[place] for name, each in self.states.items()}
        new, kept = (values["input"], values["forget"]) if state == "cell" else (1 - values["update"], values["update"])
        ratio, extra = self.rule.share(values[state], relevance, 2)
        return new * values["candidate"] * ratio + extra, kept * self.before[state][place] * ratio + extra

    def _linear(self, relevance: Tensor, place: int) -> tuple[Tensor, Tensor]:
        """Share the relevance of the candidate's sum [K, H] out: of the inputs [K, D], of the states before [K, H]."""
        kind, units = self.model.kind, self.model.units
        start = {"LSTM": 2 * units, "GRU": 2 * units, "RNN": 0}[kind]
        inputs, states, input_bias, state_bias = (each[start : start + units] for each in self.weights)
        if kind == "GRU":  # the reset gate takes nothing; what it lets through of the state is the signal
            reset = self.states["reset"][place]
            states, state_bias = states * reset[:, None], state_bias * reset
        x, before, bias = self.x[place], self.before["hidden"][place], input_bias + state_bias
        terms = len(x) + units
        ratio, extra = self.rule.share(inputs @ x + states @ before + bias, relevance, terms)
        rest = (extra + ratio * self.rule.bias_factor * bias / terms).sum(1, keepdim=True)
        return (ratio @ inputs) * x + rest, (ratio @ states) * before + rest
