"""Capture of networks that come in wrappers, with hooks, in odd modes, or that depend on more than their images."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.errors import CaptureError

SHAPE = (3, 11, 13)


def images(count: int = 3, *shape: int) -> Tensor:
    return torch.randn(count, *(shape or SHAPE), generator=torch.Generator().manual_seed(4))


def plain() -> nn.Sequential:
    torch.manual_seed(1)
    model = nn.Sequential()
    model.add_module("conv", nn.Conv2d(3, 5, 3))
    model.add_module("act", nn.ReLU())
    model.add_module("pool", nn.AdaptiveAvgPool2d(1))
    model.add_module("flat", nn.Flatten())
    model.add_module("fc", nn.Linear(5, 4))
    return model.eval()


def agree(network: dv.Network, model: Callable[[Tensor], Any], count: int = 3) -> None:
    """The network returns what the model returns, for as many images."""
    x = images(count)
    with torch.no_grad():
        assert torch.allclose(network(x), model(x), atol=1e-6)


class Variadic(nn.Module):
    """Hands whatever it is given on to another network, as wrappers for fine-tuning do."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.base = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.base(*args, **kwargs)


class Keyword(nn.Module):
    """Takes further arguments that have defaults."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.base = model

    def forward(self, pixel_values: Tensor, scale: float = 2.0, *, offset: Tensor | None = None) -> Any:
        y = self.base(pixel_values) * scale
        return y if offset is None else y + offset


# --- wrappers --------------------------------------------------------------------------------------------------------


def compiled(model: nn.Module) -> nn.Module:
    wrapped: Any = torch.compile(model, backend="eager")
    module: nn.Module = wrapped
    return module


WRAPPERS: dict[str, tuple[Callable[[nn.Module], nn.Module], str]] = {
    "data parallel": (nn.DataParallel, ""),
    "compiled": (lambda model: torch.compile(model, backend="eager"), ""),  # type: ignore[dict-item, return-value]
    "compiled data parallel": (lambda model: torch.compile(nn.DataParallel(model), backend="eager"), ""),  # type: ignore[dict-item, return-value]
    "data parallel of compiled": (lambda model: nn.DataParallel(compiled(model)), ""),
    "variadic": (Variadic, "base."),
    "two variadic": (lambda model: Variadic(Variadic(model)), "base.base."),
    "data parallel of variadic": (lambda model: nn.DataParallel(Variadic(model)), "base."),
    "further arguments": (Keyword, "base."),
    "variadic of further arguments": (lambda model: Variadic(Keyword(model)), "base.base."),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapped_network_has_the_layers_and_values_of_its_own(name: str) -> None:
    wrap, prefix = WRAPPERS[name]
    inner = plain()
    scale = 2.0 if "further" in name else 1.0
    network = dv.capture(wrap(inner), SHAPE)
    for count in (1, 2, 5):
        agree(network, lambda x: inner(x) * scale, count)
    for layer in ("conv", "act", "pool", "flat", "fc"):
        assert network.layers[prefix + layer].kind == type(getattr(inner, layer)).__name__
    assert not [each for each in network.layers if each.startswith(("model", "module", "_orig_mod"))]
    weight, conv = network.tensors[f"{prefix}conv.weight"], network.layers[f"{prefix}conv"]
    assert weight.data_ptr() == inner.conv.weight.data_ptr()
    own: list[nn.Parameter] = list(inner.conv.parameters())
    assert conv.parameters == sum(parameter.numel() for parameter in own)
    assert network.parameters[""] == sum(p.numel() for p in inner.parameters())
    assert network.module_names[inner.conv] == f"{prefix}conv"


@pytest.mark.parametrize(
    "name",
    [
        "module",
        "_orig_mod_",
        "model",
    ],
)
def test_a_child_that_is_called_like_a_wrappers_keeps_its_name(name: str) -> None:
    """`module` and `model` are names that a network may give its own parts."""

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module(name, plain())

        def forward(self, *images: Tensor) -> Tensor:
            return self.get_submodule(name)(*images).relu()

    class Single(Named):
        def forward(self, image: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(image)

    for model in (Single().eval(), Named().eval()):
        network = dv.capture(model, SHAPE)
        assert {name, f"{name}.conv", f"{name}.fc"} <= set(network.layers) and f"{name}.fc.bias" in network.tensors
        agree(network, model)


def test_a_projection_through_a_wrapper_is_that_of_the_network_inside() -> None:
    inner, x = plain().double(), images(1).double()
    wanted = dv.project(dv.capture(inner, SHAPE), x, "act", 2, (3, 4), "gradient")
    for wrapped, layer in ((nn.DataParallel(inner), "act"), (Variadic(inner), "base.act")):
        got = dv.project(dv.capture(wrapped, SHAPE), x, layer, 2, (3, 4), "gradient")
        assert got.window == wanted.window and torch.equal(got.pixels, wanted.pixels)


# --- sub-graphs ------------------------------------------------------------------------------------------------------


class Within(nn.Module):
    """Runs its middle, and returns several values of it, within a context manager."""

    def __init__(self, context: Callable[[], Any]) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.context = context
        self.conv, self.other, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).relu()
        with self.context():
            first = self.other(y).relu()
            second = first * 0.5 + y
        return self.fc(torch.cat([first, second], 1).mean((2, 3)))


def other_device() -> Any:
    return torch.autocast("cuda", dtype=torch.float16)


def switched_off() -> Any:
    return torch.autocast("cpu", enabled=False)


@pytest.mark.parametrize("context", [other_device, switched_off, torch.no_grad, torch.enable_grad])
@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
def test_a_context_within_forward_leaves_the_values_alone(context: Callable[[], Any]) -> None:
    model = Within(context).eval()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        network = dv.capture(model, SHAPE)
    assert not [w for w in caught if "captured without it" in str(w.message)]
    assert {"conv", "other", "fc"} <= set(network.layers) and network.layers["other"].receptive_field.size == (5, 5)
    agree(network, model, 1)
    agree(network, model, 4)


def test_contexts_within_contexts_are_taken_apart_too() -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.fc = Within(torch.no_grad), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            with switched_off():
                return self.fc(self.inner(x).relu() + 1)

    model = Nested().eval()
    network = dv.capture(model, SHAPE)
    assert "inner.other" in network.layers
    agree(network, model)


def test_autocast_of_the_same_device_is_left_out_with_a_warning() -> None:
    """The graph computes in the precision of its weights: not the same numbers, but near, and in float32."""
    model = Within(lambda: torch.autocast("cpu", dtype=torch.bfloat16)).eval()
    with pytest.warns(UserWarning, match="switches torch.autocast on for cpu; the network is captured without it"):
        network = dv.capture(model, SHAPE)
    exact = Within(torch.no_grad).eval()
    exact.load_state_dict(model.state_dict())
    agree(network, exact)
    assert network(images()).dtype == torch.float32


@pytest.mark.slow
def test_a_branch_is_still_refused() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x.mean((2, 3))
            return torch.cond(y.sum() > 0, lambda v: v.sin(), lambda v: v.cos(), (y,))

    with pytest.raises(CaptureError, match="branch"):
        dv.capture(Branching().eval(), SHAPE)


def test_control_flow_on_values_is_refused_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    class Deciding(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x.mean((2, 3))
            return y * 2 if y.sum().item() > 1e6 else y

    with pytest.raises(CaptureError, match="control flow") as raised:
        dv.capture(Deciding().eval(), SHAPE)
    printed = capfd.readouterr()
    assert "\n" not in str(raised.value) and not printed.out and not printed.err


# --- the user's hooks ------------------------------------------------------------------------------------------------


def storing(kept: list[Any]) -> Callable[..., None]:
    return lambda module, inputs, output: kept.append(output)


def copying(kept: list[Any]) -> Callable[..., None]:
    return lambda module, inputs, output: kept.append(np.array(output.detach().cpu().numpy()))


def printing(kept: list[Any]) -> Callable[..., None]:
    return lambda module, inputs, output: kept.append(f"{float(output.abs().max()):.3f} {output.tolist()[0][0]}")


def deciding(kept: list[Any]) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        if output.sum().item() > 0:  # no exporter follows this
            kept.append("positive")
        else:
            kept.append("negative")

    return hook


@pytest.mark.parametrize("make", [storing, copying, printing, deciding])
@pytest.mark.parametrize("wrap", [lambda model: model, nn.DataParallel, Variadic])
def test_hooks_that_only_look_are_not_in_the_way_and_stay(
    make: Callable[[list[Any]], Callable[..., None]], wrap: Callable[[nn.Module], nn.Module]
) -> None:
    inner, kept = plain(), list[Any]()
    handles = [module.register_forward_hook(make(kept)) for module in (inner.conv, inner.fc, inner)]
    model = wrap(inner)
    network = dv.capture(model, SHAPE)
    assert [list(m._forward_hooks) for m in (inner.conv, inner.fc, inner)] == [[handle.id] for handle in handles]
    kept.clear()
    agree(network, plain())
    assert not kept  # the graph has no hooks
    with torch.no_grad():
        inner(images())
    assert len(kept) == 3
    for handle in handles:
        handle.remove()
    assert not any(module._forward_hooks for module in inner.modules())


def test_a_hook_that_changes_a_value_is_part_of_what_the_network_computes() -> None:
    inner = plain()
    expected = plain()
    inner.conv.register_forward_hook(lambda module, inputs, output: output * 3 - 1)
    network = dv.capture(inner, SHAPE)
    x = images()
    with torch.no_grad():
        rest = nn.Sequential(*list(expected.children())[1:])
        wanted = rest(expected.conv(x) * 3 - 1)
    assert not torch.allclose(wanted, expected(x), atol=1e-2)
    assert torch.allclose(network(x), wanted, atol=1e-6)
    assert len(inner.conv._forward_hooks) == 1


def test_a_pre_hook_that_changes_the_images_counts_as_well() -> None:
    inner, expected = plain(), plain()
    inner.register_forward_pre_hook(lambda module, inputs: (inputs[0].flip(1),))
    network = dv.capture(inner, SHAPE)
    agree(network, lambda x: expected(x.flip(1)))


def test_hooks_are_back_when_capture_fails() -> None:
    class Deciding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return y if float(y.detach().max()) > 0 else -y

    model = Deciding().eval()
    handle = model.conv.register_forward_hook(storing([]))
    with pytest.raises(CaptureError):
        dv.capture(model, SHAPE)
    assert list(model.conv._forward_hooks) == [handle.id]


# --- modes -----------------------------------------------------------------------------------------------------------


def test_what_was_captured_within_inference_mode_can_be_differentiated() -> None:
    model = plain().double()
    x = images(1).double()
    wanted = dv.project(dv.capture(model, SHAPE), x, "conv", 1, (2, 2), "gradient")
    with torch.inference_mode():
        network = dv.capture(model, SHAPE)
        inside = dv.project(network, x.clone(), "conv", 1, (2, 2), "gradient")
        grad_cam = dv.cam("grad-cam", network, "act")(x.clone(), 2)
    outside = dv.project(network, x, "conv", 1, (2, 2), "gradient")
    assert torch.equal(inside.pixels, wanted.pixels) and torch.equal(outside.pixels, wanted.pixels)
    assert torch.equal(grad_cam, dv.cam("grad-cam", network, "act")(x, 2))
    value = network.activations(x, ["act"])["act"].detach().requires_grad_()
    (gradient,) = torch.autograd.grad(network.after("act")(value)[0, 1], value)
    assert gradient.abs().max() > 0


def test_weights_that_were_made_within_inference_mode_serve_too() -> None:
    with torch.inference_mode():
        model = plain()
    network = dv.capture(model, SHAPE)
    x = images(1)
    agree(network, model)
    wanted = dv.cam("grad-cam", dv.capture(plain(), SHAPE), "act")(x, 0)
    assert torch.allclose(dv.cam("grad-cam", network, "act")(x, 0), wanted, atol=1e-6)


def test_capture_leaves_the_callers_gradient_mode() -> None:
    model = plain()
    for mode in (torch.no_grad, torch.enable_grad, torch.inference_mode):
        with mode():
            before = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
            dv.capture(model, SHAPE)
            assert before == (torch.is_grad_enabled(), torch.is_inference_mode_enabled())


# --- chance, and one image -------------------------------------------------------------------------------------------


class Functional(nn.Module):
    def __init__(self, op: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.op, self.conv, self.fc = op, nn.Conv2d(3, 6, 3), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.op(self.conv(x).relu().mean((2, 3))))


@pytest.mark.parametrize(
    "op",
    [
        lambda y: F.dropout(y, 0.5),  # its default is training=True
        lambda y: y + torch.randn_like(y),
        lambda y: y * torch.bernoulli(torch.full_like(y, 0.5)),
    ],
)
def test_a_network_that_depends_on_chance_is_told(op: Callable[[Tensor], Tensor]) -> None:
    with pytest.warns(UserWarning, match="gives other values each time for the same images"):
        network = dv.capture(Functional(op).eval(), SHAPE)
    assert network(images(2)).shape == (2, 2)


def test_a_network_without_chance_is_captured_without_a_word() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        without_chance = dv.capture(Functional(lambda y: F.dropout(y, 0.5, training=False)).eval(), SHAPE)
        in_eval_mode = dv.capture(nn.Sequential(nn.Dropout(0.5), plain()), SHAPE)
    x = images(2)
    assert all(torch.equal(network(x), network(x)) for network in (without_chance, in_eval_mode))


@pytest.mark.parametrize(
    "op",
    [
        lambda y: y[:, :, None, None].squeeze(),
        lambda y: y.unsqueeze(1).unsqueeze(3).squeeze(),
    ],
)
def test_a_squeeze_without_a_dimension_keeps_the_batch_of_one(op: Callable[[Tensor], Tensor]) -> None:
    model = Functional(op).eval()
    network = dv.capture(model, SHAPE)
    x = images(4)
    with torch.no_grad():
        wanted = model(x)
    assert torch.allclose(network(x), wanted, atol=1e-6)
    for number in range(4):
        assert torch.allclose(network(x[number : number + 1]), wanted[number : number + 1], atol=1e-6)
    got = dv.cam("grad-cam", network, "conv")(x, 1)
    alone = torch.cat([dv.cam("grad-cam", network, "conv")(x[n : n + 1], 1) for n in range(4)])
    assert torch.allclose(got, alone, atol=1e-5)


def test_values_that_belong_to_the_whole_batch_are_refused() -> None:
    """A mean over the images gives one alone another value than it has in company."""

    class Centred(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x.mean((2, 3))
            return y - y.mean(0, keepdim=True)

    with pytest.raises(CaptureError, match="the number of images"):
        dv.capture(Centred().eval(), SHAPE)


def test_batchnorm_without_statistics_is_told_and_takes_those_of_its_batch() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(5, track_running_stats=False)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), norm, nn.ReLU(), nn.Conv2d(5, 2, 3)).eval().double()
    with pytest.warns(UserWarning, match=r"1 of Sequential normalises by the statistics of its batch"):
        network = dv.capture(model, SHAPE)
    x = images(3).double()
    y = model[0](x)
    mean, deviation = y.mean((0, 2, 3), keepdim=True), (y.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()
    wanted = (y - mean) / deviation * norm.weight[:, None, None] + norm.bias[:, None, None]
    assert torch.allclose(network.activations(x, ["1"])["1"], wanted, atol=1e-10)
    assert network.layers["1"].receptive_field.size == SHAPE[1:]  # one position depends on all of them
    leaf = x[:1].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf)[0, 1, 2, 3], leaf)
    got = dv.project(network, x[:1], "3", 1, (2, 3), "gradient").full()
    assert torch.allclose(got, gradient[0], atol=1e-10)
    assert torch.allclose(network.without_norms()(x), model(x), atol=1e-8)  # nothing to fold


# --- shapes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 40), (40,), (1, 6, 7, 8)])
def test_signals_and_volumes_are_refused(shape: tuple[int, ...]) -> None:
    kinds = {1: nn.Identity, 2: lambda: nn.Conv1d(2, 3, 3), 4: lambda: nn.Conv3d(1, 3, 3)}
    model = nn.Sequential(kinds[len(shape)](), nn.ReLU()).eval()
    with pytest.raises(CaptureError, match=r"of a signal or a volume given.*three positive sizes"):
        dv.capture(model, shape)


@pytest.mark.parametrize("shape", [(3, 0, 8), (-3, 8, 8), ()])
def test_sizes_that_are_none_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(CaptureError, match="three positive sizes") as raised:
        dv.capture(plain(), shape)
    assert "signal" not in str(raised.value)


# --- a module in several places --------------------------------------------------------------------------------------


class TwoNames(nn.Module):
    """Keeps its stem on its own, and again in a list of all its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)
        self.parts = nn.Sequential(self.stem, nn.ReLU(), head)
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        return self.parts(x)


