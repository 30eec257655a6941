"""Images of any number of channels, of 8, 16 and 32 bits: files, stores, preprocessing, and how they are shown."""

from __future__ import annotations

import io
import pathlib
import struct
import tempfile
import zlib
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from PIL import Image

import deconvviz as dv
from deconvviz.data.array_files import is_array_file, read_array
from deconvviz.data.decode import decode
from deconvviz.data.feed import Feed
from deconvviz.data.memory import InMemoryImages
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.sampling import mean_colour
from deconvviz.data.transforms import canvas_of, rotation, translation
from deconvviz.errors import DataError

KINDS = ("uint8", "uint16", "float32")
SHAPES = array_shapes(min_dims=3, max_dims=3, max_side=6)
ARRAYS = st.sampled_from(KINDS).flatmap(
    lambda kind: arrays(
        kind, SHAPES, elements={"allow_nan": False, "allow_infinity": False} if kind == "float32" else None
    )
)


def bands(channels: int, kind: str, height: int = 9, width: int = 11, seed: int = 0) -> NDArray[Any]:
    """Random values over the whole range of a type, for floats in -200..1000."""
    rng = np.random.default_rng(seed)
    if kind == "float32":
        return rng.uniform(-200, 1000, (height, width, channels)).astype(np.float32)
    return rng.integers(0, np.iinfo(kind).max, (height, width, channels), endpoint=True).astype(kind)


