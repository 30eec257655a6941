"""`verify` says how far a file is whose job was stopped, whatever wrote it."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import deconvviz as dv
from deconvviz.run.verify import verify
from deconvviz.studies.dissection.measure import DissectionRun
from deconvviz.studies.mining.result import Mined
from deconvviz.studies.relevance.result import Relevance

PREPROCESS = dv.Preprocess(resize=16, crop=16)


def network() -> dv.Network:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 5, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)
    return dv.capture(nn.Sequential(*layers).eval(), PREPROCESS.shape)


@pytest.mark.parametrize(
    ("job", "result", "words"),
    [
        ("mine", Mined, "unfinished: 2 of 5 images"),
        ("relevance", Relevance, "unfinished: 2 of 5 images"),
        ("dissect", DissectionRun, "unfinished: 2 of 5 images of the first of two passes"),
    ],
)
def test_a_stopped_job(
    job: str, result: type[Any], words: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, path = dv.InMemoryImages(list(np.zeros((5, 16, 16, 3), np.uint8))), tmp_path / "f.h5"
    name = "_commit" if job == "dissect" else "save"
    write, calls = getattr(result, name), [0]

    def stopping(*given: Any) -> None:
        calls[0] += 1
        write(*given)
        if calls[0] == 2:  # the first one is written before any image is done
            raise KeyboardInterrupt

    def run() -> None:
        options: dict[str, Any] = {"preprocess": PREPROCESS, "out": path, "batch_size": 2, "progress": False}
        getattr(dv, job)(network(), images, ["1"], commit_every=1, **options)

    with monkeypatch.context() as patch:
        patch.setattr(result, name, stopping)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert verify(path).endswith(f"unchanged since it was written; {words}")
    run()
    assert verify(path).endswith("unchanged since it was written")