def test_a_module_is_a_layer_under_each_of_its_names() -> None:
    model = TwoNames().eval().double()
    network = dv.capture(model, SHAPE)
    x = images(1).double()
    for short, long in (("stem", "parts.0"), ("head", "parts.2")):
        assert network.layers[short].parameters == network.layers[long].parameters > 0
        assert network.layers[short].receptive_field == network.layers[long].receptive_field
        values = network.activations(x, [short, long])
        assert torch.equal(values[short], values[long])
        pixels = [dv.project(network, x, name, 1, (3, 3), "gradient").pixels for name in (short, long)]
        assert torch.equal(*pixels) and pixels[0].abs().max() > 0
    assert network.parameters[""] == sum(p.numel() for p in model.parameters())  # each counted once
    assert network.module_names[model.stem] == "stem" and "parts" in network.layers


def test_a_module_that_is_called_twice_and_has_two_names() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.step = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1)
            self.steps = nn.ModuleList([self.step, self.step])

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            for step in self.steps:
                x = step(x).relu()
            return x

    model = Recurrent().eval()
    network = dv.capture(model, SHAPE)
    x = images(1)
    with torch.no_grad():
        first = model.step(model.stem(x))
        second = model.step(first.relu())
    for name, value in (("step", first), ("step@1", second), ("steps.0", first), ("steps.0@1", second)):
        assert torch.allclose(network.activations(x, [name])[name], value, atol=1e-6), name


