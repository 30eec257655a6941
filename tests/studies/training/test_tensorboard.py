"""What a training writes is read back by TensorBoard itself, through its own writer and through Lightning's logger."""

from __future__ import annotations

import io
import pathlib
from typing import Any

import pytest
from compared import PREPROCESS, model, silenced
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

import deconvviz as dv

TAG = "deconvviz/dead_share"


def written(folder: pathlib.Path) -> Any:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


@pytest.mark.parametrize("logger", [False, True])
def test_numbers_and_pictures_of_each_epoch(tmp_path: pathlib.Path, logger: bool) -> None:
    writer = TensorBoardLogger(tmp_path, "board", "1") if logger else SummaryWriter(tmp_path / "board" / "1")
    config = {"preprocess": PREPROCESS.as_dict()}
    live = dv.LiveDiagnosis("scenes:20:4", checks=("dead",), limit=20)
    recorder = dv.SnapshotRecorder(tmp_path / "e.h5", (1, 2), diagnose=live, config=config, writers=[writer])
    net = model()
    recorder(1, net, loss=2.0)
    recorder(2, silenced(net, 4), loss=1.0)
    writer.finalize("success") if isinstance(writer, TensorBoardLogger) else writer.close()
    events = written(tmp_path / "board" / "1")
    shares = [record["dead_share"] for record in dv.Snapshots(tmp_path / "e.h5").history]
    assert [(each.step, each.value) for each in events.Scalars(TAG)] == [
        (1, pytest.approx(shares[0])),
        (2, pytest.approx(shares[1])),
    ]
    assert shares[1] > shares[0] == 0
    pictures = events.Images("deconvviz/filters")
    assert [each.step for each in pictures] == [1, 2]
    opened = Image.open(io.BytesIO(pictures[1].encoded_image_string))
    assert min(opened.size) > 100 and opened.getextrema() != Image.new("RGB", opened.size).getextrema()
