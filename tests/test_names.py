"""The names that users type exist as the design fixes them: this test calls each of them."""

from __future__ import annotations

import ast
import importlib
import pathlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import deconvviz as dv


def test_the_names_a_user_types(tmp_path: pathlib.Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 20, 3), nn.ReLU())
    for n in range(12):
        pixels = np.random.default_rng(n).integers(0, 255, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{n:02d}.png")

    net = dv.capture(model, (3, 32, 32))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(net(x), model(x), atol=1e-6)
    layer = net.layers["3"]
    assert (layer.name, layer.kind, layer.shape, layer.parameters) == ("3", "Conv2d", (20, 14, 14), 8 * 20 * 9 + 20)
    assert layer.receptive_field.size == (8, 8) and layer.stride == (2, 2)
    acts = net.activations(x, ["4"])
    assert acts["4"].shape == (2, 20, 14, 14)

    proj = dv.project(net, x[:1], "4", channel=12, rule="deconvnet")
    value, position = acts["4"][0, 12].max(), divmod(int(acts["4"][0, 12].argmax()), 14)
    assert proj.position == position and abs(proj.value - float(value)) < 1e-6
    top, left, bottom, right = proj.window
    assert proj.window.top == top and proj.pixels.shape == (3, bottom - top, right - left)
    assert proj.full().shape == (3, 32, 32) and torch.equal(proj.full()[:, top:bottom, left:right], proj.pixels)
    assert dv.project(net, x[:1], "4", channel=12, position=(2, 3)).position == (2, 3)

    units = [(1, "4", 3, (0, 0)), (0, "3", 1, (5, 5)), (1, "4", 3, (13, 13))]
    projs = dv.project_units(net, x, units, rule="guided")
    assert [(p.image, p.layer, p.channel, p.position) for p in projs] == units

    dv.pack(tmp_path, tmp_path / "photos.h5", progress=False)
    store = dv.ImageStore.open(str(tmp_path / "photos.h5"))
    image, label = store[0]
    assert len(store) == 12 and image.shape == (40, 48, 3) and image.dtype == np.uint8 and label == -1
    assert store.names[3] == "03.png" and list(store.classes) == []

    pre = dv.Preprocess(resize=32, crop=32)
    mined = dv.mine(net, store, ["4"], k=9, out=str(tmp_path / "mined.h5"), preprocess=pre, progress=False)
    for top_layer in (mined["4"], dv.load_mined(str(tmp_path / "mined.h5"))["4"]):
        assert top_layer.values.shape == (20, 9) and top_layer.values.dtype == np.float32
        assert top_layer.images.shape == (20, 9) and top_layer.positions.shape == (20, 9, 2)
    first = int(mined["4"].images[7, 0])
    y, column = mined["4"].positions[7, 0]
    again = net.activations(pre(store[first][0])[None], ["4"])["4"][0, 7]
    assert abs(float(again[y, column]) - mined["4"].values[7, 0]) < 1e-5 and again.max() == again[y, column]
    assert dv.parse_unit("features.5:12@3,4") == ("features.5", 12, (3, 4))
    assert dv.parse_unit("features.5@1:12") == ("features.5@1", 12, None)
    assert set(dv.__all__) <= set(dir(dv))


def scripts() -> list[pathlib.Path]:
    """The Python programs of `tools`, which the type checker does not read where they have no ending."""
    tools = pathlib.Path(__file__).resolve().parent.parent / "tools"
    return [path for path in sorted(tools.iterdir()) if path.is_file() and "python3" in path.read_text()[:40]]


@pytest.mark.parametrize("script", scripts(), ids=lambda path: path.name)
def test_a_script_uses_names_that_exist(script: pathlib.Path) -> None:
    tree = ast.parse(script.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "dv":
            assert hasattr(dv, node.attr), f"dv.{node.attr} in line {node.lineno}"
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("deconvviz"):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module}.{alias.name} in line {node.lineno}"
