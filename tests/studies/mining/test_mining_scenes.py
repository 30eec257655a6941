"""Scenes stand where commands take a packed store: they are drawn again from their text."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
from click.testing import CliRunner

import deconvviz as dv
from deconvviz.cli.main import cli
from deconvviz.data.datasets import name_of_store, open_store
from deconvviz.errors import DataError


def test_scenes_are_opened_as_a_store_is() -> None:
    with open_store("scenes:12:7") as store:
        assert store.fingerprint == dv.Scenes(12, seed=7).fingerprint and name_of_store(store) == "scenes:12:7"
    with pytest.raises(DataError, match="expected scenes, scenes:COUNT or scenes:COUNT:SEED"):
        open_store("scenes:many")


def test_mine_and_grid_take_scenes(tmp_path: pathlib.Path) -> None:
    """The command mines what `dv.mine` mines, and grid finds the scenes again by what the file says of them."""
    out, figure = tmp_path / "m.h5", tmp_path / "g.png"
    words = ["mine", "demo", "scenes:12:7", "-l", "relu5", "-k", "2", "-o", str(out), "--quiet"]
    CliRunner().invoke(cli, words, catch_exceptions=False)
    loaded = dv.load_model("demo")
    preprocess = dv.Preprocess.from_dict(loaded.settings)
    network = dv.capture(loaded.model, preprocess.shape)
    expected = dv.mine(network, dv.Scenes(12, seed=7), ["relu5"], 2, preprocess=preprocess, progress=False)
    mined = dv.load_mined(out)
    assert mined.sources["images"] == "scenes:12:7"
    assert np.array_equal(mined["relu5"].images, expected["relu5"].images)
    assert np.allclose(mined["relu5"].values, expected["relu5"].values)
    words = ["grid", str(out), "-l", "relu5", "-c", "0,1", "-o", str(figure), "--rule", "gradient", "--quiet"]
    CliRunner().invoke(cli, words, catch_exceptions=False)
    assert figure.stat().st_size > 10_000
