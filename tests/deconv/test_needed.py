"""The window that a unit needs, against loops over every side on whole images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.deconv.needed import kept_by, needed_boxes, needed_squares, squares_around
from deconvviz.deconv.projection import Unit
from deconvviz.deconv.views import UnitViews
from deconvviz.graph.network import Network

SIDE, SHARE = 20, 0.9
LAYER = "3"  # of both networks


def positive(padding: int, stride: int) -> nn.Sequential:
    """A network of positive weights without biases: on bright images more of them is always more activation."""
    torch.manual_seed(5)
    first, second = nn.Conv2d(3, 4, 4, stride, padding, bias=False), nn.Conv2d(4, 6, 3, padding=padding, bias=False)
    with torch.no_grad():
        for conv in (first, second):
            conv.weight.copy_(torch.rand_like(conv.weight) ** 6)  # a few weights matter
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU()).double().eval()


def mixed() -> nn.Sequential:
    """A network with weights of both signs and biases, as trained ones."""
    torch.manual_seed(8)
    layers = nn.Conv2d(3, 4, 5, 2), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU()
    return nn.Sequential(*layers).double().eval()


def images() -> Tensor:
    return torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.1


def some_units(network: Network) -> list[Unit]:
    channels, rows, columns = network.layer(LAYER).units
    places = [(0, 0), (rows - 1, 1), (rows // 2, columns // 2), (1, columns - 1)]
    return [(n % 2, LAYER, n % channels, place) for n, place in enumerate(places * 2)]


def on_whole_image(model: nn.Module, image: Tensor, unit: Unit, box: tuple[int, int, int, int]) -> float:
    """The unit's activation where all of the image outside of a box, in pixels of the image, is zero."""
    top, left, bottom, right = box
    shown = torch.zeros_like(image)
    shown[:, max(top, 0) : bottom, max(left, 0) : right] = image[:, max(top, 0) : bottom, max(left, 0) : right]
    with torch.no_grad():
        return float(model(shown[None])[0, unit[2], unit[3][0], unit[3][1]])


def seen_box(views: UnitViews, n: int) -> tuple[int, int, int, int]:
    """The pixels of the image that a unit sees, counted."""
    places, corner = views.seen[n].nonzero(), views.corners[n]
    top, left = (places.min(0).values + corner).tolist()
    bottom, right = (places.max(0).values + 1 + corner).tolist()
    return top, left, bottom, right


