"""The recurrent modules of torch.nn in every form that is read: kinds, directions, depths, with biases and without."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from torch import nn

CASES = [
    *product((nn.LSTM, nn.GRU, nn.RNN), (False, True), (1, 3), (True, False), ({},)),
    (nn.RNN, True, 2, True, {"nonlinearity": "relu"}),
    (nn.LSTM, False, 2, True, {"batch_first": True, "dropout": 0.5}),
]


def module(kind: type[Any], both: bool, depth: int, bias: bool, more: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    return kind(5, 7, num_layers=depth, bidirectional=both, bias=bias, **more).eval()
