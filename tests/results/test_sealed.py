"""The seal of a result file, read while a job goes on writing it."""

from __future__ import annotations

import hashlib
import pathlib

import numpy as np
import pytest

from deconvviz.errors import DataError
from deconvviz.results import sealed as module
from deconvviz.results.sealed import BLOCK, MAGIC, check_seal, sealed


def _write(path: pathlib.Path, value: int) -> None:
    with sealed(path) as file:
        file["values"] = np.full(1000, value)


def test_a_commit_during_the_check_is_no_damage(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told and what is hashed are of one file, though the next commit takes its place between the two."""
    path = tmp_path / "m.h5"
    _write(path, 1)
    digest, commits = module._digest, iter([2])

    def digest_after_a_commit(file: object) -> bytes:
        for value in commits:
            _write(path, value)
        return digest(file)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_digest", digest_after_a_commit)
    assert check_seal(path)
    assert check_seal(path), "the second state is checked for itself"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DataError, match="is damaged or was changed"):
        check_seal(path)


def test_the_seal_is_the_digest_of_what_follows(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.h5"
    _write(path, 1)
    raw = path.read_bytes()
    assert raw[: len(MAGIC)] == MAGIC
    assert raw[len(MAGIC) :][:32] == hashlib.blake2b(raw[BLOCK:], digest_size=32).digest()
