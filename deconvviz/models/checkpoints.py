"""Files of weights: told what they are, and read without unpickling any object that could run code."""

from __future__ import annotations

import argparse
import collections
import datetime
import pathlib
import pickle
import types
import zipfile
from typing import Any

import numpy as np
import torch

from deconvviz.errors import ModelError, missing_library
from deconvviz.types import Pathlike

# Plain values that trainings keep beside the weights; none of them runs code when it is read
HARMLESS: list[Any] = [
    argparse.Namespace,
    *(list, dict, set, tuple, int, float, str, bool),  # what a defaultdict makes
    collections.defaultdict,
    datetime.date,
    datetime.datetime,
    datetime.timedelta,
    datetime.timezone,
    types.SimpleNamespace,
    pathlib.PosixPath,
    np.dtype,
    np.ndarray,
    np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    np._core.multiarray.scalar,  # type: ignore[attr-defined]
    *{type(np.dtype(code)) for code in "?bBhHiIlLqQefdFDUSO"},
]
ADVICE = "save one with torch.save(model.state_dict(), path)"


def read_file(path: Pathlike) -> Any:
    """Read tensors and plain values from a file that `torch.save` or safetensors wrote.

    Raises:
        ModelError: the file does not exist, cannot be read, or holds other Python objects, which are never unpickled;
            the message says what the file is.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ModelError(f"no weights file {path}; give the path of a state dict, DEFAULT or none")
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}); give another file") from error
    if _is_safetensors(head):
        return _read_safetensors(path)
    kind = _kind(path, head)
    if kind:
        raise ModelError(f"{path} is {kind}, no state dict; {ADVICE}")
    try:
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, TypeError,
        AttributeError, UnicodeDecodeError,
    ) as error:  # fmt: skip
        raise ModelError(f"{path} is no plain state dict: {_reason(error, head)}; {ADVICE}") from error


def _reason(error: Exception, head: bytes) -> str:
    text = str(error)
    _, found, rest = text.partition("GLOBAL ")
    pickled = head.startswith(b"\x80") and "Unsupported operand" in text  # a pickle that torch did not write
    if not found and not pickled and "Unsupported class" not in text and "Unsupported global" not in text:
        return "it cannot be read"
    name = f" ({rest.split()[0]})" if found and rest.split() else ""
    return f"it holds Python objects{name}, and only tensors are loaded"


def _is_safetensors(head: bytes) -> bool:
    """Whether a file begins with the length of a header and a JSON object, as safetensors does."""
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100 * 2**20


def _read_safetensors(path: pathlib.Path) -> Any:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise ModelError(f"{path} is a safetensors file, and {missing_library('safetensors')}") from None
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{path} is a damaged safetensors file ({str(error).splitlines()[0]}); fetch it again"
        ) from None


def _kind(path: pathlib.Path, head: bytes) -> str:
    """Return in words what a file is that no state dict is in; "" where it may be one."""
    if not head:
        return "an empty file"
    if head.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, whose content was not fetched (git lfs pull fetches it)"
    if head.startswith(b"\x89HDF"):
        return "an HDF5 file"
    if head.startswith(b"\x1f\x8b"):
        return "a gzip archive (unpack it first)"
    if head.startswith(b"PK"):
        return _kind_of_zip(path)
    if head[257:262] == b"ustar":
        return "a tar archive (unpack it first)"
    if head.lstrip()[:1] == b"<":
        return "a web page, as a failed download leaves it"
    if head.startswith((b"\x89PNG", b"\xff\xd8\xff")):
        return "an image"
    return f"a text file that begins with {_first_words(head)!r}" if _is_text(head) else ""


def _kind_of_zip(path: pathlib.Path) -> str:
    try:
        names = zipfile.ZipFile(path).namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return "a damaged archive, perhaps cut off"
    if any("/code/" in f"/{name}" for name in names) or any(name.endswith("constants.pkl") for name in names):
        return "a TorchScript program (take torch.jit.load(path).state_dict() out of it)"
    if any("exported_program" in name or name.endswith("models/model.json") for name in names):
        return "an exported program of torch.export"
    if names and all(name.endswith(".npy") for name in names):
        return "an archive of NumPy arrays"
    if "config.json" in names and any(name.endswith(".weights.h5") for name in names):
        return "a Keras model"
    return "" if any(name.endswith("data.pkl") for name in names) else "a zip archive (unpack it first)"


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # else the last character was cut
            return False
        text = head[: error.start].decode("utf-8")
    return all(character.isprintable() or character in "\r\n\t\f" for character in text)


def _first_words(head: bytes) -> str:
    return head.decode("utf-8", "replace").strip().splitlines()[0][:40] if head.strip() else " "
