"""ZFNet against the paper's numbers, its normalisation against the formula, its projections against autograd."""

from __future__ import annotations

import pathlib

import pytest
import torch
from oracle import RULES, layer_value, project_by_autograd
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.errors import ModelError
from deconvviz.models.load import build_model, load_model
from deconvviz.models.zfnet import zfnet
from deconvviz.studies.training.recipe import renormalise

# What the paper's layers must hold, from figure 3 and by hand: maps x inputs x kernel, and a bias each.
BY_HAND = {
    "conv1": 96 * 3 * 7 * 7 + 96,
    "conv2": 256 * 96 * 5 * 5 + 256,
    "conv3": 384 * 256 * 3 * 3 + 384,
    "conv4": 384 * 384 * 3 * 3 + 384,
    "conv5": 256 * 384 * 3 * 3 + 256,
    "fc6": 9216 * 4096 + 4096,
    "fc7": 4096 * 4096 + 4096,
    "fc8": 4096 * 1000 + 1000,
}


@pytest.fixture(scope="module")
def paper() -> nn.Module:
    torch.manual_seed(0)
    return zfnet().eval()


@pytest.mark.slow
def test_the_papers_network(paper: nn.Module) -> None:
    found = {name: sum(p.numel() for p in module.parameters()) for name, module in paper.named_children()}
    assert {name: count for name, count in found.items() if count} == BY_HAND
    assert sum(found.values()) == sum(BY_HAND.values()) == 62_357_608
    net = dv.capture(paper, (3, 224, 224))
    sides = {name: net.layers[name].shape[-1] for name in net.layers if name.startswith(("conv", "pool", "norm"))}
    expected = {"conv1": 110, "pool1": 55, "norm1": 55, "conv2": 26, "pool2": 13, "norm2": 13}
    assert sides == expected | {"conv3": 13, "conv4": 13, "conv5": 13, "pool5": 6}
    assert [net.layers[f"conv{n}"].shape[0] for n in range(1, 6)] == [96, 256, 384, 384, 256]
    order = [name.rstrip("0123456789") for name in dict(paper.named_children())]
    block = ["conv", "relu", "pool", "norm"]
    assert order[:8] == block * 2 and order[8:15] == ["conv", "relu"] * 3 + ["pool"]
    assert order[15:] == ["flatten", *["fc", "relu", "dropout"] * 2, "fc"]


@pytest.mark.slow
def test_the_papers_initial_weights(paper: nn.Module) -> None:
    for module in paper.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert abs(float(module.weight.detach().std()) - 0.01) < 2e-4 and not module.bias.detach().any()


def test_narrow_networks_pass_on_as_much_signal(paper: nn.Module) -> None:
    """Where a layer has fewer inputs its weights are larger, so that the outputs keep the paper's scale."""
    torch.manual_seed(0)
    small = zfnet(10, 64, width=0.2).eval()
    assert abs(float(small.conv4.weight.detach().std()) / (0.01 * (3456 / (77 * 9)) ** 0.5) - 1) < 0.02
    x = 60 * torch.randn(4, 3, 224, 224)
    with torch.no_grad():
        wide, narrow = paper(x).std(), small(x[..., :64, :64]).std()
    assert 0.5 < narrow / wide < 2


def test_contrast_normalisation_is_krizhevskys() -> None:
    norm = zfnet(10, 32, width=0.1).norm1
    assert isinstance(norm, nn.LocalResponseNorm)
    x = 40 * torch.randn(2, 10, 3, 3, dtype=torch.float64)
    for i in range(10):
        around = x[:, max(0, i - 2) : i + 3].square().sum(1)
        assert torch.allclose(norm(x)[:, i], x[:, i] / (2 + 1e-4 * around) ** 0.75, rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "absent", "parameters"),
    [
        # differences to the paper's network, by hand
        ({"remove": (3, 4)}, {"conv3", "conv4"}, -885_120 - 1_327_488 + 256 * (256 - 384) * 9),
        ({"remove": (7,)}, {"fc7"}, -(4096 * 4096 + 4096)),
        ({"remove": (6, 7)}, {"fc6", "fc7"}, -37_752_832 - 16_781_312 + (9216 - 4096) * 1000),
        ({"fc": (2048, 2048)}, set(), -9216 * 2048 - 2048 - (4096**2 - 2048**2) - 2048 - 2048 * 1000),
        ({"conv": (96, 256, 512, 1024, 512)}, set(), 45_270_016),
        ({"first": "alexnet"}, set(), 96 * 3 * (121 - 49)),
    ],
)
def test_table_3(arguments: dict[str, object], absent: set[str], parameters: int) -> None:
    with torch.device("meta"):  # shapes alone
        model = zfnet(**arguments)  # type: ignore[arg-type]
    assert absent.isdisjoint(dict(model.named_children()))
    assert sum(p.numel() for p in model.parameters()) == 62_357_608 + parameters
    with torch.device("meta"):
        again = zfnet(**model.arguments)
    assert again.arguments == model.arguments and str(again) == str(model)


