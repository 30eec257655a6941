"""Measure an ensemble: the error of several networks, alone and by the mean of their probabilities.

Where images have several labels each, `labels_measure` measures it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from deconvviz.data.datasets import Images
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.sampling import spread
from deconvviz.errors import DataError
from deconvviz.graph.network import Network
from deconvviz.results.results import stamped
from deconvviz.run.options import RunKeywords, RunOptions
from deconvviz.studies.ensembles.passes import Member, Passes, check_members, resumed
from deconvviz.studies.ensembles.result import Ensemble
from deconvviz.types import Ints, Pathlike
from deconvviz.words import counted

if TYPE_CHECKING:
    from typing_extensions import Unpack


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
        "networks": [each.as_dict() for each in networks],
        "outputs": networks[0].network.outputs,
        "images_fingerprint": images.fingerprint,
        "chosen": digest_of_numbers(indices),
        "targets": digest_of_numbers(targets),
        "precision": run.precision,
    }
    empty = Ensemble.empty(config, stamped(sources), len(indices))
    result = resumed(empty, Ensemble.load, out)
    if result.complete:
        return result
    passes = Passes(networks, images, indices, run)
    of_images = torch.from_numpy(targets[np.asarray(images.labels, np.int64)[indices]]).to(passes.device)

    def rows(inputs: list[Tensor], start: int) -> tuple[Tensor, Tensor]:
        return _rows(passes, inputs, of_images[start : start + len(inputs[0])])

    return passes.resume(result, rows, out)


def _rows(passes: Passes, inputs: list[Tensor], targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rank and the probability of the target in each row of the result, both [R, m]."""
    alone = [network.probabilities(x).double() for (network, _), x in zip(passes.networks, inputs, strict=True)]
    sums, together = alone[0], []
    for count, probabilities in enumerate(alone[1:], 2):
        sums = sums + probabilities
        together.append(sums / count)
    pairs = [rank_of(probabilities, targets) for probabilities in (*alone, *together)]
    ranks, of_class = (torch.stack(parts) for parts in zip(*pairs, strict=True))
    return ranks, of_class


def rank_of(probabilities: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many classes come before each image's own, int64 [n], and the probability of its own, [n].

    Of equal probabilities the class with the lower number comes first, as in `argmax`. Where a probability is NaN,
    nothing is decided, and all other classes come before.

    Args:
        probabilities: [n, classes].
        targets: int64 [n], the class of each image.

    >>> rank_of(torch.tensor([[0.2, float("nan"), 0.8]]), torch.tensor([2]))[0].tolist()
    [2]
    >>> rank_of(torch.tensor([[0.2, 0.5, 0.2, 0.1]] * 3), torch.tensor([1, 0, 2]))[0].tolist()
    [0, 1, 2]
    """
    own = probabilities.gather(1, targets[:, None])
    before = torch.arange(probabilities.shape[1], device=targets.device) < targets[:, None]
    first = (probabilities > own) | ((probabilities == own) & before)
    undecided = probabilities.isnan().any(1)
    return first.sum(1).masked_fill(undecided, probabilities.shape[1] - 1), own[:, 0]


def _check(members: Sequence[Member], outputs: Ints) -> None:
    """Refuse networks that cannot classify together."""
    check_members(members)
    first = members[0]
    for each in members:
        if each.network.outputs != first.network.outputs:
            raise DataError(
                f"{first.name} tells {counted(first.network.outputs, 'class')} apart and {each.name} "
                f"{counted(each.network.outputs, 'class')}; expected networks of the same classes"
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


def digest_of_numbers(numbers: Ints) -> str:
    """Return how many numbers there are and a digest of them, as text for a file's settings."""
    return f"{len(numbers)}, SHA-256 {hashlib.sha256(numbers.tobytes()).hexdigest()[:12]}"
