"""Ensembles on images with several labels against scikit-learn: average precisions, paired draws, and the command."""

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
from in_memory import noise
from matplotlib.patches import Rectangle
from sklearn.metrics import average_precision_score
from torch import nn

import deconvviz as dv
from deconvviz.cli.main import cli, main
from deconvviz.data.memory import InMemoryImages
from deconvviz.errors import DataError, MismatchError
from deconvviz.metrics.ranking import resampled_average_precision, weighted_average_precision
from deconvviz.models.labels import outputs_of_labels
from deconvviz.results.columns import TABLES
from deconvviz.studies.ensembles import passes
from deconvviz.studies.ensembles.cams import on_image
from deconvviz.studies.ensembles.labels_figure import MOST_LABELS, caption_of_labels, drawn_labels
from deconvviz.studies.ensembles.labels_measure import label_ensemble
from deconvviz.studies.ensembles.labels_result import LabelEnsemble
from deconvviz.studies.ensembles.passes import Member

LABELS = ("bird", "cat", "dog", "none")  # no image has the last one
SMALL = dv.Preprocess(resize=12, crop=12, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
LARGE = dv.Preprocess(resize=16, crop=14, mean=(0.5,) * 3, std=(0.3,) * 3)
OUTPUTS = [[3, 0, 2, 1], [3, 0, 2, 1], [0, 1, 2, 3]]  # the third network has them at other places


class Labelled(InMemoryImages):
    """Images with several labels in memory."""

    def __init__(self, count: int = 31) -> None:
        super().__init__(noise(count, 16, 14, seed=5), classes=LABELS)
        self.targets = np.random.default_rng(7).random((count, 4)) < (0.5, 0.2, 0.4, 0)
        self.known = self.targets.any(1)


def member(name: str, seed: int, preprocess: dv.Preprocess, last: nn.Module | None = None) -> Member:
    torch.manual_seed(seed)
    body = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5)]
    model = nn.Sequential(*body, *([] if last is None else [last])).double()
    return Member(name, dv.capture(model.eval(), preprocess.shape), preprocess)


MEMBERS = [member("small", 0, SMALL), member("large", 1, LARGE), member("sigmoid", 2, SMALL, nn.Sigmoid())]


def sigmoids(data: Labelled) -> list[np.ndarray]:
    """Probabilities [n, labels] of each network, by numpy from what torch returns."""
    alone = []
    for each, own in zip(MEMBERS, OUTPUTS, strict=True):
        x = torch.stack([each.preprocess(data.pictures[n]) for n in np.flatnonzero(data.known)]).double()
        z = each.network(x).numpy()[:, own]
        alone.append(z if each.name == "sigmoid" else 1 / (1 + np.exp(-z)))
    return alone


def test_average_precision_is_that_of_scikit_learn() -> None:
    data = Labelled()
    result = label_ensemble(MEMBERS, data, outputs=OUTPUTS, batch_size=4, progress=False)
    truth, alone = data.targets[data.known], sigmoids(data)
    rows = [*alone, (alone[0] + alone[1]) / 2, sum(alone) / 3]
    expected = np.array([[average_precision_score(truth[:, k], p[:, k]) for k in range(3)] for p in rows])
    assert result.names == ("small", "large", "sigmoid", "the first 2", "all 3") and result.complete
    assert result.images == len(truth) < len(data) and result.positives.tolist() == truth.sum(0).tolist()
    np.testing.assert_allclose(result.average_precision[:, :3], expected, rtol=1e-12)
    assert np.isnan(result.average_precision[:, 3]).all()
    np.testing.assert_allclose(result.mean_average_precision, expected.mean(1), rtol=1e-12)
    assert result.best == int(expected[:3].mean(1).argmax())
    said = repr(result)
    assert "31 images" not in said and "1 label of no image: left out of the mean" in said
    assert f"all against {result.names[result.best]}, the best alone: mean average precision " in said


