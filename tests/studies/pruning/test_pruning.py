"""Prunings: the criteria by loops, what is measured, the file and what is refused."""

from __future__ import annotations

import csv
import dataclasses
import io
import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import deconvviz as dv
from deconvviz.cli.layers import layers
from deconvviz.data.feed import Feed
from deconvviz.errors import DataError, LayerNotFound, MismatchError, PruningError
from deconvviz.graph.channels import channel_groups
from deconvviz.metrics.intervals import paired_interval
from deconvviz.models.load import load_model
from deconvviz.progress import progress_bar
from deconvviz.run.options import RunOptions
from deconvviz.studies.pruning.command import caption_of
from deconvviz.studies.pruning.command import prune as prune_command
from deconvviz.studies.pruning.criteria import CRITERIA
from deconvviz.studies.pruning.result import PruningStudy
from deconvviz.studies.pruning.slim import Origin
from deconvviz.studies.pruning.subject import PruningSubject

PREPROCESS = dv.Preprocess(resize=None, crop=12, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
ABOUT: dict[str, Any] = {"preprocess": PREPROCESS, "outputs": range(3), "repeats": 0, "shown": 0, "progress": False}


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = (nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(5, 3)).eval()


def pictures(count: int = 12) -> dv.InMemoryImages:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (count, 12, 12, 3), np.uint8)
    return dv.InMemoryImages(values, [n % 3 for n in range(count)], ["a", "b", "c"])


