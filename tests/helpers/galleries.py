"""Small gallery and decisions files, made up, for the tests of the atlas: every array of the format, hostile names."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconvviz.results.results import Result
from deconvviz.studies.atlas.site.inputs import SiteImages
from deconvviz.studies.mining.spread import BINS

SIZE = 64  # pixels, a picture
IMAGES = 40
HOSTILE = (
    "<script>alert(1)</script>.jpg",
    "</script><img src=x onerror=alert(2)>.png",
    "quotes \" ' ` &amp; \\ %22 #&x=1.jpg",
    "long " + 295 * "x",
    "emoji \U0001f40d\U0001f44d\U0001f3fd.jpg",
    "turned \u202egpj.exe",
    "two\nlines \u2028 and a\ttab.jpg",
    "{{ 7 * 7 }} ${7*7}.jpg",
)
CLASSES = (
    "<b>tabby</b>",
    'dog\'s "house"',
    "z" * 300,
    "\U0001f98a fox",
    "\u202ethgir",
    "</script>",
    "Plain",
    "line\nbreak",
)
WHY = "lrp-gamma, chosen by <b>what</b> the strongest 5 % bring back, median of 8 units: 0.81; deconvnet: 0.40."
FILTER_NAMES = {"conv1": {3: "wheel <b>&</b>", 9999: "not shown"}, "no such layer": {0: "eye"}}
LAYERS = ("conv1", "features/<b>'2'\"&:x", "features.7")


def names() -> list[str]:
    return [*HOSTILE, *(f"n{i:04d}/photo {i}.jpg" for i in range(len(HOSTILE), IMAGES))]


def labels() -> NDArray[np.int64]:
    found = np.arange(IMAGES, dtype=np.int64) % len(CLASSES)
    found[::9] = -1
    return found


def picture(image: int) -> NDArray[np.uint8]:
    """A picture in which rows, columns and number can be told apart."""
    y, x = np.mgrid[:SIZE, :SIZE]
    return np.stack([x * 4, y * 4, np.full_like(x, 6 * image % 256)], -1).astype(np.uint8)


def images(**changes: Any) -> SiteImages:
    """The images of the made-up store; changes: other fields of it."""
    fields: dict[str, Any] = {"picture": picture, "names": names(), "labels": labels(), "classes": CLASSES}
    return SiteImages(**{**fields, **changes})


def gallery(
    layer: str = "conv1",
    depth: int = 0,
    filters: int = 8,
    k: int = 9,
    tile: int = 16,
    more: bool = False,
    seed: int = 0,
) -> Result:
    """Return a gallery; more: with weights, evolution, invariance and occlusion, its rule chosen and not given."""
    rng = np.random.default_rng(seed)
    channels = np.sort(rng.permutation(filters + 3)[:filters]).astype(np.int64)
    images = np.argsort(rng.random((filters, IMAGES)), 1)[:, :k].astype(np.int64)
    values = -np.sort(-rng.random((filters, k)).astype(np.float32) * 40, 1)
    values[0, 0] = np.float32(16777216.0)
    if filters > 3:
        values[1, -1] = np.float32(1e-7)
        images[3], values[3] = -1, np.nan  # a dead filter
        images[2, -2:], values[2, -2:] = -1, np.nan  # one that fires on too few images
    boxes = np.sort(rng.integers(0, SIZE, (filters, k, 2, 2)), 2).reshape(filters, k, 4).astype(np.int64)
    shape = (filters, k, tile, tile, 3)
    arrays: dict[str, Any] = {
        "channels": channels,
        "images": images,
        "values": values,
        "boxes": boxes,
        "windows": boxes.copy(),
        "positions": rng.integers(0, 9, (filters, k, 2)),
        "patches": _tiles(shape, rng),
        "projections": _tiles(shape, rng) // 4 + 96,
        "fired": rng.integers(0, IMAGES, filters),
        "firing_rate": rng.random(filters),
        "mean_activation": rng.random(filters),
        "top_class_share": _shares(images, rng),
        "maximum": np.nan_to_num(values[:, 0]),
        "top_class": np.where(images[:, 0] < 0, -1, labels()[images[:, 0]]),
        "dead": (images[:, 0] < 0).astype(np.uint8),
        "neighbours": np.stack([channels[(np.arange(1, 7) + n) % filters] for n in range(filters)]),
        "similarity": -np.sort(-rng.random((filters, 6)).astype(np.float32), 1),
        "duplicate_of": np.where(np.arange(filters) == 5, channels[0], -1),
    }
    hidden = int(np.setdiff1d(np.arange(filters + 3), channels)[0])  # a channel that is not shown
    arrays["neighbours"][:, -1] = hidden
    if filters > 4:
        arrays["duplicate_of"][4] = hidden
    if more:
        arrays |= _more(filters, k, channels, tile, rng)
    config = {
        "model": "torchvision:<i>net</i>",
        "model_fingerprint": "a" * 64,
        "images_fingerprint": "b" * 64,
        "layer": layer,
        "depth": depth,
        "kind": "conv2d",
        "shape": [filters + 3, 9, 9],
        "parameters": 1234,
        "stride": [2, 2],
        "receptive_field": [15, 15],
        "rule": "auto" if more else "deconvnet",
        "k": k,
        "crop": "the window of the layer",
        "count": IMAGES,
        "image_size": [SIZE, SIZE],
        "channels": None,
        **({"relevance": {"digest": "c" * 64, "rule": "lrp-composite", "target": "predicted"}} if more else {}),
    }
    sources = {"command": f"deconvviz atlas <net> -l {layer}", "images": "photos.h5", "versions": {"torch": "2.6"}}
    return Result("gallery", 1, config, sources, arrays, _state(layer, more))


def _state(layer: str, more: bool) -> dict[str, Any]:
    """The rule and its reason; of the last layer that the deconvnet has no switches; else nothing, as in 0.1.0."""
    if layer == LAYERS[2]:
        return {"switches": False}
    names = {str(n): off_name(n) for n in range(0, 60, 2)}
    return {"rule": "lrp-gamma", "why": WHY, "off_names": names} if more else {}


def off_name(output: int) -> str:
    """Return what a page calls an output that falls where a filter is switched off; every second one has a name."""
    return f"output {output}" if output % 2 else f"<b>bus</b> {output}"


def _shares(images: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float64]:
    """The share of the most frequent class: two images or more, but for filter 6, whose images all differ."""
    present = (images >= 0).sum(1)
    same = np.minimum(rng.integers(2, images.shape[1] + 1, len(images)), present)
    if len(images) > 6:
        same[6] = 1
    return np.asarray(same / np.maximum(present, 1))


def telling(arrays: dict[str, Any]) -> NDArray[np.int64]:
    """The most frequent class of each filter, -1 where it is that of a single image."""
    present = (arrays["images"] >= 0).sum(1)
    single = (np.rint(arrays["top_class_share"] * present) < 2) & (present > 1)
    return np.asarray(np.where(single, -1, arrays["top_class"]))


def _tiles(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Noise, which tells tiles apart; many are of one colour each, since noise takes long to compress."""
    if shape[0] <= 100:
        return rng.integers(0, 256, shape, np.uint8)
    return np.array(np.broadcast_to(rng.integers(0, 256, (*shape[:2], 1, 1, 3), np.uint8), shape))


