"""Packing images, reading them back in every way, and every kind of bad input."""

from __future__ import annotations

import errno
import io
import json
import multiprocessing
import os
import pathlib
import pickle
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps
from reading_threads import all_end, reading_threads
from torch.utils.data import DataLoader

from deconvviz.data import store_file
from deconvviz.data.decode import decode, encode
from deconvviz.data.images import ImageStore
from deconvviz.data.pack import PackReport, pack
from deconvviz.data.parallel import in_order
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.scenes.scenes import Scenes
from deconvviz.data.store_file import SCHEMA
from deconvviz.data.writing import StoreWriter
from deconvviz.errors import DataError
from deconvviz.results.files import Sink, atomic

Photo = NDArray[np.uint8]


def photo(seed: int, height: int = 12, width: int = 15) -> Photo:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def put(path: pathlib.Path, image: Photo) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(image))
    return path


def file_of(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def quiet(source: Any, out: pathlib.Path, **options: Any) -> PackReport:
    return pack(source, out, progress=False, **options)


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """Two classes and one image outside them, a nested one, a hidden one and a text."""
    root = tmp_path / "photos"
    for seed, name in enumerate(["b/1.png", "b/deep/2.PNG", "a/1.png", "a/10.png", "loose.png"]):
        put(root / name, photo(seed, 12 + seed, 15))
    put(root / "a" / "._1.png", photo(9))
    put(root / ".cache" / "1.png", photo(9))
    (root / "readme.md").write_text("not an image")
    return root


@pytest.fixture
def store(folder: pathlib.Path, tmp_path: pathlib.Path) -> ImageStore:
    quiet(folder, tmp_path / "s.h5")
    return ImageStore.open(tmp_path / "s.h5")


# --- what is packed is what is read


def test_folder(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    report = quiet(folder, tmp_path / "s.h5", command="pack photos")
    with ImageStore.open(tmp_path / "s.h5") as store:
        assert store.names == ("a/1.png", "a/10.png", "b/1.png", "b/deep/2.PNG", "loose.png")
        assert store.classes == ("a", "b") and store.labels.tolist() == [0, 0, 1, 1, -1] and store.skipped == ()
        assert store.labels.dtype == store.sizes.dtype == np.int64
        assert not store.labels.flags.writeable and not store.sizes.flags.writeable
        for (image, label), seed, known in zip(store, [2, 3, 0, 1, 4], store.labels, strict=True):
            assert image.dtype == np.uint8 and label == known and type(label) is int
            np.testing.assert_array_equal(image, photo(seed, 12 + seed, 15))
        assert store.sizes.tolist() == [[14, 15], [15, 15], [12, 15], [13, 15], [16, 15]]
        assert store.encoded(0) == (folder / "a" / "1.png").read_bytes()
        np.testing.assert_array_equal(store[-1][0], store[4][0])
        for outside in (5, -6):
            with pytest.raises(IndexError, match="of 5"):
                store[outside]
        assert store.info["configuration"]["command"] == "pack photos"
        assert json.loads(json.dumps(store.info))["images"] == len(store) == 5
    assert (report.count, report.ignored, report.skipped, report.fingerprint) == (5, 2, [], store.fingerprint)
    assert "packed 5 images of 2 classes" in str(report) and "ignored 2" in str(report)
    assert store[0][1] == 0  # a closed store opens itself again


def test_the_report_counts_classes_that_have_an_image(tmp_path: pathlib.Path) -> None:
    for n in range(6):
        put(tmp_path / "in" / f"class{n}" / "x.png", photo(n))
    report = pack(tmp_path / "in", tmp_path / "s.h5", limit=2, progress=False)
    assert "packed 2 images of 2 classes" in str(report) and len(ImageStore.open(tmp_path / "s.h5").classes) == 6


def test_flat_folder_has_no_labels(tmp_path: pathlib.Path) -> None:
    put(tmp_path / "in" / "x.png", photo(0))
    quiet(tmp_path / "in", tmp_path / "s.h5")
    store = ImageStore.open(tmp_path / "s.h5")
    assert store.labels.tolist() == [-1] and store.classes == ()


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=5),
    raw=st.booleans(),
    size=st.integers(1, 30),
    workers=st.integers(1, 3),
)
def test_round_trip(shapes: list[tuple[int, int]], raw: bool, size: int, workers: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        pictures = [photo(seed, *shape) for seed, shape in enumerate(shapes)]
        for seed, picture in enumerate(pictures):
            put(root / "in" / f"{seed}.png", picture)
        report = quiet(root / "in", root / "s.h5", raw=raw, size=size, workers=workers)
        with ImageStore.open(root / "s.h5") as store:
            assert len(store) == report.count == len(shapes)
            for index, picture in enumerate(pictures):
                expected = Preprocess(size, size).picture(picture) if raw else picture
                np.testing.assert_array_equal(store[index][0], expected)
                np.testing.assert_array_equal(decode(store.encoded(index)), expected)
                assert tuple(store.sizes[index]) == expected.shape[:2]


def test_more_than_one_batch_and_chunk(tmp_path: pathlib.Path) -> None:
    sides = [700, 11, 800, 13, 900, 640]  # 7 MB: several writes, and images across chunks
    (tmp_path / "in").mkdir()
    for seed, side in enumerate(sides):
        (tmp_path / "in" / f"{seed}.bmp").write_bytes(file_of(Image.fromarray(photo(seed, side, side)), "BMP"))
    for raw in (False, True):
        quiet(tmp_path / "in", tmp_path / "s.h5", raw=raw, size=900, overwrite=True)
        with ImageStore.open(tmp_path / "s.h5") as store:
            for index in (5, 0, 4, 1, 3, 2):
                expected = photo(index, sides[index], sides[index])
                expected = Preprocess(900, 900).picture(expected) if raw else expected
                np.testing.assert_array_equal(store[index][0], expected)


def test_photos(data: pathlib.Path, tmp_path: pathlib.Path) -> None:
    report = quiet(data / "imagenet-sample", tmp_path / "s.h5", limit=100)
    quiet(data / "imagenet-sample", tmp_path / "raw.h5", limit=100, raw=True)
    store, raw, pre = ImageStore.open(tmp_path / "s.h5"), ImageStore.open(tmp_path / "raw.h5"), Preprocess()
    assert report.count == len(store) == len(raw) == 100 and not report.skipped
    assert store.names == raw.names == tuple(sorted(store.names)) and store.fingerprint != raw.fingerprint
    assert store.path.stat().st_size < sum(len(store.encoded(i)) for i in range(100)) + 400_000
    for index in range(0, 100, 10):
        file = data / "imagenet-sample" / store.names[index]
        image, label = store[index]
        np.testing.assert_array_equal(image, np.asarray(Image.open(file).convert("RGB")))
        assert store.classes[label] == file.parent.name
        np.testing.assert_array_equal(pre.picture(raw[index][0]), pre.picture(image))  # the crop is the same either way


def test_packing_twice_gives_the_same_bytes(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (folder / "broken.png").write_bytes(b"no image")
    for raw in (False, True):
        first = quiet(folder, tmp_path / f"1{raw}.h5", raw=raw, workers=1)
        second = quiet(folder, tmp_path / f"2{raw}.h5", raw=raw, workers=3)
        assert first.path.read_bytes() == second.path.read_bytes() and first.fingerprint == second.fingerprint


def test_fingerprint_is_of_the_content(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    def fingerprint(**options: Any) -> str:
        return quiet(folder, tmp_path / "s.h5", overwrite=True, **options).fingerprint

    shutil.copytree(folder, tmp_path / "copy")
    seen = [fingerprint(), fingerprint(raw=True), fingerprint(limit=4)]
    assert quiet(tmp_path / "copy", tmp_path / "copy.h5", command="another").fingerprint == seen[0]
    put(folder / "loose.png", photo(77, 16, 15))
    seen.append(fingerprint())
    (folder / "loose.png").rename(folder / "moved.png")
    seen.append(fingerprint())
    put(folder / "a0" / "new.png", photo(1)).unlink()  # one class more: the labels of b move
    seen.append(fingerprint())
    assert len(set(seen)) == len(seen)


# --- lists and datasets


@pytest.mark.parametrize(
    ("name", "text", "labels", "classes"),
    [
        ("l.txt", "# a comment\n\nb/1.png\t7\r\n  a/1.png \nloose.png\t0\n", [7, -1, 0], ()),
        ("l.txt", "\ufeffb/1.png\tcat\na/1.png\ta dog\nloose.png\tcat", [1, 0, 1], ("a dog", "cat")),
        ("l.txt", "b/1.png\t3\na/1.png\tx\nloose.png", [0, 1, -1], ("3", "x")),
        ("l.CSV", 'path,label\n"b/1.png",2\n\n# no\na/1.png,\nloose.png\n', [2, -1, -1], ()),
        ("l.csv", "b/1.png,cat\na/1.png,ant\nloose.png,cat\n", [1, 0, 1], ("ant", "cat")),
    ],
)
def test_list(
    folder: pathlib.Path, tmp_path: pathlib.Path, name: str, text: str, labels: list[int], classes: tuple[str, ...]
) -> None:
    (folder / name).write_bytes(text.encode())
    quiet(folder / name, tmp_path / "s.h5")
    store = ImageStore.open(tmp_path / "s.h5")
    assert store.names == ("b/1.png", "a/1.png", "loose.png")  # in the order of the list
    assert store.labels.tolist() == labels and store.classes == classes
    np.testing.assert_array_equal(store[0][0], photo(0, 12, 15))


@settings(max_examples=15, deadline=None)
@given(labels=st.lists(st.none() | st.integers(-1, 2**63 - 1), min_size=1, max_size=6))
def test_list_of_absolute_paths_keeps_its_labels(labels: list[int | None]) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        image = put(root / "x.png", photo(0, 2, 2))
        (root / "l.txt").write_text("\n".join(f"{image}" if n is None else f"{image}\t{n}" for n in labels))
        quiet(root / "l.txt", root / "s.h5")
        store = ImageStore.open(root / "s.h5")
        assert store.labels.tolist() == [-1 if label is None else label for label in labels]
        assert store.names == (str(image),) * len(labels)


class Pairs:
    """A dataset as torchvision has them."""

    classes = ("ant", "bee")

    def __init__(self, *items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        if isinstance(self.items[index], Exception):
            raise self.items[index]
        return self.items[index]


def test_dataset(tmp_path: pathlib.Path) -> None:
    image = photo(3)
    tensor, gray = torch.from_numpy(image).permute(2, 0, 1), image[:, :, :1]
    dataset = Pairs(
        (Image.fromarray(image), 1),
        (tensor, torch.tensor(0)),
        (image, None),
        (torch.from_numpy(gray).permute(2, 0, 1), np.int64(1)),
        (gray[:, :, 0], 1),
        OSError("cannot open it"),
        (tensor / 255, 0),
        (image, 0.5),
        image,
        (image,),
        {"img": image, "labels": "bee", "id": 7},
        {"label": 1},
        (image, "wasp"),
        image.tobytes(),
    )
    report = quiet(dataset, tmp_path / "s.h5")
    store = ImageStore.open(tmp_path / "s.h5")
    assert store.classes == ("ant", "bee") and store.labels.tolist() == [1, 0, -1, 1, 1, -1, -1, 1]
    for index, (picture, _) in enumerate(store):
        np.testing.assert_array_equal(picture, np.repeat(gray, 3, axis=2) if index in (3, 4) else image)
    assert store.encoded(0).startswith(b"\x89PNG")
    assert store.skipped == tuple(report.skipped) and [name[:8] for name, _ in store.skipped] == [
        f"{index:08d}" for index in (5, 6, 7, 11, 12, 13)
    ]
    assert all("(image, label)" in store.skipped[n][1] for n in (3, 5)) and "label 'wasp' given" in store.skipped[4][1]
    assert store.skipped[0][1] == "cannot open it" and "float32 [3, 12, 15]" in store.skipped[1][1]
    assert quiet(dataset, tmp_path / "two.h5", limit=2).count == 2


# --- decoding


def gradient(dtype: Any, peak: int) -> NDArray[Any]:
    values: NDArray[Any] = np.linspace(0, peak, 64).round().astype(dtype)
    return values.reshape(8, 8)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_wide_gray_keeps_its_bits(kind: str) -> None:
    values = gradient(np.uint16, 65535)
    decoded = decode(file_of(Image.fromarray(values), kind))
    assert decoded.dtype == np.uint16
    np.testing.assert_array_equal(decoded, np.stack([values] * 3, axis=2))


def tiff(bits: int, photometric: int, data: bytes, width: int, height: int) -> bytes:
    """A TIFF of one gray strip, as Pillow cannot write it."""
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 0, 277: 1, 278: height, 279: len(data)}
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + data


def test_gray_tiff_of_other_kinds() -> None:
    assert decode(tiff(12, 1, bytes.fromhex("000FFF800800"), 4, 1))[0, :, 0].tolist() == [
        round(v * 65535 / 4095) for v in (0, 0xFFF, 0x800, 0x800)
    ]
    whites = struct.pack("<4H", 0, 65535, 257, 514)  # 0 is white
    assert decode(tiff(16, 0, whites, 4, 1))[0, :, 0].tolist() == [65535, 0, 65278, 65021]


def test_gray_palette_bilevel_and_cmyk() -> None:
    gray = gradient(np.uint8, 255)
    rgb = np.stack([gray] * 3, axis=2)
    np.testing.assert_array_equal(decode(file_of(Image.fromarray(gray), "PNG")), rgb)
    palette = Image.fromarray(photo(0, 8, 8) // 128 * 255).convert("P")
    np.testing.assert_array_equal(decode(file_of(palette, "GIF")), np.asarray(palette.convert("RGB")))
    bilevel = Image.fromarray(gray > 99)
    np.testing.assert_array_equal(decode(file_of(bilevel, "TIFF")), (rgb > 99) * np.uint8(255))
    cmyk = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    assert np.abs(decode(file_of(cmyk, "JPEG")).astype(int) - [0, 255, 255]).max() <= 2
    assert decode(file_of(cmyk, "TIFF"))[0, 0].tolist() == [0, 255, 255]


def test_transparency_is_on_white() -> None:
    rgba = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    rgba.putpixel((1, 0), (0, 0, 0, 51))
    for kind in ("PNG", "WEBP", "TIFF"):
        assert decode(file_of(rgba, kind, **({"lossless": True} if kind == "WEBP" else {}))).tolist() == [
            [[255, 255, 255], [204, 204, 204]]
        ]
    palette = Image.new("P", (2, 1))
    palette.putpalette([9, 9, 9, 0, 0, 200])
    palette.putpixel((1, 0), 1)
    for kind in ("PNG", "GIF"):
        assert decode(file_of(palette, kind, transparency=0)).tolist() == [[[255, 255, 255], [0, 0, 200]]]
    assert decode(file_of(Image.new("LA", (1, 1), (0, 0)), "PNG")).tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 10))
def test_exif_orientation(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = file_of(Image.fromarray(np.kron(photo(0, 2, 3), np.ones((8, 8, 1), np.uint8))), kind, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert expected is not None and expected.size == ((24, 16) if orientation in (1, 2, 3, 4, 9) else (16, 24))
    np.testing.assert_array_equal(decode(data), np.asarray(expected))


def test_first_frame_and_broken_exif() -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    assert decode(file_of(frames[0], "GIF", save_all=True, append_images=frames[1:]))[0, 0].tolist() == [255, 0, 0]
    data = file_of(frames[0], "PNG", exif=b"Exif\0\0nonsense")
    assert decode(data)[0, 0].tolist() == [255, 0, 0]


def unreadable() -> dict[str, tuple[bytes, str]]:
    png, jpeg = encode(photo(0)), file_of(Image.fromarray(photo(0, 64, 64)), "JPEG")
    return {
        "bomb.png": (file_of(Image.new("1", (9500, 9500)), "PNG"), "MAX_IMAGE_PIXELS"),
        "corrupt.png": (png[:40] + bytes(20) + png[60:], ""),
        "cut.jpg": (jpeg[: len(jpeg) // 2], "truncated"),
        "cut.png": (png[: len(png) // 2], "truncated"),
        "empty.jpg": (b"", "empty"),
        "float.tif": (file_of(Image.fromarray(gradient(np.float32, 1)), "TIFF"), "floating-point"),
        "ghost.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        "int.tif": (file_of(Image.fromarray(gradient(np.int32, 99)), "TIFF"), "32-bit"),
        "text.png": (b"hello", "not an image"),
    }


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_cannot_be_read_is_skipped_and_listed(tmp_path: pathlib.Path) -> None:
    root, bad = tmp_path / "in", unreadable()
    put(root / "good.png", photo(0))
    for name, (content, _) in bad.items():
        (root / name).write_bytes(content)
    (root / "gone.png").symlink_to(root / "nowhere.png")
    (root / "round.png").symlink_to(root / "round.png")
    os.mkfifo(root / "pipe.png")
    report = quiet(root, tmp_path / "s.h5")
    store = ImageStore.open(tmp_path / "s.h5")
    assert store.names == ("good.png",) and store.skipped == tuple(report.skipped)
    reasons = dict(store.skipped)
    assert sorted(reasons) == sorted([*bad, "gone.png", "round.png", "pipe.png"])
    for name, (_, told) in bad.items():
        assert told in reasons[name] and "\n" not in reasons[name] and " at 0x" not in reasons[name]
    assert "No such file" in reasons["gone.png"] and reasons["pipe.png"] == "not a file"
    assert "skipped 12 images" in str(report) and "and 2 more" in str(report)
    assert "12 skipped" in repr(store)


def test_memory_is_bounded(tmp_path: pathlib.Path) -> None:
    begun: list[int] = []
    results = in_order(lambda index: index, (begun.append(index) or index for index in range(1000)), workers=2)
    assert next(results) == 0 and len(begun) < 20 and [*results] == list(range(1, 1000))
    tracemalloc.start()
    with StoreWriter(tmp_path / "s.h5", raw=False) as writer:
        for index in range(60):
            writer.add(str(index), -1, np.zeros(1 << 20, np.uint8), (1, 1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 << 20


# --- bad sources and outputs


def empty(root: pathlib.Path) -> Any:
    (root / "d").mkdir()
    (root / "d" / "x.doc").touch()
    return root / "d"


def unlisted(text: bytes, name: str = "l.txt") -> Callable[[pathlib.Path], pathlib.Path]:
    def make(root: pathlib.Path) -> pathlib.Path:
        (root / name).write_bytes(text)
        return root / name

    return make


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda root: root / "nowhere", "does not exist; expected a folder"),
        (empty, "no image in .*jpg"),
        (unlisted(b"", "x.zip"), "neither a folder"),
        (unlisted(b"\n#\n"), "no image in"),
        (unlisted(b"gone.png\n"), "no readable image in .*gone.png: No such file"),
        (unlisted(b"gone.png\t-2\n"), "label -2"),
        (unlisted(b"gone.png\t99999999999999999999\n"), "neither the index"),
        (unlisted(b"\xff\xfe\x00"), "UTF-8"),
        (unlisted(b"a\0b.png\n"), "no readable image .*null"),
        (lambda _: Pairs((torch.zeros(3, 2, 2), 0)), "no readable image in Pairs.*float32"),
        (lambda _: 3, "expected a folder, a list file or a dataset"),
    ],
)
def test_bad_sources(make: Callable[[pathlib.Path], Any], told: str, tmp_path: pathlib.Path) -> None:
    source = make(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DataError, match=told) as caught:
        quiet(source, tmp_path / "s.h5")
    assert "\n" not in str(caught.value) and sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("option", [{"limit": 0}, {"workers": 0}, {"size": -1}])
def test_bad_options(folder: pathlib.Path, tmp_path: pathlib.Path, option: dict[str, int]) -> None:
    with pytest.raises(DataError, match="at least 1"):
        quiet(folder, tmp_path / "s.h5", **option)


def test_bad_outputs(folder: pathlib.Path, tmp_path: pathlib.Path, store: ImageStore) -> None:
    def refused(source: Any, out: pathlib.Path, told: str, **options: Any) -> None:
        with pytest.raises(DataError, match=told):
            quiet(source, out, **options)

    before = store.path.read_bytes()
    refused(folder, tmp_path / "no" / "s.h5", "no folder .*create it")
    refused(folder, store.path / "s.h5", "no folder")
    refused(folder, tmp_path, "is a folder")
    refused(folder, pathlib.Path("/proc/s.h5"), "cannot write /proc/s.h5")
    os.mkfifo(tmp_path / "pipe")  # and not /dev/null: a broken guard would replace it for the whole machine
    refused(folder, tmp_path / "pipe", "neither a file nor free", overwrite=True)
    refused(folder, folder / "a" / "1.png", "named like an image", overwrite=True)
    refused(folder, store.path, "exists; .*overwrite=True")
    refused(store, store.path, "both what to pack", overwrite=True)
    (tmp_path / "l.txt").write_text("photos/loose.png")
    refused(tmp_path / "l.txt", tmp_path / "l.txt", "both what to pack", overwrite=True)
    assert store.path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["l.txt", "photos", "pipe", "s.h5"]
    assert quiet(folder, store.path, limit=1, overwrite=True).count == len(ImageStore.open(store.path)) == 1


def test_unreadable_folder_is_told(
    folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = os.scandir

    def scandir(path: Any) -> Any:
        if str(path).endswith("deep"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"cannot read the folder .*deep: Permission denied"):
        quiet(folder, tmp_path / "s.h5")


def test_link_loops_end(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (folder / "a" / "up").symlink_to(folder, target_is_directory=True)
    (folder / "b" / "across").symlink_to(folder / "a", target_is_directory=True)
    (folder / "self").symlink_to(folder, target_is_directory=True)
    put(tmp_path / "elsewhere" / "3.png", photo(3))
    (folder / "c").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    quiet(folder, tmp_path / "s.h5")
    store = ImageStore.open(tmp_path / "s.h5")
    assert store.classes == ("a", "b", "c") and len(store) == 6 and store.names[4] == "c/3.png"


def test_names_that_are_no_text(tmp_path: pathlib.Path) -> None:
    (tmp_path / "in").mkdir()
    with open(os.fsencode(tmp_path / "in") + b"/\xe9 \xc3\xa9.png", "wb") as file:  # noqa: PTH123, a name in bytes
        file.write(encode(photo(0)))
    quiet(tmp_path / "in", tmp_path / "s.h5")
    assert ImageStore.open(tmp_path / "s.h5").names == ("\ufffd é.png",)


# --- foreign and damaged stores


def rewritten(change: Callable[[h5py.File], None]) -> Callable[[pathlib.Path], None]:
    def make(path: pathlib.Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file)

    return make


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: path.unlink(), "does not exist; expected an image store"),
        (lambda path: (path.unlink(), path.mkdir()), "is a folder; expected"),
        (lambda path: path.write_text("hello"), "not an HDF5 file"),
        (lambda path: path.write_bytes(b""), "not an HDF5 file"),
        (lambda path: os.truncate(path, path.stat().st_size // 2), "damaged or truncated"),
        (rewritten(lambda file: file.attrs.pop("format")), "HDF5 but no image store"),
        (rewritten(lambda file: file.attrs.update(schema=SCHEMA + 1)), f"schema {SCHEMA + 1}.*update deconvviz"),
        (rewritten(lambda file: file.pop("labels")), "damaged"),
        (rewritten(lambda file: file.attrs.update(configuration="{")), "damaged"),
        (rewritten(lambda file: file["bytes"].resize(9, axis=0)), "not of one length"),
    ],
)
def test_bad_stores(store: ImageStore, damage: Callable[[pathlib.Path], None], told: str) -> None:
    damage(store.path)
    with pytest.raises(DataError, match=told) as caught:
        ImageStore.open(store.path)
    assert "\n" not in str(caught.value) and str(store.path) in str(caught.value)


def test_damaged_image_is_named(store: ImageStore) -> None:
    rewritten(lambda file: file["bytes"].write_direct(np.zeros(file["bytes"].shape, np.uint8)))(store.path)
    with pytest.raises(DataError, match=r"image 1 \(a/10.png\)"):
        store[1]


def test_replaced_store_is_noticed(store: ImageStore, folder: pathlib.Path) -> None:
    pickled = pickle.dumps(store)
    quiet(folder, store.path, limit=1, overwrite=True)
    with pytest.raises(DataError, match="replaced"):
        store[0]
    with pytest.raises(DataError, match="replaced"):
        pickle.loads(pickled)


# --- processes and threads


@pytest.mark.parametrize(
    ("start", "workers", "epochs"), [("fork", 2, 2), pytest.param("spawn", 1, 1, marks=pytest.mark.slow)]
)
def test_data_loader_workers(store: ImageStore, start: str, workers: int, epochs: int) -> None:
    expected = list(store)  # the handle is open when the workers start
    context: Any = multiprocessing.get_context(start)
    loader: Any = DataLoader(store, batch_size=None, num_workers=workers, multiprocessing_context=context)  # type: ignore[arg-type]
    for _ in range(epochs):
        for (image, label), (known, meant) in zip(loader, expected, strict=True):
            np.testing.assert_array_equal(image.numpy(), known)
            assert label == meant
        np.testing.assert_array_equal(store[0][0], expected[0][0])  # the parent's handle still reads


def test_fork_while_another_thread_opens(store: ImageStore) -> None:
    def child() -> None:
        _ = store[0]
        assert store._files[0]._handle is not None and store._files[0]._handle[0] == os.getpid()  # not the parent's

    def hold() -> None:
        with store_file.OPENING:
            holding.set()
            time.sleep(0.3)

    _, holding = store[0], threading.Event()
    thread = threading.Thread(target=hold)
    thread.start()
    holding.wait()
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(10)
    if process.exitcode is None:
        process.kill()
    thread.join()
    assert process.exitcode == 0


def test_pickle(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    relative = ImageStore.open(os.path.relpath(store.path))
    pickled = pickle.dumps(relative)
    monkeypatch.chdir("/")
    again = pickle.loads(pickled)
    assert again.names == store.names and len(pickled) < 500
    np.testing.assert_array_equal(again[3][0], store[3][0])


def test_threads(store: ImageStore) -> None:
    expected = [image for image, _ in store]
    store.close()
    with ThreadPoolExecutor(8) as pool:
        for index, (image, _) in enumerate(pool.map(store.__getitem__, [0, 1, 2, 3, 4] * 60)):
            np.testing.assert_array_equal(image, expected[index % 5])


def test_reprs_escape(tmp_path: pathlib.Path, folder: pathlib.Path) -> None:
    quiet(folder, tmp_path / "<b>.h5", command="<script>")
    store = ImageStore.open(tmp_path / "<b>.h5")
    assert repr(store).startswith("<ImageStore ") and "5 encoded images, 2 classes" in repr(store)
    assert "<b>" not in store._repr_html_() and "&lt;script&gt;" in store._repr_html_()


# --- written whole or not at all


def test_atomic(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "x"
    (tmp_path / "link").symlink_to(target)
    for content in ("one", "two"):
        with atomic(tmp_path / "link") as temporary:
            assert temporary.parent == tmp_path and temporary.read_bytes() == b""
            temporary.write_text(content)
        assert target.read_text() == content and (tmp_path / "link").is_symlink()
    for failure in (KeyboardInterrupt(), ValueError("no")):
        with pytest.raises(type(failure)), atomic(target) as temporary:
            temporary.write_text("three")
            raise failure
    with pytest.raises(DataError, match="No space left on device; free some space"), atomic(target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert target.read_text() == "two" and sorted(p.name for p in tmp_path.iterdir()) == ["link", "x"]
    umask = os.umask(0)
    os.umask(umask)
    assert target.stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("failing", ["fsync", "replace", "check"])
def test_full_disk_leaves_the_old_file(
    failing: str, store: ImageStore, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = store.path.read_bytes()
    put(folder / "new.png", photo(5))
    with monkeypatch.context() as patch:
        owner: Any = {"fsync": os, "replace": pathlib.Path, "check": Sink}[failing]
        patch.setattr(owner, failing, full)
        with pytest.raises(DataError, match=r"cannot write .*No space left on device"):
            quiet(folder, store.path, overwrite=True)
    assert store.path.read_bytes() == before and len(list(store.path.parent.iterdir())) == 2


FULL = """
import pathlib, resource, sys
from deconvviz.data.pack import pack
from deconvviz.errors import DataError
for size in map(int, sys.argv[3:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        pack(sys.argv[1], sys.argv[2], progress=False, overwrite=True)
    except DataError as error:
        assert str(error).endswith("File too large; free some space or choose another place"), error
    else:
        raise SystemExit(f"{size} bytes were enough")
"""


@pytest.mark.slow
def test_hdf5_survives_a_full_disk(tmp_path: pathlib.Path) -> None:
    # The real thing, in a process of its own: without the sink HDF5 crashes it. The limit hits first, last and between.
    (tmp_path / "in").mkdir()
    for seed in range(7):
        (tmp_path / "in" / f"{seed}.bmp").write_bytes(file_of(Image.fromarray(photo(seed, 800, 800)), "BMP"))
    report = quiet(tmp_path / "in", tmp_path / "s.h5")
    before, size = report.path.read_bytes(), report.path.stat().st_size
    limits = [str(n) for n in (0, 700, 300_000, 5_000_000, size - 4096, size - 1)]
    command = [sys.executable, "-c", FULL, str(tmp_path / "in"), str(report.path), *limits]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert done.returncode == 0 and done.stderr == ""
    assert report.path.read_bytes() == before and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("shards", [None, 1])
def test_the_threads_end_where_writing_fails(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, shards: int | None
) -> None:
    """Also while the error is held: its frames hold what reads."""

    def failing(path: pathlib.Path, results: Iterator[Any], *others: Any) -> None:
        next(results)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("deconvviz.data.pack.write_entries", failing)
    monkeypatch.setattr("deconvviz.data.shard_packing.write_entries", failing)
    before = reading_threads()
    with pytest.raises((OSError, DataError)) as held:
        pack(Scenes(40), tmp_path / "out", progress=False, shards=shards, workers=2)
    assert held.value.__traceback__ is not None
    assert all_end(before)
