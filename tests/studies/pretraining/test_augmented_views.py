"""Views: crops, colours and blur against loops and libraries; the same address gives the same view."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as v2

from deconvviz.errors import TrainingError
from deconvviz.studies.pretraining.views import YIQ, Views, blurred, colour_matrices, cropped, draw_crops

PLAIN = Views(crop=1, colour=0, jitter=0, grey=0, blur=0, flip=0)


def pictures(count: int = 5, side: int = 12, channels: int = 3) -> torch.Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(0))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_nothing_changed_is_the_picture() -> None:
    x = pictures()
    assert torch.allclose(PLAIN.of(x, 12, rng()), x, atol=1e-5)
    assert torch.allclose(
        Views(crop=1, colour=0, jitter=0, grey=0, blur=0, flip=1).of(x, 12, rng()), x.flip(3), atol=1e-5
    )


def test_crops_against_bilinear_resizing() -> None:
    """A crop on whole pixels is what torchvision makes of it, within the crop: it resizes what was cut out, and we look
    at the pixels around it as well, so that only the middle is compared."""
    x = pictures(1, 40)
    ours = cropped(x, torch.tensor([[8.0, 4.0, 24.0, 20.0]]), 32)[0]
    theirs = v2.resize(x[0, :, 4:20, 8:24], [32, 32], antialias=False)
    assert torch.allclose(ours[:, 2:-2, 2:-2], theirs[:, 2:-2, 2:-2], atol=1e-4)
    assert torch.allclose(cropped(x, torch.tensor([[24.0, 4.0, 8.0, 20.0]]), 32)[0], ours.flip(2), atol=1e-4)


def test_drawn_crops_lie_in_the_image_and_have_their_area() -> None:
    boxes = draw_crops(4000, (40, 50), Views(crop=0.2, flip=0.5), rng())
    left, right = np.minimum(boxes[:, 0], boxes[:, 2]), np.maximum(boxes[:, 0], boxes[:, 2])
    assert left.min() >= 0 and boxes[:, 1].min() >= 0 and right.max() <= 50 + 1e-9 and boxes[:, 3].max() <= 40 + 1e-9
    area = (right - left) * (boxes[:, 3] - boxes[:, 1]) / 2000
    assert area.min() >= 0.2 - 1e-9 or (area < 0.2).mean() == 0
    assert area.max() <= 1 and 0.5 < area.mean() < 0.6  # uniform from 0.2 to 1, but for crops that were cut
    assert 0.45 < (boxes[:, 0] > boxes[:, 2]).mean() < 0.55


def test_colours_against_their_definitions() -> None:
    x = pictures(3)
    grey = Views(crop=1, colour=0, grey=1, blur=0, flip=0).of(x, 12, rng())
    assert torch.allclose(grey, v2.rgb_to_grayscale(x, 3), atol=2e-3)
    turned = torch.einsum("nij,njhw->nihw", colour_matrices(torch.ones(3), torch.full((3,), 2 * torch.pi / 3)), x)
    luma = torch.tensor(YIQ[0])
    assert torch.allclose(torch.einsum("nchw,c->nhw", turned, luma), torch.einsum("nchw,c->nhw", x, luma), atol=1e-4)
    pastel = torch.tensor([0.6, 0.5, 0.5])[None, :, None, None]
    third = torch.einsum("nij,njhw->nihw", colour_matrices(torch.ones(1), torch.tensor([2 * torch.pi / 3])), pastel)
    for start, now in zip(pastel.flatten()[None].tolist(), third.flatten()[None].tolist(), strict=True):
        moved = (colorsys.rgb_to_hsv(*now)[0] - colorsys.rgb_to_hsv(*start)[0]) % 1
        assert min(moved, 1 - moved) == pytest.approx(1 / 3, abs=0.07)  # a third of the circle, as HSV counts it


def test_jitter_changes_each_image_in_its_own_way_and_stays_in_range() -> None:
    x = pictures(1).repeat(64, 1, 1, 1)
    views = Views(crop=1, colour=1, jitter=0.5, grey=0, blur=0, flip=0).of(x, 12, rng())
    unchanged = [bool(torch.allclose(view, x[0], atol=1e-4)) for view in views]
    assert 20 < sum(unchanged) < 44 and float(views.min()) >= 0 and float(views.max()) <= 1
    changed = [view for view, same in zip(views, unchanged, strict=True) if not same]
    assert not torch.allclose(changed[0], changed[1], atol=1e-3)


def test_blur_against_torchvision() -> None:
    x = pictures(2, 20).double()
    ours = blurred(x, torch.tensor([1.5, 0.0], dtype=torch.float64), 1.5)
    middle = slice(5, -5)  # torchvision reflects at the border, and we repeat it
    theirs = v2.gaussian_blur(x[0], [11, 11], [1.5, 1.5])
    assert torch.allclose(ours[0, :, middle, middle], theirs[:, middle, middle], atol=1e-6)
    assert torch.allclose(ours[1], x[1])


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_the_address_settles_the_view(channels: int) -> None:
    x = pictures(4, 16, channels)
    one, two, other = (Views().of(x, 12, rng(seed)) for seed in (3, 3, 4))
    assert one.shape == (4, channels, 12, 12) and torch.equal(one, two) and not torch.equal(one, other)
    assert float(one.min()) >= 0 and float(one.max()) <= 1


def test_wrong_views() -> None:
    for wrong in ({"crop": 0.0}, {"crop": 1.2}, {"colour": -0.1}, {"grey": 2.0}):
        with pytest.raises(TrainingError, match=next(iter(wrong))):
            Views(**wrong)
