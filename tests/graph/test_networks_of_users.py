"""Networks as people write them: views, slices that are written to, filters that follow from the image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import deconvviz as dv

jit: Any = torch.jit


class LeNet(nn.Module):
    """With the `view` of every tutorial, in one of its forms."""

    def __init__(self, view: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.view = view
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2 = nn.Linear(400, 12), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        scores: Tensor = self.fc2(functional.relu(self.fc1(self.view(x))))
        return scores


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "view": lambda x: x.view(x.size(0), -1),
    "contiguous": lambda x: x.contiguous().view(-1, 400),
    "view_as": lambda x: x.view_as(torch.zeros(x.shape[0], 400)),
    "capsules": lambda x: x.view(x.shape[0], -1, 4).view(x.shape[0], -1),
}
PRE = dv.Preprocess(32, 32)


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_is_of_values_in_any_order(view: str) -> None:
    torch.manual_seed(0)
    network = dv.capture(LeNet(VIEWS[view]).eval(), (3, 32, 32))
    flat = dv.capture(LeNet(lambda x: x.flatten(1)).eval(), (3, 32, 32))
    flat = flat.replaced(flat.graph, dict(network.tensors))
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(network(x.contiguous(memory_format=torch.channels_last)), network(x))
    mined = [dv.mine(each, dv.Scenes(6), ["fc1"], k=2, preprocess=PRE, progress=False) for each in (network, flat)]
    np.testing.assert_array_equal(mined[0]["fc1"].values, mined[1]["fc1"].values)
    for method in ("score-cam", "rise", "lrp-epsilon", "grad-cam"):
        options: dict[str, Any] = {"masks": 20} if method == "rise" else {}
        maps = [dv.cam(method, each, **options)(x, 1) for each in (network, flat)]
        np.testing.assert_allclose(maps[0], maps[1], atol=1e-5, err_msg=method)
    assert dv.occlude(network, np.zeros((1, 32, 32, 3), np.uint8), preprocess=PRE, progress=False) is not None


class Spectral(nn.Module):
    """A filter of frequencies, GFNet's, whose weights are pairs of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5)
        self.weight = nn.Parameter(torch.randn(4, 32, 17, 2))

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(torch.relu(self.conv(x)), norm="ortho") * torch.view_as_complex(self.weight)
        y = torch.relu(torch.fft.irfft2(spectrum, s=(32, 32), norm="ortho"))
        scores: Tensor = self.head(y.mean((2, 3)))
        return scores


def test_weights_that_are_pairs_of_numbers() -> None:
    torch.manual_seed(0)
    network, x = dv.capture(Spectral().eval(), (3, 32, 32)), torch.randn(2, 3, 32, 32)
    assert torch.allclose(network.fast()(x), network(x), atol=1e-5)
    mined = dv.mine(network, dv.Scenes(4), ["conv", "head"], k=2, preprocess=PRE, progress=False)
    assert np.isfinite(mined["head"].values).all()
    assert np.isfinite(dv.cam("score-cam", network)(x, 1)).all()


class Shift(nn.Module):
    """Slices are written to, as networks that shift channels do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.deeper, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.conv(x))
        shifted = torch.zeros_like(y)
        shifted[:, :2, :, 1:] = y[:, :2, :, :-1]
        shifted[:, 2:] = y[:, 2:]
        shifted[:, 3] += y[:, 0, :1]
        scores: Tensor = self.head(torch.relu(self.deeper(shifted)).mean((2, 3)))
        return scores


class Conditional(nn.Module):
    """Filters are mixed by what the image holds, CondConv's, and so is a linear map."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.routes, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 3), nn.Linear(5, 4)
        self.experts = nn.Parameter(torch.randn(3, 5 * 4 * 9))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.conv(x))
        images, channels, height, width = y.shape
        filters = (torch.sigmoid(self.routes(y.mean((2, 3)))) @ self.experts).view(images * 5, 4, 3, 3)
        joined = functional.conv2d(y.reshape(1, images * channels, height, width), filters, padding=1, groups=images)
        scores: Tensor = self.head(torch.relu(joined.view(images, 5, height, width)).mean((2, 3)))
        return scores


