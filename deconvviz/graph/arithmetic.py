"""What a precision means on a GPU: fp32 is fp32, and TF32 is computed in only where it is asked for.

A GPU's libraries compute convolutions in TF32 by default, which keeps 10 bits of a factor; PyTorch has a switch for
it, which belongs to the process. This is the one place that sets it.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

Switch = tuple[Callable[[], Any], Callable[[Any], None], Any, Any]  # read, set; its values without and with TF32


def _switches() -> list[Switch]:
    """Return the switches of the process for convolutions and for matrix products.

    PyTorch has an older and a newer set of them, and refuses to read the older one after the newer one was used: it is
    left to the user which of them that is.
    """
    older: list[Switch] = [
        (*_attribute(torch.backends.cudnn, "allow_tf32"), False, True),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest", "high"),
    ]
    try:
        _read_quietly(older)
    except RuntimeError:
        owners = (torch.backends.cudnn.conv, torch.backends.cudnn.rnn, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
        return [(*_attribute(owner, "fp32_precision"), "ieee", "tf32") for owner in owners]
    return older


def _attribute(owner: Any, name: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    return lambda: getattr(owner, name), lambda value: setattr(owner, name, value)


def _read_quietly(switches: Sequence[Switch]) -> None:
    """Read switches; torch 2.9 to 2.11 warn, once, that there are newer ones."""
    with warnings.catch_warnings() if not _warned else contextlib.nullcontext():
        if not _warned:
            warnings.simplefilter("ignore")
            _warned.append(True)
        for read, *_ in switches:
            read()


_warned: list[bool] = []


@contextlib.contextmanager
def arithmetic(precision: str) -> Iterator[None]:
    """Compute float32 convolutions and matrix products on a GPU in TF32 or not, within a `with` block.

    Afterwards the process computes as before. Blocks may stand within each other. Tensors of other dtypes, and those on
    a CPU, are not concerned.

    Args:
        precision: TF32 is used for "tf32" and for nothing else.

    >>> with arithmetic("fp32"):
    ...     uses_tf32()
    False
    """
    before = [
        (put, read(), with_tf32 if precision == "tf32" else without) for read, put, without, with_tf32 in _switches()
    ]
    changed = [(put, old, new) for put, old, new in before if old != new]
    try:
        for put, _, new in changed:
            put(new)
        yield
    finally:
        for put, old, _ in changed:
            put(old)


def uses_tf32() -> bool:
    """Return whether a GPU would compute a convolution or a product of float32 matrices in TF32 now."""
    return any(read() not in (without, "none") for read, _, without, _ in _switches())
