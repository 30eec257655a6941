"""Ensembles against numpy: errors of the mean of probabilities, paired intervals, and maps laid over the image."""

from __future__ import annotations

import csv
import pathlib
import signal
import subprocess
import sys
import textwrap
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from in_memory import ReadImages, noise
from torch import nn

import deconvviz as dv
from deconvviz.cli.main import cli, main
from deconvviz.errors import DataError, MismatchError
from deconvviz.results.columns import TABLES
from deconvviz.studies.ensembles import passes
from deconvviz.studies.ensembles.cams import ensemble_maps, mean_map, on_image
from deconvviz.studies.ensembles.measure import ensemble, rank_of
from deconvviz.studies.ensembles.members_command import member_of
from deconvviz.studies.ensembles.result import Ensemble

CLASSES, OUTPUTS = 7, [4, 0, 5, 2]  # which output stands for a class of the images: not the order, and not all
SMALL = dv.Preprocess(resize=12, crop=12, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
LARGE = dv.Preprocess(resize=(20, 16), crop=(18, 16), mean=(0.5,) * 3, std=(0.3,) * 3, fit="stretch")


def images(count: int = 29) -> ReadImages:
    """Images of noise of four classes; some are of no known class."""
    labels = np.random.default_rng(2).integers(0, 4, count)
    labels[[3, 11]] = -1
    return ReadImages(noise(count, 16, 14, seed=5), labels, ("a", "b", "c", "d"))


def member(name: str, seed: int, preprocess: dv.Preprocess, scale: float = 1.0) -> passes.Member:
    """A network of seeded weights, in float64, whose scores are scaled; each class is decided for now and then."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, CLASSES)
    ).double()
    with torch.no_grad():
        x = torch.stack([preprocess(picture) for picture in noise(40, 16, 14, seed=6)]).double()
        model[4].bias.sub_(model(x).mean(0))
        model[4].weight.div_(model(x).std() / scale)
        model[4].bias.sub_(model(x).mean(0))
    return passes.Member(name, dv.capture(model.eval(), preprocess.shape), preprocess)


MEMBERS = [member("small", 0, SMALL), member("large", 1, LARGE, 5.0), member("other", 2, SMALL, 0.3)]


def replica(members: list[passes.Member], data: ReadImages) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [R, n, classes] of each network and of the means of the first ones, and the true outputs [n]."""
    known = [n for n in range(len(data)) if data.labels[n] >= 0]
    alone = []
    for each in members:
        x = torch.stack([each.preprocess(data.pictures[n]) for n in known]).double()
        z = each.network(x).numpy()
        e = np.exp(z - z.max(1, keepdims=True))
        alone.append(e / e.sum(1, keepdims=True))
    together = [np.mean(alone[:count], 0) for count in range(2, len(alone) + 1)]
    return np.stack([*alone, *together]), np.array([OUTPUTS[data.labels[n]] for n in known])


def test_errors_and_intervals_against_numpy() -> None:
    data = images()
    result = ensemble(MEMBERS, data, outputs=OUTPUTS, batch_size=4, progress=False)
    p, targets = replica(MEMBERS, data)
    own = p[:, np.arange(len(targets)), targets]
    first = p.argmax(2) == targets
    among = np.array([[t in np.argsort(-row, kind="stable")[:5] for row, t in zip(r, targets, strict=True)] for r in p])
    assert result.names == ("small", "large", "other", "the first 2", "all 3") and result.complete
    np.testing.assert_allclose(result.probabilities, own, rtol=1e-9)
    np.testing.assert_allclose(result.error(), 1 - first.mean(1), rtol=1e-12)
    np.testing.assert_allclose(result.error(5), 1 - among.mean(1), rtol=1e-12)
    np.testing.assert_allclose(result.log_loss, -np.log(own).mean(1), rtol=1e-9)
    n = len(targets)
    for row in range(4):
        lost, gained = (first[-1] & ~first[row]).sum() + 1, (~first[-1] & first[row]).sum() + 1
        centre = (lost - gained) / (n + 2)
        half = 1.959964 * np.sqrt(((lost + gained) / (n + 2) - centre**2) / (n + 2))
        assert result.gain()[row] == pytest.approx([(lost - gained) / n, centre - half, centre + half])
    assert result.gain()[-1].tolist() == [0, 0, 0] and result.best == int(np.argmin(result.error()[:3]))


def test_it_is_the_mean_of_probabilities_and_not_of_scores() -> None:
    """Scores of another scale would decide by themselves."""
    data = images()
    result = ensemble(MEMBERS, data, outputs=OUTPUTS, progress=False)
    known = [n for n in range(len(data)) if data.labels[n] >= 0]
    scores = sum(
        each.network(torch.stack([each.preprocess(data.pictures[n]) for n in known]).double()).numpy()
        for each in MEMBERS
    )
    p, targets = replica(MEMBERS, data)
    assert result.error()[-1] == pytest.approx((p[-1].argmax(1) != targets).mean())
    assert not np.array_equal(p[-1].argmax(1), np.asarray(scores).argmax(1))  # the two differ on these images


def test_one_network_is_itself_also_twice() -> None:
    data = images()
    alone = ensemble(MEMBERS[:1], data, outputs=OUTPUTS, progress=False)
    assert alone.names == ("small",) and alone.ranks.shape[0] == 1
    twice = ensemble([MEMBERS[0], MEMBERS[0]._replace(name="again")], data, outputs=OUTPUTS, progress=False)
    for row in twice.ranks:
        np.testing.assert_array_equal(row, alone.ranks[0])
    np.testing.assert_allclose(twice.probabilities[2], alone.probabilities[0], rtol=1e-14)
    assert "against" not in repr(alone) and "all against small" in repr(twice)


def test_ranks_of_equal_ones_by_hand() -> None:
    ranks, own = rank_of(torch.tensor([[0.1, 0.4, 0.4, 0.1], [0.1, 0.4, 0.4, 0.1]]), torch.tensor([2, 3]))
    assert ranks.tolist() == [1, 3] and own.tolist() == pytest.approx([0.4, 0.1])


def test_a_diverged_network_is_never_right() -> None:
    data, diverged = images(), member("diverged", 3, SMALL)
    next(iter(diverged.network.tensors.values())).fill_(float("nan"))
    result = ensemble([MEMBERS[0], diverged], data, outputs=OUTPUTS, progress=False)
    assert result.error()[1:].tolist() == [1.0, 1.0] and result.error()[0] < 1
    assert not np.isfinite(result.log_loss[1:]).any()


def test_five_classes_have_no_second_error(tmp_path: pathlib.Path) -> None:
    config = {"networks": [{"name": "a"}], "outputs": 5}
    few = Ensemble.empty(config, {}, 3).with_images(np.array([[0, 3, 4]]), np.full((1, 3), 0.2))
    assert few.top is None and "top-5" not in repr(few)
    few.save_csv(tmp_path / "t.csv")
    with (tmp_path / "t.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert [*row] == [column.name for column in TABLES["ensemble"].columns]
    assert row["error_top5"] == "" and float(row["error"]) == pytest.approx(2 / 3)


def test_any_batch_size_and_resuming_give_the_same(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, out = images(), tmp_path / "e.h5"
    whole = ensemble(MEMBERS, data, outputs=OUTPUTS, batch_size=29, progress=False)
    monkeypatch.setattr(passes, "COMMIT", 0.0)
    saves: list[int] = []
    save = Ensemble.save

    def until(self: Ensemble, path: Any) -> None:
        save(self, path)
        saves.append(self.images)
        if len(saves) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Ensemble, "save", until)
    with pytest.raises(KeyboardInterrupt):
        ensemble(MEMBERS, data, outputs=OUTPUTS, out=out, batch_size=5, progress=False)
    monkeypatch.setattr(Ensemble, "save", save)
    assert saves == [0, 5, 10] and Ensemble.load(out).images == 10
    resumed = ensemble(MEMBERS, data, outputs=OUTPUTS, out=out, batch_size=7, progress=False)
    np.testing.assert_array_equal(resumed.ranks, whole.ranks)
    np.testing.assert_allclose(resumed.probabilities, whole.probabilities, rtol=1e-12)
    before = out.read_bytes()
    again = ensemble(MEMBERS, data, outputs=OUTPUTS, out=out, progress=False)
    assert out.read_bytes() == before and repr(again) == repr(Ensemble.load(out))
    for changed in (MEMBERS[:2], [MEMBERS[1], MEMBERS[0], MEMBERS[2]]):
        with pytest.raises(MismatchError, match="networks"):
            ensemble(changed, data, outputs=OUTPUTS, out=out, progress=False)
    with pytest.raises(MismatchError):
        ensemble(MEMBERS, data, outputs=OUTPUTS, out=out, limit=9, progress=False)
    assert out.read_bytes() == before


@pytest.mark.kill
def test_killed_and_resumed_it_ends_the_same(tmp_path: pathlib.Path) -> None:
    """The process that is killed is one of its own; what resumes it, and what never was killed, are this one."""
    code = textwrap.dedent(
        """
        import os, signal, sys
        import deconvviz as dv
        from deconvviz.studies.ensembles import passes
        from deconvviz.studies.ensembles.result import Ensemble
        passes.COMMIT, save = 0.0, Ensemble.save
        def killing(self, path):
            save(self, path)
            if self.images >= 8 and not self.complete:
                os.kill(os.getpid(), signal.SIGKILL)
        Ensemble.save = killing
        loaded = dv.load_model("demo")
        preprocess = dv.Preprocess.from_dict(loaded.settings)
        demo = dv.capture(loaded.model, preprocess.shape)
        members = [("a", demo, preprocess), ("b", demo, preprocess)]
        dv.ensemble(members, dv.Scenes(20), outputs=range(10), out=sys.argv[1], batch_size=4, progress=False)
        """
    )
    (tmp_path / "job.py").write_text(code)
    out = tmp_path / "killed.h5"
    assert subprocess.run([sys.executable, tmp_path / "job.py", out]).returncode == -signal.SIGKILL
    assert 8 <= Ensemble.load(out).images < 20
    loaded = dv.load_model("demo")
    preprocess = dv.Preprocess.from_dict(loaded.settings)
    demo = dv.capture(loaded.model, preprocess.shape)
    members = [passes.Member(name, demo, preprocess) for name in ("a", "b")]
    killed, straight = (
        ensemble(members, dv.Scenes(20), outputs=range(10), out=path, batch_size=4, progress=False)
        for path in (out, tmp_path / "whole.h5")
    )
    np.testing.assert_array_equal(killed.ranks, straight.ranks)
    np.testing.assert_array_equal(killed.probabilities, straight.probabilities)


def test_what_is_refused() -> None:
    data = images()
    torch.manual_seed(0)
    ten = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 10)).double().eval()
    other = passes.Member("ten", dv.capture(ten, SMALL.shape), SMALL)
    for members, outputs, said in (
        ([], OUTPUTS, "no network given"),
        ([MEMBERS[0], MEMBERS[0]], OUTPUTS, "two networks are called 'small'"),
        ([MEMBERS[0], other], OUTPUTS, "small tells 7 classes apart and ten 10 classes"),
        (MEMBERS, [4, 0, 7, 2], "outputs 0 to 7 given; the networks have 7"),
        (MEMBERS, OUTPUTS[:3], "outputs for 3 classes given; the images have 4"),
    ):
        with pytest.raises(DataError, match=said):
            ensemble(members, data, outputs=outputs, progress=False)
    unknown = ReadImages(data.pictures, [-1] * len(data), ("a",))
    with pytest.raises(DataError, match="no image of known class"):
        ensemble(MEMBERS, unknown, outputs=[0], progress=False)


