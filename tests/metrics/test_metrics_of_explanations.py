"""Crop, infidelity, max-sensitivity, sparseness, PxAP and random logit: definitions in loops, planted cases, peers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor
from torch.nn.functional import interpolate

from deconvviz import metrics
from deconvviz.errors import DataError
from deconvviz.metrics.crop import CROP_THRESHOLDS
from deconvviz.types import Box

SIDE = 16


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def squashed(images: Tensor) -> Tensor:
    """Probabilities of three classes by a nonlinear function of the pixels."""
    weights = drawn(5, 3, images[0].numel()) * 2 - 1
    return torch.softmax(images.flatten(1).to(weights).tanh() @ weights.T, 1)


def linear(images: Tensor) -> Tensor:
    """Probabilities of two classes that are linear in the pixels: weights that sum to 1, for images in 0..1."""
    weights = drawn(6, images[0].numel())
    share = images.flatten(1).to(weights) @ (weights / weights.sum())
    return torch.stack([share, 1 - share], 1)


def gradient_x_input(images: Tensor) -> Tensor:
    """The gradient of `linear`'s first class times the input, summed over the colours."""
    weights = drawn(6, images[0].numel())
    return (images * (weights / weights.sum()).reshape(images.shape[1:])).sum(1)


def images_and_maps(count: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    return drawn(0, count, 3, SIDE, SIDE), drawn(1, count, SIDE, SIDE), torch.arange(count) % 3


# --- the saliency metric ---


def test_saliency_metric_by_definition() -> None:
    images, maps, classes = images_and_maps()
    maps[2, :5] = 0
    values = metrics.saliency_metric(squashed, images, maps, classes, [0.0, 0.5, 0.97, 0.9999], batch_size=2)
    for n, map_ in enumerate(maps.numpy()):
        for t, threshold in enumerate([0.0, 0.5, 0.97, 0.9999]):
            places = [(y, x) for y in range(SIDE) for x in range(SIDE) if map_[y, x] > threshold]
            rows, columns = zip(*places, strict=True) if places else ((0, SIDE - 1), (0, SIDE - 1))
            crop = images[n : n + 1, :, min(rows) : max(rows) + 1, min(columns) : max(columns) + 1]
            share = crop[0, 0].numel() / SIDE**2
            resized = interpolate(crop, (SIDE, SIDE), mode="bilinear")
            p = float(squashed(resized)[0, classes[n]])
            assert float(values[n, t]) == pytest.approx(math.log(max(share, 0.05)) - math.log(p), abs=1e-12)


def test_saliency_metric_of_a_planted_box_and_of_a_constant_map() -> None:
    """A quarter of the image, whose crop has p = 0.8: log(1/4) - log(0.8). A constant map: -log p of the image."""
    images = torch.full((1, 1, 8, 8), 0.2)
    images[:, :, 4:, :4] = 0.8
    box = torch.zeros(1, 8, 8)
    box[:, 4:, :4] = 1

    def brightness(x: Tensor) -> Tensor:
        mean = x.mean((1, 2, 3))
        return torch.stack([mean, 1 - mean], 1)

    target = torch.tensor([0])
    planted = metrics.saliency_metric(brightness, images, box, target)
    assert planted.shape == (1, len(CROP_THRESHOLDS))
    assert torch.allclose(planted, torch.tensor(math.log(0.25) - math.log(0.8), dtype=torch.float64), atol=1e-6)
    constant = metrics.saliency_metric(brightness, images, torch.zeros(1, 8, 8), target, [0.0, 0.5])
    assert torch.allclose(constant, torch.tensor(-math.log(0.35), dtype=torch.float64), atol=1e-6)
    tiny = torch.zeros(1, 8, 8)
    tiny[0, 5, 1] = 1  # 1/64 of the image counts as 0.05
    assert metrics.saliency_metric(brightness, images, tiny, target, [0.5]).item() == pytest.approx(
        math.log(0.05) - math.log(0.8), abs=1e-6
    )


def test_equal_crops_are_scored_once() -> None:
    images, maps, classes = images_and_maps()
    scored: list[int] = []

    def counting(x: Tensor) -> Tensor:
        scored.append(len(x))
        return squashed(x)

    metrics.saliency_metric(counting, images, torch.zeros_like(maps), classes)
    assert sum(scored) == len(images)


# --- infidelity ---


def test_infidelity_by_definition() -> None:
    images, maps, classes = images_and_maps()
    squares = metrics.random_squares(SIDE, SIDE, 7, seed=3)
    fill = torch.tensor([0.1, 0.2, 0.3])
    effects = metrics.effects_of_squares(squashed, images, classes, squares, fill, batch_size=4)
    for scaled in (True, False):
        values = metrics.infidelity(maps, effects, squares, scaled)
        for n, image in enumerate(images):
            sums, changes = [], []
            for top, left, bottom, right in squares:
                without = image.clone()
                for channel in range(3):
                    without[channel, top:bottom, left:right] = fill[channel]
                before, after = (float(squashed(x[None])[0, classes[n]]) for x in (image, without))
                sums.append(float(maps[n, top:bottom, left:right].sum()))
                changes.append(before - after)
            b = np.dot(sums, changes) / np.dot(sums, sums) if scaled else 1.0
            expected = np.mean([(b * s - e) ** 2 for s, e in zip(sums, changes, strict=True)])
            assert float(values[n]) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_a_linear_network_has_no_infidelity_of_gradient_x_input() -> None:
    images, maps, _ = images_and_maps()
    classes, squares = torch.zeros(3, dtype=torch.int64), metrics.random_squares(SIDE, SIDE)
    effects = metrics.effects_of_squares(linear, images, classes, squares)
    exact = gradient_x_input(images)
    for scaled in (True, False):
        assert metrics.infidelity(exact, effects, squares, scaled).max() < 1e-20
        assert metrics.infidelity(maps, effects, squares, scaled).min() > 1e-9
    assert metrics.infidelity(7 * exact, effects, squares).max() < 1e-20  # the scale is found
    zeros = metrics.infidelity(torch.zeros_like(maps), effects, squares)
    assert np.allclose(zeros, (effects**2).mean(1))


def test_squares_fit_and_have_the_sides_of_the_release() -> None:
    squares = metrics.random_squares(56, 84, 500)
    assert {box.height for box in squares} == {2 * side for side in range(1, 11)}
    assert all(box.height == box.width and box.top >= 0 and box.left >= 0 for box in squares)
    assert max(box.bottom for box in squares) <= 56 and max(box.right for box in squares) <= 84
    assert metrics.random_squares(56, 84, 5, seed=1) != metrics.random_squares(56, 84, 5, seed=2)


@pytest.mark.peers
def test_infidelity_agrees_with_captum() -> None:
    captum = pytest.importorskip("captum.metrics")
    images, maps, classes = images_and_maps(2)
    squares = metrics.random_squares(SIDE, SIDE, 20)
    effects = metrics.effects_of_squares(squashed, images, classes, squares)

    def perturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The squares in their order, once for each image: captum repeats the images side by side."""
        removed = torch.zeros_like(inputs)
        for row, box in zip(removed, squares * (len(inputs) // len(squares)), strict=True):
            row[:, box.top : box.bottom, box.left : box.right] = 1
        return removed / 3, inputs * (1 - removed)  # a third: captum sums the map over three equal colours

    attributions = maps[:, None].expand(-1, 3, -1, -1)
    for scaled in (True, False):
        theirs = captum.infidelity(
            squashed, perturb, images, attributions, target=classes, n_perturb_samples=20, normalize=scaled
        )
        ours = metrics.infidelity(maps, effects, squares, scaled)
        assert torch.allclose(ours, theirs.double(), rtol=1e-5)


# --- max-sensitivity ---


def test_max_sensitivity_by_definition() -> None:
    images, _, _ = images_and_maps()

    def explain(x: Tensor) -> Tensor:
        return (x.double() ** 3).sum(1)

    values = metrics.max_sensitivity(explain, images, explain(images), radius=0.1, draws=4, seed=2)
    rng = np.random.default_rng(2)
    noise = [rng.uniform(-0.1, 0.1, (3, SIDE, SIDE)) for _ in range(4)]
    for n, image in enumerate(images.numpy()):
        before = (image**3).sum(0)
        changes = [np.sqrt(((((image + d) ** 3).sum(0) - before) ** 2).sum()) for d in noise]
        assert float(values[n]) == pytest.approx(max(changes) / np.sqrt((before**2).sum()), rel=1e-9)


def test_what_does_not_change_has_no_sensitivity() -> None:
    """Of a constant map, and of one that is zero; a sign that flips at each draw counts 2."""
    images, maps, _ = images_and_maps()
    ones, zeros = torch.ones_like(maps), torch.zeros_like(maps)
    assert metrics.max_sensitivity(lambda x: ones, images, ones).tolist() == [0, 0, 0]
    assert metrics.max_sensitivity(lambda x: zeros, images, zeros).tolist() == [0, 0, 0]
    assert metrics.max_sensitivity(lambda x: -maps, images, maps).tolist() == pytest.approx([2, 2, 2])


@pytest.mark.peers
@pytest.mark.parametrize("peer", ["captum", "quantus"])
def test_max_sensitivity_agrees_with_peers(peer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The peers are given the noise that is drawn here, because they draw by themselves."""
    images, _, _ = images_and_maps()
    rng = np.random.default_rng(0)
    noise = [rng.uniform(-0.02, 0.02, (3, SIDE, SIDE)) for _ in range(10)]

    def explain(x: Any, **_: Any) -> Any:
        if isinstance(x, tuple):  # captum hands one over, and expects one
            return (explain(x[0]),)
        return (x.double() ** 3).sum(1, keepdim=True)

    if peer == "captum":
        library = pytest.importorskip("captum.metrics")
        repeated = torch.from_numpy(np.tile(np.array(noise), (3, 1, 1, 1)))
        theirs = library.sensitivity_max(explain, images, perturb_func=lambda x: x + repeated).numpy()
    else:
        library = pytest.importorskip("quantus")
        left = iter(noise)

        def perturb(arr: Any, **_: Any) -> Any:
            return arr + next(left).reshape(1, -1)

        metric = library.MaxSensitivity(
            nr_samples=10, perturb_func=perturb, normalise=False, abs=False, disable_warnings=True
        )
        monkeypatch.setattr(metric, "perturb_func", perturb)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * SIDE**2, 3)).double()

        def explained(model: Any, inputs: Any, targets: Any, **_: Any) -> Any:
            return explain(torch.as_tensor(inputs).reshape(-1, 3, SIDE, SIDE)).numpy()

        theirs = metric(model, images.numpy(), np.zeros(3, int), explained(model, images, None), explain_func=explained)
    ours = metrics.max_sensitivity(lambda x: explain(x)[:, 0], images, explain(images)[:, 0])
    np.testing.assert_allclose(ours, np.asarray(theirs, float), rtol=1e-5)


