"""The range of filters: images at quantiles, and the mark where the strongest images mislead, planted and removed."""

from __future__ import annotations

import pathlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from torch import nn

import deconvviz as dv
from deconvviz.cli.main import cli
from deconvviz.data.feed import Feed
from deconvviz.data.memory import InMemoryImages
from deconvviz.errors import DataError
from deconvviz.run.options import RunOptions
from deconvviz.studies.mining import range_units
from deconvviz.studies.mining.range_result import range_caption
from deconvviz.studies.mining.range_units import likeness, likeness_among

PREPROCESS = dv.Preprocess(resize=12, crop=12, mean=(0, 0, 0), std=(1, 1, 1))
COLOURS = ((1, 0, 0), (0, 1, 0), (0, 0, 1))


def network(weights: list[list[float]]) -> dv.Network:
    """Filters of one pixel that read red, green and blue with these weights."""
    convolution = nn.Conv2d(3, len(weights), 1)
    with torch.no_grad():
        convolution.weight[:], convolution.bias[:] = torch.tensor(weights)[:, :, None, None], 0
    return dv.capture(nn.Sequential(convolution, nn.ReLU()), (3, 12, 12))


def spots(colours: list[int]) -> InMemoryImages:
    """Black images with a spot of a colour at (n % 10 + 1, 5); image n is brighter than image n - 1."""
    pixels: NDArray[np.uint8] = np.zeros((len(colours), 12, 12, 3), np.uint8)
    for n, colour in enumerate(colours):
        pixels[n, n % 10 + 1, 5] = np.array(COLOURS[colour]) * (20 + 5 * n)
    return InMemoryImages(pixels)


def test_a_filter_of_two_things_is_marked_and_one_of_one_thing_is_not() -> None:
    # Filter 0 reads red and green. Its strongest images are red, those of its middle range green.
    both, only_red = [1] * 30 + [0] * 10, [0] * 40
    reads = network([[1, 1, 0], [1, 0, 0], [0, 1, 0]])
    for colours, misleading in ((both, True), (only_red, False)):
        images = spots(colours)
        mined = dv.mine(reads, images, ["1"], preprocess=PREPROCESS, progress=False)
        each = dv.layer_range(mined, images, reads, "1", [0], progress=False).filters[0]
        assert each.misleading is misleading
        assert each.likeness_of_top == pytest.approx(1, abs=0.01)
        assert each.values.tolist() == sorted(each.values.tolist())
        places = [round(q * 39 / 8) for q in range(9)]  # images are in the order of their brightness
        assert each.images == tuple(images.names[n] for n in places)
        np.testing.assert_allclose(each.values, [(20 + 5 * n) / 255 for n in places], rtol=1e-5)
        assert each.patches.shape == (9, 3, 3, 3)
        np.testing.assert_array_equal(each.patches[:, 1, 1].max(1), [20 + 5 * n for n in places])  # around the spot


@pytest.mark.parametrize("channel", [2, 4])  # of filter 2, two of the three images are below half of its largest
def test_the_numbers_follow_from_the_definition(channel: int) -> None:
    reads = network(np.random.default_rng(4).normal(size=(5, 3)).tolist())
    images = InMemoryImages(np.random.default_rng(5).integers(0, 255, (30, 12, 12, 3), dtype=np.uint8))
    mined = dv.mine(reads, images, ["1"], k=3, preprocess=PREPROCESS, progress=False)
    each = dv.layer_range(mined, images, reads, "1", [channel], progress=False).filters[0]
    maps = reads.activations(torch.stack([PREPROCESS(images[n][0]) for n in range(30)]), ["1"])["1"].double().numpy()
    order = sorted(range(30), key=lambda n: maps[n, channel].max())

    def vector(image: int) -> NDArray[np.float64]:
        y, x = divmod(int(maps[image, channel].argmax()), 12)
        others = maps[image, :, y, x] - maps.mean((0, 2, 3))
        return np.asarray(np.delete(others, channel))  # the filter's own value says nothing about what is there

    top = [vector(image) for image in order[:-4:-1]]
    strong = [image for image in order if maps[image, channel].max() >= maps[order[-1], channel].max() / 2]
    upper = [vector(order[place]) for place in (18, 22, 25) if order[place] in set(strong) - set(order[:-4:-1])]
    assert len(upper) == {2: 1, 4: 3}[channel]
    assert each.likeness_of_top == pytest.approx(likeness_among(top), rel=1e-4)
    assert each.likeness_of_upper == pytest.approx(likeness(upper, top), rel=1e-4)