def _more(filters: int, k: int, channels: NDArray[np.int64], tile: int, rng: np.random.Generator) -> dict[str, Any]:
    places = [[y, x, y + 16, x + 16] for y in range(0, SIZE - 15, 16) for x in range(0, SIZE - 15, 16)]
    followed = (3, 4)
    carried = np.argsort(rng.random((filters, IMAGES)), 1)[:, :k]
    carried[1], carried[2, -3:] = -1, -1  # a filter that adds to no decision, and one that adds to six
    return {
        **ranges(filters),
        "filters": rng.integers(0, 256, (filters, 7, 7, 3), np.uint8),
        "evolution/epochs": np.array([1, 4, 16, 64]),
        "evolution/channels": channels[[1, 4, 6]],
        "evolution/values": rng.random(followed).astype(np.float32),
        "evolution/patches": rng.integers(0, 256, (*followed, tile, tile, 3), np.uint8),
        "evolution/projections": rng.integers(0, 256, (*followed, tile, tile, 3), np.uint8),
        "invariance/translation": rng.random(filters),
        "invariance/scale": np.append(np.nan, rng.random(filters - 1)),
        "occlusion/places": np.array(places),
        "occlusion/image": np.arange(filters) % IMAGES,
        "occlusion/values": rng.random((filters, len(places))).astype(np.float32),
        "off/classes": np.where(np.arange(3 * filters) % 5 == 4, -1, np.arange(3 * filters)).reshape(-1, 3),
        "relevance/images": carried,
        "relevance/shares": np.where(carried < 0, 0, -np.sort(-rng.random(carried.shape))).astype(np.float32),
        "relevance/patches": rng.integers(0, 256, (*carried.shape, 8, 8, 3), np.uint8),
        "off/before": rng.random((filters, 3)).astype(np.float32),
        "wanted": rng.integers(0, 256, (filters, 1, 2 * tile, 2 * tile, 3), np.uint8),
        "off/after": rng.random((filters, 3)).astype(np.float32) / 100,
    }