# --- sparseness ---


def test_sparseness_by_definition() -> None:
    """Half the mean difference of all pairs, over the mean."""
    maps = drawn(1, 2, 5, 7) - 0.3
    for values, expected in zip(maps.abs().flatten(1).numpy(), metrics.sparseness(maps), strict=True):
        pairs = np.abs(values[:, None] - values[None]).mean()
        assert float(expected) == pytest.approx(pairs / 2 / values.mean(), abs=1e-12)
    planted = torch.zeros(2, 4, 5)
    planted[0, 2, 3] = 0.7
    assert metrics.sparseness(planted).tolist() == pytest.approx([1 - 1 / 20, 0])
    assert metrics.sparseness(torch.ones(1, 3, 3)).item() == pytest.approx(0)


@pytest.mark.peers
def test_sparseness_agrees_with_quantus() -> None:
    quantus = pytest.importorskip("quantus")
    images, maps, _ = images_and_maps()
    metric = quantus.Sparseness(abs=True, normalise=False, disable_warnings=True)
    theirs = metric(None, images.numpy(), np.zeros(3, int), maps[:, None].numpy())
    np.testing.assert_allclose(metrics.sparseness(maps), theirs, atol=1e-6)  # it adds 1e-7 to each value


# --- PxAP ---


def test_pxap_is_the_average_precision_of_all_pixels() -> None:
    """Of maps with 50 levels, which lie in the middle between thresholds."""
    maps = (drawn(2, 4, 9, 8) * 50).floor() / 50 + 0.0005
    masks = drawn(3, 4, 9, 8).numpy() + maps.numpy() / 3 > 0.7
    curves = metrics.PixelCurves(*metrics.pixel_counts(maps, masks))
    assert curves.pxap == pytest.approx(average_precision_score(masks.ravel(), maps.numpy().ravel()), abs=1e-12)
    for cut in (0, 300, 650):
        marked = maps.numpy() >= cut / 1000
        positives, both = (marked & masks).sum(), marked.sum() + masks.sum()
        assert curves.precision[cut] == pytest.approx(positives / marked.sum())
        assert curves.recall[cut] == pytest.approx(positives / masks.sum())
        assert curves.dice[cut] == pytest.approx(2 * positives / both)
        assert curves.false_positives[cut] == (marked & ~masks).sum()
    for map_, mask in zip(maps, masks, strict=True):
        alone = metrics.PixelCurves(*metrics.pixel_counts(map_[None], mask[None]))
        assert alone.shares() == pytest.approx([average_precision_score(mask.ravel(), map_.numpy().ravel())])


