"""What a factory and the sequences may be, and how the rest is refused: in one line that says what to do."""

from __future__ import annotations

import pathlib
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from bracket_lstm import bracket_lstm
from torch import nn

import deconvviz as dv
from deconvviz.data.vector_files import read_vectors
from deconvviz.errors import DataError, ModelError
from deconvviz.studies.recurrent.model import as_recurrent
from deconvviz.studies.recurrent.properties import bracket_depth, named_property, position, properties_of
from deconvviz.studies.recurrent.record import check_fit


class Reader(nn.Module):
    """A module whose parts have to be found."""

    def __init__(self, **more: nn.Module) -> None:
        super().__init__()
        self.embed, self.body, self.read = nn.Embedding(3, 4), nn.LSTM(4, 5), nn.Linear(5, 3)
        for name, part in more.items():
            setattr(self, name, part)
        self.vocabulary, self.tokens = ["a", "b", "c"], "words"


def test_the_parts_of_a_module_are_found() -> None:
    found = as_recurrent(Reader())
    assert (found.kind, found.units, found.width, found.token_count) == ("LSTM", 5, 4, 3)
    assert found.vocabulary == ("a", "b", "c") and found.tokens == "words" and found.name == "Reader"
    assert as_recurrent(nn.GRU(2, 3), "mine").name == "mine" and as_recurrent(nn.GRU(2, 3)).head is None
    ids = torch.tensor([[0, 2]])
    assert torch.equal(as_recurrent(nn.GRU(3, 3)).inputs(ids), torch.eye(3)[ids])


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda: nn.Conv2d(3, 4, 3), "Conv2d has no recurrent module; expected an LSTM"),
        (lambda: "lstm", "the factory returned str; expected a dv.RecurrentModel"),
        (
            lambda: Reader(second=nn.GRU(4, 5)),
            "2 parts that may be an LSTM, .*: body and second",
        ),
        (lambda: Reader(also=nn.Linear(5, 9)), "2 parts that may be a Linear that reads the states: read and also"),
        (lambda: nn.LSTM(3, 4, proj_size=2), "proj_size=2 given"),
        (lambda: dv.RecurrentModel(recurrent=nn.Linear(2, 2)), "Linear given as the recurrent module"),
        (lambda: dv.RecurrentModel(recurrent=nn.RNN(2, 2), vocabulary=("a", "a")), "names a token twice"),
        (lambda: dv.RecurrentModel(recurrent=nn.RNN(2, 2), vocabulary=("a", "b", "c")), "3 tokens given"),
        (lambda: dv.RecurrentModel(recurrent=nn.RNN(2, 2), vocabulary=("a",), unknown="?"), "not in the vocabulary"),
        (lambda: dv.RecurrentModel(recurrent=nn.RNN(2, 2), tokens="letters"), "expected characters or words"),
    ],
)
def test_other_factories_are_refused(returned: Any, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        as_recurrent(returned())


def test_factories_by_name(tmp_path: pathlib.Path) -> None:
    (tmp_path / "f.py").write_text(
        "from torch import nn\ndef make():\n    return nn.GRU(2, 3)\ndef bad():\n    1 / 0\n"
    )
    assert dv.load_recurrent(f"{tmp_path}/f.py:make").kind == "GRU"
    for name, words in (("maker", "nearest: make"), ("bad", "ZeroDivisionError"), ("make.py", "expected path")):
        spec = f"{tmp_path}/f.py:{name}" if name != "make.py" else "torchvision:resnet18"
        with pytest.raises(ModelError, match=words):
            dv.load_recurrent(spec)


def test_texts_become_tokens() -> None:
    lines = dv.text_sequences("ab\n\nb", "ab")
    assert lines.ids.tolist() == [0, 1, 1] and lines.lengths.tolist() == [2, 1] and lines.vocabulary == ("a", "b")
    whole = dv.text_sequences("ab\n\nb", "ab\n", split="file")
    assert whole.ids.tolist() == [0, 1, 2, 2, 1] and whole.lengths.tolist() == [5]
    words = dv.text_sequences("the  cat\nsat", ("cat", "sat", "the"), tokens="words")
    assert words.ids.tolist() == [2, 0, 1] and words.text(0, 2) == "the cat"
    ends = dv.text_sequences("the cat\nsat", ("\n", "?"), tokens="words", split="file", unknown="?")
    assert ends.ids.tolist() == [1, 1, 0, 1]
    assert dv.text_sequences("cab", count=3).vocabulary == ("a", "b", "c")
    assert (whole.sequence_of.tolist(), lines.places.tolist()) == ([0] * 5, [0, 1, 0])


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("", {}, "empty; expected at least one token"),
        ("\n \n", {"tokens": "words"}, "empty"),
        ("ab\naxb", {"vocabulary": "ab"}, r"the token 'x' \(sequence 1\), which is not in the vocabulary"),
        ("abc", {"count": 5}, "3 different tokens and the network takes 5"),
        ("abc", {"split": "pages"}, "expected lines or file"),
    ],
)
def test_other_texts_are_refused(tmp_path: pathlib.Path, text: str, options: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        dv.text_sequences(text, **options)
    (tmp_path / "t.txt").write_text(text)
    with pytest.raises(DataError, match=words):
        dv.read_sequences(tmp_path / "t.txt", **options)


def test_unreadable_files_are_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "latin.txt").write_bytes("für".encode("latin-1"))
    (tmp_path / "half.npy").write_bytes(b"\x93NUMPY")
    for name, words in (("latin.txt", "no text in UTF-8"), ("none.txt", "cannot read"), ("half.npy", "cannot read")):
        with pytest.raises(DataError, match=words):
            dv.read_sequences(tmp_path / name)
    with pytest.raises(DataError, match="does not exist"):
        read_vectors(tmp_path / "none.npy")


