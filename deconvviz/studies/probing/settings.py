"""ProbeSettings: how layers are probed; and the probes, linear classifiers of scikit-learn."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from deconvviz.errors import DataError, missing_library, require
from deconvviz.registry import Registry
from deconvviz.words import counted

FOLDS = 3  # of the training images, by which the cost is chosen
USUAL = (5, 15, 30)  # training images of each class, where none are given: those of Caltech-101's tables
MOST_TRAINED = 2 / 3  # of a class's images at most are for training where no number is given; the rest are the test

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
        raise DataError(f"no probe can be trained: {missing_library('scikit-learn')}") from None


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
                f"{counted(self.per_class[0], 'image')} a class given; to choose among "
                f"{len(self.costs)} costs they are split "
                f"into {FOLDS} folds: give {FOLDS} or more, or a single cost"
            )

    def fitted_to(self, smallest: int) -> ProbeSettings:
        """Return the same settings with numbers of training images that leave enough images to test.

        The usual numbers are taken as far as they leave a third of the smallest class; where none does, the largest
        number that does so, and at least what the choice of a cost needs.

        Args:
            smallest: number of images of the smallest class.

        Raises:
            DataError: there are too few images to train and to test.

        >>> ProbeSettings().fitted_to(300).per_class, ProbeSettings().fitted_to(30).per_class
        ((5, 15, 30), (5, 15))
        >>> ProbeSettings().fitted_to(6).per_class, ProbeSettings().fitted_to(4).per_class
        ((4,), (3,))
        """
        least, most = FOLDS if len(self.costs) > 1 else 1, int(MOST_TRAINED * smallest + 1e-9)
        if smallest <= least:
            raise DataError(
                f"the smallest class has {counted(smallest, 'image')}; expected {least + 1} or more, {least} to train "
                "on and 1 to test: give more images, or leave that class out"
            )
        return replace(self, per_class=tuple(n for n in USUAL if n <= most) or (max(least, most),))

    def check_library(self) -> None:
        """Raise DataError where scikit-learn, which has the probes, is not installed."""
        for name in self.probes:
            PROBES[name](self.costs[0])
