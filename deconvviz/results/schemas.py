"""Whether a file holds what its kind declares: one validator for all kinds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from deconvviz.results.declarations import FILES
from deconvviz.results.file_schemas import KINDS_OF_TYPES, ArraySchema
from deconvviz.types import Array

SCHEMAS: Mapping[str, tuple[ArraySchema, ...]] = {kind: schema.arrays for kind, schema in FILES.items()}
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
        if axis.isdecimal():
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
