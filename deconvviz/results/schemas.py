"""What each kind of file holds, declared once: its arrays with their types, axes and ranges. One validator for all.

An array is declared as (name, type, axes, range):

* a star in a name stands for any text, such as the name of a layer;
* types: "i" whole numbers, "f" floating ones, "n" either, "u8" uint8, "b" booleans, "t" text;
* axes: their names, with spaces between. Axes of one name have one length; a name that ends in a star is meant for one
  star's text alone; a number is a fixed length; "..." is any number of axes;
* ranges: the least value; "finite" for numbers that must not be NaN or infinite; "?" for an array that may be absent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from deconvviz.types import Array

KINDS_OF_TYPES = {"i": "iu", "f": "f", "n": "iufb", "u8": "u", "b": "b", "t": "OSU"}


@dataclass(frozen=True)
class ArraySchema:
    """One array, or all arrays whose names match.

    Attributes:
        name: with a star for any text.
        type: a key of KINDS_OF_TYPES.
        axes: names, numbers, or "...".
        least: the smallest value; None where there is none.
        finite: whether NaN and infinity are refused.
        optional: whether it may be absent.
    """

    name: str
    type: str
    axes: tuple[str, ...]
    least: int | None = None
    finite: bool = False
    optional: bool = False

    def match(self, name: str) -> re.Match[str] | None:
        """Return how a name matches; the star's text is its only group, where there is a star."""
        return re.fullmatch(re.escape(self.name).replace(r"\*", "(.+)", 1).replace(r"\*", ".+"), name)


def _arrays(*lines: str) -> tuple[ArraySchema, ...]:
    """Read declarations: "name type axes | least, finite, ?"."""
    result = []
    for line in lines:
        text, _, rest = line.partition("|")
        name, type_, *axes = text.split()
        words = rest.replace(",", " ").split()
        least = next((int(word) for word in words if word.lstrip("-").isdigit()), None)
        result.append(ArraySchema(name, type_, tuple(axes), least, "finite" in words, "?" in words))
    return tuple(result)


SCHEMAS: Mapping[str, tuple[ArraySchema, ...]] = {
    "mined": _arrays(
        "layers/*/values f channels* k",
        "layers/*/images i channels* k | -1",
        "layers/*/positions i channels* k 2 | -1",
        "layers/*/fired i channels* | 0",
        "layers/*/total f channels*",
        "layers/*/maximum f channels*",
        "layers/*/broken i channels* | 0",
        "layers/*/seen i | 0",
        "projections/*_box i 4 | 0, ?",
        "projections/*_need i 4 | ?",
        "projections/* f ... | ?",
        "figures/* n ... | ?",
    ),
    "evaluation": _arrays(
        "explained i images | -1",
        "probability f images",
        "labels i images | -1",
        "pictures u8 shown height width 3",
        "values/* f images columns | ?",
        "curves/* f images steps | ?",
        "fits/* f images thresholds | ?",
        "maps/* f shown height width | ?",
    ),
    "lesions": _arrays(
        "layer i lesions | 0",
        "channel i lesions | -1",
        "lost i lesions | 0",
        "gained i lesions | 0",
        "rise f lesions | finite",
        "squares f lesions | 0, finite",
        "means/* f channels* | finite, ?",
    ),
    "decisions": _arrays(
        "images i decisions | 0",
        "targets i decisions targets | 0",
        "probabilities f decisions targets | 0, finite",
        "label_output i decisions | -1",
        "maps u8 decisions methods targets height width",
        "occlusion/probability f decisions targets rows columns | ?",
        "occlusion/square i 2 | 1, ?",
        "occlusion/places i windows 4 | ?",
    ),
    "ablation": _arrays("* b images | ?"),
    "atlas": (),
    "invariance of filters": _arrays("*/invariance/* f ... | ?"),
    "occlusion of filters": _arrays(
        "*/occlusion/image i channels* | -1, ?", "*/occlusion/values f channels* windows | ?", "*/occlusion/* f ... | ?"
    ),
    "gallery": _arrays(
        "channels i filters | 0",
        "values f filters k | ?",
        "images i filters k | -1, ?",
        "positions i filters k 2 | -1, ?",
        "boxes i filters k 4 | ?",
        "windows i filters k 4 | ?",
        "fired i filters | 0, ?",
        "firing_rate f filters | 0, ?",
        "maximum f filters | ?",
        "mean_activation f filters | ?",
        "dead u8 filters | ?",
        "*/data u8 bytes* | ?",
        "*/offsets i tiles* | 0, ?",
        "*/shape i 5 | 0, ?",
        "filters u8 filters height width 3 | ?",
        "duplicate_of i filters | -1, ?",
        "neighbours i filters neighbours | -1, ?",
        "similarity f filters neighbours | ?",
        "top_class i filters | -1, ?",
        "top_class_share f filters | ?",
        "invariance/* f filters | ?",
        "occlusion/* n ... | ?",
        "* n ... | ?",
    ),
    "features": _arrays(
        "labels i images | -1",
        "classes t classes",
        "done i 1 | 0",
        "layers/* f images width* | ?",
        "digests/* u8 images 16 | ?",
    ),
    "snapshots": _arrays("epochs/* n ... | ?"),
    "deconvviz-images": _arrays(
        "names t images",
        "labels i images | -1",
        "sizes i images 2 | 1",
        "classes t classes",
        "skipped t skipped 2",
        "bytes u8 bytes | ?",
        "offsets i offsets | 0, ?",
        "images u8 images side side 3 | ?",
        "digests u8 images 16 | ?",
    ),
}
"""Kind of file -> its arrays, the first that matches a name counts."""