def write(path: pathlib.Path, array: NDArray[Any]) -> pathlib.Path:
    """Write an array as the name says; a TIFF has its channels beside each other in every pixel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        np.savez_compressed(path, values=array)
    elif path.suffix == ".npy":
        np.save(path, array)
    else:
        single = array.shape[2] == 1
        layout = None if single else "contig"
        tifffile.imwrite(path, array[..., 0] if single else array, photometric="minisblack", planarconfig=layout)
    return path


def packed(source: Any, folder: pathlib.Path, **options: Any) -> dv.ImageStore:
    dv.pack(source, folder / "s.h5", raw=True, progress=False, overwrite=True, **options)
    return dv.ImageStore.open(folder / "s.h5")


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(ARRAYS, st.sampled_from([".npy", ".npz"]), st.booleans())
def test_arrays_come_back_as_they_were(array: NDArray[Any], suffix: str, big_endian: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        stored = array.astype(array.dtype.newbyteorder(">")) if big_endian else array
        write(folder / "in" / "class" / f"0{suffix}", stored)
        write(folder / "in" / "class" / f"1{suffix}", np.asfortranarray(stored[::-1, ::-1]))
        with packed(folder / "in", folder) as store:
            assert (store.kind, store.dtype, store.channels) == ("arrays", array.dtype, array.shape[2])
            assert np.array_equal(store[0][0], array) and np.array_equal(store[1][0], array[::-1, ::-1])
            assert store[0][0].dtype == array.dtype and store[0][0].flags.writeable
            assert store.sizes.tolist() == [list(array.shape[:2])] * 2 and store.labels.tolist() == [0, 0]
            assert np.array_equal(np.load(io.BytesIO(store.encoded(0))), array)


@pytest.mark.parametrize(
    ("channels", "kind"), [(1, "float32"), (2, "uint8"), (3, "uint16"), (4, "uint8"), (6, "uint16")]
)
def test_tiff_of_bands(tmp_path: pathlib.Path, channels: int, kind: str) -> None:
    array = bands(channels, kind)
    paths = [write(tmp_path / "in" / "0.tif", array)]
    if channels > 1:  # band by band: as planes of one page, as pages, and as tifffile writes an array by default
        planes = np.moveaxis(array, -1, 0)
        tifffile.imwrite(tmp_path / "in" / "1.tif", planes, photometric="minisblack", planarconfig="separate")
        tifffile.imwrite(tmp_path / "in" / "2.tif", array, photometric="minisblack")
        paths += [tmp_path / "in" / "1.tif", tmp_path / "in" / "2.tif"]
    for path in paths:
        assert is_array_file(path) and np.array_equal(read_array(path), array)
    with packed(tmp_path / "in", tmp_path) as store:
        assert all(np.array_equal(store[n][0], array) for n in range(len(paths)))


def test_tiff_pictures_stay_pictures(tmp_path: pathlib.Path) -> None:
    Image.fromarray(bands(3, "uint8")).save(tmp_path / "rgb.tif")
    Image.fromarray(bands(4, "uint8"), "RGBA").save(tmp_path / "alpha.tif")
    Image.fromarray(bands(1, "uint16")[..., 0]).save(tmp_path / "grey.tiff")
    (tmp_path / "broken.tif").write_bytes(b"II*\0no")
    assert not any(is_array_file(path) for path in tmp_path.iterdir())


def test_arrays_without_channels_sizes_of_their_own_and_a_size_that_is_asked_for(tmp_path: pathlib.Path) -> None:
    first, second = bands(1, "uint16", 5, 8), bands(1, "uint16", 7, 3, seed=1)
    write(tmp_path / "in" / "0.npy", first[..., 0])
    write(tmp_path / "in" / "1.npy", second)
    with packed(tmp_path / "in", tmp_path) as store:
        assert np.array_equal(store[0][0], first) and np.array_equal(store[1][0], second)
    with packed(tmp_path / "in", tmp_path, size=4) as store:
        square = Preprocess(resize=4, crop=4, mean=(0.0,), std=(1.0,))
        assert np.array_equal(store[1][0], square.picture(second)) and store.sizes.tolist() == [[4, 4]] * 2


@pytest.mark.parametrize("other", [bands(3, "uint16"), bands(4, "uint8")], ids=["type", "channels"])
def test_a_mixture_is_refused_and_names_the_file(tmp_path: pathlib.Path, other: NDArray[Any]) -> None:
    write(tmp_path / "in" / "0.npy", bands(3, "uint8"))
    write(tmp_path / "in" / "1.npy", other)
    with pytest.raises(DataError, match=r"^1.npy is .* and the images before it are uint8 with 3 channels") as error:
        dv.pack(tmp_path / "in", tmp_path / "s.h5", raw=True, progress=False)
    assert "\n" not in str(error.value) and not (tmp_path / "s.h5").exists()


def test_what_is_no_image_is_skipped_with_its_reason(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "in" / "good.npy", bands(2, "float32"))
    write(tmp_path / "in" / "nan.npy", np.full((2, 2, 2), np.nan, np.float32))
    write(tmp_path / "in" / "double.npy", np.zeros((2, 2, 2)))
    write(tmp_path / "in" / "flat.npy", np.zeros(5, np.uint8))
    (tmp_path / "in" / "cut.npy").write_bytes((tmp_path / "in" / "good.npy").read_bytes()[:-5])
    np.savez(tmp_path / "in" / "two.npz", a=np.zeros(2), b=np.zeros(2))
    np.save(tmp_path / "in" / "object.npy", np.array([{}]), allow_pickle=True)
    reasons = dict(dv.pack(tmp_path / "in", tmp_path / "s.h5", raw=True, progress=False).skipped)
    assert set(reasons) == {"nan.npy", "double.npy", "flat.npy", "cut.npy", "two.npz", "object.npy"}
    assert "NaN" in reasons["nan.npy"] and "float64 [2, 2, 2] given" in reasons["double.npy"]
    assert "expected a .npz file with one" in reasons["two.npz"] and "\n" not in "".join(reasons.values())
    with pytest.raises(DataError, match="arrays need --raw"):
        dv.pack(tmp_path / "in", tmp_path / "t.h5", progress=False)


def test_an_array_is_not_left_out_because_two_threads_parse(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CPython 3.11 raises a SystemError at times (gh-106905); an intact file was skipped then."""
    load, failures = np.load, iter(range(3))

    def unlucky(*given: Any, **named: Any) -> Any:
        if next(failures, None) is not None:
            raise SystemError("AST constructor recursion depth mismatch (before=36, after=33)")
        return load(*given, **named)

    path = write(tmp_path / "a.npy", bands(2, "float32"))
    monkeypatch.setattr(np, "load", unlucky)
    np.testing.assert_array_equal(read_array(path), bands(2, "float32"))
    monkeypatch.setattr(np, "load", lambda *_, **__: (_ for _ in ()).throw(SystemError("always")))
    with pytest.raises(DataError, match="always"):
        read_array(path)


