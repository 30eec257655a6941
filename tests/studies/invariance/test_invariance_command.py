"""The command `invariance`, its files, and what it refuses."""

from __future__ import annotations

import csv
import pathlib

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import deconvviz as dv
from deconvviz.choices import TRANSFORMS
from deconvviz.data.transforms import transform_of
from deconvviz.errors import DataError, DeconvvizError
from deconvviz.studies.invariance.command import invariance as command
from deconvviz.studies.invariance.command import read_steps
from deconvviz.studies.invariance.measure import invariance


def deconvviz(*arguments: object) -> str:
    result = CliRunner().invoke(command, [*map(str, arguments), "--device", "cpu", "--quiet"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
def test_the_command(tmp_path: pathlib.Path) -> None:
    text = deconvviz(
        "demo",
        "scenes:9:3",
        "--images",
        "1,4,6",
        "-o",
        tmp_path / "f.png",
        "--steps",
        "scale=0.5:2:0.5",
        "--kinds",
        "scale, rotation",
        "--step",
        "rotation=45",
        "--depth",
        "--units",
        "relu5",
        "--top",
        2,
        "--padding",
        "mean",
    )
    loaded = dv.load_model("demo")
    pre = dv.Preprocess.from_dict(loaded.settings)
    steps: dict[str, list[float]] = {"scale": [0.5, 1, 1.5, 2], "rotation": [0, 45, 90, 135, 180, 225, 270, 315]}
    found = invariance(
        dv.capture(loaded.model, (3, 64, 64)),
        dv.Scenes(9, seed=3),
        "all",
        preprocess=pre,
        steps=steps,
        padding="mean",
        kinds=("scale", "rotation"),
        which=[1, 4, 6],
        outputs=np.arange(10),
        units=["relu5"],
        progress=False,
    )
    with (tmp_path / "f.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 8 * (4 + 8)
    row = next(
        r for r in rows if (r["kind"], r["step"], r["layer"]) == ("rotation", "135", "relu3") and "4-" in r["image"]
    )
    assert row["image"] == found.images[1] and int(row["output"]) == found.targets[1] == dv.Scenes(9, seed=3).labels[4]
    assert float(row["distance"]) == pytest.approx(found.distance("rotation")[1, 3, 2], rel=1e-4)
    assert float(row["relative_distance"]) == pytest.approx(found.relative("rotation")[1, 3, 2], rel=1e-4)
    assert float(row["probability"]) == pytest.approx(found.probability["rotation"][1, 3], abs=1e-4)
    with (tmp_path / "f.depth.csv").open() as file:
        scored = list(csv.DictReader(file))
    told = found.scores("rotation")[4]
    assert scored[12]["layer"] == "relu5" and scored[12]["depth"] == "5"
    for name, value in (
        ("score", told.score),
        ("low", told.low),
        ("high", told.high),
        ("mean_distance", told.mean_distance),
    ):
        assert float(scored[12][name]) == pytest.approx(value, rel=1e-3, abs=1e-5)
    with (tmp_path / "f.units.csv").open() as file:
        filters = list(csv.DictReader(file))
    assert len(filters) == 51 and float(filters[7]["rotation"]) == pytest.approx(
        found.per_unit("relu5")[1, 7], abs=1e-4
    )
    for name in ("f.png", "f.depth.png"):
        with Image.open(tmp_path / name) as figure:
            assert figure.width > 900
    best = found.ranked("relu5", "scale", 2)[0]
    assert f"relu5 under scale: most invariant filters {best[0]} (" in text and "Invariance(3 images, 8 layers)" in text
    assert "P(class) at 90, 180 and 270 degrees against in between: " in text


@pytest.mark.slow
def test_labels_on_the_command_line(tmp_path: pathlib.Path) -> None:
    """Named outputs, labels that no output stands for, and none."""
    names, few = [f"c{n}" for n in range(10)], ["--kinds", "scale", "--steps", "scale=2", "-o", tmp_path / "f.png"]
    (tmp_path / "names.txt").write_text("\n".join(names))
    for place, folder in enumerate(("c7", "c2")):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        Image.fromarray(dv.Scenes(4, seed=place)[0][0]).save(tmp_path / "photos" / folder / "a.png")
    text = deconvviz("demo", tmp_path / "photos", *few, "--classes", tmp_path / "names.txt")
    with (tmp_path / "f.csv").open() as file:
        assert {row["image"][:2]: row["output"] for row in csv.DictReader(file)} == {"c2": "2", "c7": "7"}
    assert "note" not in text
    assert "note: each image's own most probable class" in deconvviz("demo", tmp_path / "photos", *few)
    (tmp_path / "others.txt").write_text("\n".join(f"d{n}" for n in range(10)))
    with pytest.raises(DataError, match="the names do not tell"):
        deconvviz("demo", tmp_path / "photos", *few, "--classes", tmp_path / "others.txt")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (["--steps", "zoom=1,2"], "'zoom=1,2' given; expected KIND=FROM:TO:STEP"),
        (["--steps", "scale"], "'scale' given; expected KIND="),
        (["--steps", "scale=1:2"], "steps 'scale=1:2' given"),
        (["--steps", "scale=1:2:0"], "expected one positive step"),
        (["--steps", "scale=1:2:x"], "'x' given; expected numbers"),
        (["--step", "scale=-1"], "expected one positive step"),
        (["--step", "scale=0.0000001"], "at most 4096"),
        (["--steps", "translate-y=80"], "translate-y by 80 given; expected -63 to 63"),
        (["--kinds", "turn"], "no transform named 'turn'"),
        (["--images", "1,9"], "image 9 given; there are 0 to 8"),
        (["-l", "relu55"], "no layer 'relu55'.*nearest: relu5"),
        (["-l", "relu55", "--depth"], "no layer 'relu55'.*nearest: relu5"),
        (["--images", "3", "--depth"], "--depth of one image given"),
        (["--units", "relu9"], "no layer 'relu9'"),
        (["-o", "f.gif"], "ends in .png"),
    ],
)
def test_wrong_arguments(change: list[str], complaint: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(DeconvvizError, match=complaint) as error:
        deconvviz("demo", "scenes:9:3", "-o", tmp_path / "f.png", *change)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_steps_of_the_command() -> None:
    shape = (3, 224, 224)
    assert read_steps([], ["translate-y=25"], shape) == {"translate-y": [-50, -25, 0, 25, 50]}
    assert read_steps([], ["translate-x=7"], shape)["translate-x"][0] == -56
    assert read_steps([], ["scale=0.3", "rotation=90"], shape) == {
        "scale": [1, 1.3, 1.6],
        "rotation": [0, 90, 180, 270],
    }
    assert read_steps(["scale=0.5:1.1:0.1"], [], shape)["scale"] == [0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1]
    assert read_steps(["rotation=5,-3"], ["rotation=90"], shape) == {"rotation": [5, -3]}
    assert TRANSFORMS == ("translate-y", "translate-x", "scale", "rotation")
    assert all(transform_of(kind).kind == kind for kind in TRANSFORMS)
