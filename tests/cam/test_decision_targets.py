"""Segments, likenesses and plain numbers as targets, against what is worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.errors import TargetError
from deconvviz.graph.ending import embedding_layer, ending_at

X = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


class Segmenter(nn.Module):
    """Maps of three classes at half the size, in a dict as torchvision's; `classes` 1 gives a single map."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.a, self.b = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, classes, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": self.b(torch.relu(self.a(x))), "aux": x[:, :1].mean((2, 3))}


SEGMENTER = Segmenter().double().eval()
NETWORK = dv.capture(SEGMENTER, (3, 12, 12))


def test_a_segment_is_a_sum_worked_out_by_hand() -> None:
    """Over the pixels where the class is the top one: score, mean probability, and HiResCAM by autograd."""
    value = torch.relu(SEGMENTER.a(X)).detach().requires_grad_()
    maps = SEGMENTER.b(value)
    total, share = [], []
    for image in maps:
        pixels = [(y, x) for y in range(6) for x in range(6) if int(image[:, y, x].argmax()) == 2]
        assert pixels
        total.append(sum(image[2, y, x] for y, x in pixels))
        share.append(float(sum(image[:, y, x].softmax(0)[2] for y, x in pixels)) / len(pixels))
    (gradient,) = torch.autograd.grad(torch.stack(total).sum(), value)
    expected = (gradient * value).sum(1).detach()
    for network, layer in ((NETWORK, "relu"), (SEGMENTER, "a")):
        explainer = dv.cam("hirescam", network, layer)
        found = explainer(X, dv.SegmentTarget(2), raw=True)
        assert explainer.scores is not None and explainer.scores.tolist() == pytest.approx(share)
        if network is NETWORK:
            assert torch.allclose(found, expected, atol=1e-10)
    bound = dv.SegmentTarget(2).bind(SEGMENTER(X), 2)
    assert torch.allclose(bound.score(SEGMENTER(X), torch.arange(2)), torch.stack(total))
    changed = SEGMENTER(X * 0.5)  # read at the pixels of the unchanged image
    pixels = SEGMENTER(X)["out"].argmax(1) == 2
    assert torch.allclose(
        bound.score(changed, torch.tensor([0, 1])), (changed["out"][:, 2] * pixels).sum((1, 2)), atol=1e-12
    )
    assert torch.allclose(
        bound.score(SEGMENTER(X[[1, 0]]), torch.tensor([1, 0])),
        torch.stack(total)[[1, 0]],
    )


def test_a_mask_says_which_pixels_count() -> None:
    mask = torch.zeros(12, 12, dtype=torch.bool)
    mask[:4, :2] = True  # at the image's size: the maps' first two rows and first column
    bound = dv.SegmentTarget(0, mask).bind(SEGMENTER(X), 2)
    by_hand = SEGMENTER(X)["out"][:, 0, :2, :1].sum((1, 2))
    assert torch.allclose(bound.score(SEGMENTER(X), torch.arange(2)), by_hand)
    single = Segmenter(1).double().eval()(X)
    positive = single["out"][:, 0] > 0
    got = dv.SegmentTarget(0).bind(single, 2).score(single, torch.arange(2))
    assert torch.allclose(got, (single["out"][:, 0] * positive).sum((1, 2)))


@pytest.mark.parametrize("method", ["gradient", "layercam", "score-cam", "occlusion", "rise", "sess"])
def test_methods_explain_a_segment(method: str) -> None:
    options: dict[str, Any] = {"rise": {"masks": 8}, "sess": {"scales": 2, "step": 4}}.get(method, {})
    layer = None if method in ("gradient", "occlusion", "rise") else "relu"
    found = dv.cam(method, NETWORK, layer, **options)(X, dv.SegmentTarget(2))
    assert found.shape == (2, 12, 12) and float(found.max()) == pytest.approx(1)
    if method == "gradient":
        leaf = X.clone().requires_grad_()
        out = SEGMENTER(leaf)["out"]
        (g,) = torch.autograd.grad((out[:, 2] * (out.argmax(1) == 2)).sum(), leaf)
        raw = dv.cam(method, NETWORK)(X, dv.SegmentTarget(2), raw=True)
        assert torch.allclose(raw, g.abs().amax(1))


