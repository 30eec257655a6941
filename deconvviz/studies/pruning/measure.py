"""Prune a network: score its filters, take the lowest out, and measure what it costs and finds without them."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from deconvviz.data.datasets import Images, labels_of, limited, place_of
from deconvviz.data.feed import Feed
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.sampling import bytes_of_pixel, room_for, split, spread
from deconvviz.errors import DataError, PruningError
from deconvviz.graph.capture import capture
from deconvviz.graph.channels import ChannelGroups, channel_groups
from deconvviz.graph.digest import architecture
from deconvviz.graph.network import Network
from deconvviz.results.results import digest_of, stamped
from deconvviz.studies.pruning.criteria import CRITERIA
from deconvviz.studies.pruning.options import PruningOptions
from deconvviz.studies.pruning.possible import require_possible
from deconvviz.studies.pruning.result import PruningStudy
from deconvviz.studies.pruning.run import PruningRun
from deconvviz.studies.pruning.slim import Origin, on_device
from deconvviz.studies.pruning.subject import Feeds, PruningSubject, count_that_stays
from deconvviz.types import Ints, Pathlike

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deconvviz.studies.mining.result import Mined
    from deconvviz.studies.pruning.options import PruningKeywords


def prune(
    model: nn.Module,
    images: Images,
    criterion: str = "l1",
    out: Pathlike | None = None,
    *,
    preprocess: Preprocess,
    device: torch.device | str = "cpu",
    origin: Origin | None = None,
    validation: Images | None = None,
    mined: Mined | None = None,
    sources: Mapping[str, Any] | None = None,
    **options: Unpack[PruningKeywords],
) -> tuple[PruningStudy, nn.Module]:
    """Take filters out of a network by a criterion, and measure the network before, without them, and fine-tuned.

    Filters that a residual sum or a depthwise convolution ties go together; see `channel_groups`. The pruned network is
    measured on the same images as the whole one. Where a criterion looks at images, or the network is fine-tuned, the
    measured ones are held out of that.

    With `out`, such as slim.pth, the network's weights are written there, its exported program beside them (.pt2), and
    what was measured (.h5), which is committed as it is found: calling again with the same arguments resumes.

    Args:
        model: a module, in eval mode, that returns scores of classes; it stays as it is.
        images: a packed store, a folder of classes, scenes or images in memory.
        criterion: name of a criterion; `deconvviz prune --list` lists them.
        out: path of the weights; None writes nothing.
        preprocess: how an image becomes the network's input.
        device: where to compute.
        origin: what the file of weights says of the network: its name and arguments.
        validation: other images to measure on, instead of a share of `images`.
        mined: a mined file of the whole network, whose patches the figure shows; None mines the few that it needs.
        sources: where the model and the images came from, for the file.
        options: the fields of `PruningOptions`.

    Returns:
        What was measured, and the pruned network in eval mode, after fine-tuning where there was some.

    Raises:
        LayerNotFound: a layer does not exist; the message lists the nearest names.
        PruningError: a layer cannot be slimmed, which the op that stops it says, or nothing would be left of it.
        DataError: an option out of its range, no labels for a criterion that needs them, or for fine-tuning.
        MismatchError: `out` was written with other settings.

    Source: Li et al. 2017, arXiv 1608.08710; of each criterion its docstring.

    >>> import deconvviz as dv
    >>> loaded = dv.load_model("demo")
    >>> plain = dv.Preprocess.from_dict(loaded.settings)
    >>> about = {"preprocess": plain, "outputs": range(10), "keep": 0.5, "repeats": 0, "shown": 0, "progress": False}
    >>> study, slim = dv.prune(loaded.model, dv.Scenes(10), "l1", **about)
    >>> tuple(loaded.model.conv3.weight.shape), tuple(slim.conv3.weight.shape)
    ((77, 51, 3, 3), (38, 25, 3, 3))
    """
    how, entry = PruningOptions(**options), CRITERIA[criterion]
    outputs_given = how.outputs
    how = replace(how, criterion_options=entry.checked(how.criterion_options))
    require_possible(criterion, entry.needs, how, images, validation, mined)
    entry.require_labels(outputs_given is not None)
    if how.finetune and out is None:
        raise DataError("fine-tuning is kept in a file, from which it resumes; give out, such as slim.pth")
    network = capture(model, preprocess.shape).to(torch.device(device))
    _ = network.readout  # what cannot decide is refused before a file is begun
    groups = channel_groups(network)
    kept_counts, looks = units_kept(groups, how), bool(entry.needs or how.finetune)
    feeds = _feeds(images, validation, preprocess, how, looks)
    outputs = None if outputs_given is None else np.asarray(outputs_given, np.int64)
    config = _config(network, images, feeds, how, criterion)
    config |= {"kept": dict(kept_counts), "held_out": how.held_out if looks and validation is None else None}
    config |= {"measured_by": "decisions" if outputs is None else "labels"}
    config |= {"outputs": None if outputs is None else digest_of(outputs.tolist())}
    about = stamped({"architecture": architecture(network), **place_of(images), **(sources or {})})
    subject = PruningSubject(
        network=network,
        groups=groups,
        chosen=kept_counts,
        feed=feeds.learned if looks else None,
        outputs=outputs,
        run=how,
    )
    run = PruningRun(
        model=on_device(model, torch.device(device)),
        subject=subject,
        entry=entry,
        how=how,
        feeds=feeds,
        origin=origin or Origin(arguments=getattr(model, "arguments", {})),
        out=None if out is None else pathlib.Path(out),
        mined=mined,
    )
    return run.resume(config, about)


def _config(network: Network, images: Images, feeds: Feeds, how: PruningOptions, criterion: str) -> dict[str, Any]:
    """Return what must agree when a pruning is resumed, JSON values."""
    return {
        "model": network.name,
        "model_fingerprint": network.fingerprint,
        "images_fingerprint": images.fingerprint,
        "validation": None if feeds.validation is None else feeds.validation.fingerprint,
        **limited(len(feeds.measured), how.limit),
        "preprocess": feeds.measured.preprocess.as_dict(),
        "criterion": criterion,
        "criterion_options": dict(how.criterion_options),
        "keep": how.keep,
        "result": how.result,
        "limit": how.limit,
        "shares": list(how.shares) if how.sensitivity else [],
        "finetune": how.finetune,
        "lr": how.lr if how.finetune else None,
        "seed": how.seed,
        "precision": how.precision,
        "timed_batch": how.images_at_once(network.device),
    }


def _feeds(
    images: Images, validation: Images | None, preprocess: Preprocess, how: PruningOptions, looks: bool
) -> Feeds:
    """Split the images: where none is looked at, all of them are measured on."""
    labels = labels_of(images)
    learned = measured = np.arange(len(images))
    if validation is not None:
        measured = np.arange(len(validation))
    elif looks:
        learned, measured = split(_classes_to_split(labels, how.held_out), how.held_out, how.seed)
    held = images if validation is None else validation
    measured = measured[spread(labels_of(held)[measured], how.limit or len(measured))]
    room = room_for(len(measured), *preprocess.shape[1:], bytes_of_pixel(held))
    return Feeds(
        Feed(images, preprocess, learned, workers=how.workers),
        Feed(held, preprocess, measured, workers=how.workers, memory=room),
        validation,
    )


def _classes_to_split(labels: Ints, share: float) -> Ints:
    """Return the classes of which a share each is held out: all images are one class where classes are too small."""
    labelled = labels >= 0
    if not labelled.any():
        return np.zeros_like(labels)
    return labels if round(share * np.bincount(labels[labelled]).max()) else np.where(labelled, 0, -1)


def units_kept(groups: ChannelGroups, how: PruningOptions) -> dict[str, int]:
    """Return name of a group that is pruned -> how many of its units stay, in the order of the network.

    Raises:
        LayerNotFound: a layer that is named does not exist.
        PruningError: it cannot be pruned, goes together with another one that has another share, or there is none.
    """
    shares: dict[str, float] = {}
    for layer, share in how.layers.items():
        group = groups.slim(layer) if how.result == "slim" else groups[layer]
        if shares.setdefault(group.name, share) != share:
            raise PruningError(f"layer {layer!r} goes together with {group.name!r}; give both the same share")
    for name in groups.prunable:
        own_share = how.share_of(name, prunable=True)
        if own_share is not None:
            shares.setdefault(name, own_share)
    if not shares:
        reasons = {group.stopped for group in groups.groups.values() if group.stopped}
        raise PruningError(f"no convolution of {groups.network} can be slimmed: {'; '.join(sorted(reasons)[:2])}")
    counts = {name: count_that_stays(share, groups.groups[name].units) for name, share in shares.items()}
    return {name: counts[name] for name in groups.groups if name in counts}
