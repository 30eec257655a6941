"""Values with one row of positions: which dimension counts the channels, and the maps that follow from it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from in_memory import noise
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.data.memory import InMemoryImages

SIDE, PATCH, WIDTH, CLASSES = 12, 3, 7, 5
GRID = SIDE // PATCH  # 4 x 4 patches: 16 tokens, and 7 channels


class Transformer(nn.Module):
    """A class token, positions, one block with attention."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.places = nn.Parameter(torch.randn(1, GRID**2 + 1, WIDTH))
        self.norm, self.qkv = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH)
        self.mlp, self.fc = (
            nn.Sequential(nn.Linear(WIDTH, 9), nn.GELU(), nn.Linear(9, WIDTH)),
            nn.Linear(WIDTH, CLASSES),
        )

    def embedded(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return torch.cat([self.token.expand(tokens.shape[0], -1, -1), tokens], 1) + self.places

    def tail(self, tokens: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(tokens)).chunk(3, -1)
        tokens = tokens + nn.functional.scaled_dot_product_attention(q, k, v)
        return self.fc((tokens + self.mlp(tokens))[:, 0])

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.norm_in(self.embedded(x)))

    def norm_in(self, tokens: Tensor) -> Tensor:
        return tokens


class Mixer(nn.Module):
    """Mixes over positions with channels and positions swapped, and over channels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.patches, self.across = nn.Conv2d(3, WIDTH, PATCH, PATCH), nn.Linear(GRID**2, GRID**2)
        self.within, self.fc = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)

    def tokens(self, x: Tensor) -> Tensor:
        return self.patches(x).flatten(2).transpose(1, 2)

    def across_of(self, tokens: Tensor) -> Tensor:
        """The value of `across`, which has channels first."""
        return self.across(tokens.transpose(1, 2))

    def tail_of_across(self, rows: Tensor) -> Tensor:
        return self.tail(rows.transpose(1, 2).relu())

    def tail(self, tokens: Tensor) -> Tensor:
        return self.fc((tokens + self.within(tokens).relu()).mean(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.tail_of_across(self.across_of(self.tokens(x)))


class Rows(nn.Module):
    """One-dimensional convolutions and norms over the flattened positions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.patches, self.conv = nn.Conv2d(3, 6, PATCH, PATCH), nn.Conv1d(6, WIDTH, 3, padding=1)
        self.norm, self.act = nn.BatchNorm1d(WIDTH), nn.LeakyReLU(0.2)
        self.last, self.fc = nn.Conv1d(WIDTH, WIDTH, 1), nn.Linear(WIDTH, CLASSES)
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.running_mean, 0, 0.1)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        y = self.patches(x).flatten(2)
        return self.tail(self.act(self.norm(self.conv(y))))

    def tail(self, y: Tensor) -> Tensor:
        return self.fc(self.last(y).tanh().mean(-1))


