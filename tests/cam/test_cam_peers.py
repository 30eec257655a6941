"""Against pytorch-grad-cam and captum where they have a method right; where not, the replica says who is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import pytorch_grad_cam as pgc
import replicas as r
import torch
import torchvision
from captum.attr import Deconvolution, GuidedBackprop, InputXGradient, LayerAttribution, LayerGradCam, Saliency
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.errors import CamError, TargetError

Networks = Callable[[str, int], tuple[nn.Module, dv.Network]]
PEERS = {
    "grad-cam": pgc.GradCAM,
    "grad-cam++": pgc.GradCAMPlusPlus,
    "xgrad-cam": pgc.XGradCAM,
    "hirescam": pgc.HiResCAM,
    "layercam": pgc.LayerCAM,
    "ablation-cam": pgc.AblationCAM,
}
CASES = [("resnet18", "layer4"), ("squeezenet1_0", "features.12")]


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case[0])
def given(request: pytest.FixtureRequest, network: Networks) -> tuple[nn.Module, dv.Network, str]:
    import copy

    name, layer = request.param
    model = copy.deepcopy(network(name, 96)[0]).float().eval()
    return model, dv.capture(model, (3, 96, 96)), layer


class Scaled(ClassifierOutputTarget):  # type: ignore[misc]
    """A class's score, times 10,000: so large that the peer's 1e-6 in Grad-CAM++'s fraction does not count."""

    def __call__(self, output: Tensor) -> Tensor:
        return 1e4 * super().__call__(output)


def by_pgc(method: Any, model: nn.Module, layer: str, x: Tensor, targets: list[Any]) -> Tensor:
    with method(model=model, target_layers=[model.get_submodule(layer)]) as explainer:
        found = explainer(input_tensor=x.clone(), targets=targets)
    return torch.from_numpy(found)


@pytest.mark.peers
@pytest.mark.parametrize("name", PEERS)
def test_pytorch_grad_cam(given: tuple[nn.Module, dv.Network, str], images: Tensor, name: str) -> None:
    model, net, layer = given
    own = net(images).argmax(1).tolist()  # positive scores: the peer's Ablation-CAM turns signs where they are negative
    ours = dv.cam(name, net, layer, convention="pytorch-grad-cam")

    def scaled(output: Tensor) -> Tensor:
        return 1e4 * output[torch.arange(len(output)), torch.tensor(own)]

    large = name == "grad-cam++"
    theirs = by_pgc(PEERS[name], model, layer, images, [(Scaled if large else ClassifierOutputTarget)(t) for t in own])
    assert theirs.max() > 0.9
    assert (ours(images, scaled if large else None) - theirs).abs().max() < 1e-4


@pytest.mark.peers
def test_pytorch_grad_cams_epsilon_changes_grad_cam_plus_plus(
    given: tuple[nn.Module, dv.Network, str], images: Tensor
) -> None:
    """Small gradients drown in its 1e-6; the replica, from the equation, is on our side."""
    model, net, layer = given
    theirs = by_pgc(pgc.GradCAMPlusPlus, model, layer, images[:1], [ClassifierOutputTarget(3)])[0]
    ours = dv.cam("grad-cam++", net, layer, convention="pytorch-grad-cam")(images[:1], 3)[0]
    assert (ours - theirs).abs().max() > 0.01
    a = net.activations(images[:1], [layer])[layer].detach().requires_grad_()
    (g,) = torch.autograd.grad(net.after(layer)(a)[0, 3], a)
    case = r.Case(None, None, lambda *_: g[0].double().numpy(), images[0].numpy(), a[0].detach().double().numpy(), 3)  # type: ignore[arg-type]
    y = float(net(images[:1])[0, 3])
    case.head = lambda _: np.eye(4)[3] * y
    expected = r.grad_cam_pp(case, shift=y)
    raw = dv.cam("grad-cam++", net, layer)(images[:1], 3, raw=True)[0].double().numpy()
    assert np.allclose(raw, expected, atol=1e-4 * expected.max())


@pytest.mark.peers
def test_pytorch_grad_cam_scores_channels_on_other_masks(
    given: tuple[nn.Module, dv.Network, str], images: Tensor
) -> None:
    """Its Score-CAM takes a softmax of logits, and resizes masks with aligned corners: near to ours, not equal."""
    model, net, layer = given
    theirs = by_pgc(pgc.ScoreCAM, model, layer, images[:1], [ClassifierOutputTarget(3)])
    ours = dv.cam("score-cam", net, layer, weights="logit", convention="pytorch-grad-cam")(images[:1], 3)
    assert np.corrcoef(ours.flatten(), theirs.flatten())[0, 1] > 0.98


