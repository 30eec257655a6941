"""Detectors whose one box depends on one block of pixels and on nothing else: its explanation is known.

The heads are those of YOLOv5, YOLOv8 and YOLOX with their three levels and their decoding, and torchvision's own
RetinaNet, SSD and Faster R-CNN with a small backbone. All of them see images of 64 x 64 pixels.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator

SIDE, CLASSES, LABEL = 64, 3, 1
BLOCK = (slice(40, 48), slice(8, 16))  # rows and columns of the pixels that are read
CORNER = (slice(32, 48), slice(24, 40))  # that Faster R-CNN reads, which sees nothing outside of a box
BOX = (24.0, 24.0, 40.0, 40.0)  # left, top, right, bottom: elsewhere
STRIDES = (8, 16, 32)
GAIN = 8.0


class Reading(nn.Module):
    """A stem of one convolution, and the evidence: the mean brightness of the block, [N], less a half, times a gain."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 2, 1)
        nn.init.constant_(self.stem.weight, 1 / 6)
        nn.init.zeros_(self.stem.bias)  # type: ignore[arg-type]
        mask = torch.zeros(SIDE, SIDE)
        mask[BLOCK] = 1 / 64
        self.register_buffer("mask", mask)

    def evidence(self, x: Tensor) -> Tensor:
        mean: Tensor = (self.stem(x).relu().sum(1) * self.mask).sum((1, 2))
        return GAIN * (mean - 0.5)


class PlantedYolo(Reading):
    """A YOLO of one family: what comes out of its three levels is constant but for one anchor."""

    def __init__(self, family: str) -> None:
        super().__init__()
        self.family = family

    def forward(self, x: Tensor) -> Any:
        evidence, rows = self.evidence(x), []
        for stride in STRIDES:
            side = SIDE // stride
            grid = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="xy"), -1).reshape(-1, 2)
            raw = torch.full((len(grid), self.width()), -6.0)
            here = torch.zeros_like(raw)  # what the evidence is added to: the class, and the objectness
            if stride == 8:  # the level and the cell that hold the box
                cell = 4 * side + 4
                raw[cell, : self.width() - CLASSES] = self.planted(stride)
                here[cell, self.width() - CLASSES + LABEL] = 1
                raw[cell, self.width() - CLASSES + LABEL] = 0
                if self.family != "v8":
                    here[cell, 4] = 1
            rows.append(self.decoded(raw + here * evidence[:, None, None], grid.to(x), stride))
        values = torch.cat(rows, 1)
        return (values.transpose(1, 2) if self.family == "v8" else values, [row.transpose(1, 2) for row in rows])

    def width(self) -> int:
        return 4 * 16 + CLASSES if self.family == "v8" else 5 + CLASSES

    def planted(self, stride: int) -> Tensor:
        """What comes out of the cell (row 4, column 4) for BOX, before it is decoded: the inverse of `decoded`."""
        if self.family == "v5":  # the centre, 32, is the cell's corner: an offset of 0; the anchor has the box's size
            return torch.tensor([-math.log(3), -math.log(3), 0.0, 0.0, 0.0])
        if self.family == "yolox":
            return torch.tensor([0.0, 0.0, math.log(16 / stride), math.log(16 / stride), 0.0])
        bins = torch.full((4, 16), -9.0)  # distances from the cell's middle, in cells
        for edge, distance in enumerate((1.5, 1.5, 0.5, 0.5)):
            bins[edge, math.floor(distance) : math.floor(distance) + 2] = 9.0
        return bins.flatten()

    def decoded(self, raw: Tensor, grid: Tensor, stride: int) -> Tensor:
        """[N, cells, width] -> [N, cells, 4 + (1) + classes]: as the family's released code decodes its head."""
        if self.family == "v8":
            bins = raw[..., :64].reshape(*raw.shape[:2], 4, 16).softmax(3) @ torch.arange(16.0)
            low, high = grid + 0.5 - bins[..., :2], grid + 0.5 + bins[..., 2:]
            return torch.cat([(low + high) / 2 * stride, (high - low) * stride, raw[..., 64:].sigmoid()], 2)
        if self.family == "v5":
            centre, size = (2 * raw[..., :2].sigmoid() - 0.5 + grid) * stride, (2 * raw[..., 2:4].sigmoid()) ** 2 * 16
        else:
            centre, size = (raw[..., :2] + grid) * stride, raw[..., 2:4].exp() * stride
        return torch.cat([centre, size, raw[..., 4:].sigmoid()], 2)


