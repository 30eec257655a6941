"""The table of methods by metrics: its numbers from their definitions, its file, its command."""

from __future__ import annotations

import csv
import pathlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import deconvviz as dv
from deconvviz.cam.explain import Explainer
from deconvviz.cli.main import cli
from deconvviz.data.pack import pack
from deconvviz.data.truth import OBJECT, Truth, bounds, open_truth
from deconvviz.errors import DataError, MismatchError
from deconvviz.metrics import max_box_accuracy
from deconvviz.results.results import Result
from deconvviz.studies.evaluation.measure import evaluate
from deconvviz.studies.evaluation.metric_groups import directions
from deconvviz.studies.evaluation.mistakes_result import Mistake, Mistakes
from deconvviz.studies.evaluation.result import Evaluation

METHODS: dict[str, dict[str, Any]] = {"grad-cam": {}, "rise": {"masks": 40}}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[dv.Network, dv.ImageStore, dv.Preprocess]:
    folder = tmp_path_factory.mktemp("evaluation")
    pack(dv.Scenes(12, seed=31), folder / "s.h5", progress=False)
    loaded = dv.load_model("demo")
    return (
        dv.capture(loaded.model, (3, 64, 64)),
        dv.ImageStore.open(folder / "s.h5"),
        dv.Preprocess.from_dict(loaded.settings),
    )


def run(given: tuple[dv.Network, dv.ImageStore, dv.Preprocess], **options: Any) -> Evaluation:
    network, store, preprocess = given
    return evaluate(network, store, METHODS, ["relu5"], preprocess=preprocess, progress=False, **options)


@pytest.mark.slow
def test_the_numbers_by_definition(given: tuple[dv.Network, dv.ImageStore, dv.Preprocess]) -> None:
    network, store, preprocess = given
    found = run(given, limit=5, fill="black", metrics=["faithfulness", "adcc"])
    black = (-torch.tensor(preprocess.mean) / torch.tensor(preprocess.std))[:, None, None]
    explainer = dv.cam("grad-cam", network, "relu5")
    for n in range(5):
        index = store.names.index(found.names[n])
        x = preprocess(store[index][0])[None]
        before = network(x).softmax(1)[0]
        c = int(before.argmax())
        assert found.explained[n] == c and found.labels[n] == store[index][1]
        assert found.probability[n] == pytest.approx(float(before[c]), abs=1e-5)
        map_ = explainer(x, c)[0]
        row = dict(zip(found.columns, found.values["grad-cam"][n], strict=True))
        for share in (100, 50, 15):
            flat = map_.flatten()
            keep = torch.zeros_like(flat)
            best = torch.argsort(flat, descending=True, stable=True)[: round(share / 100 * len(flat))]
            keep[best] = flat[best]
            mask = keep.reshape(map_.shape)
            after = float(network(x * mask + black * (1 - mask)).softmax(1)[0, c])
            p = float(before[c])
            assert row[f"average_drop_{share}"] == pytest.approx(max(0, p - after) / p, abs=1e-4)
            assert row[f"increase_{share}"] == float(after > p)
            assert row[f"average_gain_{share}"] == pytest.approx(max(0, after - p) / (1 - p) if p < 1 else 0, abs=1e-3)
        masked = float(network(x * map_).softmax(1)[0, c])
        again = explainer(x * map_, c)[0]
        alike = (np.corrcoef(map_.flatten(), again.flatten())[0, 1] + 1) / 2
        parts = (alike, 1 - float(map_.mean()), 1 - max(0, float(before[c]) - masked) / float(before[c]))
        assert row["adcc"] == pytest.approx(3 / sum(1 / part for part in parts), abs=1e-3)
        assert row["forward_passes"] == 1  # one whole pass, of which the gradient is taken from the layer on
        assert row["backward_passes"] == 1
    rise = found.values["rise"][:, found.columns.index("forward_passes")]
    backward = found.values["rise"][:, found.columns.index("backward_passes")]
    assert (rise == 41).all() and (backward == 0).all() and (found.values["rise"][:, -1] > 0).all()


