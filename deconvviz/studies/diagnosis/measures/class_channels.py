"""Which channels of the last maps each class leans on, and which wrong decisions were made by foreign channels.

S_k(c) is the sum over the places where channel k is active (above zero) of ReLU(dz_c / dA_k). Of maps that come from a
rectifier this is the gradient of what the rectifier was given, where the authors take it: at the convolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconvviz.graph.choose import last_maps
from deconvviz.graph.computing import computing
from deconvviz.metrics.class_channels import channel_strengths, class_masks, score_gradient, surest
from deconvviz.studies.diagnosis.subject import Subject, remembered
from deconvviz.types import Floats, Ints, Mask

MOST = 50  # images of a class: those that the network is surest of, as in the paper
ENOUGH = 5  # images of a class that are classified correctly: with fewer, a wrong decision is compared with nothing
USUAL = 0.95  # of the correct decisions have a share of foreign evidence of at most the usual one


@dataclass(frozen=True, kw_only=True, eq=False)
class WrongDecisions:
    """The wrong decisions about images of classes with at least ENOUGH correct ones, and what is usual of correct ones.

    The evidence of a channel for a class is the sum over its active places of ReLU(dz / dA) * A, z being the score of
    the class. Foreign evidence comes from channels that the image's own class does not lean on.

    Attributes:
        places: int64 [n], the images.
        rows: int64 [n], the class of each, as a row of `ClassChannels`.
        outputs: int64 [n], the output that the network decided for.
        foreign: float64 [n], the share of foreign evidence for that output, in 0..1.
        evidence: float32 [n, K], the evidence for that output.
        usual: the share that USUAL of the correct decisions do not pass; each of these is compared with the channels
            that the other images of its class show. NaN where there is none.
    """

    places: Ints
    rows: Ints
    outputs: Ints
    foreign: Floats
    evidence: NDArray[np.float32]
    usual: float


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassChannels:
    """Which channels of a layer each class leans on; C classes of which there are images, K channels.

    Attributes:
        layer: name of the layer, the last one with rows and columns.
        classes: int64 [C], the number of each class among those of the images.
        outputs: int64 [C], the output that stands for it.
        images: int64 [C], how many images were sent back, at most MOST.
        right: int64 [C], how many of the class's images are classified correctly; where none is, the others were sent
            back, for the score of their class.
        strengths: float64 [C, K], the mean of S over these images.
        masks: bool [C, K], the channels that the class leans on; see `class_masks`.
        wrong: the wrong decisions.
    """

    layer: str
    classes: Ints
    outputs: Ints
    images: Ints
    right: Ints
    strengths: Floats
    masks: Mask
    wrong: WrongDecisions

    def row_of(self, output: int) -> int | None:
        """Return the row of the class that an output stands for; None where there are no images of it."""
        rows = np.flatnonzero(self.outputs == output)
        return int(rows[0]) if len(rows) else None

    @property
    def shares(self) -> Floats:
        """float64 [C, K], the share of each channel in the strength of a class; zeros where a class has no strength."""
        total = self.strengths.sum(1, keepdims=True)
        return np.asarray(np.divide(self.strengths, total, out=np.zeros_like(self.strengths), where=total > 0))

    @property
    def overlaps(self) -> Floats:
        """float64 [C, C], of the channels that either of two classes leans on, the share that both do; NaN for none."""
        masks = self.masks.astype(np.float64)
        both, sizes = masks @ masks.T, masks.sum(1)
        either = sizes[:, None] + sizes - both
        return np.asarray(np.divide(both, either, out=np.full_like(both, np.nan), where=either > 0))


@remembered
def class_channels(subject: Subject) -> ClassChannels:
    """Send the images that the network is surest of back to the last maps, and those that it takes for another class.

    The subject must have labels and outputs.

    Raises:
        LayerNotFound: the network has no layer with rows and columns before its classifier.
    """
    assert subject.logits is not None
    layer, targets = last_maps(subject.network), subject.targets
    decisions = subject.logits.argmax(1)
    scores = torch.from_numpy(subject.logits.astype(np.float64))
    certainty = subject.network.readout.probabilities(scores).numpy()
    outputs = np.unique(targets[targets >= 0])
    right = np.array([int(((targets == output) & (decisions == output)).sum()) for output in outputs])
    surest_images = [surest(certainty[:, n], decisions == n, targets == n, MOST) for n in outputs]
    rows = np.repeat(np.arange(len(outputs)), list(map(len, surest_images)))
    places = np.concatenate(surest_images)
    strengths, evidence = _sent_back(subject, layer, places, outputs[rows])
    sums = np.zeros((len(outputs), strengths.shape[1]))
    np.add.at(sums, rows, strengths)
    images = np.bincount(rows, minlength=len(outputs))
    masks = class_masks(torch.from_numpy(sums)).numpy()
    often_right = right[rows] >= ENOUGH
    usual = _usual(strengths[often_right], evidence[often_right], rows[often_right], sums)
    return ClassChannels(
        layer=layer,
        classes=np.array([int(subject.labels[targets == output][0]) for output in outputs]),
        outputs=outputs,
        images=images,
        right=right,
        strengths=sums / images[:, None],
        masks=masks,
        wrong=_wrong(subject, layer, certainty, masks, (outputs, right), usual),
    )


def _wrong(
    subject: Subject, layer: str, certainty: Floats, masks: Mask, of_rows: tuple[Ints, Ints], usual: float
) -> WrongDecisions:
    """Send the wrong decisions back, of each class the surest ones."""
    assert subject.logits is not None
    outputs, right = of_rows
    decisions, targets = subject.logits.argmax(1), subject.targets
    wrong_images = []
    for output in outputs[right >= ENOUGH]:
        places = np.flatnonzero((targets == output) & (decisions != output))
        wrong_images.append(places[np.argsort(-certainty[places, decisions[places]], kind="stable")][:MOST])
    places = np.concatenate([*wrong_images, np.zeros(0, np.int64)]).astype(np.int64)
    rows = np.searchsorted(outputs, targets[places])
    _, evidence = _sent_back(subject, layer, places, decisions[places])
    return WrongDecisions(
        places=places,
        rows=rows,
        outputs=decisions[places].astype(np.int64),
        foreign=_foreign(evidence, masks[rows]),
        evidence=evidence,
        usual=usual,
    )


def _usual(strengths: NDArray[np.float32], evidence: NDArray[np.float32], rows: Ints, sums: Floats) -> float:
    """Return the share of foreign evidence that USUAL of the correct decisions do not pass; NaN where there is none.

    Foreign is what the other images of the class do not lean on: an image's own gradient would speak for itself.
    """
    if not len(rows):
        return float("nan")
    others = class_masks(torch.from_numpy(np.maximum(sums[rows] - strengths, 0))).numpy()
    return float(np.quantile(_foreign(evidence, others), USUAL))


def _foreign(evidence: NDArray[np.float32], masks: Mask) -> Floats:
    """Return the share of the evidence [n, K] outside masks [n, K]; 0 where there is no evidence."""
    total = evidence.sum(1, dtype=np.float64)
    outside = np.where(masks, 0, evidence).sum(1, dtype=np.float64)
    return np.asarray(np.divide(outside, total, out=np.zeros_like(total), where=total > 0))


def _sent_back(
    subject: Subject, layer: str, places: Ints, outputs: Ints
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return S and the evidence of each channel for one output of each image, both float32 [n, K].

    One pass forward and one from the output back to the layer; nothing before the layer is differentiated.
    """
    network, channels = subject.network, subject.network.layer(layer).units[0]
    sent_back = torch.zeros(2, len(places), channels, device=network.device)
    outputs_on_device, start = torch.from_numpy(outputs.astype(np.int64)).to(network.device), 0
    for batch, x in subject.watched("channels of classes", places):
        stop = start + len(batch)
        sent_back[:, start:stop] = _of_batch(subject, layer, x, outputs_on_device[start:stop])
        start = stop
    strengths, evidence = sent_back.cpu().numpy()
    return strengths, evidence


def _of_batch(subject: Subject, layer: str, x: Tensor, outputs: Tensor) -> Tensor:
    network = subject.network
    value, tail = network.split(layer, x)
    with torch.enable_grad(), computing("fp32"):
        value = value.detach().requires_grad_()
        gradient = score_gradient(network.readout.scores(tail(value)), outputs, value)
    g, maps = network.maps(layer, gradient), network.maps(layer, value.detach())
    return torch.stack([channel_strengths(g * (maps > 0)), channel_strengths(g * maps.relu())])
