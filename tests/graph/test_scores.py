"""What an output says of classes: probabilities by hand, for every end that a network may have."""

from __future__ import annotations

import math
import pathlib
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import deconvviz as dv
from deconvviz.choices import OUTPUTS
from deconvviz.cli.main import cli
from deconvviz.errors import CaptureError, ModelError
from deconvviz.graph.scores import Readout, leaves_of, readout_of

SHAPE = (3, 9, 9)


class Ending(nn.Module):
    """A small network whose last values go through `end`."""

    def __init__(self, classes: int, end: Callable[[Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(classes)
        self.conv, self.fc, self.end = nn.Conv2d(3, 6, 3), nn.Linear(6, classes), end

    def raw(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).relu().mean((2, 3))) * 3

    def forward(self, x: Tensor) -> Any:
        return self.end(self.raw(x))


def pictures(count: int = 4) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(2)) * 2


def by_hand(row: list[float], kind: str) -> list[float]:
    """Probabilities of one image's raw values, in plain Python."""
    if kind == "exclusive":
        powers = [math.exp(value - max(row)) for value in row]
        return [power / sum(powers) for power in powers]
    return [1 / (1 + math.exp(-value)) for value in row]


def expected(raw: Tensor, kind: str) -> Tensor:
    return torch.tensor([by_hand(row, kind) for row in raw.double().tolist()], dtype=torch.float64)


def shifted_softmax(y: Tensor) -> Tensor:
    """Normalised by hand, as in code that was written before there was F.softmax with a dimension."""
    powers = (y - y.amax(1, keepdim=True)).exp()
    return powers / powers.sum(1, keepdim=True)


ENDS: dict[str, tuple[Callable[[Tensor], Any], str, str]] = {
    "scores": (lambda y: y, "softmax", "exclusive"),
    "scaled scores": (lambda y: y / 0.5, "softmax", "twice"),
    "softmax": (lambda y: y.softmax(1), "probabilities", "exclusive"),
    "softmax, cast and moved": (lambda y: y.softmax(-1).float().flatten(1), "probabilities", "exclusive"),
    "log_softmax": (lambda y: F.log_softmax(y, 1), "log-probabilities", "exclusive"),
    "sigmoid": (lambda y: y.sigmoid(), "independent", "each"),
    "sigmoid in a dict": (lambda y: {"features": y[:, :, None], "scores": torch.sigmoid(y)}, "independent", "each"),
    "normalised by hand": (shifted_softmax, "probabilities", "exclusive"),
    "its logarithm by hand": (lambda y: y - y.logsumexp(1, keepdim=True), "log-probabilities", "exclusive"),
}


@pytest.mark.parametrize("name", ENDS)
def test_probabilities_of_several_outputs(name: str) -> None:
    end, kind, meaning = ENDS[name]
    model = Ending(5, end).eval()
    network, x = dv.capture(model, SHAPE), pictures()
    raw = model.raw(x).detach() * (2 if meaning == "twice" else 1)
    wanted = expected(raw, "each" if meaning == "each" else "exclusive")
    assert (network.readout.kind, network.width, network.outputs) == (kind, 5, 5)
    assert torch.allclose(network.probabilities(x).double(), wanted, atol=1e-5)
    scores = network.scores(x)
    logarithms = network.readout.log_probabilities(scores)
    assert torch.allclose(logarithms.double(), wanted.log(), atol=1e-3)
    assert torch.equal(scores.argmax(1), raw.argmax(1))
    assert (meaning == "each") == (abs(float(wanted.sum(1)[0]) - 1) > 1e-3)


SINGLE: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "a score": (lambda y: y, "sigmoid"),
    "a score in a tuple": (lambda y: (y, y.mean()), "sigmoid"),
    "sigmoid": (lambda y: y.sigmoid(), "independent"),
    "sigmoid, cast": (lambda y: torch.sigmoid(y).to(torch.float32), "independent"),
}


@pytest.mark.parametrize("name", SINGLE)
def test_one_output_stands_for_yes_and_no(name: str) -> None:
    end, kind = SINGLE[name]
    model = Ending(1, end).eval()
    network, x = dv.capture(model, SHAPE), pictures()
    yes = expected(model.raw(x).detach(), "each")[:, 0]
    assert (network.readout.kind, network.width, network.outputs) == (kind, 1, 2)
    probabilities = network.probabilities(x).double()
    assert torch.allclose(probabilities, torch.stack([yes, 1 - yes], 1), atol=1e-6)
    assert torch.allclose(network.readout.log_probabilities(network.scores(x)).double(), probabilities.log(), atol=1e-5)
    scores = network.scores(x)
    assert torch.allclose(scores.sum(1), torch.full((4,), 0.0 if kind == "sigmoid" else 1.0), atol=1e-6)
    assert torch.equal(scores.argmax(1), (yes < 0.5).long())


