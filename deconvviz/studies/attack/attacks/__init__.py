"""The attacks. Importing this package registers all of them; a new file is added to FILES in `registry.py`."""

from __future__ import annotations

import importlib

from deconvviz.studies.attack.registry import ATTACKS, FILES, FOOLERS

MODULES = tuple(importlib.import_module(f"{__name__}.{name}") for name in FILES)

__all__ = ["ATTACKS", "FOOLERS", "MODULES"]
