"""What a layer figure shows: the rule of a layer, its crops, outlines, classes and the strip, on planted networks."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import deconvviz as dv
from deconvviz.data.feed import Feed
from deconvviz.deconv.choice import CANDIDATES, CHOSEN_BY, RuleChoice
from deconvviz.deconv.project import project
from deconvviz.errors import DataError
from deconvviz.graph.network import Network
from deconvviz.metrics.intervals import median_interval
from deconvviz.studies.mining import cache as caching
from deconvviz.studies.mining.cache import ProjectionCache
from deconvviz.studies.mining.figure import class_line
from deconvviz.studies.mining.grid_command import _caption
from deconvviz.studies.mining.panels import panels_from
from deconvviz.studies.mining.result import Mined, load_mined
from deconvviz.types import Box, Pixels

SIDE, K, CHANNELS = 32, 4, 40
BLOCK = Box(2, 3, 5, 7)  # the pixels that a unit reads, within the 9 x 9 that it could
BLACK = dv.Preprocess(resize=None, crop=SIDE, mean=(0.0,) * 3, std=(1.0,) * 3)  # what is filled with 0 is black
QUIET = 7  # a channel that fires on some of the images only


def reader() -> nn.Sequential:
    """Units that read BLOCK of their field, the channels with a little more of one colour than of another."""
    torch.manual_seed(2)
    conv = nn.Conv2d(3, CHANNELS, 9)
    with torch.no_grad():
        conv.weight.zero_()
        colours = 1 + 0.1 * torch.rand(CHANNELS, 3, 1, 1)
        conv.weight[:, :, BLOCK.top : BLOCK.bottom, BLOCK.left : BLOCK.right] = colours
        conv.bias.zero_()
    return nn.Sequential(conv, nn.ReLU()).eval()


@pytest.fixture(scope="module")
def images() -> dv.InMemoryImages:
    """Images with pixels of 160 to 200, a bright one here and there, of three classes and an unknown one."""
    rng = np.random.default_rng(4)
    pixels = rng.integers(160, 201, (12, SIDE, SIDE, 3), np.uint8)
    pixels[rng.random((12, SIDE, SIDE)) < 0.05] = 255
    return dv.InMemoryImages(pixels, labels=[0, 1, 2, -1] * 3, classes=["ant", "bee", "cat"])


@pytest.fixture(scope="module")
def network(images: dv.InMemoryImages) -> Network:
    model = reader()
    strongest = model[0](BLACK.tensor(np.stack(images.pictures))).amax((2, 3))[:, QUIET].sort().values
    with torch.no_grad():
        model[0].bias[QUIET] = -float(strongest[8] + strongest[9]) / 2
    return dv.capture(model, (3, SIDE, SIDE))


@pytest.fixture(scope="module")
def mined(network: Network, images: dv.InMemoryImages) -> Mined:
    return dv.mine(network, images, ["1"], K, preprocess=BLACK, progress=False)


def block_of(mined: Mined, channel: int, rank: int) -> Box:
    """The pixels of the image that a unit reads."""
    y, x = map(int, mined["1"].positions[channel, rank])
    return Box(y + BLOCK.top, x + BLOCK.left, y + BLOCK.bottom, x + BLOCK.right)


def picture_of(images: dv.InMemoryImages, mined: Mined, channel: int, rank: int) -> Pixels:
    return images[int(mined["1"].images[channel, rank])][0]


# --- crops


def test_each_patch_is_the_block_that_its_unit_reads(network: Network, images: dv.InMemoryImages, mined: Mined) -> None:
    """Without a row of three or a column of four, less than 90 % is left: the sides stop at the block."""
    cache = ProjectionCache(mined, images, network, progress=False)
    winners = mined["1"].winners([3, 20])
    boxes = cache.boxes("1", winners)
    assert list(boxes) == winners and len(winners) == 2 * K
    assert all(boxes[winner] == block_of(mined, *winner) for winner in winners)
    panels = panels_from(cache, "1", [3, 20], "each")
    assert panels.crop_rule == "each as small as keeps 90 % of its unit's activation, scaled"
    for panel in panels.panels:
        assert panel.patches.shape[1:3] == panel.projections.shape[1:3] and len({*panel.patches.shape[1:3]}) == 1
        for inside in panel.insides:  # 3 x 4 of what is shown, which is 4 + 2 * 1 pixels high and wide
            scale = panel.patches.shape[1] / 6
            assert abs(inside.height - 3 * scale) <= 1 and abs(inside.width - 4 * scale) <= 1


def test_one_size_for_all_holds_the_block_and_says_what_it_keeps(
    network: Network, images: dv.InMemoryImages, mined: Mined
) -> None:
    cache = ProjectionCache(mined, images, network, progress=False)
    crop, sample = cache.crop("1", "need"), cache.sample("1")
    side = crop.size[0]
    assert side in (4, 5) and crop.size == (side, side) and crop.surrounded and len(sample) == 32
    panels, kept = panels_from(cache, "1", [winner.channel for winner in sample], "need"), []
    assert panels.crop == (side, side)
    for panel in panels.panels:
        for rank, inside in enumerate(panel.insides):
            block, picture = block_of(mined, panel.channel, rank), picture_of(images, mined, panel.channel, rank)
            assert (inside.height, inside.width) == (side, side)
            found = [(y, x) for y in range(block.top - 2, block.top + 2) for x in range(block.left - 2, block.left + 2)]
            found = [
                (y, x)
                for y, x in found
                if y >= 0
                and x >= 0
                and np.array_equal(Box(y, x, y + side, x + side).of(picture), inside.of(panel.patches[rank]))
            ]
            ((top, left),) = found  # the patch proper is there, at most a pixel from the block
            assert block.top - 1 <= top <= block.top and top + side >= block.bottom
            assert block.left - 1 <= left <= block.left + 1 and left + side >= block.right - 1
            if rank == 0:
                weights = network.tensors["0.weight"][panel.channel, :, BLOCK.top, BLOCK.left].double().numpy()
                bias = float(network.tensors["0.bias"][panel.channel])
                pixels = picture / 255.0 @ weights
                shown = np.zeros((SIDE, SIDE))
                shown[top : top + side, left : left + side] = pixels[top : top + side, left : left + side]
                kept.append(max(block.of(shown).sum() + bias, 0) / (block.of(pixels).sum() + bias))
    assert crop.rule == (
        "the smallest square that keeps 90 % of a unit's activation, median of 32 filters; "
        f"with this size for all they keep {100 * np.median(kept):.0f} %"
    )


def test_the_size_and_what_it_keeps_are_of_the_same_square(
    network: Network, images: dv.InMemoryImages, mined: Mined, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The median of an even number of sides may lie between two of them: 3, 3, .., 7, 7 give 5."""
    asked = []

    def kept(views: Any, boxes: torch.Tensor) -> torch.Tensor:
        asked.append(sorted({*(boxes[:, 2] - boxes[:, 0]).tolist()}))
        return torch.ones(len(boxes), dtype=torch.float64)

    monkeypatch.setattr(caching, "needed_squares", lambda *_, **__: torch.tensor([3, 7] * 16))
    monkeypatch.setattr(caching, "kept_by", kept)
    assert ProjectionCache(mined, images, network, "gradient", progress=False).crop("1", "need").size == (5, 5)
    assert asked == [[9], [5]]


