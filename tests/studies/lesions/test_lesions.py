"""Lesions of a trained network, each against a replica from its definition, and planted ones against what is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from in_memory import coloured_images
from lesioned import OUTPUTS, PLAIN, Residual, chain, noise_images, operate
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

import deconvviz as dv
from deconvviz.data.memory import InMemoryImages
from deconvviz.data.sampling import spread
from deconvviz.studies.lesions.result import Lesions

Hook = Callable[[str, Tensor], Tensor]


def cut_residual(model: Residual) -> Callable[[Tensor, str, Hook], Tensor]:
    """The residual network in plain torch, with a value replaced where it is made."""

    def run(x: Tensor, layer: str, change: Hook) -> Tensor:
        def at(name: str, value: Tensor) -> Tensor:
            return change(name, value) if name == layer else value

        h = at("act", functional.conv2d(x, model.first.weight, model.first.bias).clamp(min=0))
        inner = at("inner", functional.conv2d(h, model.inner.weight, model.inner.bias, padding=1))
        variance = model.norm.running_var
        assert variance is not None
        scale = model.norm.weight / torch.sqrt(variance + model.norm.eps)
        shift = model.norm.bias - model.norm.running_mean * scale
        normed = at("norm", inner * scale[:, None, None] + shift[:, None, None])
        return (h + normed).clamp(min=0).mean((2, 3)) @ model.out.weight.T + model.out.bias

    return run


def cut_chain(model: nn.Sequential) -> Callable[[Tensor, str, Hook], Tensor]:
    def run(x: Tensor, layer: str, change: Hook) -> Tensor:
        for name, module in model.named_children():
            x = module(x)
            x = change(name, x) if name == layer else x
        return x

    return run


def replica(
    run: Callable[[Tensor, str, Hook], Tensor],
    images: InMemoryImages,
    layers: list[str],
    by: str,
    how: str,
    outputs: list[int],
) -> dict[str, NDArray[Any]]:
    """Every lesion on every image, one at a time, whole passes: what is right and the log-loss, before and after."""
    known = [n for n in range(len(images)) if images.labels[n] >= 0]
    x = [PLAIN.tensor(images.pictures[n][None], dtype=torch.float64) for n in known]
    targets = [outputs[images.labels[n]] for n in known]

    def read(output: Tensor, target: int) -> tuple[bool, float]:
        scores = output[0].tolist()
        return scores.index(max(scores)) == target, math.log(sum(map(math.exp, scores))) - scores[target]

    def keep(_: str, value: Tensor) -> Tensor:
        seen.append(value)
        return value

    before = [read(run(one, "", keep), target) for one, target in zip(x, targets, strict=True)]
    rows: list[list[Any]] = []
    for layer in layers:
        seen: list[Tensor] = []
        for one in x:
            run(one, layer, keep)
        channels = seen[0].shape[1]
        means = [torch.stack([value[0, c] for value in seen]).mean().item() for c in range(channels)]
        fill = means if how == "mean" else [0.0] * channels
        for channel in [list(range(channels))] if by == "layer" else [[c] for c in range(channels)]:

            def change(_: str, value: Tensor, channel: list[int] = channel, fill: list[float] = fill) -> Tensor:
                value = value.clone()
                for c in channel:
                    value[0, c] = fill[c]
                return value

            after = [read(run(one, layer, change), target) for one, target in zip(x, targets, strict=True)]
            lost = sum(b[0] and not a[0] for b, a in zip(before, after, strict=True))
            gained = sum(a[0] and not b[0] for b, a in zip(before, after, strict=True))
            rises = [a[1] - b[1] for b, a in zip(before, after, strict=True)]
            rows.append([lost, gained, np.mean(rises), np.std(rises, ddof=1) / math.sqrt(len(rises))])
    columns = np.array(rows).T
    return {
        "lost": columns[0],
        "gained": columns[1],
        "rise": columns[2],
        "error": 1.959964 * columns[3],
        "accuracy": np.array(np.mean([b[0] for b in before])),
        "loss": np.array(np.mean([b[1] for b in before])),
    }


def assert_same(found: Lesions, expected: dict[str, NDArray[Any]], tolerance: float = 1e-9) -> None:
    assert np.array_equal(found.lost, expected["lost"]) and np.array_equal(found.gained, expected["gained"])
    assert np.allclose(found.drop, (expected["lost"] - expected["gained"]) / found.images)
    assert np.allclose(found.loss_rise, expected["rise"], atol=tolerance, rtol=0)
    assert np.allclose(found.loss_rise_error, expected["error"], atol=10 * tolerance, rtol=0)
    assert found.accuracy == pytest.approx(float(expected["accuracy"]))
    assert found.loss / found.images == pytest.approx(float(expected["loss"]), abs=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["zero", "mean"])
@pytest.mark.parametrize("by", ["filter", "layer"])
@pytest.mark.parametrize("kind", ["chain", "residual"])
def test_against_the_replica(kind: str, by: str, how: str) -> None:
    model: nn.Module = chain() if kind == "chain" else Residual().double().eval()
    layers = ["4", "0", "2", "5", "6"] if kind == "chain" else ["norm", "act", "inner"]
    run = cut_chain(model) if isinstance(model, nn.Sequential) else cut_residual(model)  # type: ignore[arg-type]
    network, images = dv.capture(model, (3, 12, 12)), noise_images()
    expected = replica(run, images, layers, by, how, OUTPUTS)
    assert expected["lost"].any() and expected["gained"].any()
    found = operate(network, images, layers, by=by, how=how)
    assert_same(found, expected)
    assert found.images == found.total == 21 and found.complete
    channels = [7, 5, 5, 63, 6] if kind == "chain" else [6, 6, 6]
    if by == "layer":
        assert found.layer.tolist() == list(range(len(layers))) and (found.channel == -1).all()
        assert found.name(1) == layers[1]
    else:
        assert found.channel.tolist() == [c for count in channels for c in range(count)]
        assert found.layer.tolist() == [n for n, count in enumerate(channels) for _ in range(count)]
        assert found.name(9) == f"{layers[1]}:{9 - channels[0]}"


def test_in_single_precision_with_norms_folded() -> None:
    """The fast form of a float32 network, in which a convolution that is asked for stays apart from its BatchNorm."""
    model = Residual()
    layers, images = ["inner", "norm"], noise_images(20, seed=8)
    expected = replica(cut_residual(Residual().double()), images, layers, "filter", "mean", OUTPUTS)
    assert_same(operate(dv.capture(model.eval(), (3, 12, 12)), images, layers, how="mean"), expected, 1e-5)


def test_in_half_precision() -> None:
    """bfloat16 keeps eight bits: log-losses agree to a hundredth or so, and every lesion is told apart."""
    images, network = noise_images(20, seed=8), dv.capture(Residual().eval(), (3, 12, 12))
    expected = replica(cut_residual(Residual().double()), images, ["act"], "filter", "mean", OUTPUTS)
    found = operate(network, images, ["act"], how="mean", precision="bf16")
    assert found.config["precision"] == "bf16" and not np.allclose(found.loss_rise, expected["rise"], atol=1e-6)
    assert np.allclose(found.loss_rise, expected["rise"], atol=0.01) and np.abs(expected["rise"]).max() > 0.03


class Tokens(nn.Module):
    """Nine tokens of five features; the layer `mix` has its channels last."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.patch, self.mix, self.head = nn.Conv2d(3, 4, 4, stride=4), nn.Linear(4, 5), nn.Linear(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.mix(self.patch(x).flatten(2).transpose(1, 2)).relu().amax(1))
        return found


