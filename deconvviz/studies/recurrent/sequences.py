"""Sequences: texts as numbers of tokens, or vectors, one after the other."""

from __future__ import annotations

import hashlib
import pathlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from deconvviz.data.vector_files import is_vector_file, read_vectors
from deconvviz.errors import DataError, nearest, require_choice
from deconvviz.results.files import one_line
from deconvviz.studies.recurrent.naming import SPLITS
from deconvviz.types import Ints, Pathlike
from deconvviz.words import counted


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """Some sequences with N steps in all.

    Attributes:
        ids: int64 [N], the number of each token; -1 where the steps are vectors.
        lengths: int64 [sequences], steps of each.
        vocabulary: the tokens in the order of their numbers; empty where the steps are vectors.
        words: whether tokens are words, between which a text has spaces.
        vectors: float32 [N, D]; None where the steps are tokens.

    >>> sequences = text_sequences("(a)\\n()", "()a")
    >>> sequences.ids.tolist(), sequences.lengths.tolist(), sequences.text(3, 5)
    ([0, 2, 1, 0, 1], [3, 2], '()')
    """

    ids: Ints
    lengths: Ints
    vocabulary: tuple[str, ...] = ()
    words: bool = False
    vectors: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def starts(self) -> Ints:
        """int64 [sequences + 1], the first step of each sequence, and N."""
        return np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int64)

    @cached_property
    def sequence_of(self) -> Ints:
        """int64 [N], the sequence of each step."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @cached_property
    def places(self) -> Ints:
        """int64 [N], how many steps of its sequence come before each step."""
        return np.arange(len(self)) - self.starts[self.sequence_of]

    @property
    def fingerprint(self) -> str:
        """A digest of all steps and of where sequences begin."""
        digest = hashlib.sha256(repr((self.vocabulary, self.words, self.lengths.tolist())).encode())
        digest.update((self.ids if self.vectors is None else self.vectors).tobytes())
        return digest.hexdigest()[:16]

    def token(self, step: int) -> str:
        """Return the token of a step; of a vector its place in the sequence, from 0."""
        return self.vocabulary[self.ids[step]] if self.vocabulary else str(self.places[step])

    def text(self, start: int, stop: int) -> str:
        """Return the tokens of the steps from start to stop - 1 as text."""
        return (" " if self.words or not self.vocabulary else "").join(map(self.token, range(start, stop)))


def read_sequences(
    path: Pathlike,
    vocabulary: Sequence[str] = (),
    *,
    tokens: str = "characters",
    split: str = "lines",
    unknown: str | None = None,
    count: int | None = None,
) -> Sequences:
    """Read sequences from a text, or from a file of vectors.

    Args:
        path: of a text in UTF-8, or of a .npy, .npz or HDF5 file as `data.vector_files.read_vectors` takes it.
        vocabulary: the tokens in the order of their numbers; see `text_sequences`.
        tokens: "characters" or "words".
        split: "lines" or "file".
        unknown: the token that stands for those which are not in the vocabulary.
        count: how many tokens the network has, which a vocabulary that is made of the text must have too.

    Raises:
        DataError: the file cannot be read, is empty, or has a token that is not in the vocabulary.
    """
    if is_vector_file(path):
        vectors = read_vectors(path)
        together = np.concatenate(vectors)
        lengths = np.array([len(each) for each in vectors], np.int64)
        return Sequences(ids=np.full(len(together), -1, np.int64), lengths=lengths, vectors=together)
    try:
        text = pathlib.Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read {path}: {one_line(error)}; give a text or a file of vectors") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8 ({one_line(error)}); convert it first") from error
    text = text.replace("\r\n", "\n")
    return text_sequences(text, vocabulary, tokens=tokens, split=split, unknown=unknown, count=count, name=str(path))


def text_sequences(
    text: str,
    vocabulary: Sequence[str] = (),
    *,
    tokens: str = "characters",
    split: str = "lines",
    unknown: str | None = None,
    count: int | None = None,
    name: str = "the text",
) -> Sequences:
    """Cut a text into tokens, and number them.

    Args:
        text: what is cut.
        vocabulary: the tokens in the order of their numbers. Empty: the tokens of the text in their order as text.
        tokens: "characters"; or "words", whatever spaces separate, and line ends where the vocabulary has them.
        split: "lines" makes a sequence of each line that has a token, without its end; "file" one of the whole text.
        unknown: the token that stands for those which are not in the vocabulary; None refuses them.
        count: how many tokens a vocabulary must have that is made of the text; None takes any number.
        name: what the text is called in messages.

    Raises:
        DataError: there is no token, one is unknown, or the text has another number of tokens than `count`.
    """
    require_choice("split", split, SPLITS)
    pieces = text.split("\n") if split == "lines" else [text]
    ends = "\n" in vocabulary
    cut = [list(piece) if tokens == "characters" else _words(piece, ends) for piece in pieces]
    cut = [piece for piece in cut if piece]
    if not cut:
        raise DataError(f"{name} is empty; expected at least one token")
    known = tuple(vocabulary) or tuple(sorted({token for piece in cut for token in piece}))
    if not vocabulary and count is not None and len(known) != count:
        raise DataError(
            f"{name} has {counted(len(known), 'different token')} and the network takes {count}: their numbers cannot "
            "be told from the text; give the vocabulary that it was trained with (dv.RecurrentModel(vocabulary=...))"
        )
    numbers = {token: number for number, token in enumerate(known)}
    stands_in = None if unknown is None else numbers[unknown]
    ids = [[numbers.get(token, stands_in) for token in piece] for piece in cut]
    for line, piece in enumerate(ids):
        if None in piece:
            token = cut[line][piece.index(None)]
            raise DataError(
                f"{name} has the token {token!r} (sequence {line}), which is not in the vocabulary; "
                f"{nearest(token, known)}; change the text, or name a token for unknown ones in the factory"
            )
    return Sequences(
        ids=np.array([number for piece in ids for number in piece], np.int64),
        lengths=np.array([len(piece) for piece in cut], np.int64),
        vocabulary=known,
        words=tokens == "words",
    )


def _words(text: str, ends: bool) -> list[str]:
    """Return the words of a text, and its line ends where they are tokens."""
    return re.findall(r"[^\s]+|\n" if ends else r"[^\s]+", text)