def test_datasets_of_arrays_and_tensors(tmp_path: pathlib.Path) -> None:
    arrays_ = [bands(5, "uint16", seed=n) for n in range(2)]
    with packed([(array, n) for n, array in enumerate(arrays_)], tmp_path) as store:
        assert np.array_equal(store[1][0], arrays_[1]) and store.labels.tolist() == [0, 1]
    floats = bands(2, "float32")
    with packed([(torch.from_numpy(floats).movedim(-1, 0), 3)], tmp_path) as store:
        assert np.array_equal(store[0][0], floats)


def test_a_store_says_what_it_holds_and_a_changed_one_is_refused(tmp_path: pathlib.Path) -> None:
    import h5py

    write(tmp_path / "in" / "0.npy", bands(6, "uint16"))
    with packed(tmp_path / "in", tmp_path) as store:
        assert {key: store.info[key] for key in ("kind", "schema", "channels", "dtype")} == {
            "kind": "arrays",
            "schema": 2,
            "channels": 6,
            "dtype": "uint16",
        }
        before = store.fingerprint
    write(tmp_path / "in" / "0.npy", bands(6, "uint16").reshape(11, 9, 6))  # the same bytes
    with packed(tmp_path / "in", tmp_path) as store:
        assert store.fingerprint != before
    with h5py.File(tmp_path / "s.h5", "r+") as file:
        file.attrs["channels"] = 3
    with pytest.raises(DataError, match="damaged"):
        dv.ImageStore.open(tmp_path / "s.h5")


# --- pictures of 16 bits