class Backbone(nn.Module):
    """The stem, and its mean over blocks of 8 x 8 pixels."""

    out_channels = 2

    def __init__(self) -> None:
        super().__init__()
        self.stem = Reading().stem

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"0": nn.functional.avg_pool2d(self.stem(x).relu(), 8)}


class PlantedHead(nn.Module):
    """Of all anchors one has a logit that is read off the block's cell; regression is zero."""

    def __init__(self, classes: int, anchor: int, quiet: float) -> None:
        super().__init__()
        self.classes, self.anchor, self.quiet = classes, anchor, quiet

    def forward(self, features: list[Tensor]) -> dict[str, Tensor]:
        maps = features[0]
        evidence = GAIN * (maps[:, :, BLOCK[0].start // 8, BLOCK[1].start // 8].sum(1) - 0.5)
        here = torch.zeros(64, self.classes)
        here[self.anchor, LABEL] = 1
        logits = self.quiet * (1 - here) + here * evidence[:, None, None]
        return {"cls_logits": logits, "bbox_regression": maps.new_zeros(len(maps), 64, 4)}


class CornerHead(nn.Module):
    """The box head of Faster R-CNN: one logit is read off the lower left corner of what was pooled in the box."""

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        evidence = GAIN * (pooled[:, :, 5:, :2].sum(1).mean((1, 2)) - 0.5)
        here = torch.zeros(CLASSES)
        here[LABEL] = 1
        return here * evidence[:, None], pooled.new_zeros(len(pooled), 4 * CLASSES)


class QuietProposals(nn.Module):
    """The head of the region proposals: one anchor of all is proposed, whatever the image is."""

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        maps = features[0]
        objectness = torch.full((8, 8), -9.0)
        objectness[4, 4] = 9.0
        return [objectness.expand(len(maps), 1, 8, 8)], [maps.new_zeros(len(maps), 4, 8, 8)]


def planted(name: str) -> nn.Module:
    """Return a planted detector: "v5", "v8", "yolox", "retinanet", "ssd" or "faster-rcnn"."""
    if name in ("v5", "v8", "yolox"):
        return PlantedYolo(name).eval()
    anchors = AnchorGenerator(((16,),), ((1.0,),))  # one of 16 x 16 px around the corner of each cell of 8 x 8 px
    sizes: dict[str, Any] = {"min_size": SIDE, "max_size": SIDE, "image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    anchor = 4 * 8 + 4  # around x 32, y 32: BOX
    if name == "retinanet":
        quiet = PlantedHead(CLASSES, anchor, -6.0)
        model: nn.Module = detection.RetinaNet(Backbone(), CLASSES, anchor_generator=anchors, head=quiet, **sizes)
        return model.eval()
    if name == "ssd":
        sizes = {"image_mean": sizes["image_mean"], "image_std": sizes["image_std"]}
        even = PlantedHead(CLASSES, anchor, 0.0)
        model = detection.ssd.SSD(Backbone(), anchors, (SIDE, SIDE), CLASSES, head=even, **sizes)
        return model.eval()
    model = detection.FasterRCNN(
        Backbone(),
        rpn_anchor_generator=anchors,
        rpn_head=QuietProposals(),
        rpn_post_nms_top_n_test=1,
        box_head=nn.Identity(),
        box_predictor=CornerHead(),
        **sizes,
    )
    return model.eval()


def image() -> Tensor:
    """An image [1, 3, 64, 64] that is bright everywhere: what it shows does not tell where the detector looks."""
    return 0.55 + 0.4 * torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(4))


def make() -> tuple[nn.Module, dict[str, object], list[str]]:
    """Return the detector for the command line: images are put into 64 x 64 px with bars at two sides."""
    whole = {"resize": SIDE, "crop": SIDE, "fit": "contain", "mean": (0.0,) * 3, "std": (1.0,) * 3}
    return planted("v5"), whole, ["cat", "dog", "owl"]
