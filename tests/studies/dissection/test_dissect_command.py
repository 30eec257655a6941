"""The commands `dissect` and `merge-dissections`: the files they write, and what they refuse."""

from __future__ import annotations

import csv
import pathlib

import pytest
from click.testing import CliRunner
from PIL import Image

import deconvviz as dv
from deconvviz.errors import DataError
from deconvviz.results.names import read_names
from deconvviz.studies.dissection.command import dissect, merge_dissections
from deconvviz.studies.dissection.result import Dissection


def call(command: object, *arguments: str) -> str:
    more = ["--quiet", "--device", "cpu"] if command is dissect else []
    result = CliRunner().invoke(command, [*arguments, *more], catch_exceptions=False)  # type: ignore[arg-type]
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
def test_the_commands_on_scenes_and_their_shards(tmp_path: pathlib.Path) -> None:
    out, job = tmp_path / "names.csv", ["demo", "scenes:60:3", "-l", "relu5"]
    text = call(dissect, *job, "-o", str(out), "--width", "7")
    assert "Dissection of ZFNet, 60 images" in text and "relu5:" in text
    with out.open() as file:
        kinds = {row["kind"] for row in csv.DictReader(file)}
    assert kinds == {"part", "object", "colour", "texture", "class"}
    with Image.open(out.with_suffix(".png")) as figure:
        assert figure.width == 1400 and "over 60 images of scenes:60:3" in figure.info["Description"]
    parts = [str(tmp_path / f"{n}.csv") for n in range(2)]
    files = [str(pathlib.Path(part).with_suffix(".h5")) for part in parts]
    joined = str(tmp_path / "joined.h5")
    for n, part in enumerate(parts):
        assert "merge-dissections" in call(dissect, *job, "-o", part, "--shard", f"{n}/2")
    call(merge_dissections, *files, "-o", joined)
    for n, part in enumerate(parts):
        call(dissect, *job, "-o", part, "--shard", f"{n}/2", "--quantiles", joined)
    with pytest.raises(DataError, match="exists already"):
        call(merge_dissections, *files, "-o", joined)
    call(merge_dissections, *files, "-o", joined, "--force")
    call(dissect, *job, "-o", str(tmp_path / "joined.csv"))
    assert (tmp_path / "joined.csv").read_text() == out.read_text()
    assert Dissection.load(joined).complete and read_names(out)["relu5"]


@pytest.mark.slow
def test_concepts_of_example_folders(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("sklearn")
    (tmp_path / "owls").mkdir()
    scenes = dv.Scenes(400, seed=9)
    for n in [n for n in range(400) if scenes.classes[scenes.labels[n]] == "owl"]:
        Image.fromarray(scenes[n][0]).save(tmp_path / "owls" / f"{n}.png")
    out = tmp_path / "n.csv"
    call(dissect, "demo", "scenes:100:3", "-l", "relu5", "-o", str(out), "--concept", f"owlish={tmp_path / 'owls'}")
    with (tmp_path / "n.concepts.csv").open() as file:
        rows = {row["class"]: row for row in csv.DictReader(file)}
    assert float(rows["owl"]["score"]) > 0.85 > float(rows["owl"]["chance"]) and float(rows["owl"]["p"]) < 0.01


def test_what_the_command_refuses(tmp_path: pathlib.Path) -> None:
    out = str(tmp_path / "n.csv")
    job = ["demo", "scenes:20", "-l", "relu5"]
    for arguments, said in (
        ([*job, "-o", str(tmp_path / "n.txt")], "expected a name that ends in .csv"),
        ([*job, "-o", out, "--concept", "stripes"], "expected NAME=FOLDER"),
        ([*job, "-o", out, "--concept", f"a={tmp_path / 'none'}"], "does not exist"),
        ([*job, "-o", out, "--quantiles", "q.h5"], "without --shard"),
        ([*job, "-o", out, "--truth", str(tmp_path / "none.csv")], "cannot read the boxes"),
        (["demo", "scenes:20", "-l", "none", "-o", out], "no layer 'none'"),
    ):
        with pytest.raises(dv.DeconvvizError, match=said):
            call(dissect, *arguments)
    assert not list(tmp_path.iterdir())
