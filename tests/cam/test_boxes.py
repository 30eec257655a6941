"""Boxes of detectors as targets: a planted detector is explained where it looks, for each head."""

from __future__ import annotations

from typing import Any

import detectors as d
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.cam.boxes import READERS, layout_of_output
from deconvviz.errors import TargetError

HEADS = ("v5", "v8", "yolox", "retinanet", "ssd", "faster-rcnn")
LAYOUTS = {"v5": "v5", "v8": "v8", "yolox": "v5"}
TARGET = dv.BoxTarget(d.LABEL, d.BOX)


@pytest.fixture(scope="module", params=HEADS)
def head(request: pytest.FixtureRequest) -> tuple[str, nn.Module, Any, str]:
    """A planted detector, what is given to `cam`, and its layer: torchvision's run with hooks."""
    model = d.planted(request.param)
    yolo = request.param in LAYOUTS
    return request.param, model, dv.capture(model, (3, 64, 64)) if yolo else model, "stem" if yolo else "backbone.stem"


def box_of(output: Any, name: str) -> tuple[Tensor, Tensor]:
    """The planted box and its probability, read off the output by hand."""
    if name not in LAYOUTS:
        own = output[0]["scores"] * (output[0]["labels"] == d.LABEL)
        return output[0]["boxes"][own.argmax()], own.max()
    rows = output[0].transpose(1, 2)[0] if name == "v8" else output[0][0]
    held = rows[:, 4 + d.LABEL] if name == "v8" else rows[:, 4] * rows[:, 5 + d.LABEL]
    x, y, width, height = rows[held.argmax(), :4]
    return torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2]), held.max()


def test_the_gradient_is_that_of_the_planted_box(head: tuple[str, nn.Module, Any, str]) -> None:
    """HiResCAM is gradient x value of the box's logit, by autograd through the model itself, and zero elsewhere."""
    name, model, network, layer = head
    x, kept = d.image(), list[Tensor]()
    handle = model.get_submodule(layer).register_forward_hook(lambda m, i, o: kept.append(o))
    box, probability = box_of(model(x), name)
    handle.remove()
    assert torch.allclose(box, torch.tensor(d.BOX), atol=1e-3) and 0.5 < probability.item() < 0.95
    logit = probability.log() - (1 - probability).log()
    (gradient,) = torch.autograd.grad(logit, kept[0])
    expected = (gradient * kept[0]).sum(1)[0].detach()
    explainer = dv.cam("hirescam", network, layer)
    found = explainer(x, TARGET, raw=True)[0]
    assert torch.allclose(found, expected, atol=1e-5) and float(found.abs().sum()) > 0.1
    outside = torch.ones(64, 64, dtype=torch.bool)
    outside[d.CORNER if name == "faster-rcnn" else d.BLOCK] = False
    assert float(found[outside].abs().sum()) < 1e-5
    assert explainer.scores is not None and explainer.scores.item() == pytest.approx(float(probability), abs=1e-5)
    assert explainer(x, TARGET).targets == ("box of class 1",)  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["occlusion", "d-rise"])
def test_masks_find_the_block(head: tuple[str, nn.Module, Any, str], method: str) -> None:
    name, _, network, _ = head
    options: dict[str, Any] = {"square": 8, "stride": 8} if method == "occlusion" else {"masks": 200, "cells": 8}
    found = dv.cam(method, network, **options)(d.image(), TARGET)[0]
    inside = found[d.CORNER if name == "faster-rcnn" else d.BLOCK]
    if name == "faster-rcnn":  # of the corner, the pooling reads a part
        assert float(inside.mean()) > 1.15 * float(found.mean())
    else:
        assert float(inside.mean()) > 1.5 * float(found.mean()) and float(inside.max()) > 0.95


@pytest.mark.slow
def test_one_box_for_each_image() -> None:
    """Two images with two boxes are explained as each alone; also with the anchors of a second label."""
    network = dv.capture(d.planted("v5"), (3, 64, 64))
    x = torch.cat([d.image(), d.image() * 0.9])
    near = dv.BoxTarget(d.LABEL, (22.0, 22.0, 40.0, 40.0))
    together = dv.cam("hirescam", network, "stem")(x, [TARGET, near], raw=True)
    alone = [dv.cam("hirescam", network, "stem")(x[n : n + 1], t, raw=True) for n, t in enumerate((TARGET, near))]
    assert torch.allclose(together, torch.cat(alone), atol=1e-6)
    masked = dv.cam("occlusion", network, square=8, stride=8)(x, [TARGET, near])
    assert masked.shape == (2, 64, 64)
    with pytest.raises(TargetError, match="1 target given for 2 images"):
        dv.cam("hirescam", network, "stem")(x, [TARGET])


