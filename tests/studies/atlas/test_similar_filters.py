"""Which filters answer alike: correlations, duplicates, and filters that are silent."""

from __future__ import annotations

import numpy as np
import pytest

from deconvviz.studies.atlas import similarity


def test_similarity_is_the_correlation(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    maxima = np.maximum(rng.normal(0.3, 1, (50, 14)), 0).astype(np.float32)
    channels = np.array([1, 2, 4, 7, 8, 9, 11, 13])
    expected = np.corrcoef(maxima[:, channels].T.astype(np.float64))
    np.fill_diagonal(expected, -2)
    for at_once in (512, 3):
        monkeypatch.setattr(similarity, "AT_ONCE", at_once)
        found = similarity.similar_filters(maxima, channels, 6)
        order = np.argsort(-expected, 1)[:, :6]
        assert np.array_equal(found.neighbours, channels[order])
        np.testing.assert_allclose(found.similarity, np.take_along_axis(expected, order, 1), atol=1e-6)
        assert (found.duplicate_of == -1).all()


def test_duplicates_and_silent_filters() -> None:
    rng = np.random.default_rng(3)
    a, b = np.maximum(rng.normal(0, 1, (2, 60)), 0)
    rare = np.zeros((2, 60))
    rare[:, :5] = np.arange(5)  # they agree, in too few images to say so
    often = np.zeros((2, 60))
    often[:, :11] = np.arange(11)
    noisy = a + 2 * np.abs(rng.normal(0, 1, 60))
    dead = np.zeros(60)
    maxima = np.stack([b, a, 3 * a, dead, rare[0], rare[1], noisy, 0.5 * a, *often], 1).astype(np.float32)
    found = similarity.similar_filters(maxima, np.arange(10), 3)
    assert found.duplicate_of.tolist() == [-1, -1, 1, -1, -1, -1, -1, 1, -1, 8]
    assert found.neighbours[3].tolist() == [-1, -1, -1] and found.similarity[3].tolist() == [0, 0, 0]
    assert 3 not in found.neighbours and found.neighbours[4, 0] == 5 and found.neighbours[1, :2].tolist() == [2, 7]
    alone = similarity.similar_filters(maxima, np.array([2]), 3)
    assert alone.neighbours.shape == (1, 0) and alone.duplicate_of.tolist() == [-1]
    pair = similarity.similar_filters(maxima, np.array([7, 2]), 3)  # in the order given; only those shown
    assert pair.neighbours.tolist() == [[2], [7]] and pair.duplicate_of.tolist() == [2, -1]
