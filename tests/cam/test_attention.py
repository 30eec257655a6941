"""Methods that read attention, against replicas on two transformers: fused attention with a class token, and none."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer

import deconvviz as dv
from deconvviz.errors import CamError

SIDE, TARGET = 16, 2


class Record:
    """What the replica's own attention saw: its probabilities, with a tensor of zeros added, whose gradient it has."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []
        self.zeros: list[Tensor] = []

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> Tensor:
        attention = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1)
        self.seen.append(attention.detach())
        self.zeros.append(torch.zeros_like(attention, requires_grad=True))
        return (attention + self.zeros[-1]) @ v


class Block(nn.Module):
    """Attention written out, with a projection for queries, keys and values each."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out, self.norm = nn.Linear(8, 24), nn.Linear(8, 8), nn.LayerNorm(8)
        self.attend: Callable[..., Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).reshape(-1, 16, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = self.attend(q, k, v) if self.attend else (q * 0.5 @ k.transpose(-2, -1)).softmax(-1) @ v
        return x + self.out(mixed.transpose(1, 2).flatten(2)).tanh()


class Plain(nn.Module):
    """No class token: the mean of the tokens is read."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.blocks, self.norm = nn.Conv2d(3, 8, 4, 4), nn.Sequential(Block(), Block()), nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def read(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(tokens.mean(1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.patches(x).flatten(2).transpose(1, 2))).mean(1))


def fused() -> tuple[nn.Module, list[str]]:
    model = VisionTransformer(SIDE, 4, 2, 2, 8, 16, num_classes=5)
    nn.init.normal_(model.heads[0].weight)
    nn.init.normal_(model.encoder.pos_embedding)
    return model, [f"encoder.layers.encoder_layer_{n}" for n in range(2)]


def written_out() -> tuple[nn.Module, list[str]]:
    return Plain(), ["blocks.0", "blocks.1"]


Case = tuple[nn.Module, list[str], dv.Network, Tensor]


@pytest.fixture(params=[fused, written_out])
def case(request: pytest.FixtureRequest) -> Case:
    torch.manual_seed(0)
    model, blocks = request.param()
    model = model.double().eval()
    for parameter in model.parameters():
        parameter.data.mul_(1.5)
    x = torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64)
    return model, blocks, dv.capture(model, (3, SIDE, SIDE)), x


@pytest.fixture
def recorded(case: Case, monkeypatch: pytest.MonkeyPatch) -> Iterator[Record]:
    record = Record()
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", record.attend)
    for module in case[0].modules():
        if isinstance(module, Block):
            module.attend = record.attend
    yield record


def replica_of_rollout(seen: list[Tensor], has_token: bool) -> Tensor:
    rolled = torch.eye(seen[0].shape[-1], dtype=torch.float64)
    for attention in seen:
        rolled = (attention.mean(1) / 2 + torch.eye(attention.shape[-1]) / 2) @ rolled
    row = rolled[:, 0, 1:] if has_token else rolled.mean(1)
    return row.reshape(-1, 4, 4)


def test_rollout(case: Case, recorded: Record) -> None:
    model, _, network, x = case
    found = dv.cam("attention-rollout", network)(x, TARGET, raw=True)
    assert not recorded.seen  # the graph was captured before
    model(x)
    expected = replica_of_rollout(recorded.seen, isinstance(model, VisionTransformer))
    assert torch.allclose(found, expected, rtol=1e-9) and expected.std() > 0


def pooled_score(model: nn.Module, tokens: Tensor) -> Tensor:
    if isinstance(model, Plain):
        return model.head(model.norm(tokens.mean(1)))
    assert isinstance(model, VisionTransformer)
    return model.heads(model.encoder.ln(tokens.mean(1)))


def test_legrad(case: Case, recorded: Record) -> None:
    """Each block's own score, of the mean of its tokens; its gradient is that of zeros added to the attention."""
    model, blocks, network, x = case
    explainer = dv.cam("legrad", network, blocks)
    found = explainer(x, [TARGET, 1], raw=True)
    assert explainer.passes == {"forward": 2 * 6, "tail": 2 * 2, "tail backward": 2 * 2}  # two images, two blocks
    outputs: list[Tensor] = []
    for name in blocks:
        model.get_submodule(name).register_forward_hook(lambda _m, _i, out: outputs.append(out))
    model(x)
    maps = []
    for zeros, tokens in zip(recorded.zeros, outputs, strict=True):
        score = pooled_score(model, tokens)[torch.arange(2), torch.tensor([TARGET, 1])].sum()
        (slope,) = torch.autograd.grad(score, zeros, retain_graph=True)
        row = slope.relu().mean((1, 2))
        maps.append(row[:, -16:].reshape(-1, 4, 4))
    expected = torch.stack(maps).mean(0)
    assert torch.allclose(found, expected, rtol=1e-9) and expected.std() > 0


@pytest.mark.parametrize("name", ["attention-rollout", "legrad"])
def test_a_batch_is_its_images(case: Case, name: str) -> None:
    _, blocks, network, x = case
    explainer = dv.cam(name, network, blocks if name == "legrad" else None)
    assert torch.allclose(explainer(x, [1, 3])[1:], explainer(x[1:], 3), atol=1e-9)


def test_attribution_of_transformers(case: Case) -> None:
    """Sums hold where attention, LayerNorm and tokens are on the way; a fused attention has second derivatives too."""
    _, blocks, network, x = case
    explainer = dv.cam("deeplift", network, baseline=0.3 * x.flip(-1))
    explainer(x, TARGET)
    difference = (network(x) - network(0.3 * x.flip(-1)))[:, TARGET].abs().max()
    assert explainer.extras["unexplained"].abs().max() < 0.02 * difference
    assert dv.cam("full-grad", network)(x, TARGET).shape == (2, SIDE, SIDE)
    flat = dv.cam("shapley-cam", network, blocks[0])(x, TARGET, raw=True)
    assert (flat - dv.cam("grad-cam", network, blocks[0])(x, TARGET, raw=True)).abs().max() > 0


@pytest.mark.peers
def test_torch_cams_legrad() -> None:
    methods = pytest.importorskip("torchcam.methods")
    torch.manual_seed(1)
    model, blocks = fused()
    x = torch.randn(1, 3, SIDE, SIDE)
    ours = dv.cam("legrad", dv.capture(model.eval(), (3, SIDE, SIDE)), blocks)(x, TARGET)
    with methods.LeGrad(model, blocks) as peer:
        model(x)
        theirs = peer(TARGET)[0]
    assert torch.allclose(
        dv.cam("legrad", dv.capture(model, (3, SIDE, SIDE)), blocks, convention="torch-cam")(x, TARGET),
        nn.functional.interpolate(theirs.detach()[None], (SIDE, SIDE), mode="bilinear")[0],
        atol=1e-5,
    )
    assert ours.shape == (1, SIDE, SIDE)


def test_refusals(case: Case) -> None:
    _, _, network, x = case
    convolutions = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    with pytest.raises(CamError, match="has no attention"):
        dv.cam("attention-rollout", dv.capture(convolutions, (3, SIDE, SIDE)))(x.float())
    first = next(name for name in network.layers if "conv" in name or "patches" in name)
    with pytest.raises(CamError, match="name a later block"):
        dv.cam("legrad", network, [first])(x, 1)
