"""Which units of a layer make a decision: the score of a class, shared out among them and carried on to the pixels.

A signal starts at the score of one class and goes back to a layer, where it stops. What arrives at a unit is its
relevance R. Two kinds of rules give it:

    lrp-...                layer-wise relevance propagation (`relevance`): every op shares the relevance of its output
                           out among its inputs; Bach et al. 2015
    gradient-x-activation  R = a dy/da, with a the unit's activation and y the score; Shrikumar et al. 2016,
                           arXiv 1605.01713, of units instead of pixels

By LRP the score y is the sum of four parts:

    y = relevance of the layer's units + what passes the layer by + what biases keep + the rest

Skip connections and parallel branches pass a layer by. A bias contributes to the output of its op as the inputs do, and
keeps its share (Bach et al. 2015, section "Layer-wise relevance propagation"). The rest is what stabilisers and ops
without a rule of their own keep. All four are measured: what an op keeps is the sum at its output minus the sums at its
inputs.

The score is the value in front of a final softmax or sigmoid, of which LRP cannot say what contributed.

Source: restricting the signal to one channel of a layer and sending it on is concept relevance propagation, Achtibat et
al. 2023, "From attribution maps to human-understandable explanations" (from memory of the paper).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx

from deconvviz.choices import RELEVANCE_RULES
from deconvviz.deconv.memory import EVERYTHING_STAYS, MemoryPlan, memory_plan
from deconvviz.deconv.places import Places
from deconvviz.deconv.plan import descendants, make_plan
from deconvviz.deconv.projection import Projection
from deconvviz.deconv.relevance import LRP
from deconvviz.deconv.rules import WAYS, BackwardRule, Descent, PixelBounds, Policy
from deconvviz.deconv.windows import Sweep
from deconvviz.errors import CaptureError, ProjectionError, require_choice
from deconvviz.graph.classifier import logits_of
from deconvviz.graph.evaluating import differentiable, outside_inference_mode
from deconvviz.graph.layers import as_value
from deconvviz.graph.network import Network
from deconvviz.graph.ops import op_name, op_of
from deconvviz.types import Box

if TYPE_CHECKING:
    from deconvviz.choices import Precision

GRADIENT = "gradient-x-activation"
RULE = "lrp-composite"  # by default; measured beside the others in docs/explanations.md
CONSTANTS = ("add", "sub", "layer_norm", "addmm", "addbmm", "baddbmm")  # ops that may add a constant, as a bias is


@dataclass(frozen=True)
class SharedScores:
    """The scores of one class for each of N images, shared out among the units of some layers.

    Attributes:
        classes: int64 [N], the class whose score is shared out.
        scores: [N], these scores, in the units of the network's output before a final softmax or sigmoid.
        probabilities: [N], of these classes, in 0..1; float32 or wider.
        values: layer -> its value [N, *layer.shape].
        relevance: layer -> the relevance of its units, [N, *layer.shape], in units of the score.
        parts: layer -> float64 [N, 4]: the sum of its units' relevance, what passes it by, what biases keep, and the
            rest; they add up to the score. Of gradient x activation all that does not arrive at the layer is the rest.
        decided: int64 [N], the class with the highest score of each image.
    """

    classes: Tensor
    scores: Tensor
    probabilities: Tensor
    values: dict[str, Tensor]
    relevance: dict[str, Tensor]
    parts: dict[str, Tensor]
    decided: Tensor


@dataclass(frozen=True)
class DecisionProjection(Projection, drawn_by="draw_projection"):
    """What a channel of a layer carries of a decision, at the pixels.

    `position` is that of the channel's unit with the largest relevance, and `value` its activation. The window is the
    whole image.

    Attributes:
        target: the class whose score it is.
        score: of that class.
        relevance: of the channel: the sum over its units, in units of the score.
        share: of the channel in the relevance of its layer: its relevance over the sum of the channels' absolute ones.
        decided: the class with the highest score, for which the network decides.
    """

    target: int = 0
    score: float = 0.0
    relevance: float = 0.0
    share: float = 0.0
    decided: int = 0


class Decisions:
    """Shares the scores of classes out among the units of layers.

    Attributes:
        network: in the form in which it runs: LRP has every BatchNorm folded into its convolution.
        layers: names of the layers.
        rule: one of `choices.RELEVANCE_RULES`.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 36, 4, bias=False)).eval()
    >>> network, x = dv.capture(model, (1, 8, 8)), torch.ones(3, 1, 8, 8)
    >>> shared = Decisions(network, ["1"], "lrp-epsilon").of(x, torch.tensor([2, 0, 1]))
    >>> shared.relevance["1"].shape, torch.allclose(shared.parts["1"][:, 0].float(), shared.scores, atol=1e-4)
    (torch.Size([3, 2, 6, 6]), True)
    """

    def __init__(
        self,
        network: Network,
        layers: Sequence[str],
        rule: str = RULE,
        *,
        bounds: PixelBounds | None = None,
        precision: Precision = "fp32",
    ) -> None:
        """Prepare a network.

        Args:
            network: a captured network that returns one score for each class.
            layers: names of layers between the image and the scores.
            rule: one of `choices.RELEVANCE_RULES`.
            bounds: lowest and highest value of a pixel; see `SignalOptions`. Only what goes on to pixels reads them.
            precision: number format of the passes, one of `choices.PRECISIONS`.

        Raises:
            ProjectionError: another rule.
            LayerNotFound: a layer does not exist.
            CaptureError: the network returns no scores of classes, or they do not depend on a layer.
        """
        require_choice("rule", rule, RELEVANCE_RULES, ProjectionError)
        names = list(dict.fromkeys(layers))
        shapes = {name: network.layer(name).shape for name in names}  # raises LayerNotFound, with the nearest names
        folded = rule != GRADIENT and WAYS[rule].folded
        self.network = (network.without_norms(names) if folded else network).in_precision(precision)
        self.layers, self.rule, self.shapes = tuple(names), rule, shapes
        self._start = logits_of(self.network)
        name = self.network.name_of(self._start)
        if name is None:
            raise CaptureError(f"the scores of {network.name} are not a layer's value: no relevance starts there")
        self._plan = make_plan(self.network, name, windowed=False)
        self._nodes = {layer: self.network.layer(layer).node for layer in names}
        self._after = {layer: descendants([node], self._plan.steps) for layer, node in self._nodes.items()}
        for layer in names:
            if self._start not in self._after[layer]:
                raise CaptureError(f"the scores of {network.name} do not follow from layer {layer!r}; take one before")
        self._policy = self._policy_of(rule, bounds)
        cut = self._policy.rectified if isinstance(self._policy, LRP) else None
        self._memory = memory_plan(self._plan.steps, self._nodes.values(), cut)

    @outside_inference_mode()
    @torch.no_grad()
    def of(self, x: Tensor, classes: Tensor | None = None) -> SharedScores:
        """Share the scores of one class for each image out.

        Args:
            x: images [N, C, H, W], prepared for the network.
            classes: int64 [N]; by default the class with the highest score of each image.

        Raises:
            CaptureError: x does not fit the network, or a class does not exist.
        """
        return self._shared(x, classes, self._memory)[1]

    @outside_inference_mode()
    @torch.no_grad()
    def project(
        self, x: Tensor, layer: str, channels: Sequence[int], target: int | None = None
    ) -> list[DecisionProjection]:
        """Carry what channels of a layer hold of a decision on to the pixels, each by itself.

        Args:
            x: one image, [1, C, H, W].
            layer: one of the layers.
            channels: of the layer.
            target: the class; None takes the one with the highest score.

        Raises:
            ProjectionError: several images are given, or a channel does not exist.
            CaptureError: as of `of`.
        """
        if len(x) != 1:
            raise ProjectionError(f"{len(x)} images given; the decision on one is projected")
        count, (_, columns) = self.network.layer(layer).units[0], self.network.layer(layer).units[1:]
        beyond = [channel for channel in channels if not 0 <= channel < count]
        if beyond:
            raise ProjectionError(f"channel {beyond[0]} of layer {layer!r} given; expected 0 to {count - 1}")
        classes = None if target is None else torch.tensor([target], device=x.device)
        sweep, shared = self._shared(x, classes)
        relevance = self.network.maps(layer, shared.relevance[layer])[0]
        values = self.network.maps(layer, shared.values[layer])[0]
        sums = relevance.flatten(1).sum(1, dtype=torch.float64)
        shares = sums / sums.abs().sum().clamp(min=1e-30)
        projections = []
        for channel in channels:
            place = int(relevance[channel].argmax())
            pixels = self._at_pixels(sweep, layer, channel, relevance)
            projections.append(
                DecisionProjection(
                    image=0,
                    layer=layer,
                    channel=channel,
                    position=divmod(place, columns),
                    rule=self.rule,
                    value=float(values[channel].flatten()[place]),
                    window=Box(0, 0, x.shape[2], x.shape[3]),
                    pixels=pixels,
                    image_shape=(x.shape[1], x.shape[2], x.shape[3]),
                    linearised=tuple(sorted(sweep.linearised)),
                    target=int(shared.classes[0]),
                    score=float(shared.scores[0]),
                    relevance=float(sums[channel]),
                    share=float(shares[channel]),
                    decided=int(shared.decided[0]),
                )
            )
        return projections

    # --- inside ---

    def _policy_of(self, rule: str, bounds: PixelBounds | None) -> BackwardRule:
        if rule == GRADIENT:
            return Policy("gradient", lrn="gradient")
        steps = self._plan.steps
        way = Descent(overlap="sum", lrn="identity", bounds=bounds, steps=steps, proportional=True)
        return WAYS[rule].policy(way)

    def _shared(
        self, x: Tensor, classes: Tensor | None, memory: MemoryPlan = EVERYTHING_STAYS
    ) -> tuple[Sweep, SharedScores]:
        network = self.network
        images = differentiable(network.checked(x)).to(memory_format=network.memory_format)
        places = Places.of(range(len(x)), [(0, 0)] * len(x), images.device)
        sweep = Sweep(network, self._plan, images, places, memory=memory)
        logits = sweep.forward()
        scores = logits.flatten(1)
        single = scores.shape[1] == 1  # one score stands for two classes, "yes" and "no", see `Readout`
        both = torch.cat([scores, -scores], 1) if single else scores
        decided = both.argmax(1)
        classes = decided if classes is None else self._checked(classes, both.shape[1], len(x))
        score = both.gather(1, classes[:, None])
        first = score if self.rule != GRADIENT else torch.ones_like(score)
        if single and self.rule == GRADIENT:
            first = 1.0 - 2.0 * classes[:, None].to(score.dtype)
        where = torch.zeros_like(classes) if single else classes
        seed = torch.zeros_like(scores).scatter_(1, where[:, None], first).reshape(logits.shape)
        taken: dict[fx.Node, Tensor] | None = None if self.rule == GRADIENT else {}
        arrived = sweep.signals_at([*self._nodes.values()], {self._start: seed}, self._policy, taken)
        values = {layer: sweep.values[node] for layer, node in self._nodes.items()}
        relevance = {}
        for layer, node in self._nodes.items():
            signal = arrived[node] if node in arrived else torch.zeros_like(values[layer])
            relevance[layer] = signal * values[layer] if self.rule == GRADIENT else signal
        probabilities = self._probabilities(both).gather(1, classes[:, None])[:, 0]
        parts = {layer: self._parts(layer, score[:, 0], relevance[layer], taken) for layer in self.layers}
        return sweep, SharedScores(classes, score[:, 0], probabilities, values, relevance, parts, decided)

    def _checked(self, classes: Tensor, count: int, images: int) -> Tensor:
        """Return the classes on the device; raises CaptureError where one does not exist."""
        if len(classes) != images:
            raise CaptureError(f"{len(classes)} classes given for {images} images; give one for each")
        if classes.device.type == "cpu" and len(classes):  # those on a GPU were checked before they were sent there
            low, high = int(classes.min()), int(classes.max())
            if low < 0 or high >= count:
                raise CaptureError(f"class {low if low < 0 else high} given; the model has classes 0 to {count - 1}")
        return classes.to(self.network.device)

    def _probabilities(self, scores: Tensor) -> Tensor:
        """Return the probability of each class, [N, classes]."""
        readout = self.network.readout
        if self._start is self.network.score_node:
            return readout.probabilities(scores)
        kind = "sigmoid" if readout.kind == "independent" else "softmax"
        return replace(readout, kind=kind).probabilities(scores)

    def _parts(self, layer: str, score: Tensor, relevance: Tensor, taken: dict[fx.Node, Tensor] | None) -> Tensor:
        """Return what the score is the sum of, float64 [N, 4]; see `SharedScores`."""
        exact, arrived = score.double(), relevance.flatten(1).sum(1, dtype=torch.float64)
        nothing = torch.zeros_like(exact)
        if taken is None:
            return torch.stack([arrived, nothing, nothing, exact - arrived], 1)
        passed = [node for node in self._after[layer] if node in taken]
        biases = sum((taken[node] for node in passed if _adds_constants(node)), nothing)
        rest = sum((taken[node] for node in passed if not _adds_constants(node)), nothing)
        return torch.stack([arrived, exact - arrived - biases - rest, biases, rest], 1)

    def _at_pixels(self, sweep: Sweep, layer: str, channel: int, relevance: Tensor) -> Tensor:
        """Send the relevance of one channel, of maps [K, h, w], on to the pixels, [C, H, W]."""
        node, image = self._nodes[layer], self.network.image
        alone = torch.zeros_like(relevance)[None]
        alone[0, channel] = relevance[channel]
        if self.rule == GRADIENT:  # the relevance is a g: what goes on is the gradient g of the channel's units
            value = self.network.maps(layer, sweep.values[node])
            alone = torch.where(value != 0, alone / value, 0)
        signals = sweep.signals_at([image], {node: as_value(node, alone)}, self._policy)
        signal = signals.get(image, torch.zeros_like(sweep.images))
        pixels = (signal * sweep.images if self.rule == GRADIENT else signal)[0]
        return pixels.float() if pixels.dtype == torch.bfloat16 else pixels.clone()


def project_decision(
    network: Network,
    x: Tensor,
    layer: str,
    channel: int,
    target: int | None = None,
    rule: str = RULE,
    bounds: PixelBounds | None = None,
) -> DecisionProjection:
    """Carry what one channel holds of a decision back to the pixels of an image: concept relevance.

    The score of a class is shared out down to the layer, all but this channel's share is dropped, and that share is
    carried on to the pixels. So the picture shows which pixels speak for the class through this channel.

    Args:
        network: a captured network that returns one score for each class.
        x: one image, [1, C, H, W].
        layer: name of a layer.
        channel: of the layer.
        target: the class; None takes the one with the highest score.
        rule: one of `choices.RELEVANCE_RULES`.
        bounds: lowest and highest value of a pixel; see `SignalOptions`.

    Returns:
        The projection, whose pixels are in units of the score and signed: what is positive speaks for the class.

    Raises:
        LayerNotFound: a layer of this name does not exist.
        CaptureError: x does not fit, the network returns no scores, or the class does not exist.
        ProjectionError: the channel or the rule does not exist, or an op on the way has no transpose.

    Source: Achtibat et al. 2023, concept relevance propagation (from memory of the paper); the rules are `relevance`'s.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 36, 4)).eval()
    >>> network = dv.capture(model, (1, 8, 8))
    >>> projection = dv.project_decision(network, torch.ones(1, 1, 8, 8), "1", channel=0, target=3)
    >>> projection.target, tuple(projection.pixels.shape)
    (3, (1, 8, 8))
    """
    projection = Decisions(network, [layer], rule, bounds=bounds).project(x, layer, [channel], target)[0]
    return replace(projection, seen=network.checked(x).detach()[0])


def _adds_constants(node: fx.Node) -> bool:
    """Return whether an op may add a constant to what it makes of its inputs."""
    op = op_of(node)
    return op.weighted or op.normalises or op_name(node) in CONSTANTS