def classifier(outputs: int) -> nn.Sequential:
    torch.manual_seed(5)
    layers = (nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, outputs))
    return nn.Sequential(*layers).double().eval()


def test_an_image_is_like_itself() -> None:
    """The cosine of an image with itself is 1, of another it is that of the two vectors, and its map follows."""
    model = classifier(4)
    network = dv.capture(model, (3, 12, 12))
    assert embedding_layer(network) == "2"
    short = ending_at(network, "2")
    assert short(X).shape == (2, 5, 1, 1) and {*short.layers} == {"0", "1", "2"}
    assert torch.equal(short(X), network.activations(X, ["2"])["2"])
    first, second = short(X[:1]), short(X[1:])
    explainer = dv.cam("hirescam", short, "1")
    explainer(X[:1], dv.SimilarityTarget(first), raw=True)
    assert explainer.scores is not None and explainer.scores.item() == pytest.approx(1, abs=1e-12)
    found = explainer(X[:1], dv.SimilarityTarget(second), raw=True)
    value = model[:2](X[:1]).detach().requires_grad_()
    a, b = value.mean((2, 3))[0], second[0, :, 0, 0]
    cosine = (a @ b) / (a.norm() * b.norm())
    assert explainer.scores.item() == pytest.approx(float(cosine), abs=1e-12)
    (gradient,) = torch.autograd.grad(cosine, value)
    assert torch.allclose(found, (gradient * value).sum(1).detach(), atol=1e-12)
    both = dv.cam("hirescam", short, "1")(X, dv.SimilarityTarget(short(X)), raw=True)  # one other image for each
    assert float(both.abs().max()) < 1e-12  # at its maximum the cosine has no gradient


@pytest.mark.parametrize("target", ["similarity", "segment"])
def test_windows_of_an_image_are_explained_by_its_own_part_of_the_target(target: str) -> None:
    """A target that holds something of each image: SESS runs its method on windows of one image at a time."""
    layers = [nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 3, 1)]
    torch.manual_seed(2)
    network = dv.capture(nn.Sequential(*layers).double().eval(), (3, 12, 12))
    masks = torch.rand(2, 12, 12, generator=torch.Generator().manual_seed(1)) > 0.5
    embedding = torch.rand(2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def of(images: slice) -> dv.SimilarityTarget | dv.SegmentTarget:
        return dv.SimilarityTarget(embedding[images]) if target == "similarity" else dv.SegmentTarget(1, masks[images])

    explainer = dv.cam("sess", network, "1", scales=2, batch_size=2)
    both = explainer(X, of(slice(None)), raw=True)
    alone = torch.cat([explainer(X[n : n + 1], of(slice(n, n + 1)), raw=True) for n in range(2)])
    assert torch.allclose(both, alone, atol=1e-12) and both.abs().max() > 0


def test_an_embedding_is_what_the_classifier_reads() -> None:
    features = [nn.Conv2d(3, 5, 3), nn.ReLU()]
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    squeeze = dv.capture(nn.Sequential(*features, nn.Conv2d(5, 4, 1), *pool), (3, 12, 12))
    assert embedding_layer(squeeze) == "1"  # a classifier of 1 x 1 pixels reads maps, whose mean is taken
    assert embedding_layer(dv.capture(nn.Sequential(*features, *pool), (3, 12, 12))) is None
    maps = ending_at(squeeze, "1")
    x = X.float()
    bound = dv.SimilarityTarget(maps(x[:1])).bind(maps(x[:1]), 1)
    assert bound.score(maps(x[:1]), torch.tensor([0])).item() == pytest.approx(1)


def test_one_number_of_the_output() -> None:
    """Of a regression, of a single logit, of a dict, and of rows [N]."""
    model = classifier(1)
    network = dv.capture(model, (3, 12, 12))
    value = model[:2](X).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model[2:](value).sum(), value)
    explainer = dv.cam("hirescam", network, "1")
    found = explainer(X, dv.OutputTarget(0), raw=True)
    assert torch.allclose(found, (gradient * value).sum(1), atol=1e-12)
    assert explainer.scores is not None and torch.allclose(explainer.scores, model(X)[:, 0])  # no sigmoid
    out = {"age": torch.tensor([3.0, 4.0]), "sex": torch.tensor([[0.1, 0.9], [0.8, 0.2]])}
    assert dv.OutputTarget(1, "sex").bind(out, 2).score(out, torch.arange(2)).tolist() == pytest.approx([0.9, 0.2])
    assert dv.OutputTarget(0, "age").bind(out, 2).score(out, torch.arange(2)).tolist() == [3.0, 4.0]