def test_other_crops_show_no_surroundings(network: Network, images: dv.InMemoryImages, mined: Mined) -> None:
    cache = ProjectionCache(mined, images, network, "gradient", progress=False)
    for crop, size in (("receptive-field", 9), (11, 11), ("7", 7)):
        panels = panels_from(cache, "1", [5], crop)
        assert panels.panels[0].patches.shape == (K, size, size, 3) and panels.why == "" and panels.rule == "gradient"
        assert panels.panels[0].insides == (Box(0, 0, size, size),) * K


# --- what stands beside the patches


def test_outlines_are_where_the_map_is_above_half(network: Network, images: dv.InMemoryImages, mined: Mined) -> None:
    cache = ProjectionCache(mined, images, network, "gradient", progress=False)
    panel = panels_from(cache, "1", [11], SIDE).panels[0]
    assert panel.firing.shape == (K, SIDE, SIDE) and panel.firing.dtype == bool
    for rank in range(K):
        picture = picture_of(images, mined, 11, rank)
        with torch.no_grad():
            map_ = network(BLACK.tensor(picture[None]))[:, 11:12] / float(mined["1"].values[11, rank])
        large = nn.functional.interpolate(map_, size=(SIDE, SIDE), mode="bilinear")[0, 0].numpy()
        clear = np.abs(large - 0.5) > 2e-3  # the map is kept as float16
        assert clear.mean() > 0.9 and np.array_equal(panel.firing[rank][clear], large[clear] > 0.5)
    quiet = panels_from(cache, "1", [QUIET], SIDE).panels[0].firing
    assert quiet.any() and not quiet.all()


