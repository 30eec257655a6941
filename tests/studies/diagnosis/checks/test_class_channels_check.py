"""The channels that classes lean on are told from closed forms; flaws that are planted are found, and nothing else."""

from __future__ import annotations

import csv
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from diagnosed import PLAIN, Planted, found, skipped, subject_of
from torch import Tensor, nn

from deconvviz.data.memory import InMemoryImages
from deconvviz.results.columns import TABLES
from deconvviz.studies.diagnosis.checks.class_channels import class_channels_check, leanings
from deconvviz.studies.diagnosis.leanings import leaning_evidence, save_leanings, strength_table
from deconvviz.studies.diagnosis.measures import class_channels as measure
from deconvviz.studies.diagnosis.measures.class_channels import class_channels
from deconvviz.studies.diagnosis.subject import Subject

COLOURS = ((220, 40, 40), (40, 220, 40), (40, 40, 220))  # red, green and blue


def coloured(each: int = 10, mistaken: int = 0) -> InMemoryImages:
    """Red, green and blue images with a little noise; `mistaken` of those of green are red."""
    rng = np.random.default_rng(0)
    colours = [c for c in COLOURS for _ in range(each)]
    colours[each : each + mistaken] = [COLOURS[0]] * mistaken
    pictures = [np.clip(np.array(c) + rng.integers(-9, 10, (32, 32, 3)), 0, 255) for c in colours]
    return InMemoryImages(np.array(pictures, np.uint8), np.repeat(np.arange(3), each), ("red", "green", "blue"))


class Pooled(nn.Module):
    """Nine maps, three of each colour; a class's score is a weighted sum of their means."""

    def __init__(self, weights: Sequence[Sequence[float]], shut: float = 0.0) -> None:
        super().__init__()
        self.maps, self.score = nn.Conv2d(3, 9, 1), nn.Linear(9, 3, bias=False)
        self.maps.weight.data = 0.25 * torch.eye(3).repeat_interleave(3, 0)[:, :, None, None]
        nn.init.constant_(self.maps.bias, 0.5 - shut)  # type: ignore[arg-type]
        self.score.weight.data = torch.tensor(weights)

    def forward(self, x: Tensor) -> Tensor:
        return self.score(torch.relu(self.maps(x)).mean((2, 3)))


OWN = [[1.0, 0.9, 0.8, 0, 0, 0, 0, 0, 0], [0, 0, 0, 1.0, 0.9, 0.8, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1.0, 0.9, 0.8]]
SHARING = [OWN[0], [0.5, 0.5, 0.4, 1.0, 0, 0, 0, 0, 0], OWN[2]]
ALONE = [OWN[0], [0, 0, 0, 1.0, 0.1, 0.0, 0, 0, 0], OWN[2]]


def subject(weights: Sequence[Sequence[float]], mistaken: int = 0, shut: float = 0.0) -> Subject:
    return subject_of(Pooled(weights, shut), coloured(mistaken=mistaken), outputs=np.arange(3))


# --- the measure -----------------------------------------------------------------------------------------------------


