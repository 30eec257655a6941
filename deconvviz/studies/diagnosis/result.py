"""Diagnosis: the findings about a network, what was not checked, and how they are written as JSON and CSV."""

from __future__ import annotations

import dataclasses
import html
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deconvviz.choices import SEVERITIES, Severity
from deconvviz.notebook import Shown
from deconvviz.results.files import atomic
from deconvviz.results.tables import to_frame, write_csv
from deconvviz.studies.diagnosis.finding import Finding, Neighbour, number
from deconvviz.studies.diagnosis.leanings import Leaning
from deconvviz.studies.diagnosis.schema import as_json, fields_schema, object_schema, schema_of
from deconvviz.types import Pathlike
from deconvviz.words import counted

if TYPE_CHECKING:
    import pandas as pd

KIND, SCHEMA = "diagnosis", 3
# Those of a finding, the same in each of its rows, and those of one layer.
OF_FINDING = ("severity", "check", "threshold", "unit", "source", "remedy")
OF_LAYER = ("layer", "layer_severity", "channels", "value", "what")
COLUMNS = ("finding", "severity", "check", *OF_LAYER, "threshold", "unit", "source", "remedy")
CLASS_COLUMNS = ("class", "images", "right", "neighbour", "taken_for_it", "probability", "layer", "shared_filters")
LISTED = 8  # findings that are printed, and layers of each


@dataclass(frozen=True, kw_only=True)
class CheckSummary:
    """What became of one check.

    Attributes:
        name: name of the check.
        title: its heading.
        about: what it measures, and where each severity begins.
        findings: number of its findings.
        skipped: why it, or a part of it ("in part: ..."), was not made; empty where all of it was.
        value: what it measured, in one number, also where it passed no threshold; None where there is no such number.
        unit: what the value counts.
        seconds: how long it took.
    """

    name: str
    title: str
    about: str
    findings: int
    skipped: str
    value: float | None
    unit: str
    seconds: float

    @property
    def made(self) -> bool:
        """Whether the check was made, at least in part."""
        return not self.skipped or self.findings > 0 or self.value is not None


@dataclass(frozen=True, kw_only=True)
class Diagnosis(Shown, drawn_by="draw_diagnosis"):
    """What `diagnose` found out about a network.

    Attributes:
        config: which network, images and settings.
        sources: where they came from, and the versions of the software.
        checks: the checks that were asked for, in their order.
        findings: the findings, the most severe first.
        classes: each class and the class that it is most often taken for; empty where that was not checked.
        leanings: each class and the channels that it leans on; empty where that was not checked.
    """

    config: dict[str, Any]
    sources: dict[str, Any] = field(default_factory=dict)
    checks: tuple[CheckSummary, ...] = ()
    findings: tuple[Finding, ...] = ()
    classes: tuple[Neighbour, ...] = ()
    leanings: tuple[Leaning, ...] = ()

    @property
    def skipped(self) -> dict[str, str]:
        """Name of a check -> why it, or a part of it, was not made."""
        return {summary.name: summary.skipped for summary in self.checks if summary.skipped}

    @property
    def worst(self) -> Severity | None:
        """The highest severity among the findings; None where there are none."""
        return max((finding.severity for finding in self.findings), key=SEVERITIES.index, default=None)

    def at_least(self, severity: Severity) -> tuple[Finding, ...]:
        """Return the findings of a severity or a higher one."""
        lowest = SEVERITIES.index(severity)
        return tuple(finding for finding in self.findings if SEVERITIES.index(finding.severity) >= lowest)

    def as_json(self) -> dict[str, Any]:
        """Return the content of the JSON file, as JSON_SCHEMA describes it."""
        numbers = dataclasses.replace(self, findings=tuple(map(_without_pictures, self.findings)))
        return {"kind": KIND, "schema": SCHEMA, "worst": self.worst, **as_json(numbers)}

    def save_json(self, path: Pathlike) -> None:
        """Write everything except the pictures, atomically, in the structure of JSON_SCHEMA.

        Raises:
            DataError: the file cannot be written.
        """
        text = json.dumps(self.as_json(), indent=1, ensure_ascii=False, allow_nan=False)
        with atomic(path) as temporary:
            temporary.write_text(text + "\n", "utf-8")

    def save_csv(self, path: Pathlike) -> None:
        """Write a table with a row for each layer of each finding, the most severe first.

        The column `finding` numbers the findings from 1; rows of one number belong together. Channels are separated by
        spaces.

        Raises:
            DataError: the file cannot be written.
        """
        write_csv(path, "findings", COLUMNS, self._rows())

    def to_frame(self) -> pd.DataFrame:
        """Return the findings as a data frame, a row for each layer; DataError where pandas is not installed."""
        return to_frame("findings", COLUMNS, self._rows())

    def _rows(self) -> list[list[Any]]:
        return [list(row) for n, finding in enumerate(self.findings, 1) for row in _csv_rows(n, finding)]

    def __repr__(self) -> str:
        lines = [self._heading()]
        lines += [f"  {line}" for finding in self.findings[:LISTED] for line in lines_of(finding)]
        lines += [f"  and {len(self.findings) - LISTED} more"] if len(self.findings) > LISTED else []
        lines += [f"  skipped: {name}: {reason}" for name, reason in self.skipped.items()]
        return "\n".join(lines)

    def text_as_html(self) -> str:
        """Return the text below the picture, as HTML: a table."""
        rows = [_html_row("th", ("severity", "check", "layer", "what", "remedy"))]
        for finding in self.findings:
            first, *others = finding.rows
            rows.append(_html_row("td", (first.severity, finding.check, first.layer, first.what, finding.remedy)))
            rows += [_html_row("td", (row.severity, "", row.layer, row.what, "")) for row in others]
        return f"<p>{html.escape(self._heading())}</p><table>{''.join(rows) if self.findings else ''}</table>"

    def _heading(self) -> str:
        counts = {severity: sum(f.severity == severity for f in self.findings) for severity in SEVERITIES[::-1]}
        noun = {"serious": "serious finding"}
        listed = ", ".join(counted(count, noun.get(severity, severity)) for severity, count in counts.items() if count)
        checks = counted(len(self.checks), "check")
        return f"Diagnosis of {self.config.get('model', 'a network')}, {checks}: {listed or 'no findings'}"


