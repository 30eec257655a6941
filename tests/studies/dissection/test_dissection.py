"""Dissections of a network whose channels are known: planted parts, chance by shuffles, shards and resumed files."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from dissected import COUNT, PLAIN, SIDE, PlantedTruth, dissected, network, pictures
from scipy.stats import fisher_exact
from torch import nn
from torch.nn import functional

import deconvviz as dv
from deconvviz.data.memory import InMemoryImages
from deconvviz.errors import DataError, DeconvvizError, LayerNotFound, MismatchError
from deconvviz.studies.dissection.examples import FiringNotes
from deconvviz.studies.dissection.looking import with_families
from deconvviz.studies.dissection.measure import DissectionRun
from deconvviz.studies.dissection.naming import Concept, NamingRule, enrichment, overlaps
from deconvviz.studies.dissection.result import COUNTS, Dissection, merge_dissections


def equal(first: Dissection, second: Dissection) -> bool:
    """Whether two dissections say the same of every channel and concept, and show the same pictures."""
    layers = all(
        np.array_equal(getattr(layer.top, name), getattr(second.layers[key].top, name))
        for key, layer in first.layers.items()
        for name in ("values", "images", "positions")
    )
    counts = all(
        np.array_equal(getattr(layer, name), getattr(second.layers[key], name))
        for key, layer in first.layers.items()
        for name in ("labels", "thresholds", "fires", "both")
    )
    same = (first.concepts, first.images, first.classes) == (second.concepts, second.images, second.classes)
    return layers and counts and same and np.array_equal(first.shown, second.shown)


def numbers(dissection: Dissection, layer: str, channel: int, name: str) -> dict[str, float]:
    """The overlaps of a channel with a concept."""
    counts, place = dissection.layers[layer], [concept.name for concept in dissection.concepts].index(name)
    found = overlaps(counts.fires, dissection.shown, counts.both, dissection.images)
    return {field: float(getattr(found, field)[channel, place]) for field in found._fields}


def test_a_channel_equal_to_a_parts_mask_has_iou_1_and_its_name() -> None:
    dissection = dissected(pictures())
    assert numbers(dissection, "seen", 0, "wheel")["iou"] == 1
    assert numbers(dissection, "seen", 1, "left eye")["iou"] == numbers(dissection, "seen", 1, "eye")["iou"] == 1
    names = dissection.names("seen")
    assert names[0].startswith("wheel") and names[1].split(", ")[0] in ("eye", "left eye")
    assert 4 not in names and not any(d.channel == 4 for d in dissection.detections("seen"))  # it is always zero
    assert "1 never above zero" in repr(dissection)


@pytest.mark.parametrize("batch", [1, 5, 12])
def test_counts_are_those_of_a_loop_over_whole_resized_maps(batch: int) -> None:
    images = pictures(3)
    dissection = dissected(images, ["seen", "pool"], batch_size=batch)
    truth, net = PlantedTruth(images), network()
    x = torch.stack([PLAIN(images[n][0]) for n in range(COUNT)])
    for layer, values in net.activations(x, ["seen", "pool"]).items():
        maps = functional.interpolate(values, (SIDE, SIDE), mode="bilinear", align_corners=False).numpy()
        counts = dissection.layers[layer]
        assert counts.thresholds is not None
        exact = np.quantile(values.permute(1, 0, 2, 3).flatten(1).numpy(), 0.9, axis=1, method="inverted_cdf")
        assert (counts.thresholds <= exact).all() and (counts.thresholds >= exact * (1 - 2**-6) - 1e-6).all()
        above = maps > counts.thresholds[:, None, None]
        assert np.array_equal(counts.fires, above.sum(0).reshape(5, -1))
        for name in ("object", "wheel", "left eye"):
            masks = np.stack([truth.masks(n)["" if name == "object" else name] for n in range(COUNT)])[:, None]
            both, union = (above & masks).sum((0, 2, 3)), (above | masks).sum((0, 2, 3))
            for channel in range(4):
                ours = numbers(dissection, layer, channel, name)
                assert ours["iou"] == pytest.approx(both[channel] / union[channel])
                assert ours["share"] == pytest.approx(both[channel] / above[:, channel].sum())


def test_chance_is_what_shuffled_truth_gives() -> None:
    """The mean over many shuffles of which masks belong to which picture, for maps that do know their own masks."""
    images, rng = pictures(5), np.random.default_rng(0)
    dissection = dissected(images)
    x = torch.stack([PLAIN(images[n][0]) for n in range(COUNT)])
    counts = dissection.layers["seen"]
    assert counts.thresholds is not None
    above = (network().activations(x, ["seen"])["seen"].numpy() > counts.thresholds[:, None, None])[:, 0]
    masks = np.stack([PlantedTruth(images).masks(n)["wheel"] for n in range(COUNT)])
    shuffled = [(above & masks[rng.permutation(COUNT)]).sum() for _ in range(3000)]
    ours = numbers(dissection, "seen", 0, "wheel")
    assert ours["share_chance"] == pytest.approx(np.mean(shuffled) / above.sum(), rel=0.05)
    assert ours["iou_chance"] < 0.2 * ours["iou"]


def test_a_truth_that_is_shuffled_names_nothing() -> None:
    images = pictures(0, 40)
    others = PlantedTruth(InMemoryImages([images[(n + 7) % 40][0] for n in range(40)]), known=40)
    others.fingerprint = "shuffled"
    dissection = dissected(images, truth=others)
    ours = numbers(dissection, "seen", 0, "wheel")
    assert ours["share"] == pytest.approx(ours["share_chance"], abs=0.06)
    assert not any(d.named and d.kind == "part" for d in dissection.detections("seen", NamingRule(times=3)))


def test_pictures_without_known_masks_are_left_out() -> None:
    images = pictures()
    whole = dissected(images)
    part = dissected(images, truth=PlantedTruth(images, known=8))
    assert (whole.images, part.images) == (COUNT, 8)
    assert part.layers["seen"].fires.sum() < whole.layers["seen"].fires.sum()
    with pytest.raises(DataError, match="the truth knows no image"):
        dissected(images, truth=PlantedTruth(images, known=0))


def test_without_truth_colours_and_textures_are_the_concepts() -> None:
    dissection = dissected(pictures(), truth=None)
    assert {concept.kind for concept in dissection.concepts} == {"colour", "texture"}
    assert dissection.shown.sum() == 2 * COUNT * SIDE * SIDE  # each pixel has one colour and one texture
    best = next(d for d in dissection.detections("seen") if (d.channel, d.kind) == (1, "colour"))
    assert best.name == "green" or best.name == "blue"  # green rectangles on blue noise


def test_shards_merge_to_the_same_dissection(tmp_path: pathlib.Path) -> None:
    images = pictures()
    whole = dissected(images)

    def shard(number: int, **more: Any) -> Dissection:
        return dissected(images, shard=(number, 3), out=tmp_path / f"{number}.h5", batch_size=2, **more)

    first = [shard(number) for number in range(3)]
    assert all(part.stage == "quantiles" and part.done == part.total for part in first)
    joined = merge_dissections(first[::-1])
    joined.save(tmp_path / "joined.h5")
    second = [shard(number, quantiles=Dissection.load(tmp_path / "joined.h5")) for number in range(3)]
    merged = merge_dissections(second)
    assert merged.complete and equal(merged.with_concepts(whole.concepts), whole)
    merged.save(tmp_path / "merged.h5")
    finished = dissected(images, out=tmp_path / "merged.h5")  # nothing is computed again but the examples
    for ours, theirs in ((finished, whole), (Dissection.load(tmp_path / "merged.h5"), whole)):
        assert equal(ours, theirs)
        first_examples, second_examples = ours.layers["seen"].examples, theirs.layers["seen"].examples
        assert first_examples is not None and second_examples is not None
        assert np.array_equal(first_examples.above, second_examples.above) and first_examples.above.any()
    with pytest.raises(MismatchError, match="expected each of"):
        merge_dissections(second[:2])
    with pytest.raises(MismatchError, match="another pass"):
        dissected(images, shard=(0, 3), quantiles=merged)
    with pytest.raises(MismatchError, match="unfinished"):
        merge_dissections([first[0], *second[1:]])


def test_examples_are_noted_or_computed_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the second pass notes of the strongest images is what one more pass over them finds."""
    images = pictures(2)
    noted = dissected(images, ["seen", "pool"])
    with monkeypatch.context() as patch:
        patch.setattr("deconvviz.studies.dissection.examples._above", None)  # nothing runs once more
        assert dissected(images, ["seen", "pool"]).layers.keys() == noted.layers.keys()
    monkeypatch.setattr(FiringNotes, "add", lambda *_: None)
    computed = dissected(images, ["seen", "pool"])
    for name, layer in noted.layers.items():
        ours, theirs = layer.examples, computed.layers[name].examples
        assert ours is not None and theirs is not None and ours.above.any()
        assert np.array_equal(ours.above, theirs.above) and np.array_equal(ours.pictures, theirs.pictures)


