"""The files of a trained explainer: they give it back, and broken or foreign ones are refused."""

from __future__ import annotations

import json
import pathlib
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_explainers import EXPLAINERS, lively_explainer, tiny_images, tiny_net
from torch import Tensor, nn

from deconvviz.cam.explain import cam
from deconvviz.cam.learned.base import LEARNED, LearnedExplainer, Phase
from deconvviz.cam.learned.files import configuration, load_explainer, save_explainer
from deconvviz.errors import (
    CamError,
    DataError,
    DeconvvizError,
    MismatchError,
)


def saved(name: str, path: pathlib.Path, **options: Any) -> LearnedExplainer:
    """An explainer of the tiny network, in float32 as a file is read."""
    explainer = lively_explainer(name, **options)
    save_explainer(explainer, path, configuration(explainer, tiny_net()[1], {}))
    return explainer


@pytest.mark.parametrize("name", EXPLAINERS)
def test_a_file_gives_back_the_explainer(tmp_path: pathlib.Path, name: str) -> None:
    explainer = saved(name, tmp_path / "e.pth", power=0.5)
    state = torch.load(tmp_path / "e.pth", weights_only=True)
    assert set(state) == set(explainer.state_dict()) and all(isinstance(v, Tensor) for v in state.values())
    again = load_explainer(tmp_path / "e.pth")
    assert type(again) is type(explainer) and again.options == explainer.options and again.layers == explainer.layers
    assert again.options["power"] == 0.5 and again.outputs == 4 and not again.training
    for key, value in explainer.state_dict().items():
        assert torch.allclose(again.state_dict()[key].double(), value, atol=1e-6)
    config = json.loads((tmp_path / "e.json").read_text())
    assert config["model_fingerprint"] == tiny_net()[1].fingerprint and config["method"] == name


@pytest.mark.parametrize("name", ["real-time-masking", "bump"])
def test_layers_keep_their_order(tmp_path: pathlib.Path, name: str) -> None:
    """The deepest layer comes last, also where its name comes first in the alphabet, as in SqueezeNet."""
    explainer = LEARNED[name]({"features.7": (4, 8, 8), "classifier": (6, 4, 4)}, 3, width=4)
    save_explainer(explainer, tmp_path / "e.pth", configuration(explainer, tiny_net()[1], {}))
    again = load_explainer(tmp_path / "e.pth")
    assert list(again.layers) == ["features.7", "classifier"]
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in explainer.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", EXPLAINERS)
def test_a_file_explains(tmp_path: pathlib.Path, name: str, dtype: torch.dtype) -> None:
    """What is explained by a file is what the explainer itself explains, in the network's precision."""
    network, x = tiny_net()[1].to(dtype), tiny_images(2)[1].to(dtype)
    explainer = lively_explainer(name, network)
    save_explainer(explainer, tmp_path / "e.pth", configuration(explainer, network, {}))
    expected = cam(name, network, explainer=explainer)(x, [0, 1])
    found = cam(name, network, explainer=str(tmp_path / "e.pth"))(x, [0, 1])
    assert found.dtype == dtype and torch.equal(found, expected)


def edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[pathlib.Path], None]:
    def edited(path: pathlib.Path) -> None:
        config = json.loads(path.with_suffix(".json").read_text())
        change(config)
        path.with_suffix(".json").write_text(json.dumps(config))

    return edited


class Foreign:
    """What a pickle may hold, and is never made."""


