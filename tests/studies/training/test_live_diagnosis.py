"""The page that is written after each epoch: what it holds, what it leaves alone, what it logs, and what it refuses."""

from __future__ import annotations

import copy
import csv
import pathlib
import random
import re
import sys
import types
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from compared import PREPROCESS, model, silenced
from torch import nn

import deconvviz as dv
from deconvviz.errors import DataError, DeconvvizError
from deconvviz.studies.training import live as live_module
from deconvviz.studies.training.command import train

CONFIG = {"preprocess": PREPROCESS.as_dict()}
QUICK: dict[str, Any] = {"preprocess": PREPROCESS, "checks": ("dead",), "limit": 20}


class Board:
    """What TensorBoard's SummaryWriter takes."""

    def __init__(self) -> None:
        self.scalars: dict[str, list[tuple[int, float]]] = {}
        self.images: list[tuple[str, tuple[int, ...], int, str]] = []

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        self.scalars.setdefault(tag, []).append((global_step, scalar_value))

    def add_image(self, tag: str, img_tensor: np.ndarray[Any, Any], global_step: int, dataformats: str) -> None:
        assert img_tensor.dtype == np.uint8
        self.images.append((tag, img_tensor.shape, global_step, dataformats))


class Run:
    """What a run of Weights & Biases takes."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def log(self, row: dict[str, Any]) -> None:
        self.rows.append(row)


def test_a_page_a_history_and_a_dead_filter(tmp_path: pathlib.Path) -> None:
    path, board, net = tmp_path / "e.h5", Board(), model()
    recorder = dv.SnapshotRecorder(path, (1, 2), diagnose="scenes:30:4", config=CONFIG, writers=[board])
    assert recorder(1, net, loss=2.0) and recorder(2, silenced(net, 4), loss=1.0)
    history = dv.Snapshots(path).history
    dead = [record["dead_share"] for record in history]
    assert dead == [0, pytest.approx(1 / 14)]  # of 6 and 8 filters: the last layer is that of the classes
    assert [record["loss"] for record in history] == [2.0, 1.0]
    assert all(record["findings"] >= 1 for record in history)
    page = (tmp_path / "e.live.html").read_text()
    assert "after epoch 2" in page and "7.1 % of the filters" in page and "1 of 6 filters is dead" in page
    assert page.count("data:image/webp") >= 2 and not re.search(r'(src|href)="(?!data:)', page)
    assert board.scalars["deconvviz/dead_share"] == [(1, 0.0), (2, dead[1])]
    assert board.scalars["deconvviz/dead_share/2"] == [(1, 0.0), (2, pytest.approx(1 / 6))]
    assert [image[0::2] for image in board.images] == [("deconvviz/filters", 1), ("deconvviz/filters", 2)]
    assert len(dv.draw_history(dv.Snapshots(path)).axes) == 2


def test_the_training_is_left_as_it_is(tmp_path: pathlib.Path) -> None:
    """Weights, gradients, modes and generators are the same after a look as before it."""
    net = model().train()
    net(torch.rand(4, 3, 32, 32)).sum().backward()
    before = copy.deepcopy(net.state_dict())
    gradients = [parameter.grad.clone() for parameter in net.parameters() if parameter.grad is not None]
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(5)
    expected = torch.rand(1).item(), np.random.random(), random.random()
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(5)
    live = dv.LiveDiagnosis("scenes:20", tmp_path / "p.html", **{**QUICK, "checks": live_module.QUICK})
    assert live(1, net, [{"epoch": 1, "loss": 1.0}])["dead_share"] == 0
    assert (torch.rand(1).item(), np.random.random(), random.random()) == expected
    assert net.training and all(module.training for module in net.modules())
    assert all((value == before[name]).all() for name, value in net.state_dict().items())
    grads = [parameter.grad for parameter in net.parameters()]
    assert all(grad is not None and (grad == old).all() for grad, old in zip(grads, gradients, strict=True))


def test_training_with_it_ends_with_the_same_weights(tmp_path: pathlib.Path) -> None:
    recipe = dv.Recipe(epochs=2, batch_size=16, validation=0.25)
    states, pages = [], []
    for name, diagnose in (("plain", None), ("live", dv.LiveDiagnosis("scenes:12:9", checks=("dead",)))):
        recorder = dv.SnapshotRecorder(tmp_path / f"{name}.h5", (1, 2), diagnose=diagnose)
        torch.manual_seed(1)
        net = nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU(), nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(16, 10))
        options: dict[str, Any] = {
            "preprocess": dv.Preprocess(resize=36, crop=32),
            "recorder": recorder,
            "progress": False,
        }
        trained = dv.train(net, dv.Scenes(40), tmp_path / f"{name}.pth", recipe, **options)
        states.append(trained.model.state_dict())
        pages.append((tmp_path / f"{name}.live.html").exists())
    assert pages == [False, True]  # how images are prepared, the training said
    assert all((value == states[1][name]).all() for name, value in states[0].items())
    assert "dead_share" in dv.Snapshots(tmp_path / "live.h5").history[1]


def test_a_diagnosis_that_fails_warns_once_and_the_training_goes_on(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = dv.SnapshotRecorder(tmp_path / "e.h5", (1, 2, 3), diagnose="scenes:10")  # nobody says how to prepare
    with pytest.warns(UserWarning, match="no diagnosis after epoch 1, the training goes on: DataError: it is not kn"):
        recorder(1, model(), loss=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recorder(2, model(), loss=0.5)  # the same reason is not told again
    assert dv.Snapshots(tmp_path / "e.h5").history == [{"epoch": 1, "loss": 1.0}, {"epoch": 2, "loss": 0.5}]
    monkeypatch.setattr(live_module, "capture", lambda *_: 1 / 0)
    live = dv.LiveDiagnosis("scenes:10", tmp_path / "p.html", **QUICK)
    with pytest.warns(UserWarning, match="ZeroDivisionError"):
        assert live(1, model()) == {}
    monkeypatch.setattr(live_module, "capture", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        live(2, model())


def test_a_page_that_cannot_be_written_leaves_the_old_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = dv.LiveDiagnosis("scenes:10", tmp_path / "p.html", every=2, **QUICK)
    assert live(1, model()) == {} and not (tmp_path / "p.html").exists()
    assert live(2, model())["dead_share"] == 0
    page = (tmp_path / "p.html").read_bytes()

    def full(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(pathlib.Path, "write_text", full)
    with pytest.warns(UserWarning, match="disk full"):
        live(4, silenced(model(), 1))
    assert (tmp_path / "p.html").read_bytes() == page
    assert [path.name for path in tmp_path.iterdir()] == ["p.html"]


def test_what_it_logs_to(monkeypatch: pytest.MonkeyPatch) -> None:
    run, active, board = Run(), Run(), Board()
    rows: list[tuple[dict[str, float], int]] = []
    logger = types.SimpleNamespace(log_metrics=lambda row, step: rows.append((row, step)), experiment=board)
    wandb = types.SimpleNamespace(run=active, Image=lambda picture: ("picture", picture.shape))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    live = dv.LiveDiagnosis("scenes:10", writers=[run, logger], **QUICK)
    live.step = 700
    live(3, model(), [{"epoch": 3, "loss": 1.0}])
    for each in (run, active):  # the active run gets it although nobody named it
        (row,) = each.rows
        assert row["deconvviz/epoch"] == 3 and row["deconvviz/dead_share"] == 0
        assert row["deconvviz/filters"][0] == "picture"
    assert rows[0][1] == 700 and "deconvviz/findings" in rows[0][0] and board.images[0][2] == 700
    live.add_writers([active])
    live(4, model())
    assert len(active.rows) == 2  # named and active: once
    with pytest.raises(DataError, match="a writer of type dict given"):
        dv.LiveDiagnosis("scenes:10", writers=[{}], **QUICK)


def test_refusals_come_before_the_training(tmp_path: pathlib.Path) -> None:
    with pytest.raises(DataError):
        dv.SnapshotRecorder(tmp_path / "e.h5", diagnose=str(tmp_path / "nothing.h5"))
    with pytest.raises(DataError, match="1 writers given and nothing to log"):
        dv.SnapshotRecorder(tmp_path / "e.h5", writers=[Board()])
    with pytest.raises(DeconvvizError, match="check"):
        dv.LiveDiagnosis("scenes:10", checks=("nothing",))
    for options in ({"limit": 0}, {"every": 0}, {"page": tmp_path / "p.txt"}, {"page": tmp_path / "none" / "p.html"}):
        with pytest.raises(DataError):
            dv.LiveDiagnosis("scenes:10", **options)
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path: pathlib.Path) -> None:
    arguments = [
        "zfnet",
        "scenes:24",
        "--input",
        "32",
        "--width",
        "0.04",
        "--epochs",
        "1",
        "--batch-size",
        "12",
        "--validation",
        "0.4",
        "--quiet",
    ]
    arguments += ["-o", str(tmp_path / "z.pth"), "--device", "cpu"]
    with pytest.raises(DataError, match="--diagnose given without --snapshots"):
        CliRunner().invoke(train, [*arguments, "--diagnose", "scenes:12:5"], catch_exceptions=False)
    assert not list(tmp_path.iterdir())
    snapshots = ["--snapshots", str(tmp_path / "s.h5"), "--diagnose", "scenes:12:5"]
    result = CliRunner().invoke(train, [*arguments, *snapshots], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    page = (tmp_path / "s.live.html").read_text()
    assert "ZFNet after epoch 1" in page and "on 12 images" in page and "of these images are classified" in page
    assert {"dead_share", "findings", "validation_accuracy"} <= {*dv.Snapshots(tmp_path / "s.h5").history[0]}


def test_lightning_writes_the_page_and_gives_the_numbers_to_the_trainer_s_loggers(tmp_path: pathlib.Path) -> None:
    """The real package: its own logger of CSV files gets the numbers at the step of the training."""
    lightning = pytest.importorskip("lightning.pytorch")
    from lightning.pytorch.loggers import CSVLogger

    from deconvviz.studies.training.lightning import SnapshotCallback

    class Lit(lightning.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model().train()

        def training_step(self, batch: Any, index: int) -> Any:
            return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.01)

    data = torch.utils.data.TensorDataset(torch.randn(6, 3, 32, 32), torch.arange(6))
    callback = SnapshotCallback(
        tmp_path / "e.h5", (1, 2), network="model", diagnose=dv.LiveDiagnosis("scenes:10", **QUICK)
    )
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=CSVLogger(tmp_path, name="log"),
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback],
    )
    trainer.fit(Lit(), torch.utils.data.DataLoader(data, 2))
    assert "after epoch 2" in (tmp_path / "e.live.html").read_text()
    assert all("dead_share" in row for row in dv.Snapshots(tmp_path / "e.h5").history)
    (table,) = tmp_path.rglob("metrics.csv")
    with table.open() as file:
        rows = list(csv.DictReader(file))
    logged = {row["step"]: row["deconvviz/dead_share"] for row in rows if row.get("deconvviz/dead_share")}
    assert logged == {"3": "0.0", "6": "0.0"}  # three steps an epoch