def test_two_outputs_are_no_yes_and_no() -> None:
    network = dv.capture(Ending(2, lambda y: y).eval(), SHAPE)
    assert (network.readout.kind, network.width, network.outputs) == ("softmax", 2, 2)


def test_numbers_of_a_readout() -> None:
    """Each kind on the same scores, to the last digit that can be had on paper."""
    scores = torch.tensor([[0.0, math.log(3.0)]], dtype=torch.float64)
    for kind, wanted in {
        "softmax": [0.25, 0.75],
        "sigmoid": [0.5, 0.75],
        "log-probabilities": [1.0, 3.0],
        "probabilities": [0.0, math.log(3.0)],
        "independent": [0.0, math.log(3.0)],
    }.items():
        readout = Readout(kind)
        assert readout.probabilities(scores)[0].tolist() == pytest.approx(wanted, abs=1e-12), kind
        found = readout.log_probabilities(scores)[0]
        if wanted[0] > 0:
            assert found.tolist() == pytest.approx([math.log(value) for value in wanted], abs=1e-12), kind
        assert found.isfinite().all(), kind  # the logarithm of zero is a very low number
    half = torch.tensor([[1.0, -2.0]], dtype=torch.bfloat16)
    assert Readout("softmax").probabilities(half).dtype == torch.float32
    one = torch.tensor([[2.0], [-1.0]])
    assert Readout("sigmoid").scores(one).tolist() == [[2, -2], [-1, 1]]
    assert Readout("independent").scores(one / 4).tolist() == [[0.5, 0.5], [-0.25, 1.25]]
    extreme = Readout("sigmoid").log_probabilities(torch.tensor([[-200.0, 200.0]]))
    assert extreme.tolist() == [[-200.0, 0.0]]


def test_what_the_last_op_says_must_hold_of_the_values() -> None:
    """A softmax over something else than the classes gives no probabilities of them."""
    over_images = torch.tensor([[0.3, 0.9], [0.7, 0.1]])
    assert readout_of(over_images, last_op="softmax").kind == "softmax"
    assert readout_of(torch.tensor([[0.3, 0.7]]), last_op="softmax").kind == "probabilities"
    assert readout_of(torch.tensor([[0.3, 0.7]]), last_op="sigmoid").kind == "independent"
    assert readout_of(torch.tensor([[0.31, 0.7]])).kind == "softmax"
    assert readout_of(torch.tensor([[1.2, -0.2]])).kind == "softmax"  # sums to one, but is negative
    assert readout_of(torch.tensor([[0.3, 0.7], [0.5, 0.4]])).kind == "softmax"


def test_a_kind_that_is_asked_for() -> None:
    scores, single = torch.tensor([[2.0, -1.0]]), torch.tensor([[2.0]])
    shares = torch.tensor([[0.25, 0.75]])
    for output, asked, kind in (
        (scores, "sigmoid", "sigmoid"),
        (scores, "softmax", "softmax"),
        (scores, "probabilities", "independent"),
        (shares, "probabilities", "probabilities"),
        (shares, "softmax", "softmax"),
        (shares.log(), "log-probabilities", "log-probabilities"),
        (single, "softmax", "sigmoid"),
        (single, "sigmoid", "sigmoid"),
        (single / 4, "probabilities", "independent"),
    ):
        assert readout_of(output, asked).kind == kind, asked
    with pytest.raises(CaptureError, match="outputs"):
        readout_of(scores, "logit")
    assert set(OUTPUTS) >= {"auto", "softmax", "sigmoid", "probabilities", "log-probabilities"}


def test_a_network_is_told_how_it_is_read() -> None:
    model = Ending(4, lambda y: y).eval()
    network, x = dv.capture(model, SHAPE), pictures()
    labels = network.with_outputs("sigmoid")
    assert network.readout.kind == "softmax" and labels.readout.kind == "sigmoid"
    assert torch.allclose(labels.probabilities(x).double(), expected(model.raw(x).detach(), "each"), atol=1e-6)
    for other in (labels.fast(), labels.fast("bf16"), labels.to(torch.float64), labels.without_norms()):
        assert other.readout.kind == "sigmoid" and other.width == 4
    assert labels.with_outputs("auto").readout.kind == "softmax"
    with pytest.raises(CaptureError, match="outputs"):
        network.with_outputs("logit")
    assert labels.fingerprint == network.fingerprint  # it computes the same


