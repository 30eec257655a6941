"""Heads: their pooling against loops in float64, where they belong in networks of many libraries, and their files."""

from __future__ import annotations

import copy
import math
import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import deconvviz as dv
from deconvviz.choices import HEADS
from deconvviz.errors import CaptureError, DeconvvizError, ModelError
from deconvviz.graph.module_calls import module_calls
from deconvviz.models.heads import PLACE, Head, PooledMaps
from deconvviz.models.load import build_model, load_model
from deconvviz.models.weights import TRAINING
from deconvviz.run.heads import new_head

SHAPE = (3, 16, 16)
POOLED = HEADS[1:]


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6 * 49, 2)
    ).eval()


def by_hand(kind: str, maps: Tensor, head: nn.Module, classes: int) -> np.ndarray[Any, Any]:
    """The scores from the definition, position by position."""
    layer = next(m for m in head.modules() if isinstance(m, nn.Linear | nn.Conv2d))
    weight, bias = (p.detach().double().numpy() for p in (layer.weight.flatten(1), layer.bias))
    a = maps.detach().double().numpy()
    scores = np.zeros((len(a), classes))
    for n, c in np.ndindex(*scores.shape):
        rows = range(5 * c, 5 * c + 5) if kind == "wildcat" else [c]
        places = [
            float(np.mean([weight[row] @ a[n, :, y, x] + bias[row] for row in rows]))
            for y, x in np.ndindex(*a.shape[2:])
        ]
        if kind == "gap":
            scores[n, c] = sum(places) / len(places)  # a linear layer of means is the mean of a linear layer
        elif kind == "max":
            scores[n, c] = max(places)
        elif kind == "lse":
            scores[n, c] = math.log(sum(math.exp(10 * s) for s in places) / len(places)) / 10
        else:
            places.sort()
            half = max(1, len(places) // 2)
            scores[n, c] = (sum(places[-half:]) / half + 0.6 * sum(places[:half]) / half) / 2
    return scores


@pytest.mark.parametrize("side", [16, 9, 3])  # 196 positions, 49 (odd), 1
@pytest.mark.parametrize("kind", POOLED)
def test_pooling_is_its_definition(kind: str, side: int) -> None:
    torch.manual_seed(3)
    model = network()
    head = Head(kind=kind, classes=4, layer="2", features=6, removed={"3": (6, 7, 7), "4": (294,), "5": (2,)})
    head.put_on(model)
    placed = model.get_submodule(PLACE)
    for parameter in placed.parameters():  # far from the small weights of the beginning
        nn.init.normal_(parameter, std=0.7)
    x = torch.randn(3, 3, side, side)
    maps = network()[:3](x)
    assert np.allclose(model(x).detach().numpy(), by_hand(kind, maps, placed, 4), atol=1e-5)


EXPECTED = {  # network -> (the layer whose maps are pooled, their number, their side at 224 px)
    "torchvision:alexnet": ("features.11", 256, 13),
    "torchvision:vgg16": ("features.29", 512, 14),
    "torchvision:resnet18": ("layer4", 512, 7),
    "torchvision:densenet121": ("features", 1024, 7),
    "torchvision:squeezenet1_0": ("classifier.0", 512, 13),
    "torchvision:googlenet": ("inception5b", 1024, 7),
    "torchvision:mobilenet_v3_small": ("features", 576, 7),
    "torchvision:efficientnet_b0": ("features", 1280, 7),
    "torchvision:convnext_tiny": ("features", 768, 7),
    "torchvision:mnasnet0_5": ("layers", 1280, 7),
    "torchvision:shufflenet_v2_x0_5": ("conv5", 1024, 7),
    "timm:resnet18": ("layer4", 512, 7),
    "timm:efficientnet_lite0": ("bn2", 1280, 7),
    "timm:mobilenetv3_small_100": ("blocks", 576, 7),
}
LAST = {
    "torchvision:alexnet": "classifier.6",
    "torchvision:squeezenet1_0": "classifier.1",
    "torchvision:resnet18": "fc",
    "torchvision:vit_b_16": "heads.head",
    "torchvision:convnext_tiny": "classifier.2",
    "timm:convnext_atto": "head.fc",
    "timm:mobilenetv3_small_100": "classifier",
}


def on_meta(spec: str) -> nn.Module:
    """A network whose tensors have no values: only names and shapes count."""
    if spec.startswith("timm"):
        pytest.importorskip("timm")
    with torch.device("meta"):
        return build_model(spec, {})[0].eval()


@pytest.mark.parametrize("spec", EXPECTED)
def test_the_last_maps_of_known_networks(spec: str) -> None:
    layer, maps, side = EXPECTED[spec]
    model = on_meta(spec)
    calls = [call for call in module_calls(model, (3, 224, 224)) if call.name == layer]
    assert calls[-1].shape == (1, maps, side, side)
    before = {name for name, _ in model.named_parameters()}
    head = new_head(model, "wildcat", 7, (3, 224, 224))
    assert (head.layer, head.features, head.call) == (layer, maps, len(calls))
    assert model(torch.zeros(2, 3, 224, 224, device="meta")).shape == (2, 7)
    left = {name for name, _ in model.named_parameters() if not name.startswith(PLACE)}
    assert left < before and not any(name.startswith(("fc.", "classifier.1", "head.")) for name in left)


@pytest.mark.parametrize("spec", LAST)
def test_the_last_layer_of_known_networks(spec: str) -> None:
    model = on_meta(spec)
    names = list(model.state_dict())
    head = new_head(model, "new", 7, (3, 224, 224))
    assert head.layer == LAST[spec] and list(model.state_dict()) == names
    assert model(torch.zeros(2, 3, 224, 224, device="meta")).shape == (2, 7)


def test_what_has_no_such_place_is_refused() -> None:
    with pytest.raises(ModelError, match=r"linear layers follow 'conv_proj'.*--head new"):
        new_head(on_meta("torchvision:vit_b_16"), "gap", 5, (3, 224, 224))
    with pytest.raises(ModelError, match=r"'layer4.1.conv2', gives maps of one position.*larger --input"):
        new_head(on_meta("torchvision:resnet18"), "gap", 5, (3, 32, 32))
    with pytest.raises(ModelError, match="no convolution"):
        new_head(nn.Sequential(nn.Flatten(), nn.Linear(48, 3)), "gap", 5, (3, 4, 4))
    with pytest.raises(ModelError, match=r"returns \[1, 6, 14, 14\] .*no place"):
        new_head(network()[:1], "new", 5, SHAPE)
    with pytest.raises(ModelError, match="head 'mean' given; expected one of new, gap"):
        new_head(network(), "mean", 5, SHAPE)
    with pytest.raises(CaptureError, match=r"does not accept an image of shape \(1, 16, 16\)"):
        new_head(network(), "gap", 5, (1, 16, 16))
    with pytest.raises(ModelError, match="classes 0 given"):
        new_head(network(), "gap", 0, SHAPE)
    with pytest.raises(ModelError, match="has no layer 'features'"):
        Head(kind="gap", classes=2, layer="features", features=6).put_on(network())
    with pytest.raises(ModelError, match="layer '0' is a Conv2d"):
        Head(kind="new", classes=2, layer="0", features=6).put_on(network())
    with pytest.raises(ModelError, match="describes no head"):
        Head.from_dict({"type": "gap"})


class Shared(nn.Module):
    """One rectifier is called after both convolutions, and a dead part is called only after the maps."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.relu = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()
        self.late = nn.ModuleDict({"fc": nn.Linear(4, 3)})

    def forward(self, x: Tensor) -> Tensor:
        maps = self.relu(self.two(self.relu(self.one(x))))
        scores: Tensor = self.late["fc"](functional.adaptive_avg_pool2d(maps, 1).flatten(1))
        return scores


def test_the_second_call_of_a_shared_layer_gives_the_maps() -> None:
    torch.manual_seed(0)
    model = Shared()
    x = torch.randn(2, 3, 8, 8)
    maps = model.two(model.one(x).relu()).relu()
    head = new_head(model, "max", 5, (3, 8, 8))
    assert (head.layer, head.call, head.removed) == ("relu", 2, {"late.fc": (3,)})
    assert torch.equal(model(x), model.get_submodule(PLACE)(maps))


@pytest.mark.parametrize("kind", HEADS)
def test_a_network_with_a_head_is_copied_captured_and_headed_again(kind: str) -> None:
    model, x = network(), torch.randn(2, *SHAPE)
    new_head(model, kind, 4, SHAPE, seed=1)
    assert type(model).__name__ == "Sequential" and model(x).shape == (2, 4)
    assert torch.equal(copy.deepcopy(model)(x), model(x))
    captured = dv.capture(model, SHAPE)
    assert ({"0", "2"} <= set(captured.layers) and "5" not in captured.layers) or kind == "new"
    assert torch.allclose(captured(x), model(x), atol=1e-6)
    assert torch.equal(captured.activations(x, ["2"])["2"], network()[:3](x))
    again = new_head(model, "new", 6, SHAPE)
    assert again.kind == kind and model(x).shape == (2, 6)
    if kind != "new":
        assert new_head(model, "lse", 3, SHAPE).kind == "lse" and isinstance(model, PooledMaps)
        assert len(list(model.get_submodule(PLACE).children())) == 2 and model(x).shape == (2, 3)


def test_new_weights_have_a_seed_and_a_small_deviation() -> None:
    def drawn(seed: int) -> Tensor:
        model = nn.Sequential(nn.Flatten(), nn.Linear(3000, 10))
        torch.manual_seed(seed + 5)
        before = torch.get_rng_state()
        new_head(model, "new", 10, (3, 10, 100), seed)
        assert torch.equal(torch.get_rng_state(), before)
        assert not model[1].bias.any()
        return model[1].weight.detach()

    assert torch.equal(drawn(1), drawn(1)) and not torch.equal(drawn(1), drawn(2))
    assert float(drawn(3).std()) == pytest.approx(0.01, rel=0.02)


def test_a_rectifier_behind_the_last_layer_is_taken_away(tmp_path: pathlib.Path) -> None:
    """As in SqueezeNet: behind it, a new layer ends with scores of zero for every image, and learns no more."""
    (tmp_path / "m.py").write_text(
        "from torch import nn\ndef make():\n"
        "    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 1), nn.ReLU(inplace=True),\n"
        "        nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
    )
    model = build_model(f"{tmp_path}/m.py:make", {})[0]
    head = new_head(model, "new", 4, SHAPE)
    assert head.layer == "2" and head.rectifier == "3" and list(model.state_dict())[-1] == "2.bias"
    x = torch.randn(3, *SHAPE)
    assert torch.equal(model(x), model[2](model[1](model[0](x))).mean((2, 3))) and model(x).min() < 0
    content = {"format": TRAINING, "schema": 1, "arguments": {}, "settings": {"crop": 16}, "classes": list("abcd")}
    torch.save({**content, "state_dict": model.state_dict(), "head": head.as_dict()}, tmp_path / "w.pth")
    loaded = load_model(f"{tmp_path}/m.py:make", str(tmp_path / "w.pth"))
    assert torch.equal(loaded.model(x), model(x)) and loaded.head == head
    plain = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 14 * 14, 2))
    assert new_head(plain, "new", 4, SHAPE).rectifier == ""


@pytest.mark.parametrize("kind", HEADS)
def test_a_file_brings_its_head(tmp_path: pathlib.Path, kind: str) -> None:
    (tmp_path / "m.py").write_text(
        "from torch import nn\ndef make():\n"
        "    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),\n"
        "        nn.Linear(6 * 49, 2))\n"
    )
    model = network(7)
    head = new_head(model, kind, 4, SHAPE)
    content = {"format": TRAINING, "schema": 1, "arguments": {}, "settings": {"crop": 16}, "classes": list("abcd")}
    content |= {"state_dict": model.state_dict(), "head": head.as_dict()}
    torch.save(content, tmp_path / "w.pth")
    loaded = load_model(f"{tmp_path}/m.py:make", str(tmp_path / "w.pth"))
    x = torch.randn(3, *SHAPE)
    assert torch.equal(loaded.model(x), model.eval()(x)) and loaded.head == head and loaded.classes == tuple("abcd")
    fresh = build_model(f"{tmp_path}/m.py:make", {}, head=loaded.head)[0]
    assert fresh.state_dict().keys() == model.state_dict().keys()
    torch.save({**content, "head": {**head.as_dict(), "layer": "nowhere"}}, tmp_path / "w.pth")
    with pytest.raises(DeconvvizError, match="has no layer 'nowhere'"):
        load_model(f"{tmp_path}/m.py:make", str(tmp_path / "w.pth"))


def test_cam_of_a_mean_is_grad_cam_up_to_its_scale() -> None:
    """On CAM's own architecture: both weights are those of the linear layer, Grad-CAM's divided by the positions."""
    model = network()
    new_head(model, "gap", 4, SHAPE)
    with torch.no_grad():
        nn.init.normal_(model.get_parameter(f"{PLACE}.linear.weight"))
    x = torch.rand(2, *SHAPE)
    captured = dv.capture(model, SHAPE)
    weights = model.get_parameter(f"{PLACE}.linear.weight")[1]
    cam = dv.cam("cam", captured, "2")(x, 1, raw=True)
    torch.testing.assert_close(cam, torch.einsum("k,nkhw->nhw", weights, network()[:3](x)))
    grad_cam = dv.cam("grad-cam", captured, "2")(x, 1, raw=True)
    torch.testing.assert_close(14 * 14 * grad_cam, cam.relu(), rtol=1e-4, atol=1e-5)
    assert (cam < 0).any() and (cam > 0).any()
