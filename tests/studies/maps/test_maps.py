"""Maps of an image and kernels of layers: each number against its definition, and each mark against a planted case."""

from __future__ import annotations

import pathlib

import matplotlib
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.cli.main import cli
from deconvviz.errors import DataError, DeconvvizError
from deconvviz.figures.page import Page
from deconvviz.studies.maps.command import caption_of, kernels_caption
from deconvviz.studies.maps.figure import grid_of, pictured, tiles
from deconvviz.studies.maps.result import Kernels, LayerMaps


@pytest.fixture
def network() -> dv.Network:
    """Two layers; filter 2 of the first is dead, filter 3 is far weaker than the others."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3, groups=2), nn.BatchNorm2d(4)).eval()
    with torch.no_grad():
        model[0].weight[2], model[0].bias[2] = 0, -1
        model[0].weight[3] *= 1e-4
        model[0].bias[3] = 1e-5
        model[3].weight[:] = torch.tensor([1.0, -2.0, 3.0, 0.5])
    return dv.capture(model, (3, 10, 12))


@pytest.fixture
def image() -> Tensor:
    return torch.rand(1, 3, 10, 12, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("scale", ["own", "common"])
@pytest.mark.parametrize("layer", ["1", "3"])
def test_a_pixel_of_a_tile_is_an_activation_on_its_scale(
    network: dv.Network, image: Tensor, layer: str, scale: str
) -> None:
    activations = network.activations(image, [layer])[layer][0].double().numpy()
    maps = dv.maps(network, image, [layer])[layer]
    np.testing.assert_array_equal(maps.values, activations.astype(np.float32))
    signed = layer == "3"
    assert maps.signed is signed
    colours, drawn = matplotlib.colormaps["coolwarm" if signed else "viridis"], tiles(maps, scale)
    largest = np.abs(activations).max()
    for channel, values in enumerate(activations):
        own = np.abs(values).max()
        limit = own if scale == "own" and own >= 0.01 * largest else largest
        shares = (values / limit + 1) / 2 if signed else values / limit
        np.testing.assert_array_equal(drawn[channel], colours(shares, bytes=True))


def test_dead_and_faint_maps_and_zeros_are_told(network: dv.Network, image: Tensor) -> None:
    maps = dv.maps(network, image, ["1"])["1"]
    assert maps.dead.tolist() == [False, False, True, False, False, False]
    assert maps.order("maximum")[-1] == 2 and maps.order("index").tolist() == list(range(6))
    values = network.activations(image, ["1"])["1"][0]
    alive = [0, 1, 3, 4, 5]
    assert maps.order("maximum")[:5].tolist() == sorted(alive, key=lambda c: -float(values[c].max()))
    assert maps.order("energy")[:5].tolist() == sorted(alive, key=lambda c: -float((values[c] ** 2).sum()))
    assert maps.zeros == pytest.approx(float((values == 0).double().mean()))
    figure = dv.draw_feature_maps(dv.maps(network, image, ["1"]))
    labels = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert labels[-1] == "2  dead" and "3  faint" in labels and len(labels) == 6
    assert not any("faint" in text.get_text() for axes in dv.draw_feature_maps(
        dv.maps(network, image, ["1"]), scale="common").axes for text in axes.texts)  # fmt: skip


def test_values_that_are_not_finite_have_no_colour_and_change_no_scale() -> None:
    values = np.array([[[1.0, np.nan]], [[2.0, np.inf]]], np.float32)
    maps = LayerMaps(layer="conv", values=values)
    assert maps.broken == 2 and maps.peaks.tolist() == [1, 2] and "2 values NaN or infinite" in maps.words()
    assert tiles(maps, "own")[:, 0, 1].tolist() == [[255] * 4] * 2


class Tokens(nn.Module):
    """Patches as tokens behind a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.block = nn.Conv2d(3, 5, 4, stride=4), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        row = self.patches(x).flatten(2).transpose(1, 2)
        return self.block(torch.cat([row[:, :1] * 0, row], 1))


def test_tokens_are_laid_out_and_the_class_token_left_out() -> None:
    network = dv.capture(Tokens().eval(), (3, 16, 16))
    image = torch.rand(1, 3, 16, 16)
    maps = dv.maps(network, image, ["block"])["block"]
    row = network.activations(image, ["block"])["block"][0]
    assert maps.values.shape == (5, 4, 4) and maps.extra_tokens == 1
    assert maps.values[2, 1, 3] == pytest.approx(float(row[1 + 1 * 4 + 3, 2]))


def test_the_matrix_holds_the_norm_of_each_kernel(network: dv.Network) -> None:
    first, second = dv.kernels(network, ["1", "3"]).layers
    weights = {name: tensor.double().numpy() for name, tensor in network.tensors.items()}
    assert first.pictures is not None and first.pictures.shape == (6, 3, 3, 3) and first.norms.shape == (6, 3)
    kernel = weights["2.weight"]
    scale = weights["3.weight"] / np.sqrt(weights["3.running_var"] + 1e-5)
    for row in range(4):
        for column in range(3):
            expected = abs(scale[row]) * np.linalg.norm(kernel[row, column])
            assert second.norms[row, column] == pytest.approx(expected)
    assert second.pictures is None and second.groups == 2


