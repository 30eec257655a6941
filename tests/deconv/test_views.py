"""What units see, cut out by hand, and their activations on changed views against whole changed images."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from networks import build
from torch import Tensor, nn
from torch.nn import functional as f

import deconvviz as dv
from deconvviz.deconv.projection import Unit
from deconvviz.deconv.views import UnitViews
from deconvviz.errors import ProjectionError

SIZE = (3, 31, 27)


class Odd(nn.Module):
    """Paddings, pooling that counts its border or does not, a gate of its own, and layers that need the whole image."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.first, self.norm = nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.BatchNorm2d(5)
        self.max, self.avg = nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.second, self.gate = nn.Conv2d(5, 4, 3, padding=2, dilation=2), nn.Conv2d(4, 4, 1)
        self.deep, self.head = nn.Conv2d(4, 3, 7, padding=3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.avg(self.max(self.norm(self.first(x)).relu()))
        x = self.second(x)
        x = self.deep(x * self.gate(x).sigmoid())
        return self.head(f.adaptive_avg_pool2d(x, 1).flatten(1))


def odd() -> dv.Network:
    return dv.capture(Odd().double().eval(), SIZE)


def images(count: int = 2) -> Tensor:
    return torch.randn(count, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(6))


def units_of(network: dv.Network, layer: str) -> list[Unit]:
    """Corners, borders and the interior of a layer, in two images."""
    channels, rows, columns = network.layer(layer).units
    places = dict.fromkeys(product((0, rows // 2, rows - 1), (0, columns // 2, columns - 1)))
    return [((n + 1) % 2, layer, (3 * n + 1) % channels, at) for n, at in enumerate(places)]


LOCAL, WHOLE = ("first", "max", "avg", "second", "gate"), ("deep", "head")


@pytest.mark.parametrize("layer", [*LOCAL, *WHOLE])
def test_unchanged_views_give_the_activations(layer: str) -> None:
    """Windowed or whole, at borders and corners, asked for in any order and more than once."""
    network, x = odd(), images()
    units = units_of(network, layer)
    views = UnitViews(network, x, units)
    assert (tuple(views.pixels.shape[2:]) == SIZE[1:]) == (layer in WHOLE)
    value = network.maps(layer, network.activations(x, [layer])[layer])
    asked = torch.tensor([len(units) - 1, 0, 0, *range(len(units))])
    found = views.activations(asked, views.pixels[asked])
    expected = torch.stack([value[units[n][0], units[n][2]][units[n][3]] for n in asked.tolist()])
    assert torch.allclose(found, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("layer", [*LOCAL, *WHOLE])
def test_changed_views_give_those_of_changed_images(layer: str) -> None:
    """Pixels of a view are changed; the whole image with the same change has the same activation."""
    network, x = odd(), images()
    units = units_of(network, layer)
    views = UnitViews(network, x, units)
    generator = torch.Generator().manual_seed(1)
    mask = (torch.rand(views.seen.shape, generator=generator) < 0.4) & views.seen
    noise = torch.randn(views.pixels.shape, generator=generator, dtype=torch.float64)
    changed = torch.where(mask[:, None], noise, views.pixels)
    found = views.activations(torch.arange(len(units)), changed)
    for n, (image, _, channel, place) in enumerate(units):
        whole, (top, left) = x[image].clone(), views.corners[n].tolist()
        for y, column in mask[n].nonzero().tolist():
            whole[:, top + y, left + column] = noise[n, :, y, column]
        expected = network.maps(layer, network.activations(whole[None], [layer])[layer])[0, channel][place]
        assert float(found[n]) == pytest.approx(float(expected), rel=1e-11, abs=1e-13)
        assert not mask[n].any() or float(found[n]) != float(
            network.maps(layer, network.activations(x, [layer])[layer])[image, channel][place]
        )


@pytest.mark.parametrize("layer", [*LOCAL, *WHOLE])
def test_pixels_outside_of_the_view_do_not_count(layer: str) -> None:
    """Every pixel outside is changed, and the activation stays."""
    network, x = odd(), images()
    units = units_of(network, layer)
    views = UnitViews(network, x, units)
    value = network.maps(layer, network.activations(x, [layer])[layer])
    for n, (image, _, channel, place) in enumerate(units):
        inside = torch.zeros(SIZE[1:], dtype=torch.bool)
        for y, column in views.seen[n].nonzero().tolist():
            inside[views.corners[n, 0] + y, views.corners[n, 1] + column] = True
        other = torch.where(inside, x[image], 100 * torch.ones(()).double())
        again = network.maps(layer, network.activations(other[None], [layer])[layer])[0, channel][place]
        assert float(again) == pytest.approx(float(value[image, channel][place]), rel=1e-12, abs=1e-14)


def test_views_by_hand() -> None:
    """Kernel 5, stride 2, padding 2, and a pool of 2: the unit (y, x) sees 7 x 7 pixels from (4 y - 2, 4 x - 2) on."""
    torch.manual_seed(0)
    network = dv.capture(nn.Sequential(nn.Conv2d(3, 2, 5, 2, 2), nn.MaxPool2d(2)).double(), SIZE)
    x = images()
    units: list[Unit] = [(0, "1", 0, (0, 0)), (1, "1", 1, (2, 1)), (0, "1", 1, (7, 6)), (1, "1", 0, (0, 6))]
    views = UnitViews(network, x, units)
    assert views.layer == "1" and views.units == tuple(units)
    assert views.corners.tolist() == [[-2, -2], [6, 2], [26, 22], [-2, 22]]
    assert views.pixels.shape == (4, 3, 7, 7) and views.seen.shape == (4, 7, 7)
    for n, (image, *_) in enumerate(units):
        top, left = views.corners[n].tolist()
        for y, column in product(range(7), range(7)):
            inside = 0 <= top + y < 31 and 0 <= left + column < 27
            assert bool(views.seen[n, y, column]) == inside
            expected = x[image, :, top + y, left + column] if inside else torch.zeros(3).double()
            assert torch.equal(views.pixels[n, :, y, column], expected)
    assert views.centres().tolist() == [[3.0, 3.0]] * 4  # the middle of the window, wherever it lies
    whole = UnitViews(network, x, units[:1]).centres() + views.corners[:1]
    assert whole.tolist() == [[1.0, 1.0]]


def test_centres_of_whole_views() -> None:
    """Where a view is the whole image, the centre of the receptive field is at its place in the image."""
    network = odd()
    channels, rows, columns = network.layer("deep").units
    views = UnitViews(network, images(), [(0, "deep", 0, (0, 0)), (1, "deep", channels - 1, (rows - 1, columns - 1))])
    assert views.corners.tolist() == [[0, 0], [0, 0]]
    assert views.centres().tolist() == [[0.0, 0.0], [30.0, 26.0]]  # stride 2, every padding centred: 2 y, 2 x


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["gradient", "lrp-gamma"])
@pytest.mark.parametrize("layer", ["second", "deep"])
def test_projections_are_placed(rule: str, layer: str) -> None:
    """A projection on its view holds the pixels of the whole one, and zero where the view is not image."""
    network, x = odd(), images()
    units = units_of(network, layer)
    views = UnitViews(network, x, units)
    for options in ({}, {"shifts": 9}):
        projections = dv.project_units(network, x, units, rule, **options)  # type: ignore[arg-type]
        placed = views.placed(projections)
        assert placed.shape == views.pixels.shape
        for n, projection in enumerate(projections):
            full, (top, left) = projection.full(), views.corners[n].tolist()
            for y, column in product(range(placed.shape[2]), range(placed.shape[3])):
                inside = 0 <= top + y < SIZE[1] and 0 <= left + column < SIZE[2]
                expected = full[:, top + y, left + column] if inside else torch.zeros(3).double()
                assert torch.equal(placed[n, :, y, column], expected)


def test_views_in_single_precision() -> None:
    """A float32 network may run folded and with its channels last: the activations are equal to 1e-5."""
    model = Odd().eval()
    nn.init.uniform_(model.norm.running_mean, -0.4, 0.4)  # type: ignore[arg-type]
    nn.init.uniform_(model.norm.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    network, x = dv.capture(model, SIZE), images().float()
    for layer in ("first", "second", "head"):
        units = units_of(network, layer)
        views = UnitViews(network, x, units)
        value = network.maps(layer, network.activations(x, [layer])[layer])
        found = views.activations(torch.arange(len(units)), views.pixels)
        expected = torch.stack([value[image, channel][place] for image, _, channel, place in units])
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_views_of_one_layer_only() -> None:
    network, x = odd(), images()
    with pytest.raises(ProjectionError, match="units of 2 layers"):
        UnitViews(network, x, [(0, "first", 0, (0, 0)), (0, "second", 0, (0, 0))])
    with pytest.raises(ProjectionError, match="units of 0 layers"):
        UnitViews(network, x, [])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v3_small", "squeezenet1_0"])
def test_views_of_whole_networks(name: str) -> None:
    """Every sixth layer: unchanged views, and views of which a quarter of the pixels is grey."""
    network = dv.capture(build(name), (3, 64, 64))
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for layer in list({item.node: key for key, item in network.layers.items()}.values())[::6]:
        if len(network.layer(layer).shape) != 3:
            continue
        units = units_of(network, layer)
        views, everyone = UnitViews(network, x, units), torch.arange(len(units))
        value = network.maps(layer, network.activations(x, [layer])[layer])
        expected = torch.stack([value[image, channel][place] for image, _, channel, place in units])
        scale = float(value.abs().max())
        assert float((views.activations(everyone, views.pixels) - expected).abs().max()) <= 1e-10 * scale
        grey = torch.rand(views.seen.shape, generator=torch.Generator().manual_seed(2)) < 0.25
        found = views.activations(everyone, views.pixels.masked_fill(grey[:, None], 0.0))
        n = len(units) // 2
        image, _, channel, place = units[n]
        whole, (top, left) = x[image].clone(), views.corners[n].tolist()
        for y, column in (grey[n] & views.seen[n]).nonzero().tolist():
            whole[:, top + y, left + column] = 0
        changed = network.maps(layer, network.activations(whole[None], [layer])[layer])[0, channel][place]
        assert abs(float(found[n]) - float(changed)) <= 1e-10 * scale


@pytest.mark.parametrize("size", [(9, 9), (10, 10), (9, 14), (8, 12)])
def test_a_unit_sees_its_field_also_where_that_is_as_long_as_the_image(size: tuple[int, int]) -> None:
    """By autograd: the pixels on which a unit depends. A field of 9 pixels, at a border, covers a part of an image."""
    network = dv.capture(nn.Sequential(nn.Conv2d(1, 1, 5, padding=2), nn.Conv2d(1, 1, 5, padding=2)), (1, *size))
    places = [(0, 0), (2, 7), (size[0] - 1, size[1] - 1)]
    x = torch.rand(1, 1, *size, requires_grad=True)
    views = UnitViews(network, x.detach(), [(0, "1", 0, place) for place in places])
    for place, seen, corner in zip(places, views.seen, views.corners.tolist(), strict=True):
        (gradient,) = torch.autograd.grad(network(x)[0, 0, place[0], place[1]], x)
        rows, columns = (start + torch.arange(length) for start, length in zip(corner, seen.shape, strict=True))
        inside = ((rows >= 0) & (rows < size[0]))[:, None] & ((columns >= 0) & (columns < size[1]))
        expected = torch.zeros_like(seen)
        on_image = gradient[0, 0][rows.clamp(0, size[0] - 1)][:, columns.clamp(0, size[1] - 1)]
        expected[inside] = (on_image != 0)[inside]
        assert torch.equal(seen, expected) and int(seen.sum()) == int((gradient != 0).sum())
