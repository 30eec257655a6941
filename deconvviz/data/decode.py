"""Image files to upright 8-bit RGB pixels, by one rule for every format, and back to a PNG file."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from deconvviz.errors import DataError
from deconvviz.results.files import one_line
from deconvviz.types import Pixels

# Listed, because Pillow would otherwise also try formats that are not pictures of pixels: EPS starts Ghostscript.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
_ORIENTATION = 0x0112  # the EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # TIFF tags


def decode(data: bytes) -> Pixels:
    """Decode an image file.

    Of a file with several frames the first is decoded. It is turned upright as its EXIF orientation says, transparent
    pixels are laid on white, and 16-bit grey is scaled to 8 bit over its whole range, not clipped.

    Args:
        data: the content of a JPEG, PNG, BMP, WebP, TIFF, GIF or PPM file.

    Returns:
        uint8 [H, W, 3], writable.

    Raises:
        DataError: the file is empty, of another format, corrupt or truncated; it has more pixels than
            PIL.Image.MAX_IMAGE_PIXELS (89 million unless changed: a decompression bomb); or its pixels have no known
            range (floating point, 32-bit integers). The message is the reason alone.

    >>> decode(encode(np.full((2, 3, 3), 7, np.uint8))).tolist()
    [[[7, 7, 7], [7, 7, 7], [7, 7, 7]], [[7, 7, 7], [7, 7, 7], [7, 7, 7]]]
    """
    if not data:
        raise DataError("the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _refuse_bomb(image)
            return pixels(image)
    except DataError:
        raise
    except UnidentifiedImageError:  # its own message holds a memory address
        raise DataError(f"not an image of a known kind ({', '.join(FORMATS)})") from None
    except Exception as error:  # a corrupt file makes Pillow raise almost anything
        raise DataError(one_line(error)) from error


def pixels(image: Image.Image) -> Pixels:
    """Return the pixels of a PIL image as `decode` does, uint8 [H, W, 3].

    Raises:
        DataError: the pixels have no known range.
    """
    image.load()  # first: a TIFF turns itself upright in loading, and the EXIF block of a PNG may come at its end
    orientation = _orientation(image)
    image = _rgb(image)
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    return np.array(image)


def encode(picture: Pixels) -> bytes:
    """Return a picture, uint8 [H, W, 3], as the content of a PNG file."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def as_image(values: Any) -> Image.Image:
    """Return an image of a dataset as a PIL image.

    Args:
        values: a PIL image, a uint8 tensor [C, H, W] or [H, W], or a uint8 array [H, W, C] or [H, W]; C is 1, 3 or 4.

    Raises:
        DataError: `values` is anything else.

    >>> as_image(np.zeros((2, 3, 3), np.uint8)).size
    (3, 2)
    """
    if isinstance(values, Image.Image):
        return values
    # A torch tensor has its channels first; it is recognised without importing torch.
    last = values.movedim(0, -1) if hasattr(values, "movedim") and values.ndim == 3 else values
    array = np.asarray(last)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype != np.uint8 or (array.ndim != 2 and array.shape[2:] not in ((3,), (4,))) or array.size == 0:
        raise DataError(
            "expected a PIL image or uint8, a tensor [C,H,W] or an array [H,W,C], got "
            f"{array.dtype} {list(np.shape(values))} from a {type(values).__name__}"
        )
    return Image.fromarray(np.ascontiguousarray(array))


def _refuse_bomb(image: Image.Image) -> None:
    """Raise DataError where an image has too many pixels; Pillow itself only warns up to twice its limit."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise DataError(f"{image.width} x {image.height} pixels are more than PIL.Image.MAX_IMAGE_PIXELS = {limit}")


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise DataError("floating-point pixels have no known range; convert the image to 8 bit first")
    if image.mode.startswith("I"):
        return _from_wide(image).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _from_wide(image: Image.Image) -> Image.Image:
    """Scale grey of more than 8 bits to 8 bits; Pillow's own conversion would clip it at 255."""
    values = np.asarray(image).astype(np.int64)
    tags = getattr(image, "tag_v2", {})
    peak = 2 ** int(tags.get(_BITS_PER_SAMPLE, (16,))[0]) - 1
    if image.mode == "I" and image.format not in ("PNG", "PPM"):
        raise DataError("32-bit integer pixels have no known range; convert the image to 8 bit first")
    grey = ((values * 255 + peak // 2) // peak).astype(np.uint8)
    return Image.fromarray(255 - grey if tags.get(_PHOTOMETRIC) == 0 else grey)
