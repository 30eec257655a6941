"""Colours and textures of pixels, on pictures whose names nobody doubts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deconvviz.studies.dissection.concepts import COLOURS, TEXTURES, colour_table, colours_of, textures_of

SURE = {
    "black": (10, 10, 10),
    "white": (250, 250, 250),
    "grey": (128, 128, 128),
    "red": (220, 20, 20),
    "green": (30, 150, 40),
    "blue": (30, 60, 200),
    "yellow": (250, 230, 30),
    "orange": (250, 140, 10),
    "brown": (110, 60, 20),
    "pink": (250, 160, 190),
    "purple": (120, 20, 140),
}


def test_colours_have_the_names_that_people_give_them() -> None:
    pictures = torch.tensor([list(SURE.values())], dtype=torch.uint8)[:, None]
    numbers = colours_of(pictures, torch.from_numpy(colour_table()))[0, 0]
    assert [list(COLOURS)[number] for number in numbers.tolist()] == list(SURE)


@pytest.mark.parametrize("side", [64, 224])
def test_textures_have_their_directions(side: int) -> None:
    y, x = np.mgrid[:side, :side]
    period = side // 10
    patterns = {
        "horizontal edges": y,
        "vertical edges": x,
        "rising diagonal": (x + y) / 2**0.5,  # rows count downwards: x + y is the same along a line that rises
        "falling diagonal": (x - y) / 2**0.5,
    }
    waves = [np.sin(2 * np.pi * way / period) for way in patterns.values()]
    noise = np.random.default_rng(0).uniform(-1, 1, (side, side))
    pictures = np.stack([*waves, noise, np.zeros((side, side))])
    rgb = torch.from_numpy((127 + 120 * pictures).round().astype(np.uint8))[..., None].expand(-1, -1, -1, 3)
    looked_at = range(1, side, 2) if side > 112 else range(side)
    numbers = textures_of(rgb, looked_at, looked_at)
    inner = numbers[:, len(looked_at) // 4 : -len(looked_at) // 4, len(looked_at) // 4 : -len(looked_at) // 4]
    shares = [
        (inner[row] == TEXTURES.index(name)).float().mean() for row, name in enumerate((*patterns, *TEXTURES[4:]))
    ]
    assert min(shares) > 0.85, shares