def halves() -> nn.Module:
    """A part that computes in float32 between parts in half precision."""

    class Island(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.deeper = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(8, 5, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            both = torch.cat([(y + torch.sigmoid(y.float())), y], 1)
            scores: Tensor = self.deeper(both.to(y.dtype)).mean((2, 3))
            return scores

    return Island().half()


@pytest.mark.parametrize(
    ("made", "dtype"),
    [(Shift, torch.float64), (Conditional, torch.float64), (halves, torch.float16)],
)
def test_gradients_are_those_of_autograd(made: Any, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = made().eval().to(dtype)
    x = torch.randn(1, 3, 8, 8, dtype=dtype)
    leaf = x.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(model(leaf)[0, 1], leaf)
    network = dv.capture(model, (3, 8, 8))
    last = list(network.layers)[-1]
    projected = dv.project(network, x, last, 1, rule="gradient").full()
    assert torch.allclose(projected.to(dtype), wanted[0], atol=1e-9 if dtype == torch.float64 else 3e-2)
    if made is not halves:
        for method in ("gradient", "guided", "lrp-epsilon", "deeplift", "full-grad"):
            assert np.isfinite(dv.cam(method, network)(x, 1)).all(), method


def test_relevance_of_filters_that_follow_from_the_image_is_shared_by_both() -> None:
    """A product of two values has one relevance, half for each; that of the filters ends in the gates that mix them."""
    torch.manual_seed(0)
    model = Conditional().eval().double()
    for layer in (model.conv, model.routes, model.head):
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    network = dv.capture(model, (3, 8, 8))
    total = dv.project(network, x, "head", 1, rule="lrp-epsilon").full().sum()
    assert float(total) == pytest.approx(0.5, rel=1e-3)


# --- the model is left as it was


class Counts(nn.Module):
    """Counts its images, moves a mean, and keeps what it met."""

    seen: Tensor
    centre: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.steps, self.met = nn.Conv2d(3, 4, 3), 0, list[Tensor]()
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("centre", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += x.shape[0]
        y: Tensor = self.conv(x)
        self.centre.mul_(0.9).add_(y.mean((0, 2, 3)), alpha=0.1)
        self.steps += 1
        self.met.append(y)
        self.last = y
        return y


class Adapter(nn.Conv2d):
    """Adds an adapter to its weights in eval mode, as loralib does, and takes it off in training mode."""

    def __init__(self) -> None:
        super().__init__(3, 4, 3)
        self.delta, self.merged = nn.Parameter(torch.randn_like(self.weight)), False

    def train(self, mode: bool = True) -> Adapter:
        super().train(mode)
        if mode == self.merged:
            self.weight.data += self.delta.detach() * (-1 if mode else 1)
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.weight if self.merged else self.weight + self.delta, self.bias)


def test_buffers_attributes_and_chance_are_as_before() -> None:
    model, chance = Counts().eval(), torch.get_rng_state()
    dv.capture(model, (3, 9, 9))
    assert float(model.seen) == 0 and not model.centre.any() and model.steps == 0 and model.met == []
    assert not hasattr(model, "last") and torch.equal(chance, torch.get_rng_state())


def test_a_part_with_a_train_of_its_own_is_told_its_mode() -> None:
    torch.manual_seed(0)
    adapter = Adapter()
    model = nn.Sequential(adapter, nn.ReLU()).train()
    weight, x = adapter.weight.detach().clone(), torch.randn(2, 3, 9, 9)
    network = dv.capture(model, (3, 9, 9))
    assert torch.allclose(weight, adapter.weight) and not adapter.merged and model.training
    assert torch.allclose(network(x), model(x), atol=1e-5)  # with the adapter, which its weights hold
    model(x).sum().backward()
    assert adapter.delta.grad is not None


@pytest.mark.parametrize("numpy", [False, True])
def test_hooks_that_keep_values_beside_one_that_changes_them(numpy: bool) -> None:
    torch.manual_seed(0)
    store: dict[str, Any] = {}
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()

    def kept(x: Tensor) -> Any:
        return x.detach().numpy() if numpy else x.detach()

    model[0].register_forward_hook(lambda module, args, out: store.update(after=kept(out)))
    model[1].register_forward_pre_hook(lambda module, args: store.update(before=kept(args[0])))
    model[1].register_forward_hook(lambda module, args, out: out * 2)
    x, hooks = torch.randn(2, 3, 9, 9), [dict(part._forward_hooks) for part in model]
    network = dv.capture(model, (3, 9, 9))
    assert torch.allclose(network(x), model(x)) and hooks == [dict(part._forward_hooks) for part in model]
    assert {type(value) for value in store.values()} == {np.ndarray if numpy else Tensor}


def test_forms_follow_the_weights_through_a_training() -> None:
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU()]
    model = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)).eval()
    network, x = dv.capture(model, (3, 9, 9)), torch.randn(1, 3, 9, 9)
    kept = [dv.cam(method, network, "2") for method in ("score-cam", "grad-cam")]

    def results(of: dv.Network) -> list[Tensor]:
        pixels = dv.cam("lrp-epsilon", of)(x, 1, raw=True)
        unit = (x, "3", 2, (1, 1))
        projections = [dv.project(of, *unit, "lrp-epsilon"), dv.project(of, *unit, "gradient", precision="bf16")]
        return [pixels, *(each.full() for each in projections)]

    before = results(network)
    [explainer(x, 1) for explainer in kept]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        parts[1].get_buffer("running_mean").add_(1)
    after, new = results(network), dv.capture(model, (3, 9, 9))
    for old, one, other in zip(before, after, results(new), strict=True):
        assert torch.equal(one, other) and not torch.equal(one, old)
    for explainer, method in zip(kept, ("score-cam", "grad-cam"), strict=True):
        assert torch.allclose(explainer(x, 1, raw=True), dv.cam(method, new, "2")(x, 1, raw=True), atol=1e-6)


