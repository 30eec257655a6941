"""Relevance by rules that differ from layer to layer, and excitation backpropagation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deconvviz.cam.engine import View
from deconvviz.cam.methods.shared import network_of, require_number
from deconvviz.cam.registry import method
from deconvviz.deconv.excitation import Excitation, with_negated_classifier
from deconvviz.deconv.relevance import LRP, upper_half
from deconvviz.errors import require_choice

PIXELS = ("z^B", "flat", "w^2", "as the others")  # rules at convolutions that read the image


@method("lrp-gamma", needs="image", passes="2 forward, 1 backward")
def lrp_gamma(v: View, gamma: float = 0.25, epsilon: float = 1e-6, pixels: str = "z^B") -> Tensor:
    """LRP with the gamma rule at convolutions, w + gamma w^+, and epsilon at linear layers; sum over colours, signed.

    Montavon et al. 2019, "Layer-wise relevance propagation: an overview"; zennit's EpsilonGammaBox. BatchNorm is folded
    into its convolution. pixels: rule at convolutions that read the image: "z^B", "flat", "w^2" or "as the others";
    z^B takes black and white as the ends, or each image's own where it is not known how pictures become inputs.
    """
    require_number("gamma", gamma, 0)
    return _by_rules(v, pixels, convolution="gamma", gamma=gamma, epsilon=epsilon)


@method("lrp-composite", needs="image", passes="2 forward, 1 backward")
def lrp_composite(v: View, gamma: float = 0.25, epsilon: float = 1e-6, pixels: str = "z^B") -> Tensor:
    """LRP with rules by depth: gamma at the lower half of the convolutions, epsilon above; sum over colours, signed.

    Montavon et al. 2019, table 10.1; half and half is our choice. Options as of lrp-gamma.
    """
    require_number("gamma", gamma, 0)
    upper = upper_half([*network_of(v).without_norms().graph.nodes])
    return _by_rules(v, pixels, convolution="gamma", gamma=gamma, epsilon=epsilon, upper=upper)


@method("lrp-alpha-beta", needs="image", passes="2 forward, 1 backward")
def lrp_alpha_beta(v: View, alpha: float = 2.0, epsilon: float = 1e-6, pixels: str = "flat") -> Tensor:
    """LRP with alpha times the positive products a w at convolutions, minus alpha - 1 times the negative; signed.

    Bach et al. 2015, equation 60, epsilon at linear layers; sum over colours. With alpha=2 it is zennit's
    EpsilonAlpha2Beta1Flat, with alpha=1 its EpsilonPlusFlat. BatchNorm is folded into its convolution.
    pixels: as of lrp-gamma.
    """
    require_number("alpha", alpha, 1)
    return _by_rules(v, pixels, convolution="alpha-beta", alpha=alpha, epsilon=epsilon)


def _by_rules(v: View, pixels: str, **rules: Any) -> Tensor:
    """Return the relevance of the pixels, summed over colours, [N, H, W]."""
    require_choice("pixels", pixels, PIXELS)
    require_number("epsilon", rules["epsilon"], 0)
    rules |= {"bounds": v.bounds()} if pixels == "z^B" else {"pixels": pixels}
    policy = LRP(normalisation="pass", **rules)
    return v.back(policy, relevance=True, form=lambda network: network.without_norms()).sum(1)


@method("excitation-backprop", passes="2 forward, 1 backward")
def excitation_backprop(v: View) -> Tensor:
    """sum_k p_k at the layer: the probability that a neuron wins, p_j = a_j sum_i w_ij^+ p_i / sum_j w_ij^+ a_j.

    Zhang et al. 2016, arXiv 1608.00507, equations 4 to 6; p is 1 at the target. The map is not negative and adds up to
    1 at most.
    """
    return _winning(v)


@method("contrastive-excitation-backprop", passes="3 forward, 2 backward")
def contrastive_excitation_backprop(v: View) -> Tensor:
    """ReLU of excitation backprop of the target minus that of its opposite, the classifier's weights negated.

    Zhang et al. 2016, arXiv 1608.00507, section 3.3; rectified as in the released code (from memory of it).
    """
    return (_winning(v) - _winning(v, negated=True)).relu()


def _winning(v: View, negated: bool = False) -> Tensor:
    """Return the probability of winning at each position of the layer, summed over its channels, [N, h, w].

    A target that stands for less of an output, as the "no" of a single one, is that output's opposite.
    """
    layer = str(v.layer)
    folded = network_of(v).without_norms([layer])

    def won(negated: bool) -> Tensor:
        network = with_negated_classifier(folded) if negated else folded
        return v.layout.maps(v.back(Excitation(), layer=layer, form=lambda _: network)).sum(1).abs()

    starts = [signal for signal in v.scorer.seed(v.everyone)(v.output) if signal is not None]
    against = torch.stack([signal.flatten(1).sum(1) for signal in starts]).sum(0) < 0
    if not bool(against.any()):
        return won(negated)
    return torch.where(against[:, None, None], won(not negated), won(negated))