def test_models_that_return_tuples_and_dicts_with_further_inputs() -> None:
    """A model of an image and numbers is captured and hooked by the same function; the map is autograd's."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.c, self.f = nn.Conv2d(3, 4, 3), nn.Linear(6, 3)

        def forward(self, x: Tensor, numbers: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            y = self.f(torch.cat([torch.relu(self.c(x)).mean((2, 3)), numbers], 1))
            return x.mean(), {"logits": y, "hidden": x[:, :, 0]}

    model = Two().double().eval()
    ways = (lambda x: (x, x.new_ones(x.shape[0], 2)), lambda x: {"x": x, "numbers": x.new_ones(x.shape[0], 2)})
    value = torch.relu(model.c(X)).detach().requires_grad_()
    scores = model.f(torch.cat([value.mean((2, 3)), X.new_ones(2, 2)], 1))
    (gradient,) = torch.autograd.grad(scores[0, 1] + scores[1, 2], value)
    expected = (gradient * value).sum(1).detach()
    for call in ways:
        network = dv.capture(model, (3, 12, 12), call)
        assert torch.allclose(dv.cam("hirescam", network, "relu")(X, [1, 2], raw=True), expected, atol=1e-12)
        assert "c" in network.layers and dv.cam("gradient", network)(X, 1).shape == (2, 12, 12)
        hooked = dv.cam("hirescam", model, "c", call=call)(X, [1, 2], raw=True)
        assert torch.allclose(hooked, dv.cam("hirescam", network, "c")(X, [1, 2], raw=True), atol=1e-12)
    with pytest.raises(dv.DeconvvizError, match="give its further inputs with call="):
        dv.capture(model, (3, 12, 12))


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        (dv.SegmentTarget(3), "segment 3 given; the model has classes 0 to 2"),
        (dv.SegmentTarget(0, torch.zeros(12, 12, dtype=torch.bool)), "the mask has no pixel"),
        (dv.SegmentTarget(0, torch.ones(3, 12, 12, dtype=torch.bool)), "3 masks given for 2 images"),
        (dv.SimilarityTarget(torch.ones(1, 4)), "expected an embedding, one vector"),
        (dv.OutputTarget(1), "output 1 given; the model has outputs 0 to 0"),
        (dv.OutputTarget(0, "age"), "no output 'age' of numbers"),
        (dv.BoxTarget(0, (1, 1, 2, 2)), "expected detections as of torchvision"),
    ],
)
def test_targets_that_the_model_does_not_have(target: Any, complaint: str) -> None:
    with pytest.raises(TargetError, match=complaint) as error:
        dv.cam("hirescam", NETWORK, "relu")(X, target)
    assert "\n" not in str(error.value)


def test_a_class_without_pixels_is_told_with_those_that_have_some() -> None:
    maps = torch.zeros(1, 3, 2, 2)
    maps[:, 1] = 1
    there = r"no pixel has class 2 \(owl\) as its top class; those that have pixels: class 1 \(dog\)"
    with pytest.raises(TargetError, match=there):
        dv.SegmentTarget(2, names=("cat", "dog", "owl")).bind(maps, 1)
    with pytest.raises(TargetError, match="expected one map of scores"):
        dv.SegmentTarget(2).bind(torch.zeros(1, 10), 1)