def test_a_case_by_hand() -> None:
    """Two labels and four images: the first label's average precisions from its definition."""
    targets = np.array([[1, 0], [0, 1], [1, 0], [0, 0]], bool)
    first, second = [[0.9, 0.7, 0.5, 0.3], [0.1, 0.3, 0.8, 0.2]], [0.1, 0.9, 0.2, 0.3]
    scores = np.stack([np.column_stack([dog, second]) for dog in first])
    config = {"networks": [{"name": n, "outputs": "independent"} for n in "ab"], "labels": ["dog", "sky"]}
    result = LabelEnsemble.empty(config, {}, targets).with_images(scores)
    # a: dogs are 1st and 3rd -> (1 + 2/3) / 2; b: 1st and last -> (1 + 2/4) / 2; together 0.5, 0.5, 0.65 and 0.25: one
    # dog is 1st, the other comes with the 2nd image -> (1 + 2/3) / 2
    expected = np.array([[5 / 6, 1.0], [3 / 4, 1.0], [5 / 6, 1.0]])
    np.testing.assert_allclose(result.average_precision, expected)
    np.testing.assert_allclose(result.mean_average_precision, np.array([11 / 12, 7 / 8, 11 / 12]))
    gains = np.array([[0.0, 0, 0], [1 / 24, 1 / 12, 0], [0, 0, 0]])
    np.testing.assert_allclose(result.gains[:, :, 0], gains, atol=1e-12)
    assert (result.gains[2] == 0).all() and (result.gains[:, 2] == 0).all()


def test_scores_that_the_sigmoid_cannot_tell_apart_are_still_ranked() -> None:
    targets, scores = np.array([[True], [False]]), np.array([[[80.0], [60.0]]])
    config = {"networks": [{"name": "a", "outputs": "softmax"}], "labels": ["dog"]}
    assert LabelEnsemble.empty(config, {}, targets).with_images(scores).average_precision.tolist() == [[1.0]]


def test_weights_count_images_as_copies_of_them_do() -> None:
    rng = np.random.default_rng(3)
    truth, scores = rng.random((25, 3)) < 0.3, rng.integers(0, 6, (25, 3)).astype(np.float64)  # with equal scores
    often = rng.integers(0, 4, (25, 8))
    found = weighted_average_precision(truth, scores, often.astype(np.float64))
    for draw in range(8):
        copies = np.repeat(np.arange(25), often[:, draw])
        for label in range(3):
            expected = average_precision_score(truth[copies, label], scores[copies, label])
            assert found[draw, label] == pytest.approx(expected, rel=1e-12)
    assert np.isnan(weighted_average_precision(truth[:, :1], scores[:, :1], np.where(truth[:, :1], 0.0, 1.0))).all()


def test_intervals_are_of_paired_draws() -> None:
    """The same draws by hand: each image as often as the generator with the seed has it, precision by scikit-learn."""
    data = Labelled()
    result = label_ensemble(MEMBERS, data, outputs=OUTPUTS, progress=False)
    truth, tables = data.targets[data.known][:, :3], [table[:, :3] for table in result.ranked_by()]
    count, draws = len(truth), 130
    rng, changes = np.random.default_rng(11), []
    for size in (100, 30):
        for often in rng.multinomial(count, np.full(count, 1 / count), size):
            copies = np.repeat(np.arange(count), often)
            with np.errstate(all="ignore"):
                precision = np.array(
                    [
                        [
                            average_precision_score(truth[copies, k], table[copies, k])
                            if truth[copies, k].any()
                            else np.nan
                            for k in range(3)
                        ]
                        for table in tables
                    ]
                )
            every = np.column_stack([np.nanmean(precision, 1), precision])
            changes.append(every[-1] - every)
    low, high = np.nanpercentile(np.array(changes), [2.5, 97.5], axis=0)
    gains = result.gain(draws, seed=11)
    np.testing.assert_allclose(gains[:, :4, 1], low, atol=1e-12)
    np.testing.assert_allclose(gains[:, :4, 2], high, atol=1e-12)
    assert np.isnan(gains[:, 4]).all() and (gains[-1, :4] == 0).all()
    np.testing.assert_array_equal(gains, result.gain(draws, seed=11))
    assert not np.array_equal(gains[:, :4], result.gain(draws, seed=12)[:, :4])
    with pytest.raises(DataError, match="0 draws given"):
        list(resampled_average_precision(truth, tables, 0))


