"""The gradient mask against a backward pass written by hand, its figures, and trainings with and without it."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest
import replicas_attribution as ra
import torch
from courses import course_of, same_weights, step_of, trained
from torch import Tensor, nn
from torch.nn import functional

from deconvviz.errors import TrainingError
from deconvviz.metrics.class_channels import channel_constraint, score_gradient
from deconvviz.studies.training.additions import gradient_mask
from deconvviz.studies.training.additions.doctor import ModelDoctor
from deconvviz.studies.training.additions.gradient_mask import GradientMask, lateral_mask
from deconvviz.studies.training.additions.gradient_quality import gradient_quality

KERNEL = ra.hat(1.0, centred=True)


def mask_by_hand(gradient: Tensor, soft: bool = False) -> Tensor:
    """M of a gradient [N,K,h,w], image by image, [N,1,h,w]."""
    masks = []
    for each in gradient.numpy():
        strength = np.sqrt((each**2).sum(0))
        response = -ra.correlated(strength, KERNEL)
        positive = response > 1e-6 * np.abs(KERNEL).sum() * strength.max()
        masks.append(np.where(positive, response / response.max(), 0) if soft else positive.astype(float))
    return torch.tensor(np.stack(masks))[:, None]


@pytest.mark.parametrize("options", [{}, {"soft": True}, {"renormalise": True}, {"soft": True, "renormalise": True}])
@pytest.mark.parametrize("inplace", [False, True])
def test_hooks_against_a_backward_pass_by_hand(options: dict[str, Any], inplace: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace), nn.Conv2d(4, 5, 3)).double()
    first = model[0]
    weights, upper = next(model.parameters()), list(model.parameters())[2].detach()
    x, signal = torch.randn(3, 3, 11, 10, dtype=torch.float64), torch.randn(3, 5, 7, 6, dtype=torch.float64)
    plain = model(x.clone()).detach()

    addition = GradientMask(images=0, **options)
    addition.begin(course_of(model))
    addition.inputs(x, torch.zeros(3), step_of(torch.zeros(3)))
    leaf = x.clone().requires_grad_()
    out = model(leaf)
    weight, image = torch.autograd.grad((out * signal).sum(), [weights, leaf])
    figures = addition.end_epoch(0)
    addition.end()

    z = first(x).detach()
    incoming = functional.conv_transpose2d(signal, upper) * (z > 0)
    kept = mask_by_hand(incoming, options.get("soft", False)) * incoming
    energy = float(kept.square().sum() / incoming.square().sum())
    if options.get("renormalise"):
        kept = kept * (incoming.flatten(1).norm(dim=1) / kept.flatten(1).norm(dim=1)).reshape(-1, 1, 1, 1)
    patches = x.unfold(2, 3, 1).unfold(3, 3, 1)  # what each position of the first convolution reads
    assert torch.equal(out, plain)  # forwards nothing changes
    assert 0.1 < energy < 0.95 and figures["kept energy/1"] == pytest.approx(energy, abs=1e-12)
    for found, expected in (
        (weight, torch.einsum("ncijuv,nkij->kcuv", patches, kept)),
        (image, functional.conv_transpose2d(kept, weights.detach())),
    ):
        assert (found - expected).abs().max() < 1e-10 * expected.abs().max()
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_only_the_gradient_that_the_rectifier_sends_back_is_masked() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return (3 * x + self.relu(x)).flatten(1)

    model, x = Branches(), torch.randn(2, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    addition = GradientMask(images=0)
    addition.begin(course_of(model, side=6))
    addition.inputs(x, torch.zeros(2), step_of(torch.zeros(2)))
    signal = torch.randn(2, 108, dtype=torch.float64)
    (found,) = torch.autograd.grad((model(x) * signal).sum(), x)
    signal = signal.reshape(x.shape)
    through = signal * (x > 0)
    assert torch.allclose(found, 3 * signal + mask_by_hand(through.detach()) * through, atol=1e-12)


def test_planted_gradients() -> None:
    """A peak is kept and half of the noise around it goes; a constant gradient and none at all give nothing."""
    noise = torch.randn(200, 1, 15, 15, generator=torch.Generator().manual_seed(0)) * 0.01
    noise[:, 0, 7, 7] = 1
    from deconvviz.cam.inhibition import laplacian_of_gaussian

    kernel = laplacian_of_gaussian()
    mask = lateral_mask(noise, kernel)
    assert mask[:, 0, 7, 7].all() and not mask[:, 0, [5, 9], 7].any()
    far = mask[:, 0, :4].mean()  # |noise| is not symmetric about its mean; the median of its response is near 0
    assert 0.4 < far < 0.55
    for constant in (torch.full((2, 4, 6, 6), 0.3), torch.zeros(2, 4, 6, 6)):
        for soft in (False, True):
            assert not lateral_mask(constant, kernel, soft).any()
    half = lateral_mask(noise.bfloat16(), kernel)
    assert half.dtype == torch.bfloat16 and (half.float() == mask).float().mean() > 0.98


def test_a_mask_of_ones_is_plain_training(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, _ = trained(tmp_path / "a.pth", [])
    masked, _ = trained(tmp_path / "b.pth", [GradientMask(images=0)])
    assert not same_weights(plain, masked)
    monkeypatch.setattr(gradient_mask, "lateral_mask", lambda g, *_: torch.ones_like(g[:, :1]))
    ones, history = trained(tmp_path / "c.pth", [GradientMask(images=4)])
    assert same_weights(plain, ones)
    assert {record["gradient_mask_kept_energy/1"] for record in history} == {1.0}


def test_before_its_first_epoch_it_changes_nothing(tmp_path: pathlib.Path) -> None:
    plain, without = trained(tmp_path / "a.pth", [])
    off, history = trained(tmp_path / "b.pth", [GradientMask(from_epoch=4, images=6)])
    assert same_weights(plain, off)
    assert [{key: record[key] for key in without[0]} for record in history] == without
    figures = {key for key in history[0] if key not in without[0]}
    assert figures == {f"gradient_mask_{what}/{n}" for what in ("signal_to_noise", "cosine") for n in (0, 3)}
    later, history = trained(tmp_path / "c.pth", [GradientMask(from_epoch=3, images=0)])
    assert not same_weights(plain, later)
    assert ["gradient_mask_kept_energy/4" in record for record in history] == [False, False, True]


def test_the_quality_of_a_linear_networks_gradients() -> None:
    """Of logits W x the gradient of an image is (p - e_y) x^T: mean, variance and cosine follow."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 4), nn.Flatten()).double().train()
    x, labels = torch.randn(6, 2, 4, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])

    def gradients(images: Tensor, classes: Tensor) -> np.ndarray[Any, Any]:
        p = model(images).softmax(1).detach()
        errors = (p - functional.one_hot(classes, 3)).numpy()
        return np.stack(
            [np.outer(e, image).ravel() for e, image in zip(errors, images.flatten(1).numpy(), strict=True)]
        )

    others = x[:3].flip(0) + 0.3, labels[:3]
    own, unseen = gradients(x, labels), gradients(*others).mean(0)
    measured = gradient_quality(model, x, labels, others)["0"]
    assert measured.signal_to_noise == pytest.approx((own.mean(0) ** 2 / own.var(0, ddof=1)).mean(), rel=1e-10)
    expected = own.mean(0) @ unseen / np.linalg.norm(own.mean(0)) / np.linalg.norm(unseen)
    assert measured.cosine == pytest.approx(expected, rel=1e-10)
    assert gradient_quality(model, x, labels)["0"].cosine is None
    assert model.training and all(parameter.grad is None for parameter in model.parameters())


