"""The diagnosis: every check on one network, its findings sorted by how much they matter."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from deconvviz.choices import SEVERITIES
from deconvviz.data.datasets import Images
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.truth import Truth
from deconvviz.errors import DataError, LayerNotFound
from deconvviz.graph.choose import by_depth, last_maps
from deconvviz.graph.network import Network
from deconvviz.results.results import versions
from deconvviz.results.snapshots import Snapshots
from deconvviz.studies.diagnosis.checks import classes as checks_classes
from deconvviz.studies.diagnosis.checks import filters as checks_filters
from deconvviz.studies.diagnosis.checks import network as checks_network
from deconvviz.studies.diagnosis.checks import responses as checks_responses
from deconvviz.studies.diagnosis.checks import spectrum as checks_spectrum
from deconvviz.studies.diagnosis.checks import training as checks_training
from deconvviz.studies.diagnosis.finding import CHECKS, Finding
from deconvviz.studies.diagnosis.measures.filters import filters_of
from deconvviz.studies.diagnosis.result import Diagnosis, Made
from deconvviz.studies.diagnosis.subject import LIMIT, Subject

# Importing these registers the checks; this is the order in which they are made and told.
MODULES = (checks_filters, checks_spectrum, checks_responses, checks_network, checks_training, checks_classes)
CHECKED = {module.__name__: place for place, module in enumerate(MODULES)}
NAMES = tuple(sorted(CHECKS, key=lambda name: CHECKED.get(CHECKS[name].function.__module__, len(CHECKED))))


def diagnose(
    network: Network,
    images: Images,
    *,
    preprocess: Preprocess,
    checks: Sequence[str] = (),
    layers: Sequence[str] = (),
    outputs: NDArray[np.int64] | None = None,
    names: Sequence[str] = (),
    truth: Truth | None = None,
    snapshots: Snapshots | None = None,
    limit: int | None = LIMIT,
    batch_size: int | None = None,
    workers: int = 2,
    seed: int = 0,
    progress: bool = True,
    sources: Mapping[str, Any] | None = None,
) -> Diagnosis:
    """Examine a trained network on some images, and say what is wrong with it.

    A check that asks for what is not there (classes, snapshots) is skipped, with the reason.

    Args:
        checks: some of `NAMES`; by default all.
        layers: to look at; by default every convolution and linear layer after its rectifier, but the classifier.
        outputs: int64 [classes], the output that stands for each class of the images; see `models.labels.outputs_of`.
        names: of the network's outputs. truth: where the objects are, see `open_truth`.
        snapshots: of the network's training.
        limit: images to take, evenly over all; None for all.
        seed: of sampled positions and signs.

    Raises:
        DeconvvizError: no such check. LayerNotFound, CaptureError, DataError: a layer that does not exist, images of
            another shape, values that are not finite.

    Source: Zeiler and Fergus 2013, section 4.1 and figure 6, find such things by looking; each check names its own.
    """
    chosen = [CHECKS[name] for name in dict.fromkeys(checks)] or [CHECKS[name] for name in NAMES]
    subject = Subject(
        network,
        images,
        preprocess,
        outputs=outputs,
        names=tuple(names),
        truth=truth,
        snapshots=snapshots,
        layers=tuple(layers),
        limit=limit,
        batch_size=batch_size,
        workers=workers,
        seed=seed,
        progress=progress,
    )
    findings: list[Finding] = []
    made = []
    with tqdm(chosen, unit="check", desc="diagnosis", disable=not progress) as bar:
        for entry in bar:
            bar.set_postfix_str(entry.name)
            begin = time.monotonic()
            found = [*entry(subject)]
            value, unit = MEASURED[entry.name](subject) if entry.name in MEASURED else _strongest(found)
            seconds = round(time.monotonic() - begin, 3)
            skipped = subject.skipped.get(entry.name, "")
            made.append(Made(entry.name, entry.title, entry.docstring, len(found), skipped, value, unit, seconds))
            findings += found
    asked = {entry.name for entry in chosen}
    classes = checks_classes.measured_neighbours(subject) if "confused" in asked else ()
    config = _config(subject, [entry.name for entry in chosen])
    return Diagnosis(
        tuple(sorted(findings, key=_weight)), tuple(made), config, {"versions": versions(), **(sources or {})}, classes
    )


def first_filters(network: Network) -> NDArray[np.float64] | None:
    """Return the first convolution's filters, float64 [filters, h, w, 3]; None where it does not read three colours."""
    names = by_depth(network)
    found = filters_of(network, names[0]) if names else None
    if found is None or found.weights.shape[1] != 3 or found.weights.shape[2] == 1:
        return None
    return np.ascontiguousarray(found.weights.transpose(0, 2, 3, 1))


