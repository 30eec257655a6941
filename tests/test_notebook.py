"""Results in a notebook: a small picture above their text, which stays where no picture can be drawn."""

from __future__ import annotations

import base64
import copy
import io
import pathlib
import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

import deconvviz as dv
from deconvviz import notebook
from deconvviz.cam.maps import Maps
from deconvviz.errors import DeconvvizError, MismatchError
from deconvviz.results.snapshots import write_epoch
from deconvviz.studies.mining.mine import mine

MOST = 300_000  # letters of HTML


def classes_below(cls: type[notebook.Shown]) -> Iterator[type[notebook.Shown]]:
    for below in cls.__subclasses__():
        yield below
        yield from classes_below(below)


@pytest.fixture(scope="module")
def network() -> dv.Network:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 6, 3), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10)),
    )
    return dv.capture(model.eval(), (3, 32, 32))


PREPROCESS = dv.Preprocess(resize=32, crop=32)


def test_show_draws_the_result_where_it_is(network: dv.Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a notebook the result is displayed; elsewhere its picture goes to a program, or how to save it is said."""
    import IPython.display
    from PIL import ImageShow

    seen: list[Any] = []
    maps: Any = dv.cam("grad-cam", network, "4")(torch.rand(2, 3, 32, 32))
    monkeypatch.setattr(ImageShow, "show", lambda image: seen.append(image.size) or True)
    maps.show()
    assert len(seen) == 1 and seen[0][0] > 200
    monkeypatch.setattr(ImageShow, "show", lambda image: False)
    with pytest.raises(DeconvvizError, match=r"save it: deconvviz.draw_maps\(result\).savefig"):
        maps.show()
    monkeypatch.setattr(notebook, "in_notebook", lambda: True)
    monkeypatch.setattr(IPython.display, "display", seen.append)
    maps.show()
    assert seen[-1] is maps


def test_overlays_are_arrays(network: dv.Network) -> None:
    """Where a map is lowest its picture is seen, where it is highest the colour of the map."""
    maps: Any = dv.cam("grad-cam", network, "4")(torch.rand(2, 3, 32, 32))
    over, plain = dv.overlays(maps), maps.pictures
    assert over.shape == (2, 32, 32, 3) and over.dtype == np.uint8
    change = np.abs(over.astype(int) - plain).mean(-1)
    low, high = (maps < 0.05).numpy(), (maps > 0.9).numpy()
    assert change[low].mean() < 0.5 * change[high].mean()
    layers: Any = dv.cam("grad-cam", network, ["1", "4"], fuse="none")(torch.rand(1, 3, 32, 32))
    assert dv.overlays(layers).shape == (1, 2, 32, 32, 3)
    with pytest.raises(DeconvvizError, match=r"expected at most one for each, uint8 \[32, 32, 3\]"):
        dv.overlays(maps, [np.zeros((8, 8, 3), np.uint8)])


def picture_of(result: Any) -> Image.Image:
    """The picture of a result, after the checks that every result has to pass."""
    bundle = result._repr_mimebundle_()
    assert bundle["text/plain"] == repr(result) and len(bundle["text/html"]) < MOST
    assert "No picture" not in bundle["text/html"], bundle["text/html"][-300:]
    assert f'src="data:image/png;base64,{bundle["image/png"]}"' in bundle["text/html"]
    picture = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"]))).convert("RGB")
    assert np.asarray(picture).std() > 5 and picture.width > 200  # something is drawn
    return picture


def test_every_shown_class_names_a_public_function() -> None:
    for name in dir(dv):  # imports every room that has results
        getattr(dv, name)
    names = {
        cls.__name__: cls._drawn_by for cls in classes_below(notebook.Shown) if cls.__module__.startswith("deconv")
    }
    assert len(names) > 20 and {"Maps", "Mined", "MinedLayer", "Projection", "ImageStore", "Snapshots"} <= {*names}
    assert all(name.startswith("draw_") and name in dir(dv) for name in names.values()), names


@pytest.mark.slow
def test_results_show_themselves(network: dv.Network, tmp_path: pathlib.Path) -> None:
    scenes = dv.Scenes(30)
    pictures = np.stack([PREPROCESS.picture(scenes[n][0]) for n in range(2)])
    x = PREPROCESS.tensor(pictures)
    mined = mine(network, scenes, ["1", "4"], k=4, preprocess=PREPROCESS, progress=False)
    write_epoch(tmp_path / "s.h5", {"epoch": 1, "loss": 2.0, "accuracy": 0.1}, None, {}, {})
    options: dict[str, Any] = {"preprocess": PREPROCESS, "progress": False}
    results = [
        *(scenes, mined, mined["4"], dv.Snapshots(tmp_path / "s.h5"), dv.project(network, x[:1], "4", 1)),
        dv.cam("grad-cam", network, "4")(x),
        dv.layer_panels(mined, scenes, network, "4", [1, 2], crop=9, rule="gradient", progress=False),
        dv.occlude(network, pictures[:1], square=16, stride=8, **options)[0],
        dv.evaluate(network, scenes, ["grad-cam"], ["4"], limit=2, **options),
    ]
    for result in results:
        picture_of(result)
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_a_picture_is_drawn_once_and_its_figure_emptied(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = []

    def drawn(images: object) -> Figure:
        figures.append(Figure(figsize=(4, 3)))
        figures[-1].subplots().plot([0, 1])
        return figures[-1]

    monkeypatch.setattr("deconvviz.draw_images", drawn, raising=False)
    picture_of(dv.Scenes(1))
    assert len(figures) == 1 and not figures[0].axes


@pytest.mark.slow
def test_a_noisy_picture_is_made_small() -> None:
    figure = Figure(figsize=(10, 10), dpi=100)
    figure.add_axes((0, 0, 1, 1)).imshow(np.random.default_rng(0).random((1000, 1000, 3)))
    png = notebook.png_of(figure)
    assert len(png) <= notebook.MOST_BYTES and Image.open(io.BytesIO(png)).width > 150


def test_without_its_images_a_result_shows_its_text_and_why(network: dv.Network, tmp_path: pathlib.Path) -> None:
    dv.pack(dv.Scenes(12), tmp_path / "<i>.h5", progress=False)
    with dv.ImageStore.open(tmp_path / "<i>.h5") as store:
        mine(network, store, ["4"], k=2, preprocess=PREPROCESS, out=tmp_path / "m.h5", progress=False)
    mined = dv.load_mined(tmp_path / "m.h5")
    picture_of(mined["4"])
    del store
    (tmp_path / "<i>.h5").rename(tmp_path / "moved.h5")
    html = mined._repr_html_()
    assert "MinedLayer(4: 6 channels" in html and "No picture: " in html and "does not exist" in html
    assert "&lt;i&gt;.h5" in html and "<i>" not in html and mined._repr_png_() is None
    assert len(dv.draw_mined(mined, dv.ImageStore.open(tmp_path / "moved.h5"), count=2).axes) == 2
    with pytest.raises(MismatchError, match="not the images that were mined"):
        dv.draw_mined(mined, dv.Scenes(3))


def test_any_error_of_drawing_becomes_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(images: object) -> Figure:
        raise RuntimeError("no\n  <font>")

    monkeypatch.setattr("deconvviz.draw_images", failing, raising=False)
    html = dv.Scenes(1)._repr_html_()
    assert html == "<pre>Scenes(count=1, size=72, seed=0)</pre><p>No picture: RuntimeError: no &lt;font&gt;</p>"


def test_maps_are_tensors_that_know_their_pictures(network: dv.Network) -> None:
    x = torch.linspace(-2, 3, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)
    maps = dv.cam("layercam", network, ["1", "4"], fuse="none", classes=list("abcdefghij"))(x, ["c", "h"])
    assert isinstance(maps, Maps) and maps.targets == ("class 2 (c)", "class 7 (h)")
    assert maps.pictures[0].min() == 0 and maps.pictures[0].max() == 255
    plain = [maps[0], maps + 1, maps.mean(0), copy.deepcopy(maps), pickle.loads(pickle.dumps(maps))]
    assert all(type(each) is torch.Tensor for each in plain) and torch.equal(plain[3], maps)
    saved = io.BytesIO()
    torch.save(maps, saved)
    saved.seek(0)
    assert torch.equal(torch.load(saved, weights_only=True), maps)
    assert type(dv.cam("layercam", network, "4")(x, 2, raw=True)) is torch.Tensor
    figure = dv.draw_maps(maps)  # a row for each image: the picture, and each layer's map over it
    texts = [text.get_text() for text in figure.texts]
    assert {"1", "4", "class 2 (c)", "class 7 (h)"} <= {*texts} and len(figure.axes) == 2 * 3 + 1


def test_a_projection_keeps_the_picture_that_it_is_of(network: dv.Network) -> None:
    x = torch.rand(2, 3, 32, 32)
    projection = dv.project_units(network, x, [(1, "4", 2, (3, 3))])[0]
    assert projection.picture is not None
    expected = 255 * (x[1] - x[1].min()) / (x[1].max() - x[1].min())
    assert np.abs(projection.picture - expected.permute(1, 2, 0).numpy()).max() <= 0.51
    assert "picture" not in repr(projection)


def test_a_history_is_drawn_as_recorded() -> None:
    class Phases:
        history = ({"phase": "a", "epoch": 1, "loss": 3.0, "right": 0.5}, {"phase": "b", "epoch": 1, "loss": 2.0})

    value, share = dv.draw_history(Phases()).axes
    assert value.lines[0].get_xydata().tolist() == [[1, 3], [2, 2]] and value.get_ylabel() == "value"
    assert share.lines[0].get_xydata().tolist() == [[1, 0.5]] and share.get_ylabel() == "share of images"


def test_bars_in_a_notebook_leave_nothing_and_on_a_terminal_stay() -> None:
    code = """
import sys, types
class Shell:
    config = {"IPKernelApp": {}} if len(sys.argv) > 1 else {}
if len(sys.argv) > 1:
    sys.modules["IPython"] = types.SimpleNamespace(get_ipython=Shell)
from deconvviz.progress import progress_bar
bar = progress_bar(total=2, unit="image", desc="mining")
bar.update(2)
print(type(bar).__module__, bar.leave)
bar.close()
"""
    run = [sys.executable, "-W", "error", "-c", code]
    terminal = subprocess.run(run, capture_output=True, text=True, check=True)
    assert terminal.stdout.split()[-1] == "True" and "mining: 100%" in terminal.stderr.splitlines()[-1]
    inside = subprocess.run([*run, "notebook"], capture_output=True, text=True, check=True)
    assert inside.stdout.split()[-1] == "False" and not inside.stderr.splitlines()[-1].strip()
