"""The drawn scenes: that the seed settles them, that their masks are exact, that they need more than colours."""

from __future__ import annotations

import dataclasses
import pathlib
import pickle
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.draw import polygon
from skimage.morphology import dilation, erosion
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from deconvviz.data.images import ImageStore
from deconvviz.data.pack import pack
from deconvviz.data.scenes import raster
from deconvviz.data.scenes.artist import CLASSES
from deconvviz.data.scenes.raster import Plan, Shape
from deconvviz.data.scenes.scenes import Scene, Scenes
from deconvviz.errors import DataError
from deconvviz.types import Ints

PROMISED = {
    "cat": {"left ear", "right ear", "left eye", "right eye", "nose", "mouth", "whiskers"},
    "owl": {"left ear", "right ear", "left eye", "right eye", "beak", "belly", "left wing", "right wing", "feet"},
    "bird": {"beak", "eye", "wing", "tail", "legs"},
    "fish": {"eye", "tail", "top fin", "side fin", "gill", "mouth"},
    "butterfly": {
        *("left upper wing", "right upper wing", "left lower wing", "right lower wing"),
        *("body", "antennae"),
    },
    "flower": {"petals", "centre", "stem", "left leaf", "right leaf"},
    "car": {"rear window", "front window", "door", "lamp", "rear wheel", "front wheel"},
    "bus": {"window 1", "window 2", "window 3", "door", "lamp", "rear wheel", "front wheel"},
    "train": {"funnel", "dome", "window", "lamp", "rear wheel", "middle wheel", "front wheel"},
    "house": {"roof", "chimney", "door", "left window", "right window"},
}


@cache
def sample() -> list[Scene]:
    drawn = Scenes(200, seed=3)
    return [drawn.scene(index) for index in range(len(drawn))]


def canvas(index: int, size: int = 72) -> tuple[Plan, Ints]:
    return Scenes(60, size=size, seed=5)._drawn(index)


def coloured(plan: Plan, shade: float) -> Plan:
    """The scene with an object of this gray throughout."""
    gray = np.full(3, shade)
    shapes = [s._replace(colour=gray) if k in plan.body else s for k, s in enumerate(plan.shapes)]
    return dataclasses.replace(plan, shapes=shapes, texture_amount=plan.texture_amount * 0, texture_colour=gray)


def test_the_seed_settles_every_pixel() -> None:
    first, other = Scenes(40, seed=7), Scenes(13, seed=7)
    for index in (12, 3, 0):
        scene = first.scene(index)
        image, label = other[index]
        assert image.dtype == np.uint8 and image.shape == (72, 72, 3) and type(label) is int
        assert np.array_equal(image, scene.image) and label == scene.label == first.labels[index]
        assert np.array_equal(scene.mask, Scenes(20, seed=7).scene(index).mask)
    assert not np.array_equal(first[0][0], Scenes(40, seed=8)[0][0])
    assert not np.array_equal(first[0][0], first[1][0])


def test_names_and_fingerprints() -> None:
    drawn = Scenes(12)
    assert drawn.classes == CLASSES and len(set(CLASSES)) == 10
    assert drawn.names[3] == f"000003-{CLASSES[drawn.labels[3]]}.png" and len(drawn.names) == len(drawn) == 12
    assert drawn.fingerprint == Scenes(12, 72, 0).fingerprint and len(drawn.fingerprint) == 64
    assert len({s.fingerprint for s in (drawn, Scenes(13), Scenes(12, 73), Scenes(12, seed=1))}) == 4
    assert repr(drawn) == "Scenes(count=12, size=72, seed=0)"


@pytest.mark.parametrize("count", [1, 9, 10, 57, 3000])
def test_labels_are_balanced(count: int) -> None:
    drawn = Scenes(count, seed=2)
    numbers = np.bincount(drawn.labels, minlength=10)
    assert drawn.labels.dtype == np.int64 and len(drawn.labels) == count and np.ptp(numbers) <= 1
    assert np.array_equal(drawn.labels, Scenes(5000, seed=2).labels[:count])


def test_labels_are_shuffled() -> None:
    labels = Scenes(3000).labels
    table = np.zeros((10, 10))
    np.add.at(table, (np.arange(3000) % 10, labels), 1)
    assert table.min() > 10  # no place in ten always has the same class
    assert not np.array_equal(labels, Scenes(3000, seed=1).labels)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"count": 0}, "count 0"),
        ({"count": 2.5}, "count 2.5"),
        ({"count": True}, "count True"),
        ({"size": 47}, "size 47 is not an integer from 48 to 128"),
        ({"size": 129}, "size 129"),
        ({"seed": -1}, "seed -1"),
        ({"seed": "x"}, "seed 'x'"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError, match=told):
        Scenes(**arguments)


def test_indices() -> None:
    drawn = Scenes(5)
    assert np.array_equal(drawn[-1][0], drawn[4][0]) and np.array_equal(drawn[np.int64(2)][0], drawn[2][0])
    for index in (5, -6):
        with pytest.raises(IndexError, match=f"scene {index} of 5"):
            drawn[index]
        with pytest.raises(IndexError):
            drawn.scene(index)


@pytest.mark.parametrize("size", [48, 128])
def test_sizes(size: int) -> None:
    scene = Scenes(3, size=size).scene(1)
    assert scene.image.shape == (size, size, 3) and scene.mask.shape == (size, size)


