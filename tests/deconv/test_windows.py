"""A projection computed on the unit's own window equals the one computed on the whole image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from networks import build, by_weight
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.convnext import CNBlock
from torchvision.models.mobilenetv2 import InvertedResidual as MobileBlock
from torchvision.models.shufflenetv2 import InvertedResidual as ShuffleBlock

import deconvviz as dv
from deconvviz.deconv import batches
from deconvviz.deconv.places import Places
from deconvviz.deconv.plan import make_plan
from deconvviz.graph.reach import Interval

Made = Callable[[str, int], tuple[nn.Module, dv.Network]]


def check(net: dv.Network, layer: str, images: Tensor, rule: str) -> None:
    """Compare corners, edges and the interior of one layer, several units an image, some of them sharing it."""
    channels, rows, columns = net.layers[layer].units
    positions = [(0, 0), (rows - 1, columns - 1), (0, columns // 2), (rows // 2, columns // 2)]
    units = [(n % 2, layer, (7 * n + 3) % channels, at) for n, at in enumerate(dict.fromkeys(positions))]
    windowed = dv.project_units(net, images, units, rule)
    whole = dv.project_units(net, images, units, rule, windowed=False)
    value = net.maps(layer, net.activations(images, [layer])[layer])
    for a, b, (image, _, channel, (y, x)) in zip(windowed, whole, units, strict=True):
        scale = b.full().abs().max().clamp(min=1e-300)
        assert (a.full() - b.full()).abs().max() <= 1e-10 * scale, (layer, a)
        assert abs(a.value - float(value[image, channel, y, x])) <= 1e-10 * value.abs().max(), (layer, a)


NETWORKS = (
    "alexnet",
    "vgg11",
    "squeezenet1_0",
    "resnet18",
    "googlenet",
    "mobilenet_v2",
    "shufflenet_v2_x1_0",
    "convnext_tiny",
)
BLOCKS = (CNBlock, MobileBlock, ShuffleBlock)
ALIKE = ("inception4b", "inception4c", "inception5a")  # as 4a and 5b are; what follows takes as many channels


def shallow(model: nn.Module) -> nn.Module:
    """Leave out blocks that come after one with the same structure: each costs seconds."""
    for stage in (module for module in model.modules() if isinstance(module, nn.Sequential)):
        for place in reversed(range(2, len(stage))):
            pair = stage[place - 1], stage[place]
            if isinstance(pair[1], BLOCKS) and all(getattr(block, "use_res_connect", True) for block in pair):
                del stage[place]
    for name in ALIKE:
        if hasattr(model, name):
            setattr(model, name, nn.Identity())
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", by_weight(NETWORKS, light=("alexnet",)))
def test_windowed_equals_whole_in_every_spatial_layer(name: str, device: torch.device) -> None:
    size = (3, 64, 80)
    net = dv.capture(shallow(build(name)).to(device), size)
    images = torch.randn(2, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(device)
    by_node = {layer.node: name for name, layer in net.layers.items() if len(layer.shape) == 3}  # containers share one
    windows = 0
    for number, layer in enumerate(by_node.values()):
        check(net, layer, images, "guided" if number % 5 == 0 else "deconvnet")
        windows += net.image in make_plan(net, layer).windows
    assert windows >= 5  # else nothing was compared


class Odd(nn.Module):
    """What windows can get wrong: padding of every kind, ceil mode, dilation, slices, gates, several reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, padding="same", dilation=2)
        self.b = nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=3)
        self.even = nn.Conv2d(6, 6, 4, padding="same")
        self.gate = nn.Conv2d(6, 6, 1)
        self.norm = nn.LayerNorm(6)
        self.last = nn.Conv2d(12, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        f = nn.functional
        y = f.silu(self.a(x))
        y = f.max_pool2d(y, 3, 2, 1, 1, True) + f.avg_pool2d(y, 3, 2, 1, True, False)
        y = (
            y
            + f.avg_pool2d(f.pad(y, (1, 1, 1, 1)), 3, 1, ceil_mode=True)
            + f.avg_pool2d(y, 3, 1, 1, divisor_override=5)
        )
        y = f.max_pool2d(f.relu(y), 2, 1, 0, 2)[:, :, 1:]
        y = y * torch.sigmoid(self.gate(y))
        z = self.norm(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.last(torch.cat([z, y], 1))


class Whole(Odd):
    """The same behind ops that need the whole map."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(nn.functional.pad(self.b(self.a(x)), (1, 1, 1, 1), mode="reflect")[:, :3])
        y = y * self.gate(self.even(y[:, :6])).mean((2, 3), keepdim=True).mean(1, keepdim=True)
        return nn.functional.interpolate(y, scale_factor=2, mode="bilinear")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Odd, Whole])
@pytest.mark.parametrize("rule", ["deconvnet", "guided", "gradient"])
def test_every_position_of_odd_networks(kind: type[nn.Module], rule: str) -> None:
    torch.manual_seed(0)
    model = kind().double().eval()
    net = dv.capture(model, (3, 41, 38))
    images = torch.randn(2, 3, 41, 38, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(net(images), model(images))
    for name, layer in net.layers.items():
        if len(layer.shape) == 3 and layer.shape[1] > 1:
            check(net, name, images, rule)


@pytest.mark.slow
def test_the_value_of_a_unit_needs_only_its_window() -> None:
    """Change every pixel outside the window: value and projection stay to the last bit."""
    net = dv.capture(build("vgg11"), (3, 96, 96))
    x = torch.randn(1, 3, 96, 96, dtype=torch.float64)
    found = dv.project(net, x, "features.8", 5, (11, 3))
    box = found.window
    assert (box.bottom - box.top, box.right - box.left) != (96, 96)
    other = torch.randn_like(x) * 100
    other[..., box.top : box.bottom, box.left : box.right] = x[..., box.top : box.bottom, box.left : box.right]
    again = dv.project(net, other, "features.8", 5, (11, 3))
    assert again.value == found.value and torch.equal(again.pixels, found.pixels)


def test_units_of_many_layers_and_images_come_back_in_order(network: Made) -> None:
    _, net = network("squeezenet1_0", 64)
    images = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    units = [
        (2, "features.3", 4, (1, 2)),
        (0, "features.0", 1, (0, 0)),
        (1, "features.3", 9, (5, 5)),
        (2, "features.3", 4, (1, 2)),
    ]
    found = dv.project_units(net, images, units)
    assert [(p.image, p.layer, p.channel, p.position) for p in found] == units
    assert torch.equal(found[0].full(), found[3].full())
    for projection, unit in zip(found, units, strict=True):
        alone = dv.project(net, images[unit[0] : unit[0] + 1], unit[1], unit[2], unit[3])
        assert torch.allclose(projection.full(), alone.full(), rtol=1e-12, atol=0)


class HeadsFirst(nn.Module):
    """Attention over the positions of a map; the heads stand before the images, as vision transformers have them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mixed = nn.Conv2d(3, 8, 4, stride=4), nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        count, places, _ = tokens.shape
        query, key, value = self.mixed(tokens).reshape(count, places, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        return ((query @ key.transpose(-2, -1)).softmax(-1) @ value).transpose(1, 2).reshape(count, places, 8)


class WindowsInTheBatch(nn.Module):
    """The quarters of a map as images of one larger batch, as Swin has them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.after = nn.Conv2d(3, 8, 4, stride=4), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.stem(x)
        count = maps.shape[0]
        quarters = maps.reshape(count, 8, 2, 2, 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, 8)
        mixed = self.after(quarters).softmax(1) * quarters
        return mixed.reshape(count, 16, 8)


@pytest.mark.parametrize("kind", [HeadsFirst, WindowsInTheBatch])
@pytest.mark.parametrize("rule", ["gradient", "guided", "lrp-zplus"])
def test_units_that_share_an_image_where_values_do_not_count_images_first(kind: type[nn.Module], rule: str) -> None:
    torch.manual_seed(2)
    network = dv.capture(kind().double().eval(), (3, 16, 16))
    layer = [name for name, each in network.layers.items() if each.units[1:] == (16, 1)][-1]
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    units = [(0, layer, 3, (0, 0)), (1, layer, 5, (7, 0)), (0, layer, 6, (9, 0))]
    together = dv.project_units(network, images, units, rule)
    for unit, projection in zip(units, together, strict=True):
        alone = dv.project(network, images[unit[0] : unit[0] + 1], layer, unit[2], unit[3], rule)
        assert torch.allclose(projection.full(), alone.full(), rtol=1e-12, atol=1e-15)
        assert projection.value == pytest.approx(alone.value, rel=1e-12) and alone.full().abs().max() > 0


def counted(run: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> int:
    """Return how often a job waits for the device, or hands data from or to it."""
    count = 0

    class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal count
            count += func.name().partition(".")[0] in ROUND_TRIPS
            return func(*args, **(kwargs or {}))

    def patched(name: str) -> Callable[..., Any]:
        original = getattr(Tensor, name)

        def call(self: Tensor, *args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            return original(self, *args, **kwargs)

        return call

    with monkeypatch.context() as patch, Counting():  # type: ignore[no-untyped-call]
        for name in ("tolist", "item", "cpu", "numpy", "to", "__bool__", "__int__", "__float__"):
            patch.setattr(Tensor, name, patched(name))
        run()
    return count


ROUND_TRIPS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero", "aten::masked_select")


@pytest.mark.parametrize("whole", [False, True])
def test_round_trips_to_the_device_do_not_grow_with_the_units(monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
    net, images = dv.capture(Odd(), (3, 32, 32)), torch.randn(2, 3, 32, 32)
    _, rows, columns = net.layers["last"].units
    monkeypatch.setattr(batches, "runs_whole", lambda *arguments: whole)

    def waits(count: int) -> int:
        units = [(n % 2, "last", n % 8, (n % rows, n % columns)) for n in range(count)]
        return counted(lambda: dv.project_units(net, images, units, "guided"), monkeypatch)

    assert waits(40) == waits(10) <= 30


@pytest.mark.parametrize("rule", ["deconvnet", "guided", "gradient", "lrp-gamma"])
def test_a_forward_pass_over_whole_images_gives_the_same(
    monkeypatch: pytest.MonkeyPatch, rule: str, device: torch.device
) -> None:
    net = dv.capture(Odd().double().to(device), (3, 32, 40))
    images = torch.randn(2, 3, 32, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(device)
    for layer in ("gate", "last"):
        channels, rows, columns = net.layers[layer].units
        places = [(0, 0), (rows - 1, columns - 1), (rows // 2, 1), (1, columns // 2)]
        units = [(n % 2, layer, n % channels, places[n % 4]) for n in range(12)]
        by_mode = []
        for whole in (False, True):
            monkeypatch.setattr(batches, "runs_whole", lambda *arguments, whole=whole: whole)
            by_mode.append(dv.project_units(net, images, units, rule))
        for a, b in zip(*by_mode, strict=True):
            assert a.window == b.window and abs(a.value - b.value) <= 1e-12 * abs(b.value)
            assert (a.pixels - b.pixels).abs().max() <= 1e-10 * b.pixels.abs().max()


@pytest.mark.slow
def test_units_that_share_images_run_forward_on_whole_images() -> None:
    plan = make_plan(dv.capture(build("vgg11"), (3, 64, 64)), "features.7")
    assert not batches.runs_whole(plan, 2, 2) and batches.runs_whole(plan, 1000, 1)


def test_windows_of_maps_that_are_views_of_other_memory() -> None:
    """The real part of complex maps has a stride of two numbers; maps may be a slice, or channels-last."""
    complex_maps = torch.randn(2, 3, 6, 7, dtype=torch.complex64)
    places, window = Places.of([1, 0], [(0, 1), (4, 5)], torch.device("cpu")), (Interval(1, -1, 3), Interval(1, 0, 3))
    for maps in (complex_maps.real, complex_maps.imag, complex_maps.real[:, :, :, 1:].transpose(2, 3)):
        assert torch.equal(places.cut(maps, window, (2, 3)), places.cut(maps.clone(), window, (2, 3)))
        assert torch.equal(places.cut(maps, window, (2, 3))[0, :, 1:], maps[1, :, 0:2, 1:4])


def test_images_may_be_numpy_arrays() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    network, x = dv.capture(model, (3, 8, 8)), torch.randn(1, 3, 8, 8)
    images: Any = x.numpy()
    for from_array, from_tensor in (
        (dv.project(network, images, "1", 3), dv.project(network, x, "1", 3)),
        (dv.project_units(network, images, [(0, "1", 2, (1, 1))])[0], dv.project(network, x, "1", 2, (1, 1))),
    ):
        assert torch.equal(from_array.pixels, from_tensor.pixels) and from_array.window == from_tensor.window
