"""Training on permuted labels, and the check that compares its maps: a planted edge detector fails it."""

from __future__ import annotations

import csv
import pathlib

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.cam.shaping import min_max
from deconvviz.cli.main import cli
from deconvviz.data.feed import Feed
from deconvviz.errors import DataError
from deconvviz.studies.evaluation.permuted_labels import PermutedNetwork, train_on_permuted_labels
from deconvviz.studies.evaluation.sanity import explanation_by, labels_check
from deconvviz.studies.evaluation.sanity_figure import draw_sanity

COUNT, SIDE = 30, 48


def small() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, 4, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(1152, 10)
    ).eval()


@pytest.fixture(scope="module")
def feed() -> Feed:
    return Feed(dv.Scenes(COUNT, seed=5), dv.Preprocess(resize=SIDE, crop=SIDE))


@pytest.fixture(scope="module")
def trained(feed: Feed) -> tuple[nn.Module, PermutedNetwork]:
    model = small()
    return model, train_on_permuted_labels(model, feed, np.arange(10), seed=4)


def test_the_network_learns_the_permuted_labels_and_nothing_else_changes(
    feed: Feed, trained: tuple[nn.Module, PermutedNetwork]
) -> None:
    model, permuted = trained
    assert permuted.fitted and permuted.accuracy >= 0.95 and permuted.epochs < 200
    places, images = next(feed.tensors(COUNT, "cpu"))
    learned = permuted.model(images).argmax(1).numpy()
    assert places.tolist() == list(range(COUNT)) and not permuted.model.training
    expected = np.random.default_rng(4).permutation(feed.labels)  # the same labels, at other images
    assert (learned == expected).mean() == permuted.accuracy and (learned == feed.labels).mean() < 0.4
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), small().state_dict().values(), strict=True)
    )


def test_the_same_seed_gives_the_same_network_and_leaves_random_numbers_alone(feed: Feed) -> None:
    model, before = small(), torch.get_rng_state()
    one, other, third = (
        train_on_permuted_labels(model, feed, np.arange(10), epochs=1, seed=seed).model.state_dict()
        for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one["5.weight"], other["5.weight"]) and not torch.equal(one["5.weight"], third["5.weight"])


def test_outputs_in_another_order_are_those_of_the_labels(feed: Feed) -> None:
    order = (np.arange(10) + 3) % 10
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, 10))
    permuted = train_on_permuted_labels(model, feed, order, seed=2)
    _, images = next(feed.tensors(COUNT, "cpu"))
    expected = order[np.random.default_rng(2).permutation(feed.labels)]
    assert (permuted.model(images).argmax(1).numpy() == expected).mean() == permuted.accuracy >= 0.95


def edges(model: nn.Module, images: Tensor) -> Tensor:
    """A planted method that knows nothing of the network."""
    return min_max((images[:, :, :, 1:] - images[:, :, :, :-1]).abs().mean(1))


def test_an_edge_detector_fails_and_the_gradient_passes(
    feed: Feed, trained: tuple[nn.Module, PermutedNetwork], tmp_path: pathlib.Path
) -> None:
    model, permuted = trained
    _, images = next(feed.tensors(6, "cpu"))
    by_edges = labels_check(edges, model, permuted.model, images)
    assert not by_edges.passes() and by_edges.layers == ("permuted labels",)
    assert all(np.allclose(values, 1) for values in by_edges.similarity.values())
    explain = explanation_by("gradient-x-input", dv.capture(model, (3, SIDE, SIDE)))
    by_gradient = labels_check(explain, model, permuted.model, images)
    assert by_gradient.passes() and by_gradient.similarity["spearman"].shape == (1, 6)
    networks = [dv.capture(each, (3, SIDE, SIDE)) for each in (model, permuted.model)]
    maps = [dv.cam("gradient-x-input", network)(images[:1]).flatten() for network in networks]
    ranks = [map_.abs().argsort().argsort().double() for map_ in maps]
    expected = float(torch.corrcoef(torch.stack(ranks))[0, 1])
    assert by_gradient.similarity["spearman"][0, 0] == pytest.approx(expected, abs=0.02)
    figure = draw_sanity({"edges": by_edges}, "title", "caption")
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["true labels", "permuted labels"]
    assert any(text.get_text() == "labels that the network learned" for text in figure.texts)


def test_what_cannot_be_permuted_is_refused(feed: Feed) -> None:
    one_class = Feed(feed.images, feed.preprocess, np.flatnonzero(feed.labels == feed.labels[0]))
    with pytest.raises(DataError, match="of two classes or more"):
        train_on_permuted_labels(small(), one_class, np.arange(10))
    with pytest.raises(DataError, match="0 epochs"):
        train_on_permuted_labels(small(), feed, np.arange(10), epochs=0)
    with pytest.raises(DataError, match="no scores of classes"):
        train_on_permuted_labels(nn.Sequential(nn.Conv2d(3, 10, 3)), feed, np.arange(10))


@pytest.mark.slow
def test_the_command(tmp_path: pathlib.Path) -> None:
    table = tmp_path / "table.csv"
    asked = ["evaluate", "demo", "scenes:12:7", "-l", "relu5", "-m", "grad-cam", "--metrics", "sparseness"]
    asked += ["--sanity", "labels", "--sanity-images", "2", "--sanity-epochs", "2", "-o", str(table)]
    result = CliRunner().invoke(cli, [*asked, "--quiet", "--device", "cpu"], catch_exceptions=False)
    assert result.exit_code == 0 and "of the permuted labels of 12 images in 2 epochs" in result.output
    assert "raise --sanity-epochs" in result.output and "sanity, labels: grad-cam" in result.output
    with (tmp_path / "table.sanity.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["how"], row["layer"]) for row in rows] == [("labels", "permuted labels")]
    assert (tmp_path / "table.sanity.png").exists()
