"""Several labels an image that go into the store: what is read again, what it is equal to, and what is refused."""

from __future__ import annotations

import hashlib
import pathlib
import pickle
import sys
import time
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image
from torch import nn

import deconvviz as dv
from deconvviz.cli.main import main
from deconvviz.data.datasets import Part, open_images
from deconvviz.data.gpu_decoding import DecodedOnDevice
from deconvviz.data.images import ImageStore
from deconvviz.data.label_table import LabelTable, SeveralLabels, labelled
from deconvviz.data.memory import InMemoryImages
from deconvviz.data.pack import pack
from deconvviz.data.store_file import fingerprint_with
from deconvviz.errors import DataError, TrainingError
from deconvviz.run.verify import verify

ROWS = "image,label\na/0.png,sky\na/0.png,tree\nb/3.png,dog\nb/5.png,sky\n"
LABELS = ("dog", "sky", "tree")
TARGETS = [[0, 1, 1], [0, 0, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0], [0, 1, 0]]


@pytest.fixture
def photos(tmp_path: pathlib.Path) -> pathlib.Path:
    """Six photos of two classes, and a table of their labels."""
    for number in range(6):
        file = tmp_path / "photos" / "ab"[number > 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (20, 20, 3), np.uint8)
        Image.fromarray(pixels).save(file)
    (tmp_path / "labels.csv").write_text(ROWS)
    return tmp_path / "photos"


def packed(photos: pathlib.Path, name: str, **options: Any) -> ImageStore:
    """The photos packed with the table beside them."""
    pack(photos, photos.parent / name, labels=photos.parent / "labels.csv", progress=False, **options)
    return ImageStore.open(photos.parent / name)


@pytest.mark.parametrize("options", [{}, {"raw": True, "size": 16}, {"raw": True, "limit": 6}], ids=str)
def test_labels_are_read_again(photos: pathlib.Path, options: dict[str, Any]) -> None:
    """One file and shards have the labels, and the fingerprint, of the store without them beside the table."""
    folder = photos.parent
    pack(photos, folder / "plain.h5", progress=False, **options)
    plain = ImageStore.open(folder / "plain.h5")
    beside = SeveralLabels(plain, LabelTable.read(folder / "labels.csv"))
    for store in (packed(photos, "one.h5", **options), packed(photos, "shards", shards=3, **options)):
        assert store.targets is not None and store.known is not None
        assert store.classes == LABELS and store.labels.tolist() == [-1] * 6 and store[5][1] == -1
        assert store.targets.dtype == bool and store.targets.astype(int).tolist() == TARGETS
        assert store.known.tolist() == [True, False, False, True, False, True]
        np.testing.assert_array_equal(store[4][0], plain[4][0])
        assert store.fingerprint == beside.fingerprint != plain.fingerprint
        assert store.images_fingerprint == plain.fingerprint
        assert "3 labels" in repr(store) and store.info["labels"] == 3 and store.info["schema"] == 3
        assert "unchanged since it was written" in verify(store.path)
        again: ImageStore = pickle.loads(pickle.dumps(store))
        assert again.targets is not None and again.targets.tolist() == store.targets.tolist()
        part = Part(store, [5, 1])
        assert part.targets is not None and part.targets.astype(int).tolist() == [TARGETS[5], TARGETS[1]]
    assert plain.targets is None and plain.known is None and plain.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_what_the_file_holds(photos: pathlib.Path) -> None:
    """The layout by h5py, and the fingerprint from its definition."""
    packed(photos, "one.h5")
    with h5py.File(photos.parent / "one.h5") as file:
        assert file["targets"].dtype == np.uint8 and file["targets"][:].tolist() == TARGETS
        assert tuple(file["label_names"].asstr()[:]) == LABELS
        assert file["labels"][:].tolist() == [0, 0, 0, 1, 1, 1] and file["classes"].asstr()[:].tolist() == ["a", "b"]
        own = str(file.attrs["images_fingerprint"]).encode()
        numbers = b"".join(n.to_bytes(8, "little") for n in (3, 3, 3, 4))
        cells = bytes(cell for row in TARGETS for cell in row)
        assert file.attrs["fingerprint"] == hashlib.sha256(own + numbers + b"dogskytree" + cells).hexdigest()
    other = np.array(TARGETS, bool)
    one = fingerprint_with("00", LABELS, other)
    assert one != fingerprint_with("00", ("dog", "sky", "trees"), other) != fingerprint_with("00", LABELS, ~other)


