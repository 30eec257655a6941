"""Images to pack: tables and datasets as people have them, a part of them, and images that cannot be used."""

from __future__ import annotations

import collections
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from in_memory import ReadImages
from PIL import Image
from torch import nn

import deconvviz as dv
from deconvviz.data.feed import Feed
from deconvviz.data.memory import InMemoryImages
from deconvviz.data.sources import find_source
from deconvviz.errors import DataError
from deconvviz.models.labels import names_of_outputs, outputs_of
from deconvviz.types import Pixels

PRE = dv.Preprocess(resize=8, crop=8)


def red(number: int, side: int = 12) -> Pixels:
    """A picture whose red tells its number."""
    picture = np.zeros((side, side, 3), np.uint8)
    picture[..., 0] = 10 * number
    return picture


def number_of(picture: Pixels) -> int:
    return int(picture[0, 0, 0]) // 10


def save(path: pathlib.Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(red(number)).save(path)


def packed(source: Any, folder: pathlib.Path, **options: Any) -> dv.ImageStore:
    dv.pack(source, folder / "store.h5", progress=False, overwrite=True, **options)
    return dv.ImageStore.open(folder / "store.h5")


# --- lists -----------------------------------------------------------------------------------------------------------

# The first lines of tables that hold a.png, b.png and c.png; the labels are 2, 0 and 1, or their names.
TABLES = {
    "no header": "a.png,2\nb.png,0\nc.png,1\n",
    "path and label": "path,label\na.png,2\nb.png,0\nc.png,1\n",
    "of Kaggle": "image_id,label\na.png,2\nb.png,0\nc.png,1\n",
    "words that mean nothing": "photograph,kind of it\na.png,2\nb.png,0\nc.png,1\n",
    "capitals and blanks": "Filename , Label\na.png, 2\n b.png,0\nc.png,1 \n",
    "an index of pandas": ",path,label\n0,a.png,2\n1,b.png,0\n2,c.png,1\n",
    "other columns between": "id,width,image,height,class\n7,12,a.png,12,2\n8,12,b.png,12,0\n9,12,c.png,12,1\n",
    "the label first": "label,image_path\n2,a.png\n0,b.png\n1,c.png\n",
    "floats": "path,label\na.png,2.0\nb.png,0.0\nc.png,1.0\n",
    "floats without a digit": "a.png,2.\nb.png,0.\nc.png,1.\n",
    "written by Windows": "\ufeffpath,label\r\na.png,2\r\nb.png,0\r\nc.png,1\r\n",
    "written by Windows, no header": "\ufeffa.png,2\r\nb.png,0\r\nc.png,1\r\n",
    "quoted": '"path","label"\n"a.png","2"\n"b.png","0"\n"c.png","1"\n',
    "empty lines and a remark": "path,label\n\na.png,2\n# not this one\nb.png,0\n\nc.png,1\n\n",
}


@pytest.fixture
def three(tmp_path: pathlib.Path) -> pathlib.Path:
    for number, name in enumerate("abc"):
        save(tmp_path / f"{name}.png", number)
    return tmp_path


@pytest.mark.parametrize("table", TABLES)
def test_tables_of_images_and_numbers(three: pathlib.Path, table: str) -> None:
    (three / "list.csv").write_bytes(TABLES[table].encode())
    source = find_source(three / "list.csv")
    assert [(entry.name, entry.label) for entry in source.entries] == [("a.png", 2), ("b.png", 0), ("c.png", 1)]
    assert source.classes == [] and [entry.content.is_file() for entry in source.entries] == [True] * 3


@pytest.mark.parametrize("header", ["", "path,label\n", "file,what\n"])
def test_tables_of_images_and_names(three: pathlib.Path, header: str) -> None:
    """A first row whose file is there is an image, whatever its label is called."""
    (three / "list.csv").write_text(f"{header}a.png,label\nb.png,cat\nc.png,owl\n")
    source = find_source(three / "list.csv")
    assert [entry.name for entry in source.entries] == ["a.png", "b.png", "c.png"]
    assert [source.classes[entry.label] for entry in source.entries] == ["label", "cat", "owl"]


def test_a_first_row_that_is_an_image_is_none_the_less_one_for_being_absent(three: pathlib.Path) -> None:
    (three / "list.csv").write_text("gone.png,cat\na.png,owl\n")
    assert [entry.name for entry in find_source(three / "list.csv").entries] == ["gone.png", "a.png"]
    store = packed(three / "list.csv", three)
    assert list(store.names) == ["a.png"] and "gone.png" in str(store.skipped)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["3", "", "1"], [3, -1, 1]),
        (["3", "-1", "007"], [3, -1, 7]),
        (["2.0", "0", "1.000"], [2, 0, 1]),
        (["10", "9", "2"], [10, 9, 2]),  # not by the order of text
        (["2.5", "0", "1"], ["2.5", "0", "1"]),  # names, then
        (["v2.0", "10", "9"], ["v2.0", "10", "9"]),
    ],
)
def test_labels_of_lists(three: pathlib.Path, labels: list[str], expected: Sequence[object]) -> None:
    for name, separator in (("list.txt", "\t"), ("list.csv", ",")):
        (three / name).write_text("".join(f"{n}.png{separator}{v}\n" for n, v in zip("abc", labels, strict=True)))
        source = find_source(three / name)
        assert [source.classes[e.label] if source.classes else e.label for e in source.entries] == expected