# --- where the scores are --------------------------------------------------------------------------------------------


@dataclass
class Answer:
    """As libraries return them: an object with the scores and more."""

    logits: Tensor
    hidden: Tensor | None = None


pytree.register_dataclass(Answer, serialized_type_name="tests.graph.test_scores.Answer")


class Mapped(OrderedDict[str, Any]):
    """A dict of a class of its own, as Hugging Face's outputs are."""


Pair = namedtuple("Pair", ["embedding", "prediction"])
STRUCTURES: dict[str, tuple[Callable[[Tensor], Any], str | None]] = {
    "a tensor": (lambda y: y, None),
    "logits of a dict": (lambda y: {"logits": y}, "logits"),
    "any name in a dict": (lambda y: {"foo": y}, "foo"),
    "logits beside another vector": (lambda y: {"aux": y * 2, "logits": y}, "logits"),
    "out beside another vector": (lambda y: {"aux": y * 2, "out": y}, "out"),
    "a tuple": (lambda y: (y,), "0"),
    "a tuple with a map": (lambda y: (y[:, :, None, None], y), "1"),
    "a list with a list": (lambda y: [y[:, None], [y[:, :, None], y]], "1.1"),
    "numbers for keys": (lambda y: {0: y[:, None], 1: y}, "1"),
    "one tensor by two names": (lambda y: {"all": y, "logits": y}, "logits"),
    "a named tuple": (lambda y: Pair(y[:, :, None], y), None),
    "a dataclass": (lambda y: Answer(y, y[..., None]), None),
}
BESIDE: dict[str, Callable[[Tensor], Any]] = {
    "a tuple in a dict": lambda y: {"logits": y, "hidden": (y[:, None], y[:, None])},
    "the scores in a tuple in a dict": lambda y: {"all": (y[:, None], y)},
    "None in a dict": lambda y: {"logits": y, "hidden": None},
    "None in a tuple": lambda y: (None, y),
    "an int in a dict": lambda y: {"logits": y, "count": 3},
    "a number of the whole batch": lambda y: (y, y.square().sum()),
    "a weight": lambda y: {"logits": y, "codes": torch.ones(3, 2)},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STRUCTURES)