class CrossCovariance(nn.Module):
    """Attention among channels: tokens, then rows of channels, and tokens again."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.patches, self.qkv = nn.Conv2d(3, WIDTH, PATCH, PATCH), nn.Linear(WIDTH, 3 * WIDTH)
        self.mixed, self.proj, self.fc = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.local = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.patches(x)
        n, c, h, w = y.shape
        tokens = y.flatten(2).transpose(1, 2)
        q, k, v = (part.transpose(1, 2) for part in self.qkv(tokens).chunk(3, -1))
        attention = (nn.functional.normalize(q, dim=-1) @ nn.functional.normalize(k, dim=-1).transpose(1, 2)).softmax(
            -1
        )
        tokens = tokens + self.proj(self.mixed((attention @ v).permute(0, 2, 1)))
        y = self.local(tokens.transpose(1, 2).reshape(n, c, h, w)).relu()
        return self.fc(y.flatten(2).mean(2))


class Flattened(nn.Module):
    """Rows and columns flattened by each way of writing it, behind a map in the image's own place."""

    def __init__(self, op: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.op, self.patches = op, nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.row, self.fc = nn.Tanh(), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y = self.row(self.op(self.patches(x)))
        return self.fc(y.mean(2 if y.shape[1] == WIDTH else 1))


FIRST: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "flatten": (lambda y: y.flatten(2), True),
    "view": (lambda y: y.view(y.shape[0], WIDTH, -1), True),
    "reshape": (lambda y: y.reshape(y.shape[0], WIDTH, GRID * GRID), True),
    "transposed": (lambda y: y.flatten(2).transpose(1, 2), False),
    "transposed from the end": (lambda y: y.flatten(2).transpose(-1, -2), False),
    "mT": (lambda y: y.flatten(2).mT, False),
    "swapaxes": (lambda y: y.flatten(2).swapaxes(1, 2), False),
    "movedim": (lambda y: y.flatten(2).movedim(1, 2), False),
    "einsum": (lambda y: torch.einsum("ncl->nlc", y.flatten(2)), False),
    "unfolded": (lambda y: nn.functional.unfold(y, 1), True),
    "permuted": (lambda y: y.flatten(2).permute(0, 2, 1), False),
    "permuted and back": (lambda y: y.flatten(2).permute(0, -1, 1).permute(0, 2, 1), True),
    "channels last and flattened": (lambda y: y.permute(0, 2, 3, 1).flatten(1, 2), False),
    "channels last and viewed": (lambda y: y.permute(0, 2, 3, 1).reshape(y.shape[0], -1, WIDTH), False),
    "a product": (lambda y: y.flatten(2) * y.flatten(2).mean(2, keepdim=True), True),
    "a concatenation": (lambda y: torch.cat([y.flatten(2)[:, :3], y.flatten(2)[:, 3:]], 1), True),
    "normalised": (lambda y: nn.functional.instance_norm(y.flatten(2)), True),
    "contiguous": (lambda y: y.flatten(2).transpose(1, 2).contiguous(), False),
    "scaled": (lambda y: (y.flatten(2) * 2 + 1).sigmoid(), True),
}


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def hooked(model: nn.Module, layer: str, x: Tensor, target: int) -> tuple[Tensor, Tensor]:
    """What a module returns, and the gradient of a class's score with respect to it."""
    kept: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda m, i, o: kept.append(o))
    score = model(x)[:, target].sum()
    handle.remove()
    return kept[0].detach(), torch.autograd.grad(score, kept[0])[0]


def as_maps(value: Tensor, first: bool, extra: int = 0) -> Tensor:
    """Loop over positions: [N, channels, rows, columns] of a value with channels first or last."""
    count, channels = len(value), value.shape[1 if first else 2]
    out = torch.zeros(count, channels, GRID, GRID, dtype=value.dtype)
    for row in range(GRID):
        for column in range(GRID):
            at = extra + row * GRID + column
            out[:, :, row, column] = value[:, :, at] if first else value[:, at]
    return out


def by_hand(method: str, a: Tensor, g: Tensor) -> Tensor:
    """The raw map of a method from maps and their gradients [N, K, h, w]."""
    if method == "grad-cam":
        return (g.mean((2, 3), keepdim=True) * a).sum(1).relu()
    if method == "hirescam":
        return (g * a).sum(1)
    return (g.relu() * a).sum(1).relu()  # LayerCAM