# --- functions with a backward of their own, and what is no module


class relu(torch.autograd.Function):
    """A rectifier by name, with a surrogate gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * torch.sigmoid(4 * ctx.saved_tensors[0])


class Resize(torch.autograd.Function):
    """Has an argument that is a tuple."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: tuple[int, int]) -> Tensor:
        return functional.interpolate(x, size=size)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return 2 * functional.adaptive_avg_pool2d(gradient, 8), None


class InPlace(torch.autograd.Function):
    """Changes its argument."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x.clamp_(min=0)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * (0.1 + 0.9 * (ctx.saved_tensors[0] > 0))


class Applied(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda x: relu.apply(x),
    "tuple": lambda x: Resize.apply(x, (9, 9)),
    "in place": lambda x: InPlace.apply(x * 1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_backward_of_its_own_is_kept(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Applied(FUNCTIONS[name]), nn.Conv2d(4, 5, 3)).double().eval()
    x = torch.randn(1, 3, 10, 10, dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(model(leaf)[0, 2, 3, 3], leaf)
    projected = dv.project(dv.capture(model, (3, 10, 10)), x, "2", 2, (3, 3), "gradient").full()
    assert torch.allclose(projected, wanted[0], atol=1e-9)


class Tutorial(nn.Module):
    """Grad-CAM's tutorial: the network keeps the gradient of its maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def keep(self, gradient: Tensor) -> None:
        self.gradients = gradient

    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        y = torch.relu(self.conv(x))
        y.register_hook(self.keep)  # type: ignore[no-untyped-call]
        y.retain_grad()
        return self.head(y.mean((2, 3))), x.shape[0]


