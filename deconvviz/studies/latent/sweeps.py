"""Sweeps: one place of z is changed and the others stay; and how categorical codes agree with a scorer's classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconvviz.studies.latent.model import LatentModel, Rows
from deconvviz.studies.latent.options import LatentOptions
from deconvviz.studies.latent.result import Sweeps
from deconvviz.types import Floats, Ints

BASES, SWEPT = 4, 6  # samples by which places are compared; places that are drawn
PERMUTATIONS = 200


def mutual_information(first: Ints, second: Ints) -> float:
    """Return the mutual information of two labellings, int64 [n] each, in nats.

    Source: Cover and Thomas 2006, equation 2.28, with the observed shares for the probabilities.

    >>> round(mutual_information(np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0])), 4)
    0.6931
    """
    joint = np.zeros((int(first.max()) + 1, int(second.max()) + 1))
    np.add.at(joint, (first, second), 1 / len(first))
    apart = joint.sum(1, keepdims=True) * joint.sum(0)
    there = joint > 0
    return float((joint[there] * np.log(joint[there] / apart[there])).sum())


def measured_sweeps(
    model: LatentModel,
    images: Callable[[NDArray[Any]], NDArray[np.uint8]],
    z: Rows,
    values: Floats,
    classes: Ints | None,
    class_count: int,
    how: LatentOptions,
) -> Sweeps:
    """Return the sweeps of a generator.

    Args:
        model: the generator.
        images: from z [n, d] to pictures, uint8 [n, H, W, C].
        z: the samples.
        values: float64 [S], the values of a swept place.
        classes: int64 [samples], the class that the scorer gives to each image; None without a scorer.
        class_count: how many classes it knows.
        how: `rows` and `seed`.

    Source: sweeps as in InfoGAN, Chen et al. 2016, figure 2; the measure of change and the permutations are our choice.
    """
    one_hot = np.zeros(model.size, bool)
    for first, stop in model.categorical:
        one_hot[first:stop] = True
    ends = np.repeat(z[None, :BASES], model.size, 0)
    ends = np.stack([ends, ends])
    for place in range(model.size):
        ends[:, place, :, place] = [[values[0]], [values[-1]]]
    pair = images(ends.reshape(-1, model.size)).reshape(2, model.size, -1).astype(np.float32) / 255
    change = np.abs(pair[1] - pair[0]).mean(1).astype(np.float64)
    ranked = np.argsort(-np.where(one_hot, -1, change), kind="stable")
    others = [place for place in ranked.tolist() if place not in model.codes and not one_hot[place]]
    places = np.array([*model.codes, *others][: max(SWEPT, len(model.codes))], np.int64)
    swept = np.repeat(z[None, None, 0], len(places), 0).repeat(len(values), 1)
    for row, place in zip(swept, places.tolist(), strict=True):
        row[:, place] = values
    drawn = images(swept.reshape(-1, model.size)) if len(places) else np.zeros((0, *images(z[:1]).shape[1:]), np.uint8)
    return Sweeps(
        change=change,
        values=values,
        places=places,
        images=drawn.reshape(len(places), len(values), *drawn.shape[1:]),
        categories=_categories(model, images, z[: how.rows]),
        sizes=np.array([stop - first for first, stop in model.categorical], np.int64),
        **_agreement(model, z, classes, class_count, how.seed),
    )


def _categories(model: LatentModel, images: Callable[[NDArray[Any]], NDArray[np.uint8]], z: Rows) -> NDArray[np.uint8]:
    """Return the images of samples for each category, uint8 [K, R, most, H, W, C]."""
    most = max((stop - first for first, stop in model.categorical), default=0)
    shape = images(z[:1]).shape[1:]
    found = np.zeros((len(model.categorical), len(z), most, *shape), np.uint8)
    for number, (first, stop) in enumerate(model.categorical):
        changed = np.repeat(z[:, None], stop - first, 1)
        changed[:, :, first:stop] = np.eye(stop - first)
        made = images(changed.reshape(-1, model.size))
        found[number, :, : stop - first] = made.reshape(len(z), stop - first, *shape)
    return found


def _agreement(model: LatentModel, z: Rows, classes: Ints | None, class_count: int, seed: int) -> dict[str, Any]:
    """Return counts, information and chance of `Sweeps`."""
    most = max((stop - first for first, stop in model.categorical), default=0)
    counts = np.zeros((len(model.categorical), most, class_count), np.int64)
    information, chance, rng = list[float](), list[float](), np.random.default_rng(seed)
    for number, (first, stop) in enumerate(model.categorical if classes is not None else ()):
        assert classes is not None
        codes = z[:, first:stop].argmax(1)
        np.add.at(counts[number], (codes, classes), 1)
        information.append(mutual_information(codes, classes))
        permuted = [mutual_information(codes, rng.permutation(classes)) for _ in range(PERMUTATIONS)]
        chance.append(float(np.quantile(permuted, 0.95)))
    return {"counts": counts, "information": np.array(information), "chance": np.array(chance)}
