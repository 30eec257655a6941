"""Snapshots: what is recorded comes back, whatever happens in between, and nothing foreign is taken."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seals import unsealed
from torch import nn

from deconvviz.errors import DataError, MismatchError
from deconvviz.results import snapshots as module
from deconvviz.results.snapshots import Snapshots, write_epoch
from deconvviz.studies.training.recorder import PAPER_EPOCHS, SnapshotRecorder


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))


def test_a_training_loop(tmp_path: pathlib.Path) -> None:
    model, kept = network(), {}
    recorder = SnapshotRecorder(tmp_path / "e.h5")
    for epoch in range(1, 12):
        model(torch.randn(5, 3, 4, 4))  # moves the statistics and counts the batch, an integer tensor
        with torch.no_grad():
            model[0].weight.add_(1)
        kept[epoch] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        told: dict[str, Any] = {"loss": 1 / epoch, "accuracy": torch.tensor(0.5)}
        assert recorder(epoch, model, **told) == (epoch in PAPER_EPOCHS)
    found = Snapshots(tmp_path / "e.h5")
    assert found.epochs == (1, 2, 5, 10, 11) and "epochs 1, 2, 5, 10, 11" in repr(found)  # the last one is always kept
    assert [row["loss"] for row in found.history] == [1 / epoch for epoch in range(1, 12)]
    assert found.history[3] == {"epoch": 4, "loss": 0.25, "accuracy": 0.5} and found.sources["versions"]
    for epoch in found.epochs:
        back = found.weights(epoch)
        assert back.keys() == kept[epoch].keys()
        for name, tensor in kept[epoch].items():
            assert np.array_equal(back[name], tensor.numpy()) and back[name].dtype == tensor.numpy().dtype


def test_half_precision(tmp_path: pathlib.Path) -> None:
    model = network().bfloat16()
    SnapshotRecorder(tmp_path / "b.h5", (1,))(1, model)
    assert np.array_equal(Snapshots(tmp_path / "b.h5").weights(1)["0.weight"], model[0].weight.detach().float().numpy())
    SnapshotRecorder(tmp_path / "h.h5", (1,), dtype=torch.float16)(1, network())
    half = Snapshots(tmp_path / "h.h5").weights(1)
    assert half["0.weight"].dtype == np.float16 and half["1.num_batches_tracked"].dtype == np.int64


@pytest.mark.slow
@given(st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.integers(0, 99)), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_any_order_of_epochs(tmp_path_factory: pytest.TempPathFactory, calls: list[tuple[int, bool, int]]) -> None:
    """The file is that of the calls that no later call of the same or an earlier epoch has overtaken."""
    path = tmp_path_factory.mktemp("any") / "e.h5"
    expected: dict[int, tuple[bool, int]] = {}
    for epoch, keep, value in calls:
        arrays = {"w": np.full((2, 3), value, np.float32), "n": np.array(value)}
        write_epoch(path, {"epoch": epoch, "loss": value}, arrays if keep else None, {}, {})
        expected = {e: row for e, row in expected.items() if e < epoch} | {epoch: (keep, value)}
    found = Snapshots(path)
    assert [(row["epoch"], row["loss"]) for row in found.history] == [(e, v) for e, (_, v) in sorted(expected.items())]
    assert found.epochs == tuple(e for e, (keep, _) in sorted(expected.items()) if keep)
    for epoch in found.epochs:
        back = found.weights(epoch)
        assert (back["w"] == expected[epoch][1]).all() and back["n"] == expected[epoch][1]


def test_a_crash_while_writing_leaves_the_last_whole_file(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = SnapshotRecorder(tmp_path / "e.h5", (1, 2))
    recorder(1, network())
    before = (tmp_path / "e.h5").read_bytes()

    def crash(tensors: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_digest", crash)  # the last thing that is written
    with pytest.raises(DataError, match="No space left"):
        recorder(2, network())
    assert (tmp_path / "e.h5").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_what_does_not_belong_together(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "e.h5"
    SnapshotRecorder(path, (1,), config={"data": "a"})(1, network())
    before = path.read_bytes()
    with pytest.raises(DataError, match="resume=True"):
        SnapshotRecorder(path)
    with pytest.raises(MismatchError, match="data: a in the file, b now"):
        SnapshotRecorder(path, config={"data": "b"}, resume=True)(2, network())
    with pytest.raises(MismatchError, match=r"network: Sequential .* in the file, Conv2d"):
        SnapshotRecorder(path, config={"data": "a"}, resume=True)(2, nn.Conv2d(3, 4, 3))
    with pytest.raises(DataError, match="no folder"):
        SnapshotRecorder(tmp_path / "none" / "e.h5")
    with pytest.raises(DataError, match="at least one"):
        SnapshotRecorder(tmp_path / "f.h5", ())
    assert path.read_bytes() == before


def damaged(path: pathlib.Path, how: str) -> None:
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:2000])
        return
    if how == "no HDF5":
        path.write_bytes(b"text")
        return
    with unsealed(path) as file:
        if how == "weights changed":
            file["epochs/00002/0.weight"][0, 0, 0, 0] += 1
        elif how == "tensor missing":
            del file["epochs/00002/0.weight"]
        elif how == "epoch missing":
            del file["epochs/00002"]
        elif how == "another kind":
            file.attrs["deconvviz"] = "mined"
        else:
            file.attrs["schema"] = 99


@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        ("truncated", "damaged or was changed"),
        ("no HDF5", "no readable snapshots file"),
        ("weights changed", "epoch 2 .* damaged"),
        ("tensor missing", "epoch 2 .* damaged"),
        ("epoch missing", "weights of epoch 2 are missing"),
        ("another kind", "kind 'mined'; expected a snapshots file"),
        ("newer", "schema 99"),
    ],
)
def test_damaged_files(tmp_path: pathlib.Path, how: str, complaint: str) -> None:
    path = tmp_path / "e.h5"
    for epoch in (1, 2):
        SnapshotRecorder(path, (1, 2), resume=True)(epoch, network())
    damaged(path, how)
    before = path.read_bytes()
    with pytest.raises(DataError, match=complaint):
        Snapshots(path).weights(2)
    if how not in ("weights changed", "tensor missing"):
        with pytest.raises(DataError, match=complaint):
            SnapshotRecorder(path, resume=True)(3, network())
        assert path.read_bytes() == before
    with pytest.raises(DataError, match=r"does not exist|no epoch 7|damaged|readable|kind|schema"):
        Snapshots(path).weights(7)


def test_lightning(tmp_path: pathlib.Path) -> None:
    """The real package: the callback records the network, with what was logged, at the right epochs."""
    lightning = pytest.importorskip("lightning.pytorch")
    from deconvviz.studies.training.lightning import SnapshotCallback

    class Lit(lightning.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = network()

        def training_step(self, batch: Any, index: int) -> Any:
            loss = nn.functional.cross_entropy(self.model(batch[0]), batch[1])
            self.log("loss", loss, on_epoch=True, on_step=False)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    data = torch.utils.data.TensorDataset(torch.randn(12, 3, 4, 4), torch.arange(12) % 2)
    module = Lit()
    trainer = lightning.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[SnapshotCallback(tmp_path / "e.h5", (1, 3), network="model")],
    )
    trainer.fit(module, torch.utils.data.DataLoader(data, 4))
    found = Snapshots(tmp_path / "e.h5")
    assert found.epochs == (1, 3) and [row["epoch"] for row in found.history] == [1, 2, 3]
    losses = [row["loss"] for row in found.history]
    assert losses[0] > losses[2] > 0
    assert np.array_equal(found.weights(3)["3.weight"], module.model[3].weight.detach().numpy())
    assert not np.array_equal(found.weights(1)["3.weight"], found.weights(3)["3.weight"])
