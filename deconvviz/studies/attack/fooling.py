"""What an attack on explanations wants of the images of a batch, and how far they are from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from deconvviz.cam.adversarial import margin_of
from deconvviz.studies.attack.edges import THRESHOLD, edge_weights
from deconvviz.studies.attack.interpreters.base import Interpreter, Pass, Reader
from deconvviz.studies.attack.pixels import PixelNetwork
from deconvviz.studies.attack.victims import Victims

SPOT = 0.2  # of a side: the standard deviation of the spot in a corner


class Judged(NamedTuple):
    """What was found of images that are on their way.

    Attributes:
        gradient: [N, C, H, W], of the loss that the attack lowers, with respect to the pixels.
        distance: [N], the sum over the interpreters of the mean square difference to the map that is wanted; less than
            zero where maps are to move away.
        decided: bool [N], whether the network finds the class that is wanted.
    """

    gradient: Tensor
    distance: Tensor
    decided: Tensor


@dataclass(frozen=True, kw_only=True)
class Fooling:
    """The images of a batch, the class that each shall have, and the map that each interpreter shall show for it.

    Attributes:
        victims: the images; their targets are the classes that they shall have, which the maps explain.
        interpreters: that are fooled together, by name.
        wanted: name -> maps [N, h, w] in 0..1; of "away" those that the maps shall differ from.
        sign: 1 where maps shall be like these, -1 where they shall differ.
        moves_decision: whether the images shall have another class than before.
        edges: "none", "weights" or "threshold".
        both_stages: whether the edges hold in both stages of an attack, or in the first one alone.
    """

    victims: Victims
    interpreters: Mapping[str, Interpreter]
    wanted: Mapping[str, Tensor]
    sign: int = 1
    moves_decision: bool = True
    edges: str = "none"
    both_stages: bool = False

    @property
    def classes(self) -> Tensor:
        """int64 [N], the class that each image shall have."""
        assert self.victims.targets is not None
        return self.victims.targets

    @cached_property
    def weights(self) -> Tensor:
        """[N, 1, H, W], the share of its step that a pixel takes where edges hold; of AdvEdge+ 0 or 1."""
        weights = edge_weights(self.victims.x)
        if self.edges == "threshold":
            return (weights > THRESHOLD).to(weights)
        return weights if self.edges == "weights" else torch.ones_like(weights)

    def shares(self, stage: int) -> Tensor | float:
        """Return what the steps of stage 1 or 2 are multiplied by: the weights, or 1 where edges do not hold."""
        holds = self.edges != "none" and (stage == 1 or self.both_stages or not self.moves_decision)
        return self.weights if holds else 1.0

    @cached_property
    def readers(self) -> Mapping[str, Reader]:
        """Name -> reader of the maps, made for these images once."""
        return {name: each.reader(self.victims.x, self.classes) for name, each in self.interpreters.items()}

    def judged(self, x: Tensor, weight: float) -> Judged:
        """Judge images [N, C, H, W] in 0..1, as they are kept; weight: c of `loss`."""
        with torch.enable_grad():
            leaf = x.detach().clone().requires_grad_()
            loss, distance, scores = self.loss(leaf, weight)
            (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        return Judged(gradient, distance.detach(), scores.detach().argmax(1) == self.classes)

    def loss(self, x: Tensor, weight: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss [N], the distance [N] and the scores [N, K] of images [N, C, H, W] with a graph.

        The loss is -log p + weight (sum over the interpreters of the distance), p of the class that is wanted.
        """
        layers = tuple({layer: None for each in self.interpreters.values() for layer in each.layers})
        seen = pass_of(self.victims.network, x, layers)
        distance = torch.zeros_like(seen.scores[:, 0])
        for name, read in self.readers.items():
            maps = read(seen._replace(values=_those_of(self.interpreters[name], seen)), self.classes)
            distance = distance + self.sign * (maps - self.wanted[name]).square().mean((1, 2))
        entropy = -self.victims.network.network.readout.log_probabilities(seen.scores)
        return entropy.gather(1, self.classes[:, None])[:, 0] + weight * distance, distance, seen.scores


def pass_of(network: PixelNetwork, x: Tensor, layers: Sequence[str]) -> Pass:
    """Return one pass over images [N, C, H, W] in 0..1, with the graph that autograd keeps of it."""
    values, output = network.network.observed(network.scale.inputs(x), list(layers))
    return Pass(x, network.network.readout.scores(output), values)


def maps_of(network: PixelNetwork, each: Interpreter, x: Tensor, classes: Tensor) -> Tensor:
    """Return an interpreter's maps of images as a user would see them, [N, h, w] in 0..1."""

    def made(images: Tensor, layers: Sequence[str]) -> Pass:
        return pass_of(network, images.detach().clone().requires_grad_(), layers)

    with torch.enable_grad():
        return each.maps(made, x, classes)


def _those_of(each: Interpreter, seen: Pass) -> dict[str, Tensor]:
    return {layer: seen.values[layer] for layer in each.layers}


def towards(maps: Tensor, where: str) -> Tensor:
    """Return the maps that an attack on explanations alone goes for, [N, h, w] in 0..1.

    Args:
        maps: [N, h, w], of the images as they are.
        where: "away": the maps themselves, which are to be left; "mirror": from left to right; "corner": a spot in the
            corner whose quarter of the map holds least.

    Source: our choice; Zhang et al. 2020 (Adv2), section 5, take maps of other images.

    >>> maps = torch.zeros(1, 4, 4)
    >>> maps[0, :2] = 1
    >>> maps[0, 3, 3] = 1
    >>> towards(maps, "corner")[0, :, 0].argmax().item()  # below on the left
    3
    """
    if where == "away":
        return maps
    if where == "mirror":
        return maps.flip(-1)
    down, across = (torch.linspace(0, 1, side, dtype=maps.dtype, device=maps.device) for side in maps.shape[-2:])
    spots, sums = [], []
    for y in (0, 1):
        for x in (0, 1):
            near = torch.exp(-((down - y).square()[:, None] + (across - x).square()[None]) / (2 * SPOT**2))
            quarter = ((down - y).abs() <= 0.5)[:, None] & ((across - x).abs() <= 0.5)[None]
            spots.append(near)
            sums.append((maps * quarter).sum((1, 2)))
    return torch.stack(spots)[torch.stack(sums, 1).argmin(1)]


def runner_up(scores: Tensor, own: Tensor) -> Tensor:
    """Return the class with the largest score besides the top one and `own`, int64 [N], of scores [N, K]."""
    others = scores.scatter(1, scores.argmax(1, keepdim=True), float("-inf"))
    return others.scatter(1, own[:, None], float("-inf")).argmax(1)


def lead(victims: Victims, scores: Tensor) -> Tensor:
    """Return how far the class that is wanted leads, [N]; of an attack without targets, how far any other one does."""
    return margin_of(scores, victims.own) if victims.targets is None else -margin_of(scores, victims.targets)