def test_pickles() -> None:
    drawn = Scenes(20, 50, 4)
    again = pickle.loads(pickle.dumps(drawn))
    assert np.array_equal(again[7][0], drawn[7][0]) and again.fingerprint == drawn.fingerprint


def test_packs(tmp_path: pathlib.Path) -> None:
    drawn = Scenes(30)
    assert pack(drawn, tmp_path / "s.h5", progress=False).count == 30
    store = ImageStore(tmp_path / "s.h5")
    assert tuple(store.classes) == CLASSES and np.array_equal(store.labels, drawn.labels)


@pytest.mark.slow
def test_masks_and_parts_are_sane() -> None:
    for scene in sample():
        assert scene.mask.dtype == bool and 0.05 < scene.mask.mean() < 0.8
        together = np.zeros(scene.mask.shape, int)
        for name, part in scene.parts.items():
            assert name and part.dtype == bool and part.any() and not (part & ~scene.mask).any()
            together += part
        assert together.max() == 1  # a pixel is at least half of just one thing


@pytest.mark.parametrize("name", CLASSES)
def test_promised_parts_are_seen(name: str) -> None:
    found = [set(scene.parts) for scene in sample() if CLASSES[scene.label] == name]
    assert len(found) == 20 and set().union(*found) - {"window 4"} == PROMISED[name]
    for part in PROMISED[name]:
        assert sum(part in parts for parts in found) >= 16, part


@pytest.mark.parametrize("index", range(20))
def test_the_mask_is_what_is_half_covered(index: int) -> None:
    plan, ids = canvas(index)
    plan = dataclasses.replace(plan, light=plan.light * 0 + 1, noise=plan.noise * 0)
    black, white = (raster.render(coloured(plan, shade), ids).astype(int) for shade in (0, 1))
    covered = (white - black).mean(2) / 255
    assert np.array_equal(covered >= 0.5, raster.masks(plan, ids)[0])


@pytest.mark.parametrize("index", range(20))
def test_the_mask_is_where_the_object_changes_the_picture(index: int) -> None:
    plan, ids = canvas(index)
    others = [shape for k, shape in enumerate(plan.shapes) if k not in plan.body]
    empty = dataclasses.replace(plan, shapes=others)
    without = raster.render(empty, raster.rasterise(others, 72)).astype(int)
    differs = (raster.render(plan, ids) != without).any(2)
    mask, near = raster.masks(plan, ids)[0], np.ones((3, 3), bool)
    partly = np.zeros((72, 72), bool)
    np.logical_or.at(partly, tuple(np.argwhere(np.isin(ids - 1, list(plan.body))).T // 3), True)
    assert not (differs & ~partly).any() and not (partly & ~dilation(mask, near)).sum() > 0.02 * mask.sum()
    assert differs[erosion(mask, near)].mean() > 0.97


def test_colours_do_not_move_the_mask() -> None:
    plan, ids = canvas(4)
    mask, named = raster.masks(plan, ids)
    again, others = raster.masks(coloured(plan, 0.3), ids)
    assert np.array_equal(mask, again) and all(np.array_equal(named[name], others[name]) for name in named)


def test_polygons_are_filled_as_skimage_fills_them() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):  # most of them cross themselves and reach beyond the picture
        points = rng.uniform(-10, 60, (int(rng.integers(3, 9)), 2))
        filled = raster.rasterise([Shape(points, np.zeros(3), "", False)], 48) == 1
        wanted = np.zeros((144, 144), bool)
        rows, columns = points.T[::-1] * 3 - 0.5
        wanted[polygon(rows, columns, wanted.shape)] = True  # type: ignore[no-untyped-call]
        assert (filled != wanted).sum() <= 3


def test_a_later_polygon_covers_an_earlier_one() -> None:
    square = np.array([(10.0, 10), (30, 10), (30, 30), (10, 30)])
    shapes = [Shape(square + shift, np.zeros(3), "", False) for shift in (0, 10)]
    ids = raster.rasterise(shapes, 48)
    assert (ids == 2).sum() == 3600 and (ids == 1).sum() == 2700 and ids[45, 45] == 1 and ids[75, 75] == 2


@cache
def pictures() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    drawn = Scenes(1500)
    return np.stack([drawn[index][0] for index in range(1500)]), drawn.labels


def linear(features: NDArray[np.float64], strength: float) -> float:
    """The accuracy on 400 scenes of a linear classifier of 1100 others."""
    labels = pictures()[1]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=100))
    model.fit(features[:1100], labels[:1100])
    return float(model.score(features[1100:], labels[1100:]))


@pytest.mark.slow
def test_pixels_do_not_tell_the_class() -> None:
    small = pictures()[0].reshape(1500, 24, 3, 24, 3, 3).mean((2, 4)).reshape(1500, -1)
    assert linear(small, 1e-4) < 0.5


@pytest.mark.slow
def test_colours_do_not_tell_the_class() -> None:
    bins = (pictures()[0] // 64).astype(int) @ [16, 4, 1]
    counts = np.stack([np.bincount(b.ravel(), minlength=64) for b in bins]).astype(float)
    assert linear(counts, 0.1) < 0.5
