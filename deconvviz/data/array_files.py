"""Files of arrays as images of any number of channels: .npy, .npz, and TIFF files of other values than pictures."""

from __future__ import annotations

import pathlib
import zipfile
from typing import Any

import numpy as np
from PIL import Image

from deconvviz.arrays import PEAKS
from deconvviz.errors import DataError
from deconvviz.results.files import one_line
from deconvviz.types import Array, Picture

ARRAY_EXTENSIONS = (".npy", ".npz")
TIFF_EXTENSIONS = (".tif", ".tiff")
_ALPHA = (1, 2)  # values of the TIFF tag ExtraSamples


def is_array_file(path: pathlib.Path) -> bool:
    """Return whether a file is read as an array: .npy, .npz, and a TIFF file of other than grey or colours.

    Such TIFF files have floats, 16-bit colours, another number of channels than a picture, or their channels page by
    page. One that cannot be read is left to the decoder of pictures, which says why.
    """
    suffix = path.suffix.lower()
    return suffix in ARRAY_EXTENSIONS or (suffix in TIFF_EXTENSIONS and _is_array_tiff(path))


def read_array(path: pathlib.Path) -> Picture:
    """Read an image from a file of an array.

    Args:
        path: of a .npy file, a .npz file with one array, or a TIFF file.

    Returns:
        uint8, uint16 or float32 [H, W, C].

    Raises:
        DataError: the file cannot be read, or holds something else; the message is the reason alone.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/bands.npy", np.zeros((4, 5, 6), np.uint16))
    ...     read_array(pathlib.Path(folder, "bands.npy")).shape
    (4, 5, 6)
    """
    try:
        array = _array_in(path)
    except DataError:
        raise
    except Exception as error:  # a corrupt file makes these readers raise almost anything
        raise DataError(one_line(error)) from error
    return checked_array(array)


def _array_in(path: pathlib.Path, attempts: int = 20) -> Array:
    try:
        return _array_at_once(path)
    except SystemError:  # CPython 3.11 may raise it where two threads parse at once, as NumPy does with heads of files
        if attempts == 1:
            raise
        return _array_in(path, attempts - 1)


def _array_at_once(path: pathlib.Path) -> Array:
    suffix = path.suffix.lower()
    if suffix == ".npy":
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)  # its shape, before any value is read
        return array
    return _only_array(path) if suffix == ".npz" else _tiff_array(path)


def checked_array(values: Any) -> Picture:
    """Return an array as an image.

    Args:
        values: uint8, uint16 or float32, an array [H, W, C] or [H, W], or a tensor [C, H, W] or [H, W].

    Returns:
        [H, W, C], in memory, of the same type.

    Raises:
        DataError: it is of another type or shape, has no value, too many pixels, or values that are not finite.

    >>> checked_array(np.zeros((4, 5), np.float32)).shape
    (4, 5, 1)
    """
    array = np.asarray(values.movedim(0, -1) if hasattr(values, "movedim") and values.ndim == 3 else values)
    kind = array.dtype.newbyteorder("=")
    if str(kind) not in PEAKS or array.ndim not in (2, 3) or not array.size:
        raise DataError(
            f"{kind} {list(array.shape)} given; expected {', '.join(PEAKS)} as an array [H, W, C] or [H, W]"
        )
    if Image.MAX_IMAGE_PIXELS is not None and array.shape[0] * array.shape[1] > Image.MAX_IMAGE_PIXELS:
        raise DataError(f"{array.shape[1]} x {array.shape[0]} pixels are more than PIL.Image.MAX_IMAGE_PIXELS")
    image: Picture = np.array(array if array.ndim == 3 else array[..., None], kind, order="C")
    if kind.kind == "f" and not np.isfinite(image).all():
        raise DataError("it has NaN or infinite values; replace them first")
    return image


def _only_array(path: pathlib.Path) -> Array:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if len(members) != 1:
        raise DataError(f"{len(members)} arrays given; expected a .npz file with one")
    with np.load(path, allow_pickle=False) as arrays:
        return np.asarray(arrays[arrays.files[0]])


def _is_array_tiff(path: pathlib.Path) -> bool:
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            page, series = file.pages.first, file.series[0]
            samples = page.samplesperpixel
            alpha = samples in (2, 4) and page.extrasamples and page.extrasamples[0] in _ALPHA
            grey_or_colours = samples in (1, 3) or alpha or page.photometric == tifffile.PHOTOMETRIC.SEPARATED
            deep_colours = page.bitspersample > 8 and samples > 1
            if page.dtype is not None and (page.dtype.kind == "f" or not grey_or_colours or deep_colours):
                return True
            return len(file.pages) > 1 and series.ndim == 3 and series.kind in ("shaped", "imagej")
    except Exception:  # what is wrong with it is told where it is decoded
        return False


def _tiff_array(path: pathlib.Path) -> Array:
    import tifffile

    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        if series.ndim == 3 and series.axes[0] in "SCI":  # channel by channel, or page by page
            return np.moveaxis(series.asarray(), 0, -1)
        return np.asarray(series.asarray())
