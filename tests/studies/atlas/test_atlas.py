"""The atlas as files: what is written is what the results hold, in bounded pieces, once, and whole after a kill."""

from __future__ import annotations

import itertools
import json
import pathlib
import re
from hashlib import sha256
from typing import Any

import galleries
import numpy as np
import pytest
from galleries import IMAGES, LAYERS, WHY
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deconvviz.errors import DataError
from deconvviz.results.results import Result
from deconvviz.results.tiles import TileWriter
from deconvviz.studies.atlas.site import images, layers, site
from deconvviz.studies.atlas.site.decisions import write_decisions
from deconvviz.studies.atlas.site.inputs import DecisionsFile, GalleryFile
from deconvviz.studies.atlas.site.site import ASSETS, PAGES, Site, build_site
from deconvviz.web import sprites
from deconvviz.web.colours import coloured
from deconvviz.web.scripts import exact, folder_name, literal
from deconvviz.web.sprites import LIMIT, Layout, enlarged, magnified, side_of, squares, tiled, write_sheets

TEMPLATES = pathlib.Path(site.__file__).parent.parent / "templates"


def build(root: pathlib.Path, paths: list[pathlib.Path], decided: pathlib.Path | None, **more: Any) -> Site:
    texts: dict[str, Any] = {"title": "net", "command": "deconvviz atlas", "note": "no evidence"}
    texts["filter_names"] = galleries.FILTER_NAMES
    return build_site(root, paths, decided, galleries.images(**more), **texts, progress=False)


def read(path: pathlib.Path) -> Any:
    """What a data file puts, as JSON; NaN and Infinity are names that Python's reader knows, too."""
    text = path.read_text("ascii")
    return json.loads(re.fullmatch(r'atlas\.put\("[^"]*",(.*)\);\n', text, re.DOTALL).group(1))


def digests(root: pathlib.Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file() and "data" not in path.relative_to(root).parts[:1])
    return {str(path.relative_to(root)): sha256(path.read_bytes()).hexdigest() for path in files}


def changed(root: pathlib.Path) -> dict[str, int]:
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[pathlib.Path], pathlib.Path]:
    return galleries.save_all(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, results: tuple[list[pathlib.Path], pathlib.Path]) -> pathlib.Path:
    root = tmp_path_factory.mktemp("atlas")
    build(root, *results)
    return root


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)
    )
)
@settings(max_examples=60, deadline=None)
def test_a_literal_is_ascii_says_the_same_and_ends_no_script(value: Any) -> None:
    text = literal(value)
    assert json.loads(text) == value
    assert text.isascii() and not set("<>&") & set(text)


@given(st.lists(st.floats(width=32), max_size=20))
@settings(max_examples=60, deadline=None)
def test_numbers_come_back_bit_for_bit(values: list[float]) -> None:
    single, double = np.array(values, np.float32), np.array(values, np.float64) / 3
    np.testing.assert_array_equal(np.array(json.loads(literal(exact(single))), np.float32), single)
    np.testing.assert_array_equal(np.array(json.loads(literal(exact(double))), np.float64), double)


def test_a_float32_is_written_as_short_as_it_can_be() -> None:
    assert literal(exact(np.array([0.1, 3.0000002], np.float32))) == "[0.1,3.0000002]"


@given(st.lists(st.tuples(st.integers(0, 99), st.text(max_size=80)), unique=True, max_size=8))
@settings(max_examples=60, deadline=None)
def test_folder_names_are_safe_and_different(named: list[tuple[int, str]]) -> None:
    folders = [folder_name(depth, layer) for depth, layer in named]
    assert len(set(folders)) == len(named)
    assert all(re.fullmatch(r"\d\d-[A-Za-z0-9._@-]{0,70}", folder) for folder in folders)


