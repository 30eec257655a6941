"""What registered functions and classes say of themselves, read from their source files: nothing is imported.

A command that lists names, or refuses a wrong one, then answers at once: importing what is registered imports torch.
The decorator in the source stays the only place where a name is written.
"""

from __future__ import annotations

import ast
import inspect
import pathlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Declaration:
    """One function or class that is registered.

    Attributes:
        name: by which it is registered.
        arguments: further arguments of the decorator, in their order.
        keywords: keyword arguments of the decorator.
        docstring: its docstring.
        defaults: name of a parameter -> its default, for the parameters of a function that have one, in their order.
        parameters: names of all parameters of a function, in their order.
    """

    name: str
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    docstring: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    parameters: tuple[str, ...] = ()


def declarations(
    files: Iterable[pathlib.Path], decorator: str, constants: Mapping[str, Any] | None = None
) -> dict[str, Declaration]:
    """Return what is registered in source files.

    Args:
        files: the source files, in their order.
        decorator: name of the decorator: `@decorator("name", ...)` of a function, or `@decorator` of a class whose
            attribute `name` is its name.
        constants: what names stand for in the decorator's arguments.

    Returns:
        Name -> declaration, in the order of the files.

    >>> folder = pathlib.Path(__file__).parent
    >>> "dead" in declarations([folder / "studies" / "diagnosis" / "checks" / "filters.py"], "check")
    True
    """
    result: dict[str, Declaration] = {}
    for file in files:
        for node in ast.parse(file.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                for each in node.decorator_list:
                    declared = _declared(node, each, decorator, constants or {})
                    result |= {} if declared is None else {declared.name: declared}
    return result


def _declared(
    node: ast.FunctionDef | ast.ClassDef, by: ast.expr, decorator: str, constants: Mapping[str, Any]
) -> Declaration | None:
    """Return what a decorated function or class declares; None where the decorator is another one."""
    docstring = inspect.cleandoc(ast.get_docstring(node) or "")
    if isinstance(by, ast.Call) and ast.unparse(by.func) == decorator and isinstance(node, ast.FunctionDef):
        name, *arguments = (_value(argument, constants) for argument in by.args)
        keywords = {word.arg: _value(word.value, constants) for word in by.keywords if word.arg}
        defaults, parameters = _parameters(node, constants)
        return Declaration(name, tuple(arguments), keywords, docstring, defaults, parameters)
    if isinstance(node, ast.ClassDef) and ast.unparse(by) == decorator:
        assigned = [line for line in node.body if isinstance(line, ast.Assign)]
        names = [line.value for line in assigned if ast.unparse(line.targets[0]) == "name"]
        return Declaration(str(_value(names[0], constants)), (), {}, docstring)
    return None


def _parameters(node: ast.FunctionDef, constants: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the defaults by name, and the names of all parameters."""
    positional = [*node.args.posonlyargs, *node.args.args]
    pairs: list[tuple[ast.arg, ast.expr | None]] = [
        *zip(positional[len(positional) - len(node.args.defaults) :], node.args.defaults, strict=True),
        *zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True),
    ]
    defaults = {argument.arg: _value(value, constants) for argument, value in pairs if value is not None}
    return defaults, tuple(argument.arg for argument in (*positional, *node.args.kwonlyargs))


def _value(node: ast.expr, constants: Mapping[str, Any]) -> Any:
    """Return the value of an expression of literals and of constants, which may be called."""
    if isinstance(node, ast.Name):
        return constants[node.id]
    if isinstance(node, ast.Call):
        return constants[ast.unparse(node.func)](*(_value(argument, constants) for argument in node.args))
    if isinstance(node, ast.Dict):
        return {
            _value(key, constants): _value(value, constants)
            for key, value in zip(node.keys, node.values, strict=True)
            if key is not None
        }
    return ast.literal_eval(node)