def scored(model: nn.Module, criterion: str, kept: dict[str, int] | None = None, **options: Any) -> dict[str, Any]:
    network = dv.capture(model, (3, 12, 12))
    groups = channel_groups(network)
    chosen = kept or {name: groups.groups[name].units // 2 for name in groups.prunable}
    feed = Feed(pictures(), PREPROCESS)
    run = dv.RunOptions(progress=False)
    subject = PruningSubject(network=network, groups=groups, chosen=chosen, feed=feed, outputs=np.arange(3), run=run)
    return dict(CRITERIA[criterion](subject, **options))


def test_l1_and_l2_by_a_loop() -> None:
    model = net()
    for name, power in (("l1", 1), ("l2", 2)):
        found = scored(model, name)
        for layer in ("0", "3"):
            for channel, weights in enumerate(model[int(layer)].weight.detach().double()):
                total = sum(abs(float(weight)) ** power for weight in weights.flatten())
                assert found[layer][channel] == pytest.approx(total ** (1 / power), rel=1e-9)
    assert np.allclose(scored(model, "l1", largest=True)["3"], -scored(model, "l1")["3"])


def test_greedy_l1_leaves_out_what_has_gone() -> None:
    model = net()
    with torch.no_grad():
        model[0].weight[2] *= 0.01  # the only one that goes
        model[3].weight[4, 2] = 9.0  # the filter that leans on it
    independent, greedy = (scored(model, "l1", {"0": 5, "3": 3}, greedy=each) for each in (False, True))
    weights = model[3].weight.detach().double().abs()
    expected = [sum(float(weights[f, c].sum()) for c in range(6) if c != 2) for f in range(5)]
    assert np.allclose(greedy["3"], expected) and np.allclose(independent["0"], greedy["0"])
    assert independent["3"].argmax() == 4 and greedy["3"][4] < independent["3"][4] - 80


def test_similarity_keeps_one_of_each_kind() -> None:
    model = net()
    with torch.no_grad():
        model[0].weight[1] = 2 * model[0].weight[0]
        model[0].weight[4] = 3 * model[0].weight[0]
        model[0].weight[5] = 0
    order = scored(model, "similarity")["0"]
    assert order[5] == 0 and set(np.argsort(order)[1:3]) == {0, 1} and order[4] > 2


def test_activity_drops_the_dead_then_the_repeated() -> None:
    model = net()
    with torch.no_grad():
        model[1].bias[3], model[1].weight[3] = -5, 0.01  # never above zero
        model[0].weight[1] = 1.5 * model[0].weight[2]
        model[0].bias[1] = 1.5 * model[0].bias[2]
    found = scored(model, "activity")["0"]
    assert found[3] < 1 and 1 <= min(found[1], found[2]) < 2 and max(found[1], found[2]) >= 2


def test_filters_that_are_equally_weak_have_one_score() -> None:
    model = net()
    with torch.no_grad():
        model[1].bias[[1, 3, 4]], model[1].weight[[1, 3, 4]] = -5, 0.01  # never above zero
    assert (scored(model, "activity")["0"][[1, 3, 4]] == 0).all()  # no filter has a lower mean response


@pytest.mark.parametrize("rectifier", [nn.LeakyReLU(0.1), nn.SiLU()], ids=["leaky", "silu"])
def test_activity_calls_no_filter_blind_whose_means_are_negative(rectifier: nn.Module) -> None:
    """The selectivity index is of means that are not; here a filter with negative ones tells the classes apart."""
    rng, labels = np.random.default_rng(0), np.arange(40) % 2
    pixels = rng.integers(0, 60, (40, 8, 8, 3))
    pixels[..., 0] += (labels * 180)[:, None, None]  # the classes differ in red alone
    model = nn.Sequential(nn.Conv2d(3, 4, 1), rectifier, nn.Conv2d(4, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.zero_()
        model[0].weight[0, 0], model[0].bias[0] = -0.2, -0.6  # red, below zero everywhere
        model[0].weight[1, 0], model[0].bias[1] = 0.2, 0.6
        model[0].weight[2, 1] = model[0].weight[3, 2] = 1
    network = dv.capture(model.eval(), (3, 8, 8))
    groups = channel_groups(network)
    subject = PruningSubject(
        network=network, groups=groups, chosen=dict.fromkeys(groups.prunable, 2), outputs=np.arange(2),
        feed=Feed(dv.InMemoryImages(pixels.astype(np.uint8), labels, ("dark", "red")), dv.Preprocess(resize=8, crop=8)),
        run=RunOptions(progress=False),
    )  # fmt: skip
    (scores,) = CRITERIA["activity"](subject).values()
    assert (scores >= 3).all()  # neither blind nor repeated nor dead


def test_lesion_is_the_loss_without_a_filter() -> None:
    model = net()
    with torch.no_grad():
        model[0].weight[2], model[0].bias[2], model[1].bias[2] = 0, 0, 0
        model[7].weight.mul_(5)
    found, feed = scored(model, "lesion"), Feed(pictures(), PREPROCESS)
    x, labels = PREPROCESS.tensor(feed.pictures(range(12))), torch.arange(12) % 3

    def loss(channel: int | None) -> float:
        with torch.no_grad():
            value = model[:3](x)
            if channel is not None:
                value[:, channel] = 0
            return float(nn.functional.cross_entropy(model[3:](value), labels))

    expected = [loss(channel) - loss(None) for channel in range(6)]
    assert np.allclose(found["0"], expected, atol=1e-5) and found["0"][2] == 0 and np.ptp(found["0"]) > 1e-3


def test_a_filter_of_zeros_goes_first_and_costs_nothing(tmp_path: pathlib.Path) -> None:
    model = net()
    with torch.no_grad():
        model[0].weight[2], model[0].bias[2], model[1].bias[2] = 0, 0, 0
    study, slim = dv.prune(model, pictures(), "l1", tmp_path / "slim.pth", layers={"0": 5 / 6}, **ABOUT)
    assert study.groups["0"].kept.tolist() == [True, True, False, True, True, True]
    x = torch.rand(4, 3, 12, 12)
    assert torch.allclose(slim(x), model(x), atol=1e-6) and (study.correct[0] == study.correct[1]).all()
    # by hand: 100 positions of 6 or 5 filters of 27; 64 positions of 5 filters of 6 or 5 times 9; 5 times 3
    assert study.multiply_adds.tolist() == [[16200, 17280, 15], [13500, 14400, 15]]
    loaded = PruningStudy.load(tmp_path / "slim.h5")
    assert repr(loaded) == repr(study) and np.array_equal(loaded.correct, study.correct)
    assert torch.allclose(torch.export.load(tmp_path / "slim.pt2").module()(x), slim(x), atol=1e-6)


def test_what_is_measured(tmp_path: pathlib.Path) -> None:
    model, images = net(), pictures()
    study, _ = dv.prune(model, images, "l1", keep=0.5, sensitivity=True, shares=[0.2, 0.9], **ABOUT)
    x = PREPROCESS.tensor(np.stack([images[n][0] for n in range(12)]))
    masks = {}
    for layer, kept in (("0", 3), ("3", 2)):
        sizes = model[int(layer)].weight.detach().abs().sum((1, 2, 3)).numpy()
        masks[layer] = np.isin(np.arange(len(sizes)), np.argsort(-sizes)[:kept])
        assert (study.groups[layer].kept == masks[layer]).all()

    def right(first: Any, second: Any) -> Any:
        with torch.no_grad():
            value = model[:3](x) * torch.tensor(first)[:, None, None]
            value = model[3:5](value) * torch.tensor(second)[:, None, None]
            return model[5:](value).argmax(1).numpy() == np.arange(12) % 3

    everything = np.ones(6, bool), np.ones(5, bool)
    before, after = right(*everything), right(masks["0"], masks["3"])
    assert (study.correct == [before, after]).all()
    interval = paired_interval((before & ~after).sum(), (~before & after).sum(), 12)
    assert np.allclose(study.lost_interval[1], interval)
    sizes = model[0].weight.detach().abs().sum((1, 2, 3)).numpy()
    one = np.arange(6) == sizes.argmax()  # 90 % of six: one stays
    assert (study.groups["0"].sensitivity[1] == right(one, everything[1])).all()
    study.save_sensitivity_csv(tmp_path / "s.csv")
    assert len([*csv.reader((tmp_path / "s.csv").open())]) == 5
    assert len(dv.draw_sensitivity(study).axes) == 1 and len(dv.draw_pruning(study).axes) == 2


def test_a_loss_is_told_in_points() -> None:
    """Nine of twelve images are right before, and six of these nine after."""
    measured, _ = dv.prune(net(), pictures(), "l1", keep=0.5, **ABOUT)
    study = dataclasses.replace(measured, correct=np.array([[True] * 9 + [False] * 3, [True] * 6 + [False] * 6]))
    low, high = 100 * paired_interval(np.array(3), np.array(0), 12)
    words = f"lost 25.0 points [{low:.1f}, {high:.1f}]"
    assert f"{study.forms[1]} 50.0%, {words}" in caption_of(study) and words in repr(study)


def test_a_caption_says_what_was_right() -> None:
    labelled, unlabelled = ({**ABOUT, "outputs": outputs} for outputs in (range(3), None))
    assert "Accuracy on" in caption_of(dv.prune(net(), pictures(), "l1", keep=0.5, **labelled)[0])
    by_decisions = caption_of(dv.prune(net(), pictures(), "l1", keep=0.5, **unlabelled)[0])
    assert "Decisions that are those of the whole network on" in by_decisions and "Accuracy" not in by_decisions


def test_other_outputs_for_the_classes_are_refused_where_it_goes_on(tmp_path: pathlib.Path) -> None:
    dv.prune(net(), pictures(), "l1", tmp_path / "s.pth", keep=0.5, **{**ABOUT, "outputs": [0, 1, 2]})
    with pytest.raises(MismatchError, match="outputs"):
        dv.prune(net(), pictures(), "l1", tmp_path / "s.pth", keep=0.5, **{**ABOUT, "outputs": [2, 1, 0]})


def test_one_bar_for_each_thing_that_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    """Two layers, each pruned by two shares: 48 passes over the images are one bar; a resumed one starts behind."""
    bars: list[Any] = []

    def made(**options: Any) -> Any:
        bars.append(progress_bar(**{**options, "disable": False, "file": io.StringIO()}))
        return bars[-1]

    monkeypatch.setattr("deconvviz.run.options.progress_bar", made)
    given = {**ABOUT, "keep": 0.5, "sensitivity": True, "shares": [0.2, 0.9]}
    study, _ = dv.prune(net(), pictures(), "l1", tmp_path / "slim.pth", **given)
    expected = [("accuracy, whole", 12), ("sensitivity", 48), ("accuracy, pruned", 12)]
    assert [(bar.desc.removesuffix(": "), bar.total) for bar in bars] == expected
    assert all(bar.n == bar.total and bar.unit == "image" for bar in bars)
    bars.clear()
    second = dataclasses.replace(study.groups["3"], sensitivity=None)
    dataclasses.replace(study, groups={**study.groups, "3": second}).save(tmp_path / "slim.h5")
    again, _ = dv.prune(net(), pictures(), "l1", tmp_path / "slim.pth", **given)
    assert [(bar.desc.removesuffix(": "), bar.initial, bar.n) for bar in bars] == [("sensitivity", 24, 48)]
    assert (again.groups["3"].sensitivity == study.groups["3"].sensitivity).all()


def test_fine_tuning_is_measured_on_images_it_has_not_seen(tmp_path: pathlib.Path) -> None:
    images = pictures(30)
    study, slim = dv.prune(net(), images, "random", tmp_path / "slim.pth", finetune=1, held_out=0.3, **ABOUT)
    assert study.forms == ("whole", "pruned", "tuned") and len(study.indices) == 9
    x = PREPROCESS.tensor(np.stack([images[int(n)][0] for n in study.indices]))
    with torch.no_grad():
        now = slim(x).argmax(1).numpy() == np.asarray(images.labels)[study.indices]
    assert (study.correct[2] == now).all()
    with pytest.raises(MismatchError, match="lr"):
        dv.prune(net(), images, "random", tmp_path / "slim.pth", finetune=1, lr=0.1, held_out=0.3, **ABOUT)


def test_images_are_held_out_where_each_class_has_one(tmp_path: pathlib.Path) -> None:
    values = pictures(10)
    alone = dv.InMemoryImages([values[n][0] for n in range(10)], list(range(10)), [str(n) for n in range(10)])
    study, _ = dv.prune(net(), alone, "activity", tmp_path / "slim.pth", held_out=0.3, **{**ABOUT, "outputs": None})
    assert len(study.indices) == 3 and study.config["held_out"] == 0.3


def test_every_command_takes_the_slim_weights(tmp_path: pathlib.Path) -> None:
    demo = load_model("demo")
    plain = dv.Preprocess.from_dict(demo.settings)
    origin = Origin(model="demo", arguments=demo.model.arguments, classes=demo.classes)  # type: ignore[arg-type]
    about = {**ABOUT, "preprocess": plain, "outputs": range(10), "origin": origin}
    _, slim = dv.prune(demo.model, dv.Scenes(4), "l1", tmp_path / "slim.pth", keep=0.3, **about)
    again, x = load_model("demo", str(tmp_path / "slim.pth")), torch.rand(2, 3, 64, 64)
    assert torch.equal(again.model(x), slim(x)) and again.classes == demo.classes and again.settings["crop"] == 64
    listed = CliRunner().invoke(layers, ["demo", "--weights", str(tmp_path / "slim.pth")], catch_exceptions=False)
    assert listed.exit_code == 0 and "conv5" in listed.output
    with pytest.raises(dv.errors.ModelError, match="belong to"):
        load_model("torchvision:squeezenet1_0", str(tmp_path / "slim.pth"))


def test_keep_one_is_the_identity() -> None:
    model = net()
    study, slim = dv.prune(model, pictures(), "l1", keep=1.0, **ABOUT)
    assert all(torch.equal(value, slim.state_dict()[name]) for name, value in model.state_dict().items())
    assert study.multiply_adds_left == study.parameters_left == 1 and (study.correct[0] == study.correct[1]).all()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"keep": 0.0}, PruningError, "keep 0 given; expected a share"),
        ({"layers": {"0": 1.5}}, PruningError, "0 1.5 given"),
        ({"layers": {"4": 0.5}}, LayerNotFound, "no convolution or linear layer '4'"),
        ({"layers": {"7": 0.5}}, PruningError, "'7' cannot be slimmed: the network returns its channels"),
        ({"criterion": "lesion", "outputs": None}, DataError, "'lesion' needs the class of each image"),
        ({"criterion": "l3"}, dv.errors.DeconvvizError, "no criterion named 'l3'"),
        ({"criterion_options": {"gready": True}}, DataError, "l1 has no option 'gready'"),
        ({"finetune": 1, "outputs": [2, 1, 0]}, DataError, "fine-tuning needs images with a class"),
        ({"criterion": "explanations"}, DataError, "needs a bump explainer of the network"),
        ({"criterion": "explanations", "criterion_options": {"explainer": "no.pth"}}, DataError, "no file no.pth"),
        ({"criterion": "lesion", "criterion_options": {"count": "many"}}, DataError, "count 'many' given"),
    ],
)
def test_bad_input(options: dict[str, Any], error: type[Exception], words: str, tmp_path: pathlib.Path) -> None:
    given = {**ABOUT, **options}
    with pytest.raises(error, match=words):
        dv.prune(net(), pictures(), given.pop("criterion", "l1"), tmp_path / "slim.pth", **given)
    assert not list(tmp_path.iterdir())


