"""JPEG images of a store decoded on a GPU, or by torchvision on a CPU: another decoder, so other pixels.

No two decoders of JPEG return the same pixels: the standard leaves the rounding of the cosine transform and the
enlargement of the colour planes open. How far the pixels of a GPU are from Pillow's was not measured here; those of
torchvision on a CPU are within 12 levels of 255 on smooth pictures (`tests/data/test_gpu_decoding.py`). A store that is
decoded in this way has a fingerprint of its own, and results of one are never mixed with results of the other.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from deconvviz.data.decode import decode, orientation_of, refuse_bomb, upright
from deconvviz.data.store_file import fingerprint_with
from deconvviz.errors import DataError
from deconvviz.notebook import Shown
from deconvviz.types import Ints, Picture, Pixels

if TYPE_CHECKING:
    import torch

    from deconvviz.data.images import ImageStore

PREFIX = "gpu:"
DECODER = "torchvision.io.decode_jpeg"
_MODES = ("L", "RGB")  # of Pillow; JPEG files of four inks are left to it


class DecodedOnDevice(Shown, drawn_by="draw_images"):
    """A store of image files whose JPEG files a device decodes, many in one call.

    Everything else is as in the store: names, labels, sizes. Files that are not JPEG, JPEG files of four inks, and
    those that the device's decoder refuses are decoded by Pillow. `open_images("gpu:photos.h5")` opens a store so.

    Attributes:
        store: the store.
        device: where its JPEG files are decoded.
        fingerprint: SHA-256 in hex over the store's own and the name of the decoder: "cuda" and "cpu" differ.
        source: what `open_images` takes for it, "gpu:PATH"; of a CPU None.

    Raises:
        DataError: the store holds no image files, or the device is a GPU and there is none.

    >>> import tempfile
    >>> import deconvviz as dv
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = dv.pack(dv.Scenes(5), f"{folder}/scenes.h5", progress=False)
    ...     with dv.ImageStore.open(f"{folder}/scenes.h5") as store:
    ...         decoded = DecodedOnDevice(store, "cpu")
    ...         image, label = decoded[0]
    >>> image.shape, decoded.fingerprint == store.fingerprint
    ((72, 72, 3), False)
    """

    def __init__(self, store: ImageStore, device: torch.device | str = "cuda") -> None:
        """Take a store that is open."""
        import torch

        self.store, self.device = store, torch.device(device)
        if store.kind != "encoded":
            raise DataError(f"{store.path} holds pixels, which need no decoder; give it without {PREFIX}")
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise DataError(f"{PREFIX}{store.path} is decoded on a GPU, and torch finds none; give {store.path}")
        self.path, self.names, self.labels, self.classes = store.path, store.names, store.labels, store.classes
        self.sizes, self.channels, self.dtype = store.sizes, store.channels, store.dtype
        identity = f"{store.images_fingerprint}\0{DECODER}\0{self.device.type}"
        self.fingerprint = sha256(identity.encode()).hexdigest()
        self.targets, self.known = store.targets, store.known
        if store.targets is not None:
            self.fingerprint = fingerprint_with(self.fingerprint, store.classes, store.targets)
        self.source = f"{PREFIX}{store.path}" if self.device.type == "cuda" else None

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, index: int) -> tuple[Picture, int]:
        """Return image `index`, [H, W, 3], and its label; errors as those of the store."""
        position = range(len(self))[index]
        return self.decoded([position])[0], int(self.labels[position])

    def __iter__(self) -> Iterator[tuple[Picture, int]]:
        return (self[index] for index in range(len(self)))

    def decoded(self, indices: Sequence[int] | Ints) -> list[Picture]:
        """Return some images, uint8 [H, W, 3] each (uint16 of files with more bits), decoded in one call.

        Raises:
            DataError: one of them is damaged; the message names it.
        """
        contents = [self.store.encoded(int(index)) for index in indices]
        orientations = [_orientation_of_jpeg(content) for content in contents]
        jpegs = [
            content for content, orientation in zip(contents, orientations, strict=True) if orientation is not None
        ]
        on_device, pictures = iter(self._on_device(jpegs)), list[Picture]()
        for index, content, orientation in zip(indices, contents, orientations, strict=True):
            pixels = None if orientation is None else next(on_device)
            with self.store.named(int(index)):
                pictures.append(decode(content) if pixels is None else upright(pixels, orientation or 1))
        return pictures

    def close(self) -> None:
        """Close the store's files; a later read opens them again."""
        self.store.close()

    def __enter__(self) -> DecodedOnDevice:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<DecodedOnDevice {self.device}: {self.store!r}>"

    def _on_device(self, jpegs: Sequence[bytes]) -> list[Pixels | None]:
        """Return the pixels of JPEG files as they lie, uint8 [H, W, 3]; None for those that the decoder refuses."""
        import torch
        from torchvision.io import ImageReadMode, decode_jpeg

        if not jpegs:
            return []
        tensors = [torch.frombuffer(bytearray(jpeg), dtype=torch.uint8) for jpeg in jpegs]
        try:
            decoded = decode_jpeg(tensors, mode=ImageReadMode.RGB, device=self.device)
        except RuntimeError:  # one of them: which one shows where each is decoded alone
            if len(jpegs) == 1:
                return [None]
            return [self._on_device([jpeg])[0] for jpeg in jpegs]
        return [np.ascontiguousarray(picture.movedim(0, -1).cpu().numpy()) for picture in decoded]


def _orientation_of_jpeg(content: bytes) -> int | None:
    """Return the EXIF orientation of a JPEG file that a device may decode; None of any other content, also damaged."""
    try:
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
            refuse_bomb(image)
            return orientation_of(image) if image.mode in _MODES else None
    except Exception:  # Pillow's decoder says what is wrong with it
        return None
