"""Figure 5: distances and scores equal loops of their definitions, and their curves tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from in_memory import Picture, noise
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.data.memory import InMemoryImages
from deconvviz.data.transforms import (
    canvas,
    inverse_map,
    rotation,
)
from deconvviz.errors import CaptureError, DataError, DeconvvizError, LayerNotFound
from deconvviz.figures.page import Page
from deconvviz.graph.choose import by_depth, first_and_last
from deconvviz.studies.invariance.figure import draw_depth, draw_invariance
from deconvviz.studies.invariance.measure import REFERENCES, example_strips, invariance
from deconvviz.studies.invariance.result import Invariance, quarter_turns, under_curve

SIZE = 24
PLAIN = dv.Preprocess(resize=None, crop=SIZE, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))


def listed(pictures: Sequence[Picture], labels: Sequence[int] | None = None) -> InMemoryImages:
    """Pictures of four classes, which take turns where no labels are given."""
    given = [n % 4 for n in range(len(pictures))] if labels is None else labels
    names = [f"{n}.png" for n in range(len(pictures))]
    return InMemoryImages(pictures, given, [f"class {n}" for n in range(4)], names)


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


def smooth(count: int) -> list[Picture]:
    return [
        np.asarray(Image.fromarray(noise(6, 6, seed=n)).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
        for n in range(count)
    ]


STEPS: dict[str, list[float]] = {
    "translate-y": [-4.5, 0, 3],
    "translate-x": [2],
    "scale": [0.8, 1, 1.4],
    "rotation": [0, 40, 90, 200],
}


@pytest.fixture(scope="module")
def run() -> tuple[nn.Sequential, InMemoryImages, Invariance]:
    model, images = small(), listed(smooth(14))
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


def features(model: nn.Sequential, picture: Picture) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.from_numpy(picture.astype(np.float64)).permute(2, 0, 1)[None] / 255
    x = (x - x.new_tensor(PLAIN.mean).view(3, 1, 1)) / x.new_tensor(PLAIN.std).view(3, 1, 1)
    with torch.no_grad():
        return model[:2](x)[0], model[:5](x)[0], torch.softmax(model(x), 1)[0]


def test_it_equals_a_loop_over_its_definition(run: tuple[nn.Sequential, InMemoryImages, Invariance]) -> None:
    """13 images, more than are kept for chance: one picture at a time, plain torch modules in float64."""
    model, images, found = run
    which, outputs = found.config["which"], [3, 1, 0, 2]
    base = [features(model, images.pictures[i]) for i in which]
    assert found.images[1] == "2.png" and found.targets.tolist() == [outputs[i % 4] for i in which]
    near: dict[str, Any] = {"abs": 1e-6, "rel": 1e-6}  # pictures become float32 on their way
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
    run: tuple[nn.Sequential, InMemoryImages, Invariance], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every picture passes the network once, for all layers, units and the output together."""
    model, images, found = run
    network = dv.capture(model, (3, SIZE, SIZE))
    passed, whole = [], dv.Network.run
    monkeypatch.setattr(dv.Network, "run", lambda *a: (passed.append(a[3]), whole(*a))[1])
    again = invariance(
        network,
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
    network, images = dv.capture(model.eval(), (3, SIZE, SIZE)), listed(smooth(2))
    assert by_depth(network) == ("2", "4") and first_and_last(network) == ("2",)
    forms, whole = [], dv.Network.run
    monkeypatch.setattr(dv.Network, "run", lambda *a: (forms.append(a[0].precision), whole(*a))[1])
    found = invariance(
        network, images, ["0", "2"], preprocess=PLAIN, kinds=["rotation"], steps={"rotation": [30]}, progress=False
    )
    assert set(forms) == {"fp32"}
    forms.clear()
    asked: dict[str, Any] = {"preprocess": PLAIN, "kinds": ["rotation"], "steps": {"rotation": [30]}, "progress": False}
    half = invariance(network, images, ["0", "2"], precision="bf16", **asked)
    assert set(forms) == {"bf16"} and half.config["precision"] == "bf16"
    assert half.distance("rotation") == pytest.approx(found.distance("rotation"), rel=0.02)
    assert np.abs(half.distance("rotation") - found.distance("rotation")).max() > 1e-6
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


def block(row: int, column: int, brightness: int = 255) -> Picture:
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
    places = listed([block(4, column) for column in (0, 10, 20)])
    steps = {"translate-y": [-4, 5, 8, 12, 16], "translate-x": [-10, 0, 10]}
    found = invariance(
        network, places, ["1"], kinds=["translate-y"], steps={"translate-y": steps["translate-y"]}, **asked
    )
    score = found.scores("translate-y")[0]
    assert (score.score, score.low, score.high) == pytest.approx((0, 0, 0), abs=1e-6)
    assert score.mean_distance == pytest.approx(2**0.5, abs=1e-6) and found.relative("translate-y") == pytest.approx(1)
    lights = listed([block(8, 8, brightness) for brightness in (60, 120, 180, 240)])
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
        config={},
        layers=[f"layer {n}" for n in range(layers)],
        images=[str(n) for n in range(images)],
        steps={"scale": np.array([2.0])},
        units={"u": 3},
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
        dv.capture(small(), (3, SIZE, SIZE)), listed(smooth(1)), preprocess=PLAIN, kinds=["scale"], progress=False
    )
    assert all(np.isnan([s.score, s.low, s.high]).all() and s.mean_distance > 0 for s in alone.scores("scale"))
    assert "scale 1 to 1.8: 1 none, 5 none; P " in repr(alone)
    assert "-&gt; " in alone._repr_html_() and "->" not in alone._repr_html_()


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
    found = Invariance.blank(config={}, layers=["a", "b"], images=["x", "y"], steps={"rotation": angles}, units={})
    found.probability["rotation"][1], found.apart[:] = planted, [[1, 2], [3, 2]]
    found.moved["rotation"][0, :, 1] = 1 - planted
    assert found.symmetry() == pytest.approx([0, 0.6]) and found.symmetry("b") == pytest.approx([0.3, 0])
    with pytest.raises(LayerNotFound, match="layer 'c' was not measured"):
        found.symmetry("c")
    with pytest.raises(LayerNotFound, match="no filters of 'a' were measured"):
        found.per_unit("a")