def test_lists_without_labels(three: pathlib.Path) -> None:
    for name, text in (("l.txt", "a.png\n\nc.png\n"), ("l.csv", "a.png\nc.png\n"), ("m.csv", "path\na.png\nc.png\n")):
        (three / name).write_text(text)
        assert [(e.name, e.label) for e in find_source(three / name).entries] == [("a.png", -1), ("c.png", -1)]
    (three / "l.csv").write_bytes(b"a.png,\xff\xfe\n")
    with pytest.raises(DataError, match="expected UTF-8 text"):
        find_source(three / "l.csv")


# --- datasets --------------------------------------------------------------------------------------------------------


class Items:
    """A dataset of items made by a function of (picture, number)."""

    def __init__(self, make: Callable[[Pixels, int], Any], count: int = 4) -> None:
        self.make, self.count, self.asked = make, count, list[int]()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        self.asked.append(int(index))
        return self.make(red(int(index)), int(index))


WORDS = ["zero", "one", "two", "three"]
Pair = collections.namedtuple("Pair", "picture target")
ITEMS: dict[str, Callable[[Pixels, int], Any]] = {
    "arrays": lambda a, n: (a, n),
    "PIL": lambda a, n: (Image.fromarray(a), n),
    "tensors": lambda a, n: (torch.from_numpy(a).permute(2, 0, 1), torch.tensor(n)),
    "a list": lambda a, n: [a, n],
    "a named tuple": lambda a, n: Pair(a, n),
    "of Hugging Face": lambda a, n: {"image": Image.fromarray(a), "label": n},
    "img and target": lambda a, n: {"img": a, "target": np.int64(n), "path": "x.png"},
    "more behind": lambda a, n: (a, n, "meta", {"id": 3}),
    "float labels": lambda a, n: (a, float(n)),
    "NumPy's floats": lambda a, n: (a, np.float32(n)),
    "a tensor of one float": lambda a, n: (a, torch.tensor([float(n)])),
    "names of classes": lambda a, n: (a, WORDS[n]),
}


@pytest.mark.parametrize("kind", ITEMS)
def test_items_with_a_label(tmp_path: pathlib.Path, kind: str) -> None:
    items: Any = Items(ITEMS[kind])
    items.classes = WORDS
    store = packed(items, tmp_path)
    assert store.labels.tolist() == [0, 1, 2, 3] == [number_of(store[n][0]) for n in range(4)]
    assert list(store.classes) == items.classes and not store.skipped


