"""Criteria that look at images: what a filter responds to them, and what the network is without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deconvviz.arrays import evenly
from deconvviz.cam.methods.shared import require_number
from deconvviz.graph.gates import GatedNetwork
from deconvviz.graph.ops import is_rectified
from deconvviz.metrics.intervals import DUPLICATE, correlations
from deconvviz.run.responses import LayerResponses, gather
from deconvviz.studies.pruning.registry import Scores, checks, criterion
from deconvviz.studies.pruning.subject import PruningSubject
from deconvviz.types import Floats, Ints

DEAD, REPEATED, BLIND, ALIVE = 0.0, 1.0, 2.0, 3.0  # kinds of filters, in the order in which they go


@criterion("activity", needs="images")
def activity(subject: PruningSubject) -> Scores:
    """Dead filters go first, then those that repeat a stronger one, then class-blind ones; within a kind the weakest.

    s_f = 0, 1, 2, or 3 for all others, plus the share of filters with a lower mean response. Dead: the same value
    everywhere, after the rectifier. Repeated: a correlation of at least 0.95 with a filter whose mean response is
    higher, or equal and whose number is higher. Class-blind: a class selectivity (Morcos et al. 2018) that shuffled
    labels reach too; it needs labels, and without them no filter counts as blind. Filters that go together: the sum.
    The kinds are those of `diagnose`; that the dead go first is network trimming (Hu et al. 2016, arXiv 1607.03250),
    the rest is ours.
    """
    groups = (subject.groups.groups[name] for name in subject.chosen)
    layers = {layer: subject.value_behind(layer) for group in groups for layer in group.layers}
    assert subject.feed is not None
    values = list(dict.fromkeys(layers.values()))
    responses, _ = gather(subject.network, subject.batches(), len(subject.feed), values, subject.run)
    scores = {value: _kinds(subject, value, responses[value]) for value in values}
    return subject.by_unit(lambda layer: scores[layers[layer]])


def _kinds(subject: PruningSubject, value: str, responses: LayerResponses) -> Floats:
    """Return the score of each channel of a value, float64 [channels]."""
    means = np.abs(responses.means).mean(0, dtype=np.float64)
    weaker = np.searchsorted(np.sort(means), means) / len(means)
    places = np.argsort(np.argsort(means, kind="stable"), kind="stable")  # of equal ones the later counts as stronger
    kinds = np.full(len(means), ALIVE)
    rectified = is_rectified(subject.network.layer(value).node) and responses.lowest.min() >= 0
    if subject.labelled and rectified:  # the index is of means that are not negative, which SiLU's or LeakyReLU's are
        rng = np.random.default_rng([subject.run.seed, 11])
        index, by_chance = responses.selectivities(subject.targets, int(subject.targets.max()) + 1, rng)
        kinds[index <= by_chance] = BLIND
    alike = correlations(responses.samples) >= DUPLICATE
    kinds[(alike & (places[None] > places[:, None])).any(1)] = REPEATED
    kinds[responses.constant] = DEAD
    score: Floats = kinds + weaker
    return score


@criterion("lesion", needs="labels")
def lesion(subject: PruningSubject, count: int = 32) -> Scores:
    """s_f = mean over images of loss(network without filter f) - loss(network), in nats, of each image's class.

    The oracle of Molchanov et al. 2017, arXiv 1611.06440, section 2.2, with its sign; as `lesions` measures it, but for
    filters that go together at once. count: of so many images, the first of a spread. It takes a forward pass,
    from the first of its layers on, for each filter and image.
    """
    gated = GatedNetwork(subject.network, subject.groups, list(subject.chosen))
    scores: dict[str, Floats] = {}
    bar = subject.run.bar("filter", sum(gated.groups.values()), "lesions")
    with torch.inference_mode(), bar:
        images = _first_images(subject, count)
        targets = torch.cat([targets for _, targets in images])
        for name, units in gated.groups.items():
            # What comes before the group runs once for all of its filters.
            outputs = [gated.behind(x, name) for x, _ in images]
            whole = torch.ones(units, device=subject.network.device)
            before = _mean_loss(subject, outputs, whole, targets)
            losses = []
            for unit in range(units):
                without = whole.clone()
                without[unit] = 0
                losses.append(_mean_loss(subject, outputs, without, targets))
                bar.update(1)
            scores[name] = (torch.stack(losses) - before).cpu().numpy()
    return scores


@checks("lesion")
def check(count: object) -> None:
    """Raise DataError where the number of images is not a whole number above 0."""
    require_number("count", count, 1, whole=True)


def _first_images(subject: PruningSubject, count: int) -> list[tuple[Tensor, Tensor]]:
    """Return batches of images with the outputs for their classes, `count` images spread over the feed."""
    assert subject.feed is not None
    spread = evenly(len(subject.feed), count)
    batches = []
    for places, x in subject.batches():
        taken = np.isin(places, spread)
        if taken.any():
            batches.append((x[torch.from_numpy(taken)], _targets(subject, places[taken])))
    return batches


def _targets(subject: PruningSubject, places: Ints) -> Tensor:
    return torch.from_numpy(subject.targets[places]).to(subject.network.device)


def _mean_loss(
    subject: PruningSubject, outputs: list[Callable[[Tensor], Any]], factors: Tensor, targets: Tensor
) -> Tensor:
    """Return the mean loss with these factors, float64 on the device: nothing waits for it."""
    readout = subject.network.readout
    shares = torch.cat([readout.log_probabilities(readout.scores(output(factors))) for output in outputs])
    return -shares.gather(1, targets[:, None])[:, 0].double().mean()