def _weight(finding: Finding) -> tuple[int, float, int]:
    """Sort by severity, then by how far a finding is beyond its threshold, then in the order of the checks."""
    both = (finding.value, finding.threshold)
    beyond = abs(math.log(finding.value / finding.threshold)) if min(both) > 0 and math.isfinite(max(both)) else 0.0
    return -SEVERITIES.index(finding.severity), -beyond, NAMES.index(finding.check)


def _strongest(found: Sequence[Finding]) -> tuple[float | None, str]:
    """Return the value of the finding farthest beyond its threshold."""
    first = min(found, key=_weight, default=None)
    return (None, "") if first is None else (float(first.value), first.unit)


def _dead(subject: Subject) -> tuple[float | None, str]:
    shares = [float(found.constant.mean()) for found in subject.responses.values()]
    return max(shares, default=None), "share of a layer's filters, the worst layer"


def _aliasing(subject: Subject) -> tuple[float | None, str]:
    ratios = [shift.ratio for shift in checks_network.measured_shifts(subject)]
    return max(ratios, default=None), "times the change of the anti-aliased layer, the worst layer"


def _field(subject: Subject) -> tuple[float | None, str]:
    try:
        field = checks_network.measured_field(subject, last_maps(subject.network))
    except (LayerNotFound, DataError):
        return None, ""
    return float(field.effective), "px, effective field of the last maps"


def _removable(subject: Subject) -> tuple[float | None, str]:
    if "removable" in subject.skipped and not subject.skipped["removable"].startswith("in part"):
        return None, ""
    uppers = [100 * each.interval[1] for each in checks_training.measured_removals(subject)]
    return min(uppers, default=None), "points of accuracy at most, the layer that costs least"


def _unsettled(subject: Subject) -> tuple[float | None, str]:
    found = checks_training.measured_settling(subject)
    if not found:
        return None, ""
    shares = [100 * float((layer.pace >= checks_training.PACE).mean()) for layer in found]
    return max(shares), "% of a layer's filters, the worst layer"


def _confused(subject: Subject) -> tuple[float | None, str]:
    found = checks_classes.measured_neighbours(subject)
    shares = [100 * one.share for one in found if one.images >= checks_classes.ENOUGH]
    return max(shares, default=None), "% of a class's images, the worst class"


MEASURED: dict[str, Callable[[Subject], tuple[float | None, str]]] = {
    "dead": _dead,
    "aliasing": _aliasing,
    "receptive-field": _field,
    "removable": _removable,
    "unsettled": _unsettled,
    "confused": _confused,
}


def _config(subject: Subject, checks: Sequence[str]) -> dict[str, Any]:
    network, labels = subject.network, subject.targets
    known = labels >= 0
    accuracy = None
    if subject.logits is not None and known.any():
        accuracy = float((subject.logits[known].argmax(1) == labels[known]).mean())
    return {
        "model": network.name,
        "model_fingerprint": network.fingerprint,
        "parameters": network.parameters.get("", 0),
        "input": list(network.input_shape),
        "images_fingerprint": subject.images.fingerprint,
        "images": len(subject.chosen),
        "classes": len(subject.classes),
        "accuracy": accuracy,
        "layers": list(subject.layers),
        "checks": list(checks),
        "preprocess": subject.preprocess.as_dict(),
        "snapshots": list(subject.snapshots.epochs) if subject.snapshots else None,
        "truth_fingerprint": subject.truth.fingerprint if subject.truth else None,
        "seed": subject.seed,
    }


__all__ = ["CHECKS", "MEASURED", "NAMES", "Diagnosis", "Made", "diagnose", "first_filters"]
