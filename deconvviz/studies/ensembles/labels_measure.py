"""Measure an ensemble on images with several labels each: the average precision of networks, alone and together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from deconvviz.data.datasets import Images, has_several_labels
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.sampling import spread
from deconvviz.errors import DataError
from deconvviz.graph.network import Network
from deconvviz.results.results import stamped
from deconvviz.run.options import RunKeywords, RunOptions
from deconvviz.studies.ensembles.labels_result import LabelEnsemble
from deconvviz.studies.ensembles.measure import digest_of_numbers
from deconvviz.studies.ensembles.passes import Member, Passes, check_members, resumed
from deconvviz.types import Ints, Mask, Pathlike
from deconvviz.words import counted

if TYPE_CHECKING:
    from typing_extensions import Unpack

EXCLUDING = ("probabilities", "log-probabilities")  # of classes that exclude each other: labels do not


def label_ensemble(
    members: Sequence[Member | tuple[str, Network, Preprocess]],
    images: Images,
    *,
    outputs: Sequence[Sequence[int] | Ints],
    limit: int | None = None,
    out: Pathlike | None = None,
    sources: Mapping[str, Any] | None = None,
    **options: Unpack[RunKeywords],
) -> LabelEnsemble:
    """Measure how well several networks tell which labels images have, each alone, the first 2, 3, ... and all.

    Together they give each label the mean of the probabilities that the networks give it, each by its own sigmoid. What
    is measured is the average precision of each label and its mean over labels, as `train` measures it on the held-out
    images. One network alone is an ensemble of itself.

    With `out`, what is done is written every few seconds, and calling again with the same arguments resumes.

    Args:
        members: the networks, in their order; each with a name and its own preprocessing. All are on one device.
        images: images with several labels, such as `SeveralLabels` or a store that was packed with them; those whose
            labels are unknown are left out.
        outputs: for each network int64 [labels], the output that stands for each label, as
            `models.labels.outputs_of_labels` returns it.
        limit: how many images to take, evenly spread; None for all.
        out: path of the HDF5 file of the result.
        sources: where networks and images came from, for the file.
        options: `batch_size`, `precision`, `workers` and `progress` of `RunOptions`.

    Raises:
        DataError: no network, two of one name or on different devices, images without several labels, none of which is
            known, an output out of range, or a network whose outputs are probabilities of classes that exclude each
            other.
        CaptureError: a preprocessing gives images of another shape than its network takes, or a network does not return
            one score for each label.
        MismatchError: `out` was written with other networks, images or settings.

    Source: our choice, after `ensemble`; average precision as in `metrics.ranking`.

    >>> import pathlib, tempfile
    >>> import deconvviz as dv
    >>> loaded, scenes = dv.load_model("demo"), dv.Scenes(20)
    >>> rows = [f"{name},{scenes.classes[label]}" for name, label in zip(scenes.names, scenes.labels)]
    >>> preprocess = dv.Preprocess.from_dict(loaded.settings)
    >>> demo = dv.capture(loaded.model, preprocess.shape)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = pathlib.Path(folder, "t.csv").write_text("\\n".join(["image,label", *rows]))
    ...     images = dv.SeveralLabels(scenes, dv.LabelTable.read(f"{folder}/t.csv"))
    >>> outputs = [loaded.classes.index(label) for label in images.classes]
    >>> result = dv.label_ensemble([("demo", demo, preprocess)], images, outputs=[outputs], progress=False)
    >>> result.names, bool(result.mean_average_precision[0] > 0.8)
    (('demo',), True)
    """
    run = RunOptions(**options)
    networks, every = [Member(*member) for member in members], [np.asarray(each, np.int64) for each in outputs]
    check_members(networks)
    if not has_several_labels(images):
        raise DataError("images of one class each given; expected several labels: give a table of them (--labels)")
    _check_outputs(networks, every, len(images.classes))
    indices = _indices(images.known, limit)
    config = {
        "networks": [
            {**each.as_dict(), "outputs": each.network.readout.kind, "of_labels": digest_of_numbers(own_outputs)}
            for each, own_outputs in zip(networks, every, strict=True)
        ],
        "labels": list(images.classes),
        "images_fingerprint": images.fingerprint,
        "chosen": digest_of_numbers(indices),
        "precision": run.precision,
    }
    empty = LabelEnsemble.empty(config, stamped(sources), images.targets[indices])
    result = resumed(empty, LabelEnsemble.load, out)
    if result.complete:
        return result
    passes = Passes(networks, images, indices, run)
    columns = [torch.from_numpy(each).to(passes.device) for each in every]

    def rows(inputs: list[Tensor], _: int) -> tuple[Tensor]:
        scores = [network.scores(x) for (network, _), x in zip(passes.networks, inputs, strict=True)]
        return (
            torch.stack([score[:, own_outputs].double() for score, own_outputs in zip(scores, columns, strict=True)]),
        )

    return passes.resume(result, rows, out)


def _check_outputs(networks: Sequence[Member], outputs: Sequence[Ints], labels: int) -> None:
    """Refuse outputs that do not match the labels of the networks."""
    if len(outputs) != len(networks):
        raise DataError(f"outputs of {len(outputs)} networks given; expected those of {len(networks)}")
    for each, own_outputs in zip(networks, outputs, strict=True):
        if len(own_outputs) != labels or own_outputs.min() < 0 or own_outputs.max() >= each.network.width:
            ends = f"{own_outputs.min()} to {own_outputs.max()}" if len(own_outputs) else "none"
            raise DataError(
                f"{counted(len(own_outputs), 'output')}, {ends}, given for {counted(labels, 'label')}; {each.name} has "
                f"{counted(each.network.width, 'output')}"
            )
        if each.network.readout.kind in EXCLUDING:
            raise DataError(
                f"{each.name} returns probabilities of classes that exclude each other; expected a network that "
                "answers for each label by itself, as `train --labels` makes it"
            )


def _indices(known: Mask, limit: int | None) -> Ints:
    """Return the images whose labels are known that take part, int64, ascending."""
    if limit is not None and limit < 1:
        raise DataError(f"limit {limit} given; expected at least 1 image")
    indices = np.flatnonzero(known)
    if not len(indices):
        raise DataError("no image with known labels given; expected a row of the table for at least one")
    return indices if limit is None else indices[spread(np.zeros(len(indices), np.int64), limit)]
