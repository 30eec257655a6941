"""Memory that a CPU has freed serves again while networks compute."""

from __future__ import annotations

import pathlib
import resource
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest
import torch
from torch import nn

import deconvviz as dv
from deconvviz.graph import reuse
from deconvviz.graph.reuse import reusing_memory

LARGE = (12, 1 << 20)  # 50 MB of float32
PAGES = 12 * (1 << 20) * 4 // resource.getpagesize()  # of such a block
RUNS = 10

on_glibc = pytest.mark.skipif(reuse._allocator() is None, reason="the C library is not glibc")


def _pages(run: Callable[[], object]) -> float:
    """Return how many pages the system gave for a run, the mean of RUNS runs after some others."""
    for _ in range(4):
        run()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(RUNS):
        run()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / RUNS


@on_glibc
def test_a_block_is_used_again_within_and_comes_from_the_system_before() -> None:
    """In a process of its own: what earlier tests have left may hold a block anywhere."""
    script = (
        "import test_reuse as t, torch\n"
        "fresh = t._pages(lambda: torch.ones(t.LARGE))\n"
        "with t.reusing_memory():\n"
        "    print(fresh, t._pages(lambda: torch.ones(t.LARGE)))\n"
    )
    command = [sys.executable, "-c", script]
    folder = pathlib.Path(__file__).parent
    said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder).stdout
    fresh, again = map(float, said.split())
    assert fresh >= PAGES and again < PAGES / 2


@on_glibc
@pytest.mark.parametrize("fast", [False, True])
def test_maps_of_a_network_lie_where_the_former_ones_lay(fast: bool) -> None:
    model = nn.Sequential(nn.Conv2d(3, 64, 1), nn.ReLU(), nn.Conv2d(64, 64, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    network, x = dv.capture(model.eval(), (3, 224, 224)), torch.zeros(4, 3, 224, 224)  # three maps of 51 MB at least
    network = network.fast("fp32") if fast else network
    with torch.inference_mode():
        assert _pages(lambda: network(x)) < PAGES / 2


@on_glibc
def test_what_is_kept_counts_as_free() -> None:
    with reusing_memory():
        block, above = torch.ones(LARGE), torch.ones(1 << 16)
        before = reuse.kept_bytes()
        del block
        assert reuse.kept_bytes() - before == pytest.approx(PAGES * resource.getpagesize(), rel=0.01)
    assert above.all()


class Recorded:
    """An allocator that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def mallopt(self, name: int, value: int) -> int:
        assert name == reuse._MMAP_MAX
        self.told.append(value)
        return 1


@pytest.fixture
def allocator(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    recorded = Recorded()
    monkeypatch.setattr(reuse, "_allocator", lambda: recorded)
    return recorded


def test_it_is_as_before_afterwards(allocator: Recorded) -> None:
    with pytest.raises(ZeroDivisionError), reusing_memory():
        with reusing_memory():
            assert allocator.told == [0]
        assert allocator.told == [0]
        raise ZeroDivisionError
    assert allocator.told == [0, reuse.OFTEN]


def test_it_ends_with_the_last_thread(allocator: Recorded) -> None:
    begun, end = threading.Event(), threading.Event()

    def compute() -> None:
        with reusing_memory():
            begun.set()
            end.wait()

    thread = threading.Thread(target=compute, daemon=True)
    with reusing_memory():
        thread.start()
        begun.wait()
    assert allocator.told == [0], "the other one goes on"
    end.set()
    thread.join()
    assert allocator.told == [0, reuse.OFTEN]


def test_where_there_is_no_such_allocator_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reuse, "_allocator", lambda: None)
    with reusing_memory():
        assert reuse._inside == 0
