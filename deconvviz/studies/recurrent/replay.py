"""Run an LSTM, a GRU or an RNN step by step, and keep what torch's fused kernel hides: cell states and gates.

With x the inputs, h the hidden state before the step and s the logistic function, torch.nn computes

    LSTM  i = s(W_i x + b_i), f and o likewise, g = tanh(W_g x + b_g), where W reads x and h;
          c' = f c + i g,  h' = o tanh(c')                                            Hochreiter and Schmidhuber 1997
    GRU   r = s(.), z = s(.), n = tanh(W_n x + b_n + r (U_n h + d_n)),  h' = (1 - z) n + z h          Cho et al. 2014
    RNN   h' = tanh(W x + b + U h + d), or with ReLU in its place

These are the equations in the documentation of torch.nn. Its LSTM keeps the gates in the order i, f, g, o, its GRU in
the order r, z, n.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from deconvviz.studies.recurrent.model import RecurrentModel
from deconvviz.studies.recurrent.naming import CARRIED, STATES


class Weights(NamedTuple):
    """The weights of one layer in one direction.

    Attributes:
        inputs: [gates * H, D], of the layer's inputs.
        states: [gates * H, H], of the hidden state before.
        input_bias: [gates * H]; zeros where the module has no biases.
        state_bias: likewise.
    """

    inputs: Tensor
    states: Tensor
    input_bias: Tensor
    state_bias: Tensor


def weights_of(model: RecurrentModel, layer: str) -> Weights:
    """Return the weights of a layer, one of `model.layers`."""
    number, _, backwards = layer.partition(".")
    ending = f"l{number}{'_reverse' if backwards else ''}"
    inputs, states = (getattr(model.recurrent, f"weight_{part}_{ending}") for part in ("ih", "hh"))
    none = inputs.new_zeros(len(inputs))
    biases = (getattr(model.recurrent, f"bias_{part}_{ending}", none) for part in ("ih", "hh"))
    return Weights(inputs, states, *biases)


def step(model: RecurrentModel, weights: Weights, x: Tensor, before: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Compute one step of one layer.

    Args:
        model: whose kind says which equations hold.
        weights: of the layer.
        x: [B, D], the layer's inputs.
        before: state -> [B, H], what `naming.CARRIED` names, before the step.

    Returns:
        The states after the step, and the gates, [B, H] each, by the names of `naming.STATES`.
    """
    from_inputs = x @ weights.inputs.T + weights.input_bias
    from_states = before["hidden"] @ weights.states.T + weights.state_bias
    if model.kind == "RNN":
        total = from_inputs + from_states
        return {"hidden": total.relu() if model.recurrent.nonlinearity == "relu" else total.tanh()}
    if model.kind == "GRU":
        parts = zip(from_inputs.chunk(3, -1), from_states.chunk(3, -1), strict=True)
        (reset_x, reset_h), (update_x, update_h), (candidate_x, candidate_h) = parts
        reset, update = (reset_x + reset_h).sigmoid(), (update_x + update_h).sigmoid()
        candidate = (candidate_x + reset * candidate_h).tanh()
        hidden = (1 - update) * candidate + update * before["hidden"]
        return {"hidden": hidden, "reset": reset, "update": update, "candidate": candidate}
    i, f, g, o = (from_inputs + from_states).chunk(4, -1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    cell = f * before["cell"] + i * g
    return {"hidden": o * cell.tanh(), "cell": cell, "input": i, "forget": f, "candidate": g, "output": o}


@torch.no_grad()
def replay(
    model: RecurrentModel, x: Tensor, lengths: Tensor | None = None, before: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Run all layers over some sequences.

    Args:
        model: its recurrent module computes on the device and in the dtype of x; dropout between layers is off.
        x: [B, T, D], the inputs of B sequences, whether or not the module has batch_first.
        lengths: int64 [B], steps of each; those beyond are padding, whose values mean nothing. None: all have T.
        before: "LAYER.STATE" -> [B, H], such as "0.cell": the states before the first step; by default zeros.

    Returns:
        "LAYER.STATE" -> [B, T, H], for each layer of `model.layers` and each name of `naming.STATES`.

    >>> from torch import nn
    >>> lstm, x = nn.LSTM(3, 4, batch_first=True), torch.randn(2, 5, 3)
    >>> states = replay(RecurrentModel(recurrent=lstm), x)
    >>> sorted(states)[:2], torch.allclose(states["0.hidden"], lstm(x)[0], atol=1e-6)
    (['0.candidate', '0.cell'], True)
    """
    if lengths is None:
        lengths = torch.full((len(x),), x.shape[1], device=x.device)
    found: dict[str, Tensor] = {}
    for number in range(model.depth):
        outputs = []
        for layer in directions_of(model, number):
            turned = _turned(x, lengths) if layer.endswith("backwards") else x
            states = _layer(model, layer, turned, before or {})
            if layer.endswith("backwards"):
                states = {name: _turned(values, lengths) for name, values in states.items()}
            found |= {f"{layer}.{name}": values for name, values in states.items()}
            outputs.append(states["hidden"])
        x = torch.cat(outputs, -1)
    return found


def directions_of(model: RecurrentModel, number: int) -> tuple[str, ...]:
    """Return the names of a layer, counted from 0, in its one or two directions."""
    return model.layers[number * model.directions : (number + 1) * model.directions]


def outputs_of(model: RecurrentModel, states: Mapping[str, Tensor], number: int | None = None) -> Tensor:
    """Return a layer's hidden states, of both directions one after the other, [..., T, directions * H].

    Args:
        model: whose states they are.
        states: "LAYER.STATE" -> [..., T, H].
        number: of the layer, from 0; None for the last one.
    """
    layers = directions_of(model, model.depth - 1 if number is None else number)
    return torch.cat([states[f"{layer}.hidden"] for layer in layers], -1)


def _layer(model: RecurrentModel, layer: str, x: Tensor, before: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Run one layer over x [B, T, D] from the first step to the last."""
    weights = weights_of(model, layer)
    zeros = x.new_zeros(len(x), model.units)
    states = {name: before.get(f"{layer}.{name}", zeros) for name in CARRIED[model.kind]}
    steps = []
    for place in range(x.shape[1]):
        steps.append(step(model, weights, x[:, place], states))
        states = {name: steps[-1][name] for name in CARRIED[model.kind]}
    return {name: torch.stack([each[name] for each in steps], 1) for name in STATES[model.kind]}


def _turned(values: Tensor, lengths: Tensor) -> Tensor:
    """Reverse each sequence of [B, T, ...] within its own length."""
    places = torch.arange(values.shape[1], device=values.device)[None]
    order = torch.where(places < lengths[:, None], lengths[:, None] - 1 - places, places)
    return values.gather(1, order[..., None].expand_as(values))
