"""Numbers on the command line: finite ones, and seeds that every generator of random numbers takes."""

from __future__ import annotations

import math
from typing import Any

import click

LARGEST_SEED = 2**32 - 1  # that NumPy's and scikit-learn's generators take


class FiniteRange(click.FloatRange):
    """A number within limits; NaN and infinity are refused, which click lets through.

    >>> FiniteRange(0).convert("nan", None, None)
    Traceback (most recent call last):
    click.exceptions.BadParameter: nan given; expected a finite number
    """

    name = "float"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number; raises click.BadParameter for another text, and for a number beyond the limits."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} given; expected a finite number", param, ctx)
        return number

    def _describe_range(self) -> str:
        """Return the limits in words; click's own text has them even where there are none."""
        return "" if self.min is None and self.max is None else super()._describe_range()
