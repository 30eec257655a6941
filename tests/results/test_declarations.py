"""What is declared about files is what files hold, and what docs/files.md says."""

from __future__ import annotations

import importlib.util
import pathlib
import zipfile
from typing import Any

import h5py
import pytest

from deconvviz.data.store_file import SCHEMA as STORE_SCHEMA
from deconvviz.results import features, snapshots, tiles
from deconvviz.results.declarations import FILES
from deconvviz.results.schemas import misfit_of_layout
from deconvviz.studies.ablation import ablate
from deconvviz.studies.atlas.result import DECISIONS_SCHEMA
from deconvviz.studies.dissection import result as dissection
from deconvviz.studies.evaluation import result as evaluation
from deconvviz.studies.lesions import result as lesions
from deconvviz.studies.mining import result as mining
from deconvviz.studies.visualisation import result as visualised

ROOT = pathlib.Path(__file__).resolve().parents[2]
FROZEN = ROOT / "tests" / "frozen" / "0.1.0.zip"


def test_the_page_is_up_to_date(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("files_page", ROOT / "tools" / "docs" / "files.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr("sys.argv", ["files.py"])
    assert module.main() == 0, capsys.readouterr().out


def test_versions_are_those_of_the_writers() -> None:
    written = {
        module.KIND: module.SCHEMA
        for module in (mining, dissection, evaluation, lesions, features, snapshots, tiles, ablate, visualised)
    }
    written |= {visualised.INVERSION_KIND: visualised.INVERSION_SCHEMA}
    written |= {"decisions": DECISIONS_SCHEMA, "deconvviz-images": STORE_SCHEMA}
    assert written == {kind: FILES[kind].version for kind in written}


def test_everything_is_described() -> None:
    for kind, schema in FILES.items():
        assert schema.what.endswith(".") and schema.settings, kind
        for array in schema.arrays:
            assert array.dtype and array.meaning.endswith("."), (kind, array.name)


def layout_of(file: h5py.File) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Return name -> (dtype, shape) of each array of a file."""
    layout: dict[str, tuple[Any, tuple[int, ...]]] = {}

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            layout[name] = item.dtype, item.shape

    file.visititems(note)
    return layout


def test_files_hold_what_is_declared(tmp_path: pathlib.Path) -> None:
    """Every array in the files that 0.1.0 wrote has the dtype that is declared, and the attributes are there."""
    with zipfile.ZipFile(FROZEN) as archive:
        archive.extractall(tmp_path)
    seen: dict[str, set[str]] = {}
    for path in sorted(tmp_path.rglob("*.h5")):
        with h5py.File(path) as file:
            kind, layout = str(file.attrs.get("deconvviz", file.attrs.get("format"))), layout_of(file)
            absent = set(FILES[kind].settings) - set(file.attrs) - {"dtype", "channels", "lists", "images_fingerprint"}
        assert not {name for name in absent if "." not in name}, path
        assert misfit_of_layout(kind, layout) == "", path
        for name, (dtype, _) in layout.items():
            array = next(array for array in FILES[kind].arrays if array.match(name))
            declared = array.dtype.split(" or ")
            written = "text" if dtype.kind == "O" else str(dtype)
            assert "any" in declared or written in declared, (path, name, written)
            seen.setdefault(kind, set()).add(array.name)
    assert len(seen["mined"]) >= 10 and len(seen["gallery"]) >= 15 and {"features", "lesions", "snapshots"} <= set(seen)
