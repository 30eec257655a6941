"""All of an atlas at once, and the command that makes it."""

from __future__ import annotations

import pathlib
import sys
import types
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from click.testing import Result as Outcome
from gallery_case import DEAD, OUTPUTS, PREPROCESS, SIDE, Case, K

import deconvviz as dv
from deconvviz.data.images import ImageStore
from deconvviz.data.pictures import resized
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.sampling import spread
from deconvviz.errors import DataError, LayerNotFound, MismatchError
from deconvviz.results.results import Result
from deconvviz.results.tiles import load_gallery
from deconvviz.studies.atlas import aspects
from deconvviz.studies.atlas.command import atlas
from deconvviz.studies.atlas.make import make_atlas
from deconvviz.studies.atlas.result import AtlasOptions
from deconvviz.studies.atlas.site.inputs import GalleryFile
from deconvviz.studies.mining.mine import mine
from deconvviz.studies.relevance.measure import relevance


def test_everything_at_once(case: Case, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aspects, "TRANSFORMED", 2)
    options = AtlasOptions(
        layers=("relu2", "relu1"),
        k=K,
        filters=(0, 5, 3),
        decisions=2,
        methods=("gradient",),
        cam_layer="relu2",
        invariance=True,
        occlusion=True,
    )
    inputs = case.inputs(outputs=OUTPUTS)
    found = make_atlas(inputs, options, tmp_path / "atlas", progress=False)
    assert [path.name for path in found.galleries] == ["00-relu1.h5", "01-relu2.h5"]  # in the order of depth
    assert found.filters == found.new_filters == 6 and "6 filters of 2 layers" in repr(found)
    arrays = load_gallery(found.galleries[1]).arrays
    maxima = case.maps["relu2"].max((2, 3))[:, [0, 5, 3]]
    assert arrays["similarity"][0, 0] == pytest.approx(np.corrcoef(maxima.T[:2])[0, 1], abs=1e-5)
    assert len(arrays["invariance/scale"]) == 3 and np.isnan(arrays["invariance/scale"][2])
    assert arrays["occlusion/values"].shape == (3, 64) and arrays["occlusion/image"][2] == -1
    assert arrays["occlusion/places"].shape == (64, 4)
    assert np.array_equal(found.picture(7), case.pictures[7])
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "atlas").rglob("*.h5")}
    again = make_atlas(inputs, options, tmp_path / "atlas", progress=False)
    assert again.filters == 6 and again.new_filters == 0 and again.galleries == found.galleries
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "atlas").rglob("*.h5")} == times
    assert found.decisions is not None and len(Result.load(found.decisions, "decisions", 1).arrays["images"]) == 2


def test_the_decisions_that_a_filter_carries(case: Case, tmp_path: pathlib.Path) -> None:
    found = relevance(case.network, case.store, ["relu2"], K + 1, preprocess=PREPROCESS, progress=False)
    options = AtlasOptions(layers=("relu1", "relu2"), k=K, filters=(0, 5, DEAD), decisions=0)
    inputs = case.inputs(relevance=found)
    made = make_atlas(inputs, options, tmp_path / "atlas", progress=False)
    first, second = (load_gallery(path).arrays for path in made.galleries)
    assert "relevance/images" not in first  # the file does not hold this layer
    table = found["relu2"].by_relevance
    np.testing.assert_array_equal(second["relevance/images"], table.images[[0, 5, DEAD], :K])
    assert (second["relevance/images"][2] == -1).all() and (second["relevance/shares"][2] == 0).all()
    np.testing.assert_array_equal(second["relevance/shares"][0], table.values[0, :K])
    y, x = table.positions[0, 0]
    top, left = (min(max(2 * int(at) - 2, 0), SIDE - 9) for at in (y, x))  # a unit sees 9 px, from 2 at - 2 on
    patch = case.pictures[second["relevance/images"][0, 0]][top : top + 9, left : left + 9]
    tile = second["relevance/patches"][0][0].astype(float)
    assert np.abs(tile - resized(patch, tile.shape[:2])).mean() < 8  # which JPEG changes a little
    assert set(np.unique(second["relevance/images"])) - {-1} <= set(GalleryFile(made.galleries[1]).used_images())
    with pytest.raises(MismatchError, match="relevance"):
        make_atlas(case.inputs(), options, tmp_path / "atlas", progress=False)
    for changes, error, words in (
        ({"config": {**found.config, "model_fingerprint": "f" * 64}}, MismatchError, "explained with model ffff"),
        ({"done": 7}, MismatchError, "top 5 of 7 of 30 images"),
        ({"config": {**found.config, "shard": [0, 2]}}, MismatchError, "shard 0 of 2; join all shards"),
        ({"layers": {"conv9": found["relu2"]}}, DataError, "holds conv9; expected one of the layers relu1, relu2"),
    ):
        wrong = case.inputs(relevance=replace(found, **changes))
        with pytest.raises(error, match=words):
            make_atlas(wrong, options, tmp_path / "wrong", progress=False)
    assert not (tmp_path / "wrong").exists()
    assert "relevance" not in case.inputs().config
    with_directions = case.inputs(relevance=found, network=dv.with_directions(case.network, "relu2", np.eye(10)[:2]))
    with_directions.require_relevance(found, ["relu2"], K)  # directions change nothing of what was explained
    shard = replace(case.mined, config={**case.mined.config, "shard": [1, 2]})
    with pytest.raises(MismatchError, match="the mined file is shard 1 of 2; join all shards"):
        case.inputs().require_mined(shard, ["relu2"], K)


