"""What happens without a filter, held against the network run by hand with the filter set to zero."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import numpy as np
import pytest
import torch
from gallery_case import DEAD, RARE, Case

from deconvviz.errors import MismatchError
from deconvviz.results.results import Result
from deconvviz.run.verify import verify
from deconvviz.studies.atlas import silencing
from deconvviz.studies.atlas.silencing import filter_silencing
from deconvviz.types import Floats

CHANNELS = {"relu1": range(6), "relu2": [0, DEAD, RARE, 8]}
K = 3


def by_hand(case: Case, layer: str, channel: int) -> tuple[Floats, Floats]:
    """The mean probabilities of the classes on the channel's strongest images, with and without it."""
    maxima = case.maps[layer][:, channel].max((1, 2))
    images = [i for i in np.argsort(-maxima, kind="stable")[:K] if maxima[i] > 0]
    model = case.model
    with torch.no_grad():
        hidden = model.relu1(model.conv1(case.x[images]))
        without = hidden.clone()
        if layer == "relu1":
            without[:, channel] = 0
        maps = [model.relu2(model.conv2(values)) for values in (hidden, without)]
        if layer == "relu2":
            maps[1][:, channel] = 0
        before, after = (model.fc(values.amax((2, 3))).softmax(1).mean(0).numpy() for values in maps)
    return before, after


def test_the_classes_that_fall_are_those_by_hand(case: Case, tmp_path: pathlib.Path) -> None:
    arrays_by_layer = filter_silencing(
        case.inputs(), case.mined, CHANNELS, tmp_path / "off.h5", k=K, batch_size=2, progress=False
    )
    for layer, channels in CHANNELS.items():
        arrays = arrays_by_layer[layer]
        for channel in channels:
            if layer == "relu2" and channel == DEAD:
                continue
            before, after = by_hand(case, layer, channel)
            fall = before - after
            falling = [c for c in np.argsort(-fall)[:3] if fall[c] > 1e-7]
            listed = arrays["off/classes"][channel]
            assert listed[: len(falling)].tolist() == falling
            np.testing.assert_allclose(arrays["off/before"][channel, : len(falling)], before[falling], atol=1e-6)
            np.testing.assert_allclose(arrays["off/after"][channel, : len(falling)], after[falling], atol=1e-6)
    silent = arrays_by_layer["relu2"]
    for channel in (DEAD, 1):  # a dead filter, and one that was not asked for
        assert (silent["off/classes"][channel] == -1).all() and np.isnan(silent["off/before"][channel]).all()


def test_interrupted_it_resumes_and_ends_the_same(
    case: Case, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silenced(name: str) -> Result:
        filter_silencing(case.inputs(), case.mined, CHANNELS, tmp_path / name, k=K, progress=False)
        return Result.load(tmp_path / name, silencing.SILENCED_KIND, silencing.SILENCED_SCHEMA)

    whole, without, calls = silenced("whole.h5"), silencing._Silencing.without, 0

    def interrupted(self: silencing._Silencing, *arguments: Any) -> Floats:
        nonlocal calls
        calls += 1
        if calls == 12:
            raise KeyboardInterrupt
        return without(self, *arguments)

    monkeypatch.setattr(silencing, "COMMIT", 2)
    monkeypatch.setattr(silencing._Silencing, "without", interrupted)
    with pytest.raises(KeyboardInterrupt):
        silenced("parts.h5")
    assert re.search("; unfinished: [0-9]+ of [0-9]+ images$", verify(tmp_path / "parts.h5"))
    parts = silenced("parts.h5")
    assert parts.state["done"] == parts.state["total"] and "unfinished" not in verify(tmp_path / "parts.h5")
    assert parts.state == whole.state and parts.arrays.keys() == whole.arrays.keys()
    for name, array in whole.arrays.items():
        np.testing.assert_array_equal(parts.arrays[name], array, err_msg=name)
    with pytest.raises(MismatchError, match="k"):
        filter_silencing(case.inputs(), case.mined, CHANNELS, tmp_path / "whole.h5", k=1, progress=False)