def test_pxap_of_the_mask_itself_and_of_a_map_that_knows_nothing() -> None:
    masks = drawn(4, 3, 9, 8).numpy() > 0.6
    perfect = metrics.PixelCurves(*metrics.pixel_counts(torch.from_numpy(masks.astype(float)), masks))
    assert perfect.pxap == 1 and perfect.shares() == pytest.approx([1, 1, 1])
    constant = metrics.PixelCurves(*metrics.pixel_counts(torch.full((3, 9, 8), 0.5), masks))
    assert constant.pxap == pytest.approx(masks.mean())  # the share of the objects' pixels


def test_what_images_add_to_pxap() -> None:
    """The mean is PxAP; the influence is the derivative by the image's weight, as finite differences find it."""
    maps, masks = drawn(5, 12, 9, 8), drawn(6, 12, 9, 8).numpy() > 0.7
    maps = 0.5 * maps + 0.5 * torch.from_numpy(masks)
    counts = metrics.pixel_counts(maps, masks)
    curves = metrics.PixelCurves(*counts)
    shares = curves.shares()
    assert shares.mean() == pytest.approx(curves.pxap, abs=1e-12)
    for n in (0, 7):
        weights = np.ones((12, 1))
        weights[n] += 1e-6
        more = metrics.PixelCurves(*(weights * part for part in counts)).pxap
        assert shares[n] - curves.pxap == pytest.approx(12 * (more - curves.pxap) / 1e-6, abs=1e-4)


