"""Memory that a CPU has freed serves again while networks compute."""

from __future__ import annotations

import resource
import threading
from collections.abc import Callable

import pytest
import torch
from torch import nn

import deconvviz as dv
from deconvviz.graph import reuse
from deconvviz.graph.reuse import reusing_memory

pytestmark = pytest.mark.skipif(reuse._allocator() is None, reason="the C library is not glibc")
LARGE = (12, 1 << 20)  # 50 MB of float32
PAGES = 12 * (1 << 20) * 4 // resource.getpagesize()  # of such a block


def _pages(run: Callable[[], object]) -> int:
    """Return how many pages the system gave for the last of five runs."""
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        run()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def _is_fresh() -> bool:
    """Return whether large blocks come from the system; what was kept is given back first."""
    library = reuse._allocator()
    assert library is not None
    library.malloc_trim(0)
    return _pages(lambda: torch.ones(LARGE)) > PAGES / 2


def test_a_block_is_used_again_within() -> None:
    assert _is_fresh()
    with reusing_memory():
        with reusing_memory():
            pass
        assert _pages(lambda: torch.ones(LARGE)) < PAGES / 10
    assert _is_fresh(), "as before"


def test_it_ends_with_an_error_and_with_the_last_thread() -> None:
    with pytest.raises(ZeroDivisionError), reusing_memory():
        raise ZeroDivisionError
    assert _is_fresh()
    begun, end = threading.Event(), threading.Event()

    def compute() -> None:
        with reusing_memory():
            begun.set()
            end.wait()

    thread = threading.Thread(target=compute)
    with reusing_memory():
        thread.start()
        begun.wait()
    assert not _is_fresh(), "the other one goes on"
    end.set()
    thread.join()
    assert _is_fresh()


def test_maps_of_a_network_lie_where_the_former_ones_lay() -> None:
    model = nn.Sequential(nn.Conv2d(3, 64, 1), nn.ReLU(), nn.Conv2d(64, 64, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    network, x = dv.capture(model.eval(), (3, 224, 224)), torch.zeros(4, 3, 224, 224)  # maps of 51 MB
    assert _is_fresh()
    with torch.inference_mode():
        assert _pages(lambda: network.fast("fp32")(x)) < PAGES / 10
        assert _pages(lambda: network(x)) < PAGES / 10


def test_where_there_is_no_such_allocator_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reuse, "_allocator", lambda: None)
    with reusing_memory():
        assert reuse._inside == 0