def test_a_mined_file_of_another_network_is_refused(tmp_path: pathlib.Path) -> None:
    other = dv.capture(net(seed=1), (3, 12, 12))
    mined = dv.mine(other, pictures(), ["0"], 2, preprocess=PREPROCESS, progress=False)
    with pytest.raises(dv.errors.MismatchError, match="the mined file"):
        dv.prune(net(), pictures(), "l1", tmp_path / "slim.pth", mined=mined, **{**ABOUT, "shown": 2})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"criterion": "lesion"}, DataError, "'lesion' needs the class of each image"),
        ({"finetune": 1}, DataError, "fine-tuning needs images with a class"),
        ({"criterion": "lesion", "criterion_options": {"count": 0}}, DataError, "count 0 given"),
        ({"criterion": "explanations"}, DataError, "needs a bump explainer of the network"),
        ({"mined": True, "shown": 2}, MismatchError, "the images"),
    ],
)
def test_what_the_images_and_options_tell_is_refused_before_the_network_is_captured(
    options: dict[str, Any], error: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {**ABOUT, "outputs": None, **options}
    if given.get("mined"):
        about: dict[str, Any] = {"preprocess": PREPROCESS, "progress": False}
        given["mined"] = dv.mine(dv.capture(net(), (3, 12, 12)), pictures(5), ["0"], 2, **about)
    unlabelled = dv.InMemoryImages([pictures()[n][0] for n in range(12)])
    monkeypatch.setattr("deconvviz.studies.pruning.measure.capture", None)
    with pytest.raises(error, match=words):
        dv.prune(net(), unlabelled, given.pop("criterion", "l1"), **given)


def test_the_command_refuses(tmp_path: pathlib.Path) -> None:
    for arguments, words in (
        (["-o", str(tmp_path / "slim.pt")], "ends in .pth"),
        (["--keep", "0", "-o", str(tmp_path / "slim.pth")], "keep 0 given"),
        (["--layer", "conv3", "-o", str(tmp_path / "slim.pth")], "expected LAYER=SHARE"),
        (["--criterion", "explanations", "-o", str(tmp_path / "slim.pth")], "needs a bump explainer"),
        (["--mined", str(tmp_path / "no.h5"), "-o", str(tmp_path / "slim.pth")], "no.h5 does not exist"),
    ):
        with pytest.raises(dv.errors.DeconvvizError, match=words):
            CliRunner().invoke(prune_command, ["demo", "scenes:4", *arguments], catch_exceptions=False)
    assert not [*tmp_path.iterdir()]
