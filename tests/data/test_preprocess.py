"""Preprocess equals torchvision's transforms, and its inverse undoes it."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torchvision import transforms as T
from torchvision.transforms import InterpolationMode

from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import DataError

SIZES = [(300, 400), (375, 500), (501, 333), (257, 1000), (224, 224), (100, 131), (256, 301), (1, 7), (225, 400)]


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def reference(pre: Preprocess, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], torch.Tensor]:
    """What torchvision makes of it: the picture, and the normalised tensor."""
    steps = [] if pre.resize is None else [T.Resize(pre.resize, InterpolationMode(pre.interpolation))]
    steps += [] if pre.crop is None else [T.CenterCrop(pre.crop)]
    cut = T.Compose(steps)(Image.fromarray(image))
    gray = [T.Grayscale(1)] if len(pre.mean) == 1 else []
    return np.asarray(cut), T.Compose([*gray, T.ToTensor(), T.Normalize(pre.mean, pre.std)])(cut)


def assert_equals_torchvision(pre: Preprocess, image: NDArray[np.uint8]) -> None:
    expected, normalised = reference(pre, image)
    np.testing.assert_array_equal(pre.picture(image), expected)
    torch.testing.assert_close(pre(image), normalised, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_equals_torchvision(size: tuple[int, int], interpolation: str) -> None:
    assert_equals_torchvision(Preprocess(interpolation=interpolation), picture(*size))


@pytest.mark.parametrize("crop", [None, 37, (300, 20), (21, 300), (301, 333), 224])
@pytest.mark.parametrize("resize", [None, 63, 256])
def test_resize_and_crop_equal_torchvision(resize: int | None, crop: int | tuple[int, int] | None) -> None:
    for size in [(300, 400), (65, 64), (64, 201)]:
        assert_equals_torchvision(Preprocess(resize, crop), picture(*size))


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    resize=st.none() | st.integers(1, 60),
    crop=st.none() | st.integers(1, 60) | st.tuples(st.integers(1, 60), st.integers(1, 60)),
    gray=st.booleans(),
)
def test_any_size_equals_torchvision(
    size: tuple[int, int], resize: int | None, crop: int | tuple[int, int] | None, gray: bool
) -> None:
    assert_equals_torchvision(Preprocess(resize, crop, *(((0.4,), (0.3,)) if gray else ())), picture(*size))


def test_photos_equal_torchvision(data: pathlib.Path) -> None:
    photos = sorted((data / "imagenet-sample").rglob("*.jpg"))[::50]
    assert len(photos) == 10
    for path in photos:
        assert_equals_torchvision(Preprocess(), np.array(Image.open(path).convert("RGB")))


def test_tensor_is_channels_last_and_takes_device_and_dtype() -> None:
    pre, pictures = Preprocess(), np.stack([picture(24, 30, seed) for seed in range(3)])
    values = pre.tensor(pictures, device="cpu", dtype=torch.float64)
    assert values.shape == (3, 3, 24, 30) and values.dtype == torch.float64
    assert values.is_contiguous(memory_format=torch.channels_last)
    exact = (pictures / 255 - np.array(pre.mean)) / np.array(pre.std)
    np.testing.assert_allclose(values.permute(0, 2, 3, 1).numpy(), exact, rtol=0, atol=1e-12)
    torch.testing.assert_close(pre.tensor(torch.from_numpy(pictures)), values.float(), rtol=0, atol=1e-6)
    turned = torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy()).permute(0, 2, 3, 1)  # NCHW in memory
    assert torch.equal(pre.tensor(turned), pre.tensor(pictures))
    assert pre.tensor(turned).is_contiguous(memory_format=torch.channels_last)
    half = pre.tensor(pictures, dtype=torch.bfloat16)
    assert torch.equal(half, pre.tensor(pictures).to(torch.bfloat16))  # rounded once


@pytest.mark.filterwarnings("error")
def test_pictures_are_left_as_they_were() -> None:
    pictures = picture(8, 9)[None]
    before = pictures.copy()
    pictures.setflags(write=False)
    Preprocess().tensor(pictures)
    Preprocess().tensor(pictures[:, ::-1])  # negative strides
    np.testing.assert_array_equal(pictures, before)


def test_inverse_undoes_tensor() -> None:
    pre, pictures = Preprocess(), np.stack([picture(16, 20, seed) for seed in range(2)])
    np.testing.assert_array_equal(pre.inverse(pre.tensor(pictures)), pictures)
    np.testing.assert_array_equal(pre.inverse(pre.tensor(pictures)[1]), pictures[1])
    gray = Preprocess(mean=(0.5,), std=(0.25,))
    levels = np.repeat(np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1), 3, axis=3)
    np.testing.assert_array_equal(gray.inverse(gray.tensor(levels)), levels)


def test_inverse_clips_and_rounds() -> None:
    pre = Preprocess(mean=(0.0,), std=(1.0,))
    values = torch.tensor([-9.0, 0.4 / 255, 0.6 / 255, 9.0], requires_grad=True).reshape(1, 1, 4)
    assert pre.inverse(values)[0].tolist() == [[0] * 3, [0] * 3, [1] * 3, [255] * 3]


@pytest.mark.parametrize(
    "pre", [Preprocess(), Preprocess(None, (3, 4), (0.5,), (0.5,), "bicubic"), Preprocess(9, None)]
)
def test_settings_round_trip_through_json(pre: Preprocess) -> None:
    again = Preprocess.from_dict(json.loads(json.dumps(pre.as_dict())))
    assert again == pre and hash(again) == hash(pre)


def test_shape() -> None:
    assert Preprocess(crop=(5, 7)).shape == (3, 5, 7)
    assert Preprocess(mean=(0.0,), std=(1.0,)).shape == (1, 224, 224)
    with pytest.raises(DataError, match="crop"):
        _ = Preprocess(crop=None).shape


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"resize": 0}, "positive"),
        ({"crop": -1}, "positive"),
        ({"crop": [3, 4, 5]}, "crop"),
        ({"resize": 2.5}, "pixels"),
        ({"std": [0.1, 0.1, 0.0]}, "std positive"),
        ({"mean": [0.5]}, "a value for each channel"),
        ({"mean": [], "std": []}, "a value for each channel"),
        ({"limits": [1, 0]}, "values of black and of white"),
        ({"shown": [0, 1]}, "three, or one"),
        ({"shown": [3]}, "channels 0 to 2"),
        ({"interpolation": "magic"}, "bilinear"),
        ({"size": 3}, "settings are resize"),
    ],
)
def test_senseless_settings_are_refused(settings: dict[str, object], told: str) -> None:
    with pytest.raises(DataError, match=told):
        Preprocess.from_dict(settings)


def test_other_kinds_are_refused() -> None:
    pre = Preprocess()
    for wrong in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.int16), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(DataError, match=r"expected an image \[H,W,C\] of uint8, uint16, float32"):
            pre.picture(wrong)
    for batch in (np.zeros((4, 4, 3), np.uint8), torch.zeros(1, 4, 4, 3, dtype=torch.float64)):
        with pytest.raises(DataError, match=r"\[N,H,W,C\]"):
            pre.tensor(batch)
    with pytest.raises(DataError, match=r"images of 4 channels .* given to a network of 3 channels"):
        pre.tensor(np.zeros((2, 3, 4, 4), np.uint8))
    with pytest.raises(DataError, match=r"\[3,H,W\]"):
        pre.inverse(torch.zeros(1, 4, 4))
    with pytest.raises(DataError, match="MAX_IMAGE_PIXELS"):
        pre.picture(np.zeros((2, 9000, 3), np.uint8))
