"""AdvMask: the shares of its rule, squares that follow crop and flip, and points that belong to the images."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from additions import PLAIN, key_points, small_network, squares, trained

import deconvviz as dv
from deconvviz.data.sampling import random_crops
from deconvviz.errors import DataError, MismatchError, TrainingError
from deconvviz.studies.attack.result import AttackStudy
from deconvviz.studies.training.additions.base import Course, Step
from deconvviz.studies.training.additions.masking import (
    AdvMask,
    Rule,
    _points_by_image,
    hidden_grid,
    hidden_squares,
    moved,
)


def squares_by_pixels(points: list[tuple[int, int]], side: int, rule: Rule, seed: int) -> set[tuple[int, int]]:
    """The rule pixel by pixel, with the same draws."""
    rng = np.random.default_rng(seed)
    length = int(rng.integers(round(rule.shortest * side), round(rule.longest * side) + 1))
    points = [(y, x) for y, x in points if 0 <= y < side and 0 <= x < side]
    hidden: set[tuple[int, int]] = set()
    for number in rng.permutation(len(points)).tolist():
        if len(hidden) / side**2 >= rule.least:
            break
        y, x = points[number]
        square = {
            (i, j)
            for i in range(y - length // 2, y - length // 2 + length)
            for j in range(x - length // 2, x - length // 2 + length)
            if 0 <= i < side and 0 <= j < side
        }
        if len(square & hidden) <= 0.1 * length**2 and len(square | hidden) < 0.5 * side**2:
            hidden |= square
    down, across = rng.integers(-round(rule.shift * side), round(rule.shift * side) + 1, 2).tolist()
    return {(y + down, x + across) for y, x in hidden if 0 <= y + down < side and 0 <= x + across < side}


@pytest.mark.parametrize("rule", [Rule(), Rule(least=0.3), Rule(3 / 32, 16 / 32, 0.45, 0.1), Rule(0.1, 0.1, 0.2, 0.0)])
def test_squares_by_the_rule_pixel_by_pixel(rule: Rule) -> None:
    for seed in range(60):
        points = np.random.default_rng([7, seed]).integers(-3, 35, (seed % 40, 2))
        found = hidden_squares(points, 32, rule, np.random.default_rng(seed))
        expected = squares_by_pixels([(y, x) for y, x in points.tolist()], 32, rule, seed)
        assert {(y, x) for y, x in np.argwhere(found).tolist()} == expected
        assert found.mean() < 0.5


def test_a_square_has_the_length_that_was_drawn() -> None:
    """Not a pixel or two less, as in the released code; 5 to 21 of 32 pixels, each as often."""
    lengths = []
    for seed in range(400):
        hidden = hidden_squares(np.array([[16, 16]]), 32, Rule(shift=0.0), np.random.default_rng(seed))
        rows, columns = np.nonzero(hidden)
        assert hidden.sum() == (np.ptp(rows) + 1) ** 2 == (np.ptp(columns) + 1) ** 2
        lengths.append(int(np.ptp(rows)) + 1)
    assert set(lengths) == set(range(5, 22)) and abs(np.mean(lengths) - 13) < 1


def test_moved_and_grids() -> None:
    mask = np.zeros((5, 6), bool)
    mask[1, 2] = mask[4, 5] = True
    assert np.argwhere(moved(mask, -1, 1)).tolist() == [[0, 3]]
    assert not moved(mask, 9, 0).any() and not moved(mask, 0, -9).any()
    shares = [hidden_grid(96, np.random.default_rng(seed)).mean() for seed in range(300)]
    assert np.mean(shares) == pytest.approx(0.36, abs=0.02)  # (1 - 0.4)^2 of each period
    grid = hidden_grid(32, np.random.default_rng(1))
    assert np.linalg.matrix_rank(grid.astype(float)) <= 1  # rows times columns


def course(images: Any, side: int = 12, resize: int = 16) -> Course:
    preprocess = dv.Preprocess(resize=resize, crop=side, mean=PLAIN.mean, std=PLAIN.std)
    room = dv.Preprocess(resize=resize, crop=resize, mean=PLAIN.mean, std=PLAIN.std)
    from deconvviz.data.feed import Feed

    feed = Feed(images, room, np.arange(30))
    return Course(
        model=small_network(),
        device=torch.device("cpu"),
        recipe=dv.Recipe(),
        preprocess=preprocess,
        training=feed,
        held_out=feed,
        classes=("dark", "bright"),
    )


def attacked(folder: pathlib.Path, method: str = "sparse", images: Any = None, resize: int = 16, **options: Any) -> str:
    preprocess = dv.Preprocess(resize=resize, crop=12, mean=PLAIN.mean, std=PLAIN.std)
    about: dict[str, Any] = {"away_from": "top", "epsilons": [0.3], "progress": False, **options}
    network, store = dv.capture(small_network().eval(), (3, 12, 12)), squares() if images is None else images
    dv.attack(network, store, method, folder / "p.h5", preprocess=preprocess, **about)
    return str(folder / "p.h5")


@pytest.mark.parametrize("epoch", [0, 3, 9, 30])
def test_as_many_images_as_the_rule_says_and_where(epoch: int, tmp_path: pathlib.Path) -> None:
    adding = AdvMask(points=attacked(tmp_path), epochs=10)
    adding.begin(course(squares()))
    wanted = 0.8 * min((epoch + 1) / 10, 1)
    assert adding.probability(epoch) == pytest.approx(wanted)
    count, before = 600, np.full((600, 16, 16, 3), 77, np.uint8)
    step = Step(indices=np.arange(count) % 30, labels=torch.zeros(count), epoch=epoch, number=2, seed=3)
    after = adding.pictures(before, step)
    changed = (after != before).any(3)
    assert (before == 77).all()  # those given are not changed
    masked = changed.any((1, 2))
    assert masked.mean() == pytest.approx(wanted, abs=4 * (wanted * (1 - wanted) / count) ** 0.5)
    assert (after[changed] == np.rint(255 * np.array(PLAIN.mean))).all()  # the mean colour
    shares = changed[masked].mean((1, 2))
    assert shares.max() < 0.5 and (shares > 0.05).mean() > 0.9
    again = adding.pictures(before, step)
    assert np.array_equal(after, again)


def test_what_is_hidden_follows_crop_and_flip(tmp_path: pathlib.Path) -> None:
    """Points are in the picture before the crop; the squares lie around them, wherever crop and flip put them."""
    path = attacked(tmp_path)
    adding = AdvMask(points=path, epochs=1, final=1.0, shortest=0.2, longest=0.2)
    adding.begin(course(squares()))
    study = AttackStudy.load(path)
    of_image = study.points()[study.places.tolist().index(4)]
    assert adding._by_image[4].tolist() == (np.argwhere(of_image) + 2).tolist()  # 12 of 16 px: two on each side
    number = np.arange(16 * 16, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)[None].repeat(20, 0)
    step = Step(indices=np.full(20, 4), labels=torch.zeros(20), epoch=0, number=0, seed=1)
    hidden = adding.pictures(number, step)
    masks = (hidden != number).any(3)
    crops, plain = (random_crops(each, 12, np.random.default_rng(5)) for each in (hidden, number))
    kept = random_crops(masks[..., None].astype(np.uint8), 12, np.random.default_rng(5))[..., 0] > 0
    assert ((crops != plain).any(3) == kept).all() and kept.any()


def test_points_of_the_form_with_a_convolution_are_taken(tmp_path: pathlib.Path) -> None:
    """Those of an attack that is finished: each image has the pixels that the attack has changed."""
    path = attacked(tmp_path, "sparse-convolution", method_options={"steps": 5, "mask_steps": 30}, limit=12)
    adding, study = AdvMask(points=path), AttackStudy.load(path)
    adding.begin(course(squares()))
    assert adding._by_image.keys() == set(study.indices.tolist()) and study.points().any()
    for place, index in enumerate(study.indices.tolist()):
        assert adding._by_image[index].tolist() == (np.argwhere(study.points()[place]) + 2).tolist()
    dataclasses.replace(study, done=5).save(path)
    with pytest.raises(TrainingError, match="sparse-convolution, 5 of 12 images; give one of sparse or sparse-conv"):
        AdvMask(points=path).begin(course(squares()))


def test_an_image_without_points_gets_a_grid(tmp_path: pathlib.Path) -> None:
    adding = AdvMask(points=attacked(tmp_path))
    adding.begin(course(squares()))
    adding._by_image = {}
    hidden = adding.hidden(3, 32, np.random.default_rng(0))
    rng = np.random.default_rng(0)
    hidden_squares(np.zeros((0, 2), np.int64), 32, adding._rule, rng)
    assert np.array_equal(hidden, hidden_grid(32, rng)) and np.linalg.matrix_rank(hidden.astype(float)) == 1


def test_the_kept_images_of_an_attack_have_the_points() -> None:
    noise = np.zeros((2, 2, 3, 4, 4), np.float16)
    noise[1, 1, 2, 3, 0] = 0.1
    arrays = {"noise": noise, "indices": np.array([5, 7, 9]), "places": np.array([0, 2])}
    found = _points_by_image(arrays, 8)
    assert found.keys() == {5, 9} and len(found[5]) == 0 and found[9].tolist() == [[5, 2]]


def test_what_does_not_belong_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "other").mkdir()
    sparse, pgd = attacked(tmp_path), attacked(tmp_path / "other", "fgsm")
    with pytest.raises(TrainingError, match="is of the attack fgsm; give one of sparse"):
        AdvMask(points=pgd).begin(course(squares()))
    with pytest.raises(MismatchError, match="attack the images that the training is given"):
        AdvMask(points=sparse).begin(course(squares(seed=1)))
    with pytest.raises(MismatchError, match="images with resize 16, the training has 14"):
        AdvMask(points=sparse).begin(course(squares(), resize=14))
    with pytest.raises(DataError, match="does not exist"):
        trained(tmp_path / "t.pth", [AdvMask(points=str(tmp_path / "none.h5"))])
    with pytest.raises(TrainingError, match="points '' given; expected the file"):
        AdvMask()
    for options, complaint in (
        ({"epochs": 0}, "epochs 0 given"),
        ({"final": 1.5}, "final 1.5 given"),
        ({"longest": 0.1}, "longest 0.1 given; expected lengths in order"),
    ):
        with pytest.raises(TrainingError, match=complaint):
            AdvMask(points="x", **options)
    none = tmp_path / "none"
    none.mkdir()
    with pytest.raises(TrainingError, match="has no points of the training images"):
        AdvMask(points=attacked(none, keep=0)).begin(course(squares()))
    assert not (tmp_path / "t.pth").exists()


def test_the_points_are_part_of_what_a_training_is(tmp_path: pathlib.Path) -> None:
    """The same points in another file are the same training, others are not."""
    (tmp_path / "b").mkdir()
    first, second = key_points(tmp_path), key_points(tmp_path / "b")
    assert AdvMask(points=first).settings() == AdvMask(points=second).settings()
    (tmp_path / "c").mkdir()
    assert AdvMask(points=attacked(tmp_path / "c")).settings() != AdvMask(points=first).settings()
