"""Evolution against a brute-force reckoning: the model itself on every image, a full sort, autograd's projections."""

from __future__ import annotations

import csv
import pathlib
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from oracle import layer_value, project_by_autograd
from PIL import Image
from seals import unsealed
from torch import nn

import deconvviz as dv
from deconvviz.cli.main import cli
from deconvviz.data.pack import pack
from deconvviz.deconv.choice import RuleChoice
from deconvviz.errors import DataError, DeconvvizError, MismatchError
from deconvviz.models.zfnet import zfnet
from deconvviz.results.snapshots import Snapshots
from deconvviz.studies.evolution import evolve as evolution
from deconvviz.studies.evolution.evolve import TILES, evolve
from deconvviz.studies.evolution.result import Evolution, LayerEvolution
from deconvviz.studies.mining import cache
from deconvviz.studies.mining.cache import ProjectionCache
from deconvviz.studies.training.recorder import SnapshotRecorder

PRE = dv.Preprocess(resize=32, crop=32, mean=(0.5,) * 3, std=(1 / 255,) * 3)
EPOCHS, IMAGES, K = (1, 3, 4), 30, 4


def network() -> nn.Module:
    torch.manual_seed(0)
    return zfnet(3, 32, width=0.08, fc=(200, 200)).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A store of 30 pictures, and a file with three snapshots of a network that drifts to its last weights."""
    root, rng = tmp_path_factory.mktemp("evolution"), np.random.default_rng(0)
    (root / "photos").mkdir()
    for n in range(IMAGES):
        coarse = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((32, 32), Image.Resampling.BICUBIC).save(root / "photos" / f"{n:02d}.png")
    pack(root / "photos", root / "s.h5", progress=False)
    model = network()
    config = {"model": "zfnet", "arguments": model.arguments, "preprocess": PRE.as_dict()}
    recorder = SnapshotRecorder(root / "e.h5", EPOCHS, config=config)
    for epoch in range(1, 5):
        recorder(epoch, model, accuracy=epoch / 5, validation_accuracy=epoch / 6)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p) * p.std() * (0.8 if epoch < 3 else 0.2))
    return root


def brute(folder: pathlib.Path, layer: str) -> dict[str, Any]:
    """What evolution must find, the slow way, with every image in one batch and no code of the package's graph."""
    store, snapshots, model = dv.ImageStore.open(folder / "s.h5"), Snapshots(folder / "e.h5"), network()
    x = torch.stack([PRE(store[i][0]) for i in range(IMAGES)])
    values, tops, places = {}, {}, {}
    for epoch in EPOCHS:
        model.load_state_dict({name: torch.from_numpy(array) for name, array in snapshots.weights(epoch).items()})
        maps = torch.cat([layer_value(model, image[None], layer) for image in x])
        best = maps.flatten(2).max(2).values  # [N, C]
        tops[epoch] = best.argsort(0, descending=True)[:K].T.numpy()  # [C, K]
        values[epoch] = best.max(0).values.numpy()
        places[epoch] = [divmod(int(maps[i, c].argmax()), maps.shape[3]) for c, i in enumerate(tops[epoch][:, 0])]
    live = [c for c in range(len(values[4])) if values[4][c] > 0]
    overlap = [np.mean([len(set(tops[e][c]) & set(tops[4][c])) / K for c in live]) for e in EPOCHS]
    projections = {}
    for epoch in EPOCHS:
        model.load_state_dict({name: torch.from_numpy(array) for name, array in snapshots.weights(epoch).items()})
        projections[epoch] = [
            project_by_autograd(model, x[[tops[4][c][0]]], layer, c, places[4][c], "deconvnet", "identity").double()
            for c in live
        ]
    cosine = torch.nn.functional.cosine_similarity
    alike = [
        np.mean(
            [float(cosine(a.flatten(), b.flatten(), 0)) for a, b in zip(projections[e], projections[4], strict=True)]
        )
        for e in EPOCHS
    ]
    return {"values": values, "tops": tops, "places": places, "overlap": overlap, "similarity": alike}


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["conv1", "norm1", "conv3", "conv5"])
def test_against_brute_force(folder: pathlib.Path, layer: str) -> None:
    store = dv.ImageStore.open(folder / "s.h5")
    found = evolve(Snapshots(folder / "e.h5"), network(), store, [layer], 5, k=K, rule="deconvnet", progress=False)
    (ours,), expected = found.layers, brute(folder, layer)
    for n, epoch in enumerate(EPOCHS):
        channels = ours.channels
        assert np.allclose(ours.values[:, n], expected["values"][epoch][channels], rtol=1e-4, atol=1e-5)
        assert np.array_equal(ours.images[:, n], expected["tops"][epoch][channels, 0])
        assert [tuple(p) for p in ours.positions[:, n]] == [expected["places"][epoch][c] for c in channels]
    changed = ours.images[:, 1:] != ours.images[:, :-1]
    assert np.array_equal(ours.changed[:, 1:], changed) and not ours.changed[:, 0].any() and changed.any()
    assert np.allclose(ours.top_final, expected["overlap"]) and ours.top_final[-1] == 1 and ours.top_final[0] < 1
    assert np.allclose(ours.similarity, expected["similarity"], atol=1e-4) and ours.similarity[0] < 0.95