def test_features_of_tokens() -> None:
    """A filter of tokens is a feature, at every token."""
    model = Tokens().double().eval()

    def run(x: Tensor, layer: str, change: Hook) -> Tensor:
        tokens = torch.stack([model.patch(x)[0, :, n // 3, n % 3] for n in range(9)])
        value = (tokens @ model.mix.weight.T + model.mix.bias).T[None]  # channels in front, as the replica wants
        value = change(layer, value) if layer else value
        return value[0].clamp(min=0).amax(1)[None] @ model.head.weight.T + model.head.bias

    for how in ("zero", "mean"):
        expected = replica(run, noise_images(), ["mix"], "filter", how, OUTPUTS)
        assert_same(operate(dv.capture(model, (3, 12, 12)), noise_images(), "mix", how=how), expected)


@pytest.mark.parametrize("how", ["zero", "mean"])
def test_any_batch_size(how: str) -> None:
    network, images = dv.capture(Residual().double().eval(), (3, 12, 12)), noise_images()
    first, *others = [
        operate(network, images, ["act", "norm"], how=how, batch_size=size) for size in (32, 1, 3, 7, 500)
    ]
    for other in others:
        assert np.array_equal(first.lost, other.lost) and np.array_equal(first.gained, other.gained)
        assert np.allclose(first.rise, other.rise, atol=1e-10) and np.allclose(first.squares, other.squares, atol=1e-10)
        assert first.right == other.right and first.loss == pytest.approx(other.loss, abs=1e-10)
        assert np.array_equal(first.ranking, other.ranking)


def test_changed_values_that_do_not_fit_go_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    network, images = dv.capture(Residual().double().eval(), (3, 12, 12)), noise_images()
    whole, original = operate(network, images, ["act", "norm"]), dv.Network.split

    def narrow(self: dv.Network, layer: str, x: Tensor) -> Any:
        value, tail = original(self, layer, x)

        def small(values: Tensor, of: Tensor) -> Any:
            if len(values) > 5:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return tail(values, of)

        return value, small

    monkeypatch.setattr(dv.Network, "split", narrow)
    parts = operate(network, images, ["act", "norm"])
    assert np.array_equal(whole.lost, parts.lost) and np.allclose(whole.rise, parts.rise, atol=1e-10)


def test_what_comes_before_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty-one images in chunks of eight: three whole passes and three cuts a layer; tails for what changes only."""
    network, images, calls = dv.capture(chain(), (3, 12, 12)), noise_images(), {"split": 0, "tail": 0}
    original = dv.Network.split

    def counted(self: dv.Network, layer: str, x: Tensor) -> Any:
        calls["split"] += 1
        value, tail = original(self, layer, x)

        def counting(values: Tensor, of: Tensor) -> Any:
            calls["tail"] += len(values)
            return tail(values, of)

        return value, counting

    monkeypatch.setattr(dv.Network, "split", counted)
    operate(network, images, ["4"])
    x = torch.cat(
        [PLAIN.tensor(images.pictures[n][None], dtype=torch.float64) for n in range(23) if images.labels[n] >= 0]
    )
    active = int((network.activations(x, ["4"])["4"].amax((2, 3)) > 0).sum())
    assert calls == {"split": 3, "tail": active}


# --- planted networks ------------------------------------------------------------------------------------------------


AS_IS = dv.Preprocess(resize=8, crop=8, mean=(0, 0, 0), std=(1, 1, 1))


def planted(bias: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> nn.Sequential:
    """Filters 0 to 2 find red, green and blue, each for its class alone; filter 3 is dead."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(4, 3)[:, :, None, None])
        model[0].bias.copy_(torch.tensor([0, 0, 0, -1.0]))
        model[4].weight.copy_(torch.eye(3, 4) * 10)
        model[4].bias.copy_(torch.tensor(bias))
    return model.eval()


def test_a_planted_filter() -> None:
    """5 red, 3 green and 2 blue images: without green's filter exactly the green ones are lost."""
    images = coloured_images([0, 1, 2, 0, 1, 0, 0, 1, 2, 0])
    network = dv.capture(planted((0.0, -1.0, 1.0)), (3, 8, 8))
    found = operate(network, images, "1", preprocess=AS_IS, outputs=np.arange(3))
    assert found.accuracy == 1 and found.lost.tolist() == [5, 3, 0, 0] and not found.gained.any()
    assert found.drop.tolist() == [0.5, 0.3, 0, 0] and found.ranking.tolist() == [0, 1, 2, 3]
    logit = 10 * 200 / 255

    def loss(scores: list[float], target: int) -> float:
        return math.log(sum(map(math.exp, scores))) - scores[target]

    green = loss([0, -1, 1], 1) - loss([0, logit - 1, 1], 1)
    blue = loss([0, -1, 1], 2) - loss([0, -1, logit + 1], 2)
    assert found.loss_rise == pytest.approx([found.loss_rise[0], 0.3 * green, 0.2 * blue, 0.0], abs=1e-6)
    assert found.loss_rise[3] == 0 and found.loss_rise_error[3] == 0 and found.squares[3] == 0  # dead: exactly nothing


def test_of_equal_outputs_the_first_counts() -> None:
    """Without its filter an image's outputs are all zero; class 0 is then right, and the others are not."""
    images = coloured_images([0, 1, 2, 0, 1, 0])
    found = operate(dv.capture(planted(), (3, 8, 8)), images, "1", preprocess=AS_IS, outputs=np.arange(3))
    assert found.lost.tolist() == [0, 2, 1, 0]


def test_the_mean_is_of_the_images_that_take_part() -> None:
    images = coloured_images([0, 1, 2, 0, -1, 1])
    network = dv.capture(planted(), (3, 8, 8))
    found = operate(network, images, "1", preprocess=AS_IS, outputs=np.arange(3), how="mean", indices=[0, 1, 4, 3])
    assert found.images == 3 and found.means["1"] == pytest.approx([2 / 3 * 200 / 255, 200 / 255 / 3, 0, 0])


def test_which_images() -> None:
    network = dv.capture(chain(), (3, 12, 12))
    known = [n for n in range(23) if n not in (3, 11)]
    for options, expected in (
        ({}, [n for n in range(23) if n not in (3, 11)]),
        ({"indices": [7, 3, 2, 7]}, [7, 2, 7]),
        ({"count": 3}, [known[place] for place in spread(noise_images().labels[known], 3)]),
        ({"count": 99}, [n for n in range(23) if n not in (3, 11)]),
    ):
        images = noise_images()
        found = operate(network, images, ["6"], workers=1, **options)
        assert images.read == expected and found.total == len(expected)
