"""How people call explanation methods who know pytorch-grad-cam, torch-cam or captum: each call gives the right map."""

from __future__ import annotations

import io
import operator
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.errors import DataError, DeconvvizError, LayerNotFound, TargetError

SIDE, NAMES = 14, ("ant", "bee", "cow", "dog", "eel")
LAST, FIRST = "block.conv", "stem"


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(6), nn.Conv2d(6, 9, 3)
        nn.init.uniform_(self.norm.running_mean, -0.3, 0.3)  # type: ignore[arg-type]
        nn.init.uniform_(self.norm.running_var, 0.5, 2)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(x).relu()).relu()


class Classifier(nn.Module):
    """What is explained here; `stubborn` makes it one that cannot be captured."""

    def __init__(self, stubborn: bool = False) -> None:
        super().__init__()
        torch.manual_seed(12)
        self.stubborn = stubborn
        self.stem, self.block = nn.Conv2d(3, 6, 3), Block()
        self.fc = nn.Linear(9, len(NAMES))
        nn.init.uniform_(self.fc.weight, -0.2, 0.6)  # so that no class has a map of zeros

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(self.block(self.stem(x)).mean((2, 3))) * 4
        return -y if self.stubborn and float(y.detach().sum()) > 1e9 else y


MODEL = Classifier().double().eval()
NETWORK = dv.capture(MODEL, (3, SIDE, SIDE))
X = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def by_hand(x: Tensor, classes: list[int], layer: str = LAST) -> Tensor:
    """Grad-CAM by autograd on the model itself, image by image twice over: rectified, at the layer's size."""
    maps = []
    for image, number in zip(x, classes, strict=True):
        kept: list[Tensor] = []
        handle = MODEL.get_submodule(layer).register_forward_hook(lambda m, i, o, kept=kept: kept.append(o))
        out = MODEL(torch.stack([image, image]))  # two: see `graph.ops.affine_norm`
        handle.remove()
        (gradient,) = torch.autograd.grad(out[0, number], kept[0])
        maps.append((gradient[0].mean((1, 2))[:, None, None] * kept[0][0]).sum(0).relu().detach())
    return torch.stack(maps)


def finished(raw: Tensor) -> Tensor:
    """A raw map as it is returned: resized and scaled."""
    up = nn.functional.interpolate(raw[:, None], (SIDE, SIDE), mode="bilinear", align_corners=False)[:, 0]
    low, high = up.amin((1, 2), keepdim=True), up.amax((1, 2), keepdim=True)
    return (up - low) / (high - low)


TOP = MODEL(X).argmax(1).tolist()


class ClassifierOutputTarget:
    """As pytorch-grad-cam has it: a class of one image's output."""

    def __init__(self, category: int) -> None:
        self.category = category

    def __call__(self, output: Tensor) -> Tensor:
        return output[self.category] if output.dim() == 1 else output[:, self.category]


TARGETS: dict[str, tuple[Any, list[int]]] = {
    "nothing": (None, TOP),
    "a number": (3, [3, 3]),
    "a NumPy number": (np.int64(3), [3, 3]),
    "a tensor of one number": (torch.tensor([3, 3]), [3, 3]),
    "a list": ([1, 4], [1, 4]),
    "a tuple": ((1, 4), [1, 4]),
    "a tensor": (torch.tensor([1, 4]), [1, 4]),
    "an array": (np.array([1, 4]), [1, 4]),
    "the top classes": (MODEL(X).argmax(1), TOP),
    "a name": ("bee", [1, 1]),
    "names": (["bee", "eel"], [1, 4]),
    "names and numbers": (["bee", 4], [1, 4]),
    "a function": (lambda out: out[:, 2], [2, 2]),
    "functions": ([lambda out: out[1], lambda out: out[4]], [1, 4]),
    "objects": ([ClassifierOutputTarget(1), ClassifierOutputTarget(4)], [1, 4]),
    "one object": (ClassifierOutputTarget(2), [2, 2]),
    "a getter": ([operator.itemgetter(0), operator.itemgetter(3)], [0, 3]),
    "a partial function": (partial(torch.select, dim=1, index=3), [3, 3]),
}


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("hooked", [False, True])
def test_targets(name: str, hooked: bool) -> None:
    target, classes = TARGETS[name]
    network = Classifier(stubborn=True).double().eval() if hooked else NETWORK
    explainer = dv.cam("grad-cam", network, LAST, classes=NAMES)
    assert torch.allclose(explainer(X, target), finished(by_hand(X, classes)), atol=1e-8)
    if explainer.classes is not None:
        assert explainer.classes.tolist() == classes
        assert torch.allclose(explainer.logits, MODEL(X), atol=1e-10)  # type: ignore[arg-type]
    else:
        assert callable(target) or callable(target[0])
        assert explainer.logits is None


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        (5, "target 5 given; the model has classes 0 to 4"),
        ([1, -1], "target -1 given"),
        ([1], "1 target given for 2 images"),
        ([lambda out: out[1]], "1 target given for 2 images"),
        ("owl", "no class 'owl'"),
        (["bee", "owl"], "no class 'owl'"),
        (lambda out: out, r"returned \[2, 5\]; expected one number for each of 2 images"),
        (lambda out: 1.0, "returned float"),
    ],
)
def test_targets_that_are_none(target: Any, complaint: str) -> None:
    with pytest.raises(TargetError, match=complaint):
        dv.cam("grad-cam", NETWORK, LAST, classes=NAMES)(X, target)