def test_files_decoded_on_a_device_have_the_labels(photos: pathlib.Path) -> None:
    store = packed(photos, "one.h5")
    plain = ImageStore.open(pack(photos, photos.parent / "plain.h5", progress=False).path)
    decoded = DecodedOnDevice(store, "cpu")
    assert decoded.targets is store.targets and decoded.known is store.known and decoded.classes == LABELS
    table = LabelTable.read(photos.parent / "labels.csv")
    assert decoded.fingerprint == SeveralLabels(DecodedOnDevice(plain, "cpu"), table).fingerprint != store.fingerprint


def test_a_changed_label_is_found(photos: pathlib.Path) -> None:
    path = packed(photos, "one.h5").path
    for change in ("targets", "label_names"):
        before = path.read_bytes()
        with h5py.File(path, "r+") as file:
            if change == "targets":
                file["targets"][2, 0] = 1
            else:
                file["label_names"][0] = "cat"
        with pytest.raises(DataError, match="its lists are not those that were written"):
            verify(path)
        path.write_bytes(before)
    assert ImageStore.open(path).classes == LABELS


def test_an_image_that_cannot_be_read_takes_its_labels_along(photos: pathlib.Path) -> None:
    (photos / "b" / "3.png").write_bytes(b"no image")
    report = pack(photos, photos.parent / "one.h5", labels=photos.parent / "labels.csv", progress=False)
    assert "packed 5 images with 3 labels (3 have none)" in str(report) and report.skipped[0][0] == "b/3.png"
    store, shards = ImageStore.open(report.path), packed(photos, "shards", shards=2)
    assert store.targets is not None and store.classes == LABELS
    assert store.targets.astype(int).tolist() == TARGETS[:3] + TARGETS[4:] and shards.fingerprint == store.fingerprint


def test_a_dataset_with_labels_keeps_them(photos: pathlib.Path) -> None:
    store, table = packed(photos, "one.h5"), LabelTable.read(photos.parent / "labels.csv")
    beside = SeveralLabels(open_images(photos), table)
    for images in (store, beside):
        for shards in (None, 2):
            out = photos.parent / f"again-{type(images).__name__}-{shards}"
            again = ImageStore.open(pack(images, out, progress=False, shards=shards).path)
            assert again.targets is not None and again.targets.astype(int).tolist() == TARGETS
    named = InMemoryImages(np.zeros((2, 8, 8, 3), np.uint8), names=("x", "y"))
    (photos.parent / "own.csv").write_text("image,label\ny,sky\n")
    memory = ImageStore.open(pack(named, photos.parent / "m.h5", labels=photos.parent / "own.csv", progress=False).path)
    assert memory.targets is not None and memory.targets.tolist() == [[False], [True]]
    with pytest.raises(DataError, match="labels given for images that hold labels of their own"):
        pack(store, photos.parent / "twice.h5", labels=table, progress=False)
    with pytest.raises(DataError, match="given for images that hold labels of their own"):
        SeveralLabels(store, table)
    same: object = labelled(store, table)
    assert same is store