@pytest.mark.parametrize(
    "rule",
    [pytest.param("auto", marks=pytest.mark.slow), "deconvnet", pytest.param("lrp-composite", marks=pytest.mark.slow)],
)
def test_the_tiles_are_the_projections(folder: pathlib.Path, rule: str) -> None:
    store, model = dv.ImageStore.open(folder / "s.h5"), network()
    shown: dict[str, Any] = {"crop": "receptive-field", "rule": rule, "progress": False}
    found = evolve(Snapshots(folder / "e.h5"), model, store, ["conv4"], [2, 7], **shown)
    (ours,) = found.layers
    if rule == "auto":
        choice = choice_of_the_last(folder, "conv4")
        assert (ours.rule, ours.why) == (choice.rule, choice.words())
        assert found.rules() == f"Rules, chosen by the weights of epoch 4. conv4: {choice.words()}"
    else:
        assert (ours.rule, ours.why) == (rule, "") and found.rules() == f"The rule is {rule}."
    for n, epoch in enumerate(EPOCHS):
        state = {name: torch.from_numpy(array) for name, array in Snapshots(folder / "e.h5").weights(epoch).items()}
        model.load_state_dict(state)
        net = dv.capture(model, (3, 32, 32))
        for f, c in enumerate((2, 7)):
            picture = store[int(ours.images[f, n])][0]
            y, x = (int(v) for v in ours.positions[f, n])
            full = dv.project(net, PRE(picture)[None], "conv4", c, (y, x), ours.rule, bounds=PRE.bounds()).full()
            expected = (full / full.abs().max()).permute(1, 2, 0).numpy()
            assert ours.projections[f, n].shape[:2] == ours.patches[f, n].shape[:2]
            # a field that is larger than the image is shown on the whole image
            assert np.allclose(ours.projections[f, n], expected, atol=1e-3)
            assert np.array_equal(ours.patches[f, n], picture)


def choice_of_the_last(folder: pathlib.Path, layer: str) -> RuleChoice:
    """How the rule of a layer is chosen on what the last epoch's weights mine."""
    store, model = dv.ImageStore.open(folder / "s.h5"), network()
    weights = Snapshots(folder / "e.h5").weights(EPOCHS[-1])
    model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    net = dv.capture(model, (3, 32, 32))
    mined = dv.mine(net, store, [layer], preprocess=PRE, progress=False)
    choice = ProjectionCache(mined, store, net, progress=False).choice(layer)
    assert choice is not None
    return choice


@pytest.mark.slow
def test_similarity_is_by_the_same_rule(folder: pathlib.Path) -> None:
    """Of one filter, the cosine of its last unit's projections by the weights of each epoch and of the last."""
    store, snapshots = dv.ImageStore.open(folder / "s.h5"), Snapshots(folder / "e.h5")
    x = torch.stack([PRE(store[i][0]) for i in range(IMAGES)])
    (ours,) = evolve(snapshots, network(), store, ["conv2"], 1, rule="lrp-zplus", progress=False).layers
    nets = {}
    for epoch in EPOCHS:
        model = network()
        model.load_state_dict({name: torch.from_numpy(array) for name, array in snapshots.weights(epoch).items()})
        nets[epoch] = dv.capture(model, (3, 32, 32))
    maps = nets[4].maps("conv2", nets[4].activations(x, ["conv2"])["conv2"]).detach()
    channels = [c for c in range(maps.shape[1]) if float(maps[:, c].max()) > 0]
    assert len(channels) <= 32
    cosines: dict[int, list[float]] = {epoch: [] for epoch in EPOCHS}
    for c in channels:
        image, place = divmod(int(maps[:, c].argmax()), maps.shape[2] * maps.shape[3])
        unit = "conv2", c, divmod(place, maps.shape[3]), "lrp-zplus"
        signals = {e: dv.project(nets[e], x[image : image + 1], *unit, bounds=PRE.bounds()).full() for e in EPOCHS}
        for epoch in EPOCHS:
            one, last = signals[epoch].double().flatten(), signals[4].double().flatten()
            cosines[epoch].append(float(torch.nn.functional.cosine_similarity(one, last, 0)))
    assert np.allclose(ours.similarity, [np.mean(cosines[epoch]) for epoch in EPOCHS], atol=1e-4)
    assert ours.similarity[0] < 0.95


