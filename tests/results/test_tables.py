"""Tables: their columns are declared, their frames hold what their files hold, and winners come with their boxes."""

from __future__ import annotations

import csv
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from torch import nn

import deconvviz as dv
from deconvviz.data.memory import InMemoryImages
from deconvviz.errors import DataError, MismatchError
from deconvviz.results.columns import TABLES
from deconvviz.results.tables import to_frame, undeclared, write_csv
from deconvviz.studies.ablation.result import Variant, VariantTable
from deconvviz.studies.diagnosis.finding import Evidence, Finding
from deconvviz.studies.diagnosis.result import Diagnosis
from deconvviz.studies.evaluation.mistakes_result import Mistake, Mistakes
from deconvviz.studies.evaluation.result import Evaluation
from deconvviz.studies.mining.result import Mined


def read(path: pathlib.Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def images() -> InMemoryImages:
    """Three pictures of a bright pixel on black, at (2, 3), (0, 0) and (7, 7), with falling brightness."""
    pictures = np.zeros((3, 8, 8, 1), np.uint8)
    pictures[0, 2, 3], pictures[1, 0, 0], pictures[2, 7, 7] = 255, 200, 100
    return InMemoryImages(pictures, [1, 0, -1], ["cat", "dog"], ["a.png", "b.png", "c.png"])


@pytest.fixture(scope="module")
def mined() -> Mined:
    """Two filters that hold the sum of 3 x 3 pixels and its negative, at every second place, after padding by 1."""
    model = nn.Conv2d(1, 2, 3, stride=2, padding=1, bias=False)
    nn.init.ones_(model.weight)
    model.weight.data[1] *= -1
    network = dv.capture(nn.Sequential(model), (1, 8, 8))
    plain = dv.Preprocess(resize=None, crop=8, mean=(0.0,), std=(1.0,))
    return dv.mine(network, images(), ["0"], k=4, preprocess=plain, progress=False)


def test_winners_by_hand(mined: Mined, tmp_path: pathlib.Path) -> None:
    mined.save_csv(tmp_path / "t.csv", images())
    rows = read(tmp_path / "t.csv")
    assert len(rows) == 6 and list(rows[0]) == [column.name for column in TABLES["winners"].columns]
    first, second, third = rows[:3]
    assert (first["layer"], first["channel"], first["rank"]) == ("0", "0", "0")
    assert (first["image"], first["name"], first["class"]) == ("0", "a.png", "dog")
    # Windows begin at 2 y - 1 and 2 x - 1. The pixel (2, 3) is in those of y = 1, x = 1 and 2: the first is taken.
    assert [first[key] for key in ("value", "y", "x", "top", "left", "bottom", "right")] == list("1111144")
    assert [second[key] for key in ("y", "x", "top", "left", "bottom", "right")] == list("000022")  # cut to the image
    assert second["value"] == f"{200 / 255:.7g}" and (third["name"], third["class"]) == ("c.png", "")
    assert [third[key] for key in ("y", "x", "top", "left", "bottom", "right")] == ["3", "3", "5", "5", "8", "8"]


def test_winners_without_images_and_of_older_files(mined: Mined, tmp_path: pathlib.Path) -> None:
    import dataclasses

    mined.save_csv(tmp_path / "t.csv")
    assert read(tmp_path / "t.csv")[0]["name"] == "" and read(tmp_path / "t.csv")[0]["bottom"] == "4"
    sources = {key: value for key, value in mined.sources.items() if key != "receptive_fields"}
    old = dataclasses.replace(mined, sources=sources)
    old.save_csv(tmp_path / "t.csv", images())
    assert [read(tmp_path / "t.csv")[0][key] for key in ("name", "top", "right")] == ["a.png", "", ""]
    with pytest.raises(MismatchError, match="not those that were mined"):
        mined.save_csv(tmp_path / "u.csv", InMemoryImages(np.zeros((3, 8, 8, 1), np.uint8)))
    assert not (tmp_path / "u.csv").exists()


def test_the_table_is_in_the_file_as_well(mined: Mined, tmp_path: pathlib.Path) -> None:
    mined.save(tmp_path / "m.h5")
    dv.load_mined(tmp_path / "m.h5").save_csv(tmp_path / "again.csv", images())
    mined.save_csv(tmp_path / "t.csv", images())
    assert (tmp_path / "again.csv").read_text() == (tmp_path / "t.csv").read_text()


def test_columns_that_are_not_declared_are_not_written(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="share is no column"):
        write_csv(tmp_path / "t.csv", "confusions", ["true", "share"], [])
    with pytest.raises(ValueError, match="mean_overlap is missing"):
        to_frame("confusions", ["true", "predicted", "images"], [])
    assert not (tmp_path / "t.csv").exists()
    assert undeclared("probes", ["layer", "values", "svm_15", "svm_15_deviation"]) == ""


def test_every_column_has_a_type_and_a_meaning() -> None:
    for kind, table in TABLES.items():
        assert table.what.endswith(".") and table.written_by, kind
        for column in table.columns:
            assert column.type in ("text", "integer", "number", "flag") and column.meaning.endswith("."), (kind, column)
            assert column.unit or column.type in ("text", "integer", "flag") or column.name == "*", (kind, column)


def test_without_pandas_it_says_what_to_install(mined: Mined, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(DataError, match=r"pip install pandas$") as error:
        mined.to_frame()
    assert "\n" not in str(error.value)


# --- frames


def evaluation() -> Evaluation:
    values = np.array([[0.25, 0.0, 1.0, 0.0, 1 / 3], [np.nan, np.nan, np.nan, np.nan, np.nan]])
    return Evaluation(
        config={},
        sources={},
        values={"grad-cam": values, "rise": values[::-1]},
        columns=("adcc", "constant", "forward_passes", "backward_passes", "seconds"),
        explained=np.array([3, -1]),
        labels=np.array([1, -1]),
        probability=np.array([0.9, 0.0]),
        names=("a.png", "b.png"),
        classes=("cat", "dog"),
    )


def findings() -> Diagnosis:
    evidence = Evidence(kind="bars", arrays={"values": np.zeros(1)})
    finding = Finding(
        check="dead",
        severity="warning",
        layer="conv1",
        channels=(3, 5),
        what="two are dead",
        value=0.5,
        threshold=0.1,
        unit="share",
        source="measured",
        remedy="none",
        evidence=evidence,
    )
    return Diagnosis(config={}, sources={}, checks=(), findings=(finding,))


def variants() -> VariantTable:
    full = {"name": "full", "parameters": 7, "epochs": 2, "training_error": 0.1, "training_top5_error": None}
    rest = {"validation_error": 0.2, "validation_top5_error": None, "difference": None, "low": None, "high": None}
    return VariantTable(config={}, rows=(Variant(**full, **rest, seconds=1.5, paper=None),), images=4)  # type: ignore[arg-type]


def mistakes() -> Mistakes:
    mistake = Mistake(image=0, name="a.png", true=0, predicted=1, p_true=0.1, p_predicted=0.8, overlap=0.9)
    return Mistakes(records=(mistake,), labelled=3, output_names=("cat", "dog"))


def write_mistakes(path: pathlib.Path) -> None:
    mistakes().save_csv(path, path.with_suffix(".pairs.csv"))


@pytest.mark.parametrize(
    ("write", "frame", "rows"),
    [
        (lambda path: evaluation().save_images_csv(path), lambda: evaluation().to_frame(), 4),
        (lambda path: findings().save_csv(path), lambda: findings().to_frame(), 1),
        (lambda path: variants().save_csv(path), lambda: variants().to_frame(), 1),
        (write_mistakes, lambda: mistakes().to_frame(), 1),
    ],
    ids=["evaluation", "findings", "ablation", "mistakes"],
)
def test_a_frame_holds_what_its_file_holds(
    write: Callable[[pathlib.Path], None], frame: Callable[[], Any], rows: int, tmp_path: pathlib.Path
) -> None:
    pytest.importorskip("pandas")
    write(tmp_path / "t.csv")
    check_frame(frame(), tmp_path / "t.csv", rows)


def test_the_frame_of_winners(mined: Mined, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("pandas")
    mined.save_csv(tmp_path / "t.csv", images())
    check_frame(mined.to_frame(images()), tmp_path / "t.csv", 6)
    frame = mined.to_frame(images())
    assert frame["value"].dtype == "float64" and frame["image"].dtype == "int64"
    assert frame.loc[1, "value"] == mined["0"].values[0, 1]  # with all digits


def check_frame(frame: Any, path: pathlib.Path, rows: int) -> None:
    """Compare a frame with a CSV file, cell by cell."""
    import pandas as pd

    table = read(path)
    assert len(frame) == len(table) == rows and list(frame.columns) == list(table[0])
    for (_, row), expected in zip(frame.iterrows(), table, strict=True):
        for name, text in expected.items():
            if text == "":
                assert pd.isna(row[name]) or row[name] == ""
            elif isinstance(row[name], float):
                assert f"{row[name]:.7g}" == text
            else:
                assert str(row[name]) == text


@pytest.mark.slow
def test_frames_of_measurements(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("pandas")
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 10)).eval()
    network, preprocess = dv.capture(model, (3, 16, 16)), dv.Preprocess(resize=16, crop=16)
    scenes = dv.Scenes(3)
    from deconvviz.studies.occlusion.result import save_occlusions

    pictures = np.stack([preprocess.picture(scenes[n][0]) for n in range(2)])
    occlusions = dv.occlude(network, pictures, "1", preprocess=preprocess, square=(8, 8), progress=False)
    save_occlusions(occlusions[:1], tmp_path / "o.csv")
    check_frame(occlusions[0].to_frame(), tmp_path / "o.csv", len(occlusions[0].windows))
    invariance = dv.invariance(network, scenes, ["1"], kinds=["scale"], preprocess=preprocess, progress=False)
    invariance.save_csv(tmp_path / "i.csv", scenes.classes)
    frame = invariance.to_frame(scenes.classes)
    check_frame(frame, tmp_path / "i.csv", 3 * len(invariance.steps["scale"]))
    lesions = dv.lesion(network, scenes, ["1"], preprocess=preprocess, outputs=np.arange(10), progress=False)
    lesions.save_csv(tmp_path / "l.csv")
    check_frame(lesions.to_frame(), tmp_path / "l.csv", 4)
