"""Data for pages, written as scripts: a page that is opened from a disk may load a script, but may not fetch JSON."""

from __future__ import annotations

import json
import pathlib
import re
from hashlib import sha256
from typing import Any

import numpy as np

from deconvviz.results.files import atomic
from deconvviz.types import Array

# In a file of its own none of these letters can end the script. They are escaped all the same, so that the text is
# harmless wherever it is copied to.
_ESCAPES = {ord(letter): f"\\u{ord(letter):04x}" for letter in "<>&"}


def write_script(path: pathlib.Path, key: str, value: Any) -> None:
    """Write the script `atlas.put(key, value);` atomically.

    Args:
        path: of the script.
        key: the name under which the pages find the value.
        value: what JSON can express; NaN and infinite numbers are allowed too.

    Raises:
        DataError: the file cannot be written.
    """
    text = f"atlas.put({literal(key)},{literal(value)});\n"
    with atomic(path) as temporary:
        temporary.write_text(text, "ascii")


def literal(value: Any) -> str:
    """Return a value as a JavaScript literal in ASCII, without the letters <, > and &.

    >>> print(literal(["<b>", 0.5, None]))
    ["\\u003cb\\u003e",0.5,null]
    """
    # Only strings can hold these three letters, so the whole text can be escaped at once.
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).translate(_ESCAPES)


def exact(array: Array) -> Any:
    """Return an array as nested lists of numbers that give the same array when they are read back in its own dtype.

    A float32 becomes the shortest decimal number that is read back as the same float32.

    >>> exact(np.array([0.1], np.float32)), np.array([0.1], np.float32).tolist()
    ([0.1], [0.10000000149011612])
    """
    if array.dtype == np.float32:
        return array.astype(str).astype(np.float64).tolist()
    return array.tolist()


def folder_name(depth: int, layer: str) -> str:
    """Return a folder name of letters, digits and . _ @ - only, which differs for different layers.

    Args:
        depth: number of the layer, from 0; it comes first, so that folders are listed in the order of depth.
        layer: name of the layer.

    >>> folder_name(3, "features.7"), folder_name(4, "blocks/7")
    ('03-features.7', '04-blocks_7-2af8c75c')
    """
    safe_name = re.sub(r"[^A-Za-z0-9._@-]", "_", layer)[:60]
    digest = sha256(layer.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{depth:02d}-{safe_name}" if safe_name == layer else f"{depth:02d}-{safe_name}-{digest}"