@pytest.mark.parametrize(
    ("first", "size"), [("zfnet", 96), ("zfnet", 64), ("zfnet", 32), ("alexnet", 96), ("alexnet", 64)]
)
def test_small_inputs_leave_a_map(first: str, size: int) -> None:
    model = zfnet(7, size, width=0.1, first=first).eval()
    assert model(torch.randn(2, 3, size, size)).shape == (2, 7)
    if first == "zfnet":
        assert dv.capture(model, (3, size, size)).layers["pool5"].shape[-1] >= 3


@pytest.mark.slow
@pytest.mark.parametrize("lrn", ["identity", "gradient"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("size", "first"), [(224, "zfnet"), (64, "zfnet"), (32, "zfnet"), (64, "alexnet")])
def test_projections_equal_autograd(size: int, first: str, rule: str, lrn: str) -> None:
    """Overlapping pooling windows and contrast normalisation, in float64, on windows and whole."""
    torch.manual_seed(3)
    model = zfnet(10, size, width=0.06, fc=(300, 300), first=first).double().eval()
    net = dv.capture(model, (3, size, size))
    x = 60 * torch.randn(1, 3, size, size, dtype=torch.float64)
    for layer in ("conv1", "norm1", "conv2", "conv4", "pool5"):
        value = layer_value(model, x, layer)[0]
        channel, row, column = (int(n[0]) for n in torch.where(value == value.max()))
        expected = project_by_autograd(model, x, layer, channel, (row, column), rule, lrn)
        assert expected.abs().max() > 0
        for windowed in (True, False):
            found = dv.project(net, x, layer, channel, (row, column), rule, lrn=lrn, windowed=windowed).full()
            assert_close(found, expected)


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert (found - expected).abs().max() <= 1e-8 * expected.abs().max()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"input_size": 100}, "224, 96, 64, 32"),
        ({"input_size": 32, "first": "alexnet"}, "224, 96, 64 px"),
        ({"width": 0.0}, "positive factor"),
        ({"conv": (1, 2)}, "5 positive"),
        ({"fc": (10, 0)}, "2 positive"),
        ({"remove": (1,)}, "3, 4, 5, 6 and 7"),
        ({"classes": 0}, "at least 1"),
        ({"dropout": 1.0}, "below 1"),
        ({"first": "vgg"}, "zfnet or alexnet"),
    ],
)
def test_no_such_network(arguments: dict[str, object], complaint: str) -> None:
    with pytest.raises(ModelError, match=complaint):
        zfnet(**arguments)  # type: ignore[arg-type]


def test_renormalise() -> None:
    """Filters above the radius are scaled to it, as a whole; the others and the fully connected ones are left alone."""
    model = nn.Sequential(nn.Conv2d(3, 4, 5), nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.randn(4, 3, 5, 5) * torch.tensor([0.01, 0.3, 0.0, 5.0])[:, None, None, None])
        model[2].weight.fill_(7)
    before = model[0].weight.detach().clone()
    renormalise(model, 0.1)
    after = model[0].weight.detach()
    size = after.square().mean((1, 2, 3)).sqrt()
    assert torch.equal(after[[0, 2]], before[[0, 2]]) and torch.allclose(size[[1, 3]], torch.tensor(0.1))
    assert torch.allclose(after[3] / after[3].norm(), before[3] / before[3].norm()) and (model[2].weight == 7).all()


@pytest.mark.slow
def test_a_model_name() -> None:
    with pytest.raises(ModelError, match="deconvviz train zfnet"):
        load_model("zfnet")
    one, two = load_model("zfnet", "none"), build_model("zfnet", {}, seed=1)[0]
    assert one.settings == {"resize": 256, "crop": 224}
    assert not torch.equal(one.model.conv1.weight, two.conv1.weight)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="no ZFNet with these arguments"):
        build_model("zfnet", {"depth": 3})


@pytest.mark.slow
def test_half_precision_weights_of_a_plain_file(tmp_path: pathlib.Path) -> None:
    torch.save({k: v.half() for k, v in zfnet(3, 32, width=0.1).state_dict().items()}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="do not fit ZFNet"):  # a plain state dict does not tell the arguments
        load_model("zfnet", str(tmp_path / "w.pth"))


def test_the_least_number_of_classes() -> None:
    """One output is a network of its own, such as for yes or no; none is refused."""
    assert zfnet(1, 32, width=0.1)(torch.zeros(1, 3, 32, 32)).shape == (1, 1)
    with pytest.raises(ModelError, match="at least 1"):
        zfnet(0, 32, width=0.1)