# --- layers ----------------------------------------------------------------------------------------------------------


LAYERS: dict[str, tuple[Callable[[nn.Module], Any], list[str]]] = {
    "a name": (lambda model: LAST, [LAST]),
    "a module": (lambda model: model.block.conv, [LAST]),
    "a list of a module": (lambda model: [model.block.conv], [LAST]),
    "a module inside which there are others": (lambda model: model.block, ["block"]),
    "a submodule by name": (lambda model: model.get_submodule("stem"), [FIRST]),
    "a name and a module": (lambda model: (FIRST, model.block.conv), [FIRST, LAST]),
    "children": (lambda model: [model.stem, model.block], [FIRST, "block"]),
    "the last convolution": (lambda model: [m for m in model.modules() if isinstance(m, nn.Conv2d)][-1], [LAST]),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("hooked", [False, True])
def test_layers(name: str, hooked: bool) -> None:
    choose, names = LAYERS[name]
    stubborn = Classifier(stubborn=True).double().eval()
    network, model = (stubborn, stubborn) if hooked else (NETWORK, MODEL)
    explainer = dv.cam("grad-cam", network, choose(model), fuse="none")
    assert explainer.layers == tuple(names)
    wanted = torch.stack([finished(by_hand(X, [3, 3], layer)) for layer in names], 1)
    assert torch.allclose(explainer(X, 3), wanted, atol=1e-8)
    fused = dv.cam("grad-cam", network, choose(model))(X, 3)
    mean = wanted.mean(1)
    low, high = mean.amin((1, 2), keepdim=True), mean.amax((1, 2), keepdim=True)
    assert torch.allclose(fused, (mean - low) / (high - low), atol=1e-8)


def test_a_layer_of_a_wrapped_network_is_the_module_inside() -> None:
    for wrapped in (nn.DataParallel(MODEL), torch.compile(MODEL, backend="eager")):
        network = dv.capture(wrapped, (3, SIDE, SIDE))  # type: ignore[arg-type]
        got = dv.cam("grad-cam", network, MODEL.block.conv)(X, 3)
        assert torch.allclose(got, finished(by_hand(X, [3, 3])), atol=1e-8)


def test_the_default_layer_is_the_last_with_rows_and_columns() -> None:
    explainer = dv.cam("grad-cam", NETWORK)
    assert explainer.layers == ("block",)
    assert torch.allclose(explainer(X, 3), finished(by_hand(X, [3, 3], "block")), atol=1e-8)
    assert dv.cam("rise", NETWORK, masks=3).layers == ()  # it needs none


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 6, 3),
        Classifier().stem,
        "block.convs",
        [None],
        7,
    ],
)
def test_layers_that_are_none(layer: Any) -> None:
    for network in (NETWORK, MODEL):
        with pytest.raises(LayerNotFound):
            dv.cam("grad-cam", network, layer)(X, 3)


def test_copies_of_a_network_know_its_modules_too() -> None:
    copies = (NETWORK.to(torch.float32), NETWORK.with_outputs("sigmoid"), NETWORK.fast(keep=[LAST]))
    for copy in copies:
        assert dv.cam("grad-cam", copy, MODEL.block.conv).layers == (LAST,)


