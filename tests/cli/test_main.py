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


@pytest.mark.parametrize("given", [None, "ACTIVE"])
def test_threads_wait_asleep_unless_the_user_says_otherwise(given: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", given or "")
    if given is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setattr(sys, "argv", ["deconvviz", "--version"])
    with pytest.raises(SystemExit):
        main()
    assert os.environ["OMP_WAIT_POLICY"] == (given or "PASSIVE")
