"""How many items run at once: fewer where they do not fit in memory.

Every job of the package that runs in batches splits them here, so that a batch that does not fit is halved everywhere
alike, and said once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from deconvviz.errors import CaptureError
from deconvviz.progress import write_line

Part = TypeVar("Part")


class AtOnce:
    """How many items run at once: halved where they do not fit in memory, for good.

    Attributes:
        size: items that run at once now.
        what: the word for the items, such as "images".
        advice: what a user can do where a single item does not fit.

    >>> at_once = AtOnce(4, "images")
    >>> list(at_once.parts(10, lambda start, stop: (start, stop)))
    [(0, 4), (4, 8), (8, 10)]
    """

    def __init__(self, size: int, what: str = "images", advice: str = "use another --device") -> None:
        self.size, self.what, self.advice = size, what, advice

    def parts(self, count: int, compute: Callable[[int, int], Part]) -> Iterator[Part]:
        """Yield `compute(start, stop)` of consecutive parts of `count` items, no part larger than `size`.

        A part that does not fit in memory is computed again in halves, and so are later ones.

        Args:
            count: number of items.
            compute: computes the items from start to stop. It must leave nothing behind where it raises.

        Raises:
            CaptureError: one item alone does not fit in memory.
        """
        start, before = 0, self.size
        while start < count:
            stop = min(start + self.size, count)
            try:
                part = compute(start, stop)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                self._halve(stop - start, error)
            else:
                start = stop
                if self.size < before:
                    write_line(f"out of memory: continuing with batches of {self.size}")
                    before = self.size
                yield part
                continue
            # Outside the except clause, where the error no longer holds on to the tensors.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _halve(self, items: int, error: BaseException) -> None:
        if items == 1:
            singular = self.what.removesuffix("s")
            raise CaptureError(f"one {singular} does not fit in memory; {self.advice}") from error
        self.size = (items + 1) // 2


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had: on a GPU, on a CPU or in NumPy."""
    text = str(error).lower()
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or "can't allocate memory" in text
        or "out of memory" in text
    )


def gradients_in_parts(
    at_once: AtOnce, count: int, parameters: Sequence[Tensor], loss: Callable[[int, int], tuple[Tensor, Part]]
) -> list[Part]:
    """Set the gradients of parameters to those of a batch, of which as many items run at once as fit in memory.

    Normalisation over the batch (BatchNorm) takes the statistics of each part, so that a batch in parts is not quite
    the same as a whole one.

    Args:
        at_once: how many items run at once.
        count: items in the batch.
        parameters: the tensors that get a `grad`; None for those that take no part.
        loss: (start, stop) -> the share that the items from start to stop have in the batch's loss, a scalar, and what
            else is known of them. It must leave nothing behind where it raises.

    Returns:
        What `loss` returned beside the shares, part by part.

    >>> weight = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> items = torch.tensor([[1.0, 0.0], [3.0, 1.0], [5.0, 2.0]])
    >>> parts = gradients_in_parts(AtOnce(2), 3, [weight], lambda a, b: ((items[a:b] @ weight).sum() / 3, b - a))
    >>> weight.grad, parts
    (tensor([3., 1.]), [2, 1])
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]

    def part(start: int, stop: int) -> tuple[tuple[Tensor | None, ...], Part]:
        value, extras = loss(start, stop)
        return torch.autograd.grad(value, trained, allow_unused=True), extras

    for parameter in parameters:
        parameter.grad = None
    all_known = []
    for gradients, extras in at_once.parts(count, part):
        all_known.append(extras)
        for parameter, gradient in zip(trained, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
    return all_known