def test_other_outputs_for_the_classes_are_refused_where_it_goes_on(
    given: tuple[dv.Network, dv.ImageStore, dv.Preprocess], tmp_path: pathlib.Path
) -> None:
    asked: dict[str, Any] = {"metrics": ["sparseness"], "explain": "label", "out": tmp_path / "e.h5"}
    run(given, outputs=np.arange(10), **asked)
    with pytest.raises(MismatchError, match="targets"):
        run(given, outputs=np.roll(np.arange(10), 1), **asked)


@pytest.mark.slow
def test_interrupted_and_continued(
    given: tuple[dv.Network, dv.ImageStore, dv.Preprocess], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, calls, original = run(given, metrics=["faithfulness"]), 0, Explainer.__call__

    def failing(self: Explainer, *arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return original(self, *arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Explainer, "__call__", failing)
        run(given, metrics=["faithfulness"], out=tmp_path / "e.h5")
    counted = []

    def counting(self: Explainer, *arguments: Any, **options: Any) -> Any:
        counted.append(len(arguments[0]))
        return original(self, *arguments, **options)

    monkeypatch.setattr(Explainer, "__call__", counting)
    ended = run(given, metrics=["faithfulness"], out=tmp_path / "e.h5")
    assert sum(counted) == 12 + 4 and ended.complete  # the first eight images of the first method were kept
    for name in METHODS:
        assert np.allclose(ended.values[name][:, :-1], straight.values[name][:, :-1], atol=1e-6)
        assert np.array_equal(ended.maps[name], straight.maps[name]) and ended.maps[name].max() == 1
    assert np.array_equal(ended.explained, straight.explained)
    old = Result.load(tmp_path / "e.h5", "evaluation", 2)
    Result("evaluation", 1, old.config).save(tmp_path / "old.h5")
    with pytest.raises(DataError, match="older deconvviz; remove it"):
        run(given, metrics=["faithfulness"], out=tmp_path / "old.h5")
    with pytest.raises(MismatchError, match="fill: mean in the file, black now"):
        run(given, metrics=["faithfulness"], out=tmp_path / "e.h5", fill="black")


class Half:
    """What is known of every second scene."""

    fingerprint = "half"

    def __init__(self, truth: Truth) -> None:
        self.truth = truth

    def masks(self, index: int) -> Any:
        return self.truth.masks(index) if index % 2 == 0 else {}


@pytest.mark.slow
def test_where_the_object_is_known(given: tuple[dv.Network, dv.ImageStore, dv.Preprocess]) -> None:
    """Localisation over two batches, the label explained, half of the objects known; the boxes' accuracy over all."""
    network, store, preprocess = given
    scenes = dv.Scenes(12, seed=31)
    known = open_truth(None, scenes)
    assert known is not None
    with pytest.raises(DataError, match="needs to know where the object is"):
        run(given, metrics=["localisation"])
    outputs = np.array([3, 1, 4, 0, 5, 9, 2, 6, 8, 7])
    asked = {"metrics": ["localisation", "curves"], "truth": Half(known), "explain": "label", "outputs": outputs}
    found = run(given, **asked, steps=4)
    assert np.array_equal(found.explained, outputs[store.labels])
    explainer = dv.cam("grad-cam", network, "relu5")
    x = torch.stack([preprocess(store[n][0]) for n in range(12)])
    maps = explainer(x, found.explained.tolist())
    table = {name: found.values["grad-cam"][:, n] for n, name in enumerate(found.columns)}
    masks = [preprocess.mask(known.masks(n)[OBJECT]) for n in range(12)]
    for n in range(12):
        if n % 2:
            assert all(np.isnan(table[name][n]) for name in ("energy", "pointing_game", "max_box_acc"))
            continue
        map_ = maps[n].numpy().astype(float)
        assert table["energy"][n] == pytest.approx(map_[masks[n]].sum() / map_.sum(), abs=1e-4)
        y, x_ = np.unravel_index(map_.argmax(), map_.shape)
        assert table["pointing_game"][n] == masks[n][y, x_]
        lit = map_ > 0.2
        assert table["iou"][n] == pytest.approx((lit & masks[n]).sum() / (lit | masks[n]).sum(), abs=0.01)
    even = max_box_accuracy(maps[::2], [[bounds(masks[n])] for n in range(0, 12, 2)])
    assert np.array_equal(table["max_box_acc"][::2], even.v1.numpy())
    assert np.allclose(table["max_box_acc_v2"][::2], even.v2.numpy())
    curve = found.curves["grad-cam/deletion"]
    assert curve.shape == (12, 5) and np.allclose(curve[:, 0], found.probability, atol=1e-4)
    assert np.allclose(table["deletion"], (curve.sum(1) - curve[:, 0] / 2 - curve[:, -1] / 2) / 4)
    assert np.array_equal(found.pictures[1], preprocess.picture(store[1][0])) and len(found.maps["rise"]) == 4
    assert np.allclose(found.maps["grad-cam"], maps[:4].numpy(), atol=1e-5)
    better = directions(found.columns)
    assert better["energy"] and not better["deletion"] and "seconds" not in better
    assert directions(("average_drop_15",)) == {"average_drop_15": False}


def test_constant_maps_are_counted(given: tuple[dv.Network, dv.ImageStore, dv.Preprocess]) -> None:
    network, store, preprocess = given
    options = {"occlusion": {"square": 64}}  # one window, the whole picture: a map that is the same everywhere
    found = evaluate(network, store, options, preprocess=preprocess, metrics=["adcc"], limit=3, progress=False)
    table = dict(zip(found.columns, found.values["occlusion"].T, strict=True))
    assert (table["constant"] == 1).all() and (table["adcc"] == 0).all()


def test_means_and_intervals() -> None:
    rows = np.array([[1.0, 2.0], [3.0, 2.0], [np.nan, np.nan]])
    found = Evaluation(
        config={},
        sources={},
        values={"a": rows},
        columns=("x", "seconds"),
        explained=np.zeros(3, np.int64),
        labels=np.zeros(3, np.int64),
        probability=np.zeros(3),
        names=("",) * 3,
        classes=(),
    )
    assert found.mean("a").tolist() == [2, 2] and not found.complete
    assert found.measured("a").tolist() == [True, True, False] and found.column("a", "x")[1] == 3
    assert np.allclose(found.error("a"), [1.96 * np.sqrt(2) / np.sqrt(2), 0])
    one = replace(found, values={"a": rows[[0, 2, 2]]})
    assert one.mean("a").tolist() == [1, 2] and np.isnan(one.error("a")).all()  # nothing is known of other images


@pytest.mark.slow
def test_a_float64_network_is_measured_in_float64(given: tuple[dv.Network, dv.ImageStore, dv.Preprocess]) -> None:
    _, store, preprocess = given
    network = dv.capture(dv.load_model("demo").model.double(), (3, 64, 64))
    evaluation = evaluate(
        network, store, ["grad-cam"], ["relu5"], preprocess=preprocess, metrics=["adcc"], limit=2, progress=False
    )
    x = torch.stack([preprocess(store[store.names.index(name)][0]) for name in evaluation.names]).double()
    probabilities = network(x).softmax(1).amax(1)
    assert np.allclose(evaluation.probability, probabilities.numpy(), rtol=1e-9, atol=0)


def test_a_table_in_a_notebook(given: tuple[dv.Network, dv.ImageStore, dv.Preprocess]) -> None:
    """The numbers of the printed table; what stands in a name is text, not markup."""
    found = run(given, limit=2, metrics=["adcc"])
    found.values["<b>"] = found.values.pop("rise")
    shown = found._repr_html_()
    assert "<b>" not in shown and "&lt;b&gt;" in shown and "Means over 2 images" in shown
    assert all(f"<td>{number}</td>" in shown for line in repr(found).splitlines()[1:] for number in line.split()[1:])


@pytest.mark.slow
def test_the_command(given: tuple[dv.Network, dv.ImageStore, dv.Preprocess], tmp_path: pathlib.Path) -> None:
    _, store, _ = given
    table = tmp_path / "table.csv"
    names = tmp_path / "names.txt"  # in another order, so that most images are named wrongly
    names.write_text("\n".join((*store.classes[1:], store.classes[0])))
    boxes = tmp_path / "boxes.csv"
    boxes.write_text(f"image,left,top,right,bottom\n{store.names[0]},20,20,50,50\n")
    asked = ["evaluate", "demo", str(store.path), "-l", "relu5", "-m", "grad-cam", "-m", "rise", "--limit", "4"]
    asked += [
        "--option",
        "masks=20",
        "--steps",
        "5",
        "--truth",
        str(boxes),
        "--metrics",
        "curves,localisation",
        "--explain",
        "label",
        "--classes",
        str(names),
        "--sanity",
        "independent",
        "--sanity-images",
        "1",
        "-o",
        str(table),
        "--quiet",
        "--device",
        "cpu",
    ]
    result = CliRunner().invoke(cli, asked, catch_exceptions=False)
    assert result.exit_code == 0 and "grad-cam" in result.output and "of 4 labelled images" in result.output
    assert (tmp_path / "table.wrong.csv").read_text().startswith("image,true,predicted")
    assert (tmp_path / "table.confusions.csv").read_text().startswith("true,predicted,images")
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["grad-cam", "rise"] and rows[0]["images"] == "4"
    assert 0 <= float(rows[1]["deletion"]) <= 1 and float(rows[1]["forward_passes"]) == 21
    assert float(rows[0]["energy"]) > 0 and (tmp_path / "table.wrong.csv").read_text().count("\n") > 2
    for ending in (".png", ".wrong.png", ".sanity.png"):
        with Image.open(table.with_suffix(ending)) as figure:
            assert figure.width > 500 and figure.height > 500
    assert len((tmp_path / "table.sanity.csv").read_text().splitlines()) == 1 + 2 * 8
    wrong = (
        (["-m", "grad-cam", "--metrics", "ad"], DataError, "'ad' given; expected one of faithfulness"),
        (["-m", "none"], DataError, ""),
        (["-m", "grad-cam", "-o", "x.txt"], DataError, "ends in .csv"),
    )
    for more, kind, complaint in wrong[:1] + wrong[2:]:
        arguments = ["evaluate", "demo", str(store.path), "-o", str(tmp_path / "y.csv"), "--quiet", *more]
        with pytest.raises(kind, match=complaint):
            CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert not (tmp_path / "y.csv").exists() and not (tmp_path / "y.h5").exists()


@pytest.mark.parametrize(
    ("overlap", "reading"),
    [
        (1.0, "same place"),
        (0.8, "same place"),
        (0.79, "in part"),
        (0.31, "in part"),
        (0.3, "different places"),
        (-1.0, "different places"),
    ],
)
def test_what_an_overlap_says(overlap: float, reading: str, tmp_path: pathlib.Path) -> None:
    """One thing under two names, or two things in one image; told on the terminal and in the table."""
    mistake = Mistake(image=0, name="a.jpg", true=1, predicted=2, p_true=0.1, p_predicted=0.8, overlap=overlap)
    mistakes = Mistakes(records=(mistake,), labelled=5, output_names=("x", "y", "z"))
    said = {"same place": "in the same place", "in part": "in part in the same place"}.get(
        reading, "in different places"
    )
    assert mistake.reading == reading
    assert repr(mistakes).splitlines() == [
        f"Mistakes(1 of 5 labelled images; the network finds the two classes {said} for 1)",
        f"  y taken for z: 1 image, correlation of the two maps {overlap:.2f}",
    ]
    mistakes.save_csv(tmp_path / "wrong.csv", tmp_path / "confusions.csv")
    assert (tmp_path / "wrong.csv").read_text().splitlines()[1].split(",")[-1] == reading