@pytest.mark.parametrize(
    "make",
    [
        lambda a, n: a,
        lambda a, n: Image.fromarray(a),
        lambda a, n: torch.from_numpy(a).permute(2, 0, 1),
        lambda a, n: (a,),
        lambda a, n: (a, None),
        lambda a, n: {"image": a},
        lambda a, n: {"image": a, "label": None},
    ],
)
def test_items_without_a_label(tmp_path: pathlib.Path, make: Callable[[Pixels, int], Any]) -> None:
    store = packed(Items(make), tmp_path)
    assert store.labels.tolist() == [-1] * 4 and [number_of(store[n][0]) for n in range(4)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda a, n: {"x": a, "y": n}, r"keys x, y given; expected an item \(image, label\)"),
        (lambda a, n: "photo.png", r"str given; expected an item \(image, label\)"),
        (lambda a, n: None, r"NoneType given; expected an item \(image, label\)"),
        (lambda a, n: (), r"tuple given; expected an item \(image, label\)"),
        (lambda a, n: (a, "cat"), "label 'cat' given; expected a number, or a name among"),
        (lambda a, n: (a, {"boxes": []}), r"a label of type dict given; expected \(image, label\), with a number"),
        (
            lambda a, n: (a, np.array([0, 1])),
            r"a label of type ndarray given; expected \(image, label\), with a number",
        ),
        (lambda a, n: (a, 0.5), "label 0.5 given; expected a whole number"),
        (lambda a, n: (a, float("nan")), "label nan given; expected a whole number"),
        (lambda a, n: (a, -7), "label -7 is neither the index of a class"),
        (lambda a, n: (torch.zeros(5, 9, 9), n), ""),
    ],
)
def test_items_that_are_nothing_of_that_kind(
    tmp_path: pathlib.Path, make: Callable[[Pixels, int], Any], told: str
) -> None:
    """What was expected is said, and such an item spoils no other."""
    with pytest.raises(DataError, match=f"no readable image in Items: 4 skipped, the first 00000000.png: {told}"):
        packed(Items(make), tmp_path)
    mixed = Items(lambda a, n: make(a, n) if n == 2 else (a, n))
    store = packed(mixed, tmp_path)
    assert store.labels.tolist() == [0, 1, 3] and [name for name, _ in store.skipped] == ["00000002.png"]


# --- a part ----------------------------------------------------------------------------------------------------------


def test_a_part_of_a_folder_and_of_a_list_is_spread_over_their_classes(tmp_path: pathlib.Path) -> None:
    for label, name in enumerate(("ant", "bee", "cow")):
        for number in range(4):
            save(tmp_path / "set" / name / f"{number}.png", label)
    names = [f"set/{name}/{number}.png" for name in ("ant", "bee", "cow") for number in range(4)]
    (tmp_path / "list.csv").write_text("path,label\n" + "".join(f"{name},{name.split('/')[1]}\n" for name in names))
    for source in (tmp_path / "set", tmp_path / "list.csv"):
        store = packed(source, tmp_path, limit=6)
        assert store.labels.tolist() == [0, 0, 1, 1, 2, 2] and list(store.classes) == ["ant", "bee", "cow"]
        assert [number_of(store[n][0]) for n in range(6)] == [0, 0, 1, 1, 2, 2] and len(set(store.names)) == 6
    assert len(packed(tmp_path / "set", tmp_path, limit=99)) == 12
    (tmp_path / "set" / "ant" / "3.png").write_bytes(b"")  # is read only where it was chosen
    assert not packed(tmp_path / "set", tmp_path, limit=3).skipped


@pytest.mark.parametrize("attribute", ["labels", "targets"])
@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_a_part_of_a_dataset_is_spread_and_nothing_else_is_read(
    tmp_path: pathlib.Path, attribute: str, kind: Callable[[list[int]], Any]
) -> None:
    labels = [0] * 10 + [1] * 3 + [2] * 2
    items: Any = Items(lambda a, n: (a, labels[n]), 15)
    setattr(items, attribute, kind(labels))
    items.names = [f"photo {n}" for n in range(15)]
    store = packed(items, tmp_path, limit=6)
    assert store.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert sorted(items.asked) == [number_of(store[n][0]) for n in range(6)]
    assert list(store.names) == [f"photo {n}" for n in sorted(items.asked)]


