"""A folder of results is taken once, and one with other files is left alone."""

from __future__ import annotations

import pathlib

import pytest

from deconvviz.errors import DataError, MismatchError
from deconvviz.results.folders import claim


def test_a_folder_is_taken_once(tmp_path: pathlib.Path) -> None:
    claim(tmp_path / "a" / "b", "atlas", {"k": 9})
    assert [path.name for path in (tmp_path / "a" / "b" / "data").iterdir()] == ["atlas.h5"]
    claim(tmp_path / "a" / "b", "atlas", {"k": 9})
    with pytest.raises(MismatchError, match=r"k: 9 in the file, 5 now\); remove it or choose another"):
        claim(tmp_path / "a" / "b", "atlas", {"k": 5})
    (tmp_path / "half" / "data").mkdir(parents=True)
    (tmp_path / "half" / "data" / ".atlas.h5.0123.part").touch()
    claim(tmp_path / "half", "atlas", {"k": 9})  # killed before it had begun
    (tmp_path / "half" / "pages").mkdir()
    (tmp_path / "half" / "pages" / ".index.html.89ab.part").touch()
    claim(tmp_path / "half", "atlas", {"k": 9})
    assert [path.name for path in (tmp_path / "half" / "data").iterdir()] == ["atlas.h5"]
    assert not list((tmp_path / "half" / "pages").iterdir())


def test_a_folder_with_other_files_is_left_alone(tmp_path: pathlib.Path) -> None:
    for name in ("mine/thesis.tex", "data-only/data/measured.csv", "file-there/data", "plain"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("precious")
    before = sorted(tmp_path.rglob("*"))
    for name in ("mine", "data-only", "file-there", "plain"):
        with pytest.raises(DataError, match="give another folder"):
            claim(tmp_path / name, "atlas", {})
    with pytest.raises(DataError, match="cannot make"):
        claim(tmp_path / "plain" / "below", "atlas", {})
    assert sorted(tmp_path.rglob("*")) == before