def test_shards_go_on_only_with_the_same_table(photos: pathlib.Path) -> None:
    folder = photos.parent
    packed(photos, "shards", shards=3)
    (folder / "shards" / "shard-00001-of-00003.h5").unlink()
    before = {path.name: path.read_bytes() for path in (folder / "shards").iterdir()}
    (folder / "other.csv").write_text(ROWS + "b/4.png,sky\n")
    for table in (folder / "other.csv", None):
        with pytest.raises(DataError, match="is a shard of other images, labels or settings"):
            pack(photos, folder / "shards", shards=3, labels=table, progress=False)
    assert {path.name: path.read_bytes() for path in (folder / "shards").iterdir()} == before
    rows = ROWS.splitlines()
    (folder / "labels.csv").write_text("\n".join([rows[0], *reversed(rows[1:])]))  # the same labels in another order
    report = pack(photos, folder / "shards", shards=3, labels=folder / "labels.csv", progress=False)
    assert report.found == 2 and report.classes == 3 and report.unlabelled == 3
    report = pack(photos, folder / "shards", shards=3, labels=folder / "other.csv", overwrite=True, progress=False)
    assert report.found == 0 and report.unlabelled == 2


@pytest.mark.parametrize("shards", ["", "--shards 2"])
@pytest.mark.parametrize(
    ("table", "words", "said"),
    [
        (ROWS, "--limit 2", "that --limit takes; give a table of these images, or pack all of them"),
        ("image,label\nc/9.png,sky\n", "", "no image 'c/9.png' among the 6; names are as packed, nearest: "),
        ("image,label\n", "", "holds no label"),
        ("image,class\na/0.png,sky\n", "", "has no column 'label'"),
        (None, "", "cannot read the labels in"),
    ],
)
def test_wrong_tables_are_refused_in_one_line(
    photos: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    table: str | None,
    words: str,
    said: str,
    shards: str,
) -> None:
    """Before any image is read, with the exit code 2, and without a file."""
    folder = photos.parent
    (folder / "labels.csv").write_text(table) if table is not None else (folder / "labels.csv").unlink()
    before = sorted(folder.iterdir())
    monkeypatch.setattr("deconvviz.data.entries.decode", lambda _: pytest.fail("an image was read"))
    text = f"pack {photos} {folder}/out --labels {folder}/labels.csv --quiet {words} {shards}"
    monkeypatch.setattr(sys, "argv", ["deconvviz", *text.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr().err.strip().splitlines()
    assert ended.value.code == 2 and len(told) == 1 and said in told[0], told
    assert sorted(folder.iterdir()) == before


def test_a_table_of_thousands(tmp_path: pathlib.Path) -> None:
    """20,000 images with 80 labels: shards and a file agree, and opening costs little beside what it cost without."""
    rng, count = np.random.default_rng(0), 20_000
    names = [f"{number:06d}" for number in range(count)]
    truth = rng.random((count, 80)) < 0.04
    rows = [f"{names[image]},label {label:02d}" for image, label in np.argwhere(truth).tolist()]
    (tmp_path / "labels.csv").write_text("image,label\n" + "\n".join(rows) + "\n")
    images = InMemoryImages(np.zeros((count, 2, 2, 3), np.uint8), names=names)
    options: dict[str, Any] = {"raw": True, "size": 2, "progress": False, "labels": tmp_path / "labels.csv"}
    pack(images, tmp_path / "one.h5", **options)
    pack(images, tmp_path / "shards", shards=7, **options)
    begin = time.monotonic()
    one = ImageStore.open(tmp_path / "one.h5")
    assert time.monotonic() - begin < 5
    assert one.targets is not None and one.known is not None
    np.testing.assert_array_equal(one.targets, truth)
    np.testing.assert_array_equal(one.known, truth.any(1))
    assert ImageStore.open(tmp_path / "shards").fingerprint == one.fingerprint


# --- training --------------------------------------------------------------------------------------------------------


def test_a_training_is_the_same_with_labels_inside_and_beside(photos: pathlib.Path) -> None:
    """Weights, history and identity: a training that began with one goes on with the other."""
    import torch

    folder = photos.parent
    pack(photos, folder / "plain.h5", progress=False)
    table = LabelTable.read(folder / "labels.csv")
    preprocess, recipe = dv.Preprocess(resize=20, crop=16), dv.Recipe(epochs=2, batch_size=2, validation=0.34, radius=0)
    weights: list[list[torch.Tensor]] = []
    for images in (SeveralLabels(ImageStore.open(folder / "plain.h5"), table), packed(photos, "one.h5")):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU(), nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(16, 3))
        out = folder / f"{len(weights)}.pth"
        trained = dv.train(model, images, out, recipe, preprocess=preprocess, progress=False)
        assert trained.classes == LABELS and "validation_map" in trained.history[-1]
        weights.append([parameter.detach().clone() for parameter in model.parameters()])
    for one, two in zip(*weights, strict=True):
        assert torch.equal(one, two)
    longer = dv.Recipe(epochs=3, batch_size=2, validation=0.34, radius=0)
    more = dv.train(model, packed(photos, "two.h5"), folder / "0.pth", longer, preprocess=preprocess, progress=False)
    assert len(more.history) == 3


def run_train(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str) -> tuple[int, list[str]]:
    """The exit code of `train zfnet`, and what it said on standard error."""
    text = "train zfnet --input 32 --width 0.05 --epochs 1 --validation 0.34 --device cpu --quiet --workers 1 -o t.pth "
    monkeypatch.setattr(sys, "argv", ["deconvviz", *(text + words).split()])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0), capsys.readouterr().err.strip().splitlines()