def test_classes_and_the_strip(network: Network, images: dv.InMemoryImages, mined: Mined) -> None:
    cache = ProjectionCache(mined, images, network, "gradient", progress=False)
    panels = panels_from(cache, "1", [QUIET, 0], 9).panels
    with torch.no_grad():
        fires = network(BLACK.tensor(np.stack(images.pictures))).amax((2, 3)) > 0
    assert panels[0].frequency == 3 / 12 == float(fires[:, QUIET].float().mean()) and panels[1].frequency == 1
    for panel in panels:
        shown = [int(mined["1"].images[panel.channel, rank]) for rank in range(len(panel.values))]
        assert panel.classes == tuple(("ant", "bee", "cat", "")[image % 4] for image in shown)
        assert panel.images == tuple(map(str, shown))


def test_synset_numbers_are_shown_by_name(network: Network, images: dv.InMemoryImages, mined: Mined) -> None:
    synsets = ["n01440764", "n03876231", "cat"]
    numbered = dv.InMemoryImages(images.pictures, labels=images.labels, classes=synsets)
    numbered.fingerprint = images.fingerprint
    cache = ProjectionCache(mined, numbered, network, "gradient", progress=False)
    assert {*panels_from(cache, "1", [0], 9).panels[0].classes} <= {"tench", "paintbrush", "cat", ""}


@pytest.mark.parametrize("known", [True, False])
def test_the_caption_speaks_of_classes_where_they_are_shown(
    known: bool, network: Network, images: dv.InMemoryImages, mined: Mined
) -> None:
    shown = images if known else dv.InMemoryImages(images.pictures)
    shown.fingerprint = images.fingerprint
    panels = panels_from(ProjectionCache(mined, shown, network, "gradient", progress=False), "1", [0], 9)
    assert ("Below are the classes" in _caption(mined, panels, "store.h5", "")) == known


def test_the_line_of_classes() -> None:
    assert class_line(()) == "" == class_line(("", ""))
    assert class_line(("ant",)) == "ant" and class_line(("ant", "bee", "cat")) == "3 classes"
    assert class_line(("bee", "ant", "ant", "bee", "bee", "cat")) == "3 bee, 2 ant, 1 other"
    assert class_line(("a", "a", "b", "c")) == "2 a, 2 others"


# --- the rule


@pytest.fixture(scope="module")
def demo() -> tuple[Network, dv.Scenes, Mined]:
    loaded = dv.load_model("demo")
    preprocess = dv.Preprocess.from_dict(loaded.settings)
    network, scenes = dv.capture(loaded.model, preprocess.shape), dv.Scenes(40, seed=5)
    return network, scenes, dv.mine(network, scenes, ["relu2", "relu5"], 3, preprocess=preprocess, progress=False)


