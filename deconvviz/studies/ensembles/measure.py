"""Measure an ensemble: the error of several networks, alone and by the mean of their probabilities.

Each picture goes through all networks, each with its own preprocessing. Networks with the same preprocessing are given
the same pictures, which are read once.
"""

from __future__ import annotations

import hashlib
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from deconvviz.data.datasets import Images
from deconvviz.data.feed import Feed
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.sampling import spread
from deconvviz.errors import DataError
from deconvviz.graph.memory import fitting
from deconvviz.graph.network import Network
from deconvviz.results.results import require_same, stamped
from deconvviz.run.options import RunKeywords, RunOptions
from deconvviz.studies.ensembles.result import Ensemble
from deconvviz.types import Ints, Pathlike
from deconvviz.words import counted

if TYPE_CHECKING:
    from typing_extensions import Unpack

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


def ensemble(
    members: Sequence[Member | tuple[str, Network, Preprocess]],
    images: Images,
    *,
    outputs: Sequence[int] | Ints,
    limit: int | None = None,
    out: Pathlike | None = None,
    sources: Mapping[str, Any] | None = None,
    **options: Unpack[RunKeywords],
) -> Ensemble:
    """Measure how well several networks classify images, each alone, the first two, three, ... together, and all.

    Together they give each class the mean of the probabilities that the networks give it, each after its own softmax:
    not the mean of scores, whose scale differs from network to network. An image is classified correctly where its
    class is the most probable one, the first of equal ones.

    With `out`, what is done is written every few seconds, and calling again with the same arguments resumes.

    Args:
        members: the networks, in their order; each with a name and its own preprocessing. All are on one device and
            have the same outputs.
        images: labelled images; those of unknown class are left out.
        outputs: int64 [classes], the output of the networks that stands for each class of the images, as
            `models.labels.outputs_of` returns it.
        limit: how many images to take, spread over the classes; None for all.
        out: path of the HDF5 file of the result.
        sources: where networks and images came from, for the file.
        options: `batch_size`, `precision`, `workers` and `progress` of `RunOptions`.

    Raises:
        DataError: no network, two of one name, networks with different numbers of outputs or on different devices, no
            image of known class, or an output out of range.
        CaptureError: a preprocessing gives images of another shape than its network takes, or a network does not return
            one score for each class.
        MismatchError: `out` was written with other networks, images or settings.

    Source: Zeiler and Fergus 2013, table 2, the rows "6 models" (from memory of the paper); averaging the outputs of
    networks is that of Krizhevsky et al. 2012. The intervals are those of Bonett and Price 2012.

    >>> import deconvviz as dv
    >>> loaded, images = dv.load_model("demo"), dv.Scenes(20)
    >>> preprocess = dv.Preprocess.from_dict(loaded.settings)
    >>> demo = dv.capture(loaded.model, preprocess.shape)
    >>> result = dv.ensemble(
    ...     [("a", demo, preprocess), ("b", demo, preprocess)], images, outputs=range(10), progress=False
    ... )
    >>> result.names, bool(np.ptp(result.error()) == 0)  # one network twice is itself
    (('a', 'b', 'all 2'), True)
    """
    run = RunOptions(**options)
    networks, targets = [Member(*member) for member in members], np.asarray(outputs, np.int64)
    _check(networks, targets)
    indices = _indices(images, targets, limit)
    config = {
        "networks": [
            {"name": each.name, "fingerprint": each.network.fingerprint, "preprocess": each.preprocess.as_dict()}
            for each in networks
        ],
        "outputs": networks[0].network.outputs,
        "images_fingerprint": images.fingerprint,
        "chosen": _digest(indices),
        "targets": _digest(targets),
        "precision": run.precision,
    }
    result = _resumed(config, stamped(sources), len(indices), out)
    return result if result.complete else _Run(networks, images, indices, targets, run).resume(result, out)