@pytest.mark.parametrize("known", [None, ["cat"] * 20, [0, 1]])
def test_a_part_of_a_dataset_of_unknown_labels_is_spread_over_it(tmp_path: pathlib.Path, known: Any) -> None:
    items: Any = Items(lambda a, n: (a, n // 10), 20)
    items.labels = known
    store = packed(items, tmp_path, limit=4)
    assert sorted(items.asked) == [2, 7, 12, 17] and store.labels.tolist() == [0, 0, 1, 1]


def test_entries_are_a_sequence() -> None:
    entries = find_source(Items(lambda a, n: (a, n), 6)).entries
    assert [entry.label for entry in entries[1:6:2]] == [1, 3, 5] and [entry.label for entry in entries] == [*range(6)]
    for index in (6, -1):
        with pytest.raises(IndexError):
            entries[index]


# --- images that cannot be used --------------------------------------------------------------------------------------


def with_a_strip(at: Sequence[int], count: int = 7) -> InMemoryImages:
    """Images of which some are so long that they would have too many pixels once they are resized."""
    pictures = [np.zeros((1, 3_000_000, 3), np.uint8) if n in at else red(n) for n in range(count)]
    return InMemoryImages(pictures, [0] * count, ("all",), [f"image {n}" for n in range(count)])


STRIP = dv.Preprocess(resize=64, crop=8)


def test_a_tolerant_feed_leaves_out_what_cannot_be_used_and_names_it() -> None:
    feed = Feed(with_a_strip([1, 4, 5]), STRIP, [0, 1, 2, 3, 4, 5, 6])
    batches = list(feed.batches(2, tolerant=True))
    assert [batch.places.tolist() for batch in batches] == [[0], [2, 3], [], [6]]
    assert [[number_of(picture) for picture in batch.pictures] for batch in batches] == [[0], [2, 3], [], [6]]
    assert [list(batch.left_out) for batch in batches] == [["image 1"], [], ["image 4", "image 5"], []]
    assert batches[2].pictures.shape == (0, 8, 8, 3) and batches[2].pictures.dtype == np.uint8
    assert "MAX_IMAGE_PIXELS" in batches[0].left_out["image 1"]
    resumed = list(feed.batches(2, start=4, tolerant=True))
    assert [batch.places.tolist() for batch in resumed] == [[], [6]]


def test_any_other_feed_ends_at_such_an_image_and_names_it() -> None:
    feed = Feed(with_a_strip([3]), STRIP)
    batches = feed.batches(2)
    assert next(batches).places.tolist() == [0, 1]
    with pytest.raises(DataError, match=r"image image 3 cannot be used: .*MAX_IMAGE_PIXELS"):
        next(batches)


def test_an_error_that_no_image_explains_ends_a_tolerant_feed_too() -> None:
    """A fault of the program, or of a dataset's code, is not taken for an image that cannot be used."""

    class Broken(ReadImages):
        def __getitem__(self, index: int) -> tuple[Pixels, int]:
            raise ZeroDivisionError("a fault")

    with pytest.raises(ZeroDivisionError, match="a fault"):
        list(Feed(Broken([red(1)]), STRIP).batches(2, tolerant=True))


@pytest.mark.parametrize("at", [[0], [2], [6], [0, 1, 2, 3], [1, 3, 5]])
def test_mining_goes_on_without_images_that_cannot_be_used(at: list[int]) -> None:
    """What is found is what would be without them, and they are named once each."""
    torch.manual_seed(0)
    network = dv.capture(nn.Sequential(nn.Conv2d(3, 2, 3)).eval(), (3, 8, 8))
    images = with_a_strip(at)
    rest = [n for n in range(7) if n not in at]
    with pytest.warns(UserWarning, match=images.names[at[0]]):
        mined = dv.mine(network, images, ["0"], k=2, preprocess=STRIP, batch_size=2, progress=False)
    whole = InMemoryImages([red(n) for n in rest], [0] * len(rest), ("all",), [f"image {n}" for n in rest])
    expected = dv.mine(network, whole, ["0"], k=2, preprocess=STRIP, batch_size=2, progress=False)
    np.testing.assert_allclose(mined["0"].values, expected["0"].values, rtol=1e-5)
    chosen = [[int(images.names[index].split()[1]) for index in row] for row in mined["0"].images]
    assert chosen == [[int(whole.names[index].split()[1]) for index in row] for row in expected["0"].images]
    assert mined.complete and sorted(mined.sources["left_out"]) == [f"image {n}" for n in at]


# --- class names that are numbers ------------------------------------------------------------------------------------


def perfect(count: int) -> Callable[[Pixels], int]:
    """A classifier that is always right: the output is the number that the picture shows."""
    return lambda picture: min(number_of(picture), count - 1)


@pytest.mark.parametrize("names", [[*map(str, range(12))], [f"{n:03d}" for n in range(12)], ["0", "2", "10", "11"]])
def test_folders_named_by_numbers_are_the_outputs_of_these_numbers(tmp_path: pathlib.Path, names: list[str]) -> None:
    for name in names:
        save(tmp_path / "set" / name / "a.png", int(name))
    store, right = packed(tmp_path / "set", tmp_path), perfect(12)
    output = outputs_of(store.classes, 12)
    assert [int(output[label]) for label in store.labels] == [right(store[n][0]) for n in range(len(store))]
    called = names_of_outputs(12, classes=store.classes, of_class=output)
    assert called == (tuple(names) if len(names) == 12 else ())


def test_numbers_that_are_no_outputs_are_refused(tmp_path: pathlib.Path) -> None:
    for names in (["1", "2", "12"], ["1", "01"], [*map(str, range(1, 13))]):
        with pytest.raises(DataError, match=r"numbers up to .* outputs 0 to 11; give the outputs' names"):
            outputs_of(names, 12)
    assert outputs_of(["1", "2", "12"], 3, ["12", "1", "2"]).tolist() == [1, 2, 0]  # names of outputs come first
    assert outputs_of(["1", "b"], 2).tolist() == [0, 1]
    with pytest.raises(DataError, match="names do not tell which is which"):
        outputs_of(["1", "b"], 3)


def test_two_folders_of_a_single_output(tmp_path: pathlib.Path) -> None:
    """As it was trained with the labels 0 and 1: the output stands for 1."""
    for name in ("0", "1"):
        save(tmp_path / "set" / name / "a.png", int(name))
    store = packed(tmp_path / "set", tmp_path)
    assert outputs_of(store.classes, 1).tolist() == [1, 0]
    assert names_of_outputs(1, classes=store.classes) == ("1", "0")


@pytest.mark.parametrize("kind", ["folders", "floats", "dataset"])
def test_a_network_that_is_always_right_has_no_mistakes(tmp_path: pathlib.Path, kind: str) -> None:
    """From images to outputs: the network's class is the one that the labels stand for."""
    for n in range(12):
        save(tmp_path / ("set/" + (str(n) if kind == "folders" else "")) / f"{n}.png", n)
    (tmp_path / "set" / "t.csv").write_text("image_id,label\n" + "".join(f"{n}.png,{n}.0\n" for n in range(12)))
    source: Any = {"folders": tmp_path / "set", "floats": tmp_path / "set/t.csv", "dataset": Items(ITEMS["arrays"], 12)}
    store = packed(source[kind], tmp_path)

    class Right(nn.Module):
        """Its output n is highest where the red is 10 n."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            red_of_255 = images[:, 0].mean((1, 2))[:, None] * 255
            return -((red_of_255 - 10 * torch.arange(12.0)) ** 2)

    plain = dv.Preprocess(resize=8, crop=8, mean=(0.0,) * 3, std=(1.0,) * 3)
    feed = Feed(store, plain)
    (batch,) = feed.tensors(12, "cpu")
    told = Right()(batch[1]).argmax(1).numpy()
    output = outputs_of(store.classes, 12) if store.classes else np.arange(12)
    assert np.array_equal(output[np.asarray(store.labels)], told)
