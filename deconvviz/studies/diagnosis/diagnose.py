"""diagnose: run the checks on a network, and sort what they find by how much it matters."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deconvviz.data.datasets import Images
from deconvviz.data.preprocess import Preprocess
from deconvviz.graph.choose import by_depth
from deconvviz.graph.filters import filters_of
from deconvviz.graph.network import Network
from deconvviz.models.labels import note_chance
from deconvviz.results.results import stamped
from deconvviz.studies.diagnosis.checks import CHECKS, NAMES
from deconvviz.studies.diagnosis.checks.class_channels import leanings
from deconvviz.studies.diagnosis.checks.classes import measured_neighbours
from deconvviz.studies.diagnosis.finding import CheckRun, Finding, Measured
from deconvviz.studies.diagnosis.joining import joined, ordered
from deconvviz.studies.diagnosis.options import DiagnosisOptions
from deconvviz.studies.diagnosis.registry import CheckEntry
from deconvviz.studies.diagnosis.result import CheckSummary, Diagnosis
from deconvviz.studies.diagnosis.subject import Subject
from deconvviz.types import Floats

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deconvviz.studies.diagnosis.options import DiagnosisKeywords


def diagnose(
    network: Network,
    images: Images,
    *,
    preprocess: Preprocess,
    checks: Sequence[str] = (),
    sources: Mapping[str, Any] | None = None,
    **options: Unpack[DiagnosisKeywords],
) -> Diagnosis:
    """Examine a trained network on some images, and say what is wrong with it.

    A check that needs something which is not given, such as the classes of the images or snapshots, is skipped; the
    result says why.

    Args:
        network: a captured network.
        images: what the network is judged by; they should be of the kind that it is meant for.
        preprocess: how an image becomes the network's input.
        checks: names of checks, see `deconvviz diagnose --list`; by default all.
        sources: where network and images came from, to be kept in the result.
        options: the fields of `DiagnosisOptions`: which `layers` to look at and how many images (`limit`); what
            is known about them (`outputs`, `names`, `truth`, `snapshots`); and how it runs (`batch_size`, `workers`,
            `precision`, `seed`, `progress`).

    Returns:
        A `Diagnosis` with the findings, the most severe first.

    Raises:
        DeconvvizError: a check does not exist.
        LayerNotFound: a layer does not exist.
        CaptureError: the preprocessed images do not have the network's input shape.
        DataError: an option is out of its range, there is no image, or a value of the network is not finite.

    Source: Zeiler and Fergus 2013, section 4.1 and figure 6, find such things by looking. Each check names its own
    source.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 20, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 2))
    >>> model[0].bias.data[:5] = -1000  # these filters never fire
    >>> network, preprocess = dv.capture(model.eval(), (3, 32, 32)), dv.Preprocess(resize=32, crop=32)
    >>> diagnosis = dv.diagnose(network, dv.Scenes(8), preprocess=preprocess, checks=["dead"], progress=False)
    >>> [(finding.severity, finding.layer, finding.channels) for finding in diagnosis.findings]
    [('warning', '1', (0, 1, 2, 3, 4))]
    """
    return diagnose_subject(Subject(network, images, preprocess, DiagnosisOptions(**options)), checks, sources)


def diagnose_subject(
    subject: Subject, checks: Sequence[str] = (), sources: Mapping[str, Any] | None = None
) -> Diagnosis:
    """Run checks on a subject; what it has measured may be read from it before and afterwards.

    Args:
        subject: a network, the images and the options.
        checks: as for `diagnose`.
        sources: as for `diagnose`.

    Returns:
        The diagnosis; errors are those of `diagnose`.
    """
    entries = [CHECKS[name] for name in dict.fromkeys(checks)] or [CHECKS[name] for name in NAMES]
    runs: list[tuple[CheckEntry, CheckRun, float]] = []
    with subject.options.bar("check", len(entries), "diagnosis") as bar:
        for entry in entries:
            bar.set_postfix_str(entry.name)
            began = time.monotonic()
            run = entry(subject)
            runs.append((entry, run, round(time.monotonic() - began, 3)))
            bar.update()
    names = [entry.name for entry in entries]
    findings = joined(ordered([finding for _, run, _ in runs for finding in run.findings], NAMES))
    return Diagnosis(
        config=_config(subject, names),
        sources=stamped(sources),
        checks=tuple(_summary(entry, run, findings, seconds) for entry, run, seconds in runs),
        findings=tuple(findings),
        classes=measured_neighbours(subject) if "confused" in names else (),
        leanings=leanings(subject) if "class-channels" in names else (),
    )


def first_filters(network: Network) -> Floats | None:
    """Return the filters of the first convolution as pictures, where they read three colours.

    Returns:
        float64 [filters, h, w, 3]; None where the network does not begin with a convolution of three colours that is
        larger than a pixel.
    """
    names = by_depth(network)
    filters = filters_of(network, names[0]) if names else None
    if filters is None or filters.weights.shape[1] != 3 or filters.weights.shape[2] == 1:
        return None
    return filters.as_pictures


def _summary(entry: CheckEntry, run: CheckRun, findings: Sequence[Finding], seconds: float) -> CheckSummary:
    of_check = [finding for finding in findings if finding.check == entry.name]
    measured = run.measured or _strongest(of_check)
    return CheckSummary(
        name=entry.name,
        title=entry.title,
        about=entry.docstring,
        findings=len(of_check),
        skipped=str(run.skipped or ""),
        value=measured.value,
        unit=measured.unit,
        seconds=seconds,
    )


def _strongest(findings: Sequence[Finding]) -> Measured:
    """Return the value of the finding farthest beyond its threshold, the first one."""
    first = next(iter(findings), None)
    return Measured(value=None, unit="") if first is None else Measured(value=float(first.value), unit=first.unit)


def _config(subject: Subject, checks: Sequence[str]) -> dict[str, Any]:
    """Return which network, images and settings a diagnosis is of."""
    network, options, labelled = subject.network, subject.options, subject.targets >= 0
    accuracy = subject.accuracy
    if accuracy is not None:
        note_chance(accuracy, int(labelled.sum()), len({*subject.targets[labelled].tolist()}))
    return {
        "model": network.name,
        "model_fingerprint": network.fingerprint,
        "parameters": network.parameters.get("", 0),
        "input": list(network.input_shape),
        "images_fingerprint": subject.images.fingerprint,
        "images": len(subject.feed),
        "classes": len(subject.classes),
        "accuracy": accuracy,
        "labelled": int(labelled.sum()),
        "layers": list(subject.layers),
        "checks": list(checks),
        "preprocess": subject.preprocess.as_dict(),
        "snapshots": None if options.snapshots is None else list(options.snapshots.epochs),
        "truth_fingerprint": None if options.truth is None else options.truth.fingerprint,
        "seed": options.seed,
    }


__all__ = ["CHECKS", "NAMES", "diagnose", "diagnose_subject", "first_filters"]