# model, layer, channels first, extra tokens
CASES: dict[str, tuple[Callable[[], nn.Module], str, bool, int]] = {
    "transformer, a norm": (Transformer, "norm", False, 1),
    "mixer over positions": (Mixer, "across", True, 0),
    "mixer over channels": (Mixer, "within", False, 0),
    "rows, a convolution": (Rows, "conv", True, 0),
    "rows, its norm": (Rows, "norm", True, 0),
    "rows, its rectifier": (Rows, "act", True, 0),
    "rows, the last": (Rows, "last", True, 0),
    "cross-covariance, mixed": (CrossCovariance, "mixed", False, 0),
    "cross-covariance, projected": (CrossCovariance, "proj", False, 0),
}
for _name, (_op, _first) in FIRST.items():
    CASES[f"flattened: {_name}"] = (partial(Flattened, _op), "row", _first, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_maps_of_cam_are_those_by_hand(name: str) -> None:
    make, layer, first, extra = CASES[name]
    model, x = make().double().eval(), images()
    network = dv.capture(model, (3, SIDE, SIDE))
    value, gradient = hooked(model, layer, x, 3)
    channels = value.shape[1] if first else value.shape[2]
    assert network.layers[layer].units == (channels, value.shape[2] if first else value.shape[1], 1)
    a, g = as_maps(value, first, extra), as_maps(gradient, first, extra)
    for method in ("grad-cam", "hirescam", "layercam"):
        got = dv.cam(method, network, layer)(x, 3, raw=True)
        wanted = by_hand(method, a, g)
        assert got.shape == wanted.shape == (2, GRID, GRID)
        assert torch.allclose(got, wanted, atol=1e-10), method
        assert wanted.abs().max() > 0 or method != "hirescam"


@pytest.mark.parametrize("name", ["mixer over positions", "rows, the last", "transformer, a norm"])
def test_changed_values_go_back_where_they_came_from(name: str) -> None:
    """Methods that score one channel at a time must put it into the right dimension."""
    make, layer, first, extra = CASES[name]
    model, x = make().double().eval(), images(1)
    network = dv.capture(model, (3, SIDE, SIDE))
    value, _ = hooked(model, layer, x, 1)
    a = as_maps(value, first, extra)
    with torch.no_grad():
        drops = []
        for channel in range(a.shape[1]):
            changed = value.clone()
            for at in range(extra, GRID**2 + extra):
                changed[(0, channel, at) if first else (0, at, channel)] = 0
            handle = model.get_submodule(layer).register_forward_hook(lambda m, i, o, value=changed: value)
            drops.append(float(model(x)[0, 1]))
            handle.remove()
        score = float(model(x)[0, 1])
    weights = torch.tensor([(score - low) / abs(score) for low in drops], dtype=torch.float64)
    wanted = (weights[:, None, None] * a[0]).sum(0).relu()
    assert torch.allclose(dv.cam("ablation-cam", network, layer)(x, 1, raw=True)[0], wanted, atol=1e-8)


@pytest.mark.parametrize(("make", "layer", "first"), [(Rows, "act", True), (Mixer, "within", False)])
def test_mining_ranks_channels_by_their_strongest_position(
    make: Callable[[], nn.Module], layer: str, first: bool
) -> None:
    pictures = noise(9, SIDE, SIDE, seed=7)
    model = make().eval()
    network = dv.capture(model, (3, SIDE, SIDE))
    pre = dv.Preprocess(resize=None, crop=SIDE, mean=(0.5,) * 3, std=(0.25,) * 3)
    mined = dv.mine(network, InMemoryImages(pictures), [layer], k=4, preprocess=pre, progress=False)
    x = torch.stack([pre(picture) for picture in pictures])
    value, _ = hooked(model, layer, x, 0)
    rows = (value if first else value.transpose(1, 2)).numpy()  # [N, channels, positions]
    strongest = rows.max(2)
    top = mined.layers[layer]
    for channel in range(WIDTH):
        order = np.argsort(-strongest[:, channel])[:4]
        assert top.images[channel].tolist() == order.tolist(), channel
        assert np.allclose(top.values[channel], strongest[order, channel], atol=1e-5)
        assert top.positions[channel, :, 0].tolist() == rows[order, channel].argmax(1).tolist()


@pytest.mark.parametrize(
    "strip",
    [
        lambda y: nn.functional.adaptive_avg_pool2d(y, (GRID, 1)).squeeze(3),
        lambda y: y.mean(2),
        lambda y: y.amax(3),
        lambda y: y[:, :, 1],
    ],
)
def test_a_map_that_is_pooled_along_one_side_has_its_channels_first(strip: Callable[[Tensor], Tensor]) -> None:
    network = dv.capture(Flattened(strip).eval(), (3, SIDE, SIDE))
    assert network.layers["row"].units == (WIDTH, GRID, 1)


@pytest.mark.parametrize("made", [nn.Conv1d(6, WIDTH, 1), nn.ConvTranspose1d(6, WIDTH, 1), nn.BatchNorm1d(6)])
def test_ops_on_rows_have_their_channels_first_whatever_came_before(made: nn.Module) -> None:
    """What a shape alone would not tell: the row comes from an op of which nothing is known."""
    lengths = nn.Sequential(nn.Conv2d(3, 6, PATCH, PATCH), nn.Flatten(1), nn.Unflatten(1, (6, GRID**2)), made)
    network = dv.capture(lengths.eval(), (3, SIDE, SIDE))
    channels = 6 if isinstance(made, nn.BatchNorm1d) else WIDTH
    assert network.layers["3"].units == (channels, GRID**2, 1)


def test_a_unit_of_a_row_projects_as_autograd() -> None:
    for name in ("rows, the last", "mixer over positions", "mixer over channels"):
        make, layer, first, _ = CASES[name]
        model, x = make().double().eval(), images(1)
        network = dv.capture(model, (3, SIDE, SIDE))
        kept: list[Tensor] = []
        model.get_submodule(layer).register_forward_hook(lambda m, i, o, kept=kept: kept.append(o))
        leaf = x.clone().requires_grad_()
        model(leaf)
        value = kept[0] if first else kept[0].transpose(1, 2)
        (wanted,) = torch.autograd.grad(value[0, 2, 9], leaf)
        got = dv.project(network, x, layer, 2, (9, 0), "gradient")
        assert torch.allclose(got.full(), wanted[0], atol=1e-10) and got.value == pytest.approx(value[0, 2, 9].item())
