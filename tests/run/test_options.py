"""RunOptions: what they refuse, what they choose, and the bars that they make."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from deconvviz.errors import DataError
from deconvviz.run.features import StreamKeywords, StreamOptions
from deconvviz.run.options import ON_A_CPU, ON_A_GPU, RunKeywords, RunOptions
from deconvviz.studies.ablation.ablate import AblationKeywords, AblationOptions
from deconvviz.studies.lesions.measure import LesionKeywords, LesionOptions
from deconvviz.studies.training.options import TrainingKeywords, TrainingOptions


@pytest.mark.parametrize(
    ("keywords", "options"),
    [
        (RunKeywords, RunOptions),
        (StreamKeywords, StreamOptions),
        (LesionKeywords, LesionOptions),
        (TrainingKeywords, TrainingOptions),
        (AblationKeywords, AblationOptions),
    ],
)
def test_the_keywords_are_the_fields(keywords: Any, options: Any) -> None:
    """A keyword that is missing in one of the two would be refused, or not be typed."""
    assert keywords.__optional_keys__ == {field.name for field in dataclasses.fields(options)}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"batch_size": 0}, "batch size 0 given; expected at least 1"),
        ({"workers": 0}, "workers 0 given; expected at least 1"),
        ({"seed": -1}, "seed -1 given; expected 0 or more"),
        ({"precision": "fp8"}, "precision 'fp8' given; expected fp32 or tf32 or bf16 or fp64"),
    ],
)
def test_wrong_options(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(DataError) as error:
        RunOptions(**change)
    assert str(error.value) == complaint


def test_options_do_not_change_and_are_named() -> None:
    options: Any = RunOptions()
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.workers = 3
    with pytest.raises(TypeError):
        RunOptions(8)  # type: ignore[call-arg]


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_images_at_once_on_a_cpu(device: Any) -> None:
    assert RunOptions().images_at_once(device) == ON_A_CPU == 16
    assert RunOptions().images_at_once(device, 32) == 32
    assert RunOptions(batch_size=5).images_at_once(device, 32) == 5


@pytest.mark.parametrize("device", ["cuda", "cuda:1", torch.device("cuda:0")])
def test_images_at_once_on_a_gpu(device: Any) -> None:
    assert RunOptions().images_at_once(device) == ON_A_GPU == 64
    assert RunOptions().images_at_once(device, 32) == 32
    assert RunOptions(batch_size=5).images_at_once(device) == 5


def test_options_reach_another_job() -> None:
    options = RunOptions(batch_size=3, precision="bf16", workers=1, seed=9, progress=False)
    assert RunOptions(**options.keywords()) == options

    def job(**run: Any) -> RunOptions:
        return RunOptions(**run)

    assert job(**options.keywords()) == options


def test_a_bar_begins_where_the_job_resumes(capsys: pytest.CaptureFixture[str]) -> None:
    with RunOptions().bar("image", 10, "mining", 4) as bar:
        bar.update(3)
        assert (bar.n, bar.total, bar.unit) == (7, 10, "image")
    captured = capsys.readouterr()
    assert "mining" in captured.err and "7/10" in captured.err and not captured.out


def test_without_progress_no_bar_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with RunOptions(progress=False).bar("image", 10, "mining") as bar:
        bar.update(3)
    captured = capsys.readouterr()
    assert not captured.err and not captured.out
