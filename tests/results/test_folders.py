"""A folder of results is taken once, and one with other files is left alone."""

from __future__ import annotations

import pathlib

import pytest

from deconvviz.errors import DataError, MismatchError
from deconvviz.results.files import atomic
from deconvviz.results.folders import begin_or_resume, claim
from deconvviz.results.results import Result


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


def test_a_job_begins_or_resumes_by_its_file(tmp_path: pathlib.Path) -> None:
    """Other files in the folder stay; the state that was saved comes back; other settings are refused."""
    (tmp_path / "notes.txt").write_text("precious")
    fresh = Result("ablation", 1, {"lr": 0.1})
    begun = begin_or_resume(tmp_path, "a.h5", fresh, "give another folder")
    assert begun is fresh and Result.load(tmp_path / "a.h5", "ablation", 1).config == {"lr": 0.1}
    begun.state["epochs"] = 3
    begun.save(tmp_path / "a.h5")
    assert begin_or_resume(tmp_path, "a.h5", Result("ablation", 1, {"lr": 0.1}), "").state == {"epochs": 3}
    with pytest.raises(MismatchError, match=r"lr: 0.1 in the file, 0.2 now\); give another folder"):
        begin_or_resume(tmp_path, "a.h5", Result("ablation", 1, {"lr": 0.2}), "give another folder")
    with pytest.raises(DataError, match=r"cannot make .*notes\.txt: "):
        begin_or_resume(tmp_path / "notes.txt", "a.h5", fresh, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "notes.txt"]


@pytest.mark.skipif(not pathlib.Path("/proc/self/fd").is_dir(), reason="counts open files as Linux lists them")
def test_writing_leaves_no_file_open(tmp_path: pathlib.Path) -> None:
    """A job that commits every few seconds must not run out of file descriptors."""

    def opened() -> int:
        return len(list(pathlib.Path("/proc/self/fd").iterdir()))

    before = opened()
    for _ in range(20):
        with atomic(tmp_path / "result.txt") as temporary:
            temporary.write_text("x")
    assert opened() == before
