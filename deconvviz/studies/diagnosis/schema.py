"""JSON made of dataclasses, and the JSON Schema that describes it. Both follow from the types of the fields."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np


def object_schema(**properties: Any) -> dict[str, Any]:
    """Return the schema of a JSON object that has exactly these properties.

    >>> object_schema(name={"type": "string"})["required"]
    ['name']
    """
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


def fields_schema(kind: type) -> dict[str, Any]:
    """Return the schema of each field of a dataclass: name -> schema."""
    hints = get_type_hints(kind)
    return {field.name: schema_of(hints[field.name]) for field in dataclasses.fields(kind)}


def schema_of(kind: Any) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of values of a type, as `as_json` writes them.

    A number that is not finite is null, so that a float allows null.

    Args:
        kind: str, int, float, a Literal of strings, a mapping, a tuple of one type, a dataclass, or one of these or
            None.

    Raises:
        TypeError: another type.

    >>> schema_of(tuple[int, ...])
    {'type': 'array', 'items': {'type': 'integer'}}
    >>> schema_of(Literal["a", "b"] | None)
    {'enum': ['a', 'b', None]}
    """
    plain = {str: "string", int: "integer", float: ["number", "null"]}
    arguments = get_args(kind)
    if kind in plain:
        return {"type": plain[kind]}
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return object_schema(**fields_schema(kind))
    if get_origin(kind) is Literal:
        return {"enum": [*arguments]}
    if get_origin(kind) is tuple and arguments[1:] == (...,):
        return {"type": "array", "items": schema_of(arguments[0])}
    if get_origin(kind) is dict:
        return {"type": "object"}
    if get_origin(kind) in (Union, types.UnionType) and len(arguments) == 2 and arguments[1] is type(None):
        schema = schema_of(arguments[0])
        return {"enum": [*schema["enum"], None]} if "enum" in schema else schema
    raise TypeError(f"no JSON Schema for {kind}")


def as_json(value: Any) -> Any:
    """Return a value as JSON's own types: dataclasses as objects, arrays and tuples as lists.

    A number that is not finite becomes null.

    >>> as_json({"values": np.array([1.0, np.nan])})
    {'values': [1.0, None]}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return as_json(value.tolist())
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
