"""Maps on pixels: a signal sent from the target's score back to the image, by one rule or another.

The gradient is exact, through contrast normalisation too. Guided backpropagation and the deconvnet hand their signal
through it, as projections do by default: neither paper speaks of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deconvviz.cam.engine import View
from deconvviz.cam.methods.gradient import grad_cam
from deconvviz.cam.registry import method
from deconvviz.deconv.relevance import LRP
from deconvviz.deconv.rules import Policy

GRADIENT = Policy("gradient", lrn="gradient")


@method("gradient", needs="image", passes="2 forward, 1 backward")
def gradient(v: View) -> Tensor:
    """max over colours of |dy/dx|. Simonyan et al. 2013, arXiv 1312.6034, section 3."""
    return v.back(GRADIENT).abs().amax(1)


@method("squared-gradient", needs="image", passes="2 forward, 1 backward")
def squared_gradient(v: View) -> Tensor:
    """Sum over colours of (dy/dx)^2, the gradient of Simonyan et al. 2013 squared, as in Hooker et al. 2019."""
    return v.back(GRADIENT).square().sum(1)


@method("gradient-x-input", needs="image", passes="2 forward, 1 backward")
def gradient_x_input(v: View) -> Tensor:
    """Sum over colours of x dy/dx, signed. Shrikumar et al. 2016, arXiv 1605.01713."""
    return (v.back(GRADIENT) * v.x).sum(1)


@method("guided", needs="image", passes="2 forward, 1 backward")
def guided(v: View) -> Tensor:
    """max over colours of |guided backpropagation|. Springenberg et al. 2014, arXiv 1412.6806.

    It changes little when the weights are randomised: it tells of edges, hardly of the decision.
    """
    return v.back(Policy("guided")).abs().amax(1)


@method("deconvnet", needs="image", passes="2 forward, 1 backward")
def deconvnet(v: View) -> Tensor:
    """max over colours of |deconvnet projection of the class|. Zeiler and Fergus 2013, section 2.1.

    It changes little when the weights are randomised: it tells of edges, hardly of the decision.
    """
    return v.back(Policy("deconvnet")).abs().amax(1)


@method("smoothgrad", needs="image", passes="1 + samples forward, samples backward")
def smoothgrad(v: View, samples: int = 25, noise: float = 0.15) -> Tensor:
    """max over colours of |mean of dy/dx over noisy images|. Smilkov et al. 2017, arXiv 1706.03825.

    noise: standard deviation, as a share of the image's range.
    """
    spread = noise * (v.x.amax((1, 2, 3), keepdim=True) - v.x.amin((1, 2, 3), keepdim=True))
    total = torch.zeros_like(v.x)
    for sample in range(samples):
        drawn = v.noise(torch.tensor([sample]), tuple(v.x.shape[1:]))
        total += v.back(GRADIENT, v.x + spread * drawn)
    return (total / samples).abs().amax(1)


@method("guided-grad-cam", passes="2 forward, 1 backward, 1 tail backward")
def guided_grad_cam(v: View) -> Tensor:
    """max over colours of |guided backpropagation| times Grad-CAM, resized. Selvaraju et al. 2017, section 3.2."""
    places = v.up(grad_cam(v))
    return v.back(Policy("guided")).abs().amax(1) * places


@method("lrp-epsilon", needs="image", passes="2 forward, 1 backward")
def lrp_epsilon(v: View, epsilon: float = 1e-6) -> Tensor:
    """Layer-wise relevance propagation, R_j = sum_k a_j w_jk R_k / (z_k + eps sign z_k); sum over colours, signed.

    Bach et al. 2015, equation 58. Starts from the target's score. BatchNorm is folded into its convolution.
    """
    return _relevance(v, LRP("epsilon", epsilon))


@method("lrp-zplus", needs="image", passes="2 forward, 1 backward")
def lrp_z_plus(v: View, epsilon: float = 1e-6) -> Tensor:
    """LRP with the z+ rule at convolutions, a_j w_jk^+ only, and epsilon at linear layers; sum over colours.

    Montavon et al. 2017, arXiv 1512.02479, section 4; no rule of its own for the first layer. BatchNorm is folded into
    its convolution.
    """
    return _relevance(v, LRP("z+", epsilon))


def _relevance(v: View, policy: LRP) -> Tensor:
    """Return the relevance of the pixels, summed over colours, [N, H, W].

    Rules depend on how a linear map is split into ops, so that a BatchNorm and its convolution count as one, as in the
    other LRP methods and in zennit's canonizers. One that stands alone shares by epsilon: only then is the epsilon rule
    with an epsilon near zero the gradient times the input (Ancona et al. 2018).
    """
    return v.back(policy, relevance=True, form=lambda network: network.without_norms()).sum(1)
