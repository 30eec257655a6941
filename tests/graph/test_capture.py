"""Capture: the graph computes what the model computes, names what the user can name, and touches nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from networks import build, by_weight
from torch import Tensor, fx, nn

import deconvviz as dv
from deconvviz.errors import CaptureError, DeconvvizError, InputRefused, LayerNotFound

# One of each of torchvision's 20 families of classification networks, at the smallest input that it takes.
FAMILIES = {
    "alexnet": 96,
    "convnext_tiny": 64,
    "densenet121": 64,
    "efficientnet_b0": 64,
    "efficientnet_v2_s": 64,
    "googlenet": 64,
    "inception_v3": 96,
    "maxvit_t": 224,
    "mnasnet0_5": 64,
    "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,
    "regnet_y_400mf": 64,
    "resnet18": 64,
    "resnext50_32x4d": 64,
    "shufflenet_v2_x1_0": 64,
    "squeezenet1_0": 64,
    "swin_t": 64,
    "vgg11_bn": 64,
    "vit_b_16": 224,
    "wide_resnet50_2": 64,
}
Made = Callable[[str, int], tuple[nn.Module, dv.Network]]


class Block(nn.Module):
    """A reused ReLU, in place on a convolution's value, a functional op, and a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.norm(self.first(x)))
        y = F.max_pool2d(y, 3, 1, 1)
        y += x
        return self.relu(y)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2)
        self.block = Block()
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(4, 5))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.block(self.block(self.stem(x)))
        return {"logits": self.head(y), "map": y}


def small() -> tuple[Small, dv.Network]:
    torch.manual_seed(0)
    model = Small().eval()
    nn.init.uniform_(model.block.norm.running_mean)  # type: ignore[arg-type]
    return model, dv.capture(model, (3, 17, 15))


@pytest.mark.parametrize("name", by_weight(FAMILIES))
def test_every_family_runs_equal_to_its_model(name: str) -> None:
    model = build(name).float()
    size = FAMILIES[name]
    x = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted, got = model(x), dv.capture(model, (3, size, size))(x)
    assert (wanted - got).abs().max() <= 1e-5 * wanted.abs().max().clamp(min=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deeplabv3_mobilenet_v3_large", "fcn_resnet50"])
def test_segmentation_returns_its_dictionary(name: str) -> None:
    import torchvision

    model = torchvision.models.get_model(name, weights=None, weights_backbone=None, aux_loss=True).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        wanted, got = model(x), dv.capture(model, (3, 64, 64))(x)
    assert list(wanted) == list(got) == ["out", "aux"]
    assert all(torch.allclose(wanted[key], got[key], atol=1e-5) for key in wanted)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "mixer_s32_224"])
def test_timm_networks_run_equal(name: str) -> None:
    import timm

    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False).eval()
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        assert torch.allclose(model(x), dv.capture(model, (3, 224, 224))(x), atol=1e-5)