def test_noise_and_signal_have_their_ratios() -> None:
    """The gradients of equal images do not vary; random labels of noise have about 1 / images."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(1, 8, 12), nn.Flatten()).double()
    same = torch.randn(1, 1, 12, 12, dtype=torch.float64).expand(5, -1, -1, -1)
    assert gradient_quality(model, same, torch.zeros(5, dtype=torch.int64))["0"].signal_to_noise is None
    noise, labels = torch.randn(40, 1, 12, 12, dtype=torch.float64), torch.randint(8, (40,))
    measured = gradient_quality(model, noise, labels)["0"].signal_to_noise
    assert 0.8 / 40 < measured < 1.3 / 40


def test_batchnorm_is_measured_as_it_is_used() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)).double()
    x, labels = torch.randn(4, 3, 6, 6, dtype=torch.float64), torch.tensor([0, 1, 0, 1])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    measured = gradient_quality(model, x, labels, (x, labels))["0"]
    assert measured.cosine == pytest.approx(1, abs=1e-12)  # of the mean over images and of the batch: the same
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"sigma": 0}, "sigma"),
        ({"from_epoch": 0}, "from epoch"),
        ({"images": 1}, "images"),
        ({"images": 2.5}, "images"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(TrainingError, match=complaint):
        GradientMask(**options)


def test_a_network_without_maps_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 11), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    with pytest.raises(TrainingError, match="no rectifier module with maps of at least 3 x 3"):
        GradientMask().begin(course_of(model))


def test_gradients_that_another_addition_makes_its_loss_of_are_as_they_are() -> None:
    """The loss is that of the true gradients, in training and where it is measured; what follows from it is masked."""
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Softplus(), nn.ReLU(), nn.Flatten(), nn.Linear(256, 2)
    )
    x, labels = torch.randn(5, 3, 12, 12), torch.tensor([0, 1, 1, 0, 1])
    masks = torch.tensor([[True, False, True, False], [False, True, True, False]])
    kept: list[Tensor] = []
    model[1].register_forward_hook(lambda module, given, output: kept.append(output))

    def constraint() -> Tensor:
        outputs = model(x)
        return channel_constraint(outputs, labels, kept.pop(), masks).mean()

    weights = next(model.parameters())
    plain = constraint()
    (slope,) = torch.autograd.grad(plain, weights)
    addition = GradientMask(images=0)
    addition.begin(course_of(model))
    addition.inputs(x, labels, step_of(labels))
    masked = constraint()
    (masked_slope,) = torch.autograd.grad(masked, weights)
    assert torch.equal(masked, plain) and not torch.allclose(masked_slope, slope)
    model.eval()
    scores = model(x)
    own = score_gradient(scores, labels, kept.pop())
    addition.end()
    scores = model(x)
    assert torch.equal(own, score_gradient(scores, labels, kept.pop()))


def test_it_goes_with_model_doctor_in_either_order(tmp_path: pathlib.Path) -> None:
    """The channels that classes lean on, measured before any update, are those of the plain network."""
    found = []
    for name, order in (("a", (0, 1)), ("b", (1, 0)), ("c", (1,))):
        doctor = ModelDoctor(after=0)
        both = [GradientMask(images=0), doctor]
        trained(tmp_path / f"{name}.pth", [both[place] for place in order])
        assert doctor._masks is not None
        found.append(doctor._masks)
    assert torch.equal(found[0], found[2]) and torch.equal(found[1], found[2]) and found[0].any()
