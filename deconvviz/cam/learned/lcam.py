"""L-CAM: one 1x1 convolution learns, for every class, how to weigh a layer's maps."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from deconvviz.cam.learned.base import Batch, LearnedExplainer, Shape, area, learned, smoothness
from deconvviz.cam.methods.activation import class_weights
from deconvviz.cam.shaping import resized
from deconvviz.errors import DataError, require_choice
from deconvviz.graph.network import Network


class LCam(LearnedExplainer):
    """What both forms of L-CAM share: c = conv(A) for the class, a = sigmoid(c), and the loss."""

    def __init__(
        self,
        layers: Mapping[str, Shape],
        outputs: int,
        *,
        smoothness: float = 0.01,
        area: float = 2.0,
        cross_entropy: float = 1.5,
        power: float = 0.3,
        batch_wide: bool = False,
        ce_only: bool = False,
        start: str = "random",
    ) -> None:
        """Make an explainer.

        Args:
            layers: name -> shape of the maps of the one layer that it reads.
            outputs: number of outputs of the network.
            smoothness: weight of the total variation.
            area: weight of the area.
            cross_entropy: weight of the cross-entropy.
            power: of the area.
            batch_wide: take the first two terms in the released form, over the maps of every class of the batch on
                every image; the first term then grows with the batch.
            ce_only: the "A" variants of the paper: cross-entropy alone.
            start: "random", or (ours) "classifier": the weights with which a linear classifier reads the layer. An
                untrained explainer is then CAM, and so it remains for a class that the training never shows, but for
                weight decay.

        Raises:
            DataError: a negative weight, or another start.
        """
        options = {"smoothness": smoothness, "area": area, "cross_entropy": cross_entropy, "power": power}
        super().__init__(layers, outputs, **options, batch_wide=batch_wide, ce_only=ce_only, start=start)
        require_choice("start", start, ("random", "classifier"))
        wrong = [f"{name} {value}" for name, value in options.items() if not value >= 0]
        if wrong:
            raise DataError(f"{wrong[0]} given; expected 0 or more")
        self.weights = (0.0, 0.0, 1.0) if ce_only else (smoothness, area, cross_entropy)
        ((self.layer, shape),) = layers.items()
        self.attention = nn.Conv2d(shape[0], outputs, 1)

    def begin(self, network: Network) -> None:
        """Start from the classifier where `start` says so; raises CamError where it is not linear in the layer."""
        if self.options["start"] == "classifier":
            weight, bias = class_weights(network, self.layer)
            with torch.no_grad():
                self.attention.weight.copy_(weight[:, :, None, None])
                assert self.attention.bias is not None
                self.attention.bias.copy_(torch.zeros(len(weight)) if bias is None else bias)

    def forward(self, values: Mapping[str, Tensor], classes: Tensor) -> Tensor:
        """Return c of the class of each image, before the sigmoid, [N, h, w]; no other maps are computed."""
        weight, bias = self.attention.weight[classes, :, 0, 0], self.attention.bias
        assert bias is not None
        maps: Tensor = torch.einsum("nk,nkhw->nhw", weight, values[self.layer]) + bias[classes, None, None]
        return maps

    def terms(self, batch: Batch, phase: str) -> tuple[dict[str, Tensor], Tensor]:
        """Return the three terms, and which images keep their class where only the attended part is left."""
        attention = self(batch.values, batch.classes).sigmoid()
        logits, maps, count = self.logits(batch, attention), attention, len(attention)
        if self.options["batch_wide"]:  # the maps of all classes of the batch on every image, N^2 of them
            maps = self.attention(batch.values[self.layer]).sigmoid()[:, batch.classes].flatten(0, 1)
        one, two, three = self.weights
        return {
            "smoothness": one * smoothness(maps, count),
            "area": two * area(maps, self.options["power"]),
            "cross_entropy": three * functional.cross_entropy(logits, batch.classes),
        }, logits.argmax(1) == batch.classes

    def logits(self, batch: Batch, attention: Tensor) -> Tensor:
        """Return the network's logits where only what the attention marks is left, [N, outputs]."""
        raise NotImplementedError


@learned
class LCamFm(LCam):
    """L-CAM-Fm: the attention of the class masks the layer's maps, logits = tail(sigmoid(c) A); shown is c.

    Gkartzonika et al. 2022, arXiv 2209.11189, after the authors' release; total variation and area are taken per image
    (the released code takes them over the whole batch: option batch_wide).
    """

    name = "l-cam-fm"

    def logits(self, batch: Batch, attention: Tensor) -> Tensor:
        """Return tail(a A)."""
        return batch.after(attention[:, None] * batch.values[self.layer])


@learned
class LCamImg(LCam):
    """L-CAM-Img: the attention of the class, resized, masks the image, logits = f(up(sigmoid(c)) x); shown is c.

    Gkartzonika et al. 2022, arXiv 2209.11189, after the authors' release: masked pixels are black, resizing bilinear.
    """

    name = "l-cam-img"

    def logits(self, batch: Batch, attention: Tensor) -> Tensor:
        """Return f(m x); masked pixels become black."""
        mask = resized(attention, (batch.x.shape[-2], batch.x.shape[-1]))[:, None]
        return batch.whole(batch.x * mask + batch.black * (1 - mask))