def test_pooled_maps_have_the_closed_form() -> None:
    """Of maps that are averaged and read by a linear layer, S_k(c) is ReLU(W_ck) x the share of active places."""
    torch.manual_seed(0)
    weights = torch.randn(3, 9).tolist()
    for row, of_class in enumerate(weights):
        of_class[3 * row] = 4.0  # every image is classified correctly
    measured = class_channels(subject(weights))
    assert measured.right.tolist() == [10, 10, 10]  # and all places are active
    expected = np.maximum(weights, 0)
    np.testing.assert_allclose(measured.strengths, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(
        measured.masks, expected - expected.min(1)[:, None] > 0.2 * np.ptp(expected, 1)[:, None]
    )
    shut = class_channels(subject(weights, shut=0.5))  # now a colour opens its own three channels alone
    own = np.repeat(np.eye(3, dtype=bool), 3, 1)
    np.testing.assert_allclose(shut.strengths, np.where(own, expected, 0), rtol=1e-5, atol=1e-7)


class Deep(nn.Module):
    """Maps that a small network with a rectifier reads place by place."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.conv, self.hidden, self.score = nn.Conv2d(3, 5, 8, 8), nn.Linear(80, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.score(torch.relu(self.hidden(torch.relu(self.conv(x)).flatten(1))))


def replica(model: Deep, pictures: Any, output: int) -> tuple[np.ndarray, np.ndarray]:
    """S and the evidence for one output of each image, in numpy from the weights, float64 [n, K] each."""
    weights = {name: value.detach().double().numpy() for name, value in model.named_parameters()}
    x = torch.stack([PLAIN(picture) for picture in pictures]).double().numpy()
    patches = x.reshape(len(x), 3, 4, 8, 4, 8).transpose(0, 2, 4, 1, 3, 5).reshape(len(x), 16, -1)
    maps = patches @ weights["conv.weight"].reshape(5, -1).T + weights["conv.bias"]
    maps = np.maximum(maps.transpose(0, 2, 1), 0)  # [n, K, places]
    hidden = maps.reshape(len(x), -1) @ weights["hidden.weight"].T + weights["hidden.bias"]
    slope = weights["score.weight"][output] * (hidden > 0)
    g = np.maximum((slope @ weights["hidden.weight"]).reshape(maps.shape), 0)
    return (g * (maps > 0)).sum(2), (g * maps).sum(2)


def test_a_deep_network_against_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The surest correct images, their strengths, and the share of foreign evidence of right and wrong decisions."""
    monkeypatch.setattr(measure, "MOST", 7)
    rng, model = np.random.default_rng(1), Deep()
    pictures = rng.integers(0, 256, (60, 32, 32, 3)).astype(np.uint8)
    with torch.no_grad():
        x = torch.stack([PLAIN(picture) for picture in pictures])
        model.score.bias.sub_(model(x).mean(0))  # so that each class is decided for
        logits = model(x).double().numpy()
    labels = np.where(rng.random(60) < 0.3, rng.integers(0, 3, 60), logits.argmax(1))
    images = InMemoryImages(pictures, labels, ("a", "b", "c"))
    measured = class_channels(subject_of(model, images, outputs=np.arange(3)))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    usual: list[float] = []
    for row, c in enumerate(measured.outputs.tolist()):
        right = [n for n in np.flatnonzero(labels == c) if logits[n].argmax() == c]
        surest = sorted(right, key=lambda n: -p[n, c])[:7]
        s, evidence = replica(model, pictures[surest], c)
        assert (measured.images[row], measured.right[row]) == (len(surest), len(right))
        np.testing.assert_allclose(measured.strengths[row], s.mean(0), rtol=1e-4, atol=1e-6)
        mask = s.mean(0) - s.mean(0).min() > 0.2 * np.ptp(s.mean(0))
        assert measured.masks[row].tolist() == mask.tolist()
        if len(right) >= 5:
            for n in range(len(surest)):
                rest = np.delete(s, n, 0).mean(0)
                others = rest - rest.min() > 0.2 * np.ptp(rest)
                usual.append(evidence[n][~others].sum() / evidence[n].sum())
    wrong = measured.wrong
    assert usual and wrong.usual == pytest.approx(np.quantile(usual, 0.95), rel=1e-4)
    enough = [c for row, c in enumerate(measured.outputs) if measured.right[row] >= 5]
    every = [n for n in range(60) if logits[n].argmax() != labels[n] and labels[n] in enough]
    assert {*wrong.places.tolist()} <= {*every} and len(wrong.places)
    for place, row, output, foreign in zip(wrong.places, wrong.rows, wrong.outputs, wrong.foreign, strict=True):
        assert output == logits[place].argmax() and measured.outputs[row] == labels[place]
        _, evidence = replica(model, pictures[[place]], int(output))
        expected = evidence[0][~measured.masks[row]].sum() / max(evidence[0].sum(), 1e-30)
        assert foreign == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_a_class_without_a_correct_image_is_looked_at_through_the_others() -> None:
    """Its own score is sent back, although another class was decided for."""
    measured = class_channels(subject(OWN, mistaken=10))
    assert measured.right.tolist() == [10, 0, 10] and measured.images.tolist() == [10, 10, 10]
    np.testing.assert_allclose(measured.strengths[1], OWN[1], rtol=1e-5)
    assert not len(measured.wrong.places)  # nothing to compare them with


def test_overlaps_by_hand() -> None:
    measured = class_channels(subject(SHARING, mistaken=5))
    assert measured.masks.sum(1).tolist() == [3, 4, 3]
    assert measured.overlaps.tolist() == [[1, 0.75, 0], [0.75, 1, 0], [0, 0, 1]]
    assert measured.row_of(1) == 1 and measured.row_of(7) is None


# --- the findings ----------------------------------------------------------------------------------------------------


def test_confused_classes_that_share_their_channels() -> None:
    (finding,) = found("class-channels", subject(SHARING, mistaken=5))
    assert (finding.kind, finding.severity, finding.value) == ("shared", "warning", 75)
    assert finding.channels == (0, 1, 2) and "5 of 10 images of 'green' are taken for 'red'" in finding.what
    assert "leans on 4 channels" in finding.what and "the second on 3, and 3 are the same" in finding.what
    values, columns = (finding.evidence.arrays[name] for name in ("values", "columns"))
    assert columns.tolist() == [3, 0, 1, 2] or columns.tolist() == [0, 1, 2, 3]
    assert finding.evidence.labels[:2] == ("green", "red") and np.isnan(values[1, columns.tolist().index(3)])
    assert found("class-channels", subject(SHARING)) == []  # they share them, and are not confused


def test_wrong_decisions_by_foreign_channels() -> None:
    (finding,) = found("class-channels", subject(OWN, mistaken=4))
    assert (finding.kind, finding.severity, finding.value) == ("foreign", "note", 100)
    assert "Of 4 wrong decisions 4 (100 %)" in finding.what and {*finding.channels} == {0, 1, 2}
    assert finding.evidence.labels[0] == "green, taken for red: 100\N{NO-BREAK SPACE}%"
    assert found("class-channels", subject(OWN, mistaken=2)) == []  # two may be odd pictures


@pytest.mark.parametrize(
    ("rest", "severity"), [(1.05, None), (0.95, "note"), (0.34, "note"), (0.33, "warning"), (0.05, "serious")]
)
def test_a_class_that_hangs_on_one_channel(rest: float, severity: str | None) -> None:
    """Its share is 1 / (1 + rest); the limits are 50, 75 and 95 %."""
    weights = [OWN[0], [0, 0, 0, 1.0, rest / 2, rest / 2, 0, 0, 0], OWN[2]]
    findings = found("class-channels", subject(weights))
    assert [each.severity for each in findings] == ([] if severity is None else [severity])
    if findings:
        assert findings[0].channels == (3,) and "the layer has 9 channels" in findings[0].what
        assert findings[0].value == pytest.approx(100 / (1 + rest))
        assert "No other class leans on it" in findings[0].what


def test_what_it_needs() -> None:
    one = subject_of(Pooled(OWN), coloured(each=1), outputs=np.arange(3))
    assert "at most 1 image of a class is classified correctly" in skipped("class-channels", one)
    assert [each.images for each in leanings(one)] == [1, 1, 1]
    unknown = subject_of(Pooled(OWN), coloured())
    assert "not known" in skipped("class-channels", unknown) and leanings(unknown) == ()
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3072, 3))
    run = class_channels_check(subject_of(flat, coloured(), outputs=np.arange(3)))
    assert "no layer with rows and columns" in str(run.skipped)