@pytest.mark.slow
def test_d_rise_by_its_definition() -> None:
    """Weights are max over boxes of overlap x cosine x objectness, in numpy from YOLOX's boxes of each masked image."""
    from deconvviz.cam.methods.images import random_masks

    model, x = d.planted("yolox"), d.image()
    network = dv.capture(model, (3, 64, 64))
    masks: list[Tensor] = []

    class Watch:
        size, seed, x = (64, 64), 3, d.image()

    make = random_masks(Watch(), 12, 4, 0.5)  # type: ignore[arg-type]
    numbers = torch.arange(12)
    masks = list(make(numbers * 0, numbers))
    total = np.zeros((64, 64))
    for mask in masks:
        rows = model(x * mask)[0][0].detach().double().numpy()
        best = 0.0
        for cx, cy, w, h, objectness, *classes in rows:
            left, top, right, bottom = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
            shared = max(min(right, 40) - max(left, 22), 0) * max(min(bottom, 44) - max(top, 24), 0)
            overlap = shared / (w * h + 18 * 20 - shared)
            best = max(best, overlap * classes[1] / np.linalg.norm(classes) * objectness)
        total += best * mask.double().numpy()
    near = dv.BoxTarget(d.LABEL, (22.0, 24.0, 40.0, 44.0))
    found = dv.cam("d-rise", network, masks=12, cells=4, seed=3)(x, near, raw=True)[0].double().numpy()
    assert np.allclose(found, total / 6, rtol=1e-4)


def test_layouts_are_told_apart() -> None:
    for name in HEADS:
        assert layout_of_output(d.planted(name)(d.image())) == LAYOUTS.get(name, "detections")
    rows = [[24.0, 24, 40, 40, 0.7, 1], [0, 0, 9, 9, 0.9, 1], [24, 24, 40, 40, 0.8, 2]]
    end = torch.tensor([rows + [[0.0] * 6] * 5])
    assert layout_of_output(end) == "v10"
    bound = TARGET.bind(end, 1)
    assert bound.share(end, torch.tensor([0])).item() == pytest.approx(0.7)
    assert READERS["v10"](end, 2).label.tolist()[0][:3] == [0, 0, pytest.approx(0.8)]


def test_a_masked_image_without_the_box_has_probability_zero() -> None:
    """Torchvision's detectors may return no box at all; dense heads may have none that overlaps."""
    whole = [{"boxes": torch.tensor([d.BOX]), "labels": torch.tensor([1]), "scores": torch.tensor([0.9])}]
    empty = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long), "scores": torch.zeros(0)}]
    bound = TARGET.bind(whole, 1)
    far = [{"boxes": torch.tensor([[0.0, 0, 8, 8]]), "labels": torch.tensor([1]), "scores": torch.tensor([0.95])}]
    shares = bound.share([*whole, *empty, *far], torch.tensor([0, 0, 0]))
    assert shares.tolist() == [pytest.approx(0.9), 0, 0]
    assert bound.share(empty, torch.tensor([0])).tolist() == [0]
    assert bound.agreement(empty, torch.tensor([0])).tolist() == [0]


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ((3, d.BOX), "box of class 3 given; the model has classes 0 to 2"),
        ((1, (40.0, 40.0, 60.0, 60.0)), r"no box of class 1 overlaps.*most probable box of that label is 24,24,40,40"),
    ],
)
def test_boxes_that_are_not_there(target: Any, complaint: str) -> None:
    with pytest.raises(TargetError, match=complaint) as error:
        dv.BoxTarget(*target).bind(d.planted("v5")(d.image()), 1)
    assert "\n" not in str(error.value)
    with pytest.raises(TargetError, match="expected left, top, right and bottom"):
        dv.BoxTarget(1, (9, 9, 3, 20))
    with pytest.raises(TargetError, match=r"the model returns.*expected detections"):
        TARGET.bind(torch.zeros(1, 10), 1)
    with pytest.raises(TargetError, match="layout 'v6' given"):
        dv.BoxTarget(1, d.BOX, "v6")


def found_again(output: Any) -> bool:
    """Whether the most probable box of class 1 is the one that a target of its place finds."""
    rows = READERS[layout_of_output(output)](output, 1)
    best = int(rows.label[0].argmax())
    target = dv.BoxTarget(1, tuple(rows.boxes[0, best].tolist()))
    share = float(target.bind(output, 1).share(output, torch.tensor([0])))
    return share >= float(rows.label[0, best]) - 1e-6


@pytest.mark.peers
def test_the_yolox_of_a_package() -> None:
    """A real YOLOX head with random weights, where libreyolo is installed: its most probable box is found again."""
    libreyolo = pytest.importorskip("libreyolo.models.yolox.nn", reason="libreyolo is not installed")
    torch.manual_seed(0)
    model, x = libreyolo.LibreYOLOXModel("n", 3).eval(), torch.rand(1, 3, 64, 64)
    with pytest.raises(TargetError, match="let the head decode them"):
        TARGET.bind(model(x), 1)
    model.head.export = True  # so that it returns decoded boxes
    assert found_again(model(x))


@pytest.mark.peers
def test_the_yolov8_of_a_package() -> None:
    """Likewise that of ultralytics, where it is installed; Grad-CAM explains the box by hooks."""
    ultralytics = pytest.importorskip("ultralytics.nn.tasks", reason="ultralytics is not installed")
    torch.manual_seed(0)
    model, x = ultralytics.DetectionModel("yolov8n.yaml", nc=5, verbose=False).eval(), torch.rand(1, 3, 64, 96)
    output = model(x)
    assert layout_of_output(output) == "v8" and found_again(output)
    rows = READERS["v8"](output, 1)
    target = dv.BoxTarget(1, tuple(rows.boxes[0, int(rows.label[0].argmax())].tolist()))
    heat = dv.cam("grad-cam", model, "model.21")(x, target)
    assert heat.shape == (1, 64, 96) and float(heat.max()) == pytest.approx(1)
