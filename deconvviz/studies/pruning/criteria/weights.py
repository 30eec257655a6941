"""Criteria that look at the weights alone, and the random one that all are compared with."""

from __future__ import annotations

import hashlib

import numpy as np

from deconvviz.studies.pruning.registry import Scores, criterion
from deconvviz.studies.pruning.subject import PruningSubject
from deconvviz.types import Floats, Mask


@criterion("l1")
def l1(subject: PruningSubject, greedy: bool = False, largest: bool = False) -> Scores:
    """s_f = sum |W_f| over the weights of filter f; of filters that go together the sum over all of them.

    Li et al. 2017, arXiv 1608.08710, section 3.1. greedy: layer by layer from the first, the sums leave out weights on
    channels that have gone already (section 3.2); otherwise each layer by its own weights. That tied filters are added
    is ours: the paper lets the shortcut choose. largest: the largest go first, a baseline.
    """
    sign = -1.0 if largest else 1.0
    if not greedy:
        return subject.by_unit(lambda layer: sign * np.abs(subject.weights(layer)).sum((1, 2)))
    gone: dict[str, Mask] = {}
    scores: dict[str, Floats] = {}
    for name in subject.chosen:
        group = subject.groups.groups[name]
        totals = np.zeros(group.units)
        for layer, units in group.layers.items():
            sizes = np.abs(subject.weights(layer)).sum(2)
            for read, of_input in subject.read_by(layer):
                if read in gone:
                    sizes[:, (of_input >= 0) & gone[read][of_input]] = 0
            np.add.at(totals, units, sign * sizes.sum(1))
        scores[name] = totals
        gone[name] = ~subject.keeps_best(name, totals)
    return scores


@criterion("l2")
def l2(subject: PruningSubject) -> Scores:
    """s_f = sqrt(sum W_f^2) over the weights of filter f; of filters that go together the sum over all of them.

    Li et al. 2017, arXiv 1608.08710, section 4.4, who find it much like l1.
    """
    return subject.by_unit(lambda layer: np.sqrt(np.square(subject.weights(layer)).sum((1, 2))))


@criterion("random")
def random(subject: PruningSubject) -> Scores:
    """Uniform random numbers, drawn from the seed and the name of the layer: what every criterion has to beat.

    The baseline of Li et al. 2017, section 4.4.
    """

    def drawn(name: str) -> Floats:
        address = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
        return np.random.default_rng([subject.run.seed, address]).random(subject.groups.groups[name].units)

    return {name: drawn(name) for name in subject.chosen}