def test_vectors_are_read(tmp_path: pathlib.Path) -> None:
    np.save(tmp_path / "one.npy", np.ones((4, 3)))
    np.save(tmp_path / "many.npy", np.ones((2, 4, 3)))
    with h5py.File(tmp_path / "some.h5", "w") as file:
        file["b"], file["a"] = np.zeros((5, 3)), np.ones((2, 3))
    names = ("one.npy", "many.npy", "some.h5")
    assert [len(dv.read_sequences(tmp_path / name).lengths) for name in names] == [1, 2, 2]
    found = dv.read_sequences(tmp_path / "some.h5")
    assert found.lengths.tolist() == [2, 5] and found.vectors is not None and found.vectors[0, 0] == 1
    assert position(found).tolist() == [0, 1, 0, 1, 2, 3, 4] and found.text(2, 5) == "0 1 2"


def test_ragged_vectors_are_refused(tmp_path: pathlib.Path) -> None:
    ragged = np.empty(2, object)
    ragged[:] = [np.ones((2, 3)), np.ones((4, 3))]
    np.save(tmp_path / "ragged.npy", ragged)
    np.savez(tmp_path / "widths.npz", a=np.ones((2, 3)), b=np.ones((2, 4)))
    np.save(tmp_path / "flat.npy", np.ones(5))
    np.save(tmp_path / "nan.npy", np.full((2, 2), np.nan))
    np.save(tmp_path / "empty.npy", np.ones((0, 3)))
    for name, words in (
        ("ragged.npy", "its sequences are ragged"),
        ("widths.npz", r"ragged vectors, of \[3, 4\] numbers"),
        ("flat.npy", r"is float64 \[5\]; expected \[steps, D\]"),
        ("nan.npy", "NaN or infinite"),
        ("empty.npy", r"\[0, 3\]; expected"),
    ):
        with pytest.raises(DataError, match=words):
            read_vectors(tmp_path / name)


def test_sequences_that_do_not_fit_the_network_are_refused(tmp_path: pathlib.Path) -> None:
    np.save(tmp_path / "v.npy", np.ones((4, 3)))
    with pytest.raises(DataError, match="vectors of 3 numbers given; the network takes 5"):
        check_fit(bracket_lstm(), dv.read_sequences(tmp_path / "v.npy"))
    with pytest.raises(DataError, match="6 tokens given; the network takes 5"):
        check_fit(bracket_lstm(), dv.text_sequences("abcdef"))


def test_views_of_vectors(tmp_path: pathlib.Path) -> None:
    """They have no tokens, and everything else; a planted unit tracks the user's column."""
    torch.manual_seed(0)
    lstm = nn.LSTM(2, 4)
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 40, 2)).astype(np.float32)
    np.save(tmp_path / "v.npy", values)
    sequences = dv.read_sequences(tmp_path / "v.npy")
    model = dv.RecurrentModel(recurrent=lstm, head=nn.Linear(4, 2))
    plain = dv.recurrent(model, sequences, permutations=20, progress=False)
    assert plain["0"].mean.shape == (0, 4) and set(plain["0"].tracked) == {"position"} and len(plain.relevance) == 3
    column = plain["0"].activity[:, 2] * 2 + 1
    (tmp_path / "p.csv").write_text("mine\n" + "\n".join(map(str, column.tolist())))
    named = f"{tmp_path}/p.csv:mine"
    found = dv.recurrent(model, sequences, properties=[named], permutations=99, progress=False)["0"]
    assert found.best == ("mine", 2) and found.tracked["mine"].p[2] == 0.01
    assert dv.draw_recurrent(plain).axes and dv.draw_cell(plain, "0", 1).axes


def test_properties_by_hand(tmp_path: pathlib.Path) -> None:
    words = dv.text_sequences('say "(two words)" [now]', tokens="words")
    assert bracket_depth(words).tolist() == [0, 1, 0, 0]
    assert named_property("quotes", words)[1].tolist() == [0, 1, 0, 0]
    assert set(properties_of((), dv.text_sequences("aaa"))) == {"position"}  # the others do not vary
    assert bracket_depth(dv.text_sequences("((\n)a")).tolist() == [1, 2, 0, 0]  # each sequence begins anew
    (tmp_path / "p.csv").write_text("a,b\n1,x\n2,3\n")
    (tmp_path / "r.csv").write_text("a,position\n1,4\n2,3\n")
    two = dv.text_sequences("ab")
    assert [*properties_of([f"{tmp_path}/p.csv:a", "position"], two)] == ["a", "position"]
    for named in ([f"{tmp_path}/p.csv:a", f"{tmp_path}/r.csv:a"], ["position", f"{tmp_path}/r.csv:position"]):
        with pytest.raises(DataError, match="two properties are called"):
            properties_of(named, two)
    assert named_property(f"{tmp_path}/p.csv:a", two)[1].tolist() == [1, 2]
    for text, words_ in (
        ("p.csv:c", "no column 'c'; nearest: a, b"),
        ("p.csv:b", "not a number"),
        ("q.csv:a", "cannot read"),
        ("depths", "expected one of position, quotes, depth"),
    ):
        with pytest.raises(DataError, match=words_):
            named_property(text if text == "depths" else f"{tmp_path}/{text}", two)
    with pytest.raises(DataError, match="2 rows; expected one for each of the 3 steps"):
        named_property(f"{tmp_path}/p.csv:a", dv.text_sequences("abc"))
    with pytest.raises(DataError, match="property quotes is the same at every step"):
        dv.recurrent(bracket_lstm(), dv.text_sequences("aab", bracket_lstm().vocabulary), properties=["quotes"])
