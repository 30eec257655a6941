"""Image files to upright RGB pixels of 8 or 16 bits, by one rule for every format, and back to a PNG file."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from deconvviz.errors import DataError
from deconvviz.results.files import one_line
from deconvviz.types import Picture, Pixels

# Listed, because Pillow would otherwise also try formats that are not pictures of pixels: EPS starts Ghostscript.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
_ORIENTATION = 0x0112  # the EXIF tag
_UPRIGHT = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 5: (1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}
"""Orientation -> steps along rows and columns, after rows and columns of 5 to 8 were exchanged."""
AS_ARRAYS = "pack such images with `deconvviz pack --raw`, as arrays .npy, .npz or .tif of uint8, uint16 or float32"
_LOWER = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}  # Pillow's names for reading the other byte of each value
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # TIFF tags


def decode(data: bytes) -> Picture:
    """Decode an image file.

    Of a file with several frames the first is decoded. It is turned upright as its EXIF orientation says, and
    transparent pixels are laid on white. Grey becomes three equal channels. Files of more than 8 bits, grey ones of any
    format and colour in PNG, keep all their bits; values of 9 to 15 bits are scaled to 16 over their whole range.

    Args:
        data: the content of a JPEG, PNG, BMP, WebP, TIFF, GIF or PPM file.

    Returns:
        uint8 [H, W, 3], or uint16 [H, W, 3] of a file of more than 8 bits; writable.

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
            refuse_bomb(image)
            return _deep_colours(data, image) if _is_deep_colour(image) else pixels(image)
    except DataError:
        raise
    except UnidentifiedImageError:  # its own message holds a memory address
        raise DataError(f"not an image of a known kind ({', '.join(FORMATS)})") from None
    except Exception as error:  # a corrupt file makes Pillow raise almost anything
        raise DataError(one_line(error)) from error


def pixels(image: Image.Image) -> Picture:
    """Return the pixels of a PIL image as `decode` does, uint8 [H, W, 3], or uint16 [H, W, 3] of 16-bit grey.

    Raises:
        DataError: the pixels have no known range.
    """
    image.load()  # first: a TIFF turns itself upright in loading, and the EXIF block of a PNG may come at its end
    orientation = orientation_of(image)
    if image.mode == "F":
        raise DataError(f"floating-point pixels have no known range; {AS_ARRAYS}")
    picture = _wide_grey(image) if image.mode.startswith("I") else np.array(_rgb(image))
    return upright(picture, orientation)


def upright(picture: Picture, orientation: int) -> Picture:
    """Turn pixels [H, W, C] upright, as an EXIF orientation says."""
    if orientation not in _UPRIGHT:
        return picture
    down, across = _UPRIGHT[orientation]
    turned = picture.swapaxes(0, 1) if orientation >= 5 else picture
    return np.ascontiguousarray(turned[::down, ::across])


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


def refuse_bomb(image: Image.Image) -> None:
    """Raise DataError where an image has too many pixels; Pillow itself only warns up to twice its limit."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise DataError(f"{image.width} x {image.height} pixels are more than PIL.Image.MAX_IMAGE_PIXELS = {limit}")


def orientation_of(image: Image.Image) -> int:
    """Return an image's EXIF orientation, 1 to 8; 1, upright, where it tells none."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _wide_grey(image: Image.Image) -> Picture:
    """Return grey of more than 8 bits as uint16 [H, W, 3]; Pillow's own conversion would clip it at 255."""
    values = np.asarray(image).astype(np.int64)
    tags = getattr(image, "tag_v2", {})
    peak = 2 ** int(tags.get(_BITS_PER_SAMPLE, (16,))[0]) - 1
    if image.mode == "I" and image.format not in ("PNG", "PPM"):
        raise DataError(f"32-bit integer pixels have no known range; {AS_ARRAYS}")
    grey = ((values * 65535 + peak // 2) // peak).astype(np.uint16)
    grey = 65535 - grey if tags.get(_PHOTOMETRIC) == 0 else grey
    return np.repeat(grey[..., None], 3, 2)


def _is_deep_colour(image: Image.Image) -> bool:
    """Whether this is a PNG with 16 bits for each colour, of which Pillow reads the upper 8."""
    return (
        image.format == "PNG"
        and "transparency" not in image.info
        and any(str(tile.args) in _LOWER for tile in getattr(image, "tile", ()))
    )


def _deep_colours(data: bytes, image: Image.Image) -> Picture:
    """Return a PNG of 16-bit colours as uint16 [H, W, 3]: Pillow reads the upper bytes, and then the lower ones."""
    bytes_ = []
    for lower in (False, True):
        with Image.open(io.BytesIO(data), formats=("PNG",)) as part:
            if lower:
                part.tile = [tile._replace(args=_LOWER[str(tile.args)]) for tile in part.tile]
            part.load()
            bytes_.append(np.asarray(part).astype(np.uint16))
            orientation = orientation_of(part)
    values = (bytes_[0] << 8) + bytes_[1]
    if values.shape[2] == 4:  # laid on white
        alpha = values[..., 3:].astype(np.int64)
        values = ((values[..., :3] * alpha + 65535 * (65535 - alpha) + 32767) // 65535).astype(np.uint16)
    return upright(values, orientation)