# --- random logit ---


def test_other_classes_are_never_the_own_one_and_do_not_depend_on_the_batch() -> None:
    classes, places = torch.arange(300) % 4, np.arange(300)
    others = metrics.other_classes(classes, 4, places, seed=1)
    assert (others != classes).all() and others.min() == 0 and others.max() == 3
    counts = np.bincount((others - classes).numpy() % 4, minlength=4)
    assert counts[0] == 0 and counts[1:].min() > 70
    assert torch.equal(metrics.other_classes(classes[40:50], 4, places[40:50], seed=1), others[40:50])
    assert not torch.equal(metrics.other_classes(classes, 4, places, seed=2), others)


@pytest.mark.peers
def test_random_logit_agrees_with_quantus() -> None:
    """Quantus draws the class; both compare by SSIM, Quantus with skimage's uniform window of 7 over flat vectors."""
    quantus = pytest.importorskip("quantus")
    structural = pytest.importorskip("skimage.metrics").structural_similarity
    a, b = drawn(1, 2, SIDE, SIDE), drawn(2, 2, SIDE, SIDE)
    images = drawn(3, 2, 3, SIDE, SIDE)
    metric = quantus.RandomLogit(num_classes=2, normalise=False, disable_warnings=True)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * SIDE**2, 2)).double()
    asked: list[int] = []

    def explained(model: Any, inputs: Any, targets: Any, **_: Any) -> Any:
        asked.extend(np.asarray(targets).ravel().tolist())
        return b[:, None].numpy()

    theirs = metric(model, images.numpy(), np.zeros(2, int), a[:, None].numpy(), explain_func=explained)
    assert asked == [1, 1]  # the other of two classes, as here
    assert metrics.other_classes(torch.zeros(2, dtype=torch.int64), 2, np.arange(2)).tolist() == [1, 1]
    for x, y, value, own in zip(a.numpy(), b.numpy(), theirs, metrics.random_logit(a, b), strict=True):
        flat = structural(x.ravel(), y.ravel(), data_range=max(x.max(), y.max()) - min(x.min(), y.min()))
        assert value == pytest.approx(flat, abs=0.02)  # Quantus forgets the map's rows: a window of 7 along the line
        assert float(own) == pytest.approx(float(structural(x, y, gaussian_weights=True, data_range=1.0)), abs=1e-9)


WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "radius": (lambda: metrics.max_sensitivity(lambda x: x[:, 0], *images_and_maps()[:2], radius=0.0), "radius 0"),
    "draws": (lambda: metrics.max_sensitivity(lambda x: x[:, 0], *images_and_maps()[:2], draws=0), "0 draws"),
    "shape": (
        lambda: metrics.max_sensitivity(lambda x: x[:, 0, :3], *images_and_maps()[:2]),
        "maps of the noisy images",
    ),
    "threshold": (lambda: metrics.saliency_metric(squashed, *images_and_maps(), [0.5, 0.2]), "ascending"),
    "scores": (lambda: metrics.saliency_metric(lambda x: squashed(x) * 3, *images_and_maps()), "probabilities"),
    "effects": (
        lambda: metrics.infidelity(images_and_maps()[1], np.zeros((3, 2)), [Box(0, 0, 1, 1)]),
        r"expected \[3, 1\]",
    ),
    "one class": (lambda: metrics.other_classes(torch.tensor([0]), 1, np.array([0])), "2 or more"),
    "no object": (lambda: metrics.PixelCurves(np.zeros((1, 3)), np.ones((1, 3))), "with pixels on an object"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_inputs_are_refused(case: str) -> None:
    call, message = WRONG[case]
    with pytest.raises(DataError, match=message):
        call()
