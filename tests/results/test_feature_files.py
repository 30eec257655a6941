"""The file of features: an error keeps what was done, another question and what cannot be kept are refused."""

from __future__ import annotations

import errno
import pathlib
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from in_memory import ReadImages
from numpy.typing import NDArray
from streamed_features import COUNT, model, noise_images, streamed

import deconvviz as dv
from deconvviz.data.memory import InMemoryImages
from deconvviz.errors import CaptureError, DataError, DeconvvizError, LayerNotFound, MismatchError
from deconvviz.results.features import FeatureArrays, Features, write_features


@pytest.mark.slow
def test_an_error_keeps_what_was_done(tmp_path: pathlib.Path) -> None:
    class Broken(InMemoryImages):
        def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
            if index == 23:
                raise DataError("no image 23")
            return super().__getitem__(index)

    out = tmp_path / "f.h5"
    with pytest.raises(DataError, match="no image 23"):
        streamed(out, noise_images(kind=Broken), commit_every=1000)
    assert (done := Features(out).done) == 20 and not Features(out).complete
    with pytest.raises(DataError, match=r"rows 0 to 20 of .*f.h5 given; it has 20 so far"):
        Features(out).rows("1", np.arange(21))
    rest = noise_images(kind=ReadImages)
    assert isinstance(rest, ReadImages)
    assert streamed(out, rest).complete and sorted(rest.read) == list(range(done, COUNT))
    assert out.read_bytes() == pathlib.Path(streamed(tmp_path / "g.h5").path).read_bytes()
    rest.read.clear()
    assert streamed(out, rest).complete and not rest.read


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"network": 2}, "another network or other weights"),
        ({"images": noise_images(seed=1)}, "the images"),
        ({"layers": ("1", "5")}, "layers"),
        ({"pool": "mean"}, "pool"),
        ({"dtype": "float16"}, "dtype"),
        ({"precision": "bf16"}, "precision"),
        ({"indices": np.arange(COUNT)[::-1]}, "chosen"),
        ({"preprocess": dv.Preprocess(resize=None, crop=(20, 28))}, "preprocess"),
    ],
)
def test_another_question_is_refused(change: dict[str, Any], named: str, tmp_path: pathlib.Path) -> None:
    streamed(tmp_path / "f.h5")
    before = (tmp_path / "f.h5").read_bytes()
    if "network" in change:
        change = {"network": dv.capture(model(change["network"]), (3, 20, 28))}
    with pytest.raises(MismatchError, match=named):
        streamed(tmp_path / "f.h5", **change)
    assert (tmp_path / "f.h5").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "kind", "complaint"),
    [
        ({"layers": ("1", "conv9")}, LayerNotFound, "no layer 'conv9'"),
        ({"layers": ()}, DataError, "0 layers and 60 images given; expected at least 1 of each"),
        ({"batch_size": 0}, DataError, "batch size 0 given"),
        ({"indices": np.zeros(0, np.int64)}, DataError, "3 layers and 0 images given"),
        ({"pool": "max 0x3"}, DataError, "pooling 'max 0x3' given; expected max, mean, all"),
        ({"pool": "median"}, DataError, "pooling 'median' given"),
        ({"dtype": "int8"}, DataError, "dtype 'int8' given"),
        ({"preprocess": dv.Preprocess(crop=8)}, CaptureError, r"images of \(3, 8, 8\)"),
    ],
)
def test_wrong_settings(
    change: dict[str, Any], kind: type[DeconvvizError], complaint: str, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(kind, match=complaint) as error:
        streamed(tmp_path / "f.h5", **change)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_values_that_cannot_be_kept(tmp_path: pathlib.Path) -> None:
    large = model()
    with torch.no_grad():
        large[0].weight.mul_(1e6)
    network = dv.capture(large, (3, 20, 28))
    with pytest.raises(DataError, match=r"1 gives image 0 values up to .*e.06, which float16 cannot hold"):
        streamed(tmp_path / "f.h5", network=network, dtype="float16")
    with torch.no_grad():
        large[4].bias[3] = torch.nan
    with pytest.raises(DataError, match="5 gives image 0 a value that is not finite"):
        streamed(tmp_path / "g.h5", network=dv.capture(large, (3, 20, 28)))


def test_a_row_of_steps_is_called_a_step(tmp_path: pathlib.Path) -> None:
    path, labels = tmp_path / "s.h5", np.zeros(2, np.int64)
    with (
        write_features(path, {"0.cell": 1}, labels, (), {}, {}, row_of="step") as writer,
        pytest.raises(DataError, match=r"0\.cell gives step 1 a value that is not finite"),
    ):
        writer.append({"0.cell": np.array([[0.0], [np.nan]])})
    assert "0 of 2 rows; 0.cell [1]" in repr(Features(path))


def test_disks_and_files(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "f.h5"
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 10**4))
        with pytest.raises(DataError, match=r"the features of 60 images take 0.0 GB.* 0.0 GB free"):
            streamed(out)
    assert not list(tmp_path.iterdir())
    with pytest.raises(DataError, match="there is no folder"):
        streamed(tmp_path / "none" / "f.h5")

    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def write(self, data: memoryview) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    writer = write_features(out, {"a": 3}, np.zeros(4, np.int64), ("x",), {}, {})
    writer.append({"a": np.ones((2, 3))})
    writer.commit()
    writer._file = Full(writer._file)  # type: ignore[assignment]
    with pytest.raises(DataError, match="No space left on device; free some space"):
        writer.append({"a": np.ones((2, 3))})
    assert Features(out).done == 2
    out.write_bytes(out.read_bytes()[:-1])
    with pytest.raises(DataError, match="no readable features file"):
        Features(out)
    out.write_text("text")
    with pytest.raises(DataError, match="no readable features file"):
        streamed(out)
    dv.pack(dv.Scenes(2), tmp_path / "store.h5", progress=False)
    with pytest.raises(DataError, match="expected a features file"):
        Features(tmp_path / "store.h5")
    with pytest.raises(LayerNotFound, match="no features of layer 'b'; nearest: a"):
        FeatureArrays({"a": np.ones((2, 3))}, np.zeros(2, np.int64)).rows("b", np.arange(2))
