"""The metrics against their definitions in loops, closed forms, other libraries, and what must not matter."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from captum.attr import FeatureAblation
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from skimage.feature import hog
from sklearn.metrics import auc, jaccard_score
from torch import Tensor, nn

from deconvviz import metrics
from deconvviz.errors import DataError, ModelError
from deconvviz.metrics import METRICS
from deconvviz.metrics.boxes import box_accuracy, box_ious

SIDE = 6
seeds = st.integers(0, 10**6)
shares = st.floats(0.01, 1.0)


def draw(seed: int, *shape: int, levels: int = 0) -> Tensor:
    """Values in 0..1; of a few `levels` only where given, so that ties abound."""
    values = torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (values * levels).floor() / (levels - 1) if levels else values


def scene(seed: int, count: int = 3, levels: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Images, maps and classes."""
    return (
        draw(seed, count, 2, SIDE, SIDE) * 4 - 2,
        draw(seed + 1, count, SIDE, SIDE, levels=levels),
        torch.arange(count) % 3,
    )


def squashed(images: Tensor) -> Tensor:
    """Probabilities of three classes by a nonlinear function, each image computed on its own."""
    weights = draw(77, 3, images[0].numel()) * 2 - 1
    return torch.stack([torch.softmax(weights.to(image) @ image.flatten().tanh(), 0) for image in images])


def linear(images: Tensor) -> Tensor:
    """Probabilities of two classes that are linear in the pixels: the mean of the image, which is in 0..1."""
    mean = images.flatten(1).mean(1)
    return torch.stack([mean, 1 - mean], 1)


class Counted:
    """A score function that remembers how many images it saw, and the largest batch."""

    def __init__(self, scores: Callable[[Tensor], Tensor]) -> None:
        self.scores, self.seen, self.largest = scores, 0, 0

    def __call__(self, images: Tensor) -> Tensor:
        assert torch.is_inference_mode_enabled()
        self.seen += len(images)
        self.largest = max(self.largest, len(images))
        return self.scores(images)


def in_order(values: NDArray[np.float64], sign: int = -1) -> list[tuple[int, int]]:
    """Pixels in the order they go, by a sort of plain tuples."""
    return [(y, x) for _, y, x in sorted((sign * values[y, x], y, x) for y, x in np.ndindex(*values.shape))]


def assert_close(found: Tensor, expected: object, tolerance: float = 1e-12) -> None:
    assert found.dtype == torch.float64 and found.device.type == "cpu"
    np.testing.assert_allclose(found.numpy(), np.asarray(expected, np.float64), atol=tolerance, rtol=0)


# faithfulness


@settings(max_examples=60, deadline=None)
@given(seeds, shares, st.sampled_from([0, 3]))
def test_kept_keeps_the_largest(seed: int, share: float, levels: int) -> None:
    maps = draw(seed, 2, SIDE, SIDE, levels=levels)
    found, count = metrics.strongest_pixels(maps, share), round(share * SIDE * SIDE)
    for before, after in zip(maps.numpy(), found.numpy(), strict=True):
        expected = np.zeros_like(before)
        for y, x in in_order(before)[:count]:
            expected[y, x] = before[y, x]
        np.testing.assert_array_equal(after, expected)
    positive = metrics.strongest_pixels(maps + 1, share)
    assert ((positive > 0).flatten(1).sum(1) == count).all()
    assert torch.equal(metrics.strongest_pixels(maps, 1.0), maps)


@settings(max_examples=30, deadline=None)
@given(seeds, st.sampled_from([1.0, 0.5, 0.15]), st.sampled_from(["mean", "black"]))
def test_faithfulness_by_definition(seed: int, share: float, space: str) -> None:
    images, maps, classes = scene(seed)
    fill = 0.0 if space == "mean" else torch.tensor([-1.5, 0.25], dtype=torch.float64)
    found = metrics.faithfulness(squashed, images, maps, classes, share, fill, batch_size=2)
    fills, count = np.broadcast_to(np.asarray(fill), 2), round(share * SIDE * SIDE)
    for n in range(len(images)):
        masked = np.empty((2, SIDE, SIDE))
        chosen = set(in_order(maps[n].numpy())[:count])
        for c, y, x in np.ndindex(*masked.shape):
            m = float(maps[n, y, x]) if (y, x) in chosen else 0.0
            masked[c, y, x] = float(images[n, c, y, x]) * m + fills[c] * (1 - m)
        p = float(squashed(images[n : n + 1])[0, classes[n]])
        o = float(squashed(torch.from_numpy(masked)[None])[0, classes[n]])
        expected = max(0, p - o) / p, float(o > p), max(0, o - p) / (1 - p), p, o
        fields = found.drop, found.increase, found.gain, found.before, found.after
        for field, value in zip(fields, expected, strict=True):
            assert_close(field[n : n + 1], [value])
    assert found.drop.min() >= 0 and found.drop.max() <= 1 and found.gain.min() >= 0 and found.gain.max() <= 1