def ranges(filters: int) -> dict[str, Any]:
    """Nine images at quantiles of each filter's range and five weak ones; of the last filter three images in all."""
    rng = np.random.default_rng(7)
    images = np.argsort(rng.random((filters, IMAGES)), 1)[:, :14]
    values = np.sort(rng.random((filters, 14)).astype(np.float32) * 30, 1)
    quantiles = np.tile(np.linspace(0, 1, 9), (filters, 1))
    images[-1, 3:9], values[-1, 3:9], quantiles[-1] = -1, np.nan, [0, 0.5, 1, *[np.nan] * 6]
    images[-1, -2:], values[-1, -2:] = -1, np.nan
    values[0, 9:] = 0  # equally weak on all of these
    corners = rng.integers(0, SIZE - 16, (filters, 14, 2))
    windows = np.concatenate([corners, corners + 16], 2)
    windows[images < 0] = -1
    likeness = np.tile([0.6, 0.7], (filters, 1))
    likeness[1], likeness[2] = [0.1, 0.7], [np.nan, 0.7]
    counts = np.zeros((filters, BINS), np.int64)
    counts[:, [BINS // 2, BINS // 2 + 50, BINS // 2 + 57]] = [20, 1, 18]
    counts[3] = 0
    counts[3, BINS // 2] = IMAGES  # a dead filter
    return {
        "range/images": images,
        "range/values": values,
        "range/windows": windows,
        "range/quantiles": quantiles,
        "range/likeness": likeness,
        "range/counts": counts,
        "range/sampled": np.array([IMAGES]),
    }


def decisions(count: int = 12, methods: int = 3, targets: int = 5) -> Result:
    """Return a decisions file: the first `count` images; the last of them of unknown label."""
    rng = np.random.default_rng(1)
    names = [f"<output> {n}" for n in range(20)]
    probabilities = -np.sort(-rng.dirichlet(np.ones(targets), count), 1)
    outputs = np.argsort(rng.random((count, 20)), 1)[:, :targets]
    arrays = {
        "images": np.arange(count),
        "targets": outputs,
        "probabilities": probabilities,
        "label_output": np.where(np.arange(count) % 2, outputs[:, 0], outputs[:, -1]),
        "maps": rng.integers(0, 256, (count, methods, targets, 8, 8), np.uint8),
        "occlusion/probability": rng.random((count, targets, 4, 4)).astype(np.float32),
        "occlusion/square": np.array([16, 16]),
        "occlusion/places": np.array([[y, x, y + 16, x + 16] for y in range(0, 64, 16) for x in range(0, 64, 16)]),
    }
    arrays["label_output"][-1] = -1
    reasons = np.argsort(rng.random((count, targets, 73)), 2)[:, :, :6]  # features.7 shows 70 of its 73 channels
    shares = -np.sort(-rng.random(reasons.shape), 2) * [1, 1, 1, 1, 1, -1]
    reasons[:, 1, 2:], shares[:, 1, 2:] = -1, 0  # two channels speak for this target, and none against it
    reasons[0, 2], shares[0, 2] = -1, 0
    arrays |= {"because/channels": reasons, "because/shares": shares}
    for method, target in np.ndindex(methods, targets):
        arrays["maps"][0, method, target] = flat(method, target)
    config = {
        "model": "net",
        "model_fingerprint": "a" * 64,
        "images_fingerprint": "b" * 64,
        "layer": "features.7",
        "because": {"layer": LAYERS[2], "rule": "lrp-composite"},
        "methods": ["grad-cam", "score-cam", "<i>layer</i>-cam"][:methods],
        "outputs": names,
        "image_size": [SIZE, SIZE],
    }
    return Result("decisions", 1, config, {"command": "deconvviz atlas <net>"}, arrays)


def flat(method: int, target: int) -> int:
    """The one value of a map of the first image."""
    return 10 + 75 * method + 17 * target


def save_all(folder: pathlib.Path, large: int = 0) -> tuple[list[pathlib.Path], pathlib.Path]:
    """Write three galleries (and one of `large` filters) and the decisions; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    made = [
        gallery(LAYERS[0], 0, 8, more=True),
        gallery(LAYERS[1], 1, 5, seed=1),
        gallery(LAYERS[2], 2, 70, k=4, seed=2),
    ]
    if large:
        made.append(gallery("features.12", 3, large, tile=24, seed=3))
    paths = [folder / f"{n:02d}-layer.h5" for n in range(len(made))]
    for result, path in zip(made, paths, strict=True):
        result.save(path)
    decisions().save(folder / "decisions.h5")
    return paths, folder / "decisions.h5"
