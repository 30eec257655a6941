"""Memory: how much a network takes, and how many images are expected to fit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from deconvviz.graph.ops import op_of
from deconvviz.graph.reach import shape_of
from deconvviz.graph.reuse import kept_bytes
from deconvviz.graph.steps import make_plan
from deconvviz.progress import write_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deconvviz.graph.network import Network

MEMORY = 768 * 2**20  # bytes of values that one batch may keep on a CPU, where more at once is hardly faster
FREE_SHARE = {"cpu": 0.25, "cuda": 0.5}  # of the free memory; convolutions need room to work in
SPARE = 0.8  # of the free memory: the rest is for what convolutions need beside their maps, and for fragments


def free_bytes(device: torch.device) -> int | None:
    """Return the bytes that can be had on a device; None where that is not known."""
    if device.type == "cuda":
        held_unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + held_unused
    if device.type != "cpu":
        return None
    try:
        with open("/proc/meminfo", encoding="ascii") as file:  # noqa: PTH123, no path of the user's
            available = next(line for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
    return int(available.split()[1]) * 1024 + kept_bytes()


def budget(device: torch.device) -> int:
    """Return how many bytes of values one batch may keep on a device."""
    free = free_bytes(device)
    if free is None:
        return MEMORY
    share = int(FREE_SHARE[device.type] * free)
    return share if device.type == "cuda" else min(MEMORY, share)


def bytes_of_one(network: Network, layers: Sequence[str] | None = None, kept: bool = True) -> int:
    """Return the bytes that one image takes while a network runs forward: the most that lives at the same time.

    Args:
        network: a network in the form in which it runs.
        layers: names of the layers whose values are asked for; None for what the network returns.
        kept: whether these values are kept to the end, or reduced as soon as they are there (`Network.reduced`).

    >>> import deconvviz as dv
    >>> network = dv.capture(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()), (3, 10, 10))
    >>> bytes_of_one(network) == 4 * (3 * 10 * 10 + 2 * 4 * 8 * 8)
    True
    """
    targets = network.output_nodes() if layers is None else [network.layer(name).node for name in layers]
    plan = make_plan(network.graph, frozenset({network.image, network.batch_size}), targets, kept)
    in_place = plan.overwriting if network.precision != "as captured" else frozenset()
    held = {network.image: math.prod(network.input_shape)}
    copied = 0 if network.precision == "as captured" else held[network.image]  # in the network's own order in memory
    most = copied + sum(held.values())
    for node in plan.steps:
        if node.op == "call_function" and node.meta["data"]:
            shared = node in in_place or op_of(node).identity or op_of(node).reshapes
            held[node] = 0 if shared else math.prod(shape_of(node)[1:])
            most = max(most, copied + sum(held.values()))
        for spent in plan.release.get(node, ()):
            elements = held.pop(spent, 0) if spent is not network.image else 0
            if node in held and not held[node]:  # the value lives on under the name of the one that shares it
                held[node] = elements
    return most * network.dtype.itemsize


def fitting(network: Network, size: int, layers: Sequence[str] | None = None, kept: bool = True) -> int:
    """Return how many images, `size` at most, are expected to fit in the memory that is free; at least 1.

    The other arguments are those of `bytes_of_one`.
    """
    free, one = free_bytes(network.device), bytes_of_one(network, layers, kept)
    if free is None or one * size <= SPARE * free:
        return size
    fits = max(int(SPARE * free / one), 1)
    if fits < size:
        write_line(
            f"{size} images at once take about {one * size / 1e9:.3g} GB of {free / 1e9:.3g} GB: {fits} are taken"
        )
    return fits