# --- the table and its figure ----------------------------------------------------------------------------------------


def test_the_table_of_all_classes(tmp_path: pathlib.Path) -> None:
    rows = leanings(subject(SHARING, mistaken=5))
    green = rows[1]
    assert (green.name, green.nearest, green.taken, green.images, green.right) == ("green", "red", 5, 5, 5)
    assert green.channels[0] == 3 and {*green.shared} == {0, 1, 2} and green.overlap == 0.75
    assert green.shares[0] == pytest.approx(1 / 2.4) and (green.wrong, green.foreign) == (5, 0)
    assert rows[2].foreign is None
    save_leanings(rows, tmp_path / "class-channels.csv")
    with (tmp_path / "class-channels.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [*table[0]] == [column.name for column in TABLES["class channels"].columns]
    assert table[1]["channels"].startswith("3 ") and table[2]["foreign"] == ""


def test_the_figure_puts_confused_classes_side_by_side() -> None:
    rows = leanings(subject(SHARING, mistaken=5))
    evidence = leaning_evidence(rows)
    assert evidence.labels == ("green", "red", "blue")
    columns, values = strength_table([rows[1], rows[0], rows[2]])
    np.testing.assert_array_equal(columns, evidence.arrays["columns"])
    assert {*columns.tolist()} == {0, 1, 2, 3, 6, 7, 8}
    assert values[0, columns.tolist().index(3)] == pytest.approx(100 / 2.4)
    assert np.isnan(values[2, columns.tolist().index(0)]) and columns.tolist()[-3:] == [6, 7, 8]


PLANTED = {"class-channels": Planted(lambda _: subject(SHARING, mistaken=5), lambda _: subject(OWN))}
