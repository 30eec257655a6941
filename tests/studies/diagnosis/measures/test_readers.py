"""Who reads a layer's channels is seen through everything that hands channels on one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diagnosed import about, noise_images
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.studies.diagnosis.measures.readers import Readers, constant_by_input, readers_of


class Joined(nn.Module):
    """Two branches after a first convolution, joined along the channels, or by their sum or product."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.first, self.left, self.right = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.last = nn.Conv2d(16 if how == "cat" else 8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        left, right = self.left(x), self.right(x)
        if self.how == "cat":
            together = torch.cat([left, right], 1)
        else:
            together = left + right if self.how == "sum" else left * right.sigmoid()
        return self.last(together).mean((2, 3))


@pytest.mark.parametrize("how", ["cat", "sum", "product"])
def test_sums_and_products_mix_channels_and_joins_do_not(how: str) -> None:
    network = dv.capture(Joined(how).eval(), (3, 8, 8))
    assert readers_of(network, "first").others == ("left", "right")
    expected = Readers(depthwise=(), others=("last",), mixed=False)
    left = readers_of(network, "left")
    assert left == expected if how == "cat" else left.mixed
    assert readers_of(network, "last").mixed  # the network returns them


@pytest.mark.parametrize(
    "between",
    [
        [nn.BatchNorm2d(8), nn.ReLU6(), nn.MaxPool2d(2)],
        [nn.ZeroPad2d((0, 1, 0, 1)), nn.Dropout()],
        [nn.AvgPool2d(2), nn.LeakyReLU()],
    ],
)
def test_a_depthwise_reader_is_found_behind_what_hands_channels_on(between: list[nn.Module]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), *between, nn.Conv2d(8, 16, 3, groups=8), nn.Conv2d(16, 2, 1))
    network = dv.capture(model.eval(), (3, 16, 16))
    last = str(len(between) + 1)
    assert readers_of(network, "0") == Readers(depthwise=(last,), others=(), mixed=False)
    grouped = nn.Sequential(nn.Conv2d(3, 8, 1), *between, nn.Conv2d(8, 16, 3, groups=4), nn.Conv2d(16, 2, 1))
    assert readers_of(dv.capture(grouped.eval(), (3, 16, 16)), "0").depthwise == ()


@pytest.mark.parametrize("each", [1, 2])
def test_what_a_dead_channel_makes_constant(each: int) -> None:
    """With two depthwise filters for each channel, both follow theirs; a grouped convolution follows nobody."""
    model = nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 6 * each, 3, groups=6), nn.ReLU(), nn.Conv2d(6 * each, 2, 1)
    )
    for place in (0, 2):
        model[place].bias.data[:] = 5.0  # no other filter is dead by chance
    model[0].bias.data[2] = -1000
    subject = about(model, noise_images(6))
    source, caused = constant_by_input(subject, "3")
    assert source == "1" and np.flatnonzero(caused).tolist() == [2 * each + n for n in range(each)]
    source, caused = constant_by_input(subject, "1")
    assert source == "" and not caused.any()
