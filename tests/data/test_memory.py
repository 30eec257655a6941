"""Images in memory are a dataset like the others; equal content has an equal fingerprint, wrong content is refused."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest

import deconvviz as dv
from deconvviz.data.memory import InMemoryImages
from deconvviz.errors import DataError

PICTURES = np.random.default_rng(0).integers(0, 256, (3, 6, 5, 3), np.uint8)


def test_what_it_holds() -> None:
    images = InMemoryImages(PICTURES, [1, 0, -1], ("cat", "dog"), ("x", "y", "z"))
    assert len(images) == 3 and images.labels.tolist() == [1, 0, -1] and images.labels.dtype == np.int64
    assert images.classes == ("cat", "dog") and images.names == ("x", "y", "z")
    picture, label = images[1]
    assert np.array_equal(picture, PICTURES[1]) and label == 0 and type(label) is int
    assert repr(images) == "<InMemoryImages: 3 images, 2 classes>" and dv.open_images(images) is images
    bare = dv.InMemoryImages([PICTURES[0], PICTURES[0][:2, :4]])
    assert bare.labels.tolist() == [-1, -1] and bare.names == ("0", "1") and bare.classes == ()
    assert bare[1][0].shape == (2, 4, 3)


def test_the_fingerprint_is_of_the_content() -> None:
    def fingerprint(**changes: Any) -> str:
        content: dict[str, Any] = {"pictures": PICTURES, "labels": [0, 1, 0], "classes": ("a", "b"), "names": "xyz"}
        return InMemoryImages(**{**content, **changes}).fingerprint

    one_pixel = PICTURES.copy()
    one_pixel[2, 5, 4, 2] ^= 1
    fingerprints = {
        fingerprint(),
        fingerprint(pictures=one_pixel),
        fingerprint(pictures=PICTURES.reshape(3, 5, 6, 3)),
        fingerprint(pictures=PICTURES[::-1]),
        fingerprint(labels=[0, 1, 1]),
        fingerprint(classes=("a", "c")),
        fingerprint(names="xyw"),
    }
    assert len(fingerprints) == 7 and len(fingerprint()) == 64
    same = fingerprint(
        pictures=list(PICTURES), labels=np.array([0, 1, 0], np.int32), classes=["a", "b"], names=["x", "y", "z"]
    )
    assert same == fingerprint() == fingerprint(pictures=np.asfortranarray(PICTURES))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"pictures": []}, r"no image given; expected images \[H, W, C\] of uint8"),
        ({"pictures": PICTURES / 255}, r"float64 \[6, 5, 3\] given"),
        ({"pictures": PICTURES[..., 0]}, r"uint8 \[6, 5\] given"),
        ({"pictures": [PICTURES[0], PICTURES[1][..., :2]]}, "uint8 with 2 channels and uint8 with 3 channels given"),
        ({"pictures": PICTURES, "labels": [0, 1]}, "3 images, 2 labels and 3 distinct names given"),
        ({"pictures": PICTURES, "names": ["a", "b"]}, "3 labels and 2 distinct names"),
        ({"pictures": PICTURES, "names": ["a", "b", "a"]}, "2 distinct names"),
    ],
)
def test_wrong_content_is_refused(arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        InMemoryImages(**arguments)


def test_they_can_be_packed(tmp_path: pathlib.Path) -> None:
    images = InMemoryImages(PICTURES, [1, 0, -1], ("cat", "dog"), ("x", "y", "z"))
    dv.pack(images, tmp_path / "s.h5", progress=False)
    with dv.ImageStore.open(tmp_path / "s.h5") as store:
        assert store.names == images.names and store.classes == images.classes
        assert np.array_equal(store.labels, images.labels)
        assert all(np.array_equal(store[n][0], PICTURES[n]) for n in range(3))
