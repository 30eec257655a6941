"""ProbeSettings: how layers are probed; and the probes, linear classifiers of scikit-learn."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deconvviz.errors import DataError, require
from deconvviz.registry import Registry

FOLDS = 3  # of the training images, by which the cost is chosen

# Name -> a function from a cost to a new classifier. The SVM is solved in the primal, whose solver draws nothing at
# random: one class against the rest. With a small cost all scores are small, and the softmax classifier's default
# tolerance would stop before their order is settled.
PROBES: Registry[Callable[[float], Any]] = Registry("probe")
PROBES.add("svm", lambda cost: scikit_learn("svm").LinearSVC(C=cost, dual=False, max_iter=2000))
PROBES.add("softmax", lambda cost: scikit_learn("linear_model").LogisticRegression(C=cost, tol=1e-6, max_iter=1000))


def scikit_learn(module: str) -> Any:
    """Import a module of scikit-learn; raises DataError where it is not installed."""
    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError:
        raise DataError("probes need scikit-learn: pip install 'deconvviz[probe]'") from None


@dataclass(frozen=True, kw_only=True)
class ProbeSettings:
    """How layers are probed.

    Attributes:
        probes: "svm" (linear, squared hinge loss), "softmax" (multinomial logistic regression), or both.
        per_class: numbers of training images of each class; several numbers give a curve.
        splits: number of random splits into training and test images.
        test: number of test images of each class, at most; None takes all that are not in the largest training set.
        costs: weights C of the errors against the squared weights; cross-validation chooses the best of them.
        seed: what the splits are drawn from.

    Raises:
        DataError: a value out of its range, or too few training images to choose among several costs.
        DeconvvizError: a name in `probes` does not exist.

    >>> ProbeSettings(per_class=(30, 5, 15)).per_class
    (5, 15, 30)
    """

    probes: tuple[str, ...] = ("svm", "softmax")
    per_class: tuple[int, ...] = (15,)
    splits: int = 5
    test: int | None = None
    costs: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0, 100.0)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("probes", "per_class", "costs"):
            object.__setattr__(self, name, tuple(dict.fromkeys(getattr(self, name))))
        object.__setattr__(self, "per_class", tuple(sorted(self.per_class)))
        for name in self.probes:
            _ = PROBES[name]
        require(
            self,
            DataError,
            probes=(bool(self.probes), f"some of {', '.join(PROBES)}"),
            per_class=(bool(self.per_class) and min(self.per_class) >= 1, "numbers of images, from 1"),
            splits=(self.splits >= 2, "2 or more: one has no deviation"),
            test=(self.test is None or self.test >= 1, "a number of images, or None for all"),
            costs=(bool(self.costs) and min(self.costs) > 0, "positive numbers"),
        )
        if len(self.costs) > 1 and self.per_class[0] < FOLDS:
            raise DataError(
                f"{self.per_class[0]} images a class given; to choose among {len(self.costs)} costs they are split "
                f"into {FOLDS} folds: give {FOLDS} or more, or a single cost"
            )

    def check_library(self) -> None:
        """Raise DataError where scikit-learn, which has the probes, is not installed."""
        for name in self.probes:
            PROBES[name](self.costs[0])
