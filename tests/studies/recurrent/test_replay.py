"""Replayed states are those of torch's fused kernels, and gates those of the equations, written once more in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from recurrent_cases import CASES, module
from torch import Tensor, nn

from deconvviz.studies.recurrent.model import RecurrentModel
from deconvviz.studies.recurrent.replay import outputs_of, replay

LENGTHS = torch.tensor([11, 4, 8])


def fused(recurrent: Any, x: Tensor, lengths: Tensor) -> Tensor:
    """torch's own output for sequences of different lengths, [B, T, directions * H]; 0 in the padding."""
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    return nn.utils.rnn.pad_packed_sequence(recurrent(packed)[0], batch_first=True)[0]


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0].__name__}-{'-'.join(map(str, case[1:]))}")
def test_states_equal_torch(case: Any, dtype: torch.dtype, limit: float) -> None:
    recurrent = module(*case).to(dtype)
    x = torch.randn(3, 11, 5, dtype=dtype)
    states = replay(RecurrentModel(recurrent=recurrent), x, LENGTHS)
    with torch.no_grad():
        wanted = fused(recurrent, x, LENGTHS)
    found = outputs_of(RecurrentModel(recurrent=recurrent), states)
    for row, length in enumerate(LENGTHS):
        assert (found[row, :length] - wanted[row, :length]).abs().max() < limit


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_last_states_of_every_layer_equal_torch(kind: type[Any]) -> None:
    """Also those of lower layers and the cell states, which torch returns for the last step only."""
    recurrent = module(kind, True, 3, True, {}).double()
    x = torch.randn(2, 6, 5, dtype=torch.double)
    model = RecurrentModel(recurrent=recurrent)
    states = replay(model, x)
    last = recurrent(x.transpose(0, 1))[1]
    for name, wanted in zip(("hidden", "cell"), last if kind is nn.LSTM else (last,), strict=False):
        for layer, own in zip(model.layers, wanted, strict=True):
            end = 0 if layer.endswith("backwards") else -1
            torch.testing.assert_close(states[f"{layer}.{name}"][:, end], own, rtol=0, atol=1e-12)


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def test_gates_equal_the_equations() -> None:
    """torch packs the gates of an LSTM as i, f, g, o and those of a GRU as r, z, n."""
    rng = np.random.default_rng(0)
    for kind, names in ((nn.LSTM, ("input", "forget", "candidate", "output")), (nn.GRU, ("reset", "update"))):
        recurrent = module(kind, False, 1, True, {}).double()
        x = rng.normal(size=(1, 4, 5))
        states = replay(RecurrentModel(recurrent=recurrent), torch.from_numpy(x))
        weights = {name: value.detach().numpy() for name, value in recurrent.named_parameters()}
        hidden = np.concatenate([np.zeros((1, 7)), states["0.hidden"][0].numpy()])
        for step in range(4):
            total = weights["weight_ih_l0"] @ x[0, step] + weights["bias_ih_l0"]
            total = total + weights["weight_hh_l0"] @ hidden[step] + weights["bias_hh_l0"]
            for number, name in enumerate(names):
                own = total[7 * number : 7 * number + 7]
                wanted = np.tanh(own) if name == "candidate" else sigmoid(own)
                np.testing.assert_allclose(states[f"0.{name}"][0, step].numpy(), wanted, rtol=1e-12)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_sequence_in_pieces_is_the_whole(kind: type[Any]) -> None:
    model = RecurrentModel(recurrent=module(kind, False, 2, True, {}).double())
    x = torch.randn(2, 9, 5, dtype=torch.double)
    whole, first = replay(model, x), replay(model, x[:, :4])
    second = replay(model, x[:, 4:], None, {name: values[:, -1] for name, values in first.items()})
    for name, values in whole.items():
        torch.testing.assert_close(torch.cat([first[name], second[name]], 1), values, rtol=0, atol=1e-15)
