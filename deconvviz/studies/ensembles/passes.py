"""Images through several networks, batch after batch, each with its own preprocessing; what is done is committed.

Networks with the same preprocessing are given the same pictures, which are read once.
"""

from __future__ import annotations

import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from deconvviz.data.datasets import Images
from deconvviz.data.feed import Feed
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import DataError
from deconvviz.graph.memory import fitting
from deconvviz.graph.network import Network
from deconvviz.results.results import require_same
from deconvviz.run.options import RunOptions
from deconvviz.types import Ints, Pathlike

if TYPE_CHECKING:
    from typing_extensions import Self

COMMIT = 10.0  # seconds between two writes of an unfinished file


class Member(NamedTuple):
    """One network of an ensemble.

    Attributes:
        name: what tables and figures call it.
        network: a captured network.
        preprocess: how an image becomes its input.
    """

    name: str
    network: Network
    preprocess: Preprocess

    def as_dict(self) -> dict[str, Any]:
        """Return what a result says of it, JSON values."""
        return {
            "name": self.name,
            "fingerprint": self.network.fingerprint,
            "preprocess": self.preprocess.as_dict(),
        }


class Measured(Protocol):
    """A result over images, of which some are done.

    Attributes:
        config: what decides it, JSON values.
        sources: where networks and images came from, JSON values.
        images: number of images that are done, from the first on.
    """

    @property
    def config(self) -> dict[str, Any]: ...
    @property
    def sources(self) -> dict[str, Any]: ...
    @property
    def images(self) -> int: ...
    @property
    def complete(self) -> bool:
        """Whether every image is done."""

    def with_images(self, *arrays: Any) -> Self:
        """Return the result with the next images: arrays [rows, m, ...]."""

    def save(self, path: Pathlike) -> None:
        """Write the file atomically."""


AnyMeasured = TypeVar("AnyMeasured", bound=Measured)


class Passes:
    """Several networks, and the images that go through all of them.

    Attributes:
        networks: those that run, in the form for forward passes, and the dtype of the images that each takes.
        device: of all networks.
    """

    def __init__(self, members: Sequence[Member], images: Images, indices: Ints, run: RunOptions) -> None:
        """Take networks that `check_members` passed, and the indices of the images."""
        self._run, self.device = run, members[0].network.device
        self.networks = [(each.network.forward_only(run.precision), each.network.dtype) for each in members]
        different = list(dict.fromkeys(repr(each.preprocess.as_dict()) for each in members))
        first = [next(m for m in members if repr(m.preprocess.as_dict()) == text) for text in different]
        self._feeds = [Feed(images, each.preprocess, indices, workers=run.workers) for each in first]
        self._feed_of = [different.index(repr(each.preprocess.as_dict())) for each in members]
        at_once = run.images_at_once(self.device)
        self._size = min(fitting(network, at_once) for network, _ in self.networks)

    def resume(
        self,
        result: AnyMeasured,
        rows: Callable[[list[Tensor], int], tuple[Tensor, ...]],
        out: Pathlike | None,
    ) -> AnyMeasured:
        """Measure the images that are not done yet, and write to `out` every COMMIT seconds and at the end.

        Args:
            result: what is done.
            rows: from the inputs of each network, [m, C, h, w], and the number of images before them to what
                `with_images` takes, on the device.
            out: path of the file; None writes none.
        """
        start, written, total = result.images, time.monotonic(), len(self._feeds[0])
        waiting: list[tuple[Tensor, ...]] = []  # on the device: nothing waits for it between two commits
        with self._run.bar("image", total, "ensemble", start) as bar, torch.inference_mode():
            for inputs in self._batches(start):
                stop = start + len(inputs[0])
                waiting.append(rows(inputs, start))
                if stop == total or time.monotonic() - written >= COMMIT:
                    arrays = (torch.cat(parts, 1).cpu().numpy() for parts in zip(*waiting, strict=True))
                    result, written, waiting = result.with_images(*arrays), time.monotonic(), []
                    if out is not None:
                        result.save(out)
                bar.update(stop - start)
                start = stop
        return result

    def _batches(self, start: int) -> Iterator[list[Tensor]]:
        """Yield the next images as each network takes them, [m, C, h, w] each, on the device."""
        streams = [feed.tensors(self._size, self.device, start=start) for feed in self._feeds]
        for parts in zip(*streams, strict=True):
            inputs = [x for _, x in parts]
            yield [inputs[feed].to(dtype) for (_, dtype), feed in zip(self.networks, self._feed_of, strict=True)]


def check_members(members: Sequence[Member]) -> None:
    """Refuse networks that cannot run together: none, two of one name, on two devices, or of other inputs."""
    if not members:
        raise DataError("no network given; expected at least 1")
    names = [each.name for each in members]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise DataError(f"two networks are called {twice[0]!r}; give each a name of its own")
    first = members[0]
    for each in members:
        each.network.check_input(each.preprocess.shape)
        if each.network.device != first.network.device:
            raise DataError(
                f"{first.name} is on {first.network.device} and {each.name} on {each.network.device}; move all to one"
            )


def resumed(empty: AnyMeasured, load: Callable[[Pathlike], AnyMeasured], out: Pathlike | None) -> AnyMeasured:
    """Return what the file holds, or the result of which no image is done yet.

    Args:
        empty: that result.
        load: reads the file.
        out: path of the file; None where there is none.

    Raises:
        MismatchError: the file was written with other networks, images or settings.
    """
    if out is not None and pathlib.Path(out).exists():
        result = load(out)
        require_same(
            out, result.config, empty.config, "remove it or choose another output", (result.sources, empty.sources)
        )
        return result
    if out is not None:
        empty.save(out)  # before the work: a place that cannot be written to is found out now
    return empty