@pytest.mark.slow
def test_a_network_that_never_changes_is_settled_at_once(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    model, recorder = network(), SnapshotRecorder(tmp_path / "e.h5", (0, 1, 2))
    for epoch in range(3):
        recorder(epoch, model)
    store = dv.ImageStore.open(folder / "s.h5")
    found = evolve(Snapshots(tmp_path / "e.h5"), network(), store, ["conv2"], preprocess=PRE, progress=False)
    (layer,) = found.layers
    assert (layer.top_final == 1).all() and np.allclose(layer.similarity, 1) and not layer.changed.any()
    assert found.settled(layer) == (0, 0) and "final from epoch 0" in repr(found)


def test_the_names_of_many_layers_stand_below_the_curves(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    store = dv.ImageStore.open(folder / "s.h5")
    found = evolve(Snapshots(folder / "e.h5"), network(), store, ["conv2"], 1, rule="guided", progress=False)
    few, many = (
        replace(found, layers=tuple(replace(found.layers[0], layer=f"layer {n}") for n in range(c))) for c in (6, 13)
    )
    within = [axes.get_legend() for axes in dv.draw_evolution(few).axes if axes.get_legend()]
    assert [len(legend.get_texts()) for legend in within[:2]] == [6, 6]
    *others, below = dv.draw_evolution(many).axes
    assert [text.get_text() for text in below.get_legend().get_texts()] == [f"layer {n}" for n in range(13)]
    assert not below.axison and all(len(a.get_legend().get_texts()) < 13 for a in others if a.get_legend())


def test_settled_is_the_start_of_the_last_run(folder: pathlib.Path) -> None:
    """A curve that falls below the share again has not settled before that."""
    arrays: dict[str, Any] = {name: np.zeros((0, 4)) for name in TILES}
    curves = {"top_final": np.array([0.3, 0.6, 0.4, 1.0]), "similarity": np.array([0.6, 0.7, 0.8, 1])}
    layer = LayerEvolution(layer="a", rule="guided", why="", channels=np.zeros(0, np.int64), **arrays, **curves)
    whole = Evolution(layers=(layer,), epochs=(1, 2, 5, 10), history=(), names=(), count=3, k=9)
    assert whole.settled(layer) == (10, 1)
    never = replace(layer, top_final=np.full(4, np.nan), similarity=np.zeros(4))  # dead, and projections of zero
    assert whole.settled(never) == (None, None)
    assert "final from epoch none, projections from none" in repr(replace(whole, layers=(never,)))


@pytest.mark.parametrize("crop", ["need", 9])
def test_a_layer_that_died_is_refused(tmp_path: pathlib.Path, crop: str | int) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU()).eval()
    recorder = SnapshotRecorder(tmp_path / "s.h5", (1, 2))
    recorder(1, model)
    with torch.no_grad():
        model[0].bias.fill_(-1e3)
    recorder(2, model)
    with pytest.raises(DataError, match="every filter of '1' is dead"):
        evolve(Snapshots(tmp_path / "s.h5"), model, dv.Scenes(6), ["1"], 3, preprocess=PRE, crop=crop, progress=False)


Command = Callable[..., str]


def command(*arguments: object) -> str:
    result = CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
def test_the_command(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "figure.png"
    asked = ["evolve", folder / "e.h5", folder / "s.h5", "-l", "conv1", "-l", "conv5", "--filters", 2, "--quiet"]
    text = command(*asked, "-o", out, "-k", K)
    assert "conv5: half of its top 4 final from epoch" in text
    with Image.open(out) as figure:
        assert figure.width > 1000 and "deconvviz evolve" not in figure.text["Software"]
        assert "weights after each epoch" in figure.text["Description"]
        words = [f"{layer}: {choice_of_the_last(folder, layer).words()}" for layer in ("conv1", "conv5")]
        assert f"Rules, chosen by the weights of epoch 4. {' '.join(words)}" in figure.text["Description"]
    with (tmp_path / "figure.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 3 and {row["epoch"] for row in rows} == {"1", "3", "4"}
    assert rows[0].keys() >= {"layer", "channel", "activation", "image", "y", "x", "image_changed"}
    with (tmp_path / "figure.layers.csv").open() as file:
        curves = list(csv.DictReader(file))
    assert [row["epoch"] for row in curves] == ["1", "3", "4"] * 2 and curves[2]["top4_already_final"] == "1"
    assert [row["rule"] for row in curves[::3]] == [choice_of_the_last(folder, n).rule for n in ("conv1", "conv5")]
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(DataError, match="--force"):
        command(*asked, "-o", out)
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}
    command(*asked, "-o", out, "--force", "--epochs", "1,4", "-k", K, "--rule", "deconvnet")
    with Image.open(out) as figure:
        assert "The rule is deconvnet." in figure.text["Description"]
    assert (tmp_path / "figure.layers.csv").read_text().splitlines()[1].endswith(",deconvnet")
    assert len((tmp_path / "figure.csv").read_text().splitlines()) == 1 + 2 * 2 * 2


@pytest.mark.slow
def test_work_is_continued(folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted after the second epoch, the same call mines the third only and finds the same."""
    store, snapshots = dv.ImageStore.open(folder / "s.h5"), Snapshots(folder / "e.h5")

    def run(work: pathlib.Path | None) -> Any:
        return evolve(snapshots, network(), store, ["conv3"], 3, work=work, progress=False)

    straight, mined, original = run(None), list[Any](), evolution.mine  # type: ignore[attr-defined]

    def counted(net: Any, *arguments: Any, **options: Any) -> Any:
        if len(mined) == 2:
            raise KeyboardInterrupt
        mined.append(net)
        return original(net, *arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(evolution, "mine", counted)
        run(tmp_path / "work")
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").iterdir()}
    assert len(files) == 2
    (again,), (once,) = run(tmp_path / "work").layers, straight.layers
    assert np.array_equal(again.values, once.values) and np.array_equal(again.projections, once.projections)
    assert len(list((tmp_path / "work").iterdir())) == 3
    assert all(path.stat().st_mtime_ns == time for path, time in files.items())  # used, not made again
    with monkeypatch.context() as patch:  # how the rule was chosen is in the last epoch's file
        patch.setattr(cache, "measured_rules", lambda *_, **__: pytest.fail("the rules were measured again"))
        assert run(tmp_path / "work").layers[0].why == once.why != ""
    run_other = evolve(snapshots, network(), store, ["conv1"], 3, work=tmp_path / "work", progress=False)
    assert run_other.layers[0].layer == "conv1" and len(list((tmp_path / "work").iterdir())) == 6


@pytest.mark.parametrize("how", ["missing", "truncated", "foreign", "not asked for", "no layer", "no model", "dead"])
def test_what_evolve_refuses(folder: pathlib.Path, tmp_path: pathlib.Path, how: str) -> None:
    snapshots, out = tmp_path / "e.h5", tmp_path / "figure.png"
    snapshots.write_bytes((folder / "e.h5").read_bytes())
    arguments: list[Any] = ["evolve", snapshots, folder / "s.h5", "-l", "conv3", "-o", out, "--quiet", "--force"]
    complaint, kind = _break(snapshots, arguments, how)
    out.write_bytes(b"an earlier figure")
    out.with_suffix(".csv").write_bytes(b"an earlier table")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(kind, match=complaint) as error:
        command(*arguments)
    assert "\n" not in str(error.value)
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}


def _break(snapshots: pathlib.Path, arguments: list[Any], how: str) -> tuple[str, type[Exception]]:
    if how == "truncated":
        snapshots.write_bytes(snapshots.read_bytes()[:-40_000])
        return "damaged or was changed", DataError
    if how == "not asked for":
        arguments += ["--epochs", "1,2"]
        return re.escape("epoch 2 given") + ".*epochs 1, 3, 4", DataError
    if how == "no layer":
        arguments[4] = "conv33"
        return "conv33.*nearest: conv3", DeconvvizError
    with unsealed(snapshots) as file:
        if how == "missing":
            del file["epochs/00003"]
            return "weights of epoch 3 are missing", DataError
        if how == "no model":
            file.attrs["config"] = '{"network": "Net"}'
            return "does not name its model; give --model", DeconvvizError
    name = "foreign.h5" if how == "foreign" else "dead.h5"
    recorder = SnapshotRecorder(snapshots.with_name(name), (1,), config=Snapshots(snapshots).config)
    model: nn.Module = zfnet(3, 32, width=0.1, fc=(200, 200)) if how == "foreign" else network()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0 if how == "dead" else 1)
    recorder(1, model)
    recorder.path.replace(snapshots)
    if how == "dead":
        return "every filter of 'conv3' is dead", DataError
    return "epoch 1 of .* does not fit ZFNet .*another shape, first conv1.weight", MismatchError