class _Run:
    """The measurement, batch after batch.

    Attributes:
        networks: those that run, in the form for forward passes, and the dtype of the images that each takes.
        feeds: the pictures, once for each different preprocessing.
        feed_of: of each network, the number of its feed.
        targets: int64 [n], the output that stands for the class of each image.
        run: how the job runs.
        size: images in a pass.
    """

    def __init__(
        self, members: Sequence[Member], images: Images, indices: Ints, outputs: Ints, run: RunOptions
    ) -> None:
        self.run, self.device = run, members[0].network.device
        self.networks = [(each.network.forward_only(run.precision), each.network.dtype) for each in members]
        different = list(dict.fromkeys(repr(each.preprocess.as_dict()) for each in members))
        first = [next(m for m in members if repr(m.preprocess.as_dict()) == text) for text in different]
        self.feeds = [Feed(images, each.preprocess, indices, workers=run.workers) for each in first]
        self.feed_of = [different.index(repr(each.preprocess.as_dict())) for each in members]
        self.targets = torch.from_numpy(outputs[self.feeds[0].labels]).to(self.device)
        at_once = run.images_at_once(self.device)
        self.size = min(fitting(network, at_once) for network, _ in self.networks)

    def resume(self, result: Ensemble, out: Pathlike | None) -> Ensemble:
        """Measure the images that are not done yet, and write to `out` every COMMIT seconds and at the end."""
        start, written = result.images, time.monotonic()
        waiting: list[tuple[Tensor, Tensor]] = []  # on the device: nothing waits for it between two commits
        bar = self.run.bar("image", result.ranks.shape[1], "ensemble", start)
        with bar, torch.inference_mode():
            for inputs in self._batches(start):
                stop = start + len(inputs[0])
                waiting.append(self._rows(inputs, self.targets[start:stop]))
                if stop == result.ranks.shape[1] or time.monotonic() - written >= COMMIT:
                    ranks, of_class = (torch.cat(parts, 1).cpu().numpy() for parts in zip(*waiting, strict=True))
                    result, written, waiting = result.with_images(ranks, of_class), time.monotonic(), []
                    if out is not None:
                        result.save(out)
                bar.update(stop - start)
                start = stop
        return result

    def _batches(self, start: int) -> Iterator[list[Tensor]]:
        """Yield the next images as each feed prepares them, [m, C, h, w] each, on the device."""
        streams = [feed.tensors(self.size, self.device, start=start) for feed in self.feeds]
        for parts in zip(*streams, strict=True):
            yield [x for _, x in parts]

    def _rows(self, inputs: Sequence[Tensor], targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rank and the probability of the target in each row of the result, both [R, m]."""
        alone = [
            network.probabilities(inputs[feed].to(dtype)).double()
            for (network, dtype), feed in zip(self.networks, self.feed_of, strict=True)
        ]
        sums, together = alone[0], []
        for count, probabilities in enumerate(alone[1:], 2):
            sums = sums + probabilities
            together.append(sums / count)
        rows = [*alone, *together]
        pairs = [rank_of(probabilities, targets) for probabilities in rows]
        ranks, of_class = (torch.stack(parts) for parts in zip(*pairs, strict=True))
        return ranks, of_class


def rank_of(probabilities: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many classes come before each image's own, int64 [n], and the probability of its own, [n].

    Of equal probabilities the class with the lower number comes first, as in `argmax`.

    Args:
        probabilities: [n, classes].
        targets: int64 [n], the class of each image.

    >>> rank_of(torch.tensor([[0.2, 0.5, 0.2, 0.1]] * 3), torch.tensor([1, 0, 2]))[0].tolist()
    [0, 1, 2]
    """
    own = probabilities.gather(1, targets[:, None])
    before = torch.arange(probabilities.shape[1], device=targets.device) < targets[:, None]
    first = (probabilities > own) | ((probabilities == own) & before)
    return first.sum(1), own[:, 0]


def _check(members: Sequence[Member], outputs: Ints) -> None:
    """Refuse networks that cannot classify together."""
    if not members:
        raise DataError("no network given; expected at least 1")
    names = [each.name for each in members]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise DataError(f"two networks are called {twice[0]!r}; give each a name of its own")
    first = members[0]
    for each in members:
        each.network.check_input(each.preprocess.shape)
        if each.network.outputs != first.network.outputs:
            raise DataError(
                f"{first.name} tells {counted(first.network.outputs, 'class')} apart and {each.name} "
                f"{counted(each.network.outputs, 'class')}; expected networks of the same classes"
            )
        if each.network.device != first.network.device:
            raise DataError(
                f"{first.name} is on {first.network.device} and {each.name} on {each.network.device}; move all to one"
            )
    if not len(outputs) or outputs.min() < 0 or outputs.max() >= first.network.outputs:
        ends = f"{outputs.min()} to {outputs.max()}" if len(outputs) else "none"
        raise DataError(f"outputs {ends} given; the networks have {first.network.outputs}")


def _indices(images: Images, outputs: Ints, limit: int | None) -> Ints:
    """Return the images of known class that take part, int64, ascending."""
    labels = np.asarray(images.labels, np.int64)
    if limit is not None and limit < 1:
        raise DataError(f"limit {limit} given; expected at least 1 image")
    indices = np.flatnonzero(labels >= 0)
    if not len(indices):
        raise DataError("no image of known class given; pack a folder whose sub-folders are the classes")
    if labels.max() >= len(outputs):
        raise DataError(f"outputs for {counted(len(outputs), 'class')} given; the images have {labels.max() + 1}")
    return indices if limit is None else np.asarray(indices[spread(labels[indices], limit)], np.int64)


def _digest(numbers: Ints) -> str:
    return f"{len(numbers)}, SHA-256 {hashlib.sha256(numbers.tobytes()).hexdigest()[:12]}"


def _resumed(config: dict[str, Any], sources: dict[str, Any], total: int, out: Pathlike | None) -> Ensemble:
    """Return what the file holds, or an ensemble of which no image is done yet."""
    if out is not None and pathlib.Path(out).exists():
        result = Ensemble.load(out)
        require_same(out, result.config, config, "remove it or choose another output", (result.sources, sources))
        return result
    result = Ensemble.empty(config, sources, total)
    if out is not None:
        result.save(out)  # before the work: a place that cannot be written to is found out now
    return result
