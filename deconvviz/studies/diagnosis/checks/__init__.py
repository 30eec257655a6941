"""The checks. Importing this package registers all of them; NAMES is the order in which they are made and shown.

A check is a function that takes a `Subject` and returns a `CheckRun`. A new one in a file that is here already needs no
other change; a new file is added to FILES in `registry.py`.
"""

from __future__ import annotations

import importlib

from deconvviz.studies.diagnosis.registry import CHECKS, FILES, check_declarations

MODULES = tuple(importlib.import_module(f"{__name__}.{name}") for name in FILES)
NAMES = tuple(check_declarations())

__all__ = ["CHECKS", "MODULES", "NAMES"]
