"""From arrays on the host to tensors on a device, while the device computes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from deconvviz.arrays import stacked
from deconvviz.types import Picture


@functools.lru_cache(maxsize=64)
def row_of(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a row of numbers on a device, sent there once: sending it anew would wait for the device each time."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


class Transfer:
    """Sends tensors to a device. To a GPU they go from pinned memory, on a stream of their own.

    A thread may send the next tensors while another one computes: the stream of the one that computes waits for them,
    and the host for nothing.

    >>> received = Transfer("cpu").send(torch.tensor([1, 2]))
    >>> received()
    (tensor([1, 2]),)
    """

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def room(self, shape: tuple[int, ...], dtype: torch.dtype = torch.uint8) -> Tensor:
        """Return room for pictures on the host, in pinned memory where that makes sending faster."""
        return torch.empty(shape, dtype=dtype, pin_memory=self._stream is not None)

    def stacked(self, pictures: Sequence[Picture] | Tensor, empty: Callable[[], Picture]) -> Tensor:
        """Return pictures as one tensor [n, h, w, C] on the host, in pinned memory where that makes it faster.

        `empty()`, of shape [0, h, w, C], is taken where there are none. Those that are a tensor already stay as they
        are.
        """
        if isinstance(pictures, Tensor):
            return pictures
        if not pictures:
            return torch.from_numpy(empty())
        if self._stream is None or len({picture.dtype for picture in pictures}) > 1:
            return torch.from_numpy(stacked(pictures))
        dtype = torch.from_numpy(np.empty(0, pictures[0].dtype)).dtype
        pinned = self.room((len(pictures), *pictures[0].shape), dtype)
        np.stack(pictures, out=pinned.numpy())
        return pinned

    def send(self, *tensors: Tensor) -> Callable[[], tuple[Tensor, ...]]:
        """Begin to send tensors; return a function that returns them on the device.

        The function is called by the thread that computes with them.
        """
        stream = self._stream
        if stream is None:
            sent = tuple(tensor.to(self.device) for tensor in tensors)
            return lambda: sent
        with torch.cuda.stream(stream):
            ready = tuple(tensor.pin_memory().to(self.device, non_blocking=True) for tensor in tensors)
            arrival = stream.record_event()

        def received() -> tuple[Tensor, ...]:
            computing = torch.cuda.current_stream(self.device)
            computing.wait_event(arrival)
            for tensor in ready:  # the allocator must not hand out their memory before the computation has read it
                tensor.record_stream(computing)
            return ready

        return received
