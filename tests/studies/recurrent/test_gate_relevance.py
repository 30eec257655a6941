"""Relevance through gates: it conserves with bias factor 1, and equals a replica step by step, in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from bracket_lstm import STEP, bracket_lstm
from recurrent_cases import CASES, module
from torch import nn

import deconvviz as dv
from deconvviz.errors import ModelError
from deconvviz.studies.recurrent.lrp import LinearRule, input_relevance, linear_head
from deconvviz.studies.recurrent.model import RecurrentModel


def with_head(recurrent: Any) -> RecurrentModel:
    torch.manual_seed(1)
    width = 7 * (2 if recurrent.bidirectional else 1)
    return RecurrentModel(recurrent=recurrent.double(), head=nn.Linear(width, 4).double())


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0].__name__}-{'-'.join(map(str, case[1:]))}")
def test_relevance_is_conserved_with_bias_factor_one(case: Any) -> None:
    model, x = with_head(module(*case)), torch.randn(8, 5, dtype=torch.double)
    steps, targets = torch.tensor([7, 3]), torch.tensor([2, 0])
    found = input_relevance(model, x, steps, targets, rule=LinearRule(bias_factor=1.0))
    total = found.inputs.sum((1, 2)) + found.before
    torch.testing.assert_close(total, found.scores, rtol=0, atol=1e-10)
    kept = input_relevance(model, x, steps, targets)  # without it, biases and stabilisers keep something
    assert not torch.allclose(kept.inputs.sum((1, 2)) + kept.before, kept.scores, atol=1e-6)


def linear(a: np.ndarray, w: np.ndarray, b: np.ndarray, relevance: np.ndarray, e: float, d: float) -> np.ndarray:
    """The linear rule term by term: y_k = sum_j a_j w_kj + b_k."""
    y = w @ a + b
    sign = np.where(y >= 0, 1.0, -1.0)
    found = np.zeros(len(a))
    for j in range(len(a)):
        for k in range(len(y)):
            found[j] += (a[j] * w[k, j] + d * (e * sign[k] + b[k]) / len(a)) / (y[k] + e * sign[k]) * relevance[k]
    return found


def replica(lstm: Any, head: Any, x: np.ndarray, target: int, e: float, d: float) -> tuple[np.ndarray, float]:
    """LRP of the last step's output of a one-layer LSTM, by the formulas of Arras et al. 2017."""
    w = {name: value.detach().numpy() for name, value in lstm.named_parameters()}
    steps, units = len(x), lstm.hidden_size
    h, c, gates = np.zeros((steps + 1, units)), np.zeros((steps + 1, units)), []
    for t in range(steps):
        z = w["weight_ih_l0"] @ x[t] + w["weight_hh_l0"] @ h[t] + w["bias_ih_l0"] + w["bias_hh_l0"]
        i, f, o = (1 / (1 + np.exp(-z[units * n : units * n + units])) for n in (0, 1, 3))
        g = np.tanh(z[2 * units : 3 * units])
        c[t + 1] = f * c[t] + i * g
        h[t + 1] = o * np.tanh(c[t + 1])
        gates.append((i, f, g))
    weight, bias = head.weight.detach().numpy()[[target]], head.bias.detach().numpy()[[target]]
    r_h = linear(h[-1], weight, bias, weight @ h[-1] + bias, e, d)
    r_c, found, rows = np.zeros(units), np.zeros(x.shape), slice(2 * units, 3 * units)
    both, own = np.concatenate([w["weight_ih_l0"], w["weight_hh_l0"]], 1)[rows], w["bias_ih_l0"] + w["bias_hh_l0"]
    for t in reversed(range(steps)):
        i, f, g = gates[t]
        r_c = r_c + r_h
        r_g = np.array(
            [
                linear(np.array([i[u] * g[u], f[u] * c[t, u]]), np.ones((1, 2)), np.zeros(1), r_c[[u]], e, d)
                for u in range(units)
            ]
        )
        r_x = linear(np.concatenate([x[t], h[t]]), both, own[rows], r_g[:, 0], e, d)
        found[t], r_h, r_c = r_x[: x.shape[1]], r_x[x.shape[1] :], r_g[:, 1]
    return found, float((r_h + r_c).sum())


@pytest.mark.parametrize("factor", [0.0, 0.5])
def test_relevance_equals_the_replica(factor: float) -> None:
    model = with_head(module(nn.LSTM, False, 1, True, {}))
    x = torch.randn(6, 5, dtype=torch.double)
    rule = LinearRule(epsilon=0.01, bias_factor=factor)
    found = input_relevance(model, x, torch.tensor([5]), torch.tensor([3]), rule=rule)
    wanted, before = replica(model.recurrent, model.head, x.numpy(), 3, 0.01, factor)
    np.testing.assert_allclose(found.inputs[0].numpy(), wanted, rtol=1e-9, atol=1e-12)
    assert float(found.before[0]) == pytest.approx(before, rel=1e-9, abs=1e-12)


def test_a_gru_by_hand() -> None:
    """One unit, one step from a state of 0.5: h' = (1 - z) n + z h, and n reads x and r h."""
    gru, head = nn.GRU(1, 1).double(), nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        for each in gru.parameters():
            each.zero_()
        gru.weight_ih_l0[2], gru.weight_hh_l0[2] = 1.0, 2.0  # gates are 1/2; n = tanh(x + 0.5 * 2 h)
        head.weight[:] = 3.0
    model = RecurrentModel(recurrent=gru, head=head)
    x, h = 0.4, 0.5
    found = input_relevance(
        model,
        torch.tensor([[x]], dtype=torch.double),
        torch.tensor([0]),
        torch.tensor([0]),
        rule=LinearRule(epsilon=1e-12),
        before={"0.hidden": torch.tensor([[h]], dtype=torch.double)},
    )
    n = np.tanh(x + h)
    of_n = 3 * 0.5 * n
    assert float(found.inputs[0, 0, 0]) == pytest.approx(of_n * x / (x + h), rel=1e-9)
    assert float(found.before[0]) == pytest.approx(of_n * h / (x + h) + 3 * 0.5 * h, rel=1e-9)


def test_brackets_make_the_counters_output() -> None:
    """Of the counter's output each bracket that is open has one part, and one that closed takes its part away."""
    model = bracket_lstm().to("cpu", torch.float64)
    sequences = dv.text_sequences("a(b(a)(ab", model.vocabulary)
    x = model.inputs(torch.from_numpy(sequences.ids))
    found = input_relevance(model, x, torch.tensor([8]), torch.tensor([0]), rule=LinearRule(epsilon=1e-9))
    score = 5 * np.tanh(2 * STEP)
    assert float(found.scores[0]) == pytest.approx(score, rel=1e-6)
    wanted = score / 2 * np.array([0, 1, 0, 1, 0, -1, 1, 0, 0])
    np.testing.assert_allclose(found.inputs[0].sum(1).numpy(), wanted, atol=1e-5)


def test_a_head_that_is_not_linear_is_refused_by_name() -> None:
    for head, words in ((None, "no head"), (nn.Sequential(nn.Linear(7, 7), nn.ReLU()), "head of kind Sequential")):
        with pytest.raises(ModelError, match=words):
            linear_head(RecurrentModel(recurrent=nn.LSTM(5, 7), head=head))
    wrapped = RecurrentModel(recurrent=nn.LSTM(5, 7), head=nn.Sequential(nn.Dropout(), nn.Linear(7, 3)))
    assert linear_head(wrapped).out_features == 3
