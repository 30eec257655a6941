"""The tree over a network's classes: against Ward's method by hand, NBDT's definition, and closed forms."""

from __future__ import annotations

import itertools
import math
import pathlib

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from in_memory import noise
from numpy.typing import NDArray
from torch import nn

import deconvviz as dv
from deconvviz.cli.main import cli
from deconvviz.data.memory import InMemoryImages
from deconvviz.errors import CaptureError, DataError
from deconvviz.studies.tree.figure import CUT, tips_of

Floats = NDArray[np.float64]
PLAIN = dv.Preprocess(resize=10, crop=10)


def model_of(classes: int, seed: int = 0) -> nn.Sequential:
    """A network whose maps have the size of the image, and whose scores are linear in their means."""
    torch.manual_seed(seed)
    pool = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), pool, nn.Flatten(), nn.Linear(8, classes)).eval()


def tree_of(classes: int, seed: int = 0) -> tuple[dv.Network, dv.ClassTree, nn.Sequential]:
    model = model_of(classes, seed)
    network = dv.capture(model, PLAIN.shape)
    return network, dv.tree(network), model


def by_hand(rows: Floats) -> list[tuple[set[int], set[int], float]]:
    """Ward's method: join the two groups whose union adds least to the squared distances from the means."""
    groups: list[set[int]] = [{n} for n in range(len(rows))]
    steps = []

    def distance(a: set[int], b: set[int]) -> float:
        apart = rows[list(a)].mean(0) - rows[list(b)].mean(0)
        return math.sqrt(2 * len(a) * len(b) / (len(a) + len(b)) * float(apart @ apart))

    while len(groups) > 1:
        a, b = min(itertools.combinations(groups, 2), key=lambda pair: distance(*pair))
        steps.append((a, b, distance(a, b)))
        groups = [group for group in groups if group not in (a, b)] + [a | b]
    return steps


def test_the_tree_is_wards_over_rows_of_length_1() -> None:
    _, tree, model = tree_of(6)
    weights = model[4].weight.detach().double().numpy()
    rows = weights / np.linalg.norm(weights, axis=1, keepdims=True)
    for row, (a, b, height) in enumerate(by_hand(rows)):
        joined = [set(tree.members[child].tolist()) for child in tree.merges[row]]
        assert a in joined and b in joined and tree.heights[row] == pytest.approx(height)


def below(tree: dv.ClassTree, node: int, scores: Floats, reached: float) -> dict[int, float]:
    """The probability of each leaf below a node, from the definition."""
    if node < tree.count:
        return {node: reached}
    left, right = tree.merges[node - tree.count].tolist()
    means = [scores[leaves(tree, child)].mean() for child in (left, right)]
    p = math.exp(means[0]) / (math.exp(means[0]) + math.exp(means[1]))
    return below(tree, left, scores, reached * p) | below(tree, right, scores, reached * (1 - p))


def leaves(tree: dv.ClassTree, node: int) -> list[int]:
    if node < tree.count:
        return [node]
    return [leaf for child in tree.merges[node - tree.count].tolist() for leaf in leaves(tree, child)]


def walk(tree: dv.ClassTree, scores: Floats) -> int:
    node = tree.root
    while node >= tree.count:
        node = max(tree.merges[node - tree.count].tolist(), key=lambda child: scores[leaves(tree, child)].mean())
    return int(node)


def test_soft_and_hard_decisions_follow_the_definition() -> None:
    _, tree, _ = tree_of(7, seed=1)
    scores = np.random.default_rng(2).normal(0, 3, (20, 7))
    soft, hard = tree.soft(scores), tree.hard(scores)
    for n in range(20):
        expected = below(tree, tree.root, scores[n], 1.0)
        assert np.allclose(soft[n], [expected[leaf] for leaf in range(7)]) and hard[n] == walk(tree, scores[n])
    assert np.allclose(soft.sum(1), 1) and (soft >= 0).all()
    extreme = tree.soft(np.array([[1e4, -1e4, 0, 0, 5, 0, 0.0]]))
    assert np.isfinite(extreme).all() and extreme.sum() == pytest.approx(1)