def test_connections_that_are_missing_have_a_matrix() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3), nn.Conv2d(5, 2, 1))
    missing = torch.zeros(5, 4, 3, 3, dtype=torch.bool)
    missing[1], missing[2, 3], missing[4, 0, 1, :] = True, True, True
    with torch.no_grad():
        model[1].weight[missing] = 0
    first, second, third = dv.kernels(dv.capture(model, (3, 9, 9)), ["0", "1", "2"]).layers
    assert first.connected is None and third.connected is None and "there" not in third.words()
    assert second.connected is not None
    np.testing.assert_allclose(second.connected, 1 - missing.double().mean((2, 3)).numpy())
    assert second.words().endswith("73.3% of the connections are there, 1 filter without any")
    kernels = Kernels(network="n", layers=(second, third))
    figure = dv.draw_kernels(kernels)
    assert sum(axes.get_ylabel() == "filter" for axes in figure.axes) == 3  # the second layer has two
    assert "second matrix" in kernels_caption(kernels, {})


def test_depthwise_kernels_are_pictures() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, groups=6))
    kernels = dv.kernels(dv.capture(model, (3, 8, 8)), ["1"]).layers[0]
    np.testing.assert_allclose(kernels.pictures[4, :, :, 0], model[1].weight[4, 0].detach())


def test_bad_input_is_refused(network: dv.Network, image: Tensor, tmp_path: pathlib.Path) -> None:
    for call in (
        lambda: dv.maps(network, image, []),
        lambda: dv.maps(network, image.expand(2, -1, -1, -1), ["1"]),
        lambda: dv.maps(network, image, ["9"]),
        lambda: dv.kernels(network, []),
        lambda: dv.maps(network, image, ["1"])["3"],
        lambda: dv.maps(network, image, ["1"]).save(tmp_path / "maps.npy"),
        lambda: dv.draw_feature_maps(dv.maps(network, image, ["1"]), sort="size"),
    ):
        with pytest.raises(DeconvvizError):
            call()
    pooled = dv.capture(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), (3, 10, 12))
    with pytest.raises(DataError, match="without rows and columns"):
        dv.maps(pooled, image, ["2"])
    with pytest.raises(DataError, match=r"has no kernels.*the nearest before it: '0'"):
        dv.kernels(pooled, ["1"])
    with pytest.raises(DataError, match=r"tokens 2x2 given, and no layer asked for has tokens \(1, 3\)"):
        dv.maps(network, image, ["1", "3"], tokens=(2, 2))


def test_a_map_of_one_place_is_dead_where_it_is_zero() -> None:
    convolution = nn.Conv2d(3, 4, 1)
    with torch.no_grad():
        convolution.weight[:], convolution.bias[:] = 0, torch.tensor([1.0, 0.0, -2.0, 3.0])
    network = dv.capture(nn.Sequential(convolution, nn.AdaptiveAvgPool2d(1)), (3, 8, 8))
    maps = dv.maps(network, torch.rand(1, 3, 8, 8), ["0", "1"])
    assert maps["0"].dead.all() and maps["1"].dead.tolist() == [False, True, False, False]
    assert maps["1"].order("maximum").tolist() == [3, 0, 2, 1]
    assert "one place and zero" in caption_of(maps, "maximum", "own", labelled=True)


@pytest.mark.parametrize("width", [3.3, 7.5])
def test_the_caption_tells_what_stands_above_a_map(network: dv.Network, image: Tensor, width: float) -> None:
    maps, page = dv.maps(network, image, ["1"]), Page(width=width, columns=6)
    grid = grid_of(maps, None, page)
    figure = dv.draw_feature_maps(maps, width=width, columns=6)
    labels = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert any("≤" in label for label in labels) is grid.labelled is (width > 4)
    caption = caption_of(maps, "maximum", "own", grid.labelled)
    assert ("(≤)" in caption) is grid.labelled and "need not be" not in caption
    assert "need not be" in caption_of(dv.maps(network, image, ["3"]), "maximum", "own", labelled=True)
    assert not any("…" in text.get_text() for text in figure.texts)


def test_the_caption_of_kernels_tells_what_is_drawn(network: dv.Network) -> None:
    pictures, matrix = (dv.kernels(network, [layer]) for layer in ("1", "3"))
    assert "BatchNorm that follows" in kernels_caption(matrix, {}) and "picture" not in kernels_caption(matrix, {})
    caption = kernels_caption(pictures, {"1": [0, 3]})  # filter 3 is a ten thousandth of the others
    assert "matrix" not in caption and "hundredth" in caption
    assert "hundredth" not in kernels_caption(pictures, {"1": [0, 1]})
    assert "BatchNorm" not in kernels_caption(dv.kernels(network, ["2"]), {})
    figure = dv.draw_kernels(pictures, filters={"1": [5, 0]}, columns=1, width=3.3)
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == ["5", "0"]
    assert "; 2 filters drawn" in " ".join(text.get_text() for text in figure.texts).replace("\n", " ")
    many = dv.kernels(dv.capture(nn.Sequential(nn.Conv2d(3, 120, 3)), (3, 8, 8)), ["0"]).layers[0]
    assert list(pictured(many)) == list(range(96))


def test_the_command_writes_figures_and_values(tmp_path: pathlib.Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (70, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    out = tmp_path / "maps.png"
    words = ["maps", "demo", str(tmp_path / "photo.png"), "-l", "relu1", "-l", "conv2", "--count", "5", "-o", str(out)]
    result = CliRunner().invoke(cli, [*words, "--kernels", "--values", str(tmp_path / "maps.npz"), "--dpi", "60"])
    assert result.exit_code == 0, result.output
    assert out.is_file() and (tmp_path / "maps.kernels.png").is_file()
    arrays = np.load(tmp_path / "maps.npz")
    assert arrays["relu1"].ndim == 3 and set(arrays) == {"relu1", "conv2"}
    assert f"relu1: {len(arrays['relu1'])} maps" in result.output