def test_layers_are_named_by_module_call_and_keep_the_value_before_the_next_op() -> None:
    model, net = small()
    x = torch.randn(2, 3, 17, 15)
    seen: dict[str, list[Tensor]] = {}
    hooks = [
        module.register_forward_hook(lambda m, i, o, name=name: seen.setdefault(name, []).append(o.clone()))
        for name, module in model.named_modules()
        if name
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    for name, values in seen.items():
        for call, value in enumerate(values):
            layer = name if call == 0 else f"{name}@{call}"
            assert torch.equal(net.activations(x, [layer])[layer], value), layer
    assert {"block", "block@1", "block.relu@3", "block.norm@1"} <= set(net.layers)
    assert (net.activations(x, ["block.norm"])["block.norm"] < 0).any()  # not the ReLU's value


def test_functional_ops_are_reachable_under_the_graphs_name() -> None:
    model, net = small()
    pooled = [layer for layer in net.layers.values() if layer.functional and layer.kind == "max_pool2d"]
    assert len(pooled) == 2
    x = torch.randn(1, 3, 17, 15)
    with torch.no_grad():
        y = model.block.relu(model.block.norm(model.block.first(model.stem(x))))
        assert torch.equal(net.activations(x, [pooled[0].name])[pooled[0].name], F.max_pool2d(y, 3, 1, 1))


def test_a_layer_knows_kind_shape_reach_and_parameters() -> None:
    model, net = small()
    stem = net.layers["stem"]
    assert (stem.name, stem.kind, stem.shape) == ("stem", "Conv2d", (4, 8, 7))
    assert stem.receptive_field == ((3, 3), (2, 2), (0, 0)) and stem.stride == (2, 2)
    assert stem.parameters == sum(p.numel() for p in model.stem.parameters())
    assert net.layers["block.first"].receptive_field == ((7, 7), (2, 2), (-2, -2))
    assert net.layers["head"].shape == (5,) and net.layers["head"].receptive_field.size == (17, 15)


def test_activations_run_no_op_past_the_deepest_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    _, net = small()
    ran: list[fx.Node] = []
    value = dv.Network.value
    monkeypatch.setattr(
        dv.Network, "value", lambda self, node, values: (ran.append(node), value(self, node, values))[1]
    )
    net.activations(torch.randn(1, 3, 17, 15), ["stem", "block.norm"])
    kinds = [str(node.target) for node in ran if node.op == "call_function"]
    assert kinds == ["aten.conv2d.default", "aten.conv2d.default", "aten.batch_norm.default"]


def test_after_computes_the_output_from_a_layer_and_runs_nothing_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, net = small()
    x = torch.randn(2, 3, 17, 15)
    value = net.activations(x, ["block"])["block"]
    tail = net.after("block")
    assert torch.allclose(tail(value)["logits"], net(x)["logits"])
    with torch.no_grad():
        assert torch.allclose(tail(torch.zeros_like(value))["map"], model.block(torch.zeros_like(value)))
    ran: list[str] = []
    run = dv.Network.value
    monkeypatch.setattr(
        dv.Network, "value", lambda self, node, values: (ran.append(node.name), run(self, node, values))[1]
    )
    tail(value)
    assert "conv2d" not in ran  # the stem


def test_after_keeps_what_passes_the_layer_by_and_expands_it() -> None:
    model, net = small()
    x = torch.randn(2, 3, 17, 15)
    with pytest.raises(CaptureError, match="bypass it"):
        net.after("block.norm")
    value = net.activations(x, ["block.norm"])["block.norm"]
    tail = net.after("block.norm", x)
    assert torch.allclose(tail(value)["logits"], net(x)["logits"])
    three = value.repeat_interleave(3, 0)
    three[1::3] = 0
    got = tail(three)["map"]
    with torch.no_grad():
        stem = model.stem(x)
        y = torch.relu(F.max_pool2d(torch.zeros_like(stem), 3, 1, 1) + stem)
        assert torch.allclose(got[1::3], model.block(y), atol=1e-6)
    assert torch.allclose(got[::3], net(x)["map"])
    with pytest.raises(CaptureError, match="multiple"):
        tail(value[:1].expand(3, -1, -1, -1))


def test_after_carries_gradients_to_the_layer_and_nowhere_else() -> None:
    model, net = small()
    x = torch.randn(1, 3, 17, 15)
    value = net.activations(x, ["block"])["block"].detach().requires_grad_()
    (gradient,) = torch.autograd.grad(net.after("block")(value)["logits"][0, 2], value)
    model.eval()
    leaf = value.detach().requires_grad_()
    (wanted,) = torch.autograd.grad(model.head(model.block(leaf))[0, 2], leaf)
    assert torch.allclose(gradient, wanted, atol=1e-7) and wanted.abs().max() > 0
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 5e-2)])
def test_fast_is_equal(precision: str, tolerance: float) -> None:
    model = build("resnet18").float()
    net = dv.capture(model, (3, 64, 64))
    x = torch.randn(2, 3, 64, 64)
    fast = net.fast(precision)
    with torch.no_grad():
        wanted = net(x)
        assert (fast(x).float() - wanted).abs().max() <= tolerance * wanted.abs().max()
    norms = [[n for n in g.nodes if n.target is torch.ops.aten.batch_norm.default] for g in (fast.graph, net.graph)]
    assert not norms[0] and len(norms[1]) == 20  # the original is as it was
    with pytest.raises(LayerNotFound, match=r"keep=\['conv1'\]"):
        fast.activations(x, ["conv1"])
    kept = net.fast(precision, keep=["conv1"]).activations(x, ["conv1", "bn1"])
    assert (kept["conv1"].float() - net.activations(x, ["conv1"])["conv1"]).abs().max() < tolerance * 10
    assert (kept["bn1"].float() - net.activations(x, ["bn1"])["bn1"]).abs().max() < tolerance * 10


