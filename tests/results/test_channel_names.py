"""Names of filters from tables, and tables that are refused."""

from __future__ import annotations

import pathlib

import pytest

from deconvviz.errors import DataError
from deconvviz.results.names import read_names


def test_rows_that_name_nothing_are_left_out(tmp_path: pathlib.Path) -> None:
    rows = ["layer,channel,name,kind,named", "a,1,wheel,part,1", "a,1,blue,colour,0", "a,1,bus,class,1", "b,0,é,part,1"]
    (tmp_path / "n.csv").write_text("\n".join(rows), "utf-8-sig")
    assert read_names(tmp_path / "n.csv") == {"a": {1: "wheel, bus"}, "b": {0: "é"}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"layer,channel\na,1\n", "no column 'name'"),
        (b"layer,channel,name\na,x,wheel\n", "line 2: expected a layer"),
        (b"layer,channel,name\na\n", "line 2: expected a layer"),
        (b"\xff\xfe\x00", "cannot read"),
    ],
)
def test_what_is_refused(text: bytes, said: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "n.csv").write_bytes(text)
    with pytest.raises(DataError, match=said):
        read_names(tmp_path / "n.csv")
    with pytest.raises(DataError, match="cannot read"):
        read_names(tmp_path / "absent.csv")


def test_names_of_other_layers_than_those_that_are_shown(tmp_path: pathlib.Path) -> None:
    (tmp_path / "n.csv").write_text("layer,channel,name\na,1,wheel\nb,0,eye\n")
    assert read_names(tmp_path / "n.csv", ["a", "c"])["a"] == {1: "wheel"}
    with pytest.raises(DataError, match="names filters of a, b; expected a table of c"):
        read_names(tmp_path / "n.csv", ["c"])
