"""Data for pages as scripts: a page opened from a disk may load a script, and may not fetch JSON."""

from __future__ import annotations

import json
import pathlib
import re
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconvviz.results.files import atomic

# In a script of its own none of these can end anything; they are escaped so that the text is harmless wherever it goes.
_UNSAFE = {ord(letter): f"\\u{ord(letter):04x}" for letter in "<>&"}


def write_script(path: pathlib.Path, key: str, value: Any) -> None:
    """Write `atlas.put(key, value)` atomically; value: what JSON can say, and NaN and infinite numbers.

    Raises DataError where the file cannot be written.
    """
    text = f"atlas.put({literal(key)},{literal(value)});\n"
    with atomic(path) as temporary:
        temporary.write_text(text, "ascii")


def literal(value: Any) -> str:
    """Return a value as a JavaScript literal in ASCII, without <, > and &."""
    # Only texts hold these three letters, so they can be escaped after the fact.
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).translate(_UNSAFE)


def exact(array: NDArray[Any]) -> Any:
    """Return an array as nested lists whose numbers, read back in the array's own type, are the array's.

    A float32 becomes the shortest decimal that stands for it: 0.1, not 0.10000000149011612.
    """
    if array.dtype == np.float32:
        return array.astype(str).astype(np.float64).tolist()
    return array.tolist()


def folder_name(depth: int, layer: str) -> str:
    """Return a folder name of letters, digits and . _ @ - only, different for different layers."""
    safe = re.sub(r"[^A-Za-z0-9._@-]", "_", layer)[:60]
    mark = "" if safe == layer else "-" + sha256(layer.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{depth:02d}-{safe}{mark}"
