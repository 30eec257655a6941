"""A store in shards is the single store: lists, images, fingerprint and mined file; what does not fit is refused."""

from __future__ import annotations

import multiprocessing
import os
import pathlib
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b, sha256
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn
from torch.utils.data import DataLoader

import deconvviz as dv
from deconvviz.cli.main import cli
from deconvviz.data import pack as packing
from deconvviz.data.datasets import Folder, open_images
from deconvviz.data.decode import encode
from deconvviz.data.images import ImageStore
from deconvviz.data.pack import PackReport, pack
from deconvviz.errors import DataError
from deconvviz.results.results import Result
from deconvviz.run.verify import verify
from deconvviz.studies.mining.result import KIND, SCHEMA


def photo(seed: int, side: int = 12) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (side, side + 3, 3), dtype=np.uint8)


def quiet(source: Any, out: pathlib.Path, **options: Any) -> PackReport:
    return pack(source, out, progress=False, **{"workers": 1, **options})


def names_in(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def pictures(root: pathlib.Path, count: int = 11) -> pathlib.Path:
    """Pictures of two classes, one of which cannot be read."""
    for number in range(count):
        path = root / "ba"[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(photo(number, 10 + number)))
    (root / "a" / "05.png").write_bytes(b"no image")
    return root


def bands(root: pathlib.Path) -> pathlib.Path:
    """Arrays of five channels and several sizes."""
    for number in range(7):
        path = root / "ab"[number % 2] / f"{number}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.random.default_rng(number).integers(0, 65536, (4 + number, 6, 5), dtype=np.uint16))
    return root


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    return pictures(tmp_path / "photos")


@pytest.fixture
def sharded(folder: pathlib.Path, tmp_path: pathlib.Path) -> ImageStore:
    quiet(folder, tmp_path / "shards", shards=4)
    return ImageStore.open(tmp_path / "shards")


SOURCES: dict[str, tuple[Callable[[pathlib.Path], Any], dict[str, Any]]] = {
    "encoded": (pictures, {}),
    "raw": (pictures, {"raw": True, "size": 9}),
    "arrays": (bands, {"raw": True}),
    "limited": (pictures, {"limit": 7}),
    "dataset": (lambda _: dv.Scenes(9), {}),
}


@pytest.fixture(params=SOURCES)
def both(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> tuple[ImageStore, ImageStore]:
    make, options = SOURCES[request.param]
    source = make(tmp_path / "in")
    quiet(source, tmp_path / "one.h5", **options)
    quiet(source, tmp_path / "many", shards=3, **options)
    return ImageStore.open(tmp_path / "one.h5"), ImageStore.open(tmp_path / "many")


# --- what is packed is what is read


def test_shards_hold_what_a_single_file_holds(both: tuple[ImageStore, ImageStore]) -> None:
    one, many = both
    assert (
        many.shards == 3 and one.shards == 0 and names_in(many.path) == [f"shard-0000{n}-of-00003.h5" for n in range(3)]
    )
    for name in ("names", "classes", "skipped", "kind", "channels", "dtype", "fingerprint"):
        assert getattr(one, name) == getattr(many, name), name
    for name in ("labels", "sizes"):
        np.testing.assert_array_equal(getattr(one, name), getattr(many, name))
        assert getattr(many, name).dtype == np.int64 and not getattr(many, name).flags.writeable
    assert many.configuration == {**one.configuration, "shards": 3}
    assert len(one) == len(many) and all(len(file) for file in many._files)
    for index in [*np.random.default_rng(0).permutation(len(one)).tolist(), -1]:
        np.testing.assert_array_equal(one[index][0], many[index][0])
        assert one[index][1] == many[index][1] and one.encoded(index) == many.encoded(index)
    assert [label for _, label in many] == one.labels.tolist()
    for outside in (len(one), -len(one) - 1):
        with pytest.raises(IndexError, match=f"of {len(one)} in"):
            many[outside]


def test_several_across_shards(tmp_path: pathlib.Path, folder: pathlib.Path) -> None:
    quiet(folder, tmp_path / "one.h5", raw=True, size=8)
    quiet(folder, tmp_path / "many", raw=True, size=8, shards=4)
    one, many = ImageStore.open(tmp_path / "one.h5").several, ImageStore.open(tmp_path / "many").several
    assert one is not None and many is not None
    for indices in ([7, 0, 9, 0, 3, 8], list(range(10)), [5], [-1, 0]):
        alike = one(np.array(indices), None), many(np.array(indices), None)
        np.testing.assert_array_equal(*alike)
        room = np.zeros_like(alike[0])
        assert many(np.array(indices), room) is room
        np.testing.assert_array_equal(room, alike[0])


def test_the_fingerprint_is_that_of_its_definition(sharded: ImageStore) -> None:
    contents = [sharded.encoded(index) for index in range(len(sharded))]
    names = [name.encode() for name in sharded.names]
    digest = sha256(len(names).to_bytes(8, "little"))
    for column in (sharded.labels.tolist(), [len(content) for content in contents]):
        digest.update(b"".join(number.to_bytes(8, "little", signed=True) for number in column))
    digest.update(b"".join(blake2b(content, digest_size=16).digest() for content in contents))
    digest.update(b"".join(len(name).to_bytes(8, "little") for name in names) + b"".join(names))
    assert sharded.fingerprint == digest.hexdigest()


def test_info_and_report(sharded: ImageStore, folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    report = quiet(folder, tmp_path / "again", shards=4)
    assert (report.count, report.classes, report.shards, report.found) == (10, 2, 4, 0)
    assert [name for name, _ in report.skipped] == ["a/05.png"] and report.fingerprint == sharded.fingerprint
    assert "packed 10 images of 2 classes into" in str(report) and "(4 shards; " in str(report)
    info = sharded.info
    assert info["shards"] == 4 and info["bytes"] == sum(path.stat().st_size for path in sharded.path.iterdir())
    assert "10 encoded images in 4 shards, 2 classes, 1 skipped" in repr(sharded)


@pytest.mark.slow
def test_mined_files_are_equal(tmp_path: pathlib.Path) -> None:
    quiet(dv.Scenes(30), tmp_path / "one.h5")
    quiet(dv.Scenes(30), tmp_path / "many", shards=7)
    torch.manual_seed(0)
    network = dv.capture(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU()), (3, 32, 32))
    mined = []
    for name in ("one.h5", "many"):
        with ImageStore.open(tmp_path / name) as store:
            prepared = dv.Preprocess(resize=32, crop=32)
            dv.mine(network, store, ["0", "1"], 4, tmp_path / "mined.h5", preprocess=prepared, progress=False)
        mined.append(Result.load(tmp_path / "mined.h5", KIND, SCHEMA))
        (tmp_path / "mined.h5").unlink()
    one, many = mined
    assert one.config == many.config and one.arrays.keys() == many.arrays.keys() and len(one.arrays) > 5
    for name, array in one.arrays.items():
        np.testing.assert_array_equal(array, many.arrays[name])


@pytest.mark.parametrize(("start", "workers"), [("fork", 2), pytest.param("spawn", 1, marks=pytest.mark.slow)])
def test_data_loader_workers(sharded: ImageStore, start: str, workers: int) -> None:
    expected = list(sharded)  # the handles are open when the workers start
    context: Any = multiprocessing.get_context(start)
    loader: Any = DataLoader(sharded, batch_size=None, num_workers=workers, multiprocessing_context=context)  # type: ignore[arg-type]
    for (image, label), (known, meant) in zip(loader, expected, strict=True):
        np.testing.assert_array_equal(image.numpy(), known)
        assert label == meant
    np.testing.assert_array_equal(sharded[0][0], expected[0][0])  # the parent's handles still read


def test_pickle_threads_and_closing(sharded: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [image for image, _ in sharded]
    pickled = pickle.dumps(ImageStore.open(os.path.relpath(sharded.path)))
    monkeypatch.chdir("/")
    again = pickle.loads(pickled)
    assert len(pickled) < 500 and again.fingerprint == sharded.fingerprint
    with ThreadPoolExecutor(8) as pool:
        for index, (image, _) in enumerate(pool.map(again.__getitem__, [*range(10)] * 20)):
            np.testing.assert_array_equal(image, expected[index % 10])
    again.close()
    assert all(file._handle is None for file in again._files)
    np.testing.assert_array_equal(again[7][0], expected[7])


def test_what_takes_images_takes_the_folder(sharded: ImageStore, folder: pathlib.Path) -> None:
    assert isinstance(open_images(sharded.path), ImageStore) and isinstance(open_images(folder), Folder)
    assert verify(sharded.path) == "an image store of 10 images in 4 shards, unchanged since it was written"


# --- resuming


def changed(path: pathlib.Path) -> dict[str, tuple[int, int]]:
    return {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in path.iterdir()}


@pytest.mark.parametrize("source", ["files", "dataset"])
def test_finished_shards_are_kept(source: str, folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    images: Any = folder if source == "files" else dv.Scenes(12)
    quiet(images, tmp_path / "s", shards=4)
    before = {path.name: path.read_bytes() for path in (tmp_path / "s").iterdir()}
    times = changed(tmp_path / "s")
    for name in list(before)[1:3]:
        (tmp_path / "s" / name).unlink()
    report = quiet(images, tmp_path / "s", shards=4)
    assert report.found == 2 and "2 of which were there" in str(report)
    assert {path.name: path.read_bytes() for path in (tmp_path / "s").iterdir()} == before
    kept = {name for name, time in changed(tmp_path / "s").items() if times[name] == time}
    assert kept == set(before) - set(list(before)[1:3])
    quiet(images, tmp_path / "s", shards=4, overwrite=True)  # which replaces what is not of the same plan
    assert {name for name, time in changed(tmp_path / "s").items() if times[name] == time} == kept


def other_content(folder: pathlib.Path) -> None:
    path = folder / "a" / "01.png"
    status = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"!")  # of the same size
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def renamed(folder: pathlib.Path) -> None:
    (folder / "a" / "01.png").rename(folder / "a" / "01b.png")


def another_class(folder: pathlib.Path) -> None:
    (folder / "c").mkdir()


@pytest.mark.parametrize(
    ("change", "options"),
    [
        (other_content, {}),
        (renamed, {}),
        (another_class, {}),
        (None, {"shards": 3}),
        (None, {"raw": True}),
        (None, {"limit": 6}),
    ],
)
def test_shards_of_another_plan_are_refused_or_replaced(
    change: Callable[[pathlib.Path], None] | None,
    options: dict[str, Any],
    folder: pathlib.Path,
    sharded: ImageStore,
    tmp_path: pathlib.Path,
) -> None:
    before = changed(sharded.path)
    if change is not None:
        change(folder)
    with pytest.raises(DataError, match=r"shard-00000-of-00004.h5 is a shard of other .*--force") as caught:
        quiet(folder, sharded.path, **{"shards": 4, **options})
    assert "\n" not in str(caught.value) and changed(sharded.path) == before
    report = quiet(folder, sharded.path, **{"shards": 4, **options}, overwrite=True)
    fresh = quiet(folder, tmp_path / "fresh", **{"shards": 4, **options})
    names = [sorted(path.name for path in out.iterdir()) for out in (sharded.path, tmp_path / "fresh")]
    assert names[0] == names[1] and report.fingerprint == fresh.fingerprint and report.found == 0


def test_a_dataset_of_other_pixels_or_labels_is_another_plan(tmp_path: pathlib.Path) -> None:
    def images(seed: int, label: int) -> dv.InMemoryImages:
        return dv.InMemoryImages([photo(seed + n) for n in range(4)], [label] * 4)

    quiet(images(0, 0), tmp_path / "s", shards=2)
    for other in (images(4, 0), images(0, 1)):
        with pytest.raises(DataError, match="of other images"):
            quiet(other, tmp_path / "s", shards=2)
    assert quiet(images(0, 0), tmp_path / "s", shards=2).found == 2


def test_a_damaged_shard_is_refused_or_replaced(folder: pathlib.Path, sharded: ImageStore) -> None:
    path = sharded.path / "shard-00002-of-00004.h5"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"shard-00002-of-00004.h5 is damaged"):
        quiet(folder, sharded.path, shards=4)
    assert quiet(folder, sharded.path, shards=4, overwrite=True).found == 3 and path.read_bytes() == whole


# --- what cannot be read


def test_a_shard_without_a_readable_image(tmp_path: pathlib.Path) -> None:
    for options in ({}, {"raw": True}, {"raw": True, "size": 5}):
        root = pictures(tmp_path / "in", 4)  # a/01, a/03, a/05 (broken), b/00, b/02
        (root / "a" / "01.png").write_bytes(b"")
        quiet(root, tmp_path / "one.h5", overwrite=True, **options)
        quiet(root, tmp_path / "many", shards=5, overwrite=True, **options)
        one, many = ImageStore.open(tmp_path / "one.h5"), ImageStore.open(tmp_path / "many")
        assert [len(file) for file in many._files] == [0, 1, 0, 1, 1] and many.skipped == one.skipped
        assert (one.kind, one.channels, one.fingerprint) == (many.kind, many.channels, many.fingerprint)
        assert [name for name, _ in one.skipped] == ["a/01.png", "a/05.png"]
        for index in range(3):
            np.testing.assert_array_equal(one[index][0], many[index][0])


def test_no_readable_image_leaves_nothing(tmp_path: pathlib.Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(4):
        (tmp_path / "in" / f"{number}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"no readable image in .*: 4 skipped, the first 0.png"):
        quiet(tmp_path / "in", tmp_path / "s", shards=2)
    assert names_in(tmp_path) == ["in"]


def test_raw_shards_of_two_kinds(tmp_path: pathlib.Path) -> None:
    root = bands(tmp_path / "in")
    np.save(root / "b" / "9.npy", np.zeros((4, 4, 3), np.uint16))
    with pytest.raises(DataError, match=r"b/9.npy in .*shard-00007.* 3 channels, and a/0.npy in .* 5 channels") as told:
        quiet(root, tmp_path / "s", raw=True, shards=8)
    assert "\n" not in str(told.value) and names_in(tmp_path) == ["in"]


# --- what is no store


def others_with_the_same_names(path: pathlib.Path) -> None:
    quiet(dv.Scenes(8), path.parent / "other", shards=4)
    shutil.copy(path.parent / "other" / "shard-00002-of-00004.h5", path)


def others(path: pathlib.Path) -> None:
    quiet(dv.Scenes(8), path.parent / "other", shards=2)
    shutil.copy(path.parent / "other" / "shard-00001-of-00002.h5", path)


def swapped(path: pathlib.Path) -> None:
    shutil.copy(path / "shard-00001-of-00004.h5", path / "shard-00002-of-00004.h5")


def single(path: pathlib.Path) -> None:
    quiet(dv.Scenes(2), path / "shard-00003-of-00004.h5", overwrite=True)


def edited(path: pathlib.Path) -> None:
    with h5py.File(path / "shard-00001-of-00004.h5", "r+") as file:
        file["labels"][0] = 1 - file["labels"][0]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: (path / "shard-00003-of-00004.h5").unlink(), "shard-00003-of-00004.h5 is missing: 3 of 4"),
        (lambda path: (path / "shard-00000-of-00004.h5").unlink(), "shard-00000-of-00004.h5 is missing: 3 of 4"),
        (others, "shard-00001-of-00002.h5 is of another store than shard-00000-of-00004.h5"),
        (others_with_the_same_names, "shard-00002-of-00004.h5 is of another store than shard-00000-of-00004.h5"),
        (swapped, "shard-00002-of-00004.h5 is shard 1 of 4, from 0, under another name"),
        (single, "shard-00003-of-00004.h5 is no shard but a whole store"),
        (edited, "shard-00001-of-00004.h5 is damaged or was changed"),
    ],
)
def test_bad_folders(sharded: ImageStore, damage: Callable[[pathlib.Path], None], told: str) -> None:
    damage(sharded.path)
    before = changed(sharded.path)
    for read in (ImageStore.open, verify, open_images):
        with pytest.raises(DataError, match=told) as caught:
            read(sharded.path)
        assert "\n" not in str(caught.value) and changed(sharded.path) == before


def test_a_damaged_image_is_named_with_its_shard(sharded: ImageStore) -> None:
    with h5py.File(sharded.path / "shard-00002-of-00004.h5", "r+") as file:
        file["bytes"].write_direct(np.zeros(file["bytes"].shape, np.uint8))
    with pytest.raises(DataError, match=r"cannot read image 5 \(b/02.png\) of .*shard-00002-of-00004.h5: its bytes"):
        sharded[5]
    with pytest.raises(DataError, match=r"image 4 \(b/00.png\) of .*shard-00002-of-00004.h5: its bytes"):
        verify(sharded.path)


def test_a_replaced_shard_is_noticed(sharded: ImageStore, folder: pathlib.Path) -> None:
    pickled = pickle.dumps(sharded)
    quiet(folder, sharded.path, shards=4, raw=True, overwrite=True)
    with pytest.raises(DataError, match="replaced"):
        sharded[9]
    with pytest.raises(DataError, match="replaced"):
        pickle.loads(pickled)


# --- what cannot be packed


def test_bad_outputs(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    def refused(out: pathlib.Path, told: str, **options: Any) -> None:
        with pytest.raises(DataError, match=told) as caught:
            quiet(folder, out, **{"shards": 4, **options})
        assert "\n" not in str(caught.value)

    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    before = sorted(path.as_posix() for path in tmp_path.rglob("*"))
    refused(tmp_path / "file", "is a file, and shards are written to a folder")
    refused(tmp_path / "file", "is a file, and shards are written to a folder", overwrite=True)
    refused(tmp_path / "full", "holds other things than shards, such as thesis.tex")
    refused(tmp_path / "full", "holds other things than shards, such as thesis.tex", overwrite=True)
    refused(folder, "both what to pack and where to", overwrite=True)
    refused(tmp_path / "no" / "s", "cannot write")
    refused(tmp_path / "s", "shards", shards=0)
    refused(tmp_path / "s", "shards", shards=100_000)
    refused(tmp_path / "s", "12 shards given for 11 images; give 11 shards at most", shards=12)
    assert sorted(path.as_posix() for path in tmp_path.rglob("*")) == before
    (tmp_path / "empty").mkdir()
    assert quiet(folder, tmp_path / "empty", shards=11).count == 10


def test_on_the_command_line(folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke(cli, ["pack", "--shards", "3", "photos", "s", "--quiet", "--workers", "1"])
    assert run.exit_code == 0 and "packed 10 images of 2 classes into s (3 shards; " in run.output
    assert "unchanged" in CliRunner().invoke(cli, ["verify", "s", "--quiet"]).output
    assert CliRunner().invoke(cli, ["pack", "--shards", "0", "photos", "t"]).exit_code == 2
    refused = CliRunner().invoke(cli, ["pack", "--shards", "2", "photos", "s", "--quiet"])
    assert isinstance(refused.exception, DataError) and len(names_in(pathlib.Path("s"))) == 3


def test_many_files_in_one_are_noted(
    folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "MANY", 10)
    with pytest.warns(UserWarning, match=r"11 images go into one file; .*--shards 64"):
        quiet(folder, tmp_path / "s.h5")


# --- processes


@pytest.mark.slow
def test_processes_write_the_same_files(folder: pathlib.Path, tmp_path: pathlib.Path, sharded: ImageStore) -> None:
    report = quiet(folder, tmp_path / "by-two", shards=4, workers=2)
    assert report.found == 0 and report.fingerprint == sharded.fingerprint
    for path in sharded.path.iterdir():
        assert path.read_bytes() == (tmp_path / "by-two" / path.name).read_bytes()
    assert not multiprocessing.active_children()