def test_the_scores_are_found(name: str) -> None:
    wrap, place = STRUCTURES[name]
    model = Ending(4, wrap).eval()
    network, x = dv.capture(model, SHAPE), pictures()
    assert torch.allclose(network.scores(x), model.raw(x), atol=1e-6) and network.outputs == network.width == 4
    assert type(network(x)) is type(model(x))
    assert network.readout.kind == "softmax"
    if place is not None:
        assert network.readout.name == place
    maps = dv.cam("grad-cam", network, "conv")(x, 3)
    bare = dv.cam("grad-cam", dv.capture(Ending(4, lambda y: y).eval(), SHAPE), "conv")(x, 3)
    assert torch.allclose(maps, bare, atol=1e-6)
    assert torch.allclose(dv.cam("gradient", network)(x, 3), dv.cam("gradient", bare_network(), None)(x, 3), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", BESIDE)
def test_what_is_returned_beside_the_scores_is_not_in_the_way(name: str) -> None:
    model = Ending(4, BESIDE[name]).eval()
    network, x = dv.capture(model, SHAPE), pictures()
    assert torch.allclose(network.scores(x), model.raw(x), atol=1e-6) and network.width == 4
    for method, layer in (("grad-cam", "conv"), ("gradient", None), ("lrp-epsilon", None)):
        bare = dv.cam(method, bare_network(), layer)(x, 3)
        assert torch.allclose(dv.cam(method, network, layer)(x, 3), bare, atol=1e-6), method


def bare_network() -> dv.Network:
    return dv.capture(Ending(4, lambda y: y).eval(), SHAPE)


REFUSED: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "two vectors": (lambda y: (y, y * 2), r"returns 0 \[4\], 1 \[4\] for an image"),
    "two vectors of a dict": (lambda y: {"a": y, "b": y[:, :2]}, r"returns a \[4\], b \[2\] for an image"),
    "a map": (lambda y: y[:, :, None, None].expand(-1, -1, 3, 5), r"returns \[4, 3, 5\] for an image"),
    "a number": (lambda y: y[:, 0], r"returns \[\] for an image"),
    "rows": (lambda y: {"rows": y[:, None]}, r"returns rows \[1, 4\] for an image"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_where_no_single_scores_are_it_is_told(name: str) -> None:
    wrap, complaint = REFUSED[name]
    network = dv.capture(Ending(4, wrap).eval(), SHAPE)  # it can still be looked at
    x = pictures(1)
    reads: tuple[Callable[[], object], ...] = (
        lambda: network.readout,
        lambda: network.width,
        lambda: network.outputs,
        lambda: network.scores(x),
        lambda: network.probabilities(x),
    )
    for read in reads:
        with pytest.raises(CaptureError, match=complaint + "; expected one score for each class"):
            read()
    assert dv.project(network, x, "conv", 0, (1, 1)).pixels.abs().max() > 0


def test_names_of_tensors() -> None:
    one, two = torch.zeros(2, 3), torch.ones(2)
    cases: list[tuple[Any, Mapping[str, Tensor]]] = [
        (one, {"": one}),
        ({"x": one, "y": None, "z": "text"}, {"x": one}),
        ((one, [two, 3]), {"0": one, "1.0": two}),
        (Mapped(logits=one), {"logits": one}),
    ]
    for output, wanted in cases:
        found = leaves_of(output)
        assert list(found) == list(wanted) and all(found[key] is wanted[key] for key in wanted)


def test_scores_are_of_the_value_that_is_returned_and_not_of_one_before() -> None:
    """Two dict entries that come from each other: the name decides, not the order in the graph."""
    model = Ending(4, lambda y: {"z": y.softmax(1)[:, :, None], "logits": y, "a": y.mean(1)}).eval()
    network, x = dv.capture(model, SHAPE), pictures()
    assert torch.allclose(network.scores(x), model.raw(x), atol=1e-6)
    assert network.readout.kind == "softmax"


def test_a_network_that_diverged_decides_nothing() -> None:
    """Its scores are NaN because weights are; a network without a number for one image alone is another thing."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    with torch.no_grad():
        model[3].weight[0, 0] = torch.nan
    network = dv.capture(model, SHAPE)
    with pytest.raises(ModelError, match=r"scores of Sequential are NaN.* weights, 3\.weight first") as error:
        network.scores(torch.zeros(1, *SHAPE))
    assert "\n" not in str(error.value)
    with pytest.raises(ModelError):
        _ = network.outputs  # which jobs ask for before they begin a file
    with torch.no_grad():
        model[3].weight[0, 0] = 1.0
    root = nn.Sequential(Root(), *model).eval()  # of random images in 0..1 less a half: NaN, and no weight is
    scores = dv.capture(root, SHAPE).scores(torch.stack([torch.ones(SHAPE), torch.zeros(SHAPE)]))
    assert scores.isnan().any(1).tolist() == [False, True]


class Root(nn.Module):
    """The square root of values above a half."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.5).sqrt()


# --- the option of the commands --------------------------------------------------------------------------------------

MODEL = """
import torch
from torch import nn

def make():
    torch.manual_seed(3)
    layers = [nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, {outputs})]
    return nn.Sequential(*layers), {{"resize": 24, "crop": 24}}
"""


@pytest.mark.slow
@pytest.mark.parametrize(("outputs", "kind"), [(4, "sigmoid"), (4, "softmax"), (1, "auto")])
def test_the_option_outputs(tmp_path: pathlib.Path, outputs: int, kind: str) -> None:
    from PIL import Image

    (tmp_path / "net.py").write_text(MODEL.format(outputs=outputs))
    Image.fromarray(dv.Scenes(1, seed=3)[0][0]).save(tmp_path / "0.png")
    asked = ["cam", "grad-cam", f"{tmp_path / 'net.py'}:make", str(tmp_path / "0.png"), "-l", "1", "-t", "0"]
    options = ["-o", str(tmp_path / "c.svg"), "--outputs", kind, "--device", "cpu", "--weights", "none"]
    result = CliRunner().invoke(cli, [*asked, *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    loaded = dv.load_model(f"{tmp_path / 'net.py'}:make", "none")
    x = dv.Preprocess.from_dict(loaded.settings)(dv.Scenes(1, seed=3)[0][0])[None]
    raw = loaded.model.eval()(x).detach()
    p = float(expected(raw, "exclusive" if kind == "softmax" else "each")[0, 0])
    assert f"p {p:.2f}" in (tmp_path / "c.svg").read_text()