BROKEN: dict[str, tuple[Callable[[pathlib.Path], Any], str]] = {
    "no JSON": (lambda p: p.with_suffix(".json").unlink(), "keep both files together"),
    "JSON cut off": (lambda p: p.with_suffix(".json").write_text('{"format": '), "cannot be read"),
    "JSON of something else": (lambda p: p.with_suffix(".json").write_text('{"a": 1}'), "does not describe"),
    "JSON is a list": (lambda p: p.with_suffix(".json").write_text("[1]"), "does not describe"),
    "newer": (edit(lambda c: c.update(schema=99)), "update it"),
    "no such method": (edit(lambda c: c.update(method="l-cam-xy")), "l-cam-xy"),
    "no method": (edit(lambda c: c.pop("method")), "not whole"),
    "another option": (edit(lambda c: c["options"].update(colour=3)), "not whole"),
    "wrong outputs": (edit(lambda c: c.update(outputs=7)), "belong together"),
    "outputs no number": (edit(lambda c: c.update(outputs="four")), "not whole"),
    "two layers": (edit(lambda c: c["layers"].update(more=[2, 3, 3])), "not whole"),
    "another width of the layer": (edit(lambda c: c["layers"].update({"4": [9, 3, 2]})), "belong together"),
    "no weights": (lambda p: p.unlink(), "no file"),
    "weights cut off": (lambda p: p.write_bytes(p.read_bytes()[:-200]), "damaged archive"),
    "weights empty": (lambda p: p.write_bytes(b""), "an empty file, no state dict"),
    "a pickled object": (lambda p: p.write_bytes(pickle.dumps(Foreign(), 2)), "no plain state dict"),
    "a module": (lambda p: torch.save(nn.Conv2d(5, 4, 1), p), "Python objects"),
    "a number": (lambda p: torch.save(3, p), "no state dict"),
    "another state": (lambda p: torch.save({"fc.weight": torch.zeros(2)}, p), "belong together"),
    "schema no number": (edit(lambda c: c.update(schema="one")), "schema"),
    "negative outputs": (edit(lambda c: c.update(outputs=-4)), "not whole"),
    "weights of another kind": (lambda p: p.write_bytes(b"abc"), "a text file that begins with 'abc'"),
    "numbers for tensors": (
        lambda p: torch.save({"attention.weight": 1.0, "attention.bias": [2.0]}, p),
        "2 not tensors",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files(tmp_path: pathlib.Path, case: str) -> None:
    """One clear error each, on one line."""
    saved("l-cam-fm", tmp_path / "e.pth")
    change, complaint = BROKEN[case]
    change(tmp_path / "e.pth")
    with pytest.raises(DeconvvizError, match=complaint) as raised:
        cam("l-cam-fm", tiny_net()[1], explainer=str(tmp_path / "e.pth"))
    assert "\n" not in str(raised.value)


def test_an_explainer_of_something_else(tmp_path: pathlib.Path) -> None:
    """Of another method, another network, another layer, or none at all."""
    saved("l-cam-fm", tmp_path / "e.pth")
    (model, network), path = tiny_net(), str(tmp_path / "e.pth")
    with pytest.raises(CamError, match="l-cam-fm"):
        cam("l-cam-img", network, explainer=path)
    with pytest.raises(MismatchError, match=r"trained for other weights of the same architecture .*\(--weights FILE\)"):
        cam("l-cam-fm", tiny_net(4)[1], explainer=path)  # the same architecture, other weights
    with pytest.raises(CamError, match="leave the layer out"):
        cam("l-cam-fm", network, "3", explainer=path)
    with pytest.raises(CamError, match="captured"):
        cam("l-cam-fm", model, explainer=path)
    with pytest.raises(CamError, match="train-cam"):
        cam("l-cam-fm", network)
    with pytest.raises(DeconvvizError, match="colour"):
        cam("l-cam-fm", network, explainer=path, colour=1)
    cam("l-cam-fm", network, "4", explainer=path)


@pytest.mark.parametrize("kind", [((9, 3, 2), 4), ((5, 3, 2), 2)])
def test_an_explainer_made_for_other_shapes(kind: tuple[tuple[int, ...], int]) -> None:
    shape, outputs = kind
    explainer = LEARNED["l-cam-fm"]({"4": shape}, outputs).double()
    with pytest.raises(DeconvvizError):
        cam("l-cam-fm", tiny_net()[1], explainer=explainer)(tiny_images(1)[1], 3)


def test_the_least_of_a_phase() -> None:
    """One epoch, no step limit and one image in a batch are enough; less is refused."""
    assert Phase("masks", epochs=1, steps=0, batch_size=1).batch_size == 1
    for wrong in ({"epochs": 0}, {"batch_size": 0}, {"steps": -1}):
        with pytest.raises(DataError):
            Phase("masks", **wrong)  # type: ignore[arg-type]
