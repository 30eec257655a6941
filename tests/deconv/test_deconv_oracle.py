"""The projections against a second implementation by autograd, against captum where it is right, and by definition."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from captum.attr import NeuronDeconvolution, NeuronGuidedBackprop
from networks import LIGHT
from oracle import RULES, layer_value, project_by_autograd, unit
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

import deconvviz as dv

# the input's size, then an early, a middle and a late layer, and the classes; among them several whose value the
# network overwrites in place right after (alexnet's features.0, resnet18's layer1.0.bn2, each .bn, and norm5)
NETWORKS: dict[str, tuple[int, tuple[str, ...]]] = {
    "alexnet": (64, ("features.0", "features.8", "classifier.6")),
    "vgg11_bn": (32, ("features.4", "features.25", "classifier.6")),
    "resnet18": (64, ("layer1.0.bn2", "layer3.0", "layer4.1.conv2", "fc")),
    "squeezenet1_0": (64, ("features.3", "features.8.expand3x3", "classifier.3")),
    "densenet121": (64, ("features.denseblock1.denselayer2.conv2", "features.norm5", "classifier")),
    "googlenet": (64, ("inception3a.branch1.bn", "inception4b", "fc")),
    "inception_v3": (96, ("Conv2d_2b_3x3", "Mixed_5b.branch3x3dbl_2.bn", "Mixed_7c", "fc")),
    "mobilenet_v2": (64, ("features.2", "features.18.0", "classifier.1")),
    "shufflenet_v2_x1_0": (64, ("stage2.1", "conv5.0", "fc")),
    "efficientnet_b0": (64, ("features.2.1.block.2", "features.8.0", "classifier.1")),
    "regnet_y_400mf": (64, ("trunk_output.block2", "trunk_output.block4.block4-1.f.b", "fc")),
    "convnext_tiny": (64, ("features.1.0.block.0", "features.5", "classifier.2")),
}
CASES = [  # the classes under one rule only, for they cost the most and differ the least
    pytest.param(name, size, layer, rule, marks=() if name in LIGHT else pytest.mark.slow)
    for name, (size, layers) in NETWORKS.items()
    for layer, rule in itertools.product(layers, RULES)
    if layer != layers[-1] or rule == "deconvnet"
]
NetworkFixture = Callable[[str, int], tuple[nn.Module, dv.Network]]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On images this small a second thread gains nothing, and on a busy machine it costs ten times the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def image(height: int, width: int, seed: int = 1) -> Tensor:
    return torch.randn(1, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def assert_same(got: Tensor, expected: Tensor, tolerance: float = 1e-8) -> None:
    scale = expected.abs().max()
    assert scale > 0, "nothing to compare: the expected projection is zero"
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= tolerance * scale


def a_unit(value: Tensor) -> tuple[int, tuple[int, int] | None]:
    """A live unit that is not the one that position=None means, where there is another: the map's second strongest."""
    if value.dim() == 2:
        return int(value.argmax()), None
    channel = int(value[0].flatten(1).kthvalue(max(1, value[0, 0].numel() - 1)).values.argmax())
    row, column = divmod(int(value[0, channel].flatten().argsort()[-2:][0]), value.shape[3])
    return channel, (row, column)


def compare(
    model: nn.Module,
    net: dv.Network,
    x: Tensor,
    layer: str,
    channel: int,
    position: tuple[int, int] | None,
    rule: str,
    lrn: str = "identity",
    may_be_zero: bool = False,
) -> dv.Projection:
    given = x.clone()
    projection = dv.project(net, given, layer, channel=channel, position=position, rule=rule, lrn=lrn)
    assert torch.equal(given, x), "the caller's image was changed"
    full, box = projection.full(), projection.window
    expected = project_by_autograd(model, x, layer, channel, position, rule, lrn)
    if may_be_zero and not expected.any():
        assert not full.any()
    else:
        assert_same(full, expected)
    inside = full[:, box.top : box.bottom, box.left : box.right]
    assert torch.equal(projection.pixels, inside)
    assert int(full.count_nonzero()) == int(inside.count_nonzero()), "something outside the window"
    value = layer_value(model, x, layer)
    assert projection.value == pytest.approx(float(value[unit(value, channel, position)]), rel=1e-9)
    return projection


