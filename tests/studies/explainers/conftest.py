"""What the tests of trained explainers share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from corners import Corners

from deconvviz.cam.learned import base
from deconvviz.cam.learned.base import LEARNED
from deconvviz.cam.registry import METHODS


@pytest.fixture
def corners() -> Iterator[type[Corners]]:
    """The explainer `Corners`, registered while the test runs."""
    base.learned(Corners)
    Corners.seen, Corners.fail_at = [], -1
    yield Corners
    del LEARNED._entries["corners"], METHODS._entries["corners"]
