"""Methods that read the attention of transformers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx

from deconvviz.cam.attention import all_probabilities, attention_nodes, by_image, probabilities, sources
from deconvviz.cam.engine import View
from deconvviz.cam.methods.shared import network_of
from deconvviz.cam.registry import method
from deconvviz.cam.tokens import Layout, layout_of
from deconvviz.errors import CamError
from deconvviz.graph.network import Network
from deconvviz.graph.steps import crossing, make_plan


@method("attention-rollout", needs="image", passes="2 forward")
def attention_rollout(v: View) -> Tensor:
    """The class token's row of the product over layers of (A + I) / 2, A the attention, averaged over heads; no class.

    Abnar and Zuidema 2020, arXiv 2005.00928, section 3. Without a class token the rows of all tokens are averaged. It
    says where the tokens look, not what the class is decided by.
    """
    attentions = all_probabilities(network_of(v), v.x)
    tokens = attentions[0].shape[-1]
    if any(each.shape[-1] != tokens for each in attentions):
        raise CamError("the network's attentions are over different numbers of tokens; take a method of one layer")
    layout, rolled = _layout(v, tokens), torch.eye(tokens, dtype=v.x.dtype, device=v.x.device).expand(len(v.x), -1, -1)
    for each in attentions:
        mixed = each.mean(1) + torch.eye(tokens, dtype=each.dtype, device=each.device)
        rolled = mixed / mixed.sum(-1, keepdim=True) @ rolled
    v.passes["forward"] += len(v.x)
    return layout.maps((rolled[:, 0] if layout.extra else rolled.mean(1))[..., None])[:, 0]


@method("legrad", needs="layers", passes="3 * layers forward, 2 * layers tail, layers tail backward")
def legrad(views: Sequence[View]) -> Tensor:
    """The mean over blocks, heads and queries of ReLU(dy_l / dA_l), A_l the attention of block l.

    Bousselham et al. 2024, arXiv 2404.03214; y_l is the class's score where what follows the last block reads the mean
    of block l's tokens, as in the released code. layers: the outputs of blocks, from the first to the last.
    """
    network, last = network_of(views[0]), views[-1]
    maps = []
    for v in views:
        relevance = _attention_slope(network, v, last).relu().mean((1, 2))  # [N, L]
        maps.append(_layout(v, relevance.shape[1]).maps(relevance[..., None])[:, 0])
    return torch.stack(maps).mean(0)


def _attention_slope(network: Network, v: View, last: View) -> Tensor:
    """Return the gradient of a block's score with respect to the probabilities of its attention, [N, heads, L, L]."""
    block = network.layer(str(v.layer)).node
    attention = _attention_of(network, block)
    plan = make_plan(network.graph, frozenset({attention, network.image, network.batch_size}), [block])
    beside = crossing(network.graph, attention, plan, [block])
    given = network.run(
        {network.image: network.checked(v.x)}, [*dict.fromkeys([*sources(attention), *beside])], len(v.x)
    )
    shares, averaged = probabilities(attention, given)
    with torch.enable_grad():
        leaf = shares.detach().clone().requires_grad_()
        out = (leaf @ averaged).to(averaged.dtype)
        tokens = network.run({attention: out} | {node: given[node] for node in beside}, [block], len(v.x))[block]
        pooled = tokens.mean(1, keepdim=True).expand_as(tokens)
        score = last.scorer.logit(last.tail(pooled, None), last.everyone).sum()
        (slope,) = torch.autograd.grad(score, leaf)
    v.passes["forward"] += 2 * len(v.x)
    v.passes["tail"] += len(v.x)
    v.passes["tail backward"] += len(v.x)
    return by_image(slope, len(v.x))


def _attention_of(network: Network, block: fx.Node) -> fx.Node:
    """Return the last attention before the output of a block; raises CamError where there is none."""
    order = {node: number for number, node in enumerate(network.graph.nodes)}
    before = [node for node in attention_nodes(network) if order[node] <= order[block]]
    if not before:
        raise CamError("legrad reads the attention of a block, and none comes before this layer; name a later block")
    return before[-1]


def _layout(v: View, tokens: int) -> Layout:
    return layout_of("attention", (tokens, 1), 2, v.size, v.tokens)
