"""The interpreters that attacks fool. Importing this package registers all of them."""

from __future__ import annotations

import importlib

from deconvviz.studies.attack.interpreters.base import INTERPRETERS
from deconvviz.studies.attack.registry import INTERPRETER_FILES

MODULES = tuple(importlib.import_module(f"{__name__}.{name}") for name in INTERPRETER_FILES)

__all__ = ["INTERPRETERS", "MODULES"]