def test_train_takes_the_labels_of_the_store(
    photos: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(photos.parent)
    packed(photos, "one.h5", raw=True, size=40)
    code, told = run_train(monkeypatch, capsys, "one.h5")
    assert code == 0 and "3 of 6 images have none of the store's labels: left out" in told
    assert dv.load_model("zfnet", "t.pth").classes == LABELS
    code, _ = run_train(monkeypatch, capsys, "one.h5 --labels labels.csv")  # the same labels: nothing is left to do
    assert code == 0


def test_train_refuses_labels_that_do_not_fit(
    photos: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(photos.parent)
    packed(photos, "one.h5", raw=True, size=40)
    pack(photos, "plain.h5", raw=True, size=40, progress=False)
    pathlib.Path("other.csv").write_text(ROWS + "b/4.png,sky\n")
    pathlib.Path("few.csv").write_text("image,label\na/0.png,sky\n")
    pack(photos, "few.h5", raw=True, size=40, labels="few.csv", progress=False)
    for words, said in (
        ("one.h5 --labels other.csv", "one.h5 holds labels of its own, and other.csv differs from them: b/4.png has "),
        ("one.h5 --validation plain.h5", "the training images have several labels each and the validation images one"),
        ("plain.h5 --validation one.h5", "the training images have one class each and the validation images several"),
        ("one.h5 --validation few.h5", "the training images and the validation images have other labels, 'dog' among"),
    ):
        code, told = run_train(monkeypatch, capsys, words)
        assert code == 2 and len(told) == 1 and said in told[0], told
        assert not pathlib.Path("t.pth").exists()


def test_what_needs_one_class_refuses_such_a_store(
    photos: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from deconvviz.studies.training.additions.registry import addition

    store = packed(photos, "one.h5")
    beside = SeveralLabels(open_images(photos), LabelTable.read(photos.parent / "labels.csv"))
    model = nn.Sequential(nn.Conv2d(3, 4, 5), nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(16, 3))
    network = dv.capture(model.eval(), (3, 16, 16))
    preprocess = dv.Preprocess(resize=16, crop=16)
    said = []
    for images in (store, beside):
        with pytest.raises(DataError) as refused:
            dv.transfer({"a": network}, images, ["0"], preprocess=preprocess, progress=False)
        said.append(str(refused.value))
        with pytest.raises(TrainingError, match="mixup needs the one class of each image"):
            dv.train(
                model,
                images,
                photos.parent / "t.pth",
                dv.Recipe(epochs=1, validation=0),
                preprocess=preprocess,
                additions=[addition("mixup")],
            )
    assert said[0] == said[1]
