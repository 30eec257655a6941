"""The checks. Importing this package registers all of them; NAMES is the order in which they are made and shown.

A check is a function that takes a `Subject` and returns a `CheckRun`. A new one in a file that is here already needs no
other change; a new file is added to MODULES.
"""

from __future__ import annotations

from deconvviz.studies.diagnosis.checks import (
    aliasing,
    classes,
    filters,
    images,
    pairs,
    receptive_field,
    removable,
    responses,
    spectrum,
    unsettled,
)
from deconvviz.studies.diagnosis.registry import CHECKS

# What puts the others in doubt first, then the cheap and general ones.
MODULES = (images, filters, pairs, spectrum, responses, aliasing, receptive_field, removable, unsettled, classes)
_PLACES = {module.__name__: place for place, module in enumerate(MODULES)}
NAMES = tuple(sorted(CHECKS, key=lambda name: _PLACES.get(CHECKS[name].function.__module__, len(MODULES))))

__all__ = ["CHECKS", "MODULES", "NAMES"]
