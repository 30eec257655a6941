"""Several labels an image: the table, the dataset with it, and what is refused."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

import deconvviz as dv
from deconvviz.data.label_table import LabelTable, SeveralLabels
from deconvviz.data.memory import InMemoryImages
from deconvviz.errors import DataError

IMAGES = InMemoryImages(np.zeros((4, 8, 8, 3), np.uint8), [0, 0, 1, -1], ("a", "b"), ("a/1", "a/2", "b/1", "c"))


def written(folder: pathlib.Path, text: str) -> pathlib.Path:
    path = folder / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_table_says_which_labels_images_have(tmp_path: pathlib.Path) -> None:
    text = '\ufefflabel,image,note\nsky,a/1,x\n"tree, old",a/1,\nsky,c,\nsky,c,again\ndog,b/1,\n'
    table = LabelTable.read(written(tmp_path, text))
    images = SeveralLabels(IMAGES, table)
    assert images.classes == ("dog", "sky", "tree, old") and images.names == IMAGES.names
    assert images.targets.tolist() == [[False, True, True], [False] * 3, [True, False, False], [False, True, False]]
    assert images.known.tolist() == [True, False, True, True] and images.labels.tolist() == [-1] * 4
    assert images[0][1] == -1 and np.array_equal(images[0][0], IMAGES[0][0])
    assert repr(images) == "<SeveralLabels: 4 images, 3 with labels of 3>"
    other = SeveralLabels(IMAGES, LabelTable.read(written(tmp_path, "image,label\na/1,sky\n")))
    assert len({images.fingerprint, other.fingerprint, IMAGES.fingerprint}) == 3
    table.check(IMAGES)
    table.check(dv.Scenes(3), IMAGES)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("image,class\na/1,sky\n", "has no column 'label'; expected image and label"),
        ("", "has no column 'image'"),
        ("image,label\n", "holds no label"),
        ("image,label\na/1,sky\na/2,\n", "line 3: no label; expected an image and one of its labels"),
        ("image,label\n,sky\n", "line 2: no image"),
        ("image,label\na/2\n", "line 2: no label"),
    ],
)
def test_tables_that_are_none(tmp_path: pathlib.Path, text: str, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint) as error:
        LabelTable.read(written(tmp_path, text))
    assert "\n" not in str(error.value)


def test_tables_of_other_images(tmp_path: pathlib.Path) -> None:
    table = LabelTable.read(written(tmp_path, "image,label\na/1,sky\na/9,sky\n"))
    with pytest.raises(DataError, match="no image 'a/9' among the 4; names are as packed, nearest: a/"):
        table.check(IMAGES)
    with pytest.raises(DataError, match="has no row of any of these 3 images"):
        SeveralLabels(dv.Scenes(3), table)
    with pytest.raises(DataError, match="cannot read the labels"):
        LabelTable.read(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x9c")
    with pytest.raises(DataError, match="it is no text"):
        LabelTable.read(tmp_path / "binary.csv")
