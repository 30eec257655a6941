"""Known places and known classes: masks through the preprocessing, boxes from a table, outputs by name."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
from PIL import Image

import deconvviz as dv
from deconvviz.data.pack import pack
from deconvviz.data.truth import OBJECT, bounds, open_truth
from deconvviz.errors import DataError
from deconvviz.models.labels import outputs_of, read_classes


@pytest.fixture
def store(tmp_path: pathlib.Path) -> dv.ImageStore:
    folder = tmp_path / "photos" / "a"
    folder.mkdir(parents=True)
    for n, size in enumerate(((20, 10), (12, 30))):
        Image.new("RGB", size, (n, 9, 9)).save(folder / f"{n}.png")
    pack(tmp_path / "photos", tmp_path / "s.h5", progress=False)
    return dv.ImageStore.open(tmp_path / "s.h5")


def test_a_mask_goes_where_its_picture_goes() -> None:
    rng = np.random.default_rng(0)
    for shape in ((40, 60), (60, 40), (30, 33)):
        mask = np.zeros(shape, bool)
        top, left = rng.integers(0, 12, 2)
        mask[top : top + 15, left : left + 15] = True
        pre = dv.Preprocess(resize=64, crop=48)
        picture = pre.picture(np.repeat(mask[..., None], 3, 2).astype(np.uint8) * 255)
        assert np.array_equal(pre.mask(mask), picture[..., 0] >= 128) and pre.mask(mask).shape == (48, 48)
    whole = dv.Preprocess(resize=None, crop=None)
    assert np.array_equal(whole.mask(mask), mask)
    with pytest.raises(DataError, match=r"bool \[H,W\], got uint8"):
        whole.mask(mask.astype(np.uint8))


def test_scenes_know_their_parts() -> None:
    scenes = dv.Scenes(3, seed=4)
    truth = open_truth(None, scenes)
    assert truth is not None
    found = truth.masks(1)
    assert np.array_equal(found[OBJECT], scenes.scene(1).mask) and set(found) - {OBJECT} == set(scenes.scene(1).parts)


def test_boxes_from_a_table(store: dv.ImageStore, tmp_path: pathlib.Path) -> None:
    table, (first, second) = tmp_path / "boxes.csv", store.names
    table.write_text(
        f"image,left,top,right,bottom,part\n{first},2,1,5,4,eye\n{first},7,1,9,4,eye\n{second},0,0,12,30,\n"
    )
    truth = open_truth(table, store)
    assert truth is not None
    eyes = truth.masks(0)["eye"]
    assert eyes.shape == (10, 20) and eyes.sum() == 9 + 6 and bounds(eyes) == (1, 2, 4, 9)
    assert truth.masks(1)[OBJECT].all() and open_truth(None, store) is None
    wrong = {
        "image,left,top,right\n": "no column 'bottom'",
        "image,left,top,right,bottom\n": "holds no box",
        "image,left,top,right,bottom\nz.png,0,0,1,1\n": "line 2: no image 'z.png'",
        f"image,left,top,right,bottom\n{first},0,0,x,1\n": "whole numbers",
        f"image,left,top,right,bottom\n{first},3,0,3,1\n": "is empty",
        f"image,left,top,right,bottom\n{first},-1,0,3,1\n": "leaves the image",
    }
    for text, complaint in wrong.items():
        table.write_text(text)
        with pytest.raises(DataError, match=complaint):
            open_truth(table, store)
    table.write_text(f"image,left,top,right,bottom\n{first},0,0,21,1\n")
    beyond = open_truth(table, store)
    assert beyond is not None
    with pytest.raises(DataError, match=r"ends at \(21, 1\), the image is 20 x 10"):
        beyond.masks(0)
    with pytest.raises(DataError, match="cannot read the boxes"):
        open_truth(tmp_path / "none.csv", store)


def test_masks_from_a_folder(store: dv.ImageStore, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "masks"
    with pytest.raises(DataError):
        open_truth(folder, store)
    (folder / pathlib.Path(store.names[0]).parent).mkdir(parents=True)
    with pytest.raises(DataError, match="no mask in"):
        open_truth(folder, store)
    picture = Image.new("L", (20, 10))
    picture.putpixel((3, 2), 255)
    picture.save((folder / store.names[0]).with_suffix(".png"))
    truth = open_truth(folder, store)
    assert truth is not None and not truth.masks(1)
    assert bounds(truth.masks(0)[OBJECT]) == (2, 3, 3, 4)
    Image.new("L", (5, 5)).save((folder / store.names[0]).with_suffix(".png"))
    with pytest.raises(DataError, match="is 5 x 5, its image 20 x 10"):
        truth.masks(0)


def test_which_output_is_which_class(tmp_path: pathlib.Path) -> None:
    assert outputs_of(["b", "a"], 3, ["a", "b", "c"]).tolist() == [1, 0]  # by name
    assert outputs_of(["x", "y"], 2).tolist() == [0, 1]  # in order
    with pytest.warns(UserWarning, match="taken in their order"):
        assert outputs_of(["x", "y"], 2, ["a", "b"]).tolist() == [0, 1]  # other names, as many
    assert outputs_of(["n01440764", "n15075141"], 1000).tolist() == [0, 999]
    assert outputs_of(["0", "1", "10", "2"], 11).tolist() == [0, 1, 10, 2]  # numbers by value, as few as there are
    assert outputs_of(["003", "007"], 8).tolist() == [3, 7]
    assert outputs_of(["1", "2"], 2, ["1", "2"]).tolist() == [0, 1]  # names go before numbers
    with pytest.raises(DataError, match="numbers up to 2, the network has outputs 0 to 1"):
        outputs_of(["1", "2"], 2)  # counted from 1, or classes 1 and 2 of more: that is not to be guessed
    for classes, outputs, names in ((["x"], 2, ["a", "b"]), (["n99999999"], 1000, [])):
        with pytest.raises(DataError, match="--classes FILE"):
            outputs_of(classes, outputs, names)
    with pytest.raises(DataError, match="the images have no classes"):
        outputs_of([], 3)
    with pytest.raises(DataError, match="2 class names given for 3 outputs"):
        outputs_of(["a"], 3, ["a", "b"])
    file = tmp_path / "names.txt"
    file.write_text("cat\ndog\n")
    assert read_classes(file) == ("cat", "dog") and dv.load_model("demo").classes[0] == "cat"
    file.write_text("crane\nkite\ncrane\n")  # as ImageNet's list has it
    assert read_classes(file) == ("crane", "kite", "crane")
    file.write_text("\n")
    with pytest.raises(DataError, match="is empty"):
        read_classes(file)
    with pytest.raises(DataError, match="cannot read"):
        read_classes(tmp_path / "none")
