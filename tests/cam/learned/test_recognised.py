"""What a file is that was given for an explainer: its kind, and which command takes it."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
import torch
from tiny_explainers import lively_explainer

from deconvviz.cam.learned.described import described, require_explainer_of
from deconvviz.cam.learned.files import save_explainer
from deconvviz.cam.learned.recognised import EXPLAINER_TRAINING, recognised
from deconvviz.cli.explaining import MethodOptions
from deconvviz.data.pack import pack
from deconvviz.data.scenes.scenes import Scenes
from deconvviz.errors import CamError, DataError
from deconvviz.models.weights import SLIM, TRAINING
from deconvviz.results.results import Result
from deconvviz.studies.explainers.train import FORMAT


def _saved(path: pathlib.Path, content: Any) -> pathlib.Path:
    torch.save(content, path)
    return path


def test_files_are_recognised(tmp_path: pathlib.Path) -> None:
    assert EXPLAINER_TRAINING == FORMAT
    state = {"weight": torch.zeros(2)}
    slim = _saved(tmp_path / "slim.pth", {"format": SLIM, "identity": {"model": "zfnet"}, "state_dict": state})
    assert recognised(slim) == "the weights of a pruned network (give the model as zfnet --weights slim.pth)"
    net = _saved(tmp_path / "net.pth", {"format": TRAINING, "identity": {}, "state_dict": state})
    assert recognised(net) == "the weights of a trained network (give the model as MODEL --weights net.pth)"
    training = _saved(tmp_path / "lcam.training.pth", {"format": FORMAT, "state_dict": state})
    assert recognised(training).startswith("an unfinished training of an explainer")
    assert recognised(_saved(tmp_path / "plain.pth", state)) == ""
    Result("evaluation", 2, {}).save(tmp_path / "table.h5")
    assert recognised(tmp_path / "table.h5") == "an evaluation file"
    Result("mined", 1, {}).save(tmp_path / "mined.h5")
    assert recognised(tmp_path / "mined.h5") == "a mined file (`deconvviz grid` draws it)"
    pack(Scenes(2), tmp_path / "scenes.h5", progress=False)
    assert recognised(tmp_path / "scenes.h5") == "a packed store of images (give it as IMAGES)"
    (tmp_path / "notes.txt").write_text("notes")
    assert recognised(tmp_path / "notes.txt") == "a text file that begins with 'notes'"


def test_an_explainer_that_is_none_is_told_what_it_is(tmp_path: pathlib.Path) -> None:
    slim = _saved(tmp_path / "slim.pth", {"format": SLIM, "identity": {"model": "demo"}, "state_dict": {}})
    expected = (
        f"{slim} is no trained explainer but the weights of a pruned network \\(give the model as demo --weights "
        "slim.pth\\); give what `deconvviz train-cam` wrote"
    )
    with pytest.raises(DataError, match=expected):
        MethodOptions((), (), (str(slim),)).require_explainers(["l-cam-img"])
    plain = _saved(tmp_path / "plain.pth", {"weight": torch.zeros(2)})
    with pytest.raises(DataError, match="keep both files together"):
        described(plain)
    with pytest.raises(DataError, match=r"no file .*no\.pth; give the explainer"):
        described(tmp_path / "no.pth")
    with pytest.raises(DataError, match="is a folder; give the explainer"):
        described(tmp_path)


def test_an_explainer_of_another_method_is_refused(tmp_path: pathlib.Path) -> None:
    explainer = lively_explainer("l-cam-fm")
    about = {"format": "deconvviz-explainer", "schema": 1, "method": explainer.name}
    save_explainer(explainer, tmp_path / "e.pth", about)
    assert require_explainer_of(tmp_path / "e.pth", ["rise", "l-cam-fm"]) == "l-cam-fm"
    with pytest.raises(CamError, match=r"e\.pth is an explainer of l-cam-fm, and the method is bump; ask for l-cam-fm"):
        require_explainer_of(tmp_path / "e.pth", ["bump"])
    options = MethodOptions((), (), (str(tmp_path / "e.pth"),))
    with pytest.raises(CamError, match="l-cam-img has to be trained first: deconvviz train-cam l-cam-img"):
        options.require_explainers(["l-cam-fm", "l-cam-img"])
    options.require_explainers(["l-cam-fm", "grad-cam"])
    MethodOptions((), ("explainer=e.pth",), ()).require_explainers(["l-cam-fm"])  # read when the method is made