def test_an_interrupted_job_resumes(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, path = pictures(), tmp_path / "d.h5"
    whole = dissected(images)
    commit, calls = DissectionRun._commit, [0]

    def stopping(self: DissectionRun, dissection: Dissection) -> None:
        commit(self, dissection)
        calls[0] += 1
        if calls[0] % 2 == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(DissectionRun, "_commit", stopping)
    finished = None
    for _ in range(20):
        try:
            finished = dissected(images, out=path, batch_size=5, commit_every=1)
            break
        except KeyboardInterrupt:
            assert not Dissection.load(path).complete or Dissection.load(path).stage == COUNTS
    assert finished is not None and calls[0] > 4 and equal(finished, whole)
    with pytest.raises(MismatchError, match="quantile"):
        dissected(images, out=path, quantile=0.8)


def test_classes_are_enriched_as_fishers_exact_test_says() -> None:
    labels = np.array([[0, 0, 0, 1, 2, -1], [1, 1, 1, 1, 1, 1], [-1] * 6])
    totals = np.array([10, 7, 30])
    best, share, p = enrichment(labels, totals)
    expected = fisher_exact([[3, 2], [7, 35]], alternative="greater").pvalue * 3 * 3
    assert best.tolist() == [0, 1, -1] and share.tolist() == [0.6, 1, 0]
    assert p[0] == pytest.approx(min(expected, 1)) and p[2] == 1
    assert p[1] == pytest.approx(fisher_exact([[6, 0], [1, 40]], alternative="greater").pvalue * 9)


def test_parts_of_one_kind_are_a_part_together() -> None:
    masks = {"front wheel": np.eye(2, dtype=bool), "wheel 2": np.eye(2, dtype=bool)[::-1], "": np.ones((2, 2), bool)}
    together = with_families(masks)
    assert together["wheel"].all() and set(together) == {*masks, "wheel"}


def test_the_table_and_the_rule(tmp_path: pathlib.Path) -> None:
    dissection = dissected(pictures())
    dissection.save_csv(tmp_path / "n.csv")
    frame = dissection.to_frame()
    row = frame[(frame.channel == 0) & (frame.kind == "part")].iloc[0]
    assert (row["name"], row.named, row.iou) == ("wheel", 1, 1) and row.p != row.p
    assert set(frame[frame.kind == "class"].name) <= {"a", "b"}
    strict = {d.channel for d in dissection.detections("seen", NamingRule(iou=1, share=1, times=50)) if d.named}
    assert not strict  # no part is fifty times what chance gives
    for wrong in ({"iou": 0}, {"share": 2}, {"times": 0.5}, {"alpha": 0}):
        with pytest.raises(DataError):
            NamingRule(**wrong)
    assert (
        dissection.concepts == tuple(sorted(dissection.concepts)) and Concept("object", "object") in dissection.concepts
    )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"layers": ()}, "no layer given"),
        ({"layers": ("none",)}, "no layer 'none'"),
        ({"quantile": 1.0}, "quantile"),
        ({"top": 1}, "top"),
        ({"shard": (3, 3)}, "shard 3/3"),
    ],
)
def test_what_is_refused(wrong: dict[str, Any], said: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(DeconvvizError, match=said) as error:
        dissected(pictures(), out=tmp_path / "d.h5", **wrong)
    assert not (tmp_path / "d.h5").exists() and isinstance(error.value, DataError | LayerNotFound)


def test_values_that_are_not_finite_are_refused() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1))
    model[0].weight.data[:] = float("inf")
    with pytest.raises(DataError, match="NaN or infinite"):
        dv.dissect(dv.capture(model.eval(), PLAIN.shape), pictures(), ["0"], preprocess=PLAIN, progress=False)


def test_images_on_which_a_channel_does_not_fire_name_nothing() -> None:
    """Images of value 0 stand in the order of the store: the first class would name any channel that seldom fires."""
    model = nn.Sequential(nn.Conv2d(3, 1, 1), nn.ReLU()).eval()
    with torch.no_grad():
        model[0].weight[:] = torch.tensor([1.0, -1.0, -1.0]).reshape(1, 3, 1, 1)
        model[0].bias[:] = -0.5
    pictures = np.full((100, 8, 8, 3), 128, np.uint8)
    pictures[98:] = (255, 0, 0)
    images = InMemoryImages(pictures, np.repeat(np.arange(5), 20).tolist(), ("ant", "bee", "cat", "dog", "elk"))
    preprocess = dv.Preprocess(resize=None, crop=8, mean=(0, 0, 0), std=(1, 1, 1))
    found = dv.dissect(dv.capture(model, preprocess.shape), images, ["1"], preprocess=preprocess, progress=False)
    (of_class,) = [each for each in found.detections("1") if each.kind == "class"]
    assert of_class.name == "elk" and of_class.share == 1
    assert of_class.p == pytest.approx(5 * (20 / 100) * (19 / 99))  # both of two images drawn, five classes
