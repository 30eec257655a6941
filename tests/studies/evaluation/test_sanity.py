"""The sanity check tells a method that ignores the weights from one that reads them; mistakes are told as they are."""

from __future__ import annotations

import csv
import pathlib

import numpy as np
import pytest
import torch
from skimage import filters
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.cam.shaping import min_max
from deconvviz.data.feed import Feed
from deconvviz.data.pack import pack
from deconvviz.studies.evaluation.mistakes import find_mistakes
from deconvviz.studies.evaluation.sanity import explanation_by, sanity_check
from deconvviz.studies.evaluation.sanity_result import save_sanity_checks


@pytest.fixture(scope="module")
def demo() -> tuple[nn.Module, dv.Preprocess, Tensor]:
    loaded = dv.load_model("demo")
    preprocess, scenes = dv.Preprocess.from_dict(loaded.settings), dv.Scenes(6, seed=41)
    return loaded.model, preprocess, torch.stack([preprocess(scenes[n][0]) for n in range(6)])


def edges(model: nn.Module, x: Tensor) -> Tensor:
    """A planted edge detector: it looks like an explanation and knows nothing of the network."""
    edges = [filters.sobel(one.mean(0).numpy()) for one in x]  # type: ignore[no-untyped-call]
    return min_max(torch.from_numpy(np.stack(edges)))


def by(name: str, layer: str | None = None) -> object:
    return lambda model, x: dv.cam(name, dv.capture(model, tuple(x.shape[1:])), layer)(x)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_edge_detector_fails(demo: tuple[nn.Module, dv.Preprocess, Tensor]) -> None:
    model, _, x = demo
    before = {name: p.clone() for name, p in model.state_dict().items()}
    planted = sanity_check(edges, model, x)
    assert not planted.passes() and "FAILS" in repr(planted)
    assert planted.layers[0] == "fc8" and planted.layers[-1] == "conv1" and len(planted.layers) == 8
    assert all(np.allclose(values, 1) for values in planted.similarity.values())
    for name, layer in (("grad-cam", "relu5"), ("gradient-x-input", None)):
        real = sanity_check(by(name, layer), model, x)  # type: ignore[arg-type]
        assert real.passes() and "passes" in repr(real), name
    assert all(torch.equal(before[name], p) for name, p in model.state_dict().items())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_independent_and_its_table(demo: tuple[nn.Module, dv.Preprocess, Tensor], tmp_path: pathlib.Path) -> None:
    model, _, x = demo
    found = sanity_check(by("hirescam", "relu5"), model, x[:2], "independent")  # type: ignore[arg-type]
    found.save_csv(tmp_path / "s.csv")
    with (tmp_path / "s.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["layer"] for row in rows] == list(found.layers) and set(rows[0]) == {"layer", "spearman", "ssim", "hog"}
    assert float(rows[0]["spearman"]) == pytest.approx(float(found.similarity["spearman"][0].mean()), abs=1e-6)


def test_mistakes(demo: tuple[nn.Module, dv.Preprocess, Tensor], tmp_path: pathlib.Path) -> None:
    """Every wrong image and no other, with both classes' probabilities and the correlation of their maps."""
    _, preprocess, _ = demo
    pack(dv.Scenes(30, seed=42), tmp_path / "s.h5", progress=False)
    store = dv.ImageStore.open(tmp_path / "s.h5")
    spoiled = dv.load_model("demo").model
    with torch.no_grad():  # a network that takes cats for owls
        spoiled.fc8.weight[0], spoiled.fc8.bias[0] = 0, -50
    network = dv.capture(spoiled, (3, 64, 64))
    explainer = dv.cam("grad-cam", network, "relu5")
    order = np.arange(10)
    found = find_mistakes(network, Feed(store, preprocess), explainer, order, batch_size=7)
    x = torch.stack([preprocess(store[n][0]) for n in range(30)])
    shares = network(x).softmax(1)
    wrong = [n for n in range(30) if int(shares[n].argmax()) != store.labels[n]]
    assert [m.image for m in found.records] == wrong and len(wrong) >= 3 and found.labelled == 30
    for m in found.records:
        assert (m.true, m.predicted) == (store.labels[m.image], int(shares[m.image].argmax()))
        assert m.p_predicted == pytest.approx(float(shares[m.image].max()), abs=1e-5)
        two = explainer(x[[m.image] * 2], [m.true, m.predicted]).flatten(1).numpy()
        expected = np.corrcoef(two)[0, 1] if two.std(1).min() > 0 else 0
        assert m.overlap == pytest.approx(expected, abs=1e-4)
    pairs = found.confusions()
    assert (
        sum(pair.images for pair in pairs) == len(wrong)
        and pairs[0].true == "cat"
        and pairs[0].images == max(pair.images for pair in pairs)
    )
    found.save_csv(tmp_path / "w.csv", tmp_path / "c.csv")
    assert len((tmp_path / "w.csv").read_text().splitlines()) == 1 + len(wrong)
    assert found.maps.shape == (min(8, len(wrong)), 2, 64, 64)
    first = found.records[0]
    assert np.allclose(found.maps[0], explainer(x[[first.image] * 2], [first.true, first.predicted]).numpy(), atol=1e-5)
    # The outputs may be in another order than the classes, and have names of their own.
    first_two = Feed(store, preprocess, [0, 1])
    shifted = find_mistakes(network, first_two, explainer, (order + 1) % 10, [f"out {n}" for n in range(10)])
    assert [m.true for m in shifted.records] == [int(store.labels[m.image] + 1) % 10 for m in shifted.records]
    assert len(shifted.records) == 2 and shifted.confusions()[0].true.startswith("out ")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_by_the_captured_graph(demo: tuple[nn.Module, dv.Preprocess, Tensor], tmp_path: pathlib.Path) -> None:
    """The graph with a randomised model's weights explains as that model captured anew."""
    model, _, x = demo
    network = dv.capture(model, (3, 64, 64))
    by_graph = sanity_check(explanation_by("grad-cam", network, ["relu5"]), model, x[:3])
    anew = sanity_check(by("grad-cam", "relu5"), model, x[:3])  # type: ignore[arg-type]
    for measure, values in by_graph.similarity.items():
        assert np.allclose(values, anew.similarity[measure], atol=1e-4)
    save_sanity_checks({"grad-cam": by_graph}, tmp_path / "all.csv")
    rows = list(csv.DictReader((tmp_path / "all.csv").open()))
    assert [row["layer"] for row in rows] == list(by_graph.layers) and rows[0]["how"] == "cascading"
