"""Attribution against captum, zennit, pytorch-grad-cam, torch-cam and scikit-learn; disagreements say who is right."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import pytorch_grad_cam as pgc
import torch
from captum.attr import DeepLift, IntegratedGradients, KernelShap, Lime
from captum.attr._core.lime import get_exp_kernel_similarity_function
from pytorch_grad_cam.utils.model_targets import ClassifierOutputReST, ClassifierOutputTarget
from torch import Tensor, nn
from zennit.composites import EpsilonAlpha2Beta1Flat, EpsilonGammaBox, EpsilonPlusFlat

import deconvviz as dv
from deconvviz.cam.superpixels import superpixels

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
SIDE, TARGET = 20, 2
Case = tuple[nn.Sequential, dv.Network, Tensor]


def model_of(*pooling: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), *pooling, nn.Conv2d(6, 11, 3), nn.ReLU(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(11 * 16, 9), nn.ReLU(), nn.Linear(9, 5),
    ).double().eval()  # fmt: skip


@pytest.fixture(scope="module")
def case() -> Case:
    model = model_of(nn.MaxPool2d(2))
    x = torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return model, dv.capture(model, (3, SIDE, SIDE)), x


def close(ours: Tensor, theirs: Tensor, within: float = 1e-9) -> bool:
    theirs = theirs.detach()
    return bool(theirs.abs().max() > 0 and (ours - theirs).abs().max() <= within * theirs.abs().max())


def test_captums_integrated_gradients(case: Case) -> None:
    model, network, x = case
    theirs = IntegratedGradients(model).attribute(x, 0.2, target=TARGET, n_steps=20).sum(1)
    assert close(dv.cam("integrated-gradients", network, steps=20, baseline=0.2)(x, TARGET, raw=True), theirs, 1e-6)


def test_captums_deeplift(case: Case) -> None:
    x, model = case[2], model_of(nn.AvgPool2d(2))
    baseline = 0.5 * x.flip(-1)
    theirs = DeepLift(model).attribute(x, baseline, target=TARGET).sum(1)
    network = dv.capture(model, (3, SIDE, SIDE))
    assert close(dv.cam("deeplift", network, baseline=baseline)(x, TARGET, raw=True), theirs)


def test_captums_deeplift_loses_a_part_where_non_linear_modules_follow_each_other(case: Case) -> None:
    """ReLU and max pooling, as in most networks: its sum is not the difference of the score, which ours is."""
    x, model = case[2], model_of(nn.MaxPool2d(3, 2, 1))
    baseline, network = 0.5 * x.flip(-1), dv.capture(model, (3, SIDE, SIDE))
    difference = (model(x) - model(baseline))[:, TARGET].detach()
    theirs = DeepLift(model).attribute(x, baseline, target=TARGET).sum((1, 2, 3)).detach()
    ours = dv.cam("deeplift", network, baseline=baseline)(x, TARGET, raw=True).sum((1, 2))
    assert torch.allclose(ours, difference, atol=1e-12)
    assert (theirs - difference).abs().max() > 1e-3 * difference.abs().max()


def test_captums_shapley_values_and_lime(case: Case) -> None:
    """With few superpixels KernelSHAP is exact, and captum's, which draws, comes near; LIME's weights rank alike."""
    model, network, x = case
    parts = superpixels(x[:1], 6, 1000.0)
    labels = parts.labels[:, None]
    how: dict[str, Any] = {"segments": 6, "compactness": 1000.0}

    def logit(output: Tensor) -> Tensor:
        return output[:, TARGET]

    torch.manual_seed(0)
    options: dict[str, Any] = {"target": TARGET, "feature_mask": labels, "n_samples": 400}
    ours = dv.cam("kernel-shap", network, samples=600, **how)(x[:1], logit, raw=True)[0]
    theirs = KernelShap(model.float()).attribute(x[:1].float(), **options)[0, 0]
    assert float(ours.abs().max()) > 0 and np.corrcoef(ours.flatten(), theirs.flatten())[0, 1] > 0.98
    similar = get_exp_kernel_similarity_function("cosine", kernel_width=1e3)
    peer = Lime(model, similarity_func=similar)
    theirs = peer.attribute(x[:1].float(), **options)[0, 0]
    model.double()
    ours = dv.cam("lime", network, samples=400, width=1e3, fill=0.0, alpha=0.1, **how)(x[:1], logit, raw=True)[0]
    assert np.corrcoef(ours.flatten(), theirs.flatten())[0, 1] > 0.9


@pytest.mark.parametrize("name", ["lrp-gamma", "lrp-alpha-beta", "plus"])
def test_zennits_composites(case: Case, name: str) -> None:
    model, network, x = case
    low, high = x[:1].amin((2, 3), keepdim=True), x[:1].amax((2, 3), keepdim=True)
    composite = {
        "lrp-gamma": lambda: EpsilonGammaBox(low=low, high=high, epsilon=1e-6, gamma=0.25),
        "lrp-alpha-beta": lambda: EpsilonAlpha2Beta1Flat(epsilon=1e-6),
        "plus": lambda: EpsilonPlusFlat(epsilon=1e-6),
    }[name]()
    leaf = x[:1].clone().requires_grad_()
    with composite.context(model) as modified:
        output = modified(leaf)
        start = torch.zeros_like(output)
        start[0, TARGET] = output[0, TARGET].detach()
        (theirs,) = torch.autograd.grad(output, leaf, start)
    options: dict[str, Any] = {"alpha": 1} if name == "plus" else {}
    explainer = dv.cam("lrp-alpha-beta" if name == "plus" else name, network, **options)
    assert close(explainer(x[:1], TARGET, raw=True), theirs.sum(1))


def test_torch_cams_finer_cam(case: Case) -> None:
    methods = pytest.importorskip("torchcam.methods")
    model, network, x = case
    with methods.FinerCAM(model, "4", input_shape=(3, SIDE, SIDE)) as peer:
        theirs = peer(TARGET, model(x), normalized=False)[0]
    assert close(dv.cam("finer-cam", network, "4")(x, TARGET, raw=True), theirs)


def test_pytorch_grad_cam_differentiates_the_weights_of_finer_cam(case: Case) -> None:
    """Its references are weighed by probabilities through which its gradient goes too, so that y's own does not
    remain: with the references' weights held, the paper's contrast is linear in the scores, as torch-cam and we have
    it. Both point to much the same places."""
    model, network, x = case
    with pgc.FinerCAM(model, [model[4]]) as peer:
        theirs = torch.from_numpy(peer(x.clone(), None))
    ours = dv.cam("finer-cam", network, "4", gamma=1.0, convention="pytorch-grad-cam")(x)
    assert (ours - theirs).abs().max() > 0.005 and np.corrcoef(ours.flatten(), theirs.flatten())[0, 1] > 0.5


def test_pytorch_grad_cams_other_maps(case: Case) -> None:
    """ShapleyCAM with the residual softmax; KPCA-CAM up to its arbitrary sign; RefineCAM."""
    model, network, x = case
    how: dict[str, Any] = {"convention": "pytorch-grad-cam"}
    with pgc.ShapleyCAM(model, [model[4]]) as peer:
        theirs = torch.from_numpy(peer(x.clone(), [ClassifierOutputReST(TARGET)] * 2))
    assert close(dv.cam("shapley-cam", network, "4", **how)(x, TARGET), theirs, 1e-4)
    with pgc.KPCA_CAM(model, [model[4]]) as peer:
        raw = [peer.get_cam_image(x, None, None, model[:5](x).detach().numpy(), None, False)][0]
    ours = dv.cam("kpca-cam", network, "4")(x, raw=True).numpy()
    signs = np.sign((ours * raw).sum((1, 2), keepdims=True))
    assert np.abs(ours - signs * raw).max() < 1e-4 * np.abs(raw).max()
    both = pgc.RefineCAM(model, [model[1], model[4]], base_method=pgc.GradCAM)
    theirs = torch.from_numpy(both(x.clone(), [ClassifierOutputTarget(TARGET)] * 2))
    ours_refined = dv.cam("refine-cam", network, ["1", "4"], base="grad-cam")(x, TARGET)
    assert np.corrcoef(ours_refined.flatten(), theirs.flatten())[0, 1] > 0.99  # it scales once more after resizing


def test_pytorch_grad_cam_scales_each_channel_of_full_grad(case: Case) -> None:
    """So a channel that hardly matters counts as much as any; the paper scales a layer, and only ours keeps sizes."""
    model, network, x = case
    with pgc.FullGrad(model, []) as peer:
        theirs = torch.from_numpy(peer(x.clone(), [ClassifierOutputTarget(TARGET)] * 2))
    ours = dv.cam("full-grad", network)(x, TARGET)
    assert (ours - theirs).abs().max() > 0.02
    explainer = dv.cam("full-grad", network)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explainer(x, TARGET)
    assert explainer.extras["unexplained"].abs().max() < 1e-10