def lines_of(finding: Finding) -> list[str]:
    """Return a finding as lines of text: one line, or a heading and a line for each of its first layers."""
    rows = finding.rows
    if len(rows) == 1:
        return [f"{finding.severity}: {finding.check}, {finding.layer or 'the images'}: {finding.what}"]
    lines = [f"{finding.severity}: {finding.check}, in {len(rows)} layers ({finding.unit}):"]
    width = max(len(row.layer) for row in rows[:LISTED])
    lines += [
        f"  {row.severity:7}  {row.layer:{width}}  {number(row.value, finding.unit):<6} {row.what}"
        for row in rows[:LISTED]
    ]
    left = len(rows) - LISTED
    return lines + ([f"  and {left} more {'layer' if left == 1 else 'layers'}"] if left > 0 else [])


def save_neighbours(neighbours: Sequence[Neighbour], path: Pathlike) -> None:
    """Write a table with a row for each class; `right` and `taken_for_it` are numbers of images.

    Raises:
        DataError: the file cannot be written.
    """
    rows = (
        (n.name, n.images, n.right, n.neighbour, n.taken, n.probability, n.layer, _cell(n.shared)) for n in neighbours
    )
    write_csv(path, "neighbours", CLASS_COLUMNS, rows)


# The structure of the JSON file, as a JSON Schema (draft 2020-12). A number that is not finite is null. Pictures
# ("tiles") are not in the file, only their labels; they are in the page and its PNG files.
JSON_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "deconvviz diagnosis",
    **object_schema(
        kind={"const": KIND},
        schema={"const": SCHEMA},
        worst=schema_of(Severity | None),
        **fields_schema(Diagnosis),
    ),
}


def _without_pictures(finding: Finding) -> Finding:
    first, *others = (
        dataclasses.replace(each, arrays={}) if each.kind == "tiles" else each
        for each in (finding.evidence, *finding.more_evidence)
    )
    return dataclasses.replace(finding, evidence=first, more_evidence=tuple(others), layers=finding.rows)


def _csv_rows(number: int, finding: Finding) -> Iterator[list[Any]]:
    """Yield the rows of the table that belong to a finding."""
    same = {"finding": number, **{name: getattr(finding, name) for name in OF_FINDING}}
    for row in finding.rows:
        own = {"layer_severity": row.severity} | {n: getattr(row, n) for n in OF_LAYER if n != "layer_severity"}
        yield [_cell((same | own)[name]) for name in COLUMNS]


def _cell(value: Any) -> Any:
    """Return a value as a cell of a table."""
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return value if isinstance(value, str | int) else float(value)


def _html_row(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"
