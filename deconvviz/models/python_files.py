"""Functions of Python files of the user's own: imported by their paths, with their neighbours, and called."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from deconvviz.errors import ModelError, nearest

FORMS = "torchvision:NAME, timm:NAME, hf:FOLDER, zfnet, demo or path/to/file.py:FACTORY"


def returned_by(spec: str, expected: str = FORMS) -> Any:
    """Call a function in a Python file, path/to/file.py:FUNCTION, and return whatever it returns.

    Raises:
        ModelError: the file or the function does not exist, or it raises an error; `expected` is what it should be.
    """
    function = function_from(spec, "model", expected)
    with _import_paths(pathlib.Path(spec.rpartition(":")[0])), _as_model_error(spec):
        return function()


def call_from(spec: str | None) -> Callable[[Tensor], Any] | None:
    """Return the function that gives a model its inputs.

    Args:
        spec: path/to/file.py:FUNCTION; "list" for a model that takes a list of images; None for one that takes images.

    Raises:
        ModelError: the file or the function does not exist, or the file raises an error.

    >>> call_from("list"), call_from(None)
    (<class 'list'>, None)
    """
    if spec is None or spec == "list":
        return None if spec is None else list
    return function_from(spec, "--call", "list or path/to/file.py:FUNCTION")


def function_from(spec: str, what: str, expected: str = "path/to/file.py:FUNCTION") -> Callable[..., Any]:
    """Return a function of a Python file, path/to/file.py:FUNCTION.

    Args:
        spec: the file and the function.
        what: what is given, for messages: "model", or an option.
        expected: what it may be, for messages.

    Raises:
        ModelError: the file or the function does not exist, or the file raises an error.
    """
    file, _, name = spec.rpartition(":")
    path = pathlib.Path(file)
    if path.suffix != ".py":
        raise ModelError(f"{what} {spec!r} given; expected {expected}")
    if not path.is_file():
        raise ModelError(f"no file {path}; expected {expected}")
    with _import_paths(path), _as_model_error(spec):
        function: Callable[..., Any] = _function_of(path, name)
        return function


def _function_of(path: pathlib.Path, name: str) -> Any:
    """Import a file and return a function or class of it; raises ModelError where it has none of this name."""
    module = _imported(path)
    function = getattr(module, name, None)
    if not callable(function):
        raise ModelError(f"{path} has no function {name!r}; {nearest(name, _defined_in(module))}")
    return function


@contextmanager
def _as_model_error(spec: str) -> Iterator[None]:
    """Turn whatever the user's code raises within a `with` block into a ModelError of one line."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise ModelError(
            f"{spec} raised {type(error).__name__}: {' '.join(str(error).split())[:300]}; run it with --debug to see "
            "where"
        ) from error


def _defined_in(module: Any) -> list[str]:
    """Return the names of a module's own functions and classes: not of what it imported."""
    public = {name: value for name, value in vars(module).items() if not name.startswith("_") and callable(value)}
    return [name for name, value in public.items() if getattr(value, "__module__", None) == module.__name__]


def _imported(path: pathlib.Path) -> Any:
    """Import a file: as part of its package where it imports its neighbours with dots, by itself otherwise."""
    folder = path.resolve().parent
    package = [folder.name] if "from ." in path.read_text("utf-8", errors="replace") else []
    while package and (folder / "__init__.py").is_file() and (folder.parent / "__init__.py").is_file():
        folder = folder.parent
        package.insert(0, folder.name)
    if package:
        sys.path.insert(0, str(folder.parent))
        # What an earlier model brought along may be another folder of the same name, or an older state of this one.
        for name in [name for name in sys.modules if name.partition(".")[0] == package[0] and name in _imported_names]:
            del sys.modules[name]
        importlib.invalidate_caches()
        before = set(sys.modules)
        try:
            return importlib.import_module(".".join([*package, path.stem]))
        finally:
            _imported_names.update(name for name in set(sys.modules) - before if name.partition(".")[0] == package[0])
    name = f"deconvviz_model_{path.stem}"
    module_spec = importlib.util.spec_from_file_location(name, path)
    if module_spec is None or module_spec.loader is None:
        raise ModelError(f"{path} is no Python file; expected {FORMS}")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module  # dataclasses, pickle and type hints look it up there
    module_spec.loader.exec_module(module)
    return module


_imported_names: set[str] = set()  # modules of packages that models were imported from


@contextmanager
def _import_paths(path: pathlib.Path) -> Iterator[None]:
    """Let a file import its neighbours, and modules of the folder that the command runs in, within a `with` block."""
    before = list(sys.path)
    sys.path[:0] = [str(path.resolve().parent), os.getcwd()]  # noqa: PTH109
    try:
        yield
    finally:
        sys.path[:] = before