@pytest.mark.peers
def test_pytorch_grad_cam_centres_eigen_cam(given: tuple[nn.Module, dv.Network, str], images: Tensor) -> None:
    """The paper projects the maps as they are, and so do we; the peer subtracts each channel's mean first."""
    model, net, layer = given
    theirs = by_pgc(pgc.EigenCAM, model, layer, images[:1], [ClassifierOutputTarget(3)])[0]
    ours = dv.cam("eigen-cam", net, layer, convention="pytorch-grad-cam")(images[:1])[0]
    a = net.activations(images[:1], [layer])[layer][0].double().numpy()
    paper = r.eigen_cam(r.Case(None, None, None, images[0].numpy(), a, 3))  # type: ignore[arg-type]
    raw = dv.cam("eigen-cam", net, layer)(images[:1], raw=True)[0].double().numpy()
    assert np.allclose(raw, paper, atol=1e-4 * np.abs(paper).max())
    assert (ours - theirs).abs().max() > 0.05


@pytest.mark.peers
def test_captum(given: tuple[nn.Module, dv.Network, str], images: Tensor) -> None:
    model, net, layer = given

    def close(ours: Tensor, theirs: Tensor) -> bool:
        theirs = theirs.detach()
        return bool((ours - theirs).abs().max() <= 1e-4 * theirs.abs().max())

    for name, peer in {
        "gradient": Saliency(model),
        "guided": GuidedBackprop(model),
        "deconvnet": Deconvolution(model),
    }.items():
        theirs = peer.attribute(images.clone().requires_grad_(), target=3).abs().amax(1)
        assert close(dv.cam(name, net)(images, 3, raw=True), theirs), name
    theirs = InputXGradient(model).attribute(images.clone().requires_grad_(), target=3).sum(1)
    assert close(dv.cam("gradient-x-input", net)(images, 3, raw=True), theirs)
    peer = LayerGradCam(model, model.get_submodule(layer))
    theirs = peer.attribute(images.clone(), target=3, relu_attributions=True)
    assert close(dv.cam("grad-cam", net, layer)(images, 3, raw=True), theirs[:, 0])
    larger = LayerAttribution.interpolate(theirs, (96, 96), "bilinear")[:, 0]
    product = GuidedBackprop(model).attribute(images.clone().requires_grad_(), target=3).abs().amax(1) * larger
    assert close(dv.cam("guided-grad-cam", net, layer)(images, 3, raw=True), product)


@pytest.fixture(scope="module")
def detector() -> nn.Module:
    torch.manual_seed(0)
    model = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=4, box_score_thresh=0.0
    )
    return model.eval()


@pytest.mark.slow
def test_a_detector_through_hooks(detector: nn.Module) -> None:
    """Faster R-CNN, which cannot be captured: one detection's score, by gradient and by perturbation."""
    from deconvviz.cam.targets import detection

    x = torch.rand(1, 3, 96, 128, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        first = detector(list(x))[0]
    label, box = int(first["labels"][0]), first["boxes"][0].tolist()
    target, layer = detection(label, box), "backbone.body.13"
    assert torch.allclose(target([first]), first["scores"][:1])
    before = {name: p.clone() for name, p in detector.state_dict().items()}
    detector.train()
    value: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
        value.append(output.detach().clone())

    found = dv.cam("hirescam", detector, layer, call=list)(x, target, raw=True)[0]
    assert detector.training
    detector.eval()
    handle = detector.get_submodule(layer).register_forward_hook(keep)
    with torch.no_grad():
        detector(list(x))
    handle.remove()
    a = value[0].requires_grad_()
    handle = detector.get_submodule(layer).register_forward_hook(lambda *_: a)
    (g,) = torch.autograd.grad(target(detector(list(x))).sum(), a)
    handle.remove()
    assert torch.allclose(found, (g * a.detach())[0].sum(0), atol=1e-6)
    assert dv.cam("rise", detector, call=list, masks=6, cells=4)(x, target).shape == (1, 96, 128)
    assert all(torch.equal(before[name], p) for name, p in detector.state_dict().items())
    assert not any(module._forward_hooks for module in detector.modules())
    with pytest.raises(TargetError, match="or a function of the output"):
        dv.cam("hirescam", detector, layer, call=list)(x)
    with pytest.raises(CamError, match="returned OrderedDict"):
        dv.cam("hirescam", detector, "backbone", call=list)(x, target)
