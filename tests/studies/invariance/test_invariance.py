"""Figure 5: transforms land where they should, distances and scores equal loops of their definitions, curves tell."""

from __future__ import annotations

import csv
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.data.transforms import (
    KINDS,
    Canvas,
    canvas,
    canvas_of,
    checked_steps,
    default_steps,
    inverse_map,
    moving,
    rotation,
    scaling,
    translation,
)
from deconvviz.errors import CamError, CaptureError, DataError, DeconvvizError, LayerNotFound, MismatchError
from deconvviz.graph.choose import by_depth, first_and_last
from deconvviz.studies.invariance.command import invariance as command
from deconvviz.studies.invariance.figure import draw_depth, draw_invariance
from deconvviz.studies.invariance.measure import REFERENCES, invariance
from deconvviz.studies.invariance.result import Invariance, quarter_turns, strips, under_curve

SIZE = 24
PLAIN = dv.Preprocess(resize=None, crop=SIZE, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
Pixels = NDArray[np.uint8]


def noise(*shape: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


class Listed:
    """Pictures in memory, as the study's images."""

    fingerprint = "listed"

    def __init__(self, pictures: Sequence[Pixels], labels: Sequence[int] | None = None, classes: int = 4) -> None:
        self.pictures, self.classes = list(pictures), tuple(f"class {n}" for n in range(classes))
        self.labels = np.array([n % classes for n in range(len(pictures))] if labels is None else labels, np.int64)
        self.names = tuple(f"{n}.png" for n in range(len(pictures)))

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Pixels, int]:
        return self.pictures[index], int(self.labels[index])


# --- transforms ------------------------------------------------------------------------------------------------------


def blob(size: int, x: float, y: float, sigma: float = 7.0) -> Pixels:
    rows, columns = np.mgrid[:size, :size]
    height = 250 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
    return np.repeat(np.rint(height).astype(np.uint8)[..., None], 3, 2)


def centroid(picture: Pixels) -> tuple[float, float]:
    weights, (rows, columns) = picture[..., 0].astype(float), np.mgrid[: len(picture), : picture.shape[1]]
    return float((weights * columns).sum() / weights.sum()), float((weights * rows).sum() / weights.sum())


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("padding", [None, (0.0, 0.0, 0.0)])
def test_a_blob_lands_where_it_should(interpolation: str, padding: tuple[float, float, float] | None) -> None:
    """Independent of the maps: its centroid, in ordinary coordinates (y up) about the picture's centre."""
    size, middle = 128, 63.5
    picture = blob(size, 71, 56.5)
    assert centroid(picture) == pytest.approx((71, 56.5), abs=0.005)
    right, up = 71 - middle, middle - 56.5
    start = canvas(picture, padding)
    turned = (right + 1j * up) * np.exp(1j * np.radians(37))
    expected = {
        "moved": (translation(3.3, -5.6), (right + 3.3, up + 5.6)),
        "larger": (scaling(1.3), (1.3 * right, 1.3 * up)),
        "smaller": (scaling(0.6), (0.6 * right, 0.6 * up)),
        "turned": (rotation(37), (turned.real, turned.imag)),
        "turned, then moved": (rotation(37) @ translation(4, 2.5), (turned.real + 4, turned.imag - 2.5)),
    }
    if padding is None:
        del expected["smaller"]  # its mirror images come into view
    for name, (inverse, (a, b)) in expected.items():
        found = centroid(start.transformed(inverse, interpolation))
        assert found == pytest.approx((middle + a, middle - b), abs=0.01), name
    assert inverse_map("translate-y", 2).tolist() == translation(0, 2).tolist()
    assert inverse_map("translate-x", 2).tolist() == translation(2, 0).tolist()


@given(st.integers(1, 40), st.integers(0, 10**6), st.sampled_from(["bilinear", "bicubic"]), st.booleans())
@settings(max_examples=30, deadline=None)
def test_quarter_turns_are_permutations(size: int, seed: int, interpolation: str, filled: bool) -> None:
    picture = noise(size, size, seed=seed)
    turned = picture
    for quarters in range(1, 5):
        fill = (10.0, 20.0, 30.0) if filled else None
        turned = canvas(turned, fill).transformed(rotation(90), interpolation)
        assert np.array_equal(turned, np.rot90(picture, quarters))
        assert np.array_equal(canvas(picture, fill).transformed(rotation(90 * quarters - 360), interpolation), turned)
    assert np.array_equal(turned, picture)
    assert (
        rotation(90).tolist() == [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
        and rotation(-180).tolist() == np.diag([-1, -1, 1]).tolist()
    )


@given(st.tuples(st.integers(2, 20), st.integers(2, 20)), st.integers(-60, 60), st.integers(-60, 60))
@settings(max_examples=60, deadline=None)
def test_whole_pixels_are_exact(shape: tuple[int, int], dx: int, dy: int) -> None:
    """Against padding the picture by far and cutting it out; an interpolated map of the same shift gives the same."""
    picture, (h, w) = noise(*shape, seed=3), shape
    wide = np.pad(picture, ((60, 60), (60, 60), (0, 0)), mode="reflect")
    mirrored = canvas(picture).transformed(translation(dx, dy))
    assert np.array_equal(mirrored, wide[60 - dy : 60 - dy + h, 60 - dx : 60 - dx + w])
    filled = np.full((h + 120, w + 120, 3), (10, 20, 255), np.uint8)
    filled[60 : 60 + h, 60 : 60 + w] = picture
    found = canvas(picture, (10.2, 19.6, 255)).transformed(translation(dx, dy))
    assert np.array_equal(found, filled[60 - dy : 60 - dy + h, 60 - dx : 60 - dx + w])
    almost = canvas(picture).transformed(translation(dx + 1e-5, dy - 1e-5)).astype(int)
    assert np.abs(almost - mirrored).max() <= 1


def replica(picture: Pixels, inverse: NDArray[np.float64], fill: Sequence[float] | None) -> NDArray[np.float64]:
    """Bilinear sampling from its definition, pixel by pixel, in float64."""
    h, w = picture.shape[:2]
    wide = np.pad(picture.astype(float), ((h, h), (w, w), (0, 0)), mode="reflect")
    if fill is not None:
        wide = np.full((3 * h, 3 * w, 3), fill, float)
        wide[h : 2 * h, w : 2 * w] = picture
    out = np.zeros(picture.shape)
    for i in range(h):
        for j in range(w):
            x, y, _ = inverse @ [j - (w - 1) / 2, i - (h - 1) / 2, 1]
            x, y = x + (w - 1) / 2 + w, y + (h - 1) / 2 + h
            a, b = int(np.floor(x)), int(np.floor(y))
            u, v = x - a, y - b
            above = (1 - u) * wide[b, a] + u * wide[b, a + 1]
            below = (1 - u) * wide[b + 1, a] + u * wide[b + 1, a + 1]
            out[i, j] = (1 - v) * above + v * below
    return out


@pytest.mark.parametrize("fill", [None, (100.0, 50.0, 200.0)])
@pytest.mark.parametrize(
    "inverse", [rotation(33), scaling(1.37), translation(2.25, -3.7), rotation(200) @ scaling(1.1)]
)
def test_bilinear_is_what_it_says(inverse: NDArray[np.float64], fill: tuple[float, float, float] | None) -> None:
    picture = noise(21, 26, seed=8)
    found = canvas(picture, fill).transformed(inverse)
    assert np.abs(found - replica(picture, inverse, fill)).max() <= 0.502  # rounded to the nearest, computed in float32


def test_shrinking_does_not_alias() -> None:
    """A board of single pixels becomes grey; a smooth picture stays what it is."""
    board = np.repeat(((np.indices((64, 64)).sum(0) % 2) * 255).astype(np.uint8)[..., None], 3, 2)
    small = canvas(board).transformed(scaling(1 / 3)).astype(float)  # every third pixel would be a board again
    assert small.std() < 5 and abs(small.mean() - 127.5) < 1
    shrunk = canvas(blob(63, 31, 31, sigma=2.0)).transformed(scaling(1 / 3))[16:47, 16:47, 0].astype(float)
    spread = (shrunk.sum(0) * (np.arange(31) - 15.0) ** 2).sum() / shrunk.sum()
    assert spread == pytest.approx((2.0**2 + 1) / 9, rel=0.05)  # blurred by a sigma of (3 - 1) / 2, then a third
    ramp = np.repeat(np.repeat(np.arange(64, dtype=np.uint8)[None] * 3, 64, 0)[..., None], 3, 2)
    middle = canvas(ramp, (90, 90, 90)).transformed(scaling(0.6))[30, 16:48, 0]
    assert np.abs(middle - 3 * (31.5 + (np.arange(16, 48) - 31.5) / 0.6)).max() <= 1


def test_paddings() -> None:
    """reflect mirrors, mean shows the mean colour, border the photo itself and mirrors beyond it."""
    photo, pre = noise(92, 61, seed=4), dv.Preprocess(resize=50, crop=(40, 32), mean=(0.1, 0.5, 0.9))
    resized = np.asarray(Image.fromarray(photo).resize((50, 75), Image.Resampling.BILINEAR))
    top, left = round((75 - 40) / 2), round((50 - 32) / 2)
    picture = pre.picture(photo)
    assert np.array_equal(picture, resized[top : top + 40, left : left + 32])
    for padding in ("reflect", "mean", "border"):
        made = canvas_of(photo, pre, padding)
        for kind, step in (("translate-x", 0), ("translate-y", 0.0), ("scale", 1), ("rotation", 0), ("rotation", 360)):
            assert np.array_equal(made.transformed(inverse_map(kind, step)), picture), (padding, kind)
        assert np.array_equal(made.transformed(translation(4, 0))[:, 4:], picture[:, :-4]), padding
    moved = {padding: canvas_of(photo, pre, padding).transformed(translation(7, 12)) for padding in ("mean", "border")}
    assert (moved["mean"][:12] == [26, 128, 230]).all() and (moved["mean"][:, :7] == [26, 128, 230]).all()
    assert np.array_equal(moved["border"], resized[top - 12 : top + 28, left - 7 : left + 25])
    beyond = canvas_of(photo, pre, "border").transformed(translation(0, 22))
    assert np.array_equal(beyond[4:], resized[:36, left : left + 32])
    assert np.array_equal(beyond[:4], resized[4:0:-1, left : left + 32])
    half = canvas_of(photo, pre, "border").transformed(translation(-0.5, 0)).astype(float)
    between = (
        resized[top : top + 40, left : left + 32].astype(float) + resized[top : top + 40, left + 1 : left + 33]
    ) / 2
    assert np.abs(half - between).max() <= 0.5
    grey = dv.Preprocess(resize=50, crop=32, mean=(0.2,), std=(1.0,))
    assert canvas_of(photo, grey, "mean").transformed(translation(40, 0))[0, 0].tolist() == [51, 51, 51]


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (
            lambda: canvas_of(noise(9, 9), PLAIN, "zeros"),
            "padding 'zeros' given; expected one of reflect, mean, border",
        ),
        (lambda: canvas_of(noise(9, 9), PLAIN, "border"), "9 x 9 has no border around a crop of 24 x 24"),
        (lambda: canvas(noise(9, 9)[..., 0]), r"expected a picture as uint8 \[h,w,3\], got uint8 \[9, 9\]"),
        (lambda: canvas(noise(9, 9), (1, 2)), r"fill \(1, 2\) given"),
        (lambda: canvas(noise(9, 9)).transformed(rotation(3), "cubic"), "interpolation 'cubic' given"),
        (lambda: scaling(0.01), "scale 0.01 given; expected 0.1 to 10"),
        (lambda: inverse_map("rotate", 3), "no transform 'rotate'; nearest: .*rotation"),
        (lambda: inverse_map("rotation", float("nan")), "expected a finite number"),
    ],
)
def test_wrong_transforms(call: Any, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint) as error:
        call()
    assert "\n" not in str(error.value)