def square(centre: tuple[float, float], side: int, seen: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """The square around a centre, moved pixel by pixel until it lies in what is seen, and cut where that is less."""
    ends = []
    for middle, first, end in zip(centre, seen[:2], seen[2:], strict=True):
        length = min(side, end - first)
        start = round(middle) - length // 2
        while start < first:
            start += 1
        while start + length > end:
            start -= 1
        ends.append((start, start + length))
    return ends[0][0], ends[1][0], ends[0][1], ends[1][1]


def smallest_side(
    model: nn.Module, image: Tensor, unit: Unit, centre: tuple[float, float], views: UnitViews, n: int
) -> int:
    seen, largest = seen_box(views, n), max(views.pixels.shape[2:])
    wanted = SHARE * on_whole_image(model, image, unit, (0, 0, SIDE, SIDE))
    sides = range(1, largest + 1)
    return next(s for s in sides if on_whole_image(model, image, unit, square(centre, s, seen)) >= wanted * (1 - 1e-12))


CENTRES = [(0.0, 0.0), (0.4, 0.4), (0.7, 0.2), (0.5, 0.9)]


def centres_of(views: UnitViews) -> tuple[Tensor, list[tuple[float, float]]]:
    """Centres in the views, here and there in what is seen, and the same in the images."""
    inside = []
    for n in range(len(views.units)):
        top, left, bottom, right = seen_box(views, n)
        y, x = CENTRES[n % len(CENTRES)]
        inside.append((float(top + int(y * (bottom - top - 1))), float(left + int(x * (right - left - 1)))))
    return torch.tensor(inside) - views.corners, inside


@pytest.mark.parametrize(("padding", "stride"), [(0, 1), (1, 1), (2, 3)])
def test_windows_against_every_side(padding: int, stride: int) -> None:
    model, x = positive(padding, stride), images()
    network = dv.capture(model, (3, SIDE, SIDE))
    units = some_units(network)
    views = UnitViews(network, x, units)
    centres, places = centres_of(views)
    sides, boxes = needed_squares(views, centres, SHARE).tolist(), needed_boxes(views, centres, SHARE)
    assert sides == [
        smallest_side(model, x[unit[0]], unit, place, views, n)
        for n, (unit, place) in enumerate(zip(units, places, strict=True))
    ]
    assert min(sides) < max(sides) <= max(views.pixels.shape[2:])
    for n, unit in enumerate(units):
        wanted = SHARE * on_whole_image(model, x[unit[0]], unit, (0, 0, SIDE, SIDE)) * (1 - 1e-12)
        box = list(square(places[n], sides[n], seen_box(views, n)))
        for side, step in ((0, 1), (1, 1), (2, -1), (3, -1)):  # each moves in while enough is kept
            while box[(side + 2) % 4] - box[side] not in (1, -1):
                tried = list(box)
                tried[side] += step
                if on_whole_image(model, x[unit[0]], unit, (tried[0], tried[1], tried[2], tried[3])) < wanted:
                    break
                box = tried
        assert (boxes[n] + views.corners[n].repeat(2)).tolist() == box


def test_what_is_kept_is_the_activation_on_the_covered_image() -> None:
    model, x = mixed(), images()
    network = dv.capture(model, (3, SIDE, SIDE))
    views = UnitViews(network, x, some_units(network))
    corners = torch.randint(0, 8, (len(views.units), 2), generator=torch.Generator().manual_seed(3))
    boxes = torch.cat([corners, corners + torch.tensor([4, 3])], 1)
    for n, kept in enumerate(kept_by(views, boxes).tolist()):
        top, left, bottom, right = (boxes[n] + views.corners[n].repeat(2)).tolist()
        assert kept == pytest.approx(
            on_whole_image(model, x[views.units[n][0]], views.units[n], (top, left, bottom, right))
        )


def test_the_share_is_kept_by_networks_of_any_sign() -> None:
    """Where activation does not rise with the window, the window may not be the smallest, and still keeps the share."""
    model, x = mixed(), images()
    network = dv.capture(model, (3, SIDE, SIDE))
    units: list[Unit] = [(n % 2, LAYER, c, (1 + n % 2, 2)) for n, c in enumerate(range(6))]
    views = UnitViews(network, x, units)
    centres, _ = centres_of(views)
    largest = max(views.pixels.shape[2:])
    whole = kept_by(views, squares_around(views, centres, torch.full((6,), largest)))
    fires = whole > 0
    assert 2 <= int(fires.sum()) < 6, "both kinds of units are needed"
    sides = needed_squares(views, centres, SHARE)
    assert (sides[~fires] == largest).all()  # what does not fire needs everything
    for boxes in (squares_around(views, centres, sides), needed_boxes(views, centres, SHARE)):
        assert (kept_by(views, boxes)[fires] >= SHARE * whole[fires]).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_a_unit_that_fires_on_nothing_needs_one_pixel_whatever_stands_beside_it() -> None:
    """Its bias is all of its activation; the search for the unit beside it takes more steps."""
    model = positive(0, 1)
    with torch.no_grad():
        model[2].weight[0] = 1e-9
        model[2].bias = nn.Parameter(torch.tensor([5.0, 0, 0, 0, 0, 0]).double())
    network, x = dv.capture(model, (3, SIDE, SIDE)), images()
    units: list[Unit] = [(0, LAYER, 0, (3, 3)), (0, LAYER, 1, (4, 7)), (1, LAYER, 2, (8, 2))]
    together, alone = UnitViews(network, x, units), UnitViews(network, x, units[:1])
    middle = torch.full((3, 2), 2.0)
    sides = needed_squares(together, middle, SHARE)
    assert sides[0] == 1 and needed_squares(alone, middle[:1], SHARE).tolist() == [1] and (sides[1:] > 1).all()
    boxes = needed_boxes(together, middle, SHARE)
    assert boxes[0].tolist() == [2, 2, 3, 3] == needed_boxes(alone, middle[:1], SHARE)[0].tolist()
