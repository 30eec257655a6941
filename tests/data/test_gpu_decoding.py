"""Stores whose JPEG files a device decodes: pixels close to Pillow's, and a fingerprint of their own."""

from __future__ import annotations

import io
import pathlib
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import deconvviz as dv
from deconvviz.data.datasets import open_images, place_of
from deconvviz.data.feed import Feed
from deconvviz.data.gpu_decoding import DecodedOnDevice
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import DataError

LEVELS = 12  # of 255, by which decoders of JPEG may differ on smooth pictures


def smooth(seed: int, height: int, width: int) -> Image.Image:
    """Return a picture without hard edges, of which decoders agree within a few levels."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def save(picture: Image.Image, path: pathlib.Path, **options: Any) -> None:
    picture.save(path, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """JPEG files: plain, turned by EXIF, grey, of four inks, progressive; and a PNG file."""
    files = tmp_path_factory.mktemp("files")
    save(smooth(0, 40, 56), files / "0-plain.jpg", quality=95)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        save(smooth(orientation, 40, 56), files / f"{orientation}-turned.jpg", quality=95, exif=exif)
    save(smooth(9, 40, 56).convert("L"), files / "9-grey.jpg", quality=95)
    save(smooth(10, 40, 56).convert("CMYK"), files / "a-inks.jpg", quality=95)
    save(smooth(11, 40, 56), files / "b-progressive.jpg", quality=95, progressive=True)
    save(smooth(12, 40, 56), files / "c-other.png")
    dv.pack(files, files / "store.h5", progress=False)
    return files


def test_pixels_are_close_to_pillows_and_upright(folder: pathlib.Path, device: torch.device) -> None:
    with dv.ImageStore.open(folder / "store.h5") as store:
        decoded = DecodedOnDevice(store, device)
        for index, picture in enumerate(decoded.decoded(range(len(store)))):
            expected = store[index][0].astype(int)
            assert picture.shape == expected.shape, store.names[index]
            assert np.abs(picture.astype(int) - expected).max() <= LEVELS, store.names[index]
            np.testing.assert_array_equal(decoded[index][0], picture)
        assert decoded[3][1] == store[3][1]
        assert (decoded.names, decoded.classes, len(decoded)) == (store.names, store.classes, len(store))


def test_pixels_are_those_of_torchvision(folder: pathlib.Path, device: torch.device) -> None:
    from torchvision.io import ImageReadMode, decode_jpeg

    with dv.ImageStore.open(folder / "store.h5") as store:
        content = torch.frombuffer(bytearray(store.encoded(0)), dtype=torch.uint8)
        expected = decode_jpeg([content], mode=ImageReadMode.RGB, device=device)[0].movedim(0, -1).cpu().numpy()
        np.testing.assert_array_equal(DecodedOnDevice(store, device)[0][0], expected)


def test_feed_is_the_same_in_blocks_and_one_by_one(folder: pathlib.Path, device: torch.device) -> None:
    preprocess = Preprocess(resize=36, crop=32)
    with dv.ImageStore.open(folder / "store.h5") as store:
        decoded = DecodedOnDevice(store, device)
        order = [5, 0, 12, 7]
        batches = list(Feed(decoded, preprocess).batches(3, order))
        kept = Feed(decoded, preprocess, memory=1 << 20)
        assert [batch.places.tolist() for batch in batches] == [[5, 0, 12], [7]]
        pictures = np.concatenate([batch.pictures for batch in batches])
        np.testing.assert_array_equal(pictures, np.concatenate([batch.pictures for batch in kept.batches(4, order)]))
        np.testing.assert_array_equal(pictures, kept.pictures(order))


def test_a_damaged_file_is_named_and_may_be_left_out(tmp_path: pathlib.Path, device: torch.device) -> None:
    file = io.BytesIO()
    smooth(0, 64, 64).save(file, "JPEG")
    for number in range(4):
        (tmp_path / f"{number}.jpg").write_bytes(file.getvalue())
    dv.pack(tmp_path, tmp_path / "store.h5", progress=False)
    with dv.ImageStore.open(tmp_path / "store.h5") as store:
        decoded = DecodedOnDevice(store, device)
        whole = store.encoded

        def cut(index: int) -> bytes:
            return whole(index)[: -400 if index == 2 else None]

        store.encoded = cut  # type: ignore[method-assign]
        with pytest.raises(DataError, match=r"image 2 \(2.jpg\)"):
            decoded.decoded([0, 2])
        (batch,) = Feed(decoded, Preprocess(resize=36, crop=32)).batches(8, tolerant=True)
        assert batch.places.tolist() == [0, 1, 3] and list(batch.left_out) == ["2.jpg"]


def test_fingerprint_and_place(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with dv.ImageStore.open(folder / "store.h5") as store:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        on_gpu, on_cpu = DecodedOnDevice(store, "cuda"), DecodedOnDevice(store, "cpu")
        assert len({store.fingerprint, on_gpu.fingerprint, on_cpu.fingerprint}) == 3
        again = open_images(place_of(on_gpu)["images"])
        assert isinstance(again, DecodedOnDevice) and again.fingerprint == on_gpu.fingerprint
        assert place_of(store) == {"images": str(folder / "store.h5")}


def test_mined_files_of_two_decoders_are_not_mixed(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    layers = OrderedDict(conv1=torch.nn.Conv2d(3, 4, 3), relu1=torch.nn.ReLU())
    network, preprocess = dv.capture(torch.nn.Sequential(layers), (3, 32, 32)), Preprocess(resize=36, crop=32)
    with dv.ImageStore.open(folder / "store.h5") as store:
        decoded = DecodedOnDevice(store, "cpu")
        options: dict[str, Any] = {"preprocess": preprocess, "progress": False}
        dv.mine(network, decoded, ["relu1"], k=2, out=tmp_path / "mined.h5", **options)
        with pytest.raises(dv.DeconvvizError):
            dv.mine(network, store, ["relu1"], k=2, out=tmp_path / "mined.h5", **options)


def test_what_needs_no_decoder_or_has_no_gpu_is_refused(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    dv.pack(folder, tmp_path / "raw.h5", raw=True, size=32, progress=False)
    with dv.ImageStore.open(tmp_path / "raw.h5") as store, pytest.raises(DataError, match="need no decoder"):
        DecodedOnDevice(store, "cpu")
    if not torch.cuda.is_available():
        with pytest.raises(DataError, match="torch finds none; give"):
            open_images(f"gpu:{folder / 'store.h5'}")
