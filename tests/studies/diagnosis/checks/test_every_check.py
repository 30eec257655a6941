"""Every registered check finds a flaw that is planted into a network, and finds nothing in the same network without it.

The test file of a check says in PLANTED, under the check's name, how both networks are made.
"""

from __future__ import annotations

import importlib.util
import pathlib
from collections.abc import Iterable

import pytest
from diagnosed import Planted

from deconvviz.studies.diagnosis.checks import CHECKS, NAMES
from deconvviz.studies.diagnosis.joining import FIRST

HERE = pathlib.Path(__file__).resolve()


def planted(folder: pathlib.Path) -> dict[str, Planted]:
    """The flaws that the test files of a folder plant, by the name of the check."""
    flaws: dict[str, Planted] = {}
    for path in sorted(folder.glob("test_*.py")):
        spec = importlib.util.spec_from_file_location(f"planted_{path.stem}", path)
        if path == HERE or spec is None or spec.loader is None:
            continue
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        flaws |= getattr(module, "PLANTED", {})
    return flaws


def untested(names: Iterable[str], flaws: dict[str, Planted]) -> list[str]:
    """The checks whose flaw no test file plants."""
    return [name for name in names if name not in flaws]


FLAWS = planted(HERE.parent)


def test_every_check_has_a_planted_flaw() -> None:
    assert not untested(CHECKS, FLAWS), "add the flaw to PLANTED in a test file of this folder"
    assert untested([*CHECKS, "new"], FLAWS) == ["new"]
    assert set(FLAWS) == set(CHECKS) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_planted_flaw_is_found_and_nothing_without_it(name: str, tmp_path: pathlib.Path) -> None:
    flawed, sound = (CHECKS[name](make(tmp_path)) for make in FLAWS[name])
    assert flawed.findings and flawed.skipped is None
    for finding in flawed.findings:
        assert (
            finding.check == name
            and (finding.layer or name in FIRST)
            and finding.what.endswith(".")
            and finding.remedy.endswith(".")
        )
        assert finding.unit and finding.source
    assert sound.findings == () and sound.skipped is None
    assert (flawed.measured is None) == (sound.measured is None)
    if flawed.measured is not None and sound.measured is not None:
        assert flawed.measured.value != sound.measured.value and flawed.measured.unit == sound.measured.unit


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_tells_users_what_is_measured(name: str) -> None:
    entry = CHECKS[name]
    summary, *rest = entry.docstring.split("\n\n")
    assert "\n" not in summary and summary.endswith(".") and entry.title[0].isupper()
    assert [part for part in rest if part.startswith("Severity: ")]
    assert rest[-1].startswith("Source:") and "note" in entry.docstring