@given(st.integers(1, 30), st.integers(1, 7), st.integers(1, 5), st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_tiled_puts_every_block_in_its_place(count: int, columns: int, height: int, width: int) -> None:
    blocks = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)
    sheet = tiled(blocks, columns)
    assert sheet.shape == (-(-count // columns) * height, columns * width, 3)
    for n in range(count):
        y, x = n // columns * height, n % columns * width
        np.testing.assert_array_equal(sheet[y : y + height, x : x + width], blocks[n])
    assert (sheet[(count - 1) // columns * height :, ((count - 1) % columns + 1) * width :] == 128).all()


@pytest.mark.parametrize("k", [1, 2, 4, 7, 9])
def test_squares_hold_a_filters_tiles_row_by_row_and_grey_for_none(k: int) -> None:
    tiles = np.random.default_rng(k).integers(0, 256, (3, k, 4, 6, 3), np.uint8)
    present = np.ones((3, k), bool)
    present[1, -1] = False
    shown, side = squares(tiles, present), side_of(k)
    assert side**2 >= k > (side - 1) ** 2 and shown.shape == (3, side * 4, side * 6, 3)
    for f, rank in np.ndindex(3, side**2):
        y, x = rank // side * 4, rank % side * 6
        wanted = tiles[f, rank] if rank < k and present[f, rank] else np.full((4, 6, 3), 128)
        np.testing.assert_array_equal(shown[f, y : y + 4, x : x + 6], wanted)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "count"), [((288, 288), 512), ((64, 96), 1000), ((21, 21), 3), ((3000, 40), 5)])
def test_sheets_are_bounded_and_read_piece_by_piece(tmp_path: pathlib.Path, size: tuple[int, int], count: int) -> None:
    layout = Layout(*size, count)
    asked = []

    def blocks(first: int, last: int) -> Any:
        asked.append((first, last))
        return np.broadcast_to(np.arange(first, last).astype(np.uint8)[:, None, None, None], (last - first, *size, 3))

    files = write_sheets(tmp_path, "one", layout, blocks)
    assert len(files) == layout.sheets == len(asked) and asked[0][0] == 0 and asked[-1][1] == count
    assert all(b == c for (_, b), (c, _) in itertools.pairwise(asked))
    said = layout.described("one")
    for n in {0, count // 2, count - 1}:  # found as the page finds it
        sheet = Image.open(tmp_path / f"one-{n // said['perSheet']:03d}.webp")
        assert max(sheet.size) <= max(LIMIT, *size) and sheet.size[0] == said["columns"] * size[1]
        within = n % said["perSheet"]
        y, x = within // said["columns"] * size[0], within % said["columns"] * size[1]
        block = np.asarray(sheet, int)[y : y + size[0], x : x + size[1]]
        assert abs(block[2:-2, 2:-2].mean() - n % 256) < 1.5


def test_small_tiles_are_enlarged_by_whole_pixels() -> None:
    sizes = [(7, 7), (32, 32), (96, 20), (80, 1), (79, 3)]
    assert [enlarged(*size) for size in sizes] == [12, 3, 1, 1, 2]
    tile = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    large = magnified(tile, 3)
    assert large.shape == (1, 6, 6, 3)
    assert all((large[0, y, x] == tile[0, y // 3, x // 3]).all() for y in range(6) for x in range(6))
    assert magnified(tile, 1) is tile


def test_the_colours_are_viridis() -> None:
    import matplotlib

    shares = np.linspace(0, 1, 101)
    assert np.abs(coloured(shares) - 255 * matplotlib.colormaps["viridis"](shares)[:, :3]).max() < 7
    assert coloured(np.array([-1.0, 2.0])).tolist() == [[68, 1, 84], [253, 231, 37]]


@pytest.mark.slow
def test_every_number_is_in_the_scripts(made: pathlib.Path, results: tuple[list[pathlib.Path], pathlib.Path]) -> None:
    for path in results[0]:
        result = Result.load(path, "gallery", 1)
        arrays, gallery = result.arrays, GalleryFile(path)
        folder = made / "layers" / gallery.folder
        told = read(folder / "layer.js")
        for key, name in layers._COLUMNS.items():
            np.testing.assert_array_equal(np.array(told[key], arrays[name].dtype), arrays[name])
        np.testing.assert_array_equal(np.array(told["nearest"], np.float32), arrays["similarity"][:, 0])
        chosen = {"rule": "lrp-gamma", "why": WHY} if gallery.layer == LAYERS[0] else {}
        assert told["config"] == {**result.config, **chosen} and told["sources"] == result.sources
        chunks = sorted(folder.glob("filters-*.js"))
        filters = [one for chunk in chunks for one in read(chunk)["filters"]]
        assert len(filters) == len(arrays["channels"]) and len(chunks) == -(-len(filters) // layers.CHUNK)
        for name in layers._ROWS:
            found = np.array([one[name] for one in filters], arrays[name].dtype)
            np.testing.assert_array_equal(found, arrays[name])
        named = {int(i): pair for chunk in chunks for i, pair in read(chunk)["images"].items()}
        assert named == {int(i): [galleries.names()[i], int(galleries.labels()[i])] for i in gallery.used_images()}


def test_every_layer_names_the_rule_that_was_used(made: pathlib.Path) -> None:
    """Of the first it was chosen; the others are as version 0.1.0 wrote them, whose rule was given."""
    about = read(made / "assets" / "site.js")["layers"]
    assert [(layer["rule"], layer["why"]) for layer in about] == [("lrp-gamma", WHY)] + 2 * [("deconvnet", "")]
    rules = re.findall(r"<dt>Rule of the projections</dt><dd([^>]*)>([^<]*)</dd>", (made / "index.html").read_text())
    escaped = WHY.replace("<", "&lt;").replace(">", "&gt;")
    assert rules == [(f' title="{escaped}"', "lrp-gamma"), ("", "deconvnet"), ("", "deconvnet")]


def test_what_an_image_drives_is_the_galleries_turned_around(
    made: pathlib.Path, results: tuple[list[pathlib.Path], pathlib.Path]
) -> None:
    told = read(made / "assets" / "site.js")
    wanted: dict[int, list[Any]] = {image: [] for image in range(IMAGES)}
    for number, path in enumerate(results[0]):
        arrays = Result.load(path, "gallery", 1).arrays
        for f, rank in np.ndindex(arrays["images"].shape):
            if arrays["images"][f, rank] >= 0:
                row = [number, arrays["channels"][f], rank + 1, arrays["values"][f, rank]]
                wanted[int(arrays["images"][f, rank])].append(row)
    for image in range(IMAGES):
        about = read(made / "images" / f"about-{image // told['images']['span']:05d}.js")[str(image)]
        assert about["name"] == galleries.names()[image] and about["label"] == galleries.labels()[image]
        assert [[*row[:3], np.float32(row[3])] for row in about["drives"]] == wanted[image]
        assert about["decided"] == (image < 12)
    listed = read(made / "images" / "list-000.js")
    assert [row[0] for row in listed] == list(range(IMAGES)) and told["images"]["starts"] == [0]


def test_decisions(made: pathlib.Path, results: tuple[list[pathlib.Path], pathlib.Path]) -> None:
    arrays = Result.load(results[1], "decisions", 1).arrays
    listed = read(made / "images" / "list-000.js")
    for row in range(12):
        told = read(made / "decisions" / f"{row:07d}.js")
        assert told["targets"] == arrays["targets"][row].tolist()
        assert len(told["layers"]) == len(told["methods"])
        assert told["names"] == [f"<output> {n}" for n in arrays["targets"][row]]
        np.testing.assert_array_equal(told["probabilities"], arrays["probabilities"][row])
        seen = np.array(told["occlusion"]["probability"], np.float32)
        np.testing.assert_array_equal(seen, arrays["occlusion/probability"][row].reshape(5, -1))
        best = arrays["targets"][row, 0]  # they are in the order of their probabilities
        right = None if row == 11 else bool(best == arrays["label_output"][row])
        second, ratio = arrays["targets"][row, 1], arrays["probabilities"][row, 0] / arrays["probabilities"][row, 1]
        log_odds = pytest.approx(np.log(ratio))
        assert listed[row][3] == [
            f"<output> {best}",
            arrays["probabilities"][row, 0],
            right,
            f"<output> {second}",
            log_odds,
            arrays["probabilities"][row, 1],
        ]
        assert (told["second"], told["logOdds"]) == (f"<output> {second}", log_odds)
    assert listed[12][3] is None
    sheet = np.asarray(Image.open(made / "decisions" / "0000000.webp"), int)
    assert sheet.shape == (5 * 112, 3 * 112, 3)
    for method, target in np.ndindex(3, 5):
        part = sheet[112 * target : 112 * target + 112, 112 * method : 112 * method + 112][9:-9, 9:-9]
        assert np.abs(part - coloured(np.array(galleries.flat(method, target) / 255))).max() < 10


@pytest.mark.slow
def test_only_used_pictures_are_made_once_each(tmp_path: pathlib.Path) -> None:
    result = galleries.gallery(filters=3, k=2)
    result.arrays["images"][:] = [[7, 3], [3, 21], [39, 7]]
    result.save(tmp_path / "one.h5")
    asked: list[int] = []

    def picture(image: int) -> Any:
        asked.append(image)
        return galleries.picture(image)

    build(tmp_path / "a", [tmp_path / "one.h5"], None, picture=picture)
    found = {path.stem for path in (tmp_path / "a/pictures").rglob("*.webp")}
    assert found == {f"{i:07d}" for i in (3, 7, 21, 39)}
    assert sorted(asked) == sorted([3, 7, 21, 39, 3, 21, 39])  # each once, three more to know them again
    seen = np.asarray(Image.open(tmp_path / "a/pictures/0000/0000021.webp"), int)
    assert np.abs(seen - galleries.picture(21)).mean() < 3
    asked.clear()
    build(tmp_path / "a", [tmp_path / "one.h5"], None, picture=picture)
    assert asked == [3, 21, 39]
    result.arrays["images"][0] = [0, 1]
    result.save(tmp_path / "two.h5")
    asked.clear()
    build(tmp_path / "a", [tmp_path / "two.h5"], None, picture=picture)
    assert asked == [3, 21, 39, 0, 1]  # others are shown now: those that are there stay
    build(
        tmp_path / "a", [tmp_path / "one.h5"], None, picture=lambda i: 255 - galleries.picture(i)
    )  # other preprocessing
    seen = np.asarray(Image.open(tmp_path / "a/pictures/0000/0000007.webp"), int)
    assert np.abs(seen - (255 - galleries.picture(7).astype(int))).mean() < 3


@pytest.mark.slow
def test_what_has_not_changed_is_not_made_again(
    tmp_path: pathlib.Path, results: tuple[list[pathlib.Path], pathlib.Path]
) -> None:
    paths = [tmp_path / path.name for path in results[0]]
    for path, source in zip(paths, results[0], strict=True):
        path.write_bytes(source.read_bytes())
    root = tmp_path / "atlas"
    build(root, paths, results[1])
    before, content = changed(root), digests(root)
    build(root, paths, results[1])
    kept = {name for name, when in changed(root).items() if when == before[name]}
    assert kept == {name for name in before if name.startswith(("layers/", "pictures/", "decisions/"))}
    assert digests(root) == content
    result = Result.load(paths[1], "gallery", 1)
    result.arrays["values"][0, 0] = 99.5
    result.save(paths[1])
    folder = GalleryFile(paths[1]).folder
    build(root, paths, results[1])
    again = {name for name, when in changed(root).items() if when != before[name] and name.startswith("layers/")}
    assert again == {name for name in before if name.startswith(f"layers/{folder}/")}
    assert read(root / "layers" / folder / "filters-000.js")["filters"][0]["values"][0] == 99.5
    build(root, paths, results[1], names=[f"other {n}" for n in range(IMAGES)])  # names stand in the layers' files
    assert read(root / "layers" / folder / "filters-000.js")["images"]["7"][0] == "other 7"


@pytest.mark.slow
def test_a_smaller_gallery_leaves_nothing_behind(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "one.h5"
    galleries.gallery(filters=70, more=True).save(path)
    build(tmp_path / "a", [path], None)
    galleries.gallery(filters=5).save(path)
    build(tmp_path / "a", [path], None)
    build(tmp_path / "b", [path], None)
    assert {n for n in digests(tmp_path / "a") if n.startswith("layers")} == {
        n for n in digests(tmp_path / "b") if n.startswith("layers")
    }


class Killed(BaseException):
    """What stands for kill -9: nothing catches it."""


@pytest.mark.slow
@pytest.mark.parametrize("moment", [0, 1, 4, 9, 13, 25, 40, 55])
def test_after_a_kill_the_same_call_completes_the_site(
    tmp_path: pathlib.Path,
    results: tuple[list[pathlib.Path], pathlib.Path],
    made: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: int,
) -> None:
    """Cut off at the n-th file, with the half of it that a killed process leaves beside its place."""
    left, replace = [moment], pathlib.Path.replace

    def cut(self: pathlib.Path, target: Any) -> pathlib.Path:
        left[0] -= 1
        if left[0] < 0:
            self.with_name(self.name.replace(".part", "0.part")).write_bytes(self.read_bytes()[:99])
            raise Killed
        return replace(self, target)

    monkeypatch.setattr(pathlib.Path, "replace", cut)
    with pytest.raises(Killed):
        build(tmp_path, *results)
    monkeypatch.undo()
    assert not (tmp_path / "index.html").exists()  # it comes last, so what it links is there
    build(tmp_path, *results)
    assert digests(tmp_path) == digests(made)


@pytest.mark.slow
def test_the_index_comes_after_all_that_it_links(
    tmp_path: pathlib.Path, results: tuple[list[pathlib.Path], pathlib.Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    order, replace = [], pathlib.Path.replace
    monkeypatch.setattr(pathlib.Path, "replace", lambda a, b: (order.append(pathlib.Path(b).name), replace(a, b))[1])
    build(tmp_path, *results)
    assert order[-1] == "index.html" and sorted(order[-5:]) == sorted(PAGES)
    assert order.index("stamp.json") > order.index("layer.js")


@pytest.mark.slow
def test_memory_holds_one_sheet_and_no_more(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    galleries.gallery(filters=300, tile=32, k=9).save(tmp_path / "one.h5")
    most = []
    monkeypatch.setattr(sprites, "tiled", lambda blocks, columns: (most.append(len(blocks)), tiled(blocks, columns))[1])
    build(tmp_path / "a", [tmp_path / "one.h5"], None)
    assert max(most) == (LIMIT // (3 * 96)) ** 2 < 300  # tiles of 32 pixels are enlarged to 96


@pytest.mark.slow
def test_tiles_that_the_file_keeps_compressed_are_read_too(tmp_path: pathlib.Path) -> None:
    result = galleries.gallery(filters=6)
    result.save(tmp_path / "plain.h5")
    for name in ("patches", "projections"):
        writer = TileWriter((9, 16, 16))
        for row in result.arrays.pop(name):
            writer.add(row)
        result.arrays |= writer.arrays(name)
    result.save(tmp_path / "packed.h5")
    for name in ("plain", "packed"):
        build(tmp_path / name, [tmp_path / f"{name}.h5"], None)
    one, other = (digests(tmp_path / n) for n in ("plain", "packed"))
    assert {n for n in one if one[n] != other[n]} == {"layers/00-conv1/stamp.json"}


def test_the_sheets_of_the_evolution_hold_filter_after_filter(tmp_path: pathlib.Path) -> None:
    result = galleries.gallery(more=True)
    tiles = result.arrays["evolution/projections"]
    tiles[:] = (np.arange(12, dtype=np.uint8) * 20).reshape(3, 4, 1, 1, 1)
    result.save(tmp_path / "one.h5")
    build(tmp_path / "a", [tmp_path / "one.h5"], None)
    sheet = np.asarray(Image.open(tmp_path / "a/layers/00-conv1/evolution-projections-000.webp"), int)
    assert sheet.shape == (80, 12 * 80, 3)  # tiles of 16 pixels
    for n in range(12):
        assert np.abs(sheet[4:-4, 80 * n + 4 : 80 * n + 76] - 20 * n).max() < 6
    read = layers._flattened(tiles, 4)
    for first, last in ((0, 12), (3, 5), (4, 8), (7, 12)):  # a sheet may end within a filter
        assert read(first, last)[:, 0, 0, 0].tolist() == [20 * n for n in range(first, last)]


def test_the_strip_shows_live_filters(tmp_path: pathlib.Path, results: tuple[list[pathlib.Path], pathlib.Path]) -> None:
    gallery = GalleryFile(results[0][2])
    rows = layers.strip_rows(gallery)
    assert len(rows) == layers.STRIP and rows[0] == 0 and rows[-1] == 69 and (np.diff(rows) > 0).all()
    assert not gallery.arrays["dead"][rows].any()
    dead = galleries.gallery(filters=4)  # the last of them is dead
    dead.save(tmp_path / "dead.h5")
    assert layers.strip_rows(GalleryFile(tmp_path / "dead.h5")).tolist() == [0, 1, 2]
    dead.arrays["images"][:], dead.arrays["dead"][:] = -1, 1
    dead.save(tmp_path / "dead.h5")
    assert layers.strip_rows(GalleryFile(tmp_path / "dead.h5")).tolist() == [0, 1, 2, 3]
    assert build(tmp_path / "a", [tmp_path / "dead.h5"], None).filters == 4  # a layer without a single picture


def test_text_is_escaped_in_the_pages(made: pathlib.Path, results: tuple[list[pathlib.Path], pathlib.Path]) -> None:
    index = (made / "index.html").read_text("utf-8")
    assert "<b>" not in index and "features/&lt;b&gt;&#39;2&#39;&#34;&amp;:x" in index
    for path in made.rglob("*.js"):
        if path.parent.name != "assets":
            assert path.read_text("ascii").count("\n") == 1 and not set("<>&") & set(path.read_text("ascii"))


def test_names_of_the_filters_that_are_shown_are_written(made: pathlib.Path) -> None:
    text = (made / "assets" / "names.js").read_text("ascii")
    names = read(made / "assets" / "names.js")
    assert names["features.7"] == {} and names["conv1"] == {"3": "wheel <b>&</b>"} and not set("<>&") & set(text)


def test_nothing_is_asked_of_the_network(made: pathlib.Path) -> None:
    for path in [*made.glob("*.html"), *(made / "assets").iterdir()]:
        for address in re.findall(r"(?:https?:)?//[a-z][^\s\"'`)]*", path.read_text("utf-8")):
            assert address == "http://www.w3.org/2000/svg", (path, address)  # a name, not an address


def test_data_files_are_of_bounded_size(made: pathlib.Path) -> None:
    assert max(path.stat().st_size for path in made.rglob("*.js")) < 300_000
    sheets = [Image.open(path).size for path in (made / "layers").rglob("*.webp") if path.name != "strip.webp"]
    assert sheets and max(max(size) for size in sheets) <= LIMIT


def test_every_asset_is_written_and_short(made: pathlib.Path) -> None:
    ours = {path.name for path in TEMPLATES.iterdir() if path.suffix in (".js", ".css")}
    assert set(ASSETS) <= ours
    assert {path.name for path in (made / "assets").iterdir()} == {*ASSETS, "site.js", "classes.js", "names.js"}
    for name in ASSETS:
        assert (TEMPLATES / name).read_text("utf-8").count("\n") < 300
    linked = set(re.findall(r'assets/([\w.]+)"', "".join((made / page).read_text("utf-8") for page in PAGES)))
    assert linked == {path.name for path in (made / "assets").iterdir()}


@pytest.mark.slow
def test_the_report(tmp_path: pathlib.Path, results: tuple[list[pathlib.Path], pathlib.Path]) -> None:
    found = build(tmp_path, *results)
    assert found.index == tmp_path / "index.html" and found.filters == 8 + 5 + 70
    assert found.pages == 2 + 3 + 83 + IMAGES
    assert found.bytes == sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    told = repr(Site(index=pathlib.Path("a/index.html"), pages=12, filters=10, bytes=5_000_000, seconds=2.0))
    assert told == "Site(a/index.html: 10 filters, 12 pages, 5.0 MB in 2.0 s; 500.0 kB and 200.0 ms a filter)"


def test_wrong_input_is_told(tmp_path: pathlib.Path, results: tuple[list[pathlib.Path], pathlib.Path]) -> None:
    paths, decided = results
    with pytest.raises(DataError, match="no gallery file"):
        build(tmp_path, [], None)
    with pytest.raises(DataError, match="several gallery files are of layer 'conv1'"):
        build(tmp_path, [paths[0], paths[0]], None)
    with pytest.raises(DataError, match="expected a gallery file"):
        build(tmp_path, [decided], None)
    with pytest.raises(DataError, match="expected a decisions file"):
        build(tmp_path, paths, paths[0])
    with pytest.raises(DataError, match="images up to 39, and the store has 20 names"):
        build(tmp_path, paths, None, names=galleries.names()[:20])
    short = galleries.gallery()
    del short.arrays["neighbours"]
    short.save(tmp_path / "short.h5")
    with pytest.raises(DataError, match="has no neighbours"):
        build(tmp_path, [tmp_path / "short.h5"], None)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot make the folder"):
        build(tmp_path / "file", paths, None)
    assert {path.name for path in tmp_path.iterdir()} == {"short.h5", "file"}


@pytest.mark.slow
def test_layers_stand_in_the_order_of_depth(
    tmp_path: pathlib.Path, results: tuple[list[pathlib.Path], pathlib.Path]
) -> None:
    build(tmp_path, results[0][::-1], None)
    told = read(tmp_path / "assets" / "site.js")
    assert [layer["name"] for layer in told["layers"]] == list(LAYERS)
    assert told["layers"][0]["dead"] == 1 and told["layers"][0]["duplicates"] == 2 and told["decisions"] is None
    counts = dict(map(tuple, told["layers"][2]["classes"]))
    arrays = Result.load(results[0][2], "gallery", 1).arrays
    for label in range(len(galleries.CLASSES)):
        assert counts.get(label, 0) == int(((galleries.telling(arrays) == label) & (arrays["dead"] == 0)).sum())


def index_of(folder: pathlib.Path, states: list[dict[str, Any]]) -> str:
    """The words of the index of an atlas whose galleries have these states."""
    paths = []
    for depth, state in enumerate(states):
        gallery = galleries.gallery(f"layer{depth}", depth, filters=3)
        gallery.state.update({"rule": "deconvnet", "why": ""} | state)
        paths.append(folder / f"{depth}.h5")
        gallery.save(paths[-1])
    build(folder / "site", paths, None)
    return " ".join(re.sub("<[^>]*>", " ", (folder / "site" / "index.html").read_text("utf-8")).split())


def test_dead_filters_are_those_of_the_whole_layer(tmp_path: pathlib.Path) -> None:
    some = {"rectified": True, "channels": 32, "dead": 4}
    linear = {"rectified": False, "channels": 40, "dead": 9}
    text = index_of(tmp_path, [some])
    assert "4 of 32 filters are dead, positive in no image (none among the 3 shown)." in text
    assert "Dead filters 4 of 32 (none among the 3 shown)" in text
    text = index_of(tmp_path, [some, linear])
    assert "4 of 32 filters of the layers that end with a rectifier are dead" in text and "of 40" not in text
    assert text.count("Dead filters") == 1
    assert "shown)" not in index_of(tmp_path, [{**some, "dead": 0}])  # of none that are dead none is shown
    assert "dead" not in index_of(tmp_path, [linear]).lower()
    assert "No filter is dead: each is positive in some image." in index_of(tmp_path, [{}])  # as of version 0.1.0


def test_the_help_teaches_what_the_network_has(tmp_path: pathlib.Path) -> None:
    assert "unpools" in index_of(tmp_path, [{"pooled": True}])
    text = index_of(tmp_path, [{"pooled": False}])
    assert "unpools" not in text and "has no max pooling" in text


def test_a_class_of_one_image_tells_nothing(tmp_path: pathlib.Path) -> None:
    gallery = galleries.gallery(filters=3, k=4)
    gallery.arrays["images"][:] = [[0, 1, 2, 3], [4, 5, 6, 7], [8, -1, -1, -1]]
    gallery.arrays["top_class"][:], gallery.arrays["top_class_share"][:] = [1, 2, 3], [0.5, 0.25, 1]
    gallery.save(tmp_path / "g.h5")
    file = GalleryFile(tmp_path / "g.h5")
    assert file.same_class.tolist() == [2, 1, 1] and file.telling_class.tolist() == [1, -1, 3]


def test_a_large_store_is_listed_in_pieces(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "LISTED", 10)
    used = np.arange(0, 9000, 300)
    store = galleries.images(names=[f"n{i}" for i in range(9000)], labels=np.zeros(9000, np.int64), classes=["a"])
    told = images.write_lists(tmp_path, used, store, [], None)
    assert told["starts"] == [0, 3000, 6000] and told["used"] == 30
    assert told["span"] == 64 * 300  # about 64 used images in a file
    assert len(read(tmp_path / "list-002.js")) == 10


@pytest.mark.slow
def test_names_of_filters_stand_in_the_sentence(
    tmp_path: pathlib.Path, results: tuple[list[pathlib.Path], pathlib.Path]
) -> None:
    decisions = DecisionsFile(results[1])
    channel = int(decisions.because["channels"][0, 0, 0])
    for names, words in (
        ({}, f"because of channels {channel}, "),
        ({LAYERS[2]: {channel: "<b>wheel"}}, f'because of channels {channel} ("<b>wheel"), '),
    ):
        assert write_decisions(tmp_path, decisions, names) and not write_decisions(tmp_path, decisions, names)
        assert words in read(tmp_path / "0000000.js")["because"]["sentences"][0]


def test_a_decisions_folder_is_made_once(
    tmp_path: pathlib.Path, results: tuple[list[pathlib.Path], pathlib.Path]
) -> None:
    found = DecisionsFile(results[1])
    assert [write_decisions(tmp_path / "d", found), write_decisions(tmp_path / "d", found)] == [True, False]
    (tmp_path / "d" / "stamp.json").unlink()
    (tmp_path / "d" / "0000777.webp").write_bytes(b"of an image that is not explained any more")
    assert write_decisions(tmp_path / "d", found)
    assert not (tmp_path / "d" / "0000777.webp").exists()
