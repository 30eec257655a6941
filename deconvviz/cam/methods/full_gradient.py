"""FullGrad: the gradients of the input and of every bias."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from deconvviz.cam.captured import sent_back
from deconvviz.cam.engine import View
from deconvviz.cam.methods.shared import network_of
from deconvviz.cam.registry import method
from deconvviz.cam.shaping import min_max
from deconvviz.deconv.rules import Policy
from deconvviz.graph.network import Network
from deconvviz.graph.ops import Call, batch_norm_scale, op_name, op_of, vector_jacobian
from deconvviz.graph.reach import axes_of, shape_of


@method("full-grad", needs="image", passes="2 forward, 1 backward")
def full_grad(v: View, scaled: bool = True) -> Tensor:
    """psi(x dy/dx) + sum over layers and channels of psi(bias dy/dz); psi: absolute values, scaled to 0..1, resized.

    Srinivas and Fleuret 2019, arXiv 1905.00780, equation 8. Biases are those of convolutions, linear layers (which have
    no positions and are not drawn; nor are layers over windows of the image) and BatchNorm, and the implicit ones
    f(z) - z f'(z) of rectifiers other than ReLU.
    scaled: each layer is scaled by itself, all channels together, as in the released code (from memory of it). All
    terms, unscaled and signed, add up to y where no other op is curved; what is missing is in `extras["unexplained"]`.
    """
    network = network_of(v)
    nodes = [node for node in network.graph.nodes if node.meta.get("data") and _has_bias(node)]
    everywhere = [network.image, *nodes]
    policy = Policy("gradient", lrn="gradient")
    signals, calls = sent_back(network, v.x, v.scorer.seed(v.everyone), policy, everywhere)
    v.passes["forward"] += len(v.x)
    v.passes["backward"] += len(v.x)
    terms = {node: signals[node] * _bias(network, calls[node]) for node in nodes if node in signals}
    terms[network.image] = v.x * signals.get(network.image, torch.zeros_like(v.x))
    v.extras["unexplained"] = v.y - sum(_by_image(term, node, len(v.x)) for node, term in terms.items())
    axes_of_maps = {node: axes_of(node) for node in terms if node is network.image or node.meta.get("batched")}
    drawn = [terms[node].movedim(axes, (-2, -1)) for node, axes in axes_of_maps.items() if axes is not None]
    return sum((v.up(_size(term, scaled)) for term in drawn), torch.zeros_like(v.x[:, 0]))


def _by_image(term: Tensor, node: fx.Node, count: int) -> Tensor:
    """Return the sum of a layer's terms for each image, [N]; windows or heads may be among the images."""
    shape = shape_of(node)
    return term.movedim(shape.index(-1) if -1 in shape else 0, 0).reshape(count, -1).sum(1)


def _size(term: Tensor, scaled: bool) -> Tensor:
    """Return how large a layer's terms [N, ..., h, w] are at each position, summed over channels, [N, h, w]."""
    size = term.abs().flatten(1, -3)
    return (min_max(size.flatten(2)).reshape(size.shape) if scaled else size).sum(1)


def _has_bias(node: fx.Node) -> bool:
    """Return whether an op adds something that no input of it multiplies."""
    if node.op != "call_function":
        return False
    op, name = op_of(node), op_name(node)
    return op.weighted or name == "batch_norm" or (op.kind == "rectifier" and name not in ("relu", "leaky_relu"))


def _bias(network: Network, call: Call) -> Tensor:
    """Return what an op adds, in the shape of its value or one that broadcasts to it."""
    if op_of(call.node).kind == "rectifier":
        slope = vector_jacobian(call, torch.ones_like(call.value()))[0]
        return call.value() if slope is None else call.value() - slope * call.inputs[0]
    if op_name(call.node) == "batch_norm":
        shift, mean = call.args[2:4]
        bias = -mean * batch_norm_scale(call.args)
        bias = bias if shift is None else bias + shift
    else:
        bias = call.args[2]
    if bias is None:
        return call.value().new_zeros(())
    spread: Tensor = bias if op_name(call.node) == "linear" else bias.reshape(-1, *[1] * (call.value().dim() - 2))
    return spread