# --- names of methods ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("GradCAM", "grad-cam"),
        ("grad_cam", "grad-cam"),
        ("GradCAMPlusPlus", "grad-cam++"),
        ("GradCAMpp", "grad-cam++"),
        ("GradCAM++", "grad-cam++"),
        ("LayerCAM", "layercam"),
        ("layer-cam", "layercam"),
        ("HiResCAM", "hirescam"),
        ("XGradCAM", "xgrad-cam"),
        ("EigenCAM", "eigen-cam"),
        ("ScoreCAM", "score-cam"),
        ("SSCAM", "ss-cam"),
        ("ISCAM", "is-cam"),
        ("AblationCAM", "ablation-cam"),
        ("Saliency", "gradient"),
        ("InputXGradient", "gradient-x-input"),
        ("GuidedBackprop", "guided"),
        ("Deconvolution", "deconvnet"),
        ("LRP", "lrp-epsilon"),
        ("Occlusion", "occlusion"),
        ("RISE", "rise"),
        ("SmoothGrad", "smoothgrad"),
        ("Guided GradCAM", "guided-grad-cam"),
    ],
)
def test_methods_by_the_names_that_they_have_elsewhere(written: str, meant: str) -> None:
    assert dv.cam(written, NETWORK).method.name == meant


def test_a_method_that_is_none() -> None:
    with pytest.raises(DeconvvizError, match="nearest"):
        dv.cam("GradCAMs", NETWORK, LAST)


# --- images ----------------------------------------------------------------------------------------------------------


def picture(seed: int = 0, *shape: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (*(shape or (SIDE, SIDE)), 3), np.uint8)


def prepared(*pictures: np.ndarray[Any, Any]) -> Tensor:
    """What torchvision's preprocessing makes of pictures that have the network's size."""
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    ready = np.stack([((each / 255 - mean) / std).transpose(2, 0, 1) for each in pictures])
    return torch.from_numpy(ready)


ONE, TWO = picture(1), picture(2)
GREY = np.random.default_rng(3).integers(0, 256, (SIDE, SIDE), np.uint8)


def on_its_head(upright: np.ndarray[Any, Any]) -> Image.Image:
    """A photo as a camera held upside down stores it, with the note that it is."""
    file, note = io.BytesIO(), Image.Exif()
    note[0x0112] = 3
    Image.fromarray(upright[::-1, ::-1].copy()).save(file, "PNG", exif=note)
    return Image.open(file)


IMAGES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "a picture": (ONE, (ONE,)),
    "PIL": (Image.fromarray(ONE), (ONE,)),
    "a list of PIL": ([Image.fromarray(ONE), Image.fromarray(TWO)], (ONE, TWO)),
    "a grey PIL": (Image.fromarray(GREY), (np.repeat(GREY[..., None], 3, 2),)),
    "a palette PIL": (Image.fromarray(ONE).convert("RGBA"), (ONE,)),
    "a PIL on its head": (on_its_head(ONE), (ONE,)),
    "many pictures": (np.stack([ONE, TWO]), (ONE, TWO)),
    "a list of arrays": ([ONE, TWO], (ONE, TWO)),
    "a tuple of both": ((ONE, Image.fromarray(TWO)), (ONE, TWO)),
    "channels first": (np.stack([ONE, TWO]).transpose(0, 3, 1, 2), (ONE, TWO)),
    "a uint8 tensor": (torch.from_numpy(ONE).permute(2, 0, 1), (ONE,)),
    "uint8 tensors": (torch.from_numpy(np.stack([ONE, TWO])).permute(0, 3, 1, 2), (ONE, TWO)),
    "one grey channel": (GREY[..., None], (np.repeat(GREY[..., None], 3, 2),)),
}


@pytest.mark.parametrize("name", IMAGES)
def test_pictures(name: str) -> None:
    given, pictures = IMAGES[name]
    x = prepared(*pictures)
    got = dv.cam("grad-cam", NETWORK, LAST)(given, 3)
    assert torch.allclose(got, finished(by_hand(x, [3] * len(x))), atol=1e-4)


def test_arrays_of_floats_are_prepared_already() -> None:
    for array in (X.numpy(), X.numpy().astype(np.float32), np.asfortranarray(X.numpy())):
        got = dv.cam("grad-cam", NETWORK, LAST)(array, 3)
        assert torch.allclose(got, finished(by_hand(X, [3, 3])), atol=1e-5)


def test_a_preprocessing_of_ones_own() -> None:
    large = picture(4, 2 * SIDE, 2 * SIDE)
    pre = dv.Preprocess(resize=SIDE, crop=SIDE, mean=(0.5,) * 3, std=(0.25,) * 3)
    x = pre(large)[None].double()
    got = dv.cam("grad-cam", NETWORK, LAST, preprocess=pre)(large, 3)
    assert torch.allclose(got, finished(by_hand(x, [3])), atol=1e-5)
    hooked = dv.cam("grad-cam", Classifier(stubborn=True).eval(), LAST, preprocess=pre)
    assert torch.allclose(hooked(Image.fromarray(large), 3).double(), finished(by_hand(x, [3])), atol=1e-4)


