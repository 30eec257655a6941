"""An LSTM whose weights are set by hand: unit 0 counts open brackets, unit 1 knows whether it is inside quotes.

With all gates open, unit 0 adds 0.2 to its cell for "(" and takes 0.2 for ")". Unit 1 has an input gate that only a
quote opens, and a candidate that is 1 while its state is 0 and -1 while it is 1. The others have small random weights.
"""

from __future__ import annotations

import math

import torch
from torch import nn

import deconvviz as dv

VOCABULARY = ("(", ")", '"', "a", "b")
UNITS, STEP, OPEN = 6, 0.2, 25.0
COUNTER, QUOTES = 0, 1


def bracket_lstm() -> dv.RecurrentModel:
    """Return it, with a head whose output "deep" is 5 times the hidden state of the counter, and "flat" is 0.1."""
    torch.manual_seed(0)
    lstm, head = nn.LSTM(len(VOCABULARY), UNITS), nn.Linear(UNITS, 2)
    blocks = {name: slice(UNITS * n, UNITS * (n + 1)) for n, name in enumerate(("i", "f", "g", "o"))}
    weights = dict(lstm.named_parameters())
    from_inputs, from_states, bias = (weights[f"{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih"))
    with torch.no_grad():
        for weight in weights.values():
            weight.mul_(0.8)
            for unit in (COUNTER, QUOTES):
                weight[unit::UNITS] = 0
        for unit in (COUNTER, QUOTES):
            for gate in ("i", "f", "o"):
                bias[blocks[gate].start + unit] = OPEN
        from_inputs[blocks["g"].start + COUNTER, :2] = torch.tensor([math.atanh(STEP), -math.atanh(STEP)])
        quotes_in, quotes_new = (blocks[gate].start + QUOTES for gate in ("i", "g"))
        bias[quotes_in] = -OPEN
        from_inputs[quotes_in, VOCABULARY.index('"')] = 2 * OPEN
        bias[quotes_new], from_states[quotes_new, QUOTES] = 15.0, -40.0
        head.weight.zero_()
        head.weight[0, COUNTER] = 5.0
        head.bias.copy_(torch.tensor([0.0, 0.1]))
    return dv.RecurrentModel(recurrent=lstm, head=head, vocabulary=VOCABULARY, outputs=("deep", "flat"), name="counter")


def bracket_text(lines: int = 40, length: int = 30, seed: int = 0) -> str:
    """Return lines of brackets that close, up to four deep, with quoted and plain letters between them."""
    numbers = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(lines):
        line, depth, inside = "", 0, False
        for _ in range(int(torch.randint(length // 2, length, (1,), generator=numbers))):
            draw = float(torch.rand(1, generator=numbers))
            if draw < 0.22 and depth < 4:
                line, depth = line + "(", depth + 1
            elif draw < 0.4 and depth:
                line, depth = line + ")", depth - 1
            elif draw < 0.5:
                line, inside = line + '"', not inside
            else:
                line += "a" if draw < 0.75 else "b"
        found.append(line + '"' * inside + ")" * depth)
    return "\n".join(found)