def test_gradients_that_are_kept_and_outputs_that_are_numbers() -> None:
    model, x = Tutorial().eval(), torch.randn(2, 3, 9, 9)
    network = dv.capture(model, (3, 9, 9))
    assert torch.allclose(network(x)[0], model(x)[0], atol=1e-6)
    model(x)[0].sum().backward()
    assert model.gradients is not None  # hooks of values work again


def test_what_is_no_module_is_told_in_one_line() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), torch.randn(2, 3, 9, 9)
    program = torch.export.export(model, (x,))
    things: list[Any] = [jit.trace(model, x), program, program.module(), model.state_dict(), nn.ReLU, len]
    for thing in [*things, nn.Sequential(nn.LazyConv2d(4, 3))]:
        with pytest.raises(dv.DeconvvizError, match=r"given; expected|run it once"):
            dv.capture(thing, (3, 9, 9))
    with pytest.raises(dv.DeconvvizError, match="takes no hooks"):
        dv.cam("grad-cam", jit.script(model), "1")


RECTIFIERS: dict[str, Callable[[Tensor], Tensor]] = {
    "clamp": lambda x: x.clamp(min=0),
    "in place": lambda x: (x * 1).clamp_(0),
    "clip": lambda x: x.clip(0),
    "threshold": lambda x: functional.threshold(x, 0, 0),
}


@pytest.mark.parametrize("rule", ["deconvnet", "guided"])
@pytest.mark.parametrize("name", RECTIFIERS)
def test_a_rectifier_by_another_name_is_one(name: str, rule: str) -> None:
    torch.manual_seed(0)
    first, last, x = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3), torch.randn(1, 3, 12, 12)
    usual, other = (nn.Sequential(first, each, last).eval() for each in (nn.ReLU(), Applied(RECTIFIERS[name])))
    wanted, projected = (dv.project(dv.capture(m, (3, 12, 12)), x, "2", 2, (3, 3), rule) for m in (usual, other))
    assert torch.allclose(projected.full(), wanted.full(), atol=1e-6) and not projected.linearised


class Windows(nn.Module):
    """Cuts images into windows, which count as images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        windows = x.unfold(2, 6, 6).unfold(3, 6, 6).permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, 6, 6)
        scores: Tensor = self.head(torch.relu(self.conv(windows)).mean((2, 3)).view(x.shape[0], -1, 4).mean(1))
        return scores


@pytest.mark.parametrize("count", [1, 3])
def test_full_grad_where_windows_count_as_images(count: int) -> None:
    torch.manual_seed(0)
    explainer = dv.cam("full-grad", dv.capture(Windows().eval(), (3, 12, 12)))
    assert explainer(torch.randn(count, 3, 12, 12), 1).shape == (count, 12, 12)
    assert float(explainer.extras["unexplained"].abs().max()) < 1e-5


class Frames(nn.Module):
    """Convolves a volume by the op that has filters of any number of dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv3d(1, 4, 3, padding=1), nn.Conv2d(12, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        ones: list[int] = [1, 1, 1]
        weight, bias = self.conv.weight, self.conv.bias
        y: Tensor = torch.ops.aten.convolution(x.unsqueeze(1), weight, bias, ones, ones, ones, False, [0, 0, 0], 1)
        scores: Tensor = self.head(torch.relu(y).flatten(1, 2)).mean((2, 3))
        return scores


def test_filters_of_three_dimensions() -> None:
    network, x = dv.capture(Frames().eval(), (3, 12, 12)), torch.randn(2, 3, 12, 12)
    assert torch.allclose(network.fast()(x), network(x), atol=1e-5)


def test_what_a_target_of_the_user_raises_is_not_laid_on_options() -> None:
    def target(output: Tensor) -> Tensor:
        raise ValueError("mine")

    network = dv.capture(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), (3, 9, 9))
    with pytest.raises(ValueError, match="mine"):
        dv.cam("rise", network, masks=10)(torch.randn(1, 3, 9, 9), target)
