"""Which units run together: batches that fit in memory, and whether they run forward on windows or whole images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from deconvviz.deconv.plan import WindowPlan
from deconvviz.deconv.projection import Unit
from deconvviz.graph.memory import budget

LARGEST = 2**31 - 1  # values of one tensor, beyond which convolutions on a GPU are slow or refuse
VALUES = 3  # copies of each value where windows run both ways: the value, its signal, and what an op needs to work
VALUES_OF_AN_IMAGE = 2  # where whole images run forward: the value, and the switches of pooling
SIGNALS = 6  # copies of the largest value that one unit needs on the way back
WHOLE_OVER_WINDOWS = 0.7  # what one multiplication costs in a whole image, of that in a window; measured on a CPU


def at_once(plan: WindowPlan, copies: int, element_size: int, device: torch.device) -> int:
    """Return how many units run together, so that `copies` of each of their values fit in memory.

    Args:
        plan: of their layer.
        copies: of each value that are in memory, such as the signals beside the values.
        element_size: bytes of a number.
        device: where they run.
    """
    fitting = budget(device) // (copies * plan.elements() * element_size)
    return max(1, min(fitting, LARGEST // plan.largest()))


def runs_whole(plan: WindowPlan, units: int, images: int) -> bool:
    """Return whether it costs less to run forward once over whole images than over the windows of all units.

    Args:
        plan: of the units' layer.
        units: how many there are.
        images: how many distinct images they belong to.
    """
    return images * plan.work(whole=True) * WHOLE_OVER_WINDOWS < units * plan.work(whole=False)


def batches(
    numbers: Sequence[int], units: Sequence[Unit], plan: WindowPlan, element_size: int, device: torch.device
) -> Iterator[tuple[list[int], bool]]:
    """Split the units of a layer so that one batch fits in memory; units of one image stay together.

    Args:
        numbers: which of the units are meant.
        units: (image, layer, channel, (y, x)) each.
        plan: of their layer.
        element_size: bytes of a number.
        device: where they run.

    Yields:
        The numbers of a batch, and whether it runs forward on whole images.
    """
    ordered = sorted(numbers, key=lambda number: units[number][0])
    whole = runs_whole(plan, len(ordered), len({units[number][0] for number in ordered}))
    if not whole:
        size = at_once(plan, VALUES, element_size, device)
        yield from ((ordered[start : start + size], False) for start in range(0, len(ordered), size))
        return
    half = budget(device) // 2  # for the values of whole images, and as much for what goes back from the units
    most_images = max(1, half // (VALUES_OF_AN_IMAGE * plan.elements_of_an_image() * element_size))
    most_units = max(1, min(half // (SIGNALS * plan.largest() * element_size), LARGEST // plan.largest()))
    batch: list[int] = []
    images: set[int] = set()
    for number in ordered:
        image = units[number][0]
        if batch and (len(batch) == most_units or len(images | {image}) > most_images):
            yield batch, True
            batch, images = [], set()
        batch.append(number)
        images.add(image)
    yield batch, True