def test_a_node_has_the_mean_weights_of_its_leaves() -> None:
    _, tree, model = tree_of(5)
    embedding = np.random.default_rng(3).normal(size=(4, 8))
    weights = model[4].weight.detach().double().numpy()
    of_nodes = np.stack([weights[leaves(tree, node)].mean(0) for node in range(9)])
    assert np.allclose(tree.node_scores(embedding @ weights.T), embedding @ of_nodes.T)


def test_a_tree_of_two_classes_is_softmax() -> None:
    _, tree, _ = tree_of(2)
    scores = np.random.default_rng(4).normal(size=(6, 2))
    expected = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    assert np.allclose(tree.soft(scores), expected) and (tree.hard(scores) == scores.argmax(1)).all()


def test_with_summed_probabilities_the_soft_tree_is_the_network() -> None:
    network, _, model = tree_of(6, seed=9)
    tree = dv.tree(network, nodes="sum")
    scores = np.random.default_rng(5).normal(0, 4, (8, 6))
    own = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    assert np.allclose(tree.soft(scores), own)
    branches = tree.branches(scores)
    for node in range(11):
        above = next((inner for inner in range(6, 11) if node in tree.children(inner)), None)
        if above is not None:
            share = own[:, leaves(tree, node)].sum(1) / own[:, leaves(tree, above)].sum(1)
            assert np.allclose(branches[:, node], share)
    path = dv.tree_path(network, noise(10, 10, seed=7), tree, preprocess=PLAIN, target=2)
    maps = model[:2](PLAIN(noise(10, 10, seed=7))[None])[0].detach().double()
    weights, bias = (each.detach().double() for each in (model[4].weight, model[4].bias))
    for step in path.steps:
        means = maps.mean((1, 2)).requires_grad_()
        scored = weights @ means + bias
        difference = scored[leaves(tree, step.taken)].logsumexp(0) - scored[leaves(tree, step.other)].logsumexp(0)
        (alpha,) = torch.autograd.grad(difference, means)
        expected = torch.tensordot(alpha, maps, 1).clamp(min=0).numpy()
        if expected.max() > expected.min():
            expected = (expected - expected.min()) / (expected.max() - expected.min())
            assert np.allclose(step.map, expected, atol=1e-4)


@pytest.mark.parametrize("ends", ["scores", "probabilities"])
def test_accuracy_and_decisions_are_counted_image_by_image(ends: str) -> None:
    model: nn.Module = model_of(5, seed=3)
    plain = model
    if ends == "probabilities":
        model = nn.Sequential(*model_of(5, seed=3), nn.Softmax(1)).eval()
    labels = np.array([0, 1, 2, 3, 4, 2, 2, -1, 0, 1])
    images = InMemoryImages(noise(10, 10, 10, seed=5), labels, [f"c{n}" for n in range(5)])
    network = dv.capture(model, PLAIN.shape)
    tree = dv.tree(network, images, preprocess=PLAIN, progress=False, batch_size=4)
    known = np.flatnonzero(labels >= 0)
    x = torch.stack([PLAIN(images[int(n)][0]) for n in known])
    scores, truth = plain(x).detach().double().numpy(), labels[known]
    soft = np.array([max(p, key=p.__getitem__) for p in (below(tree, tree.root, row, 1.0) for row in scores)])
    hard = np.array([walk(tree, row) for row in scores])
    measured = tree.accuracy
    assert measured is not None and measured.images == 9
    assert measured.share("plain") == pytest.approx((scores.argmax(1) == truth).mean())
    assert measured.share("soft") == pytest.approx((soft == truth).mean())
    assert measured.share("hard") == pytest.approx((hard == truth).mean())
    for node in range(9):
        assert measured.decisions[node] == sum(int(leaf) in leaves(tree, node) for leaf in hard)
    for inner in range(5, 9):
        here = [n for n in range(9) if hard[n] in leaves(tree, inner) and truth[n] in leaves(tree, inner)]
        branch = [next(c for c in tree.children(inner) if hard[n] in leaves(tree, c)) for n in here]
        right = sum(truth[n] in leaves(tree, child) for n, child in zip(here, branch, strict=True))
        assert (measured.below[inner - 5], measured.right[inner - 5]) == (len(here), right)
    assert "soft tree" in measured.words() and "95 % interval" in measured.words()


