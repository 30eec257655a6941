"""What a diagnosis leaves: the findings, what could not be checked, and how it is written as JSON and CSV."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from deconvviz.choices import SEVERITIES, Severity
from deconvviz.results.files import Pathlike, atomic
from deconvviz.results.tables import write_csv
from deconvviz.studies.diagnosis.finding import Evidence, Finding
from deconvviz.studies.diagnosis.measures.neighbours import Neighbour

SCHEMA = 1
COLUMNS = ("severity", "check", "layer", "channels", "value", "threshold", "unit", "what", "source", "remedy")
_TEXT, _NUMBER, _WHOLE = {"type": "string"}, {"type": ["number", "null"]}, {"type": "integer"}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


def _list(items: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


# The structure of the JSON file, as a JSON Schema (draft 2020-12). A number that is not finite is null. Of pictures
# ("tiles") the evidence tells the labels only; they are in the page and its PNG files.
JSON_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "deconvviz diagnosis",
    **_object(
        kind={"const": "diagnosis"},
        schema={"const": SCHEMA},
        config={"type": "object"},
        sources={"type": "object"},
        worst={"enum": [*SEVERITIES, None]},
        checks=_list(
            _object(
                name=_TEXT,
                title=_TEXT,
                about=_TEXT,
                findings=_WHOLE,
                skipped=_TEXT,
                value=_NUMBER,
                unit=_TEXT,
                seconds=_NUMBER,
            )
        ),
        findings=_list(
            _object(
                check=_TEXT,
                severity={"enum": [*SEVERITIES]},
                layer=_TEXT,
                channels=_list(_WHOLE),
                what=_TEXT,
                value=_NUMBER,
                threshold=_NUMBER,
                unit=_TEXT,
                source=_TEXT,
                remedy=_TEXT,
                evidence=_object(
                    kind={"enum": ["bars", "line", "histogram", "tiles", "scatter"]},
                    arrays={"type": "object"},
                    labels=_list(_TEXT),
                    x=_TEXT,
                    y=_TEXT,
                    mark=_NUMBER,
                ),
            )
        ),
        classes=_list(
            _object(
                name=_TEXT,
                images=_WHOLE,
                right=_WHOLE,
                neighbour=_TEXT,
                taken=_WHOLE,
                probability=_NUMBER,
                layer=_TEXT,
                shared=_list(_WHOLE),
                place=_WHOLE,
                output=_WHOLE,
            )
        ),
    ),
}


@dataclass(frozen=True)
class Made:
    """One check that was asked for.

    name, title, about: of the check. findings: how many it made. skipped: why it, or a part of it, could not be made,
    else empty. value, unit: what it measured, also below its threshold, where it can be told in one number; else None.
    seconds: that it took.
    """

    name: str
    title: str
    about: str
    findings: int
    skipped: str
    value: float | None
    unit: str
    seconds: float


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found.

    Attributes:
        findings: the most severe first.
        checks: those that were asked for, in their order.
        config: which network, images and settings; sources: where they came from.
        classes: each class's most confused neighbour, where the check was made.
    """

    findings: tuple[Finding, ...]
    checks: tuple[Made, ...]
    config: dict[str, Any]
    sources: dict[str, Any] = field(default_factory=dict)
    classes: tuple[Neighbour, ...] = ()

    @property
    def skipped(self) -> dict[str, str]:
        """Check -> why it, or a part of it, could not be made."""
        return {made.name: made.skipped for made in self.checks if made.skipped}

    @property
    def worst(self) -> Severity | None:
        """The highest severity among the findings, None where there are none."""
        return max((finding.severity for finding in self.findings), key=SEVERITIES.index, default=None)

    def at_least(self, severity: Severity) -> tuple[Finding, ...]:
        """Return the findings of that severity or a higher one."""
        return tuple(f for f in self.findings if SEVERITIES.index(f.severity) >= SEVERITIES.index(severity))

    def as_json(self) -> dict[str, Any]:
        """Return the content of the JSON file, as JSON_SCHEMA describes it."""
        found = {
            "kind": "diagnosis",
            "schema": SCHEMA,
            "config": self.config,
            "sources": self.sources,
            "worst": self.worst,
            "checks": [asdict(made) for made in self.checks],
            "findings": [_told(f) for f in self.findings],
            "classes": [asdict(one) for one in self.classes],
        }
        return {name: _finite(value) for name, value in found.items()}

    def save_json(self, path: Pathlike) -> None:
        """Write everything but the pictures atomically; the structure is JSON_SCHEMA's."""
        text = json.dumps(self.as_json(), indent=1, ensure_ascii=False, allow_nan=False)
        with atomic(path) as temporary:
            temporary.write_text(text + "\n", "utf-8")

    def save_csv(self, path: Pathlike) -> None:
        """Write a row for each finding, the most severe first; channels are separated by spaces."""
        rows = (
            (
                f.severity,
                f.check,
                f.layer,
                " ".join(map(str, f.channels)),
                float(f.value),
                float(f.threshold),
                *(getattr(f, name) for name in COLUMNS[6:]),
            )
            for f in self.findings
        )
        write_csv(path, COLUMNS, rows)

    def __repr__(self) -> str:
        counts = {severity: sum(f.severity == severity for f in self.findings) for severity in SEVERITIES[::-1]}
        told = ", ".join(f"{count} {severity}" for severity, count in counts.items() if count) or "nothing found"
        lines = [f"Diagnosis of {self.config.get('model', 'a network')}, {len(self.checks)} checks: {told}"]
        lines += [f"  {f.severity}: {f.check}, {f.layer}: {f.what}" for f in self.findings[:8]]
        lines += [f"  and {len(self.findings) - 8} more"] if len(self.findings) > 8 else []
        lines += [f"  skipped: {name}: {reason}" for name, reason in self.skipped.items()]
        return "\n".join(lines)


def _told(finding: Finding) -> dict[str, Any]:
    told = {name: getattr(finding, name) for name in Finding.__dataclass_fields__}
    evidence = {name: getattr(finding.evidence, name) for name in Evidence.__dataclass_fields__}
    arrays = {} if evidence["kind"] == "tiles" else {k: v.tolist() for k, v in finding.evidence.arrays.items()}
    return {**told, "evidence": {**evidence, "arrays": arrays}}


def _finite(value: Any) -> Any:
    """Return JSON's own types: numbers that are not finite as None, numpy's numbers and tuples as plain ones."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