def misfit_of_layout(kind: str, layout: Mapping[str, tuple[Any, tuple[int, ...]]]) -> str:
    """Say how the arrays of a file differ from what its kind declares, without reading their values.

    Args:
        kind: of the file; one that is not declared is not checked.
        layout: name of an array -> (its NumPy dtype, its shape).

    Returns:
        "" where nothing differs.

    >>> misfit_of_layout("lesions", {"layer": (np.dtype("int64"), (3,)), "channel": (np.dtype("int64"), (2,))})
    'channel has 2 lesions, layer has 3'
    """
    if kind not in SCHEMAS:
        return ""
    lengths: dict[str, tuple[int, str]] = {}
    groups: dict[str, set[str]] = {}
    for name, (dtype, shape) in layout.items():
        schema, star = _schema_of(kind, name)
        if schema is None:
            return f"{name} is no array of a {kind} file"
        if dtype.kind not in KINDS_OF_TYPES[schema.type] or (schema.type == "u8" and dtype.itemsize != 1):
            return f"{name} holds {dtype}"
        complaint = _misfit_of_axes(schema, name, shape, star, lengths)
        if complaint:
            return complaint
        if "*" in schema.name:
            groups.setdefault(f"{schema.name.partition('*')[0]}{star}", set()).add(schema.name)
    return _missing(kind, layout, groups)


def _schema_of(kind: str, name: str) -> tuple[ArraySchema | None, str]:
    for schema in SCHEMAS[kind]:
        match = schema.match(name)
        if match:
            return schema, match.group(1) if match.groups() else ""
    return None, ""


def _misfit_of_axes(
    schema: ArraySchema, name: str, shape: tuple[int, ...], star: str, lengths: dict[str, tuple[int, str]]
) -> str:
    """Compare a shape with the axes that are declared; `lengths` collects those that were met."""
    if schema.axes == ("...",):
        return ""
    if len(shape) != len(schema.axes):
        return f"{name} has {len(shape)} axes, expected {len(schema.axes)}"
    for axis, length in zip(schema.axes, shape, strict=True):
        if axis.isdigit():
            if length != int(axis):
                return f"{name} has the shape {list(shape)}"
            continue
        scoped = f"{axis} {star}" if axis.endswith("*") else axis
        known, where = lengths.setdefault(scoped, (length, name))
        if known != length:
            return f"{name} has {length} {axis.rstrip('*')}, {where} has {known}"
    return ""


def _missing(kind: str, layout: Mapping[str, Any], groups: Mapping[str, set[str]]) -> str:
    """Say which array that must be there is absent."""
    required = [schema for schema in SCHEMAS[kind] if not schema.optional]
    plain = [schema.name for schema in required if "*" not in schema.name and schema.name not in layout]
    if plain:
        return f"{plain[0]} is missing"
    for group, present in groups.items():
        for schema in required:
            start = schema.name.partition("*")[0]
            same = any(name.partition("*")[0] == start for name in present)
            if "*" in schema.name and same and schema.name not in present:
                return f"{schema.name.replace('*', group.removeprefix(start))} is missing"
    return ""


def misfit_of_values(kind: str, arrays: Mapping[str, Array]) -> str:
    """Say which array has a value out of its range; "" where none has.

    >>> misfit_of_values("decisions", {"images": np.array([3, -2])})
    'images has -2, expected at least 0'
    """
    for name, array in arrays.items():
        schema = _schema_of(kind, name)[0] if kind in SCHEMAS else None
        if schema is None or not array.size or array.dtype.kind not in "iuf":
            continue
        if schema.least is not None and not (array >= schema.least).all() and not np.isnan(array).any():
            return f"{name} has {array.min()}, expected at least {schema.least}"
        if schema.finite and not np.isfinite(array).all():
            return f"{name} has a value that is not finite"
    return ""
