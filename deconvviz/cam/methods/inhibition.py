"""Lateral inhibition at every rectifier."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from deconvviz.cam.captured import sent_back
from deconvviz.cam.engine import View
from deconvviz.cam.inhibition import LEAST, laplacian_of_gaussian, lateral_response
from deconvviz.cam.methods.shared import network_of
from deconvviz.cam.registry import method
from deconvviz.deconv.rules import Policy
from deconvviz.errors import CamError
from deconvviz.graph.ops import op_of
from deconvviz.graph.reach import axes_of, lengths


@method("lateral-inhibition", needs="image", passes="2 forward, 1 backward")
def lateral_inhibition(v: View, sigma: float = 1.0, centred: bool = True) -> Tensor:
    """sum over rectifiers of ReLU(up(-(LoG * G))), G the norm over channels of dy/d(the rectifier's input).

    Jiang et al. 2022, arXiv 2208.06918, as in the released code but for the kernel. LoG is 5 x 5, and the border is
    reflected. sigma: of LoG, in positions of each map; 1 is a Mexican hat. centred: its mean is subtracted, so that a
    constant G gives nothing. sigma=11 centred=false is the released kernel, a blur: nothing inhibits anything.
    Responses up to a millionth of the largest possible are rounding. Rectifiers with maps below 3 x 3, or without, take
    no part.
    """
    network, kernel = network_of(v), laplacian_of_gaussian(sigma, centred)
    policy = Policy("gradient", lrn="gradient")
    nodes = [node for node in network.graph.nodes if _rectifies_maps(node)]
    if not nodes:
        raise CamError(f"{network.name} has no rectifier with maps of at least {LEAST} x {LEAST}; take gradient")
    signals, calls = sent_back(network, v.x, v.scorer.seed(v.everyone), policy, nodes)
    v.passes["forward"] += len(v.x)
    v.passes["backward"] += len(v.x)
    total = torch.zeros_like(v.x[:, 0])
    for node in (node for node in nodes if node in signals):
        (gradient,) = policy.transpose(calls[node], signals[node])  # through the rectifier, to its input
        response, rounding = lateral_response(_strength(gradient, node), kernel)
        enlarged = v.up(response)
        total += torch.where(enlarged > rounding, enlarged, 0)
    return total


def _rectifies_maps(node: fx.Node) -> bool:
    """Return whether a node is a rectifier of maps that are large enough for the kernel."""
    if node.op != "call_function" or not node.meta.get("data") or op_of(node).kind != "rectifier":
        return False
    return axes_of(node) is not None and min(lengths(node)) >= LEAST


def _strength(gradient: Tensor | None, node: fx.Node) -> Tensor:
    """Return the norm over channels of a gradient at each position, [N, h, w]."""
    axes = axes_of(node)
    assert gradient is not None and axes is not None
    strength: Tensor = torch.linalg.vector_norm(gradient.movedim(axes, (-2, -1)).flatten(1, -3), dim=1)
    return strength
