"""What a check is given: its registry entry, its limits, and a Subject whose responses equal their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diagnosed import SIDE, about, net, noise_images, weights
from numpy.typing import NDArray
from torch import nn

import deconvviz as dv
from deconvviz.data.memory import InMemoryImages
from deconvviz.data.pictures import signed_picture
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import CaptureError, DataError, LayerNotFound, ModelError
from deconvviz.studies.diagnosis.checks import CHECKS
from deconvviz.studies.diagnosis.finding import CheckRun, Need, graded
from deconvviz.studies.diagnosis.options import DiagnosisOptions
from deconvviz.studies.diagnosis.registry import CheckEntry
from deconvviz.studies.diagnosis.subject import Subject


def test_checks_are_registered_with_what_they_measure() -> None:
    mine = {"dead", "dominating", "duplicates", "flipped", "frequency", "noise", "saturated", "class-blind", "rank"}
    assert mine <= set(CHECKS)
    for name in mine:
        entry = CHECKS[name]
        assert entry.name == name and entry.title and "note" in entry.docstring and "Source:" in entry.docstring
    assert CHECKS["class-blind"].needs == ("labels",) and CHECKS["dead"].needs == ()


@pytest.mark.parametrize(
    ("value", "expected"), [(0.0, None), (0.1, "note"), (0.29, "note"), (0.3, "warning"), (9, "serious")]
)
def test_severity_is_the_highest_limit_reached(value: float, expected: str | None) -> None:
    assert graded(value, (0.1, 0.3, 0.5)) == expected
    assert graded(-value, (-0.1, -0.3, -0.5)) == expected  # limits that fall: lower is worse


# --- the subject -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_responses_are_those_of_the_module_whatever_the_batch(batch: int) -> None:
    model = net()
    assert about(model).layers == ("1", "3")
    subject = about(model, batch_size=batch, layers=("0", "3"))
    x = torch.stack([subject.preprocess(subject.images[n][0]) for n in range(40)])
    for name, place in (("0", 1), ("3", 4)):
        with torch.no_grad():
            maps = model[:place].double()(x.double()).numpy()
        model.float()
        got = subject.responses[name]
        assert np.allclose(got.maxima, maps.max((2, 3)), atol=1e-5)
        assert np.allclose(got.means, maps.mean((2, 3)), atol=1e-5)
        assert (
            np.abs(got.firing - (maps > 0).mean((2, 3))).max() <= 2 / SIDE**2
        )  # a value next to 0 may round across it
        assert np.allclose(got.lowest, maps.min((0, 2, 3)), atol=1e-5)
        assert np.allclose(got.highest, maps.max((0, 2, 3)), atol=1e-5)
        assert np.allclose(got.squares, (maps**2).mean((0, 2, 3)), atol=1e-5)
        columns = maps.transpose(0, 2, 3, 1).reshape(40, -1, maps.shape[1])
        each = len(got.samples) // 40
        assert each == 100  # 4000 rows over 40 images
        for row in (0, each, 20 * each + 3):
            assert np.abs(columns[row // each] - got.samples[row]).max(1).min() < 1e-5
    with torch.no_grad():
        assert subject.logits is not None and np.allclose(subject.logits, model(x).numpy(), atol=1e-5)


@pytest.mark.slow
def test_positions_are_drawn_over_the_whole_map_anew_for_each_image() -> None:
    pixels = np.zeros((100, 16, 16, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(16)[:, None] * 16, np.arange(16) * 16  # the place itself

    def place(model: nn.Sequential) -> None:
        weights(model)[:2] = 0
        weights(model)[0, 0, 2, 2] = weights(model)[1, 1, 2, 2] = 1

    def drawn(seed: int, batch: int) -> NDArray[np.int64]:
        subject = about(net(edit=place), InMemoryImages(pixels), seed=seed, batch_size=batch, layers=("0",))
        at = subject.responses["0"].samples[:, :2]
        return np.asarray(((at / 2 + 0.5) * 255 / 16).round() @ [16, 1], np.int64).reshape(100, 40)

    places = drawn(0, 7)
    assert {*places.ravel().tolist()} == set(range(256)) and all(len({*row.tolist()}) == 40 for row in places)
    assert {*places[0].tolist()} != {*places[1].tolist()} and not np.array_equal(places, drawn(1, 7))
    assert np.array_equal(places, drawn(0, 64))


def test_sampled_positions_are_all_others_and_every_position_where_there_are_few() -> None:
    rows = about(net(), noise_images(200)).responses["1"].samples.reshape(200, -1, 20)
    assert rows.shape[1] == 20 and all(len(np.unique(part, axis=0)) == 20 for part in rows[:5])
    few = about(net(), noise_images(2, side=8)).responses["1"].samples
    assert len(few) == 2 * 64


def test_means_by_class_are_those_of_its_images() -> None:
    labels = np.array([0, 1, -1, 1, 3] * 4)
    got = about(net(), noise_images(20, labels)).responses["1"]
    by_class = got.by_class(labels, 4)
    for label in (0, 1, 3):
        assert np.allclose(by_class[label], got.means[labels == label].mean(0, dtype=np.float64))
    assert np.isnan(by_class[2]).all()


def test_images_are_taken_evenly_and_targets_follow_the_outputs() -> None:
    subject = about(net(), noise_images(20, np.array([0, 1, 2, -1] * 5)), limit=4, outputs=np.array([5, 7, 9]))
    assert subject.indices.tolist() == [3, 4, 13, 18] and len(subject.responses["1"].maxima) == 4
    assert subject.labels.tolist() == [-1, 0, 1, 2] and subject.targets.tolist() == [-1, 5, 7, 9]
    assert (about(net()).targets == -1).all()
    places = np.concatenate([places for places, _ in subject.batches([3, 1])])
    assert places.tolist() == [3, 1]


def test_a_patch_shows_what_drives_a_channel_most() -> None:
    pixels = np.zeros((6, SIDE, SIDE, 3), np.uint8)
    pixels[4, 9, 17] = 255  # one bright pixel, in one image
    pixels[2, 3, 3] = 100

    def bright(model: nn.Sequential) -> None:
        weights(model)[:] = 0
        weights(model)[:, :, 2, 2] = 1  # the middle pixel itself

    subject = about(net(edit=bright), InMemoryImages(pixels))
    patch = subject.patches("1", [0, 3])
    assert patch.shape == (2, 5, 5, 3) and (patch[:, 2, 2] == 255).all() and patch.sum() == 2 * 3 * 255
    deep = subject.tiles("3", [1])  # sees 7 px: a cut of the image
    assert deep.shape == (1, 7, 7, 3) and deep.dtype == np.uint8


def test_filters_of_an_image_are_shown_as_pictures_with_grey_as_zero() -> None:
    def plant(model: nn.Sequential) -> None:
        weights(model)[:2] = 0
        weights(model)[0, 0, 0, 0], weights(model)[0, 1, 1, 1] = 2, -2

    shown = about(net(edit=plant)).tiles("1", [0, 1])
    assert shown.shape == (2, 5, 5, 3) and shown[0, 0, 0].tolist() == [255, 128, 128]
    assert shown[0, 1, 1].tolist() == [128, 0, 128] and (shown[1] == 128).all()
    assert signed_picture(np.zeros((2, 2, 1))).shape == (2, 2, 3)  # a grey image's filter


@pytest.mark.parametrize(
    ("need", "word"),
    [
        ("labels", "classes of the images"),
        ("outputs", "which output"),
        ("truth", "objects"),
        ("snapshots", "snapshots"),
    ],
)
def test_a_check_is_not_made_without_what_it_needs(need: Need, word: str) -> None:
    made: list[Subject] = []

    def measure(subject: Subject) -> CheckRun:
        made.append(subject)
        return CheckRun()

    run = CheckEntry(name="new", title="A new check", function=measure, needs=(need,))(about(net()))
    assert not made and run.skipped is not None and word in run.skipped.reason and not run.skipped.part
    assert run.findings == () and run.measured is None
    CheckEntry(name="new", title="A new check", function=measure)(about(net()))
    assert len(made) == 1


def test_labels_and_outputs_are_there_where_they_are_known() -> None:
    subject = about(net(), noise_images(8, [0, 1] * 4), outputs=np.array([2, 3]))
    assert subject.lacks("labels") is None and subject.lacks("outputs") is None
    maps = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    reason = about(maps, noise_images(8, [0, 1] * 4), outputs=np.array([2, 3])).lacks("outputs")
    assert reason is not None and "score for each class" in reason


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(CaptureError, match="preprocessing gives"):
        Subject(dv.capture(net(), (3, 24, 24)), noise_images(), Preprocess(resize=None, crop=20), DiagnosisOptions())
    with pytest.raises(DataError, match="limit 0"):
        about(net(), limit=0)
    with pytest.raises(LayerNotFound):
        about(net(), layers=("nothing",))

    def broken(model: nn.Sequential) -> None:
        weights(model)[0, 0, 0, 0] = float("nan")

    with pytest.raises(ModelError, match=r"scores of Sequential are NaN, and so are weights, 0\.weight first"):
        _ = about(net(edit=broken)).responses
    maps = nn.Sequential(*list(net(edit=broken))[:2])  # a network without scores
    with pytest.raises(DataError, match="'1' gives values that are not finite"):
        _ = about(maps).responses


def test_long_steps_are_watched(capsys: pytest.CaptureFixture[str]) -> None:
    """Every pass over images and every walk over layers that can take long has a bar of its own on standard error."""
    steps = {
        "dead": ["responses"],
        "duplicates": ["responses", "repeated filters", "pictures of 3"],
        "flipped": ["responses", "opposite filters"],
        "rank": ["responses", "ranks"],
        "saturated": ["responses", "saturated filters"],
        "aliasing": ["shifts by a pixel"],
        "receptive-field": ["receptive field"],
    }

    def twins(model: nn.Sequential) -> None:
        weights(model, 2)[:] = weights(model, 2)[:1]

    for name, bars in steps.items():
        subject = about(net(stride=2, edit=twins))
        watched = Subject(subject.network, subject.images, subject.preprocess, DiagnosisOptions(progress=True))
        CHECKS[name](watched)
        shown = capsys.readouterr().err
        assert [bar for bar in bars if f"{bar}:" not in shown] == [], name
        counts = [part.split("[")[0].split("|")[-1] for part in shown.split("\r") if "100%" in part]
        assert len(counts) >= len(bars)  # each of them ends
