"""The training images that an explained image resembles: nearest by cosine, found once, and shown on its page."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
from click.testing import CliRunner
from in_memory import drawn_scenes

import deconvviz as dv
from deconvviz.cli.main import cli
from deconvviz.data.memory import InMemoryImages
from deconvviz.errors import DataError, MismatchError
from deconvviz.studies.atlas import resembling
from deconvviz.studies.atlas.inputs import AtlasInputs
from deconvviz.studies.atlas.resembling import resembling_images


def test_the_nearest_are_found_block_by_block_and_once(
    scenes: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = dv.load_model("demo")
    prepare = dv.Preprocess.from_dict(loaded.settings)
    network, explained = dv.capture(loaded.model, prepare.shape), np.array([5, 17])
    monkeypatch.setattr(resembling, "BLOCK", 7)
    with dv.ImageStore.open(scenes) as store:
        inputs = AtlasInputs(network=network, model=loaded.model, store=store, preprocess=prepare)
        own, drawn = store[17][0], drawn_scenes(20, seed=8)
        pictures = [*drawn.pictures, own]
        labels = [*drawn.labels, 0]
        names = [f"{n}.png" for n in range(21)]
        examples = InMemoryImages(pictures, labels, drawn.classes, names)
        found = resembling_images(inputs, explained, examples, tmp_path / "r.h5", progress=False)
        x = [prepare(picture)[None] for picture in [store[5][0], own, *pictures]]
        values = np.concatenate([network.activations(each, ["relu7"])["relu7"].numpy() for each in x])
        unit = values / np.linalg.norm(values, axis=1, keepdims=True)
        cosines = unit[:2] @ unit[2:].T
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :8]
        assert (found.arrays["nearest"] == order).all() and order[1, 0] == 20
        assert np.allclose(found.arrays["cosine"], np.take_along_axis(cosines, order, 1), atol=1e-5)
        assert found.state["names"][1][0] == "20.png" and found.state["classes"][1][0] == drawn.classes[0]
        monkeypatch.setattr(resembling, "stream_features", None)  # not made again
        again = resembling_images(inputs, explained, examples, tmp_path / "r.h5", progress=False)
        assert (again.arrays["pictures"] == found.arrays["pictures"]).all()
        with pytest.raises(MismatchError, match="examples"):
            resembling_images(inputs, explained, drawn, tmp_path / "r.h5", progress=False)


def test_the_pages_of_decisions_show_them(scenes: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "atlas"
    words = ["atlas", "demo", str(scenes), "-l", "relu5", "--filters", "1", "--quiet", "-o", str(out)]
    result = CliRunner().invoke(cli, [*words, "--decisions", "0", "--examples", "scenes:12"])
    assert isinstance(result.exception, DataError) and "no decision is explained" in str(result.exception)
    words += ["--decisions", "1", "-m", "grad-cam", "--examples", "scenes:12"]
    result = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    (script,) = (out / "decisions").glob("*.js")
    text = script.read_text()
    numbers = json.loads(text[text.index("{") : text.rindex("}") + 1])
    assert numbers["resembles"]["layer"] == "relu7" and len(numbers["resembles"]["images"]) == 8
    assert len([*(out / "decisions").glob("*-like-*.webp")]) == 8
