"""Findings and summaries of a diagnosis made by hand, and what a page of them holds."""

from __future__ import annotations

import html.parser
from typing import Any

import numpy as np

from deconvviz.studies.diagnosis.diagnose import CHECKS
from deconvviz.studies.diagnosis.finding import Evidence, Finding, Neighbour
from deconvviz.studies.diagnosis.result import CheckSummary

EVIDENCE = Evidence(
    kind="bars", arrays={"values": np.array([1.0, np.nan])}, labels=("a", "b"), x="filter", y="RMS", mark=1.0
)


def finding(severity: str = "note", value: float = 2.0, check: str = "aliasing", **changes: Any) -> Finding:
    """A finding of which every field can be changed."""
    values: dict[str, Any] = {
        "check": check,
        "severity": severity,
        "layer": "conv1",
        "channels": (3, 1),
        "what": "It is so.",
        "value": value,
        "threshold": 1.0,
        "unit": "parts",
        "source": "measured: here",
        "remedy": "Mend it.",
        "evidence": EVIDENCE,
    }
    return Finding(**{**values, **changes})


def made(name: str = "aliasing", **changes: Any) -> CheckSummary:
    """The summary of a check that was made."""
    values: dict[str, Any] = {"findings": 1, "skipped": "", "value": None, "unit": "", "seconds": 0.1}
    return CheckSummary(name=name, title=CHECKS[name].title, about=CHECKS[name].docstring, **{**values, **changes})


def neighbour(name: str = "a", other: str = "b", layer: str = "l", **changes: Any) -> Neighbour:
    """A class of two images, one of which is taken for another class."""
    values: dict[str, Any] = {"images": 2, "right": 1, "taken": 1, "probability": 0.5, "shared": (1,)}
    values |= {"place": 0, "output": 1, "neighbour_images": 2}
    return Neighbour(name=name, neighbour=other, layer=layer, **{**values, **changes})


def in_layers(*values: float, **changes: Any) -> list[Finding]:
    """The same finding in layers a, b, ..., a warning from twice the threshold on."""
    return [
        finding(
            "warning" if value >= 2 else "note",
            value,
            layer=letter,
            what=f"{letter} has {value:g}.",
            channels=(n,),
            **changes,
        )
        for n, (letter, value) in enumerate(zip("abcdefghi", values, strict=False))
    ]


class Page(html.parser.HTMLParser):
    """What a page links to, shows and is headed by."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str, name: str) -> list[str]:
        return [str(attributes[name]) for own, attributes in self.tags if own == tag and name in attributes]
