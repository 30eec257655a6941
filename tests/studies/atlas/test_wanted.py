"""The pictures of an atlas that filters would like best are those of `visualise`, and are made once."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest
from gallery_case import Case

import deconvviz as dv
from deconvviz.data.pictures import resized
from deconvviz.errors import MismatchError
from deconvviz.studies.atlas import wanted
from deconvviz.studies.atlas.galleries import TILE
from deconvviz.studies.atlas.wanted import wanted_pictures


def test_pictures_are_made_once_and_kept(case: Case, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, channels, calls = case.inputs(), np.array([0, 5, 8]), list[list[int]]()

    def quick(*arguments: Any, **options: Any) -> dv.Visualisation:
        if len(calls) == 1 and calls[0] == [0, 5]:
            calls.append([])
            raise KeyboardInterrupt
        calls.append(arguments[2])
        return dv.visualise(*arguments, **options, steps=3)

    monkeypatch.setattr(wanted, "visualise", quick)
    monkeypatch.setattr(wanted, "AT_ONCE", 2)
    with pytest.raises(KeyboardInterrupt):
        wanted_pictures(inputs, "relu2", channels, tmp_path / "w.h5", progress=False)
    tiles = wanted_pictures(inputs, "relu2", channels, tmp_path / "w.h5", progress=False)
    assert calls == [[0, 5], [], [8]] and tiles.shape == (3, 1, TILE, TILE, 3) and tiles.dtype == np.uint8
    picture = dv.visualise(case.network, "relu2", [5], preprocess=inputs.preprocess, steps=3, progress=False).pictures[
        0
    ]
    by_hand = resized(np.rint(255 * picture).astype(np.uint8), (TILE, TILE))
    assert np.abs(tiles[1, 0].astype(int) - by_hand.astype(int)).max() <= 1
    monkeypatch.setattr(wanted, "visualise", None)  # not made again
    again = wanted_pictures(inputs, "relu2", channels, tmp_path / "w.h5", progress=False)
    np.testing.assert_array_equal(again, tiles)
    with pytest.raises(MismatchError, match="channels"):
        wanted_pictures(inputs, "relu2", channels[:2], tmp_path / "w.h5", progress=False)
