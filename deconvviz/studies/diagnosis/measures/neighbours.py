"""For each class the one it is most often taken for, and the filters that respond to both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deconvviz.results.files import Pathlike
from deconvviz.results.tables import write_csv
from deconvviz.studies.diagnosis.subject import Subject

ABOVE = 1.0  # standard deviations over the classes: a filter this far above its mean for a class responds to it
COLUMNS = ("class", "images", "right", "neighbour", "taken_for_it", "probability", "layer", "shared_filters")


@dataclass(frozen=True)
class Neighbour:
    """One class of the images, and its most confused neighbour.

    Attributes:
        name: of the class; images: how many were looked at; right: how many are named rightly.
        neighbour: the other output that they are taken for most often, of equal ones that of the highest probability.
        taken: how many are taken for it; probability: the mean that they are given for it.
        layer, shared: filters of the last layer with maps that respond to both, the strongest in both first.
    """

    name: str
    images: int
    right: int
    neighbour: str
    taken: int
    probability: float
    layer: str
    shared: tuple[int, ...]
    place: int  # of the class among the images' classes
    output: int  # of the neighbour

    @property
    def share(self) -> float:
        """Part of the class's images that are taken for the neighbour."""
        return self.taken / self.images


def neighbours(subject: Subject) -> tuple[Neighbour, ...]:
    """Return the most confused neighbour of every class that has images, in the order of the classes.

    Empty where no class is known, or the network does not return one score for each.
    """
    logits, targets = subject.logits, subject.targets
    if logits is None or subject.outputs is None or logits.shape[1] < 2 or not (targets >= 0).any():
        return ()
    shares, named = _softmax(logits.astype(np.float64)), logits.argmax(1)
    z, layer = _responding(subject)
    place_of = {int(output): place for place, output in enumerate(subject.outputs)}
    found = []
    for place in np.unique(subject.labels[targets >= 0]).tolist():
        rows, own = np.flatnonzero(subject.labels == place), int(subject.outputs[place])
        counts = np.bincount(named[rows], minlength=logits.shape[1])
        mean = shares[rows].mean(0)
        counts[own], mean[own] = -1, -1.0
        other = int(np.lexsort((mean, counts))[-1])
        right = int((named[rows] == own).sum())
        shared = _shared(z, place, place_of.get(other))
        taken, probability = int(counts[other]), float(mean[other])
        found.append(
            Neighbour(
                _name(subject, own, place_of),
                len(rows),
                right,
                _name(subject, other, place_of),
                taken,
                probability,
                layer,
                shared,
                place,
                other,
            )
        )
    return tuple(found)


def save_neighbours(found: Sequence[Neighbour], path: Pathlike) -> None:
    """Write a row for each class; taken_for_it and right are numbers of images."""
    rows = (
        (n.name, n.images, n.right, n.neighbour, n.taken, n.probability, n.layer, " ".join(map(str, n.shared)))
        for n in found
    )
    write_csv(path, COLUMNS, rows)


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(raised / raised.sum(1, keepdims=True))


def _responding(subject: Subject) -> tuple[NDArray[np.float64], str]:
    """Return how far above its mean each filter of the last maps responds to each class, [classes, filters]."""
    with_maps = [name for name in subject.layers if max(subject.network.layer(name).units[1:]) > 1]
    layer = (with_maps or subject.layers)[-1]
    means = subject.responses[layer].by_class(subject.labels, len(subject.classes))
    seen = ~np.isnan(means[:, 0])
    spread = means[seen].std(0)
    z = np.full_like(means, np.nan)
    z[seen] = np.divide(means[seen] - means[seen].mean(0), spread, out=np.zeros_like(means[seen]), where=spread > 0)
    return z, layer


def _shared(z: NDArray[np.float64], place: int, other: int | None) -> tuple[int, ...]:
    if other is None:
        return ()
    both = np.minimum(z[place], z[other])  # of a class without images NaN, which is not above anything
    order = np.argsort(-np.nan_to_num(both, nan=-np.inf), kind="stable")
    return tuple(int(channel) for channel in order if both[channel] >= ABOVE)


def _name(subject: Subject, output: int, place_of: dict[int, int]) -> str:
    """Name an output as the network does, as the images do, or both where they differ."""
    named = subject.names[output] if output < len(subject.names) else ""
    own = str(subject.classes[place_of[output]]) if output in place_of else ""
    return f"{named} ({own})" if named and own and named != own else named or own or str(output)