@pytest.mark.slow
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
        ({"which": [1, 1]}, DataError, "distinct ones"),
        ({"outputs": np.arange(1)}, DataError, "image 1.png has the label 1, outputs stand for 0 to 0"),
        ({"outputs": np.arange(4) + 9}, DataError, "output 9 given for the label 0; the network has 0 to 3"),
        ({"images": listed(smooth(2), [0, -1]), "outputs": np.arange(4)}, DataError, "1.png has the label -1"),
        ({"padding": "wrap"}, DataError, "padding 'wrap'"),
        ({"interpolation": "nearest"}, DataError, "interpolation 'nearest'"),
        (
            {"preprocess": dv.Preprocess(resize=None, crop=16)},
            CaptureError,
            r"\(3, 16, 16\); Sequential takes \(3, 24, 24\)",
        ),
        ({"network": dv.capture(nn.Conv2d(3, 2, 3), (3, SIZE, SIZE))}, CaptureError, "expected one score"),
    ],
)
def test_wrong_input(change: dict[str, Any], kind: type[DeconvvizError], complaint: str) -> None:
    asked: dict[str, Any] = {
        "network": dv.capture(small(), (3, SIZE, SIZE)),
        "images": listed(smooth(3)),
        "layers": None,
    }
    asked |= {"preprocess": PLAIN, "progress": False, **change}
    with pytest.raises(kind, match=complaint) as error:
        invariance(**asked)
    assert "\n" not in str(error.value)


def test_figures_show_what_was_found(run: tuple[nn.Sequential, InMemoryImages, Invariance]) -> None:
    _, images, found = run
    shown = example_strips(found, images, PLAIN, rows=2, columns=2)
    steps, pictures = shown["rotation"]
    assert steps.tolist() == [0, 200] and pictures.shape == (2, 2, SIZE, SIZE, 3)
    assert np.array_equal(pictures[1, 1], canvas(images.pictures[2]).transformed(rotation(200)))
    figure = draw_invariance(found, shown, ["4"], [f"image {n}" for n in range(13)], "title", "caption")
    assert len(figure.axes) == 4 * 3  # a strip, one layer and the probability for each kind
    last = figure.axes[-1].lines
    assert np.array_equal(last[2].get_ydata(), found.probability["rotation"][2]) and len(last) == 14
    assert last[13].get_ydata() == pytest.approx(found.probability["rotation"].mean(0))
    assert [text.get_text() for text in figure.texts if "distance" in text.get_text()] == ["4: distance"]
    depth = draw_depth({kind: found.scores(kind) for kind in found.steps}, "title", "caption")
    axes = depth.axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "4"]
    (line, *_) = axes.containers[1].lines  # type: ignore[attr-defined]
    assert list(line.get_ydata()) == [s.score for s in found.scores("translate-x")]


class Deep(nn.Module):
    """Its layers are functions, and a module with a long path."""

    def __init__(self) -> None:
        super().__init__()
        self.embedder_of_the_encoder = nn.Sequential(nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3))))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.relu(self.embedder_of_the_encoder(x)).mean((2, 3))


def test_the_figure_names_layers_in_full_and_whole_pixels() -> None:
    """Where a function stands is said, long paths are broken and not cut; ticks are at whole pixels, quarter turns."""
    network, images = dv.capture(Deep().eval(), (3, SIZE, SIZE)), listed(smooth(2))
    deep = "embedder_of_the_encoder.0.0.0"
    steps = {"translate-x": list(range(-9, 10)), "rotation": list(range(0, 360, 10))}
    options: dict[str, Any] = {"kinds": list(steps), "steps": steps, "preprocess": PLAIN, "progress": False}
    found = invariance(network, images, [deep, "relu"], **options)
    assert found.config["where"] == {"relu": network.layer("relu").where} == {"relu": "the network itself, relu"}
    shown = example_strips(found, images, PLAIN)
    assert shown["rotation"][0].tolist() == [0, 90, 180, 270] and shown["translate-x"][0].tolist() == [-9, -5, 0, 5, 9]
    figure = draw_invariance(found, shown, [deep, "relu"], ["a", "b"], "title", "caption", Page(width=6.5))
    heads = [text.get_text() for text in figure.texts if "distance" in text.get_text()]
    assert [head.replace("\n", " ").replace(" .", ".") for head in heads] == [
        f"{deep}: distance", "relu: distance (the network itself, relu)"
    ]  # fmt: skip
    assert max(len(line) for head in heads for line in head.split("\n")) < 30
    figure.canvas.draw()
    _, across, _, _, _, turned, _, _ = figure.axes
    assert all(tick == round(tick) for tick in across.get_xticks())
    assert all(tick % 90 == 0 for tick in turned.get_xticks())
    assert "from 0 (as far away as another image) to 1 (nothing changes)" in repr(found)