def test_an_atlas_goes_on_with_the_rule_that_it_was_begun_with(case: Case, tmp_path: pathlib.Path) -> None:
    options = AtlasOptions(layers=("relu2",), k=K, filters=(0, 5), decisions=0, rule="guided")
    begun = make_atlas(case.inputs(), options, tmp_path / "given", progress=False)
    again = make_atlas(case.inputs(), replace(options, rule="auto"), tmp_path / "given", progress=False)
    assert again.new_filters == 0 and load_gallery(begun.galleries[0]).rule == "guided"
    make_atlas(case.inputs(), replace(options, rule="auto"), tmp_path / "chosen", progress=False)
    for folder, asked, complaint in (
        ("given", "deconvnet", "rule: guided in the file, deconvnet now"),
        ("chosen", "guided", "rule: auto in the file, guided now"),
    ):
        with pytest.raises(MismatchError, match=complaint):
            make_atlas(case.inputs(), replace(options, rule=asked), tmp_path / folder, progress=False)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"k": 0}, "k 0 given; expected at least 1"),
        ({"count": 0}, "count 0 given"),
        ({"rule": "guess"}, "rule 'guess' given; expected auto, deconvnet"),
        ({"filters": "best"}, "filters 'best' given; expected active"),
        ({"decisions": -1}, "decisions -1 given"),
    ],
)
def test_options_out_of_their_range_are_refused(option: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        AtlasOptions(layers=("relu1",), **option)


class Called:
    """Stands in for the pages: remembers what it was given."""

    def __init__(self) -> None:
        self.arguments: tuple[Any, ...] = ()
        self.named: dict[str, Any] = {}

    def build_site(self, *arguments: Any, **named: Any) -> Any:
        self.arguments, self.named = arguments, named
        self.picture = arguments[3].picture(3)  # while the store is open
        return types.SimpleNamespace(index=pathlib.Path(arguments[0]) / "index.html")


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Called:
    called, module = Called(), types.ModuleType("deconvviz.studies.atlas.site.site")
    module.build_site = called.build_site  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "deconvviz.studies.atlas.site.site", module)
    return called


def run(*arguments: Any) -> Outcome:
    return CliRunner().invoke(
        atlas, [str(a) for a in (*arguments, "--device", "cpu", "--quiet")], catch_exceptions=False
    )


@pytest.mark.slow
def test_the_command(scenes: pathlib.Path, tmp_path: pathlib.Path, site: Called) -> None:
    given = ("demo", scenes, "-l", "relu3", "--layers", "conv1", "--filters", "first", "-n", "3", "--top", "2")
    told = run(*given, "--decisions", "2", "-m", "gradient, grad-cam", "-o", tmp_path / "a")
    assert told.exit_code == 0 and "6 filters of 2 layers" in told.output
    assert told.output.strip().endswith(f"open {tmp_path / 'a' / 'index.html'}")
    out, galleries, decided, images = site.arguments
    assert str(out) == str(tmp_path / "a") and [path.name for path in galleries] == ["00-conv1.h5", "01-relu3.h5"]
    found = load_gallery(galleries[1])
    assert found.config["channels"] == [0, 1, 2] and found.arrays["images"].shape == (3, 2)
    assert {"model", "weights", "images", "command", "versions"} <= set(found.sources)
    why = Result.load(decided, "decisions", 1)
    assert why.config["methods"] == ["gradient", "grad-cam"] and (why.arrays["label_output"] >= 0).all()
    with ImageStore.open(scenes) as store:
        assert images.names == store.names and images.classes == store.classes
        assert np.array_equal(images.labels, store.labels)
        preprocess = Preprocess.from_dict(dv.load_model("demo").settings)
        assert np.array_equal(site.picture, preprocess.picture(store[3][0]))
    assert site.named["title"] == "ZFNet on scenes.h5" and "randomised" in site.named["note"]
    with pytest.raises(MismatchError, match="k: 2 in the file, 3 now"):
        run(*given[:-1], "3", "--decisions", "2", "-m", "gradient,grad-cam", "-o", tmp_path / "a")


