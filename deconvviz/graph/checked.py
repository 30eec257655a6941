"""Whether a captured network gives what its model gives."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor, fx
from torch.utils import _pytree as pytree

from deconvviz.errors import CaptureError
from deconvviz.graph.calling import same
from deconvviz.graph.exporting import first_line
from deconvviz.graph.network import Network
from deconvviz.graph.ops import op_name


def check_captured(network: Network, images: Tensor, output: Any, random: bool) -> None:
    """Compare a captured network with its model on two images, and on one alone; warn of what depends on chance.

    Raises:
        CaptureError: the network fails, or its output has another shape or other values.
    """
    mixing = [name for name, layer in network.layers.items() if op_name(layer.node) == "norm_of_batch"]
    if mixing:
        warnings.warn(
            f"{mixing[0]} of {network.name} normalises by the statistics of its batch, also in eval mode: values "
            "depend on which images are together",
            stacklevel=3,
        )
    if random:
        warnings.warn(
            f"{network.name} gives other values each time for the same images, in eval mode: dropout that stays on, or "
            "another random op; every result is that of one draw",
            stacklevel=3,
        )
    try:
        together, alone = network(images), network(images[:1])
    except Exception as error:
        raise CaptureError(
            f"{network.name}, as captured, does not run on one image: {first_line(error)}; look for a size that is "
            "written into the code, or for .squeeze() without a dimension"
        ) from error
    parts = [(single, pair[:1]) for single, pair in _of_images(network, alone, together)]
    equal = same(together, output, 1e-2) and (bool(mixing) or all(same(*part, 1e-2) for part in parts))
    if random or equal:
        return
    raise CaptureError(
        f"{network.name} gives other values as captured than by itself: look for code that depends on values, or on "
        "the number of images"
    )


def _of_images(network: Network, alone: Any, together: Any) -> list[tuple[Tensor, Tensor]]:
    """Return the tensors of two outputs that count images first; not those of the whole batch, or of none."""
    leaves = [pytree.tree_leaves(each) for each in (network.output.args[0], alone, together)]
    return [pair for node, *pair in zip(*leaves, strict=True) if isinstance(pair[0], Tensor) and _is_batched(node)]  # type: ignore[misc]


def _is_batched(node: Any) -> bool:
    return isinstance(node, fx.Node) and bool(node.meta.get("batched"))