def expected_rule(arrays: dict[str, Any], layer: str) -> str:
    """The deconvnet, where its median is not below the interval of the best rule; by the mean of both shares."""
    means = {rule: arrays[f"figures/{layer}/kept/{rule}"].mean(1) for rule in CANDIDATES}
    intervals = {rule: median_interval(values[~np.isnan(values)]) for rule, values in means.items()}
    best = max(CANDIDATES, key=lambda rule: intervals[rule][0])
    return "deconvnet" if intervals["deconvnet"][0] >= intervals[best][1] else best


@pytest.mark.slow
def test_the_demo_network_keeps_the_papers_rule(
    demo: tuple[Network, dv.Scenes, Mined], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, scenes, mined = demo
    cache, choices = ProjectionCache(mined, scenes, network, progress=False), dict[str, RuleChoice]()
    for layer in ("relu2", "relu5"):
        panels = panels_from(cache, layer, [4, 30])
        choice = cache.choice(layer)
        assert choice is not None and panels.rule == choice.rule == "deconvnet" == cache.rule_of(layer)
        assert panels.why == choice.words() and 20 <= choice.units <= 32 and CHOSEN_BY == (5, 10)
        kept = np.median(cache._arrays[f"figures/{layer}/kept/deconvnet"].mean(1))
        other = np.median(cache._arrays[f"figures/{layer}/kept/guided"].mean(1))
        told = re.search(rf"median of {choice.units} units: ([\d.]+); guided: ([\d.]+)\.$", panels.why)
        assert told is not None and [*map(float, told.groups())] == pytest.approx([kept, other], abs=0.005)
        assert told[1] != told[2]  # numbers that do not tell why have more digits
        choices[layer] = choice
    cache.save(tmp_path / "mined.h5")
    arrays = load_mined(tmp_path / "mined.h5").figure_arrays
    for layer in choices:
        assert arrays[f"figures/{layer}/switches"].tolist() == [1] and expected_rule(dict(arrays), layer) == "deconvnet"
        assert all(arrays[f"figures/{layer}/kept/{rule}"].shape == (32, 2) for rule in CANDIDATES)

    def refused(*_: Any, **__: Any) -> Any:
        pytest.fail("it was measured, or the network was loaded")

    monkeypatch.setattr(caching, "measured_rules", refused)
    again = ProjectionCache(load_mined(tmp_path / "mined.h5"), scenes, refused, progress=False)
    for layer, choice in choices.items():
        assert again.choice(layer) == choice
        once_more = panels_from(again, layer, [4, 30])  # nothing is computed
        assert once_more.rule == "deconvnet" and once_more.why == choice.words()


def test_a_file_that_keeps_the_boxes_needs_no_network(
    network: Network, images: dv.InMemoryImages, mined: Mined, tmp_path: pathlib.Path
) -> None:
    cache = ProjectionCache(mined, images, network, progress=False)
    panels = panels_from(cache, "1", [3, 20], "each")
    cache.save(tmp_path / "mined.h5")
    again = ProjectionCache(load_mined(tmp_path / "mined.h5"), images, lambda: pytest.fail("loaded"), progress=False)
    for one, other in zip(panels.panels, panels_from(again, "1", [3, 20], "each").panels, strict=True):
        assert np.array_equal(one.patches, other.patches) and np.array_equal(one.projections, other.projections)
        assert one.insides == other.insides and np.array_equal(one.firing, other.firing)


def test_a_better_rule_is_taken_and_the_papers_is_a_word_away(images: dv.InMemoryImages) -> None:
    """Two convolutions without pooling: no switches, so that the deconvnet's filters are no measure of the image."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 16, 5, 2), nn.ReLU(), nn.Conv2d(16, 40, 5, 2), nn.ReLU()
    network = dv.capture(nn.Sequential(*layers).eval(), (3, SIDE, SIDE))
    preprocess = dv.Preprocess(resize=None, crop=SIDE)
    mined = dv.mine(network, images, ["3"], K, preprocess=preprocess, progress=False)
    cache = ProjectionCache(mined, images, network, progress=False)
    choice = cache.choice("3")
    assert choice is not None and cache._arrays["figures/3/switches"].tolist() == [0]
    means = {rule: np.nanmedian(cache._arrays[f"figures/3/kept/{rule}"].mean(1)) for rule in CANDIDATES}
    assert choice.rule == max(CANDIDATES, key=lambda rule: means[rule]) != "deconvnet"
    feed, bounds = Feed(images, preprocess), preprocess.bounds()
    for rule in ("auto", "deconvnet", {"3": "guided"}):
        chosen = ProjectionCache(mined, images, network, rule, progress=False)
        used = choice.rule if rule == "auto" else rule["3"] if isinstance(rule, dict) else rule
        winner = mined["3"].winners([1])[0]
        stored = chosen.projections("3", [winner])[winner]
        y, x = map(int, mined["3"].positions[winner])
        picture = feed.tensor(feed.pictures([int(mined["3"].images[winner])]), network.device, network.dtype)
        single = project(network, picture, "3", winner.channel, (y, x), used, bounds=bounds)
        assert np.abs(stored.pixels - (single.pixels / single.pixels.abs().max()).numpy()).max() < 1e-3
        assert chosen.rule_of("3") == used and (chosen.choice("3") is None) == (rule != "auto")


def test_a_dead_layer_has_the_papers_rule_and_nothing_to_crop(images: dv.InMemoryImages) -> None:
    model = reader()
    with torch.no_grad():
        model[0].bias.fill_(-1e6)
    network = dv.capture(model, (3, SIDE, SIDE))
    mined = dv.mine(network, images, ["1"], K, preprocess=BLACK, progress=False)
    cache = ProjectionCache(mined, images, network, progress=False)
    choice = cache.choice("1")
    assert choice is not None and (choice.rule, choice.units) == ("deconvnet", 0)
    assert "no rule could be measured" in choice.words()
    for crop in ("need", "each", "energy"):
        with pytest.raises(DataError, match="every filter of '1' is dead"):
            cache.crop("1", crop)


# --- parts


def test_the_window_of_a_part_detector_covers_the_part() -> None:
    """Scenes whose blue is the exact mask of the doors, and a unit that sums blue over 31 x 31 pixels."""
    scenes, pictures, masks = dv.Scenes(60, seed=3), [], []
    for n in range(60):
        door = scenes.scene(n).parts.get("door")
        if door is not None:
            pixels = np.array(scenes[n][0])
            pixels[..., 2] = 255 * door
            pictures.append(pixels)
            masks.append(door)
    images = dv.InMemoryImages(pictures)
    side = pictures[0].shape[0]
    conv = nn.Conv2d(3, 1, 31, bias=False)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[0, 2] = 1
    network = dv.capture(nn.Sequential(conv, nn.ReLU()).eval(), (3, side, side))
    preprocess = dv.Preprocess(resize=None, crop=side, mean=(0.0,) * 3, std=(1.0,) * 3)
    k = len(pictures)
    mined = dv.mine(network, images, ["1"], k, preprocess=preprocess, progress=False)
    cache = ProjectionCache(mined, images, network, progress=False)
    boxes, whole = cache.boxes("1", mined["1"].winners([0])), 0
    for winner, box in boxes.items():
        mask = masks[int(mined["1"].images[winner])]
        y, x = map(int, mined["1"].positions[winner])
        seen = Box(y, x, y + 31, x + 31).of(mask).sum()
        covered = box.of(mask).sum()
        assert covered >= 0.9 * seen  # of the part as far as the unit sees it
        rows, columns = np.nonzero(mask)
        assert box.top >= rows.min() - 1 and box.left >= columns.min() - 1
        assert box.bottom <= rows.max() + 2 and box.right <= columns.max() + 2
        whole += int(covered >= 0.9 * mask.sum())
    assert k >= 4 and whole == k
