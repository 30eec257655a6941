"""What a training of an explainer goes on with, and what it refuses before it changes anything."""

from __future__ import annotations

import contextlib
import math
import pathlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from demo_explainers import SEED, SELECTOR, SHORT, contents, demo, learn, same_files
from in_memory import drawn_scenes
from numpy.typing import NDArray
from tiny_explainers import lively_explainer

from deconvviz.cam.explain import cam
from deconvviz.cam.learned.base import Phase
from deconvviz.errors import (
    DataError,
    DeconvvizError,
    MismatchError,
)


@pytest.mark.slow
def test_more_epochs_and_other_options(tmp_path: pathlib.Path) -> None:
    """A finished training goes on as if it had been longer; another training over it changes nothing."""
    out, straight = tmp_path / "e.pth", tmp_path / "straight" / "e.pth"
    straight.parent.mkdir()
    learn("l-cam-fm", out, replace(SHORT, epochs=1))
    grown = learn("l-cam-fm", out)
    learn("l-cam-fm", straight)
    same_files(out, straight)
    assert [record["epoch"] for record in grown.history] == [1, 2]
    learn("l-cam-fm", out)  # the same once more changes nothing
    same_files(out, straight)
    before = contents(tmp_path)
    for asked, phase in (
        ({"seed": 3}, SHORT),
        ({"options": {"area": 3.0}}, SHORT),
        ({"layers": ["relu4"]}, SHORT),
        ({"precision": "bf16"}, SHORT),
        ({"outputs": np.arange(10)}, SHORT),
        ({"images": drawn_scenes(40, SEED)}, SHORT),
        ({}, replace(SHORT, lr=0.2)),
        ({}, replace(SHORT, batch_size=8)),
    ):
        with pytest.raises(MismatchError, match="choose another --out"):
            learn("l-cam-fm", out, phase, **asked)
    with pytest.raises(MismatchError, match="method"):
        learn("l-cam-img", out)
    out.with_suffix(".training.pth").rename(tmp_path / "away")
    with pytest.raises(DataError, match="resume from"):
        learn("l-cam-fm", out)
    (tmp_path / "away").rename(out.with_suffix(".training.pth"))
    assert contents(tmp_path) == before


def test_the_explainer_that_training_returns_knows_its_network(tmp_path: pathlib.Path) -> None:
    """It is refused for another network just as its file is."""
    _, network, *_ = demo()
    trained = learn("l-cam-fm", tmp_path / "e.pth", replace(SHORT, epochs=1))
    other = network.replaced(
        network.graph, {k: t * 1.01 if t.is_floating_point() else t for k, t in network.tensors.items()}
    )
    with pytest.raises(MismatchError):
        cam("l-cam-fm", other, explainer=str(trained.path))
    with pytest.raises(MismatchError):
        cam("l-cam-fm", other, explainer=trained.explainer)


def test_another_mapping_of_labels_is_another_training(tmp_path: pathlib.Path) -> None:
    learn("l-cam-fm", tmp_path / "e.pth", replace(SHORT, epochs=1), outputs=np.arange(10))
    with pytest.raises(MismatchError):
        learn("l-cam-fm", tmp_path / "e.pth", outputs=np.arange(10)[::-1].copy())


@pytest.mark.parametrize("outputs", [np.full(10, 99), np.arange(4), np.full(10, -1)])
def test_outputs_that_do_not_fit(tmp_path: pathlib.Path, outputs: NDArray[np.int64]) -> None:
    with pytest.raises(DeconvvizError):
        learn("l-cam-fm", tmp_path / "e.pth", replace(SHORT, epochs=1), outputs=outputs)


@pytest.mark.parametrize("wrong", [{"optimiser": "rmsprop"}, {"fakes": 1.5}, {"bias_lr": -1.0}, {"momentum": 1.0}])
def test_more_wrong_phases(wrong: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        Phase("x", **wrong)


UNCHECKED: dict[str, Callable[[pathlib.Path], Any]] = {
    "a width that is no multiple of 4": lambda out: lively_explainer("real-time-masking", width=6),
    "a weight that is no number": lambda out: lively_explainer("real-time-masking", area=math.nan),
    "a negative power": lambda out: lively_explainer("real-time-masking", power=-1.0),
    "deep layers first": lambda out: learn("real-time-masking", out, SELECTOR, layers=["relu5", "relu2"]),
    "nothing to learn": lambda out: learn("l-cam-fm", out, replace(SHORT, parameters=("embedding",))),
    "never commit": lambda out: learn("l-cam-fm", out, commit_every=0),
}


@pytest.mark.parametrize("case", UNCHECKED)
def test_more_that_is_wrong(tmp_path: pathlib.Path, case: str) -> None:
    with pytest.raises(DeconvvizError):
        UNCHECKED[case](tmp_path / "e.pth")


def test_fewer_epochs_than_are_done(tmp_path: pathlib.Path) -> None:
    """The configuration says how long the explainer was trained."""
    out = tmp_path / "e.pth"
    learn("l-cam-fm", out)
    with pytest.raises(MismatchError):
        learn("l-cam-fm", out, replace(SHORT, epochs=1))


def test_files_of_others_are_left(tmp_path: pathlib.Path) -> None:
    (tmp_path / "e.csv").write_text("precious")
    with pytest.raises(DataError):
        learn("l-cam-fm", tmp_path / "e.pth", replace(SHORT, epochs=1))


def test_names_that_differ_behind_a_dot(tmp_path: pathlib.Path) -> None:
    """Such as those of a grid of weights."""
    with contextlib.suppress(DataError):
        learn("l-cam-fm", tmp_path / "area-0.1", replace(SHORT, epochs=1))
        learn("l-cam-fm", tmp_path / "area-0.2", replace(SHORT, epochs=1))
    assert not (tmp_path / "area-0.json").exists()
