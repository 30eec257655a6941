"""What holds while networks compute: the arithmetic that was asked for, and memory that serves again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from deconvviz.graph.arithmetic import arithmetic
from deconvviz.graph.reuse import reusing_memory


@contextlib.contextmanager
def computing(precision: str) -> Iterator[None]:
    """Compute within a `with` block in a precision, such as "fp32"; see `arithmetic` and `reusing_memory`.

    >>> import torch
    >>> with computing("fp32"):
    ...     float(torch.ones(3) @ torch.ones(3))
    3.0
    """
    with arithmetic(precision), reusing_memory():
        yield
