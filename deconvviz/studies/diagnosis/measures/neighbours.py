"""For each class the other class that it is most often taken for, and the filters that respond to both."""

from __future__ import annotations

import numpy as np
import torch

from deconvviz.models.labels import class_label, names_of_outputs
from deconvviz.studies.diagnosis.finding import Neighbour
from deconvviz.studies.diagnosis.subject import Subject
from deconvviz.types import Floats

ABOVE = 1.0  # standard deviations over the classes: a filter this far above its mean responds to a class


def neighbours(subject: Subject) -> tuple[Neighbour, ...]:
    """Return the neighbour of every class that has images, in the order of the classes.

    The neighbour is the other output that the class's images are most often taken for; of several, the one that is
    given the highest mean probability. The result is empty where the subject lacks labels or outputs.
    """
    logits, targets = subject.logits, subject.targets
    if logits is None or subject.options.outputs is None or logits.shape[1] < 2 or not (targets >= 0).any():
        return ()
    readout, decisions = subject.network.readout, logits.argmax(1)
    probabilities = readout.probabilities(torch.from_numpy(logits.astype(np.float64))).numpy()
    z, layer = _standardised(subject)
    class_of = _classes_by_output(subject)
    rows = []
    for number in np.unique(subject.labels[targets >= 0]).tolist():
        images, output = np.flatnonzero(subject.labels == number), int(subject.options.outputs[number])
        counts = np.bincount(decisions[images], minlength=logits.shape[1])
        mean = probabilities[images].mean(0)
        right = int(counts[output])
        counts[output], mean[output] = -1, -1.0
        other = int(np.lexsort((mean, counts))[-1])
        rows.append(
            Neighbour(
                name=name_of_output(subject, output),
                images=len(images),
                right=right,
                neighbour=name_of_output(subject, other),
                taken=int(counts[other]),
                probability=float(mean[other]),
                layer=layer,
                shared=_shared(z, number, class_of.get(other)),
                place=number,
                output=other,
                neighbour_images=int((subject.labels == class_of[other]).sum()) if other in class_of else 0,
            )
        )
    return tuple(rows)


def _standardised(subject: Subject) -> tuple[Floats, str]:
    """Return the mean responses to each class in standard deviations above each filter's mean over the classes.

    Returns:
        float64 [classes, channels], NaN for a class without images; and the layer, the last one with rows and columns.
    """
    with_maps = [name for name in subject.layers if max(subject.network.layer(name).units[1:]) > 1]
    layer = (with_maps or subject.layers)[-1]
    means = subject.responses[layer].by_class(subject.labels, len(subject.classes))
    present = ~np.isnan(means[:, 0])
    centred, spread = means[present] - means[present].mean(0), means[present].std(0)
    z = np.full_like(means, np.nan)
    z[present] = np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0)
    return z, layer


def _shared(z: Floats, first: int, second: int | None) -> tuple[int, ...]:
    """Return the channels that respond to both classes, the strongest in both first."""
    if second is None:
        return ()
    both = np.minimum(z[first], z[second])  # NaN for a class without images, which is above nothing
    order = np.argsort(-np.nan_to_num(both, nan=-np.inf), kind="stable")
    return tuple(int(channel) for channel in order if both[channel] >= ABOVE)


def name_of_output(subject: Subject, output: int) -> str:
    """Name an output as the network does, else as the images do; the subject has outputs.

    The class of the images is added where several outputs have the name, as "crane" in ImageNet, and it is known.
    """
    options, classes = subject.options, subject.classes
    class_of = _classes_by_output(subject)
    names = names_of_outputs(subject.scores, options.names, classes, options.outputs)
    of_network = names[output] if output < len(names) else ""
    of_images = str(classes[class_of[output]]) if output in class_of else ""
    if of_network and of_images and names.count(of_network) > 1:
        return f"{of_network} ({of_images})"
    return of_network or of_images or class_label(output)


def _classes_by_output(subject: Subject) -> dict[int, int]:
    """Return which class of the images each output stands for: output -> number of the class."""
    assert subject.options.outputs is not None
    return {int(output): number for number, output in enumerate(subject.options.outputs)}