@pytest.mark.slow
def test_a_mined_file_is_taken(scenes: pathlib.Path, tmp_path: pathlib.Path, site: Called) -> None:
    loaded = dv.load_model("demo")
    preprocess = Preprocess.from_dict(loaded.settings)
    network = dv.capture(loaded.model, preprocess.shape)
    with ImageStore.open(scenes) as store:
        mine(network, store, ["relu3", "relu5"], 3, tmp_path / "m.h5", preprocess=preprocess, progress=False)
        mine(network, store, ["relu5"], 3, tmp_path / "few.h5", preprocess=preprocess, limit=7, progress=False)
        part = {*spread(store.labels, 7).tolist()}
    before = (tmp_path / "m.h5").read_bytes()
    shared = ("--filters", "0-2", "--top", "3", "--decisions", "0")
    run("demo", scenes, *shared, "-l", "relu5", "-o", tmp_path / "own")
    own = load_gallery(site.arguments[1][0])
    run("demo", scenes, *shared, "--mined", tmp_path / "m.h5", "-o", tmp_path / "taken")
    assert [path.name for path in site.arguments[1]] == ["00-relu3.h5", "01-relu5.h5"] and site.arguments[2] is None
    taken = load_gallery(site.arguments[1][1])
    assert not (tmp_path / "taken" / "data" / "mined.h5").exists() and (tmp_path / "m.h5").read_bytes() == before
    for name, array in own.arrays.items():
        np.testing.assert_array_equal(np.asarray(taken.arrays[name]), np.asarray(array), name)
    run("demo", scenes, *shared, "--mined", tmp_path / "few.h5", "-o", tmp_path / "few")
    few = load_gallery(site.arguments[1][0])
    assert few.config["count"] == 7 and set(few.arrays["images"].ravel()) <= part
    for wrong, error, words in (
        (("--top", "9"), MismatchError, "top 9"),
        (("-l", "relu4"), DataError, "relu4"),
        (("--resize", "64"), MismatchError, "preprocess"),
    ):
        with pytest.raises(error, match=words):
            run("demo", scenes, *shared, "--mined", tmp_path / "m.h5", *wrong, "-o", tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


@pytest.mark.slow
def test_wrong_input_changes_nothing(scenes: pathlib.Path, tmp_path: pathlib.Path, site: Called) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("precious")
    for wrong, words in (
        (("-l", "conv9"), "no layer 'conv9'"),
        (("-l", "conv1", "--filters", "18,19"), "channel 19 of layer 'conv1'"),
        (("-m", "no-cam"), "no method named 'no-cam'|no-cam"),
        (("--cam-layer", "conv9"), "no layer 'conv9'"),
        (("--filters", "best"), "best"),
        (("--snapshots", tmp_path / "none.h5"), "none.h5"),
        (("--mined", tmp_path / "none.h5"), "none.h5"),
        (("--classes", tmp_path / "none.txt"), "none.txt"),
    ):
        with pytest.raises((dv.DeconvvizError, LayerNotFound), match=words):
            run("demo", scenes, *wrong, "-o", tmp_path / "out")
    with pytest.raises(DataError, match="other files"):
        run("demo", scenes, "-o", tmp_path / "full")
    assert [path.name for path in tmp_path.iterdir()] == ["full"] and len(list((tmp_path / "full").iterdir())) == 1
    assert not site.arguments


BARE = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU())
"""


@pytest.mark.slow
def test_a_network_that_decides_nothing(scenes: pathlib.Path, tmp_path: pathlib.Path, site: Called) -> None:
    (tmp_path / "bare.py").write_text(BARE)
    given = (f"{tmp_path / 'bare.py'}:make", scenes, "--weights", "none", "--input", "24", "--resize", "24", "-l", "3")
    told = run(*given, "-o", tmp_path / "a")
    assert "no decisions are explained" in told.output and site.arguments[2] is None
    with pytest.raises(dv.DeconvvizError, match="score"):
        run(*given, "--decisions", "3", "-o", tmp_path / "b")