def check_projections(
    model: nn.Module, net: dv.Network, x: Tensor, layer: str, rules: tuple[str, ...] = RULES, lrn: str = "identity"
) -> None:
    channel, position = a_unit(layer_value(model, x, layer))
    for rule in rules:
        compare(model, net, x, layer, channel, position, rule, lrn)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size", "layer", "rule"), CASES)
def test_networks_project_as_autograd_does(
    network: NetworkFixture, name: str, size: int, layer: str, rule: str
) -> None:
    check_projections(*network(name, size), image(size, size), layer, rules=(rule,))


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["layer1.0.bn2", "layer3.0", "layer4.1.conv2"])
def test_no_position_means_the_strongest(network: NetworkFixture, layer: str) -> None:
    model, net = network("resnet18", 64)
    x = image(64, 64)
    value = layer_value(model, x, layer)
    for channel in (0, 5):
        projection = compare(model, net, x, layer, channel, None, "deconvnet")
        assert projection.value == pytest.approx(float(value[0, channel].max()), rel=1e-9)
        assert projection.position == unit(value, channel, None)[2:]


def places(value: Tensor) -> list[tuple[int, int]]:
    """Corners, an edge and the middle of a map: where a window meets the image's border, and where it does not."""
    height, width = value.shape[2:]
    return [(0, 0), (height - 1, width - 1), (height // 2, 0), (0, width - 1), (height // 2, width // 2)]


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["layer1.1.conv1", "layer2.0"])
def test_windows_within_a_larger_image(network: NetworkFixture, layer: str) -> None:
    model, net = network("resnet18", 128)
    x = image(128, 128)
    for position in places(layer_value(model, x, layer)):
        box = compare(model, net, x, layer, 2, position, "deconvnet").window
        assert max(box.bottom - box.top, box.right - box.left) <= 67  # the receptive field of layer2.0


CAPTUM = [
    *(("vgg11_bn", 32, layer) for layer in ("features.4", "features.14", "features.25", "classifier.6")),
    *(("squeezenet1_0", 64, layer) for layer in ("features.0", "features.5", "features.12.expand3x3", "classifier.3")),
    *(("resnet18", 64, layer) for layer in ("bn1", "layer1.0.bn2", "layer2.0", "layer4.1.conv2", "fc")),
]


@pytest.mark.peers
@pytest.mark.parametrize(
    ("rule", "attribution"), [("deconvnet", NeuronDeconvolution), ("guided", NeuronGuidedBackprop)]
)
@pytest.mark.parametrize(("name", "size", "layer"), CAPTUM)
@pytest.mark.filterwarnings("ignore:Setting backward hooks")
def test_captum_agrees(network: NetworkFixture, name: str, size: int, layer: str, rule: str, attribution: type) -> None:
    # captum is right where every rectifier is an nn.ReLU whose input nothing else reads: its hook sits on that input,
    # and replaces the sum of all that comes back to it (see test_pre_activation_keeps_the_skip)
    model, net = network(name, size)
    x = image(size, size)
    channel, position = a_unit(layer_value(model, x, layer))
    expected = attribution(model, model.get_submodule(layer)).attribute(x.clone(), (channel, *(position or ())))
    assert_same(dv.project(net, x, layer, channel=channel, position=position, rule=rule).full(), expected[0])


# ---- small nets, one operation each ----

SHAPE = (3, 23, 19)


class Fn(nn.Module):
    """A function as a module; its own modules, where it has any, are passed to it after the input."""

    def __init__(self, function: Callable[..., Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.parts)


class Around(nn.Module):
    """conv, ReLU, conv, then the body on 8 channels of the image's size, then a head that reads its whole output."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, padding=1))
        self.body = body
        self.double().eval()
        for layer in (self.stem[0], self.stem[2]):
            layer.weight.data.mul_(3)  # wide values, on both sides of every rectifier's bends
        shape = self.body(self.stem(image(*SHAPE[1:]))).shape
        self.head: nn.Module = nn.Linear(shape[1], 4) if len(shape) == 2 else nn.Conv2d(shape[1], 4, 3, padding=1)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x)))


def pre_activation(inplace: bool) -> nn.Module:
    conv, relu = nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(inplace)
    # in place the skip carries the rectified values, and its signal meets the rectifier's backward too
    return Fn(lambda x, conv, relu: conv(relu(x)) + x, conv, relu)


def squeeze_excite(gate: nn.Module) -> nn.Module:
    parts = (nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 1), gate)
    return Fn(lambda x, *parts: x * nn.Sequential(*parts)(x.mean((2, 3), keepdim=True)), *parts)


def shuffled(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


def attended(x: Tensor) -> Tensor:
    return x * F.softmax(x.flatten(2), dim=2).view_as(x)


BODIES: dict[str, Callable[[], nn.Module]] = {
    # rectifiers, in every spelling
    "F.relu": lambda: Fn(lambda x: F.relu(x)),
    "F.relu in place": lambda: Fn(lambda x: F.relu(x, inplace=True)),
    "torch.relu": lambda: Fn(lambda x: torch.relu(x)),
    "Tensor.relu": lambda: Fn(lambda x: x.relu()),
    "Tensor.relu_": lambda: Fn(lambda x: x.relu_()),
    "one ReLU, three uses": lambda: Fn(
        lambda x, relu, conv: relu(conv(relu(conv(relu(x))))), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, padding=1)
    ),
    "ReLU6": nn.ReLU6,
    "F.relu6": lambda: Fn(lambda x: F.relu6(x)),
    "Hardtanh": lambda: nn.Hardtanh(0.0, 2.0),
    "LeakyReLU": lambda: nn.LeakyReLU(0.2),
    "ELU": nn.ELU,
    "CELU": lambda: nn.CELU(0.7),
    "SELU": nn.SELU,
    "SiLU": lambda: nn.SiLU(inplace=True),
    "GELU": nn.GELU,
    "GELU tanh": lambda: nn.GELU("tanh"),
    "Hardswish": nn.Hardswish,
    "Mish": nn.Mish,
    "Softplus": nn.Softplus,
    "pre-activation": lambda: pre_activation(inplace=False),
    "pre-activation in place": lambda: pre_activation(inplace=True),
    # gates: the true derivative under every rule
    "sigmoid gate": lambda: squeeze_excite(nn.Sigmoid()),
    "hardsigmoid gate": lambda: squeeze_excite(nn.Hardsigmoid()),
    "softmax gate": lambda: Fn(attended),
    "LayerNorm": lambda: Fn(lambda x, norm: norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), nn.LayerNorm(8)),
    # nothing in eval mode
    "dropouts": lambda: nn.Sequential(nn.Dropout(0.5), nn.ReLU(), nn.Dropout2d(0.5), StochasticDepth(0.5, "row")),
    # convolutions
    "grouped": lambda: nn.Conv2d(8, 12, 3, groups=4),
    "depthwise": lambda: nn.Conv2d(8, 16, 5, padding=2, groups=8),
    "dilated": lambda: nn.Conv2d(8, 5, 3, padding=(1, 2), dilation=(2, 3)),
    "strided": lambda: nn.Conv2d(8, 5, (3, 5), stride=(3, 2), padding=(0, 1)),
    "same, even kernel": lambda: nn.Conv2d(8, 5, (4, 3), padding="same", dilation=(1, 2)),
    "reflecting conv": lambda: nn.Conv2d(8, 5, 3, padding=2, padding_mode="reflect"),
    "transposed": lambda: nn.ConvTranspose2d(8, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
    "transposed dilated": lambda: nn.ConvTranspose2d(8, 6, (2, 3), stride=(1, 3), dilation=2),
    # pools
    "max": lambda: nn.MaxPool2d(3, 2),
    "max ceil": lambda: nn.MaxPool2d(3, 2, ceil_mode=True),
    "max of zeros": lambda: nn.Sequential(nn.ReLU(), nn.MaxPool2d(2, 1)),  # windows of ties
    "max ceil padded": lambda: nn.MaxPool2d((3, 2), 2, padding=1, ceil_mode=True),
    "max dilated": lambda: nn.MaxPool2d(3, (1, 2), padding=1, dilation=(2, 3)),
    "max adaptive": lambda: nn.AdaptiveMaxPool2d((4, 5)),
    "average": lambda: nn.AvgPool2d(3, 2, padding=1, ceil_mode=True, count_include_pad=True),
    "average of the inside": lambda: nn.AvgPool2d(3, 2, padding=1, ceil_mode=True, count_include_pad=False),
    "average, own divisor": lambda: nn.AvgPool2d((2, 4), (3, 2), divisor_override=5),
    "average adaptive": lambda: nn.AdaptiveAvgPool2d((4, 6)),
    "average adaptive, larger": lambda: nn.AdaptiveAvgPool2d((20, 13)),
    # shapes
    "PixelShuffle": lambda: nn.PixelShuffle(2),
    "PixelUnshuffle": lambda: Fn(lambda x, down: down(x[:, :, 1:, 1:]), nn.PixelUnshuffle(2)),
    "channel shuffle": lambda: Fn(shuffled),
    "nearest": lambda: Fn(lambda x: F.interpolate(x, scale_factor=2)),
    "nearest to a size": lambda: Fn(lambda x: F.interpolate(x, size=(10, 17))),
    "bilinear": lambda: Fn(lambda x: F.interpolate(x, size=(21, 9), mode="bilinear", align_corners=False)),
    "bilinear, corners": lambda: Fn(lambda x: F.interpolate(x, size=(9, 20), mode="bilinear", align_corners=True)),
    "pad": lambda: Fn(lambda x: F.pad(x, (1, 2, 0, 3))),
    "pad with a number": lambda: Fn(lambda x: F.pad(x, (1, 2, 0, 3), value=1.5)),
    "pad with less than nothing": lambda: Fn(lambda x: F.pad(x, (-1, 2, 1, -2))),
    "pad reflecting": lambda: Fn(lambda x: F.pad(x, (4, 3, 2, 1), mode="reflect")),
    "slices": lambda: Fn(lambda x: torch.cat([x[:, 5:], x[:, :5], x[:, 2:4]], 1)),
    "strided slices": lambda: Fn(lambda x: torch.cat([x[:, :, ::2, 1:], x[:, :, ::2, :-1]], 1)),
    "chunks": lambda: Fn(lambda x: (lambda a, b: torch.cat((b, a + b), 1))(*x.chunk(2, 1))),
    "arithmetic": lambda: Fn(lambda x: (0.5 * x - x.mean((2, 3), keepdim=True)) / 3 + 1),
    "mean": lambda: Fn(lambda x: x.mean((2, 3))),
    "flatten": lambda: Fn(lambda x, linear: linear(x.flatten(1)), nn.Linear(8 * SHAPE[1] * SHAPE[2], 7)),
}


@pytest.mark.parametrize("body", BODIES)
def test_operations_project_as_autograd_does(body: str) -> None:
    torch.manual_seed(2)
    model = Around(nn.Sequential(BODIES[body]()))
    net = dv.capture(model, SHAPE)
    x = image(*SHAPE[1:])
    check_projections(model, net, x, "head")
    value = layer_value(model, x, "head")
    for position in places(value) if value.dim() == 4 else ():
        compare(model, net, x, "head", 1, position, "deconvnet", may_be_zero=True)  # a corner may be all padding


def small(*layers: nn.Module) -> tuple[nn.Module, dv.Network]:
    model = nn.Sequential(*layers).double().eval()
    return model, dv.capture(model, (3, 12, 12))


@pytest.mark.parametrize("lrn", ["identity", "gradient"])
@pytest.mark.parametrize(
    "norm", [lambda: nn.LocalResponseNorm(4, 0.5), lambda: Fn(lambda x: F.local_response_norm(x, 3, alpha=0.5))]
)
def test_response_normalisation(norm: Callable[[], nn.Module], lrn: str) -> None:
    torch.manual_seed(0)
    model, net = small(nn.Conv2d(3, 8, 3), nn.ReLU(), norm(), nn.MaxPool2d(3, 2), nn.Conv2d(8, 6, 3), norm())
    x = 3 * image(12, 12)
    check_projections(model, net, x, "5", lrn=lrn)
    default = dv.project(net, x, "5", channel=1, position=(1, 0), rule="deconvnet").full()
    assert_same(default, project_by_autograd(model, x, "5", 1, (1, 0), "deconvnet", "identity"))


def test_pre_activation_keeps_the_skip() -> None:
    """Where a rectifier's input feeds a skip too, the skip's signal passes unclamped; captum clamps or drops it."""
    torch.manual_seed(0)
    model, net = small(nn.Conv2d(3, 8, 3), pre_activation(inplace=False), nn.Conv2d(8, 4, 3))
    x = image(12, 12)
    stem, head = model[0], model[2]
    conv, _ = model[1].parts
    seed = torch.zeros(1, 4, 8, 8, dtype=torch.float64)
    seed[0, 2, 3, 5] = 1
    skip = F.conv_transpose2d(seed, head.weight)
    branch = F.conv_transpose2d(skip, conv.weight, padding=1).clamp(min=0)
    expected = F.conv_transpose2d(skip + branch, stem.weight)[0]  # by hand: no mask, only the branch clamped
    assert_same(project_by_autograd(model, x, "2", 2, (3, 5), "deconvnet"), expected)
    assert_same(dv.project(net, x, "2", channel=2, position=(3, 5), rule="deconvnet").full(), expected)


# ---- overlap="last" ----


def unpool_last(x: Tensor, signal: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """Each window in raster order writes its signal, zero or not, over whatever is at its switch."""
    channels, height, width = x.shape
    out = torch.zeros_like(x)
    for c, i, j in itertools.product(range(channels), range(signal.shape[1]), range(signal.shape[2])):
        top, left = i * stride - padding, j * stride - padding
        rows = range(max(0, top), min(height, top + kernel))
        columns = range(max(0, left), min(width, left + kernel))
        y, z = max(itertools.product(rows, columns), key=lambda at: float(x[c, at[0], at[1]]))
        out[c, y, z] = signal[c, i, j]
    return out


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "stride", "padding", "ceil"), [(3, 2, 1, False), (3, 2, 0, True), (3, 1, 1, False)])
def test_last_window_overwrites(kernel: int, stride: int, padding: int, ceil: bool) -> None:
    torch.manual_seed(0)
    pool, conv = nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil), nn.Conv2d(3, 4, 2)
    model, net = small(pool, conv)
    x = image(12, 12)
    project = partial(dv.project, net, x, "1", channel=3, rule="deconvnet")
    shape = layer_value(model, x, "1").shape
    not_sums = zeroed = 0
    for at in itertools.product(range(shape[2]), range(shape[3])):
        seed = torch.zeros(shape, dtype=torch.float64)
        place = (0, 3, *at)
        seed[place] = 1
        signal = F.conv_transpose2d(seed, conv.weight.detach())[0]
        expected = unpool_last(x[0], signal, kernel, stride, padding)
        if expected.any():
            assert_same(project(position=at, overlap="last").full(), expected)
        else:  # every window of this unit was overwritten
            assert not project(position=at, overlap="last").full().any()
        summed = project_by_autograd(model, x, "1", 3, at, "deconvnet")
        assert_same(project(position=at, overlap="sum").full(), summed)
        not_sums += not torch.allclose(expected, summed)
        zeroed += bool(((expected == 0) & (summed != 0)).any())
    assert not_sums > zeroed > 0, "the image has no switch that two windows share, or none where a zero overwrites"


def test_no_overlap_no_difference() -> None:
    torch.manual_seed(0)
    _, net = small(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(4, 4, 3))
    project = partial(dv.project, net, image(12, 12), "3", channel=1, position=(1, 2), rule="guided")
    assert_same(project(overlap="last").full(), project(overlap="sum").full())


# ---- what must hold whatever the implementation ----


def linear_net() -> nn.Module:
    torch.manual_seed(5)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1),
        nn.BatchNorm2d(6),
        nn.AvgPool2d(3, 2, padding=1),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.ConvTranspose2d(6, 4, 3),
        nn.ZeroPad2d(1),
        nn.Conv2d(4, 5, 3),
    )
    nn.init.uniform_(net[1].running_var, 0.5, 2)  # type: ignore[arg-type]
    nn.init.uniform_(net[1].running_mean)  # type: ignore[arg-type]
    return net.double().eval()


def test_linear_net_is_its_gradient_under_every_rule() -> None:
    model = linear_net()
    net = dv.capture(model, (3, 12, 12))
    x, other = image(12, 12), image(12, 12, seed=2)
    got = {rule: dv.project(net, x, "6", channel=4, position=(3, 2), rule=rule) for rule in RULES}
    for projection in got.values():
        assert_same(projection.full(), got["gradient"].full(), 1e-12)
        assert projection.linearised == ()
        difference = (layer_value(model, x, "6") - layer_value(model, other, "6"))[0, 4, 3, 2]
        assert float((projection.full() * (x - other)[0]).sum()) == pytest.approx(float(difference), rel=1e-9)


@pytest.mark.parametrize("rule", RULES)
def test_bias_changes_nothing_of_a_linear_net(rule: str) -> None:
    model = linear_net()
    at: dict[str, Any] = {"channel": 2, "position": (1, 3), "rule": rule}
    before = dv.project(dv.capture(model, (3, 12, 12)), image(12, 12), "6", **at)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=5)
    after = dv.project(dv.capture(model, (3, 12, 12)), image(12, 12), "6", **at)
    assert before.value != pytest.approx(after.value)
    assert_same(after.full(), before.full(), 1e-12)


@pytest.mark.parametrize(
    ("name", "layer"), [pytest.param("efficientnet_b0", "features.3", marks=pytest.mark.slow), ("resnet18", "layer2.0")]
)
def test_gradient_is_what_finite_differences_say(network: NetworkFixture, name: str, layer: str) -> None:
    model, net = network(name, 64)
    x, step = image(64, 64), 1e-5
    channel, position = a_unit(layer_value(model, x, layer))
    gradient = dv.project(net, x, layer, channel=channel, position=position, rule="gradient").full()
    at = (0, channel, *(position or ()))
    direction = gradient / gradient.norm() + image(64, 64, seed=7)[0] / 100  # not only across it, where all is small
    ahead, behind = (layer_value(model, x + sign * step * direction, layer)[at] for sign in (1, -1))
    slope = float((ahead - behind) / (2 * step))
    assert slope == pytest.approx(float((gradient * direction).sum()), rel=1e-6)
    assert slope > 0


@pytest.mark.parametrize(
    ("name", "layer", "ops"),
    [
        ("resnet18", "fc", set()),
        pytest.param("regnet_y_400mf", "trunk_output.block2", {"mul", "sigmoid"}, marks=pytest.mark.slow),
        pytest.param("convnext_tiny", "features.1", {"layer_norm"}, marks=pytest.mark.slow),
    ],
)
def test_what_is_not_linear_is_named(network: NetworkFixture, name: str, layer: str, ops: set[str]) -> None:
    _, net = network(name, 64)
    assert set(dv.project(net, image(64, 64), layer, channel=0, position=None, rule="deconvnet").linearised) == ops