def test_the_map_of_a_node_is_grad_cam_of_the_difference() -> None:
    network, tree, model = tree_of(5, seed=6)
    picture = noise(10, 10, seed=7)
    path = dv.tree_path(network, picture, tree, preprocess=PLAIN, target=3)
    assert [step.taken for step in path.steps][-1] == 3 and path.steps[0].node == tree.root
    x = PLAIN(picture)[None]
    maps = model[:2](x)[0].detach().double().numpy()
    weights = model[4].weight.detach().double().numpy()
    product = 1.0
    for step in path.steps:
        alpha = weights[leaves(tree, step.taken)].mean(0) - weights[leaves(tree, step.other)].mean(0)
        expected = np.maximum(np.tensordot(alpha, maps, 1), 0)
        if expected.max() > expected.min():
            expected = (expected - expected.min()) / (expected.max() - expected.min())
            assert np.allclose(step.map, expected, atol=1e-4)
        product *= step.probability
    assert path.soft == pytest.approx(product)
    assert path.decided == int(model(x).argmax())


def test_of_a_thousand_classes_the_top_is_drawn_with_names_as_they_are() -> None:
    rng = np.random.default_rng(8)
    from scipy.cluster import hierarchy

    weights = rng.normal(size=(1000, 6))
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    joined = hierarchy.linkage(weights, "ward")
    names = tuple(f"$cost_{n}$ <b>" for n in range(1000))
    tree = dv.ClassTree(
        network="net", weights=weights, merges=joined[:, :2].astype(np.int64), heights=joined[:, 2], names=names
    )
    tips = tips_of(tree, CUT)
    assert len(tips) == CUT and sorted(np.concatenate([tree.members[tip] for tip in tips])) == list(range(1000))
    figure = dv.draw_tree(tree)
    figure.canvas.draw()  # a name that begins a formula would raise here
    assert sum(": $cost_" in text.get_text() for text in figure.texts) == CUT
    assert tips_of(tree, 1000) == tree.members[tree.root].tolist()


def test_networks_and_images_that_do_not_fit_are_refused() -> None:
    single = dv.capture(model_of(1), PLAIN.shape)
    with pytest.raises(DataError, match="nodes 'median'"):
        dv.tree(tree_of(4)[0], nodes="median")
    with pytest.raises(CaptureError, match="labels that may hold together"):
        dv.tree(single)
    network, tree, _ = tree_of(4)
    with pytest.raises(DataError, match="no labels"):
        dv.tree(network, InMemoryImages(noise(3, 10, 10)), preprocess=PLAIN, progress=False)
    with pytest.raises(DataError, match="3 classes"):
        images = InMemoryImages(noise(3, 10, 10), [0, 1, 2], ["a", "b", "c"])
        dv.tree(network, images, preprocess=PLAIN, progress=False)
    with pytest.raises(DataError, match="classes 0 to 3"):
        dv.tree_path(network, noise(10, 10), tree, preprocess=PLAIN, target=4)
    with pytest.raises(DataError, match="a tree of 4 classes"):
        dv.tree_path(tree_of(3)[0], noise(10, 10), tree, preprocess=PLAIN)


def test_the_command_writes_the_tree_and_the_path(tmp_path: pathlib.Path) -> None:
    from PIL import Image

    Image.fromarray(dv.Scenes(1)[0][0]).save(tmp_path / "scene.png")
    out = tmp_path / "tree.png"
    words = ["tree", "demo", "scenes:10", "--image", str(tmp_path / "scene.png"), "--quiet", "-o", str(out)]
    result = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert result.exit_code == 0 and "hard tree" in result.output, result.output
    assert {path.name for path in tmp_path.iterdir()} == {"scene.png", "tree.png", "tree.path.png", "tree.csv"}
    lines = (tmp_path / "tree.csv").read_text().splitlines()
    assert len(lines) == 20 and lines[1].startswith("0,cat,,,0,1,") and lines[-1].split(",")[6] == "10"
    refused = CliRunner().invoke(cli, ["tree", "demo", "-t", "cat", "-o", str(out)])
    assert isinstance(refused.exception, DataError) and "without --image" in str(refused.exception)