def test_a_full_mask_changes_nothing_and_is_scored_once() -> None:
    images, maps, classes = scene(0)
    maps[:2] = 1
    scores = Counted(squashed)
    found = metrics.faithfulness(scores, images, maps, classes)
    assert scores.seen == 3 + 1
    assert found.drop[:2].tolist() == found.increase[:2].tolist() == found.gain[:2].tolist() == [0, 0]
    noisy = Counted(lambda x: torch.rand(len(x), 3) / 3)  # no two calls agree, as on a GPU
    assert metrics.faithfulness(noisy, images, torch.ones_like(maps), classes).drop.eq(0).all()
    assert noisy.seen == 3


def test_probabilities_of_0_and_1_divide_nothing() -> None:
    images = torch.tensor([0.0, 1.0])[:, None, None, None].expand(2, 1, 2, 2)
    zeros = torch.zeros(2, 2, 2)
    to_black = metrics.faithfulness(linear, images, zeros, torch.tensor([0, 0]), fill=0.0)
    assert to_black.drop.tolist() == [0, 1] and to_black.gain.tolist() == [0, 0]
    assert to_black.increase.tolist() == [0, 0]  # equal is no increase
    to_white = metrics.faithfulness(linear, images, zeros, torch.tensor([0, 0]), fill=1.0)
    assert to_white.drop.tolist() == [0, 0] and to_white.gain.tolist() == [1, 0]
    assert to_white.increase.tolist() == [1, 0]


def test_a_probability_just_beyond_its_range_is_rounding() -> None:
    images, maps, classes = scene(0)
    half = metrics.faithfulness(lambda x: linear(x * 0) * 1.0005, images, maps, classes * 0 + 1)
    assert half.before.tolist() == half.after.tolist() == [1, 1, 1]


@pytest.mark.peers
def test_drop_agrees_with_captum() -> None:
    """Ablating what a hard mask leaves out is one feature's ablation: attribution = p - o."""
    images, maps, classes = scene(5)
    hard = (maps > 0.5).double()
    found = metrics.faithfulness(squashed, images, hard, classes)
    ablation = FeatureAblation(squashed)
    for n in range(len(images)):
        features = hard[n].long()[None, None].expand(1, 2, -1, -1)  # 1 inside, 0 outside
        weights = ablation.attribute(images[n : n + 1], feature_mask=features, target=int(classes[n]))
        lost = float(weights[0, 0][hard[n] == 0][0])
        assert lost == pytest.approx(float(found.before[n] - found.after[n]), abs=1e-6)