def test_an_interval_covers_what_is_true() -> None:
    """Two rankings with the same noise: the difference over 20,000 images lies in nearly all intervals of 200."""
    rng, covered = np.random.default_rng(0), 0
    config = {"networks": [{"name": n, "outputs": "independent"} for n in "ab"], "labels": ["x"]}

    def drawn(count: int) -> LabelEnsemble:
        truth = rng.random((count, 1)) < 0.3
        signal_of = truth + rng.normal(0, 0.7, (2, count, 1))
        signal_of[1] += rng.normal(0, 1, (count, 1))
        return LabelEnsemble.empty(config, {}, truth).with_images(1 / (1 + np.exp(-signal_of)))

    many = drawn(20_000)
    expected = float(many.average_precision[2, 0] - many.average_precision[0, 0])
    for _ in range(60):
        _, low, high = drawn(200).gain(200)[0, 0]
        covered += low <= expected <= high
    assert 51 <= covered <= 60  # 57 are expected; fewer than 51 come once in 2,000 times


def test_one_network_is_itself_also_twice(tmp_path: pathlib.Path) -> None:
    data = Labelled()
    alone = label_ensemble(MEMBERS[:1], data, outputs=OUTPUTS[:1], progress=False)
    assert alone.names == ("small",) and (alone.gains == 0).all() and "against" not in repr(alone)
    both = [MEMBERS[0], MEMBERS[0]._replace(name="again")]
    twice = label_ensemble(both, data, outputs=OUTPUTS[:2], progress=False)
    for row in twice.average_precision:
        np.testing.assert_allclose(row, alone.average_precision[0])
    assert (twice.gains[:, :4] == 0).all()
    alone.save_csv(tmp_path / "t.csv")
    with (tmp_path / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [*rows[0]] == [column.name for column in TABLES["ensemble of labels"].columns]
    assert (
        [row["label"] for row in rows] == ["", *LABELS] and rows[0]["positives"] == "" and rows[4]["positives"] == "0"
    )
    assert rows[4]["average_precision"] == rows[4]["gain"] == "" and rows[0]["gain"] == "0"
    assert float(rows[2]["average_precision"]) == pytest.approx(alone.average_precision[0, 1], rel=1e-6)


def test_any_batch_size_and_resuming_give_the_same(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, out = Labelled(), tmp_path / "e.h5"
    whole = label_ensemble(MEMBERS, data, outputs=OUTPUTS, batch_size=31, progress=False)
    monkeypatch.setattr(passes, "COMMIT", 0.0)
    save, saves = LabelEnsemble.save, list[int]()

    def until(self: LabelEnsemble, path: Any) -> None:
        save(self, path)
        saves.append(self.images)
        if len(saves) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(LabelEnsemble, "save", until)
    with pytest.raises(KeyboardInterrupt):
        label_ensemble(MEMBERS, data, outputs=OUTPUTS, out=out, batch_size=5, progress=False)
    monkeypatch.setattr(LabelEnsemble, "save", save)
    assert (
        saves == [0, 5, 10] and LabelEnsemble.load(out).images == 10 and "unfinished" in repr(LabelEnsemble.load(out))
    )
    resumed = label_ensemble(MEMBERS, data, outputs=OUTPUTS, out=out, batch_size=7, progress=False)
    np.testing.assert_allclose(resumed.scores, whole.scores, rtol=1e-12)
    before = out.read_bytes()
    again = label_ensemble(MEMBERS, data, outputs=OUTPUTS, out=out, progress=False)
    assert out.read_bytes() == before and repr(again) == repr(LabelEnsemble.load(out)) == repr(resumed)
    for changed, limit in (([*OUTPUTS[:2], [0, 2, 1, 3]], None), (OUTPUTS, 9)):
        with pytest.raises(MismatchError):
            label_ensemble(MEMBERS, data, outputs=changed, out=out, progress=False, limit=limit)
    assert out.read_bytes() == before


@pytest.mark.kill
def test_killed_and_resumed_it_ends_the_same(tmp_path: pathlib.Path) -> None:
    code = textwrap.dedent(
        """
        import os, signal, sys
        import deconvviz as dv
        from deconvviz.studies.ensembles import passes
        from deconvviz.studies.ensembles.labels_result import LabelEnsemble
        def measured(out, killing):
            save = LabelEnsemble.save
            def until(self, path):
                save(self, path)
                if self.images >= 8 and not self.complete:
                    os.kill(os.getpid(), signal.SIGKILL)
            if killing:
                passes.COMMIT, LabelEnsemble.save = 0.0, until
            loaded, scenes = dv.load_model("demo"), dv.Scenes(20)
            scenes.targets = scenes.labels[:, None] == range(10)
            scenes.known = scenes.targets.any(1)
            preprocess = dv.Preprocess.from_dict(loaded.settings)
            demo = dv.capture(loaded.model, preprocess.shape)
            members, own = [("a", demo, preprocess), ("b", demo, preprocess)], [range(10)] * 2
            return dv.label_ensemble(members, scenes, outputs=own, out=out, batch_size=4, progress=False)
        if __name__ == "__main__":
            measured(sys.argv[1], len(sys.argv) > 2)
        """
    )
    (tmp_path / "job.py").write_text(code)
    out, whole = tmp_path / "killed.h5", tmp_path / "whole.h5"
    command: list[str | pathlib.Path] = [sys.executable, tmp_path / "job.py"]
    assert subprocess.run([*command, out, "kill"]).returncode == -signal.SIGKILL
    assert 8 <= LabelEnsemble.load(out).images < 20
    for path in (out, whole):
        subprocess.run([*command, path], check=True)
    killed, straight = LabelEnsemble.load(out), LabelEnsemble.load(whole)
    assert killed.complete
    np.testing.assert_array_equal(killed.scores, straight.scores)


def test_what_is_refused() -> None:
    data = Labelled()
    softmax = member("softmax", 3, SMALL, nn.Softmax(1))
    for members, outputs, said in (
        ([], [], "no network given"),
        ([MEMBERS[0], MEMBERS[0]], OUTPUTS[:2], "two networks are called 'small'"),
        (MEMBERS[:1], [[0, 1, 2, 5]], "4 outputs, 0 to 5, given for 4 labels; small has 5 outputs"),
        (MEMBERS[:1], [[0, 1]], "2 outputs, 0 to 1, given for 4 labels"),
        (MEMBERS[:2], OUTPUTS[:1], "outputs of 1 networks given; expected those of 2"),
        ([softmax], OUTPUTS[:1], "softmax returns probabilities of classes that exclude each other"),
    ):
        with pytest.raises(DataError, match=said):
            label_ensemble(members, data, outputs=outputs, progress=False)
    with pytest.raises(DataError, match="images of one class each given"):
        label_ensemble(MEMBERS[:1], InMemoryImages(data.pictures), outputs=OUTPUTS[:1], progress=False)
    data.known[:] = False
    with pytest.raises(DataError, match="no image with known labels"):
        label_ensemble(MEMBERS[:1], data, outputs=OUTPUTS[:1], progress=False)


def test_labels_and_outputs_are_matched_by_name() -> None:
    assert outputs_of_labels(["dog", "bird"], 3, ["bird", "cat", "dog"]).tolist() == [2, 0]
    assert outputs_of_labels(["dog", "bird"], 2).tolist() == [0, 1]  # nothing is known: in their order
    assert outputs_of_labels(["dog"], 1, ("dog", "not dog")).tolist() == [0]
    assert outputs_of_labels(["dog"], 1, ("yes", "no")).tolist() == [0]
    for labels, outputs, names, said in (
        (["dog", "owl"], 2, ["dog", "cat"], "no output for the label 'owl' of the images: the network knows 2 classes"),
        (["a", "b"], 1, (), "one output given for 2 labels"),
        (["dog"], 1, ("cat", "not cat"), "no output for the label 'dog'"),
        (["dog"], 2, ("dog", "dog"), "is the name of the outputs 0 and 1"),
    ):
        with pytest.raises(DataError, match=said):
            outputs_of_labels(labels, outputs, names)


def test_the_figure_has_a_row_for_each_label(tmp_path: pathlib.Path) -> None:
    data = Labelled()
    for count in (1, 3):
        result = label_ensemble(MEMBERS[:count], data, outputs=OUTPUTS[:count], progress=False)
        figure = dv.draw_label_ensemble(result, "title", caption_of_labels(result, "data"))
        assert len(figure.axes) == (2 if count == 1 else 4)
        lower = figure.axes[(count > 1 and 2) or 1]
        expected = [f"{label} ({having})" for label, having in zip(LABELS, result.positives, strict=True) if having]
        assert [tick.get_text() for tick in lower.get_yticklabels()] == expected
        values = [bar.get_width() for bar in lower.patches if isinstance(bar, Rectangle)]
        np.testing.assert_allclose(values, 100 * result.average_precision[-1, :3])
    many = {"networks": [{"name": "a", "outputs": "softmax"}], "labels": [str(n) for n in range(80)]}
    targets = np.arange(80)[None] < np.arange(1, 81)[:, None]
    wide = LabelEnsemble.empty(many, {}, targets).with_images(np.random.default_rng(0).normal(size=(1, 80, 80)))
    assert drawn_labels(wide) == list(range(MOST_LABELS)) and "The 60 labels of most" in caption_of_labels(wide, "x")


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A network with three labels, trained on one half of some pictures and validated on the other."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("trained")
    rng, rows = np.random.default_rng(0), []
    for number in range(60):
        picture = rng.integers(60, 190, (40, 40, 3), np.uint8)
        part = "train" if number < 36 else "test"
        for label, place in (("top", np.s_[:20, 20:]), ("left", np.s_[20:, :20])):
            if rng.random() < 0.5:
                picture[place] //= 2
                rows.append((part, f"{part}-{number}.png,{label}"))
        rows.append((part, f"{part}-{number}.png,{'even' if number % 2 else 'odd'}"))
        (folder / part).mkdir(exist_ok=True)
        Image.fromarray(picture).save(folder / part / f"{part}-{number}.png")
    for part in ("train", "test"):
        own_rows = [row for own, row in rows if own == part]
        (folder / f"{part}.csv").write_text("image,label\n" + "\n".join(own_rows) + "\n")
    (folder / "all.csv").write_text("image,label\n" + "\n".join(row for _, row in rows) + "\n")
    common = "--input 32 --width 0.05 --epochs 2 --batch-size 12 --radius 0 --device cpu --quiet --workers 1 --seeds 2"
    text = f"train zfnet {folder}/train --labels {folder}/all.csv --validation {folder}/test {common} -o {folder}/t.pth"
    result = CliRunner().invoke(cli, text.split(), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return folder


def run(folder: pathlib.Path, words: str) -> str:
    arguments = ["ensemble", *words.format(f=folder).split(), "--quiet", "--device", "cpu"]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_agrees_with_what_training_printed(trained: pathlib.Path, tmp_path: pathlib.Path) -> None:
    import torch as library

    history = library.load(trained / "t-seed0.pth", weights_only=True)["history"][-1]
    dv.pack(trained / "test", tmp_path / "test.h5", labels=trained / "test.csv", progress=False)
    for number, data in enumerate((f"{trained}/test --labels {trained}/all.csv", f"{tmp_path}/test.h5")):
        said = run(trained, f"zfnet:{{f}}/t-seed0.pth {data} -o {tmp_path}/{number}.csv --show 0")
        assert f"mean average precision {history['validation_map']:.1%}" in said
        with (tmp_path / f"{number}.csv").open() as file:
            rows = {row["label"]: row for row in csv.DictReader(file)}
        assert float(rows[""]["average_precision"]) == pytest.approx(history["validation_map"], abs=1e-6)
        for label in ("even", "left", "odd", "top"):
            expected = history[f"average_precision_{label}"]
            assert float(rows[label]["average_precision"]) == pytest.approx(expected, abs=1e-6)
        made = LabelEnsemble.load(tmp_path / f"{number}.h5")
        assert made.images == 24 and made.labels == ("even", "left", "odd", "top")


def test_the_command_with_two_networks_draws_figure_and_maps(trained: pathlib.Path, tmp_path: pathlib.Path) -> None:
    words = f"zfnet:{{f}}/t-seed0.pth zfnet:{{f}}/t-seed1.pth {{f}}/test --labels {{f}}/all.csv -o {tmp_path}/e.csv"
    said = run(trained, f"{words} --show 2 --limit 20")
    assert "36 images of" in said and "are not among these: left out" in said
    assert "ZFNet t-seed0: mean average precision" in said and "all against" in said
    assert {path.name for path in tmp_path.iterdir()} == {"e.csv", "e.h5", "e.png", "e.maps.png"}
    before = (tmp_path / "e.h5").read_bytes()
    run(trained, f"{words} --show 0 --limit 20")
    assert (tmp_path / "e.h5").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("zfnet:{f}/t-seed0.pth {f}/test --labels {f}/none.csv", "cannot read the labels in"),
        ("zfnet:{f}/t-seed0.pth {f}/test --labels {f}/train.csv", "has no row of any of these 24 images"),
        ("zfnet:{f}/t-seed0.pth {f}/test --labels {o}/more.csv", "ZFNet: no output for the label 'owl' of the images"),
        ("zfnet:{f}/t-seed0.pth demo {f}/test --labels {f}/test.csv", "no output for the label 'even' of the images"),
        ("zfnet:{f}/t-seed0.pth {o}/store.h5 --labels {o}/more.csv", "holds labels of its own, and "),
    ],
)
def test_a_wrong_command_is_refused_in_one_line(
    words: str,
    said: str,
    trained: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "more.csv").write_text((trained / "test.csv").read_text() + "test-40.png,owl\n")
    dv.pack(trained / "test", tmp_path / "store.h5", labels=trained / "test.csv", progress=False)
    before = sorted(tmp_path.iterdir())
    text = words.format(f=trained, o=tmp_path)
    monkeypatch.setattr(sys, "argv", ["deconvviz", "ensemble", "--quiet", *text.split(), "-o", f"{tmp_path}/t.csv"])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr().err.strip().splitlines()
    told = [line for line in told if not line.startswith("images: ") and not line.endswith("left out")]
    assert ended.value.code == 2 and len(told) == 1 and said in told[0], told
    assert sorted(tmp_path.iterdir()) == before


def test_maps_explain_the_label_that_all_give_the_highest_probability() -> None:
    """Each network's own output for that label, which is another one of the third network."""
    data = Labelled()
    maps = dv.ensemble_maps(MEMBERS, data, [0, 4], names=LABELS, outputs=OUTPUTS)
    for place, index in enumerate((0, 4)):
        every = []
        for each, own in zip(MEMBERS, OUTPUTS, strict=True):
            z = each.network(each.preprocess(data.pictures[index])[None].double())[0].numpy()[own]
            every.append(z if each.name == "sigmoid" else 1 / (1 + np.exp(-z)))
        mean = np.mean(every, 0)
        label = int(mean.argmax())
        assert maps.labels[place] == f"{LABELS[label]} {mean[label]:.0%}"
        sigmoid, output = MEMBERS[2], OUTPUTS[2][label]
        x = sigmoid.preprocess(data.pictures[index])[None].double()
        expected = dv.cam("grad-cam", sigmoid.network)(x, target=output)[0].double().numpy()
        height, width = maps.pictures[place].shape[:2]
        placed = on_image(expected, sigmoid.preprocess, (16, 14), (height, width))
        np.testing.assert_allclose(maps.maps[place][2], np.nan_to_num(placed))