# --- maps ------------------------------------------------------------------------------------------------------------


def test_maps_are_laid_over_the_image_where_the_network_sees_it() -> None:
    """Of 20 x 40 pixels, a network sees the central square of 20; doubled, and with a border that it does not have."""
    half = dv.Preprocess(resize=10, crop=10)
    map_ = np.arange(100.0).reshape(10, 10)
    placed = on_image(map_, half, (20, 40), (20, 40))
    assert np.isnan(placed[:, :10]).all() and np.isnan(placed[:, 30:]).all()
    inside = placed[:, 10:30]
    assert not np.isnan(inside).any() and inside[9, 9:11].mean() == pytest.approx(map_[4, 4:6].mean() + 2.5)
    larger = dv.Preprocess(resize=None, crop=6)  # larger than the image: it is padded, and only the middle is image
    np.testing.assert_array_equal(on_image(np.arange(36.0).reshape(6, 6), larger, (4, 4), (4, 4))[0], [7, 8, 9, 10])
    assert mean_map([np.array([1.0, np.nan]), np.array([0.5, np.nan])]).tolist() == [0.75, 0]


def test_the_mean_map_is_that_of_the_members(monkeypatch: pytest.MonkeyPatch) -> None:
    """All explain the class that the mean of the probabilities decides for; each at its own size."""
    from deconvviz.studies.ensembles import cams

    monkeypatch.setattr(cams, "SIDE", 14)
    data, chosen = images(), [0, 5]
    result = ensemble_maps(MEMBERS, data, chosen, names=list("abcdefg"))
    assert result.columns == ("small", "large", "other", "mean") and len(result.maps) == 2
    for place, index in enumerate(chosen):
        target = int(
            sum(m.network.probabilities(m.preprocess(data.pictures[index])[None].double()) for m in MEMBERS).argmax()
        )
        assert result.labels[place].startswith("abcdefg"[target])
        placed = []
        for row, each in enumerate(MEMBERS):
            x = each.preprocess(data.pictures[index])[None].double()
            own = dv.cam("grad-cam", each.network)(x, target=target)[0].double().numpy()
            placed.append(on_image(own, each.preprocess, (16, 14), (16, 14)))
            np.testing.assert_allclose(result.maps[place][row], np.nan_to_num(placed[-1]))
        count = np.maximum((~np.isnan(placed)).sum(0), 1)
        expected = np.nan_to_num(placed).sum(0) / count
        np.testing.assert_allclose(result.maps[place][3], expected)
    assert len(dv.draw_ensemble_maps(result).axes) == 2 * 5 + 1
    with pytest.raises(DataError, match="0 images given"):
        ensemble_maps(MEMBERS, data, [])


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_writes_table_and_figures(tmp_path: pathlib.Path) -> None:
    arguments = f"ensemble demo zfnet:{tmp_path}/w.pth scenes:12:3 -o {tmp_path}/e.csv --quiet --show 1".split()
    loaded = dv.load_model("demo")
    from deconvviz.models.load import DEMO

    (tmp_path / "w.pth").write_bytes(DEMO.read_bytes())
    assert loaded.classes
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    with (tmp_path / "e.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["networks"] for row in rows] == ["ZFNet", "ZFNet w", "all 2"]
    assert [row["count"] for row in rows] == ["1", "1", "2"] and {row["gain"] for row in rows} == {"0"}
    made = Ensemble.load(tmp_path / "e.h5")
    assert made.images == 12 and made.sources["networks"][1]["weights"] == str(tmp_path / "w.pth")
    assert {path.name for path in tmp_path.iterdir()} >= {"e.png", "e.maps.png"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("demo: scenes:5 -o {out}/t.csv", "'demo:' given; expected MODEL or MODEL:WEIGHTS"),
        ("demo scenes:5 -o {out}/t.png", "expected a name that ends in .csv"),
        ("demo nothing.h5 -o {out}/t.csv", "nothing.h5"),
        ("demo demo:{out}/none.pth scenes:5 -o {out}/t.csv", "none.pth"),
        ("demo zfnet scenes:5 -o {out}/t.csv", "zfnet has no published weights"),
    ],
)
def test_a_wrong_command_is_refused_in_one_line(
    arguments: str,
    said: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["deconvviz", "ensemble", "--quiet", *arguments.format(out=tmp_path).split()])
    with pytest.raises(SystemExit) as ended:
        main()
    told = [line for line in capsys.readouterr().err.strip().splitlines() if not line.startswith("images: ")]
    assert ended.value.code == 2 and len(told) == 1 and said in told[0], told
    assert not any(tmp_path.iterdir())


def test_models_and_weights_are_told_apart() -> None:
    assert member_of("hf:folder/x") == ("hf:folder/x", "DEFAULT")
    assert member_of("torchvision:vgg11#features:w.pth") == ("torchvision:vgg11#features", "w.pth")
    assert member_of(r"zfnet:C:\runs\a.pth") == ("zfnet", r"C:\runs\a.pth")
    assert member_of(r"C:\nets\mine.py:make:none") == (r"C:\nets\mine.py:make", "none")