def test_fast_overwrites_nothing_that_is_asked_for() -> None:
    """ReLU runs in place there: not on a value that is returned, read again, or given by the user."""
    _, net = small()
    x, fast = torch.randn(2, 3, 17, 15), net.fast(keep=["stem", "block.first", "block.first@1"])
    with torch.inference_mode():
        for wanted in (["stem", "block.first", "block.norm", "block.relu", "block"], ["block.norm"], ["block"]):
            for name, value in fast.activations(x, wanted).items():
                assert torch.allclose(value, net.activations(x, [name])[name], atol=1e-5), name
        given = net.activations(x, ["block.norm"])["block.norm"]
        before = given.clone()
        fast.after("block.norm", x)(given)
        assert torch.equal(given, before) and (given < 0).any()
    plan = fast._plan(frozenset({fast.image}), (fast.layer("block").node,))
    assert plan.overwriting


def test_the_model_stays_as_it_was() -> None:
    model = Small().train()
    model.block.norm.eval()  # a mixed mode, as when fine-tuning
    calls: list[int] = []
    handle = model.stem.register_forward_hook(lambda *_: calls.append(1))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    model.stem.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    net = dv.capture(model, (3, 17, 15))
    net.fast("bf16")(torch.randn(1, 3, 17, 15))
    with pytest.raises(CaptureError):
        dv.capture(model, (4, 17, 15))
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters() if p.grad is not None)
    assert not model.stem.weight.requires_grad and model.block.first.weight.requires_grad
    assert list(model.stem._forward_hooks) == [handle.id]
    assert net.tensors["stem.weight"].data_ptr() == model.stem.weight.data_ptr()  # shared, not copied


class Aliased(nn.Module):
    """Writes through a view of a value that is read again: renaming alone would be wrong."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.sigmoid(x)
        y[:, 1].mul_(3)
        first, second = y.chunk(2, 1)
        values, _ = second.max(1, keepdim=True)
        return first + values


def test_a_write_through_a_view_is_seen_by_later_readers() -> None:
    x = torch.randn(3, 4, 5, 5)
    before = x.clone()
    assert torch.equal(dv.capture(Aliased(), (4, 5, 5))(x), Aliased()(x))
    assert torch.equal(x, before)


def test_an_in_place_op_on_the_input_leaves_the_users_images_alone() -> None:
    net = dv.capture(nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 2, 1)), (3, 4, 4))
    x = torch.randn(2, 3, 4, 4)
    before = x.clone()
    net(x)
    assert torch.equal(x, before)


def test_wrong_inputs_are_answered_in_one_line() -> None:
    _, net = small()
    x = torch.randn(1, 3, 17, 15)
    cases: list[tuple[Callable[[], object], type[DeconvvizError], str]] = [
        (lambda: net.activations(x, ["blok"]), LayerNotFound, "block"),
        (lambda: net(x[:, :2]), CaptureError, r"\(1, 2, 17, 15\).*\(3, 17, 15\)"),
        (lambda: net(x.double()), CaptureError, "float64"),
        (lambda: net.after("block")(x), CaptureError, r"\(4, 8, 7\)"),
        (lambda: net.fast("fp8"), CaptureError, "one of fp32, tf32, bf16, fp64"),
        (
            lambda: dv.capture(Small(), (1, 17, 15)),
            InputRefused,
            "does not accept.*takes 3 channels: give as many values",
        ),
        (
            lambda: dv.capture(nn.Sequential(nn.Conv1d(3, 4, 3)), (3, 9, 9)),
            InputRefused,
            "Conv1d, and only networks of",
        ),
        (lambda: dv.capture(Small(), (3, 0, 15)), CaptureError, "positive"),
    ]
    for call, kind, message in cases:
        with pytest.raises(kind, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


def test_what_cannot_be_exported_is_said() -> None:
    with pytest.raises(CaptureError, match="cannot follow Branching"):
        dv.capture(Branching(), (3, 4, 4))


def test_fingerprints_tell_networks_apart(network: Made) -> None:
    model, net = small()
    same = dv.capture(model, (3, 17, 15))
    assert net.fingerprint == same.fingerprint
    with torch.no_grad():
        model.head[3].bias[0] += 1e-3
    assert net.fingerprint != dv.capture(Small(), (3, 17, 15)).fingerprint
    assert same.fingerprint == net.fingerprint  # weights are shared: the change is seen by both


def test_networks_print_and_show_themselves() -> None:
    _, net = small()
    assert "Small" in repr(net) and "block.relu@1" in net.table() and "<pre>" in net._repr_html_()
    assert net.to(torch.float64)(torch.randn(1, 3, 17, 15).double())["logits"].dtype == torch.float64
