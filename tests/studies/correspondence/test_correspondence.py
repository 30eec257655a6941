"""Correspondence of parts: the score by hand and by loops, planted networks, the permutation test, the command."""

from __future__ import annotations

import csv
import itertools
import pathlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy import stats
from scipy.spatial.distance import pdist, squareform
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.data.memory import InMemoryImages
from deconvviz.data.truth import OBJECT, open_truth
from deconvviz.errors import CaptureError, DataError, DeconvvizError, LayerNotFound
from deconvviz.studies.correspondence import measure
from deconvviz.studies.correspondence import parts as parts_of_images
from deconvviz.studies.correspondence.command import correspond
from deconvviz.studies.correspondence.distances import hamming, permutation_test
from deconvviz.studies.correspondence.figure import draw_correspondence
from deconvviz.studies.correspondence.measure import correspondence, signs_of_change
from deconvviz.studies.correspondence.parts import random_masks
from deconvviz.studies.correspondence.result import Correspondence, PartScore

PRE = dv.Preprocess(resize=32, crop=28, mean=(0.25, 0.5, 0.5), std=(0.5, 0.5, 0.25))


class Planted(InMemoryImages):
    """40 x 40 pixels of grey noise with a red square, the spot; a dull place is a part too, but in no way special."""

    def __init__(self, count: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        pictures = rng.integers(60, 200, (count, 40, 40, 1), dtype=np.uint8).repeat(3, 3)
        self.corners = rng.integers((4, 4), (28, 9), (count, 2, 2))
        self.corners[:, 1, 1] += 17  # the dull place lies in the other half
        for picture, (y, x) in zip(pictures, self.corners[:, 0], strict=True):
            picture[y : y + 9, x : x + 10] = (250, 0, 0)
        super().__init__(pictures, np.arange(count) % 2, ("even", "odd"), [f"{n}.png" for n in range(count)])

    def masks(self, index: int) -> Mapping[str, NDArray[np.bool_]]:
        found = {OBJECT: np.ones((40, 40), bool)}
        for part, (y, x) in zip(("spot", "dull"), self.corners[index], strict=True):
            found[part] = np.zeros((40, 40), bool)
            found[part][y : y + 9, x : x + 10] = True
        if index < 3:
            found["rare"] = found["dull"]
        if index < 12:
            found["cut off"] = np.zeros((40, 40), bool)
            found["cut off"][:2] = True  # the crop keeps rows 2.5 to 37.5 of the 40
        found["all"] = np.ones((40, 40), bool)
        return found


class Response(nn.Module):
    """Loses the same sign pattern with every red pixel; apart from that its features are a hash of the picture."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("mixing", 1e3 * torch.randn(3 * 28 * 28, 60, generator=generator))
        pattern = torch.randint(0, 2, (60, 1), generator=generator) * 2.0 - 1
        self.head = nn.Linear(61, 60, bias=False)
        self.head.weight.data = torch.cat([pattern, torch.eye(60)], 1)

    def forward(self, x: Tensor) -> Tensor:
        red = (x[:, 0] - x[:, 1] - 0.5).relu().sum((1, 2))[:, None]
        return self.head(torch.cat([red, (x.flatten(1) @ self.mixing).sin()], 1))


@pytest.fixture(scope="module")
def planted() -> tuple[dv.Network, Planted]:
    return dv.capture(Response().double().eval(), (3, 28, 28)), Planted(40)


@pytest.fixture(scope="module")
def convolutions() -> dv.Network:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(3, 5, 5, stride=2), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.ReLU(), nn.Flatten())
    return dv.capture(nn.Sequential(*model, nn.Linear(400, 7)).double().eval(), (3, 28, 28))


def study(network: dv.Network, images: Planted, layers: list[str], **options: Any) -> Correspondence:
    given: dict[str, Any] = {"parts": ["spot"], "permutations": 200, "progress": False} | options
    return correspondence(network, images, images, layers=layers, preprocess=PRE, **given)


def test_the_score_by_hand() -> None:
    a, b, c = [1, -1, 0, 1, 0], [1, 1, 0, 0, 0], [-1, -1, 1, 1, 0]
    signs = np.array([a, b, c], np.int8)
    by_hand = {  # a with b, a with c, b with c
        # a and b differ in the 2nd and 4th of five, a and c in the 1st and 3rd, b and c in all but the last
        "three-valued": (2 / 5, 2 / 5, 4 / 5),
        # both changed: in a and b the first two, one differs; in a and c the 1st, 2nd, 4th, one differs; in b and c the
        # first two, both differ
        "drop": (1 / 2, 1 / 3, 2 / 2),
        # with 0 as 1: a = + - + + +, b = + + + + +, c = - - + + +
        "positive": (1 / 5, 1 / 5, 2 / 5),
    }
    counts = {"three-valued": (2, 2, 4), "drop": (1, 1, 2), "positive": (1, 1, 2)}
    for how, expected in by_hand.items():
        for found, value in ((hamming(signs, how), expected), (hamming(signs, how, "sum"), counts[how])):
            assert found[0, 1] == found[1, 0] and np.allclose((found[0, 1], found[0, 2], found[1, 2]), value), how
            assert not found.diagonal().any()
    apart = np.array([[1, 0], [0, -1]], np.int8)  # nothing changed in both: chance, and no dimension counted
    assert hamming(apart, "drop")[0, 1] == 0.5 and hamming(apart, "drop", "sum")[0, 1] == 0
    assert hamming(apart)[0, 1] == 1 and hamming(signs.reshape(3, 1, 5)).shape == (3, 1, 3, 1)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 5), st.integers(1, 30))
def test_the_score_by_scipy_and_by_loops(seed: int, rows: int, size: int) -> None:
    signs = np.random.default_rng(seed).integers(-1, 2, (rows, size)).astype(np.int8)
    assert np.allclose(hamming(signs), squareform(pdist(signs, "hamming")))
    assert np.allclose(hamming(signs, "positive"), squareform(pdist(np.where(signs == 0, 1, signs), "hamming")))
    for i, j in itertools.combinations(range(rows), 2):
        both = [(p, q) for p, q in zip(signs[i], signs[j], strict=True) if p != 0 and q != 0]
        expected = sum(p != q for p, q in both) / len(both) if both else 0.5
        assert hamming(signs, "drop")[i, j] == pytest.approx(expected)


def test_a_sign_beyond_rounding() -> None:
    features = torch.tensor([[1.0, 8, -2, 0], [1 - 1e-6, 8.5, -2, 0], [0.9, 8, -2.1, 0]])
    assert signs_of_change(features).tolist() == [[0, -1, 0, 0], [1, 0, 1, 0]]
    assert signs_of_change(features.double())[0].tolist() == [1, -1, 0, 0]  # a millionth is no rounding of float64


@pytest.mark.parametrize("sign_zero", ["three-valued", "drop", "positive"])
@pytest.mark.parametrize(("fill", "normalisation"), [("mean", "mean"), ("black", "sum")])
def test_the_study_by_plain_loops(
    convolutions: dv.Network, monkeypatch: pytest.MonkeyPatch, sign_zero: str, fill: str, normalisation: str
) -> None:
    """Every distance again, from single images through the network in float64."""
    images, places = Planted(13, seed=5), []

    def recorded(*arguments: Any) -> NDArray[np.bool_]:
        places.append(random_masks(*arguments))
        return places[-1]

    monkeypatch.setattr(parts_of_images, "random_masks", recorded)
    found = study(
        convolutions,
        images,
        ["3", "5"],
        count=3,
        repeats=2,
        random=2,
        sign_zero=sign_zero,
        fill=fill,
        normalisation=normalisation,
    )
    assert [row.layer for row in found.rows] == ["3", "5"] and len(places) == found.rows[0].image_sets.size == 12
    value = torch.tensor([0.0, 0, 0] if fill == "mean" else [-0.5, -1, -2], dtype=torch.float64)
    for row in found.rows:
        signs: list[NDArray[np.float64]] = []
        for image, others in zip(row.image_sets.ravel(), places, strict=True):
            x = PRE.tensor(PRE.picture(images[image][0])[None], dtype=torch.float64)
            before = convolutions.activations(x, [row.layer])[row.layer].numpy().ravel()
            for mask in (PRE.mask(images.masks(int(image))["spot"]), *others):
                masked = x.clone()
                for y, column in np.argwhere(mask):
                    masked[0, :, y, column] = value
                after = convolutions.activations(masked, [row.layer])[row.layer].numpy().ravel()
                signs.append(np.where(np.abs(before - after) < 1e-13, 0, np.sign(before - after)))
        assert any((one == 0).any() for one in signs) == (row.layer == "3")
        for s, (k, (i, j)), mask_number in itertools.product(
            range(len(row.image_sets)), enumerate(((0, 1), (0, 2), (1, 2))), range(3)
        ):
            a, b = (signs[(3 * s + image) * 3 + mask_number] for image in (i, j))
            if sign_zero == "drop":
                kept = (a != 0) & (b != 0)
                a, b = a[kept], b[kept]
            if sign_zero == "positive":
                a, b = np.where(a == 0, 1, a), np.where(b == 0, 1, b)
            # as printed the formula adds up both orders of the three pairs: the mean of six times the count
            expected = 6 * (a != b).sum() if normalisation == "sum" else (a != b).mean() if len(a) else 0.5
            assert row.distances[s, k, mask_number] == pytest.approx(expected)


def test_means_and_standard_errors() -> None:
    distances = np.array([[[0.1, 0.5, 0.7], [0.2, 0.6, 0.6], [0.3, 0.4, 0.8]], [[0.5, 0.9, 0.9]] * 3])
    two = PartScore(part="eye", layer="fc", image_sets=np.arange(6).reshape(2, 3), distances=distances, p=0.5)
    # sets: .2 and .5, so .35 with a deviation of .3 / sqrt(2), over sqrt(2) sets; at random .6 and .9
    assert (two.mean, two.standard_error) == pytest.approx((0.35, 0.15))
    assert (two.random_mean, two.random_standard_error) == pytest.approx((0.75, 0.15))
    one = PartScore(part="eye", layer="fc", image_sets=np.arange(3)[None], distances=distances[:1], p=0.5)
    # pairs: .1, .2, .3 with a deviation of .1; at random .6, .6, .6
    assert (one.mean, one.standard_error) == pytest.approx((0.2, 0.1 / np.sqrt(3)))
    assert (one.random_mean, one.random_standard_error) == pytest.approx((0.6, 0))
    pair = PartScore(part="eye", layer="fc", image_sets=np.arange(2)[None], distances=distances[:1, :1], p=0.5)
    assert np.isnan(pair.standard_error)


@pytest.mark.slow
def test_planted_parts_are_told_apart(planted: tuple[dv.Network, Planted]) -> None:
    """The spot always takes the same pattern away; the dull place changes a hash, as any other place does."""
    network, images = planted
    found = study(network, images, ["head"], parts=["spot", "dull"])
    spot, dull = found.rows
    assert spot.mean < 0.1 and spot.random_mean > 0.35 and spot.p == 1 / 201
    assert 0.4 < dull.mean < 0.6 and dull.p > 0.05 and abs(dull.mean - dull.random_mean) < 0.1
    assert study(network, images, ["head"], random_on="object").rows[0].p == 1 / 201
    ps = [study(network, images, ["head"], parts=["dull"], seed=seed, repeats=1).rows[0].p for seed in range(8)]
    assert min(ps) > 0.01 and max(ps) > 0.5


def table(
    rng: np.random.Generator, sets: int = 1, count: int = 3, masks: int = 2, size: int = 40
) -> NDArray[np.float64]:
    return np.stack([hamming(rng.integers(-1, 2, (count, masks, size)).astype(np.int8)) for _ in range(sets)])


def test_p_values_are_uniform_where_the_part_is_a_place_like_any_other() -> None:
    rng = np.random.default_rng(8)
    ps = [permutation_test(table(rng, 2, 4, 4), 99, rng) for _ in range(400)]
    assert stats.kstest(ps, "uniform").pvalue > 0.01 and 0.02 < np.mean(np.array(ps) <= 0.05) < 0.09
    signs = rng.integers(0, 2, (5, 6, 40)) * 2 - 1
    signs[:, 0] = signs[0, 0]  # the same pattern in every image
    assert permutation_test(hamming(signs.astype(np.int8))[None], 999, rng) == 0.001
    assert permutation_test(np.ones((1, 3, 2, 3, 2)), 50, rng) == 1  # all equal: no score is below another


def test_p_by_enumeration() -> None:
    """All 2 ** 6 choices of which of two masks is the part, in two sets of three images."""
    for seed in range(4):
        tables = table(np.random.default_rng(seed), 2)
        scores = []
        for picks in itertools.product((0, 1), repeat=6):
            pairs = [
                tables[s, i, picks[3 * s + i], j, picks[3 * s + j]] for s in (0, 1) for i, j in ((0, 1), (0, 2), (1, 2))
            ]
            scores.append(sum(pairs) / 6)
        exact = np.mean([score <= scores[0] + 1e-12 for score in scores])
        found = permutation_test(tables, 5000, np.random.default_rng(1))
        assert found == pytest.approx(exact, abs=4 * np.sqrt(0.25 / 5000))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 24), st.integers(2, 24), st.booleans())
def test_random_masks_are_of_equal_area(seed: int, height: int, width: int, on_object: bool) -> None:
    rng = np.random.default_rng(seed)
    mask, within = np.zeros((height, width), bool), None
    tall, wide = rng.integers(1, height + 1), rng.integers(1, width)
    top, left = rng.integers(0, height - tall + 1), rng.integers(0, width - wide + 1)
    mask[top : top + tall, left : left + wide] = shape = rng.random((tall, wide)) < 0.7
    shape[0, 0] = shape[-1, -1] = mask[top, left] = mask[top + tall - 1, left + wide - 1] = True
    if on_object:
        within = rng.random((height, width)) < 0.5
    try:
        moved = random_masks(mask, 5, rng, within)
    except DataError:
        assert on_object
        return
    assert moved.shape == (5, height, width)
    for one in moved:
        rows, columns = one.nonzero()
        y, x = rows.min(), columns.min()
        assert one.sum() == mask.sum() and np.array_equal(one[y : y + tall, x : x + wide], shape)
        assert (y, x) != (top, left) and (within is None or within[y + tall // 2, x + wide // 2])


def test_places_are_equally_likely() -> None:
    mask = np.zeros((3, 4), bool)
    mask[1, 1:3] = True
    moved = random_masks(mask, 8000, np.random.default_rng(2))
    starts = [tuple(np.argwhere(one)[0]) for one in moved]
    counts = {place: starts.count(place) for place in set(starts)}
    assert set(counts) == set(itertools.product(range(3), range(3))) - {(1, 1)}
    assert all(abs(count - 1000) < 150 for count in counts.values())


def test_sets_of_images(planted: tuple[dv.Network, Planted]) -> None:
    network, images = planted
    found = study(network, images, ["head"], parts=None, count=4, repeats=2, permutations=1)
    parts = {row.part: row.image_sets for row in found.rows}
    # "rare" is in too few, "cut off" in none once cropped, "all" has no other place, "" is the whole object
    assert list(parts) == ["dull", "spot"] and list(found.examples) == ["dull", "spot"]
    assert np.array_equal(parts["dull"], parts["spot"]) and parts["spot"].shape == (4, 4)
    assert len(np.unique(parts["spot"])) == 16
    assert sorted(np.unique(images.labels[one]).tolist() for one in parts["spot"]) == [[0], [0], [1], [1]]
    mixed = study(network, images, ["head"], count=4, repeats=5, permutations=1, per_class=False).rows[0].image_sets
    assert mixed.shape == (5, 4) and len(np.unique(mixed)) == 20 and len(np.unique(images.labels[mixed[0]])) == 2
    assert len(study(network, images, ["head"], count=6, repeats=9, permutations=1).rows[0].image_sets) == 2 * (20 // 6)
    other = study(network, images, ["head"], count=4, repeats=2, permutations=1, seed=1).rows[0].image_sets
    assert not np.array_equal(other, parts["spot"])
    # All 20 images of both classes, in another order and with other random masks: the part's own score stays.
    one, two = (study(network, images, ["head"], count=20, seed=seed, permutations=1).rows[0] for seed in (0, 1))
    assert two.mean == pytest.approx(one.mean) and abs(two.random_mean - one.random_mean) > 1e-6


def test_examples_show_what_was_masked(planted: tuple[dv.Network, Planted]) -> None:
    network, images = planted
    found = study(network, images, ["head"], count=6, fill="black", permutations=1)
    shown, members = found.examples["spot"], found.rows[0].image_sets[0]
    assert shown.shape == (6, 28, 28, 3) and shown.dtype == np.uint8
    for picture, index in zip(shown[:5], members, strict=False):
        mask, whole = PRE.mask(images.masks(index)["spot"]), PRE.picture(images[index][0])
        assert not picture[mask].any() and np.array_equal(picture[~mask], whole[~mask])
    whole, mask = PRE.picture(images[members[0]][0]), PRE.mask(images.masks(members[0])["spot"])
    assert (shown[5] != whole).any(2).sum() == mask.sum() and not np.array_equal((shown[5] != whole).any(2), mask)


@pytest.fixture(scope="module")
def demo() -> tuple[dv.Network, dv.Preprocess, dv.Scenes]:
    loaded = dv.load_model("demo")
    return dv.capture(loaded.model, (3, 64, 64)), dv.Preprocess.from_dict(loaded.settings), dv.Scenes(60, seed=1)


@pytest.mark.slow
def test_nothing_depends_on_batches_or_on_other_parts(
    demo: tuple[dv.Network, dv.Preprocess, dv.Scenes], monkeypatch: pytest.MonkeyPatch
) -> None:
    network, preprocess, scenes = demo
    truth, sizes, original = open_truth(None, scenes), set(), network.activations
    assert truth is not None

    def counted(x: Tensor, layers: Any) -> dict[str, Tensor]:
        sizes.add(len(x))
        return original(x, layers)

    monkeypatch.setattr(network, "activations", counted)

    def run(parts: list[str], batch_size: int) -> Correspondence:
        return correspondence(
            network,
            scenes,
            truth,
            parts,
            ["relu3", "fc7"],
            preprocess=preprocess,
            count=3,
            repeats=1,
            random=4,
            permutations=50,
            batch_size=batch_size,
            progress=False,
        )

    both, alone = run(["left eye", "beak"], 32), run(["beak"], 32)
    for a, b in zip(both.rows[2:], alone.rows, strict=True):
        assert (a.part, a.layer, a.p) == (b.part, b.layer, b.p) and np.array_equal(a.distances, b.distances)
    assert sizes == {6}  # the whole image, the part, and four random masks
    for batch_size in (1, 2, 5):
        sizes.clear()
        for a, b in zip(alone.rows, run(["beak"], batch_size).rows, strict=True):
            assert np.abs(a.distances - b.distances).max() < 2e-3 + 1.5 / 96 * (a.layer == "fc7")
        assert max(sizes) == batch_size


def test_wrong_input(planted: tuple[dv.Network, Planted]) -> None:
    network, images = planted
    wrong: list[tuple[dict[str, Any], type[DeconvvizError], str]] = [
        (
            {"parts": ["rare"]},
            DataError,
            r"^3 images with a part 'rare' given; expected 5 of one class at least",
        ),
        ({"parts": ["spot", "ear"]}, DataError, r"0 images .* 'ear'.* parts are dull \(40\), rare \(3\), spot \(40\)"),
        ({"parts": None, "count": 21}, DataError, "no part is in enough images; expected 21 of one class"),
        ({"count": 41, "per_class": False}, DataError, "40 images with a part 'spot' given; expected 41 at least"),
        ({"layers": []}, DataError, "no layer given; name at least one, nearest: "),
        ({"layers": ["haed"]}, LayerNotFound, "nearest: head"),
        (
            {"preprocess": dv.Preprocess(resize=32, crop=32)},
            CaptureError,
            r"\(3, 32, 32\); Response takes \(3, 28, 28\)",
        ),
        ({"precision": "bf16"}, DataError, "precision 'bf16' given; expected fp32"),
        *(
            ({name: "x"}, DataError, f"{name} 'x' given; expected ")
            for name in ("fill", "sign_zero", "normalisation", "random_on")
        ),
        *(
            (
                {name: low - 1},
                DataError,
                f"{name.replace('_', ' ')} {low - 1} given; expected ({low} or more|at least {low})$",
            )
            for name, low in {
                "count": 2,
                "repeats": 1,
                "random": 1,
                "permutations": 1,
                "batch_size": 1,
                "seed": 0,
            }.items()
        ),
    ]
    for change, kind, complaint in wrong:
        given: dict[str, Any] = {"parts": ["spot"], "layers": ["head"], "preprocess": PRE, "progress": False} | change
        with pytest.raises(kind, match=complaint) as error:
            correspondence(network, images, images, **given)
        assert "\n" not in str(error.value)
    bare = Planted(12)
    bare.masks = lambda index: {}  # type: ignore[method-assign]
    with pytest.raises(DataError, match="no part is known in these images"):
        study(network, bare, ["head"])
    bare.masks = lambda index: {"spot": images.masks(index)["spot"]}  # type: ignore[method-assign]
    with pytest.raises(DataError, match=r"the object of 0.png is not known; give a box without a part"):
        study(network, bare, ["head"], random_on="object")
    with pytest.raises(DataError, match="no other place"):
        random_masks(np.ones((3, 3), bool), 1, np.random.default_rng(0))


@pytest.mark.slow
def test_the_table_and_the_figure(planted: tuple[dv.Network, Planted], tmp_path: pathlib.Path) -> None:
    network, images = planted
    found = study(network, images, ["head", "relu"], parts=["spot", "dull"], count=3, repeats=2)
    found.save_csv(tmp_path / "t.csv")
    with (tmp_path / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["part"], row["layer"]) for row in rows] == list(itertools.product(("spot", "dull"), ("head", "relu")))
    for row, expected in zip(rows, found.rows, strict=True):
        values = [
            expected.mean,
            expected.standard_error,
            expected.random_mean,
            expected.random_standard_error,
            expected.p,
        ]
        assert [float(value) for value in list(row.values())[2:7]] == pytest.approx(values, rel=1e-6)
        assert (row["images"], row["sets"]) == ("12", "4")
    lines = repr(found).splitlines()
    assert len(lines) == 5 and "head" in lines[1] and "relu" in lines[1] and lines[3].startswith("spot      12  0.0")
    assert f"{found.rows[3].mean:.3f}±{found.rows[3].standard_error:.3f}" in lines[4]
    named = replace(found, rows=tuple(replace(row, part=f"<{row.part}>") for row in found.rows))
    assert "&lt;spot&gt;" in named._repr_html_() and "<spot>" not in named._repr_html_()
    assert found.config["parts"] == ["spot", "dull"] and found.config["count"] == 3
    figure = draw_correspondence(found, "title", "caption")
    panels = [axes for axes in figure.axes if axes.get_title() in ("head", "relu")]
    assert len(panels) == 2 and len(figure.axes) == 2 + 2 * 4
    for axes, of_layer in zip(panels, (found.rows[::2], found.rows[1::2]), strict=True):
        widths = [[bar.get_width() for bar in bars] for bars in axes.containers if hasattr(bars, "patches")]
        assert widths == [[row.mean for row in of_layer], [row.random_mean for row in of_layer]]
        # the first part stands at the top, beside its pictures
        top, below, *_ = axes.containers[1].patches  # type: ignore[attr-defined]
        assert top.get_y() > below.get_y()


def run(*arguments: object) -> str:
    result = CliRunner().invoke(correspond, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
def test_the_command(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "c.csv"
    asked = ["demo", "scenes:40:1", "-l", "relu5", "-l", "fc7", "-p", "left eye", "-p", "wing", "--count", 3]
    fast = ["--repeats", 1, "--random", 3, "--permutations", 30, "--quiet", "--device", "cpu"]
    text = run(*asked, *fast, "-o", out)
    assert "left eye" in text and f"wrote {out}" in text
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["part"], row["layer"]) for row in rows] == list(
        itertools.product(("left eye", "wing"), ("relu5", "fc7"))
    )
    with Image.open(tmp_path / "c.png") as figure:
        assert figure.width > 1000 and "permutations" in figure.text["Description"]
    folder, scenes = tmp_path / "photos", dv.Scenes(40, seed=1)
    table = ["image,left,top,right,bottom,part"]
    for n in range(40):
        home = folder / scenes.classes[scenes.labels[n]]
        home.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scenes[n][0]).save(home / f"{n}.png")
        if n < 6:
            table.append(f"{home.name}/{n}.png,{20 + n},20,40,40,patch")
    (tmp_path / "boxes.csv").write_text("\n".join(table))
    boxed = ["demo", folder, "--boxes", tmp_path / "boxes.csv", "-l", "fc7", "--count", 3, *fast]
    assert "patch       3" in run(*boxed, "--across-classes", "-o", tmp_path / "p.csv")
    wrong = [
        ([*boxed, "-o", tmp_path / "q.csv"], "no part is in enough images; expected 3 of one class"),
        ([*boxed, "-o", tmp_path / "q.png"], "ends in .csv"),
        ([*boxed, "-o", tmp_path / "none" / "q.csv"], "there is no folder"),
        (["demo", folder, "-l", "fc7", "-o", tmp_path / "q.csv"], "give --boxes, or scenes:COUNT:SEED"),
    ]
    for arguments, complaint in wrong:
        with pytest.raises(DataError, match=complaint):
            run(*arguments)
    assert not (tmp_path / "q.csv").exists() and not (tmp_path / "q.png").exists()


def test_the_options_of_the_command_arrive(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def recorded(network: dv.Network, images: Any, truth: Any, parts: Any, layers: Any, **options: Any) -> None:
        given.update(options, parts=parts, layers=layers)
        raise DataError("enough")

    monkeypatch.setattr(measure, "correspondence", recorded)
    asked: dict[str, Any] = {
        "count": 4,
        "repeats": 7,
        "random": 3,
        "random_on": "object",
        "fill": "black",
        "sign_zero": "drop",
        "normalisation": "sum",
        "permutations": 11,
        "seed": 5,
        "batch_size": 9,
    }
    words = [word for name, value in asked.items() for word in (f"--{name.replace('_', '-')}", value)]
    with pytest.raises(DataError, match="enough"):
        run("demo", "scenes:9:1", "-l", "fc7", "--across-classes", "--quiet", *words, "-o", tmp_path / "c.csv")
    assert given.pop("preprocess").crop == 64
    run_only = {"progress": False, "precision": "fp32", "workers": 2}
    assert given == asked | run_only | {"per_class": False, "parts": None, "layers": ("fc7",)}