# --- computed weights ------------------------------------------------------------------------------------------------


def pruned(conv: nn.Module) -> nn.Module:
    from torch.nn.utils import prune

    cut: nn.Module = prune.l1_unstructured(conv, "weight", 0.4)  # type: ignore[no-untyped-call]
    return cut


def weight_norm(conv: nn.Module) -> nn.Module:
    return nn.utils.parametrizations.weight_norm(conv)


def spectral_norm(conv: nn.Module) -> nn.Module:
    return nn.utils.parametrizations.spectral_norm(conv)


class Standardised(nn.Conv2d):
    """A convolution whose weights have mean zero and deviation one, as BiT's."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, w, self.bias)


@pytest.mark.parametrize("change", [pruned, weight_norm, spectral_norm, None])
def test_a_convolution_of_computed_weights_is_folded_rightly(change: Callable[[nn.Module], nn.Module] | None) -> None:
    torch.manual_seed(6)
    conv = Standardised(3, 5, 3) if change is None else change(nn.Conv2d(3, 5, 3))
    norm = nn.BatchNorm2d(5)
    for value in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(value)  # type: ignore[arg-type]
    nn.init.uniform_(norm.running_var, 0.5, 2)  # type: ignore[arg-type]
    model = nn.Sequential(conv, norm, nn.ReLU(), nn.Flatten(), nn.Linear(5 * 9 * 11, 3)).eval().double()
    network = dv.capture(model, SHAPE)
    x = images(2).double()
    with torch.no_grad():
        wanted = model(x)
    for other in (network, network.without_norms(), network.fast()):
        assert torch.allclose(other(x.to(other.dtype)).double(), wanted, atol=1e-4), other.precision
    assert "0" not in network.fast().layers  # folded, not left alone
    leaf = x[:1].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model[:3](leaf)[0, 1, 4, 5], leaf)
    got = dv.project(network, x[:1], "2", 1, (4, 5), "gradient").full()
    assert torch.allclose(got, gradient[0], atol=1e-9)
    relevance = dv.project(network, x[:1], "2", 1, (4, 5), "lrp-epsilon")
    assert relevance.pixels.isfinite().all()


# --- bf16 with something else inside ---------------------------------------------------------------------------------


class Ramp(nn.Module):
    """Adds a coordinate that is made in float32 while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(4, 5, 3), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.linspace(-1, 1, x.shape[2])[None, None, :, None].expand(x.shape[0], 1, x.shape[2], x.shape[3])
        return self.fc(self.conv(torch.cat([x, rows], 1)).relu().mean((2, 3)))


class Widened(nn.Module):
    """Computes a mean in float32 and goes on with it in a matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mix = nn.Conv2d(3, 5, 3), nn.Parameter(torch.randn(5, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).relu().to(torch.float32).mean((2, 3)) @ self.mix


@pytest.mark.parametrize("kind", [Ramp, Widened])
def test_bf16_bears_what_is_made_in_float32(kind: type[nn.Module]) -> None:
    torch.manual_seed(7)
    model = kind().eval()
    network = dv.capture(model, SHAPE)
    x = images(2)
    with torch.no_grad():
        wanted = model(x)
        assert torch.allclose(network.fast("bf16")(x).float(), wanted, atol=0.03 * float(wanted.abs().max()))


def test_an_op_that_bf16_does_not_have_is_named() -> None:
    class Spectrum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.rfft2(x).abs().mean((2, 3))

    network = dv.capture(nn.Sequential(nn.Conv2d(3, 4, 3), Spectrum()).eval(), SHAPE)
    with pytest.raises(CaptureError, match=r"fft_rfft2? ?.*does not compute in bf16.*--precision fp32"):
        network.fast("bf16")(images(1))
