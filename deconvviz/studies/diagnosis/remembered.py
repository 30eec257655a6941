"""Measurements that several readers ask of one subject: made once, and forgotten with it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from deconvviz.studies.diagnosis.subject import Subject

P = ParamSpec("P")
T = TypeVar("T")


def remembered(measure: Callable[Concatenate[Subject, P], T]) -> Callable[Concatenate[Subject, P], T]:
    """Compute `measure(subject, ...)` once for each subject and its further, hashable arguments."""
    kept: WeakKeyDictionary[Subject, dict[Any, T]] = WeakKeyDictionary()

    @wraps(measure)
    def recalled(subject: Subject, /, *args: P.args, **kwargs: P.kwargs) -> T:
        own, key = kept.setdefault(subject, {}), (args, tuple(sorted(kwargs.items())))
        if key not in own:
            own[key] = measure(subject, *args, **kwargs)
        return own[key]

    return recalled