@pytest.mark.parametrize("given", ["cat.jpg", 7, np.zeros((SIDE, SIDE, 3), int), np.zeros((4, 4), np.uint8), []])
def test_images_that_are_none(given: Any) -> None:
    with pytest.raises(DataError, match="expected a float tensor"):
        dv.cam("grad-cam", NETWORK, LAST)(given, 3)


@pytest.mark.parametrize("name", ["grad-cam", "occlusion", "rise"])
@pytest.mark.parametrize("empty", [torch.zeros(0, 3, SIDE, SIDE), np.zeros((0, SIDE, SIDE, 3), np.uint8)])
def test_no_image_is_told_so(name: str, empty: Any) -> None:
    with pytest.raises(DataError, match="no image given"):
        dv.cam(name, NETWORK, LAST)(empty)


# --- modes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize("method", ["grad-cam", "gradient", "score-cam", "lrp-epsilon", "smoothgrad", "ablation-cam"])
def test_within_any_gradient_mode(method: str, mode: Callable[[], Any]) -> None:
    explainer = dv.cam(method, NETWORK, LAST if "cam" in method else None)
    wanted = explainer(X, 3)
    with mode():
        inside = explainer(X.clone(), 3)
    assert torch.equal(inside, wanted)
    stubborn = Classifier(stubborn=True).double()
    with torch.inference_mode():
        made_inside = X.clone()
        hooked = dv.cam("hirescam", stubborn, LAST)(made_inside, 3)
    assert torch.allclose(explainer(made_inside, 3), wanted)
    assert torch.allclose(hooked, dv.cam("hirescam", NETWORK, LAST)(X, 3), atol=1e-8)


def test_a_hooked_network_that_was_made_within_inference_mode() -> None:
    with torch.inference_mode():
        model = Classifier(stubborn=True).double().eval()
    assert torch.allclose(dv.cam("grad-cam", model, LAST)(X, 3), finished(by_hand(X, [3, 3])), atol=1e-8)


def test_images_that_want_a_gradient_get_none() -> None:
    x = X.clone().requires_grad_()
    assert torch.equal(dv.cam("grad-cam", NETWORK, LAST)(x, 3), dv.cam("grad-cam", NETWORK, LAST)(X, 3))
    assert x.grad is None and all(p.grad is None for p in MODEL.parameters())


@pytest.mark.parametrize("method", ["grad-cam", "hirescam", "layercam", "grad-cam++"])
@pytest.mark.parametrize("layer", [FIRST, LAST])
def test_one_image_has_the_map_that_it_has_in_company(method: str, layer: str) -> None:
    """With BatchNorm behind the layer, also where hooks run it."""
    for network in (NETWORK, Classifier(stubborn=True).double().eval(), Classifier(stubborn=True).double().train()):
        explainer = dv.cam(method, network, layer)
        together = explainer(X, 3, raw=True)
        alone = torch.cat([explainer(X[n : n + 1], 3, raw=True) for n in range(2)])
        assert torch.allclose(together, alone, atol=1e-12)
    if method == "grad-cam":
        assert torch.allclose(together, by_hand(X, [3, 3], layer), atol=1e-10)


