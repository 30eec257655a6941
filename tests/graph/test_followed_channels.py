"""Channels that go together: slim networks equal masked ones, on every way that channels can take."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from deconvviz.deconv.project import project_units
from deconvviz.errors import LayerNotFound, PruningError
from deconvviz.graph.capture import capture
from deconvviz.graph.channels import ChannelGroups, channel_groups, masked
from deconvviz.graph.costs import multiply_adds
from deconvviz.graph.gates import GatedNetwork
from deconvviz.graph.network import Network
from deconvviz.models.slimming import PlacedResponseNorm, slimmed
from deconvviz.models.zfnet import zfnet
from deconvviz.types import Mask

torchvision_net = torchvision.models.get_model


class Grouped(nn.Module):
    """A grouped convolution between two plain ones, a gate by a sigmoid, and a scale of each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.grouped, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3, groups=4), nn.Conv2d(12, 5, 1)
        self.gate, self.slope = nn.Linear(12, 12), nn.PReLU(12)
        self.scale = nn.Parameter(torch.rand(12, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.slope(self.grouped(self.first(x).relu())) * self.scale
        gate = torch.sigmoid(self.gate(x.mean((2, 3))))
        return self.last(x * gate[:, :, None, None]).mean((2, 3))


class PreActivation(nn.Module):
    """Normalisation and rectifier before the convolutions, a sum around both, and a shift that is not zero for zero."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm1 = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv1 = nn.Conv2d(6, 7, 3, padding=1)
        self.norm2, self.conv2, self.end = nn.BatchNorm2d(7), nn.Conv2d(7, 6, 3, padding=1), nn.Linear(6 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.conv2(F.softplus(self.norm2(self.conv1(self.norm1(x).relu()))))
        return self.end(F.avg_pool2d(x + y, 4).flatten(1))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "zfnet": (lambda: zfnet(10, 32, width=0.1), 32),
    "vgg": (lambda: torchvision_net("vgg11_bn", num_classes=10), 32),
    "resnet": (lambda: torchvision_net("resnet18"), 64),
    "bottleneck": (lambda: torchvision_net("resnext50_32x4d"), 64),
    "densenet": (lambda: timm.create_model("densenet121", block_config=(2, 2, 2, 2), growth_rate=8), 64),
    "squeezenet": (lambda: torchvision_net("squeezenet1_0"), 64),
    "mobilenet": (lambda: torchvision_net("mobilenet_v2", width_mult=0.5), 64),
    "lite0": (lambda: timm.create_model("tf_efficientnet_lite0"), 64),
    "grouped": (Grouped, 16),
    "pre-activation": (PreActivation, 16),
}


def built(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Network]:
    """A network with random weights, whose normalisations do not leave zero at zero."""
    torch.manual_seed(0)
    build, side = NETWORKS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = build()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -1, 1)
        elif isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.uniform_(module.bias, -0.5, 0.5)
    if name == "zfnet":  # its initial weights are so small that nothing would be seen
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(5)
    model = model.eval().to(dtype)
    return model, capture(model, (3, side, side))


def half(groups: ChannelGroups) -> dict[str, Mask]:
    rng = np.random.default_rng(0)
    free = {name: group.units for name, group in groups.groups.items() if not group.stopped}
    return {name: rng.permutation(units) < units // 2 for name, units in free.items()}


def apart(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max() / second.abs().max())


@pytest.mark.parametrize("name", NETWORKS)
def test_slim_equals_masked(name: str) -> None:
    model, network = built(name)
    groups = channel_groups(network)
    removed = half(groups)
    assert sum(int(units.sum()) for units in removed.values()) > 0
    slim = slimmed(model, groups.kept_numbers(removed), groups.kept_places(removed))
    silenced = masked(network, groups, removed)
    x = torch.rand(2, *network.input_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert apart(silenced(x), network(x)) > 1e-4  # something is gone
        assert apart(slim(x), silenced(x)) < 1e-10
        factors = {each: torch.from_numpy(~units).double() for each, units in removed.items()}
        assert apart(GatedNetwork(network, groups, list(factors))(x, factors), silenced(x)) < 1e-10
        gated = GatedNetwork(network, groups, list(factors))
        for group in (list(factors)[place] for place in (0, len(factors) // 2, -1)):
            only = {group: factors[group]}
            assert apart(gated.behind(x, group)(factors[group]), gated(x, only)) < 1e-12
            assert apart(gated(x, only), network(x)) > 1e-9  # the group does something
        single, single_x = copy.deepcopy(slim).float(), x.float()
        assert (
            apart(single(single_x), network.replaced(network.graph, silenced.tensors).to(torch.float32)(single_x))
            < 1e-5
        )
    smaller = sum(p.numel() for p in slim.parameters())
    assert smaller < 0.7 * sum(p.numel() for p in model.parameters())
    assert capture(slim, network.input_shape)(x).shape == network(x).shape  # it is a module as any other


def test_all_kept_is_the_identity() -> None:
    _, network = built("resnet")
    groups = channel_groups(network)
    removed = {name: np.zeros(groups.groups[name].units, bool) for name in groups.prunable}
    assert groups.kept_numbers(removed) == {} and groups.kept_places(removed) == {}
    assert all(masked(network, groups, removed).tensors[name] is value for name, value in network.tensors.items())


def test_which_channels_a_residual_sum_ties() -> None:
    _, network = built("resnet")
    groups = channel_groups(network)
    assert list(groups["layer1.0.conv2"].layers) == ["conv1", "layer1.0.conv2", "layer1.1.conv2"]
    assert list(groups["layer2.1.conv2"].layers) == ["layer2.0.conv2", "layer2.0.downsample.0", "layer2.1.conv2"]
    assert list(groups["layer2.0.conv1"].layers) == ["layer2.0.conv1"]
    assert groups["layer1.0.conv2"].units == 64


def test_a_grouped_convolution_loses_whole_groups() -> None:
    model, network = built("grouped")
    groups = channel_groups(network)
    group = groups["grouped"]
    assert group.units == 4 and group.layers["first"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert group.layers["grouped"].tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    removed = {group.name: np.array([False, True, False, False])}
    slim = slimmed(model, groups.kept_numbers(removed), {})
    assert (slim.grouped.groups, slim.grouped.in_channels, slim.grouped.out_channels) == (3, 6, 9)
    assert slim.slope.weight.shape == (9,) and slim.scale.shape == (9, 1, 1)


def test_contrast_normalisation_keeps_the_places_of_maps() -> None:
    norm, x = nn.LocalResponseNorm(5, alpha=0.5, beta=0.75, k=2), torch.rand(2, 4, 3, 3, dtype=torch.float64)
    places = [0, 3, 4, 8]
    lookup = torch.full((9,), 4)
    lookup[places] = torch.arange(4)
    found = PlacedResponseNorm(norm, lookup)(x)
    for row, place in enumerate(places):  # from the formula: only maps within two places count
        near = [other for other, at in enumerate(places) if abs(at - place) <= 2]
        expected = x[:, row] / (2 + 0.5 / 5 * sum(x[:, other] ** 2 for other in near)) ** 0.75
        assert torch.allclose(found[:, row], expected, atol=1e-12)


def test_a_slim_zfnet_is_slimmed_again() -> None:
    model, network = built("zfnet")
    for _ in range(2):
        groups = channel_groups(network)
        removed = half(groups)
        silenced = masked(network, groups, removed)
        model = slimmed(model, groups.kept_numbers(removed), groups.kept_places(removed))
        network = capture(model, network.input_shape)
        x = torch.rand(2, *network.input_shape, dtype=torch.float64)
        with torch.no_grad():
            assert apart(model(x), silenced(x)) < 1e-10
    assert model.norm2.places.max() > model.norm2.places.numel()


def test_a_slim_zfnet_sees_what_the_whole_one_sees() -> None:
    """Receptive fields and strides stay, and a projection on a unit's window is that on the whole image."""
    model, network = built("zfnet")
    groups = channel_groups(network)
    removed = half(groups)
    slim = capture(slimmed(model, groups.kept_numbers(removed), groups.kept_places(removed)), network.input_shape)
    for name, layer in network.layers.items():
        assert slim.layers[name].receptive_field == layer.receptive_field and slim.layers[name].stride == layer.stride
    images = torch.rand(1, *network.input_shape, dtype=torch.float64)
    for reading in ("norm1", "conv2"):
        units = [(0, reading, 1, (0, 0)), (0, reading, 2, (3, 2))]
        for windowed, whole in zip(
            project_units(slim, images, units), project_units(slim, images, units, windowed=False), strict=True
        ):
            assert torch.allclose(windowed.full(), whole.full(), atol=1e-12) and whole.full().abs().max() > 0


class Shuffled(nn.Module):
    """Channels in groups that change places, a half that is cut off, and an op that nothing is known of."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.end = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).view(-1, 2, 4, 14, 14).transpose(1, 2).flatten(1, 2))
        return self.end(x.chunk(2, 1)[0].cumsum(1)).mean((2, 3))


def test_what_mixes_channels_stops_them() -> None:
    network = capture(Shuffled().eval(), (3, 16, 16))
    groups = channel_groups(network)
    with pytest.raises(PruningError, match=r"'first' cannot be slimmed: view \(.*divides them into groups"):
        groups.slim("first")
    with pytest.raises(PruningError, match=r"'second' cannot be slimmed: .*reads its channels"):
        groups.slim("second")
    with pytest.raises(PruningError, match="'end' cannot be slimmed: the network returns its channels"):
        groups.slim("end")
    with pytest.raises(LayerNotFound, match=r"firts.*first"):
        groups.slim("firts")
    silenced = masked(network, groups, {"first": np.arange(8) == 3})  # with zeros it can be done
    with torch.no_grad():
        assert not silenced.activations(torch.rand(1, 3, 16, 16), ["first"])["first"][:, 3].any()
    with pytest.raises(PruningError, match="cannot be silenced"):
        masked(network, groups, {"end": np.array([True, False])})


def test_normalising_across_what_is_not_zero_is_refused() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.end = nn.Conv2d(3, 6, 3), nn.LocalResponseNorm(3), nn.Conv2d(6, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.end(self.norm(self.conv(x).sigmoid())).mean((2, 3))

    with pytest.raises(PruningError, match=r"local_response_norm .* not zero where their filters are"):
        channel_groups(capture(Shifted().eval(), (3, 8, 8))).slim("conv")


@pytest.mark.parametrize("name", ["zfnet", "resnet", "mobilenet", "bottleneck"])
def test_multiplications_equal_those_of_torch(name: str) -> None:
    model, network = built(name, torch.float32)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(torch.zeros(1, *network.input_shape))
    assert 2 * sum(multiply_adds(network).values()) == counter.get_total_flops()


def test_multiplications_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.Conv2d(6, 6, 3, groups=6), nn.ConvTranspose2d(6, 2, 2, stride=2)
    )
    counts = multiply_adds(capture(model.eval(), (3, 16, 16)))
    assert counts == {"0": 6 * 8 * 8 * 3 * 9, "1": 6 * 6 * 6 * 9, "2": 6 * 6 * 6 * 2 * 4}
