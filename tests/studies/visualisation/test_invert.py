"""Inversion against closed forms: orthonormal and strided linear layers, and errors that rise with depth."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import deconvviz as dv
from deconvviz.errors import DataError, LayerNotFound

QUIET: dict[str, Any] = {"progress": False}


def float_picture(channels: int, size: int) -> Any:
    return (0.2 + 0.6 * np.random.default_rng(0).random((size, size, channels))).astype(np.float32)


def linear(conv: nn.Conv2d, size: int) -> tuple[dv.Network, dv.Preprocess]:
    channels = conv.in_channels
    preprocess = dv.Preprocess(resize=None, crop=size, mean=(0.0,) * channels, std=(1.0,) * channels)
    return dv.capture(nn.Sequential(conv).double(), (channels, size, size)), preprocess


def test_an_orthonormal_layer_gives_the_image_back() -> None:
    conv = nn.Conv2d(3, 3, 1, bias=False)
    conv.weight.data = torch.linalg.qr(torch.randn(3, 3))[0].reshape(3, 3, 1, 1)
    network, preprocess = linear(conv, 8)
    picture = float_picture(3, 8)
    options: dict[str, Any] = {"canvas": "pixels", "steps": 600, **QUIET}
    image = dv.invert(network, picture, ["0"], preprocess=preprocess, **options).images[0]
    assert np.abs(image.pictures[0] - picture).max() < 1e-6 and image.errors[0] < 1e-12


def test_a_strided_layer_gives_the_regularised_least_squares_solution() -> None:
    torch.manual_seed(0)
    network, preprocess = linear(nn.Conv2d(1, 2, 3, stride=2, bias=False), 7)
    picture, weight = float_picture(1, 7), 0.5
    options: dict[str, Any] = {"canvas": "pixels", "steps": 1200, "tv": weight, **QUIET}
    found = dv.invert(network, picture, ["0"], preprocess=preprocess, **options).images[0].pictures[0]
    # |A x - b|^2 / |b|^2 + weight (mean dx^2 + mean dy^2), as one system of equations
    eye = torch.eye(49, dtype=torch.float64).reshape(49, 1, 7, 7)
    a = network(eye).flatten(1).T.detach().numpy()
    b = a @ picture.ravel().astype(float)
    pixels = np.eye(49).reshape(49, 7, 7)
    rough = [np.diff(pixels, axis=axis).reshape(49, -1).T * np.sqrt(weight / 42) for axis in (1, 2)]
    system = np.concatenate([a / np.linalg.norm(b), *rough])
    solution, *_ = np.linalg.lstsq(system, np.concatenate([b / np.linalg.norm(b), np.zeros(84)]), rcond=None)
    assert solution.min() > 0 and solution.max() < 1  # else the box counts
    assert np.abs(found.ravel() - solution).max() < 1e-3


def test_deeper_layers_know_less() -> None:
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 12, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(12, 12, 3), nn.ReLU(), nn.MaxPool2d(2)]
    network = dv.capture(nn.Sequential(*parts, nn.Conv2d(12, 6, 3)).eval(), (3, 24, 24))
    preprocess = dv.Preprocess(resize=24, crop=24)
    picture = preprocess.picture(dv.Scenes(1)[0][0])
    image = dv.invert(network, picture, ["0", "3", "6"], preprocess=preprocess, steps=150, **QUIET).images[0]
    assert (np.diff(image.pixel_errors) > 0.02).all(), image.pixel_errors
    assert (image.errors < 0.1).all()
    values = network.activations(preprocess.tensor(picture[None]), ["3"])["3"]
    x = preprocess.tensor(image.pictures[1][None])
    again = network.activations(x, ["3"])["3"]
    expected = float((again - values).square().sum() / values.square().sum())
    assert image.errors[1] == pytest.approx(expected, rel=1e-3)


def test_two_networks_side_by_side(tmp_path: pathlib.Path) -> None:
    preprocess = dv.Preprocess(resize=16, crop=16)
    picture = preprocess.picture(dv.Scenes(1)[0][0])
    networks = [dv.capture(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), (3, 16, 16)) for _ in range(2)]
    inversions = [
        dv.invert(network, picture, ["1"], preprocess=preprocess, called=name, steps=3, **QUIET)
        for network, name in zip(networks, ("a", "b"), strict=True)
    ]
    both = dv.side_by_side(inversions)
    both.save(tmp_path / "both.h5")
    loaded = dv.Inversion.load(tmp_path / "both.h5")
    assert [image.network for image in loaded.images] == ["a", "b"] and loaded.config == both.config
    assert np.array_equal(loaded.images[1].pictures, inversions[1].images[0].pictures)
    both.save_csv(tmp_path / "both.csv")
    assert (tmp_path / "both.csv").read_text().splitlines()[2].startswith("b,1,")
    assert len(dv.draw_inversion(both).axes) == 3 and len(both.to_frame()) == 2  # the image stands there once
    other = dv.invert(networks[0], picture, ["1"], preprocess=preprocess, steps=4, **QUIET)
    with pytest.raises(DataError, match="other settings"):
        dv.side_by_side([both, other])


def test_refusals() -> None:
    conv = nn.Conv2d(3, 4, 3)
    conv.bias.data.fill_(-100.0)
    network, preprocess = dv.capture(nn.Sequential(conv, nn.ReLU()), (3, 16, 16)), dv.Preprocess(resize=16, crop=16)
    picture = preprocess.picture(dv.Scenes(1)[0][0])
    for layers, words, error in (([], "no layer given", DataError), (["7"], "no layer '7'", LayerNotFound)):
        with pytest.raises(error, match=words):
            dv.invert(network, picture, layers, preprocess=preprocess, **QUIET)
    with pytest.raises(DataError, match="all values of layer '1' are zero"):
        dv.invert(network, picture, ["1"], preprocess=preprocess, **QUIET)
    with pytest.raises(DataError, match="a picture of"):
        dv.invert(network, picture[:9], ["0"], preprocess=preprocess, **QUIET)
    with pytest.raises(DataError, match="canvas 'phase'"):
        dv.invert(network, picture, ["0"], preprocess=preprocess, canvas="phase", **QUIET)