def test_likeness_is_the_mean_cosine_with_the_others() -> None:
    a, b, c = np.array([1.0, 0, 0]), np.array([1.0, 1, 0]), np.array([0, 0, 2.0])
    cosines = [(b + c) @ a / np.linalg.norm(b + c), (a + c) @ b / np.linalg.norm(a + c) / 2**0.5]
    cosines.append((a + b) @ c / np.linalg.norm(a + b) / 2)
    assert likeness_among([a, b, c]) == pytest.approx(np.mean(cosines))
    assert likeness([a], [b, c]) == pytest.approx((b + c) @ a / np.linalg.norm(b + c))
    assert np.isnan(likeness_among([a])) and np.isnan(likeness([], [a])) and likeness_among([a, 0 * a]) == 0


def test_dead_filters_and_old_files() -> None:
    reads, images = network([[-1, -1, -1], [1, 0, 0]]), spots([0] * 12)
    mined = dv.mine(reads, images, ["1"], preprocess=PREPROCESS, progress=False)
    dead = dv.layer_range(mined, images, reads, "1", [0], progress=False).filters[0]
    assert not dead.misleading and np.isnan(dead.likeness_of_top) and (dead.values == 0).all()
    middle = [images[n][0][5:8, 5:8] for n in [round(q * 11 / 8) for q in range(9)]]  # of a map that is zero everywhere
    np.testing.assert_array_equal(dead.patches, middle)
    old = replace(mined, layers={"1": replace(mined["1"], spread=None)})
    with pytest.raises(DataError, match="mine again"):
        dv.layer_range(old, images, reads, "1", [0], progress=False)


def test_layers_in_passes_of_their_own_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = network(np.random.default_rng(4).normal(size=(5, 3)).tolist())
    images = InMemoryImages(np.random.default_rng(5).integers(0, 255, (30, 12, 12, 3), dtype=np.uint8))
    mined = dv.mine(reads, images, ["0", "1"], preprocess=PREPROCESS, progress=False)
    feed, channels = Feed(images, PREPROCESS), {"0": [4, 1], "1": [0]}
    ranges, passes = [], list[int]()
    for memory in (2**30, 1):
        monkeypatch.setattr(range_units, "MEMORY", memory)
        monkeypatch.setattr(range_units, "_pass", lambda *given, run=range_units._pass: (passes.append(1), run(*given)))
        found = range_units.range_units(reads, mined, feed, channels, RunOptions(progress=False), weakest=3, top=4)
        ranges.append(found)
        monkeypatch.undo()
    assert len(passes) == 1 + 2
    for layer, expected in ranges[0].items():
        for name, values in vars(expected).items():
            np.testing.assert_allclose(values, getattr(ranges[1][layer], name), rtol=1e-6)
    maxima = reads.activations(torch.stack([PREPROCESS(images[n][0]) for n in range(30)]), ["0"])["0"].amax((2, 3))
    assert ranges[0]["0"].images[0, -3:].tolist() == maxima[:, 4].argsort()[:3].tolist()  # the weakest


def test_the_command_draws_it(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dv.pack(dv.Scenes(12, seed=1), "scenes.h5", progress=False)
    mine = "mine demo scenes.h5 -l relu5 -o mined.h5 --quiet"
    grid = "grid mined.h5 -l relu5 -c 3,5 -o relu5.png --range --rule deconvnet --dpi 50 --quiet"
    for words in (mine, grid):
        result = CliRunner().invoke(cli, words.split())
        assert result.exit_code == 0, (result.output, result.exception)
    assert pathlib.Path("relu5.range.png").is_file() and pathlib.Path("relu5.png").is_file()


def test_the_caption_says_how_many_images_are_shown() -> None:
    preprocess = dv.Preprocess(resize=32, crop=32)
    net = dv.capture(nn.Sequential(nn.Conv2d(3, 2, 5), nn.ReLU()), (3, 32, 32))
    for count, told in ((5, "all 5 images"), (9, "all 9 images"), (12, "nine of all images")):
        mined = dv.mine(net, dv.Scenes(count), ["1"], preprocess=preprocess, progress=False)
        of_layer = dv.layer_range(mined, dv.Scenes(count), net, "1", [0], progress=False)
        assert f"For each filter: {told}, evenly" in range_caption(of_layer)