class Tokens(nn.Module):
    """BatchNorm over maps that become tokens: a gradient of one image has ambiguous strides there."""

    def __init__(self, stubborn: bool) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.stubborn = stubborn
        self.conv, self.norm, self.mix = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 6)
        nn.init.uniform_(self.norm.running_var, 0.3, 3)  # type: ignore[arg-type]
        nn.init.normal_(self.norm.weight)
        self.fc = nn.Linear(6, 4)

    def tail(self, value: Tensor, norm: Callable[[Tensor], Tensor]) -> Tensor:
        tokens = norm(value).flatten(2).transpose(1, 2)
        return self.fc((tokens + self.mix(tokens).tanh()).mean(1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.tail(self.conv(x), self.norm)
        return y + 1 if self.stubborn and float(y.detach().sum()) > 1e9 else y


@pytest.mark.parametrize("stubborn", [False, True])
def test_the_gradient_behind_a_norm_and_tokens_is_the_slope(stubborn: bool) -> None:
    """Autograd itself may be wrong here for one image, so that differences judge."""
    model = Tokens(stubborn).double().eval()
    network = model if stubborn else dv.capture(model, (3, SIDE, SIDE))
    x = X[:1]
    with torch.no_grad():
        value = model.conv(x)
        slope = torch.zeros_like(value)
        for k, i, j in torch.cartesian_prod(*[torch.arange(n) for n in value.shape[1:]]).tolist():
            near = value.repeat(2, 1, 1, 1)
            near[0, k, i, j] += 1e-5
            near[1, k, i, j] -= 1e-5
            plus, minus = model.tail(near, model.norm)[:, 1]
            slope[0, k, i, j] = (plus - minus) / 2e-5
    wanted = (slope * value).sum(1)
    got = dv.cam("hirescam", network, "conv")(x, 1, raw=True)
    assert torch.allclose(got, wanted, atol=1e-7) and wanted.abs().max() > 1e-3


def test_an_op_in_place_behind_a_hooked_layer_does_not_change_what_is_explained() -> None:
    class InPlace(nn.Module):
        def __init__(self, op: nn.Module) -> None:
            super().__init__()
            torch.manual_seed(9)
            self.conv, self.op, self.fc = nn.Conv2d(3, 6, 3), op, nn.Linear(6, 4)

        def tail(self, value: Tensor) -> Tensor:
            return self.fc(self.op(value).flatten(2).mean(2))

        def forward(self, x: Tensor) -> Tensor:
            y = self.tail(self.conv(x))
            return y * 2 if float(y.detach().sum()) > 1e9 else y

    class Added(nn.Module):
        def forward(self, y: Tensor) -> Tensor:
            y += 1
            return y.mul_(2).tanh_()

    for op in (nn.ReLU(inplace=True), nn.LeakyReLU(0.3, inplace=True), nn.SiLU(inplace=True), Added()):
        model = InPlace(op).double().eval()
        value = model.conv(X).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(model.tail(value.clone())[:, 1].sum(), value)
        got = dv.cam("hirescam", model, "conv")(X, 1, raw=True)
        assert torch.allclose(got, (gradient * value).sum(1), atol=1e-10)
        weight = gradient.mean((2, 3), keepdim=True)
        raw = dv.cam("grad-cam", model, "conv")(X, 1, raw=True)
        assert torch.allclose(raw, (weight * value).sum(1).relu(), atol=1e-10)


def test_an_explainer_says_what_it_explained() -> None:
    explainer = dv.cam("score-cam", NETWORK, LAST)
    assert explainer.logits is None and explainer.classes is None
    explainer(X, [3, 0])
    assert explainer.classes is not None and explainer.logits is not None
    assert explainer.classes.tolist() == [3, 0] and torch.allclose(explainer.logits, MODEL(X), atol=1e-10)
    explainer(X[:1], lambda out: out[:, 0])
    assert explainer.classes is None and explainer.logits is None  # not those of the call before


def test_maps_of_several_layers_stay_apart() -> None:
    maps = dv.cam("layercam", NETWORK, [FIRST, LAST], fuse="none")(X, 3)
    assert maps.shape == (2, 2, SIDE, SIDE)
    for place, layer in enumerate((FIRST, LAST)):
        assert torch.allclose(maps[:, place], dv.cam("layercam", NETWORK, layer)(X, 3), atol=1e-10)
    one = dv.cam("layercam", NETWORK, LAST, fuse="none")(X, 3)
    assert torch.equal(one[:, 0], maps[:, 1]) and one.shape == (2, 1, SIDE, SIDE)


def test_a_single_output_explains_yes_and_no() -> None:
    torch.manual_seed(4)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 1))
    model = model.double().eval()
    network = dv.capture(model, (3, SIDE, SIDE))
    value = model[:2](X).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model[2:](value).sum(), value)
    hires = (gradient * value).sum(1)
    for hooked in (network, model):
        for target, sign in ((0, 1), (1, -1), ("yes", 1)):
            if hooked is model and isinstance(target, str):
                continue
            explainer = dv.cam("hirescam", hooked, "1")
            assert torch.allclose(explainer(X, target, raw=True), sign * hires, atol=1e-10)
    got = dv.cam("score-cam", network, "1")(X[:1], 0, raw=True)
    with torch.no_grad():
        total = torch.zeros(SIDE, SIDE, dtype=torch.float64)
        for channel in value.detach()[0]:
            up = nn.functional.interpolate(channel[None, None], (SIDE, SIDE), mode="bilinear", align_corners=False)[
                0, 0
            ]
            if up.max() == up.min():
                continue
            mask = (up - up.min()) / (up.max() - up.min())
            total += torch.sigmoid(model(X[:1] * mask)[0, 0]) * up
    assert torch.allclose(got[0], total.relu(), atol=1e-8)


def test_a_model_is_left_as_it_was() -> None:
    model = Classifier(stubborn=True).double().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dv.cam("grad-cam", model, model.block.conv)(X, 1)
    assert all(module.training and not module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
