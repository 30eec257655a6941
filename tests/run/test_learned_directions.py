"""Learned directions: planted parts and axes come back, and mining keeps the matrix that it mined."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import deconvviz as dv
from deconvviz.cli.main import cli
from deconvviz.data.memory import InMemoryImages
from deconvviz.errors import DataError
from deconvviz.results.directions import Directions
from deconvviz.studies.mining.directions import subject_of, words_of


def images(count: int = 24) -> InMemoryImages:
    return InMemoryImages(np.random.default_rng(3).integers(0, 255, (count, 8, 8, 3), dtype=np.uint8))


def planted(parts: np.ndarray) -> dv.Network:
    """A network whose layer "1" holds mixtures of `parts` [K, C] at each place, weighted by the colours there."""
    colours, mixing = nn.Conv2d(3, len(parts), 1, bias=False), nn.Conv2d(len(parts), parts.shape[1], 1, bias=False)
    with torch.no_grad():
        colours.weight[:] = torch.tensor(np.eye(3)[: len(parts), :, None, None])
        mixing.weight[:] = torch.tensor(parts.T[:, :, None, None])
    return dv.capture(nn.Sequential(colours, mixing), (3, 8, 8))


PREPROCESS = dv.Preprocess(resize=8, crop=8, mean=(0, 0, 0), std=(1, 1, 1))


def test_nmf_finds_planted_parts() -> None:
    parts = np.zeros((3, 6))
    parts[0, :2], parts[1, 2:4], parts[2, 4:] = (1, 2), (3, 1), (1, 1)
    learned = dv.learn_directions(planted(parts), images(), "1", "nmf", 3, preprocess=PREPROCESS, progress=False)
    overlap = learned.weights @ (parts / np.linalg.norm(parts, axis=1)[:, None]).T
    assert (np.abs(overlap).max(0) > 0.99).all() and learned.about["explained"] > 0.99
    assert (learned.weights >= 0).all()
    np.testing.assert_allclose(np.linalg.norm(learned.weights, axis=1), 1)


def test_pca_equals_the_eigenvectors_of_the_covariance() -> None:
    mixing = np.random.default_rng(1).normal(size=(3, 5))
    network, store = planted(mixing), images()
    learned = dv.learn_directions(network, store, "1", "pca", 2, preprocess=PREPROCESS, progress=False, batch_size=5)
    again = dv.learn_directions(network, store, "1", "pca", 2, preprocess=PREPROCESS, progress=False, batch_size=24)
    np.testing.assert_allclose(learned.weights, again.weights, atol=1e-6)  # the places do not depend on the batches
    x = torch.stack([PREPROCESS(store[n][0]) for n in range(len(store))])
    values = network.activations(x, ["1"])["1"].flatten(2).double().numpy()
    places = [np.random.default_rng((0, n)).permutation(64)[:32] for n in range(len(store))]
    samples = np.concatenate([values[n][:, place].T for n, place in enumerate(places)])
    lengths, axes = np.linalg.eigh(np.cov(samples.T))
    np.testing.assert_allclose(np.abs(learned.weights @ axes[:, ::-1][:, :2]), np.eye(2), atol=1e-4)
    assert learned.about["explained"] == pytest.approx(lengths[::-1][:2].sum() / lengths.sum(), rel=1e-4)
    np.testing.assert_allclose(learned.weights @ samples.mean(0) + learned.bias, 0, atol=1e-5)


def test_a_file_holds_what_was_saved(tmp_path: pathlib.Path) -> None:
    made = Directions(weights=np.eye(3)[:2], bias=np.ones(2), layer="1", kind="pca", about={"seed": 4})
    made.save(tmp_path / "axes.npz")
    read = Directions.load(tmp_path / "axes.npz")
    assert (read.layer, read.kind, read.about) == ("1", "pca", {"seed": 4})
    np.testing.assert_array_equal(read.weights, made.weights)
    np.testing.assert_array_equal(read.bias, made.bias)


def test_a_count_or_kind_out_of_range_is_refused() -> None:
    for arguments in (("nmf", 7), ("nmf", 0), ("ica", 2)):
        with pytest.raises(dv.DeconvvizError):
            dv.learn_directions(planted(np.eye(3)), images(), "1", *arguments, preprocess=PREPROCESS)


def test_mining_keeps_the_matrix_and_the_figure_takes_it(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dv.pack(dv.Scenes(12, seed=1), "scenes.h5", progress=False)

    def run(*words: str) -> str:
        result = CliRunner().invoke(cli, [*words, "--quiet"])
        assert result.exit_code == 0, (result.output, result.exception)
        return result.output

    run("directions", "demo", "scenes.h5", "-l", "relu3", "--count", "3", "-o", "parts.npz")
    np.save("axes.npy", np.random.default_rng(0).normal(size=(2, 77)))
    # The last name is the first one in the alphabet: the network is made anew in the order that was given.
    mine = "mine", "demo", "scenes.h5", "-l", "relu3[parts.npz]", "-l", "relu3[pca:2]", "-l", "relu3[axes.npy]"
    run(*mine, "-o", "mined.h5")
    for shard in ("0/2", "1/2"):
        run(*mine, "--shard", shard, "-o", f"part{shard[0]}.h5")
    explained = Directions.load("parts.npz").about["explained"]
    pathlib.Path("parts.npz").unlink()  # the mined file needs it no more
    merged = CliRunner().invoke(cli, ["merge", "part0.h5", "part1.h5", "-o", "merged.h5"])
    assert merged.exit_code == 0, merged.exception
    whole, joined = dv.load_mined("mined.h5"), dv.load_mined("merged.h5")
    for name in ("relu3[parts.npz]", "relu3[pca:2]"):
        np.testing.assert_allclose(whole[name].values, joined[name].values, rtol=1e-6)  # batches of another size
    run("grid", "merged.h5", "-l", "relu3[pca:2]", "-o", "axes.png", "--rule", "deconvnet", "--dpi", "50")
    assert pathlib.Path("axes.png").is_file() and whole["relu3[pca:2]"].values.shape == (2, 9)
    for file in (whole, joined):
        nmf, pca, matrix = (words_of(file, f"relu3[{source}]") for source in ("parts.npz", "pca:2", "axes.npy"))
        assert "non-negative matrix factorisation (NMF), learned from 12 images" in nmf and "positive end" not in nmf
        assert f"all together explain {100 * explained:.3g} % of the squared values" in nmf
        assert "principal axis (PCA) of the channels of relu3, learned from 12" in pca and "% of the variance" in pca
        assert all("Only its positive end is shown" in words for words in (pca, matrix))
        assert subject_of(file, "relu3[pca:2]") == "PCA axes of relu3" and words_of(file, "relu3") == ""


def test_values_that_do_not_vary_have_no_axes() -> None:
    """Neither has a single sample, which is its own mean."""
    network = dv.capture(nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(1)), (3, 16, 16))
    preprocess = dv.Preprocess(resize=16, crop=16)
    same = InMemoryImages(np.full((3, 16, 16, 3), 99, np.uint8))
    for images in (same, dv.Scenes(1)):
        with pytest.raises(DataError, match="the same values everywhere on these images"):
            dv.learn_directions(network, images, "2", "pca", 1, preprocess=preprocess, progress=False)
