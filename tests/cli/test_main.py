"""`python -m deconvviz` and `main`: what they print, and the status that they end with."""

from __future__ import annotations

import os
import runpy
import sys

import pytest

from deconvviz.cli.main import main
from deconvviz.version import __version__


def test_python_m_deconvviz_is_deconvviz(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["deconvviz", "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("deconvviz", run_name="__main__")
    assert ended.value.code == 0 and __version__ in capsys.readouterr().out


def test_bad_input_ends_with_status_2_and_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["deconvviz", "layers", "no-such-model"])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    assert ended.value.code == 2 and not told.out and told.err.count("\n") == 1 and "no-such-model" in told.err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["cam"], "missing argument 'METHODS'; see deconvviz cam --help"),
        (
            ["layers", "demo", "--keep", "1"],
            "no such option '--keep'. Did you mean '--help'? See deconvviz layers --help",
        ),
        (["layers", "demo", "more"], "got unexpected extra argument (more); see deconvviz layers --help"),
        (
            ["prune", "demo", "scenes", "-o", "slim.pth", "--keep", "half"],
            "invalid value for '--keep': 'half' is not a valid float; see deconvviz prune --help",
        ),
        (
            ["attack", "demo", "scenes", "-o", "out.h5", "--goal", "x"],
            "invalid value for '--goal': 'x' is not one of 'decision', 'both', 'explanation'; see deconvviz attack "
            "--help",
        ),
        (["--what"], "no such option '--what'; see deconvviz --help"),
        (["camm"], "no command 'camm'; nearest: cam, train-cam; see deconvviz --help"),
    ],
)
def test_a_command_line_that_click_refuses_is_told_in_one_line(
    words: list[str], expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["deconvviz", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    assert ended.value.code == 2 and not told.out
    assert told.err == f"deconvviz: {expected}\n"


def test_without_a_command_the_whole_help_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["deconvviz"])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    assert ended.value.code == 2 and "Commands:" in told.out + told.err


@pytest.mark.parametrize("given", [None, "ACTIVE"])
def test_threads_wait_asleep_unless_the_user_says_otherwise(given: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", given or "")
    if given is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setattr(sys, "argv", ["deconvviz", "--version"])
    with pytest.raises(SystemExit):
        main()
    assert os.environ["OMP_WAIT_POLICY"] == (given or "PASSIVE")
