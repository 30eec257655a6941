"""What the tests of the atlas share."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from functools import cache

import pytest
from gallery_case import Case

import deconvviz as dv
from deconvviz.data.pack import pack
from deconvviz.results.tiles import Gallery


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The small network and its pictures."""
    return Case(tmp_path_factory.mktemp("gallery"))


@pytest.fixture(scope="module")
def shown(case: Case) -> Callable[[str], Gallery]:
    """`shown(layer)` -> the gallery of that layer, made once."""
    return cache(case.gallery)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A store of forty generated scenes."""
    path = tmp_path_factory.mktemp("scenes") / "scenes.h5"
    pack(dv.Scenes(40, seed=3), path, progress=False)
    return path