def test_coherency_complexity_and_adcc() -> None:
    a, b = draw(1, 4, SIDE, SIDE), draw(2, 4, SIDE, SIDE)
    expected = [(stats.pearsonr(x.ravel(), y.ravel())[0] + 1) / 2 for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    assert_close(metrics.coherency(a, b), expected)
    assert_close(metrics.coherency(a, 3 * a + 1), [1] * 4)
    assert_close(metrics.coherency(a, 1 - a), [0] * 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_close(metrics.coherency(torch.full_like(a, 0.1), b), [0] * 4)  # .1 has a mean that is not quite .1
    assert metrics.complexity(torch.ones(2, 3, 3)).tolist() == [1, 1]
    assert_close(metrics.complexity(a), [x.sum() / x.size for x in a.numpy()])
    drop, coherent, complex_ = draw(3, 3, 50)
    assert_close(metrics.adcc(drop, coherent, complex_), stats.hmean([coherent, 1 - complex_, 1 - drop], axis=0))
    one = torch.ones(1)
    assert metrics.adcc(0 * one, one, one).tolist() == [0]  # a map of ones
    assert metrics.adcc(one, one, 0 * one).tolist() == [0]
    assert metrics.adcc(0 * one, 0 * one, 0 * one).tolist() == [0]
    assert metrics.adcc(0 * one, one, 0 * one).tolist() == [1]


# curves


def replayed(n: int, images: Tensor, starts: Tensor, ends: Tensor, maps: Tensor, c: int, steps: int) -> list[float]:
    """Change one pixel after the other in place; score when a step is full."""
    image, order, values = starts[n].clone(), in_order(maps[n].numpy()), []
    done = 0
    for step in range(steps + 1):
        while done < round(step * len(order) / steps):
            y, x = order[done]
            image[:, y, x] = ends[n, :, y, x]
            done += 1
        values.append(float(squashed(image[None])[0, c]))
    return values


@settings(max_examples=25, deadline=None)
@given(seeds, st.sampled_from([0, 3]), st.sampled_from([1, 4, 5, 36]))
def test_curves_by_definition(seed: int, levels: int, steps: int) -> None:
    images, maps, classes = scene(seed, levels=levels)
    fill = torch.tensor([0.5, -1.0])
    blank = fill.double()[None, :, None, None].expand_as(images)
    deleted = metrics.deletion(squashed, images, maps, classes, steps, fill, batch_size=7)
    inserted = metrics.insertion(squashed, images, maps, classes, steps, batch_size=7)
    blurred = metrics.gaussian_blur(images)
    for curve, starts, ends in ((deleted, images, blank), (inserted, blurred, images)):
        assert curve.fractions[0] == 0 and curve.fractions[-1] == 1
        for n in range(len(images)):
            expected = replayed(n, images, starts, ends, maps, int(classes[n]), steps)
            assert_close(curve.probabilities[n], expected)
            assert float(curve.auc[n]) == pytest.approx(auc(np.linspace(0, 1, steps + 1), expected), abs=1e-12)
    assert (deleted.auc >= 0).all() and (deleted.auc <= 1).all()
    assert torch.equal(inserted.probabilities[:, -1:], deleted.probabilities[:, :1])


def test_deletion_of_a_linear_score_is_a_sum() -> None:
    """The mean of what remains: the pixels sorted by the map, cumulated. By itself as the map it is the steepest."""
    images = draw(0, 2, 1, 4, 4)
    curve = metrics.deletion(linear, images, images[:, 0], torch.tensor([0, 0]), steps=16)
    for values, found in zip(images.flatten(1).numpy(), curve.probabilities, strict=True):
        assert_close(found, [np.sort(values)[: 16 - k].sum() / 16 for k in range(17)])
    worst = metrics.deletion(linear, images, 1 - images[:, 0], torch.tensor([0, 0]), steps=16)
    assert (worst.auc > curve.auc).all()
    ones = metrics.deletion(linear, torch.ones(1, 1, 4, 4), draw(3, 1, 4, 4), torch.tensor([0]), steps=8)
    assert_close(ones.probabilities[0], np.linspace(1, 0, 9))
    assert_close(ones.auc, [0.5])


def test_what_is_equal_is_scored_once() -> None:
    images, maps, classes = scene(0)
    scores = Counted(squashed)
    metrics.deletion(scores, images, maps, classes, steps=4, batch_size=5)
    assert (scores.seen, scores.largest) == (3 * 4 + 1, 5)  # the last picture is blank for all
    scores = Counted(squashed)
    found = metrics.road_combined(scores, images, maps, classes, (0.001, 0.5, 0.501), batch_size=2)
    assert (scores.seen, scores.largest) == (3 + 2 * 3, 2)  # .001 is no pixel, .501 the same 18 as .5
    assert torch.equal(found.most.probabilities[:, 0], found.least.before)
    assert torch.equal(found.most.probabilities[:, 1], found.most.probabilities[:, 2])


def test_the_blur() -> None:
    from scipy.ndimage import gaussian_filter

    impulse = np.zeros((11, 11))
    impulse[5, 5] = 1
    window = gaussian_filter(impulse, 5)
    image = torch.zeros(1, 2, 31, 31, dtype=torch.float64)
    image[0, 1, 15, 15] = 1
    found = metrics.gaussian_blur(image, 11, 5.0)
    assert_close(found[0, 1, 10:21, 10:21], window)
    assert found[0, 0].abs().max() == 0 and found.sum() == pytest.approx(1)
    corner = metrics.gaussian_blur(torch.ones(1, 1, 31, 31, dtype=torch.float64), 11, 5.0)
    assert corner[0, 0, 15, 15] == pytest.approx(1) and corner[0, 0, 0, 0] == pytest.approx(window[5:, 5:].sum())


# ROAD


def imputed(image: NDArray[np.float64], missing: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The same linear system, pixel by pixel, dense, with an equation for every pixel."""
    _, height, width = image.shape
    matrix, right = np.zeros((height * width, height * width)), np.zeros((height * width, len(image)))
    for y, x in np.ndindex(height, width):
        row = y * width + x
        matrix[row, row] = 1
        if not missing[y, x]:
            right[row] = image[:, y, x]
            continue
        near = [(v, u) for v in range(y - 1, y + 2) for u in range(x - 1, x + 2)]
        near = [(v, u) for v, u in near if (v, u) != (y, x) and 0 <= v < height and 0 <= u < width]
        weights = [1 / 6 if v == y or u == x else 1 / 12 for v, u in near]
        for (v, u), weight in zip(near, weights, strict=True):
            matrix[row, v * width + u] -= weight / sum(weights)
    return np.linalg.solve(matrix, right).T.reshape(image.shape)


@settings(max_examples=25, deadline=None)
@given(seeds, st.floats(0.05, 0.95), st.integers(1, 3))
def test_imputation_is_the_dense_solve(seed: int, share: float, channels: int) -> None:
    image = draw(seed, channels, SIDE, SIDE + 1).numpy()
    missing = draw(seed + 1, SIDE, SIDE + 1).numpy() < share
    missing[seed % SIDE, 0] = False
    np.testing.assert_allclose(metrics.impute(image, missing, noise=0), imputed(image, missing), atol=1e-9)
    noisy = metrics.impute(image, missing, noise=0.01)
    assert (noisy == image)[:, ~missing].all() and np.abs(noisy - imputed(image, missing)).max() < 0.06


def test_imputation_continues_a_gradient() -> None:
    """A linear image is its neighbours' mean inside the border, so nothing is lost there."""
    y, x = np.mgrid[:20, :30]
    image = np.stack([0.1 * y + 0.03 * x, -0.2 * y + 1.0])
    missing = np.zeros((20, 30), bool)
    missing[3:17, 2:25] = True
    np.testing.assert_allclose(metrics.impute(image, missing, noise=0), image, atol=1e-9)
    residue = (metrics.impute(image, missing, noise=0.01) - image)[:, missing]
    assert residue.std() == pytest.approx(0.01, rel=0.1) and abs(residue.mean()) < 1e-3
    assert np.array_equal(metrics.impute(image, missing, seed=3), metrics.impute(image, missing, seed=3))
    assert not np.array_equal(metrics.impute(image, missing, seed=3), metrics.impute(image, missing, seed=4))


@pytest.mark.parametrize("order", ["most", "least"])
def test_road_by_definition(order: str) -> None:
    images, maps, classes = scene(4, levels=3)
    fractions = (0.1, 0.5, 0.9)
    found = metrics.road(squashed, images, maps, classes, fractions, order, noise=0)
    for n, (image, values) in enumerate(zip(images, maps.numpy(), strict=True)):
        for f, fraction in enumerate(fractions):
            missing = np.zeros((SIDE, SIDE), bool)
            for y, x in in_order(values, -1 if order == "most" else 1)[: round(fraction * SIDE * SIDE)]:
                missing[y, x] = True
            expected = squashed(torch.from_numpy(imputed(image.numpy(), missing))[None])[0, classes[n]]
            assert_close(found.probabilities[n, f], expected, 1e-9)
    assert_close(found.mean, found.probabilities.mean(1))
    assert_close(found.before, squashed(images).gather(1, classes[:, None])[:, 0])


def test_road_combined_and_its_sign() -> None:
    """A class that sees one bright corner, and a map of that corner: least - most is large."""
    images, maps = torch.zeros(1, 1, 8, 8), torch.zeros(1, 8, 8)
    images[..., :3, :3] = maps[..., :3, :3] = 1.0

    def corner(x: Tensor) -> Tensor:
        value = x[:, 0, :3, :3].mean((1, 2)).clamp(0, 1)
        return torch.stack([value, 1 - value], 1)

    found = metrics.road_combined(corner, images, maps, torch.tensor([0]))
    assert found.score > 0.3
    assert_close(found.score, (found.least.probabilities - found.most.probabilities).mean(1) / 2)
    one = metrics.road(corner, images, maps, torch.tensor([0]), order="least")
    assert torch.equal(one.mean, found.least.mean)
    assert metrics.road_combined(corner, images, 1 - maps, torch.tensor([0])).score < 0


# what must not matter


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(seeds, st.integers(1, 40), st.integers(1, 40))
def test_the_batch_size_never_matters(seed: int, one: int, other: int) -> None:
    given_ = scene(seed, levels=4)
    runs = []
    for size in (one, other):
        faithful = metrics.faithfulness(squashed, *given_, 0.5, batch_size=size)
        curve = metrics.deletion(squashed, *given_, 5, batch_size=size)
        rise = metrics.insertion(squashed, *given_, 5, batch_size=size)
        both = metrics.road_combined(squashed, *given_, (0.2, 0.6), batch_size=size)
        runs.append((faithful.drop, faithful.gain, curve.probabilities, rise.probabilities, both.score))
    for a, b in zip(*runs, strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(seeds)
def test_only_the_order_matters_to_rankings(seed: int) -> None:
    images, maps, classes = scene(seed)
    for other in (maps**3, (5 * maps).exp() - 100):
        for measure in (metrics.deletion, metrics.insertion):
            a, b = (measure(squashed, images, m, classes, 6).probabilities for m in (maps, other))
            assert torch.equal(a, b)
        a, b = (metrics.road_combined(squashed, images, m, classes, (0.3,)).score for m in (maps, other))
        assert torch.equal(a, b)
        assert_close(metrics.spearman(maps, other, absolute=False), [1] * 3)
        masks = draw(seed, 3, SIDE, SIDE).numpy() > 0.9
        masks[:, 0, 0] = True
        assert torch.equal(metrics.pointing_game(maps, masks, 2), metrics.pointing_game(other, masks, 2))


# localisation


@settings(max_examples=40, deadline=None)
@given(seeds, st.sampled_from([0.0, 1.0, 2.0, 2.5, 15.0]), st.sampled_from([0, 3]))
def test_pointing_game_by_definition(seed: int, tolerance: float, levels: int) -> None:
    maps, masks = draw(seed, 3, 9, 7, levels=levels), draw(seed + 1, 3, 9, 7).numpy() > 0.95
    masks[:, 8, 6] = True
    expected = []
    for values, mask in zip(maps.numpy(), masks, strict=True):
        v, u = in_order(values)[0]
        near = [np.hypot(y - v, x - u) for y, x in np.ndindex(*mask.shape) if mask[y, x]]
        expected.append(float(any(d < tolerance or d == 0 for d in near)))
    assert_close(metrics.pointing_game(maps, masks, tolerance), expected)


def test_pointing_game_at_the_edge_of_the_tolerance() -> None:
    maps, masks = torch.zeros(1, 40, 40), np.zeros((1, 40, 40), bool)
    maps[0, 20, 3], masks[0, 20, 18] = 1, True  # 15 px away
    assert metrics.pointing_game(maps, masks, 15).tolist() == [0]
    assert metrics.pointing_game(maps, masks, 15.001).tolist() == [1]
    masks[0, 20, 17] = True
    assert metrics.pointing_game(maps, masks, 15).tolist() == [1]
    assert metrics.pointing_game(maps, masks, 0).tolist() == [0]
    masks[0, 20, 3] = True
    assert metrics.pointing_game(maps, masks, 0).tolist() == [1]


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(seeds, st.floats(0, 1), st.sampled_from([0, 4]))
def test_energy_and_iou_by_definition(seed: int, threshold: float, levels: int) -> None:
    maps, masks = draw(seed, 2, 5, 7, levels=levels), draw(seed + 1, 2, 5, 7).numpy() > 0.6
    masks[:, 2, 3] = True
    pairs = list(zip(maps.numpy(), masks, strict=True))
    assert_close(metrics.energy(maps, masks), [v[m].sum() / v.sum() for v, m in pairs])
    expected = [jaccard_score(m.ravel(), v.ravel() > threshold, zero_division=0) for v, m in pairs]
    assert_close(metrics.iou(maps, masks, threshold), expected)
    cuts = [0.0, 0.25, 1 / 3, 0.9]
    table = [[jaccard_score(m.ravel(), v.ravel() > cut, zero_division=0) for cut in cuts] for v, m in pairs]
    assert_close(metrics.best_iou(maps, masks, cuts), np.max(table, 1))


def test_boxes_stand_for_their_pixels() -> None:
    maps = draw(0, 2, 5, 7)
    boxes = [[(1, 2, 3, 6)], [(0, 0, 1, 1), (4, 5, 5, 7)]]
    masks = np.zeros((2, 5, 7), bool)
    masks[0, 1:3, 2:6] = masks[1, 0, 0] = masks[1, 4, 5:] = True
    for measure in (metrics.pointing_game, metrics.energy, metrics.best_iou):
        assert torch.equal(measure(maps, masks), measure(maps, boxes))
    assert metrics.energy(torch.zeros(2, 5, 7), masks).tolist() == [0, 0]
    assert metrics.energy(torch.from_numpy(masks).float(), boxes).tolist() == [1, 1]


def test_boxes_of_components() -> None:
    values = torch.zeros(6, 8)
    values[0, 6:8] = 1  # two pixels
    values[1, 0] = values[2, 1] = values[3, 2] = 0.8  # a diagonal is one component
    values[5, 7] = 0.5
    assert metrics.boxes_of(values, 0.5) == [(0, 6, 1, 8), (1, 0, 4, 3)]
    assert metrics.boxes_of(values, 0.49)[2] == (5, 7, 6, 8)
    assert metrics.boxes_of(values, 0.5, largest=True) == [(1, 0, 4, 3)]
    assert metrics.boxes_of(values, 0.9, largest=True) == [(0, 6, 1, 8)]
    assert metrics.boxes_of(values, 1.0) == []


def test_box_iou_is_that_of_pixels() -> None:
    boxes = [(0, 0, 2, 3), (1, 1, 5, 4), (2, 3, 4, 6), (4, 0, 5, 1)]
    drawn = np.zeros((4, 5, 6), bool)
    for mask, (top, left, bottom, right) in zip(drawn, boxes, strict=True):
        mask[top:bottom, left:right] = True
    expected = [[(a & b).sum() / (a | b).sum() for b in drawn] for a in drawn]
    np.testing.assert_allclose(box_ious(np.array(boxes), np.array(boxes)), expected)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(seeds, st.sampled_from([0, 2, 5]))
def test_max_box_accuracy_is_a_loop_over_thresholds(seed: int, levels: int) -> None:
    """The component tree against one labelling a threshold."""
    maps, cuts = draw(seed, 4, 8, 7, levels=levels), np.arange(0, 1, 0.05)
    maps[3] = 0  # nothing to see
    boxes = [[(0, 0, 4, 4)], [(1, 2, 8, 7), (0, 0, 2, 2)], [(0, 0, 8, 7)], [(2, 2, 5, 5)]]
    found = metrics.max_box_accuracy(maps, boxes, (0.3, 0.5), cuts)
    for n, truth in enumerate(boxes):
        for t, cut in enumerate(cuts):
            for field, only in ((found.largest, True), (found.best, False)):
                mine = metrics.boxes_of(maps[n], float(cut), only)
                expected = box_ious(np.array(mine), np.array(truth)).max() if mine else 0.0
                assert float(field[n, t]) == pytest.approx(expected, abs=1e-12), (n, cut, only)
    assert float(found.v1.mean()) == max((found.largest >= 0.5).double().mean(0)).item()
    reached = [max((found.best >= delta).double().mean(0)).item() for delta in (0.3, 0.5)]
    assert float(found.v2.mean()) == pytest.approx(np.mean(reached))
    assert (found.best >= found.largest).all()


@pytest.mark.parametrize("shape", [(1, 10), (10, 1), (1, 1), (2, 7), (7, 2), (2, 2)])
def test_boxes_of_narrow_maps(shape: tuple[int, int]) -> None:
    maps, cuts = draw(1, 6, *shape), np.arange(0, 1, 0.1)
    truth = (0, 0, max(shape[0] // 2, 1), max(shape[1] // 2, 1))
    found = metrics.max_box_accuracy(maps, [[truth]] * 6, thresholds=cuts)
    for n, t, (field, only) in product(range(6), range(10), ((found.largest, True), (found.best, False))):
        mine = metrics.boxes_of(maps[n], float(cuts[t]), only)
        expected = box_ious(np.array(mine), np.array([truth])).max() if mine else 0.0
        assert float(field[n, t]) == pytest.approx(expected, abs=1e-12)


def test_an_iou_of_exactly_delta_reaches_it_also_in_float32() -> None:
    """7 of 10 pixels: float32 has 0.699999988 for 0.7, and files keep IoUs in float32."""
    ious = np.array([[0.7]], np.float32).astype(np.float64)
    for values in (ious, np.array([[0.7]])):
        found = box_accuracy(values, values, deltas=(0.7,), thresholds=[0.5], delta=0.7)
        assert found.v1.tolist() == found.v2.tolist() == [1]


def test_max_box_accuracy_of_a_perfect_map() -> None:
    boxes = [[(2, 3, 8, 9)], [(0, 0, 5, 4)]]
    maps = torch.zeros(2, 10, 10)
    for values, [(top, left, bottom, right)] in zip(maps, boxes, strict=True):
        values[top:bottom, left:right] = 1
    found = metrics.max_box_accuracy(maps, boxes, (0.3, 0.5, 1.0))
    assert found.v1.tolist() == found.v2.tolist() == [1, 1] and found.largest.shape == (2, 1000)
    assert found.threshold_v1 == 0 and found.thresholds_v2 == (0, 0, 0)


# sanity


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3)
    )
    assert isinstance(model[1], nn.BatchNorm2d) and model[1].running_mean is not None
    model[1].running_mean += 5
    for parameter in model.parameters():
        parameter.data += 1
    return model.eval()


def differing(a: nn.Module, b: nn.Module) -> list[str]:
    other = b.state_dict()
    names = [name for name, value in a.state_dict().items() if not torch.equal(value, other[name])]
    return sorted({name.split(".")[0] for name in names})


@pytest.mark.parametrize("how", ["cascading", "independent"])
def test_randomised(how: str) -> None:
    model = network()
    kept, before = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    copies = list(metrics.randomised(model, how, seed=3))
    assert torch.equal(before, torch.get_rng_state())
    assert [name for name, _ in copies] == ["6", "4", "1", "0"]
    expected = [["6"], ["4", "6"], ["1", "4", "6"], ["0", "1", "4", "6"]]
    for (name, changed), cumulated in zip(copies, expected, strict=True):
        assert differing(model, changed) == (cumulated if how == "cascading" else [name])
        assert not changed.training
    norm = dict(copies)["1"].get_submodule("1")
    assert norm.running_mean.eq(0).all() and norm.running_var.eq(1).all() and norm.weight.eq(1).all()
    assert all(torch.equal(kept[k], v) for k, v in model.state_dict().items())
    again = dict(metrics.randomised(model, how, seed=3))["0"]
    assert differing(dict(copies)["0"], again) == []
    assert "6" in differing(copies[0][1], next(metrics.randomised(model, how, seed=4))[1])


def test_both_ways_give_a_layer_the_same_weights() -> None:
    one, other = (dict(metrics.randomised(network(), how)) for how in ("cascading", "independent"))
    for name in one:
        assert differing(one[name].get_submodule(name), other[name].get_submodule(name)) == []


def test_randomised_refuses_what_it_cannot_reset() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

    with pytest.raises(ModelError, match=r"1 given.*reset_parameters"):
        metrics.randomised(nn.Sequential(nn.Linear(2, 2), Bare()))
    with pytest.raises(ModelError, match="ReLU given"):
        metrics.randomised(nn.ReLU())
    with pytest.raises(DataError, match="how 'upwards' given; expected cascading or independent"):
        metrics.randomised(nn.Linear(2, 2), "upwards")
    attention = nn.MultiheadAttention(4, 2)
    assert [name for name, _ in metrics.randomised(attention)] == ["out_proj", ""]


def windowed_ssim(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Wang et al. 2004 in loops: every window that fits, unbiased moments as skimage has them."""
    line = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window = np.outer(line, line) / line.sum() ** 2
    values, scale = [], 121 / 120
    for y, x in np.ndindex(a.shape[0] - 10, a.shape[1] - 10):
        p, q = a[y : y + 11, x : x + 11], b[y : y + 11, x : x + 11]
        mp, mq = (window * p).sum(), (window * q).sum()
        vp, vq = scale * ((window * p * p).sum() - mp**2), scale * ((window * q * q).sum() - mq**2)
        cov = scale * ((window * p * q).sum() - mp * mq)
        top = (2 * mp * mq + 0.01**2) * (2 * cov + 0.03**2)
        values.append(top / ((mp**2 + mq**2 + 0.01**2) * (vp + vq + 0.03**2)))
    return float(np.mean(values))


def test_ssim_and_correlations_by_definition() -> None:
    a, b = draw(0, 3, 16, 14), draw(1, 3, 16, 14, levels=4)
    pairs = list(zip(a.numpy(), b.numpy(), strict=True))
    assert_close(metrics.ssim(a, b), [windowed_ssim(x, y) for x, y in pairs], 1e-9)
    assert_close(metrics.ssim(a, a), [1] * 3)
    signed = a - 0.5
    found = metrics.spearman(signed, b, absolute=False)
    assert_close(found, [stats.spearmanr(x.ravel(), y.ravel())[0] for x, y in pairs])
    absolute = [stats.spearmanr(abs(x - 0.5).ravel(), y.ravel())[0] for x, y in pairs]
    assert_close(metrics.spearman(signed, b), absolute)
    c, d = draw(2, 2, 64, 50), draw(3, 2, 64, 50)
    for cell, side in ((None, 4), (16, 16)):  # 16 px of 224 are 4 of 50
        expected = [
            stats.spearmanr(hog(x, pixels_per_cell=(side, side)), hog(y, pixels_per_cell=(side, side)))[0]
            for x, y in zip(c.numpy(), d.numpy(), strict=True)
        ]
        assert_close(metrics.hog_similarity(c, d, cell), expected)
    assert_close(metrics.hog_similarity(c, c), [1] * 2)


@pytest.mark.parametrize("measure", [metrics.ssim, metrics.spearman, metrics.hog_similarity])
def test_constant_maps_are_alike_to_nothing(measure: Callable[[Tensor, Tensor], Tensor]) -> None:
    flat, other = torch.full((2, 48, 48), 0.3), draw(0, 2, 48, 48)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for pair in ((flat, other), (other, flat), (flat, flat)):
            assert measure(*pair).tolist() == [0, 0]
        assert metrics.spearman(2 * (other > 0.5).double() - 1, other).tolist() == [0, 0]  # +1 and -1 are one size


# what is wrong with the input

IMAGES, MAPS, CLASSES = scene(0)
NAN = MAPS.clone()
NAN[1, 2, 3] = float("nan")
MASKS = np.ones((3, SIDE, SIDE), bool)
HOLE = MASKS.copy()
HOLE[1] = False
BOX = [[(0, 0, 2, 2)]] * 3
WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "kept share 0": (lambda: metrics.strongest_pixels(MAPS, 0), "share 0 given; expected more than 0 and at most 1"),
    "share": (lambda: metrics.faithfulness(squashed, IMAGES, MAPS, CLASSES, 1.5), r"share 1\.5 given"),
    "nan": (lambda: metrics.complexity(NAN), "NaN.*expected finite"),
    "map range": (lambda: metrics.complexity(MAPS * 2), r"values from .* to 1\.9.* given; expected 0 to 1"),
    "dims": (lambda: metrics.complexity(MAPS[0]), r"\[6, 6\] given; expected a floating point Tensor \[N, H, W\]"),
    "integers": (lambda: metrics.strongest_pixels(MAPS.long(), 0.5), r"torch\.int64.*expected a floating point"),
    "images": (lambda: metrics.deletion(squashed, IMAGES[0], MAPS, CLASSES, 4), r"expected .*\[N, C, H, W\]"),
    "map shape": (
        lambda: metrics.deletion(squashed, IMAGES, MAPS[:, :5], CLASSES, 4),
        r"maps: \[3, 5, 6\] given; expected \[3, 6, 6\]",
    ),
    "classes dtype": (lambda: metrics.deletion(squashed, IMAGES, MAPS, CLASSES.int(), 4), "int32.*expected an int64"),
    "classes count": (lambda: metrics.road(squashed, IMAGES, MAPS, CLASSES[:2]), r"\[2\] given; expected .* \[3\]"),
    "class high": (
        lambda: metrics.faithfulness(squashed, IMAGES, MAPS, CLASSES + 1),
        "classes: 3 given; expected less than 3",
    ),
    "class low": (lambda: metrics.insertion(squashed, IMAGES, MAPS, CLASSES - 1, 4), "-1 given; expected 0 or more"),
    "batch": (lambda: metrics.faithfulness(squashed, IMAGES, MAPS, CLASSES, batch_size=0), "batch_size 0 given"),
    "fill": (
        lambda: metrics.faithfulness(squashed, IMAGES, MAPS, CLASSES, fill=torch.zeros(3)),
        r"fill \[0\.0, 0\.0, 0\.0\] given; expected a finite number or a Tensor \[2\]",
    ),
    "logits": (
        lambda: metrics.faithfulness(lambda x: 9 * squashed(x), IMAGES, MAPS, CLASSES),
        "expected probabilities, as softmax",
    ),
    "scores nan": (lambda: metrics.deletion(lambda x: squashed(x) / 0 * 0, IMAGES, MAPS, CLASSES, 4), "nan returned"),
    "scores shape": (lambda: metrics.deletion(lambda x: x.sum(), IMAGES, MAPS, CLASSES, 4), r"\[\] returned for"),
    "steps": (lambda: metrics.deletion(squashed, IMAGES, MAPS, CLASSES, 37), "37 steps given; expected 1 to 36"),
    "blur": (
        lambda: metrics.insertion(squashed, IMAGES, MAPS, CLASSES, 4, blur=lambda x: x[..., 1:]),
        r"blur: .*expected the same",
    ),
    "window": (lambda: metrics.gaussian_blur(IMAGES, 10), "window of 10 pixels.*expected an odd size"),
    "fractions": (lambda: metrics.road(squashed, IMAGES, MAPS, CLASSES, (0.5, 1.0)), "expected one or more between"),
    "order": (
        lambda: metrics.road(squashed, IMAGES, MAPS, CLASSES, order="first"),
        "order 'first' given; expected most or least",
    ),
    "noise": (lambda: metrics.road_combined(squashed, IMAGES, MAPS, CLASSES, noise=-1), "noise -1 given"),
    "nothing left": (lambda: metrics.impute(IMAGES[0].numpy(), MASKS[0]), "all 36 pixels are missing"),
    "missing shape": (lambda: metrics.impute(IMAGES[0].numpy(), MASKS), "expected .C,H,W., .H,W."),
    "pair": (lambda: metrics.coherency(MAPS, MAPS[:2]), r"\[2, 6, 6\] given; expected \[3, 6, 6\]"),
    "adcc range": (lambda: metrics.adcc(CLASSES * 1.0, CLASSES / 9, CLASSES / 9), "drop: 0 to 2 given; expected frac"),
    "adcc shape": (lambda: metrics.adcc(MAPS[0, 0], MAPS[0, 0], MAPS[0, 0, :2]), r"complexity: \[2\] given"),
    "mask dtype": (lambda: metrics.energy(MAPS, MASKS.astype(int)), r"int64 \[3, 6, 6\] given; expected bool"),
    "mask shape": (lambda: metrics.iou(MAPS, MASKS[:, 1:], 0.5), r"bool \[3, 5, 6\] given; expected"),
    "mask empty": (lambda: metrics.pointing_game(MAPS, HOLE), "image 1 has no object pixel"),
    "tolerance": (lambda: metrics.pointing_game(MAPS, MASKS, -1), "tolerance -1 given"),
    "threshold": (lambda: metrics.iou(MAPS, MASKS, 1.5), r"thresholds \[1\.5\] given"),
    "descending": (lambda: metrics.best_iou(MAPS, MASKS, [0.5, 0.2]), "expected one or more, ascending"),
    "box count": (lambda: metrics.energy(MAPS, BOX[:2]), "boxes of 2 images given; expected 3"),
    "box outside": (lambda: metrics.energy(MAPS, [*BOX[:2], [(0, 0, 2, 7)]]), "image 2: .*within 6 x 6"),
    "box empty": (lambda: metrics.max_box_accuracy(MAPS, [[], *BOX[:2]]), "boxes of image 0: .*expected a list"),
    "delta": (lambda: metrics.max_box_accuracy(MAPS, BOX, (0.0,)), "delta 0 given; expected more than 0"),
    "deltas": (lambda: metrics.max_box_accuracy(MAPS, BOX, ()), "no deltas given"),
    "ssim size": (lambda: metrics.ssim(MAPS, MAPS), "maps of 6 x 6 given; expected 11 x 11"),
    "hog size": (lambda: metrics.hog_similarity(MAPS, MAPS, 16), "expected 48 x 48 or more"),
    "hog cell": (lambda: metrics.hog_similarity(MAPS, MAPS, 0), "cell 0 given; expected 1 pixel or more"),
    "spearman": (lambda: metrics.spearman(MAPS, NAN), "b: values that are NaN"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_inputs_are_told(case: str) -> None:
    call, message = WRONG[case]
    with pytest.raises(DataError, match=message):
        call()


def test_the_registry_names_every_metric() -> None:
    lower = {"average_drop", "complexity", "deletion", "road_most", "ssim", "spearman", "hog_similarity"}
    lower |= {"saliency_metric", "best_saliency_metric", "infidelity", "max_sensitivity", "random_logit"}
    higher = {"increase", "average_gain", "coherency", "adcc", "insertion", "road_least", "road_combined"}
    higher |= {"pointing_game", "energy", "iou", "best_iou", "max_box_acc", "max_box_acc_v2", "pxap", "sparseness"}
    assert {name for name, metric in METRICS.items() if metric.higher_is_better} == higher
    assert {name for name, metric in METRICS.items() if not metric.higher_is_better} == lower
    assert all(
        name == metric.name and metric.title and metric.unit and metric.source for name, metric in METRICS.items()
    )