def png(values: NDArray[Any], colour_type: int) -> bytes:
    """A PNG of 16-bit values, as Pillow cannot write it; see the PNG specification, sections 5 and 11."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3)])
def test_png_of_16_bits_is_read_without_loss(colour_type: int, channels: int) -> None:
    values = bands(channels, "uint16")
    decoded = decode(png(values, colour_type))
    assert decoded.dtype == np.uint16 and np.array_equal(decoded, np.broadcast_to(values, (9, 11, 3)))


def test_transparent_16_bits_are_laid_on_white() -> None:
    values = bands(4, "uint16")
    values[0, 0] = [1000, 2000, 3000, 0]
    values[0, 1] = [1000, 2000, 3000, 65535]
    values[0, 2] = [0, 65535, 32768, 32768]
    decoded = decode(png(values, 6))[0]
    assert decoded[:2].tolist() == [[65535] * 3, [1000, 2000, 3000]]
    assert np.abs(decoded[2] - np.array([32767, 65535, 49151.25])).max() <= 1


def test_a_grey_network_sees_each_grey_level_of_8_and_16_bits() -> None:
    plain = Preprocess(resize=None, crop=None, mean=(0.0,), std=(1.0,))
    for kind, peak in (("uint8", 255), ("uint16", 65535)):
        levels = np.arange(256, dtype=kind).reshape(16, 16)[..., None] * (peak // 255)
        picture = decode(png(levels, 0)) if kind == "uint16" else decode(_png_of_8_bits(levels[..., 0]))
        seen = plain(picture)[0].double().numpy() * peak
        assert np.array_equal(np.round(seen), levels[..., 0])


def _png_of_8_bits(levels: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "PNG")
    return file.getvalue()


def test_8_and_16_bits_in_one_batch() -> None:
    class Mixed(InMemoryImages):
        def __getitem__(self, index: int) -> tuple[Any, int]:
            picture, label = super().__getitem__(index)
            return (picture.astype(np.uint16) * 257 if index else picture), label

    eight = bands(3, "uint8")
    feed = Feed(Mixed([eight, eight]), Preprocess(resize=None, crop=8))
    ((_, x),) = feed.tensors(2, "cpu")
    assert torch.equal(x[0], x[1]) and x.std() > 0.5


# --- preprocessing


def weights_along(old: int, new: int) -> NDArray[Any]:
    """The weights [new, old] of bilinear interpolation with antialiasing: a triangle as wide as a new pixel."""
    scale = old / new
    support = max(scale, 1.0)
    centres = (np.arange(new)[:, None] + 0.5) * scale
    weights = np.maximum(1 - np.abs(np.arange(old) + 0.5 - centres) / support, 0)
    return np.asarray(weights / weights.sum(1, keepdims=True))


def replica(image: NDArray[Any], size: tuple[int, int], crop: int, mean: float, std: float) -> NDArray[Any]:
    """Resize, crop and normalise in float64, from the definitions."""
    values = image.astype(np.float64)
    values = np.einsum("ab,bcd->acd", weights_along(image.shape[0], size[0]), values)
    values = np.einsum("ab,cbd->cad", weights_along(image.shape[1], size[1]), values)
    top, left = round((size[0] - crop) / 2), round((size[1] - crop) / 2)
    values = values[top : top + crop, left : left + crop]
    peak = {"uint8": 255, "uint16": 65535}.get(str(image.dtype), 1)
    return np.asarray(((values / peak - mean) / std).transpose(2, 0, 1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_preprocessing_equals_a_replica(channels: int, kind: str) -> None:
    image = bands(channels, kind, 30, 46)
    mean, std = (300.0, 150.0) if kind == "float32" else (0.4, 0.3)
    preprocess = Preprocess(resize=16, crop=12, mean=(mean,) * channels, std=(std,) * channels)
    expected = replica(image, (16, int(16 * 46 / 30)), 12, mean, std)
    step = {"uint8": 1.5 / 255, "uint16": 0.6 / 65535}.get(kind, 1e-3) / std  # PIL rounds 8 bits after each axis
    seen = preprocess(image)
    assert seen.shape == (channels, 12, 12) and seen.dtype == torch.float32
    assert np.abs(seen.double().numpy() - expected).max() < step
    assert np.array_equal(preprocess.picture(image), preprocess.picture(image.copy()))


def test_float_pictures_are_not_changed_in_place() -> None:
    image = bands(2, "float32", 4, 4)
    before = image.copy()
    Preprocess(resize=None, crop=None, mean=(1.0, 2.0), std=(3.0, 4.0))(image)
    assert np.array_equal(image, before)


def test_a_small_image_is_filled_with_zeros_or_the_mean() -> None:
    image = np.full((2, 2, 2), 700, np.uint16)
    zeros = Preprocess(resize=None, crop=4, mean=(0.5, 0.25), std=(1.0, 1.0))
    assert zeros.picture(image)[0, 0].tolist() == [0, 0] and zeros.picture(image)[1, 1].tolist() == [700, 700]
    contained = Preprocess(resize=None, crop=4, mean=(0.5, 0.25), std=(1.0, 1.0), fit="contain")
    assert contained.picture(image)[0, 0].tolist() == [32768, 16384]
    floats = Preprocess(resize=None, crop=4, mean=(300.0, 0.25), std=(1.0, 1.0), fit="contain")
    assert floats.picture(image.astype(np.float32))[0, 0].tolist() == [300, 0.25]


@pytest.mark.parametrize(
    ("image", "preprocess", "complaint"),
    [
        (bands(6, "uint8"), Preprocess(), "images of 6 channels .uint8. given to a network of 3 channels"),
        (bands(1, "uint8"), Preprocess(), "images of 1 channel .* network of 3 channels"),
        (bands(3, "float32"), Preprocess(mean=(0.5,), std=(1.0,)), "images of 3 channels .* network of 1 channel;"),
        (bands(3, "uint16"), Preprocess(mean=(124.0,) * 3, std=(58.0,) * 3), "values in 0..1: divide by 65535"),
    ],
)
def test_images_that_do_not_fit_are_refused_before_they_are_read(
    image: NDArray[Any], preprocess: Preprocess, complaint: str
) -> None:
    for refuse in (lambda: preprocess.picture(image), lambda: Feed(InMemoryImages([image]), preprocess)):
        with pytest.raises(DataError, match=complaint) as error:
            refuse()
        assert "\n" not in str(error.value)


def test_mean_colour_of_16_bits() -> None:
    images = InMemoryImages(np.full((4, 8, 8, 3), 13107, np.uint16))
    assert mean_colour(Feed(images, Preprocess(resize=None, crop=8)), 0) == (0.2, 0.2, 0.2)


def test_to_fit_has_the_networks_channels() -> None:
    assert Preprocess.to_fit((6, 8, 8)).shape == (6, 8, 8) and Preprocess.to_fit((3, 8, 8)).mean[0] == 0.485


@pytest.mark.parametrize("kind", KINDS)
def test_transforms_keep_the_type(kind: str) -> None:
    image = bands(5, kind, 12, 12)
    mean = 300.0 if kind == "float32" else 0.2
    preprocess = Preprocess(resize=None, crop=12, mean=(mean,) * 5, std=(1.0,) * 5)
    canvas = canvas_of(image, preprocess, "mean")
    moved = canvas.transformed(translation(3, 0))
    assert moved.dtype == image.dtype and np.array_equal(moved[:, 3:], image[:, :-3])
    assert moved[0, 0, 0] == {"uint8": 51, "uint16": 13107, "float32": 300}[kind]
    turned = canvas_of(image, preprocess).transformed(rotation(90))
    assert np.allclose(turned, np.rot90(image, -1), rtol=1e-5) or np.allclose(turned, np.rot90(image), rtol=1e-5)


# --- how they are shown


def test_display_shows_the_channels_that_are_asked_for() -> None:
    image = bands(6, "uint8")
    six = Preprocess(mean=(0.5,) * 6, std=(1.0,) * 6)
    assert np.array_equal(six.display(image), image[..., :3])
    chosen = Preprocess(mean=(0.5,) * 6, std=(1.0,) * 6, shown=(5, 2, 0))
    assert np.array_equal(chosen.display(image), image[..., [5, 2, 0]]) and chosen == six
    grey = Preprocess(mean=(0.5,) * 2, std=(1.0,) * 2).display(image[..., :2])
    assert np.array_equal(grey, np.repeat(image[..., :1], 3, -1))
    sixteen = chosen.display(image.astype(np.uint16) * np.uint16(257))
    assert np.array_equal(sixteen, image[..., [5, 2, 0]]) and sixteen.dtype == np.uint8


def test_black_and_white_of_floats() -> None:
    values = np.array([[[-100.0], [0.0], [100.0], [300.0]]], np.float32)
    two_deviations = Preprocess(mean=(100.0,), std=(50.0,))
    assert two_deviations.display(values)[0, :, 0].tolist() == [0, 0, 128, 255]
    assert torch.allclose(torch.cat([*two_deviations.bounds(), two_deviations.level(0.5)]), torch.tensor([-2.0, 2, 0]))
    limited = Preprocess(mean=(100.0,), std=(50.0,), limits=(-100, 300))
    assert limited.display(values)[0, :, 0].tolist() == [0, 64, 128, 255] and limited.bounds()[1].tolist() == [4]
    assert "Black is -100 and white 300" in limited.shown_words()
    assert Preprocess.from_dict(limited.as_dict()) == limited != two_deviations
    assert Preprocess().shown_words() == "" and "shown" not in limited.as_dict()
    back = limited.inverse(limited.tensor(values[None]))
    assert np.array_equal(back[0], limited.display(values))


def test_pictures_and_explainers() -> None:
    network = dv.capture(torch.nn.Sequential(torch.nn.Conv2d(6, 4, 3), torch.nn.ReLU()), (6, 9, 11))
    from deconvviz.cam.arguments import as_input

    image, preprocess = bands(6, "uint16"), Preprocess(resize=None, crop=(9, 11), mean=(0.5,) * 6, std=(0.5,) * 6)
    expected = preprocess(image)
    for x in (image, np.moveaxis(image, -1, 0), image[None], [image]):
        assert torch.equal(as_input(x, network, preprocess)[0], expected)
    assert as_input(image, network, None).shape == (1, 6, 9, 11)