def test_default_steps_are_the_papers() -> None:
    assert default_steps("translate-y", 224, 200).tolist() == list(range(-60, 61, 5))
    assert default_steps("translate-x", 200, 224).tolist() == list(range(-60, 61, 5))
    assert default_steps("translate-y", 64, 224).tolist() == list(range(-17, 18))
    assert default_steps("scale", 9, 9) == pytest.approx([1 + n / 20 for n in range(17)])
    assert default_steps("rotation", 9, 9).tolist() == list(range(0, 351, 10))
    steps = checked_steps(("scale", "rotation"), {"scale": [1.5, 0.5, 1, 1.5]}, (3, 9, 9))
    assert list(steps) == ["scale", "rotation"] and steps["scale"].tolist() == [0.5, 1, 1.5]
    assert moving("scale", steps["scale"]).tolist() == [True, False, True]
    assert moving("rotation", np.array([-360.0, 0, 90, 360])).tolist() == [False, False, True, False]


# --- the study -------------------------------------------------------------------------------------------------------


def small() -> nn.Sequential:
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(5, 6, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(3),
        nn.Flatten(),
        nn.Linear(54, 4),
    )
    with torch.no_grad():
        model[7].weight.mul_(20)
    return model.double().eval()


def smooth(count: int) -> list[Pixels]:
    return [
        np.asarray(Image.fromarray(noise(6, 6, seed=n)).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
        for n in range(count)
    ]


STEPS = {"translate-y": [-4.5, 0, 3], "translate-x": [2], "scale": [0.8, 1, 1.4], "rotation": [0, 40, 90, 200]}


@pytest.fixture(scope="module")
def run() -> tuple[nn.Sequential, Listed, Invariance]:
    model, images = small(), Listed(smooth(14))
    found = invariance(
        dv.capture(model, (3, SIZE, SIZE)),
        images,
        ["1", "4"],
        preprocess=PLAIN,
        steps=STEPS,
        batch_size=7,
        which=[n for n in range(14) if n != 1],
        outputs=np.array([3, 1, 0, 2]),
        units=["4"],
        progress=False,
    )
    return model, images, found


def features(model: nn.Sequential, picture: Pixels) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.from_numpy(picture.astype(np.float64)).permute(2, 0, 1)[None] / 255
    x = (x - x.new_tensor(PLAIN.mean).view(3, 1, 1)) / x.new_tensor(PLAIN.std).view(3, 1, 1)
    with torch.no_grad():
        return model[:2](x)[0], model[:5](x)[0], torch.softmax(model(x), 1)[0]


def test_it_equals_a_loop_over_its_definition(run: tuple[nn.Sequential, Listed, Invariance]) -> None:
    """13 images, more than are kept for chance: one picture at a time, plain torch modules in float64."""
    model, images, found = run
    which, outputs = found.config["which"], [3, 1, 0, 2]
    base = [features(model, images.pictures[i]) for i in which]
    assert found.images[1] == "2.png" and found.targets.tolist() == [outputs[i % 4] for i in which]
    near = {"abs": 1e-6, "rel": 1e-6}  # pictures become float32 on their way
    for n in range(len(which)):
        assert found.untouched[n] == pytest.approx(float(base[n][2][found.targets[n]]), **near)
        for m in (0, 1):
            others = [float((base[r][m] - base[n][m]).pow(2).sum().sqrt()) for r in range(REFERENCES) if r != n]
            assert found.apart[n, m] == pytest.approx(np.mean(others), **near)
            assert found.norms[n, m] == pytest.approx(float(base[n][m].pow(2).sum().sqrt()), **near)
    for kind, steps in STEPS.items():
        moved, spread = np.zeros((len(which), 2)), np.zeros((len(which), 6))
        count = sum(not (kind == "scale" and step == 1) and not (kind != "scale" and step == 0) for step in steps)
        for n, i in enumerate(which):
            for t, step in enumerate(steps):
                seen = features(model, canvas(images.pictures[i]).transformed(inverse_map(kind, step)))
                for m in (0, 1):
                    far = float((seen[m] - base[n][m]).pow(2).sum().sqrt())
                    norm = float(base[n][m].pow(2).sum().sqrt())
                    assert found.distance(kind)[n, t, m] == pytest.approx(far / norm, **near)
                    assert found.relative(kind)[n, t, m] == pytest.approx(far / found.apart[:, m].mean(), **near)
                    moved[n, m] += far / count
                p = float(seen[2][found.targets[n]])
                assert found.probability[kind][n, t] == pytest.approx(p, **near)
                spread[n] += (seen[1].amax((1, 2)) - base[n][1].amax((1, 2))).abs().numpy() / count
        score = [min(max(1 - moved[:, m].mean() / found.apart[:, m].mean(), 0), 1) for m in (0, 1)]
        assert [one.score for one in found.scores(kind)] == pytest.approx(score, **near)
        tops = [b[1].amax((1, 2)).numpy() for b in base]
        apart = np.array(
            [np.mean([np.abs(tops[r] - tops[n]) for r in range(REFERENCES) if r != n], 0) for n in range(len(which))]
        ).mean(0)
        row = found.per_unit("4")[list(STEPS).index(kind)]
        assert row == pytest.approx(np.clip(1 - spread.mean(0) / apart, 0, 1), **near)
    assert (found.distance("scale")[:, 1] == 0).all() and (found.probability["scale"][:, 1] == found.untouched).all()


def test_one_pass_whatever_the_batches(
    run: tuple[nn.Sequential, Listed, Invariance], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every picture passes the network once, for all layers, units and the output together."""
    model, images, found = run
    passed, whole = [], dv.Network.run
    monkeypatch.setattr(dv.Network, "run", lambda *a: (passed.append(a[3]), whole(*a))[1])
    again = invariance(
        dv.capture(model, (3, SIZE, SIZE)),
        images,
        ["1", "4"],
        preprocess=PLAIN,
        steps=STEPS,
        batch_size=64,
        which=found.config["which"],
        outputs=np.array([3, 1, 0, 2]),
        units=["4"],
        progress=False,
    )
    assert sum(passed) == 13 * (1 + 2 + 1 + 2 + 3) and max(passed) == 64
    assert again.config == found.config
    for kind in STEPS:
        assert again.moved[kind] == pytest.approx(found.moved[kind], abs=1e-9)
        assert again.units["4"].moved[kind] == pytest.approx(found.units["4"].moved[kind], abs=1e-9)


def test_in_float32_a_network_runs_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """BatchNorm folded and all; its own top class is followed, and the numbers are those of the plain model."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 22 * 22, 4))
    nn.init.uniform_(model[1].running_var, 0.5, 2)  # type: ignore[arg-type]
    network, images = dv.capture(model.eval(), (3, SIZE, SIZE)), Listed(smooth(2))
    assert by_depth(network) == ("2", "4") and first_and_last(network) == ("2",)
    forms, whole = [], dv.Network.run
    monkeypatch.setattr(dv.Network, "run", lambda *a: (forms.append(a[0].precision), whole(*a))[1])
    found = invariance(
        network, images, ["0", "2"], preprocess=PLAIN, kinds=["rotation"], steps={"rotation": [30]}, progress=False
    )
    assert set(forms) == {"fp32"}
    pictures = np.stack([*images.pictures, *(canvas(p).transformed(rotation(30)) for p in images.pictures)])
    x = PLAIN.tensor(pictures)
    with torch.no_grad():
        for m, part in enumerate((model[:1], model[:3])):
            value = part(x).flatten(1)
            expected = ((value[2:] - value[:2]).norm(dim=1) / value[:2].norm(dim=1)).numpy()
            assert found.distance("rotation")[:, 0, m] == pytest.approx(expected, rel=1e-4)
        shares = torch.softmax(model(x), 1)
    assert found.targets.tolist() == shares[:2].argmax(1).tolist()
    assert found.probability["rotation"][:, 0] == pytest.approx(
        [float(shares[2 + n, found.targets[n]]) for n in (0, 1)], abs=1e-5
    )


def block(row: int, column: int, brightness: int = 255) -> Pixels:
    picture = np.zeros((SIZE, SIZE, 3), np.uint8)
    picture[row : row + 4, column : column + 4] = brightness
    return picture


BLACK = dv.Preprocess(resize=None, crop=SIZE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def test_a_position_scores_0_and_a_pooled_value_1() -> None:
    """Blocks that are moved to where no other block is: the pixels' map is as far away as another image's."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 3, 1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)
    )
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(3).view(3, 3, 1, 1))
    network = dv.capture(model.double(), (3, SIZE, SIZE))
    asked: dict[str, Any] = {"preprocess": BLACK, "padding": "mean", "progress": False}
    places = Listed([block(4, column) for column in (0, 10, 20)])
    steps = {"translate-y": [-4, 5, 8, 12, 16], "translate-x": [-10, 0, 10]}
    found = invariance(
        network, places, ["1"], kinds=["translate-y"], steps={"translate-y": steps["translate-y"]}, **asked
    )
    score = found.scores("translate-y")[0]
    assert (score.score, score.low, score.high) == pytest.approx((0, 0, 0), abs=1e-6)
    assert score.area == pytest.approx(2**0.5, abs=1e-6) and found.relative("translate-y") == pytest.approx(1)
    lights = Listed([block(8, 8, brightness) for brightness in (60, 120, 180, 240)])
    steps["translate-y"] = [-8, -3, 0, 5, 12]
    found = invariance(
        network,
        lights,
        ["1", "2"],
        kinds=["translate-y", "translate-x"],
        steps={**steps, "translate-x": [-8, 0, 12]},
        units=["1"],
        **asked,
    )
    for kind in found.steps:
        map_, pooled = found.scores(kind)
        assert pooled.score == pytest.approx(1, abs=1e-9) and pooled.low == pytest.approx(1, abs=1e-9)
        assert map_.score < 0.05
    assert found.per_unit("1") == pytest.approx(np.ones((2, 3)))  # the same map by its maximum: still found, elsewhere
    assert "score (95 % interval)" in repr(found) and "2 1.00 (1.00 to 1.00)" in repr(found)


def filled(moved: NDArray[np.float64], apart: NDArray[np.float64], norms: Any = 1.0) -> Invariance:
    """A result of one kind and one step, [N, L]."""
    images, layers = moved.shape
    found = Invariance.blank(
        {}, [f"layer {n}" for n in range(layers)], [str(n) for n in range(images)], {"scale": np.array([2.0])}, {"u": 3}
    )
    found.moved["scale"][:, 0], found.apart[:], found.norms[:] = moved, apart, norms
    return found


def test_intervals_are_a_bootstrap_over_images() -> None:
    rng = np.random.default_rng(5)
    moved, apart = rng.uniform(0.1, 0.6, (12, 3)), rng.uniform(0.8, 1.2, (12, 3))
    apart[:, 2] = 2 * moved[:, 2]  # images differ, their ratio does not
    found = filled(moved, apart)
    scores = found.scores("scale")
    for m, one in enumerate(scores):
        assert one.score == pytest.approx(1 - moved[:, m].mean() / apart[:, m].mean())
        drawn = []
        for _ in range(4000):
            some = rng.integers(0, 12, 12)
            drawn.append(1 - moved[some, m].mean() / apart[some, m].mean())
        assert (one.low, one.high) == pytest.approx(np.percentile(drawn, (2.5, 97.5)), abs=0.012)
    assert scores[2].low == pytest.approx(0.5) == scores[2].high and scores[0].high - scores[0].low > 0.1
    assert found.scores("scale") == scores and found.scores("scale", seed=1) != scores
    assert [one.depth for one in scores] == [1, 2, 3]


def test_nothing_to_divide_by() -> None:
    found = filled(np.array([[0.0, 1, 0, 3]]), np.array([[0.0, 0, 1, 1]]), np.array([[0.0, 0, 0, 2]]))
    assert found.distance("scale")[0, 0].tolist() == pytest.approx([0, np.nan, 0, 1.5], nan_ok=True)
    assert [one.score for one in found.scores("scale")] == pytest.approx([np.nan, 0, 1, 0], nan_ok=True)
    found.units["u"].moved["scale"][:], found.units["u"].apart[:] = [[0, 0.5, 0.1]], [[0, 1, 1]]
    assert found.per_unit("u")[0].tolist() == pytest.approx([np.nan, 0.5, 0.9], nan_ok=True)
    most, least = found.ranked("u", "scale", 2)
    assert most.tolist() == [2, 1] and least.tolist() == [1, 2]
    alone = invariance(
        dv.capture(small(), (3, SIZE, SIZE)), Listed(smooth(1)), preprocess=PLAIN, kinds=["scale"], progress=False
    )
    assert all(np.isnan([s.score, s.low, s.high]).all() and s.area > 0 for s in alone.scores("scale"))
    assert "scale 1 to 1.8: 1 none, 5 none; P " in repr(alone)


def test_curves() -> None:
    """Areas of uneven steps in closed form; peaks at quarter turns are found, and a curve without them has none."""
    steps = np.array([-2.0, 0, 1, 4])
    assert under_curve(steps, np.array([[0, 2, 2, 2], steps])) == pytest.approx([(2 + 2 + 6) / 6, 1.0])
    assert under_curve(steps[:1], np.array([7.0])) == 7
    angles = np.arange(0, 360, 5.0)
    from_quarter = np.abs((angles + 45) % 90 - 45)
    planted = 0.2 + 0.6 * (from_quarter <= 5)
    assert quarter_turns(angles, planted) == pytest.approx(0.6)
    once = np.where(np.abs(angles - 180) <= 5, 0.9, 0.0)
    assert quarter_turns(angles, np.stack([planted, once, -planted])) == pytest.approx([0.6, 0.3, -0.6])
    fallen = np.abs(angles - 180) / 180  # falls, and rises again, with no peak: 180 is its lowest
    assert quarter_turns(angles, np.stack([np.ones(72), fallen])) == pytest.approx(
        [0, (5 / 180 * 6 / 11 - 45 / 180) / 3], abs=0.02
    )
    smooth_fall = 0.5 + 0.5 * np.cos(np.radians(angles))
    assert abs(quarter_turns(angles, smooth_fall)) < 0.06
    assert np.isnan(quarter_turns(np.array([0, 90, 180, 270.0]), np.ones(4)))
    assert np.isnan(quarter_turns(np.array([45, 90, 135, 180, 225, 315.0]), np.ones(6)))
    found = Invariance.blank({}, ["a", "b"], ["x", "y"], {"rotation": angles}, {})
    found.probability["rotation"][1], found.apart[:] = planted, [[1, 2], [3, 2]]
    found.moved["rotation"][0, :, 1] = 1 - planted
    assert found.symmetry() == pytest.approx([0, 0.6]) and found.symmetry("b") == pytest.approx([0.3, 0])
    with pytest.raises(LayerNotFound, match="layer 'c' was not measured"):
        found.symmetry("c")
    with pytest.raises(LayerNotFound, match="no filters of 'a' were measured"):
        found.per_unit("a")


class Skip(nn.Module):
    """A convolution whose value passes its ReLU by."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.fc = nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Linear(48, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        out: Tensor = self.fc((x + self.relu(x)).flatten(1))
        return out


def test_layers_by_depth() -> None:
    assert by_depth(dv.capture(Skip(), (3, 4, 4))) == ("conv", "fc")
    loaded = dv.load_model("zfnet", "none")
    network = dv.capture(loaded.model, (3, 224, 224))
    assert by_depth(network) == (*(f"relu{n}" for n in range(1, 8)), "fc8")
    assert first_and_last(network) == ("relu1", "relu7")
    squeezed = dv.capture(torchvision.models.squeezenet1_0().eval(), (3, 64, 64))
    assert first_and_last(squeezed) == ("features.1", "features.12") and len(by_depth(squeezed)) == 26
    residual = dv.capture(torchvision.models.resnet18().eval(), (3, 64, 64))
    assert first_and_last(residual) == ("relu", "avgpool")
    assert by_depth(residual)[:3] == ("relu", "layer1.0.relu", "layer1.0.bn2") and len(by_depth(residual)) == 21
    with pytest.raises(CamError, match="no convolution or linear layer"):
        first_and_last(dv.capture(nn.Sequential(nn.ReLU(), nn.Flatten()), (3, 4, 4)))


@pytest.mark.parametrize(
    ("change", "kind", "complaint"),
    [
        ({"layers": ["1", "9"]}, LayerNotFound, "no layer '9'"),
        ({"units": ["44"]}, LayerNotFound, "no layer '44'"),
        ({"kinds": ["shear"]}, DataError, "no transform 'shear'"),
        ({"kinds": ["scale"], "steps": {"rotation": [3]}}, DataError, "which is not among the kinds"),
        ({"steps": {"translate-y": [0, 24]}}, DataError, "translate-y by 24 given; expected -23 to 23"),
        ({"steps": {"rotation": [-400]}}, DataError, "rotation by -400 given; expected -360 to 360"),
        ({"steps": {"scale": [20]}}, DataError, "scale 20 given; expected 0.1 to 10"),
        ({"steps": {"scale": [1]}}, DataError, r"steps \[1.0\] of scale move nothing"),
        ({"steps": {"scale": []}}, DataError, "move nothing"),
        ({"steps": {"translate-x": [float("inf")]}}, DataError, "expected a finite number"),
        ({"which": [0, 3]}, DataError, "image 3 given; there are 0 to 2"),
        ({"which": [-1]}, DataError, "image -1 given"),
        ({"which": []}, DataError, "at least one"),
        ({"which": [1, 1]}, DataError, "each another"),
        ({"outputs": np.arange(1)}, DataError, "image 1.png has the label 1, outputs stand for 0 to 0"),
        ({"outputs": np.arange(4) + 9}, DataError, "output 9 given for the label 0; the network has 0 to 3"),
        ({"images": Listed(smooth(2), [0, -1]), "outputs": np.arange(4)}, DataError, "1.png has the label -1"),
        ({"padding": "wrap"}, DataError, "padding 'wrap'"),
        ({"interpolation": "nearest"}, DataError, "interpolation 'nearest'"),
        ({"preprocess": dv.Preprocess(resize=None, crop=16)}, MismatchError, r"\(3, 16, 16\) do not fit"),
        ({"network": dv.capture(nn.Conv2d(3, 2, 3), (3, SIZE, SIZE))}, CaptureError, "expected one score"),
    ],
)
def test_wrong_input(change: dict[str, Any], kind: type[DeconvvizError], complaint: str) -> None:
    asked = {"network": dv.capture(small(), (3, SIZE, SIZE)), "images": Listed(smooth(3)), "layers": None}
    asked |= {"preprocess": PLAIN, "progress": False, **change}
    with pytest.raises(kind, match=complaint) as error:
        invariance(**asked)
    assert "\n" not in str(error.value)


# --- figures and the command -----------------------------------------------------------------------------------------


def test_figures_show_what_was_found(run: tuple[nn.Sequential, Listed, Invariance]) -> None:
    _, images, found = run
    shown = strips(found, images, PLAIN, rows=2, across=2)  # type: ignore[arg-type]
    steps, pictures = shown["rotation"]
    assert steps.tolist() == [0, 200] and pictures.shape == (2, 2, SIZE, SIZE, 3)
    assert np.array_equal(pictures[1, 1], canvas(images.pictures[2]).transformed(rotation(200)))
    figure = draw_invariance(found, shown, ["4"], [f"image {n}" for n in range(13)], "title", "caption")
    assert len(figure.axes) == 4 * 3  # a strip, one layer and the probability for each kind
    last = figure.axes[-1].lines
    assert np.array_equal(last[2].get_ydata(), found.probability["rotation"][2]) and len(last) == 14
    assert last[13].get_ydata() == pytest.approx(found.probability["rotation"].mean(0))
    depth = draw_depth({kind: found.scores(kind) for kind in found.steps}, "title", "caption")
    axes = depth.axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "4"]
    assert list(axes.containers[1].lines[0].get_ydata()) == [s.score for s in found.scores("translate-x")]


def deconvviz(*arguments: object) -> str:
    result = CliRunner().invoke(command, [*map(str, arguments), "--device", "cpu", "--quiet"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command(tmp_path: pathlib.Path) -> None:
    text = deconvviz(
        "demo",
        "scenes:9:3",
        "--images",
        "1,4,6",
        "-o",
        tmp_path / "f.png",
        "--steps",
        "scale=0.5:2:0.5",
        "--kinds",
        "scale, rotation",
        "--step",
        "rotation=45",
        "--depth",
        "--units",
        "relu5",
        "--top",
        2,
        "--padding",
        "mean",
    )
    loaded = dv.load_model("demo")
    pre = dv.Preprocess.from_dict(loaded.settings)
    steps = {"scale": [0.5, 1, 1.5, 2], "rotation": [0, 45, 90, 135, 180, 225, 270, 315]}
    found = invariance(
        dv.capture(loaded.model, (3, 64, 64)),
        dv.Scenes(9, seed=3),
        "all",
        preprocess=pre,
        steps=steps,
        padding="mean",
        kinds=("scale", "rotation"),
        which=[1, 4, 6],
        outputs=np.arange(10),
        units=["relu5"],
        progress=False,
    )
    with (tmp_path / "f.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 8 * (4 + 8)
    row = next(
        r for r in rows if (r["kind"], r["step"], r["layer"]) == ("rotation", "135", "relu3") and "4-" in r["image"]
    )
    assert row["image"] == found.images[1] and int(row["output"]) == found.targets[1] == dv.Scenes(9, seed=3).labels[4]
    assert float(row["distance"]) == pytest.approx(found.distance("rotation")[1, 3, 2], rel=1e-4)
    assert float(row["relative_distance"]) == pytest.approx(found.relative("rotation")[1, 3, 2], rel=1e-4)
    assert float(row["probability"]) == pytest.approx(found.probability["rotation"][1, 3], abs=1e-4)
    with (tmp_path / "f.depth.csv").open() as file:
        scored = list(csv.DictReader(file))
    told = found.scores("rotation")[4]
    assert scored[12]["layer"] == "relu5" and scored[12]["depth"] == "5"
    for name, value in (("score", told.score), ("low", told.low), ("high", told.high), ("mean_distance", told.area)):
        assert float(scored[12][name]) == pytest.approx(value, rel=1e-3, abs=1e-5)
    with (tmp_path / "f.units.csv").open() as file:
        filters = list(csv.DictReader(file))
    assert len(filters) == 51 and float(filters[7]["rotation"]) == pytest.approx(
        found.per_unit("relu5")[1, 7], abs=1e-4
    )
    for name in ("f.png", "f.depth.png"):
        with Image.open(tmp_path / name) as figure:
            assert figure.width > 900
    best = found.ranked("relu5", "scale", 2)[0]
    assert f"relu5 under scale: most invariant filters {best[0]} (" in text and "Invariance(3 images, 8 layers)" in text
    assert "P(class) at 90, 180 and 270 degrees against in between: " in text


def test_labels_on_the_command_line(tmp_path: pathlib.Path) -> None:
    """Named outputs, labels that no output stands for, and none."""
    names, few = [f"c{n}" for n in range(10)], ["--kinds", "scale", "--steps", "scale=2", "-o", tmp_path / "f.png"]
    (tmp_path / "names.txt").write_text("\n".join(names))
    for place, folder in enumerate(("c7", "c2")):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        Image.fromarray(dv.Scenes(4, seed=place)[0][0]).save(tmp_path / "photos" / folder / "a.png")
    text = deconvviz("demo", tmp_path / "photos", *few, "--classes", tmp_path / "names.txt")
    with (tmp_path / "f.csv").open() as file:
        assert {row["image"][:2]: row["output"] for row in csv.DictReader(file)} == {"c2": "2", "c7": "7"}
    assert "note" not in text
    assert "note: each image's own top class" in deconvviz("demo", tmp_path / "photos", *few)
    (tmp_path / "others.txt").write_text("\n".join(f"d{n}" for n in range(10)))
    with pytest.raises(DataError, match="the names do not tell"):
        deconvviz("demo", tmp_path / "photos", *few, "--classes", tmp_path / "others.txt")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (["--steps", "zoom=1,2"], "'zoom=1,2' given; expected KIND=FROM:TO:STEP"),
        (["--steps", "scale"], "'scale' given; expected KIND="),
        (["--steps", "scale=1:2"], "steps 'scale=1:2' given"),
        (["--steps", "scale=1:2:0"], "expected one positive step"),
        (["--steps", "scale=1:2:x"], "'x' given; expected numbers"),
        (["--step", "scale=-1"], "expected one positive step"),
        (["--step", "scale=0.0000001"], "at most 4096"),
        (["--steps", "translate-y=80"], "translate-y by 80 given; expected -63 to 63"),
        (["--kinds", "turn"], "no transform 'turn'"),
        (["--images", "1,9"], "image 9 given; there are 0 to 8"),
        (["-l", "relu55"], "no layer 'relu55'.*nearest: relu5"),
        (["--units", "relu9"], "no layer 'relu9'"),
        (["-o", "f.gif"], "ends in .png"),
    ],
)
def test_wrong_arguments(change: list[str], complaint: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(DeconvvizError, match=complaint) as error:
        deconvviz("demo", "scenes:9:3", "-o", tmp_path / "f.png", *change)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_steps_of_the_command() -> None:
    from deconvviz.studies.invariance.command import _steps

    shape = (3, 224, 224)
    assert _steps([], ["translate-y=25"], shape) == {"translate-y": [-50, -25, 0, 25, 50]}
    assert _steps([], ["translate-x=7"], shape)["translate-x"][0] == -56
    assert _steps([], ["scale=0.3", "rotation=90"], shape) == {"scale": [1, 1.3, 1.6], "rotation": [0, 90, 180, 270]}
    assert _steps(["scale=0.5:1.1:0.1"], [], shape)["scale"] == [0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1]
    assert _steps(["rotation=5,-3"], ["rotation=90"], shape) == {"rotation": [5, -3]}
    assert tuple(KINDS) == ("translate-y", "translate-x", "scale", "rotation") and Canvas is not None
