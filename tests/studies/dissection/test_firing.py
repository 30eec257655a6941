"""Where resized maps are above thresholds, against torch's own bilinear resizing of whole maps."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from deconvviz.studies.dissection import firing as module
from deconvviz.studies.dissection.firing import Axis, firing, sampled


@pytest.mark.parametrize("size", [(5, 7), (16, 16), (1, 1), (40, 30)])
@pytest.mark.parametrize("looked_at", [(range(24), range(32)), (range(1, 24, 3), range(1, 32, 3))])
@pytest.mark.parametrize("at_once", [1 << 22, 1])
def test_pixels_are_those_of_whole_maps_resized(
    size: tuple[int, int], looked_at: tuple[range, range], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(1)
    maps = torch.randn(2, 3, *size, generator=generator)
    thresholds = torch.tensor([0.8, 1.5, -0.2])
    whole = functional.interpolate(maps, (24, 32), mode="bilinear", align_corners=False)
    rows, columns = looked_at
    values = whole[:, :, rows.start :: rows.step, columns.start :: columns.step]
    axes = Axis.of(size[0], 24, rows), Axis.of(size[1], 32, columns)
    ours = torch.zeros_like(values, dtype=torch.bool)
    for image, channel, place in firing(maps, thresholds, *axes):
        y, x = place // len(columns), place % len(columns)
        assert not ours[image, channel, y, x].any()  # each pixel once
        ours[image, channel, y, x] = True
    clear = (values - thresholds[:, None, None]).abs() > 1e-5
    assert torch.equal(ours[clear], (values > thresholds[:, None, None])[clear])
    assert ours.any() and not ours.all()


def test_what_is_looked_at() -> None:
    assert sampled(112, 300) == (range(112), range(300))
    rows, columns = sampled(299, 299)
    assert (rows.start, rows.step, len(rows), columns) == (1, 3, 100, rows)
