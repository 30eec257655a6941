"""Relevance of channels: dense algebra, conservation, a planted channel, any batch size, shards, resuming, refusals."""

from __future__ import annotations

import pathlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn
from torch.nn import functional

import deconvviz as dv
from deconvviz.choices import RELEVANCE_RULES
from deconvviz.cli.main import cli
from deconvviz.deconv.decision import Decisions
from deconvviz.errors import CaptureError, DataError, MismatchError
from deconvviz.studies.relevance.measure import RelevanceRun

PREPROCESS = dv.Preprocess(resize=16, crop=16)
EPS = 1e-6


class Split(nn.Module):
    """A convolution whose rectified maps go to a second one, and around it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act = nn.Conv2d(3, 4, 3, stride=2), nn.ReLU()
        self.second, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4 * 49, 5)

    def forward(self, x: Tensor) -> Tensor:
        a = self.act(self.first(x))
        return self.head((functional.relu(self.second(a)) + a).flatten(1))


def network_of(model: nn.Module | None = None, seed: int = 0) -> dv.Network:
    torch.manual_seed(seed)
    return dv.capture((model or Split()).double().eval(), (3, 16, 16))


def pictures(count: int = 5) -> Tensor:
    scenes = dv.Scenes(count)
    return PREPROCESS.tensor(np.stack([PREPROCESS.picture(scenes[i][0]) for i in range(count)])).double()


def away(z: Tensor) -> Tensor:
    return z + EPS * torch.where(z >= 0, 1.0, -1.0).double()


def test_epsilon_at_the_branch_equals_its_definition() -> None:
    """R of `act` is what comes through the second convolution plus what goes around it, each by equation 58."""
    torch.manual_seed(1)
    model = Split().double().eval()
    network, x = dv.capture(model, (3, 16, 16)), pictures(2)
    with torch.no_grad():
        a = model.act(model.first(x))
        z = model.second(a)
        b, total = z.relu(), (z.relu() + a)
        y = model.head(total.flatten(1))
        share = y[:, 3:4] / away(y[:, 3:4])
        above = total.flatten(1) * model.head.weight[3] * share
        ratio = above.reshape(total.shape) / away(total)
        matrix = model.second.weight
        through = a * functional.conv_transpose2d(b * ratio / away(z), matrix, padding=1)
    shared = Decisions(network, ["act", "second"], "lrp-epsilon").of(x, torch.tensor([3, 3]))
    torch.testing.assert_close(shared.relevance["act"], through + a * ratio, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(shared.relevance["second"], b * ratio, rtol=1e-9, atol=1e-12)
    biases = model.head.bias[3] * share[:, 0]  # in front of the second convolution its biases keep a share too
    torch.testing.assert_close(shared.parts["second"][:, 2], biases.detach(), rtol=1e-4, atol=1e-5)
    kept = (model.second.bias.detach()[:, None, None] * b * ratio / away(z)).flatten(1).sum(1)
    torch.testing.assert_close(shared.parts["act"][:, 2], biases.detach() + kept, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(shared.parts["second"][:, 1], (a * ratio).flatten(1).sum(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", RELEVANCE_RULES)
def test_the_parts_add_up_to_the_score(rule: str) -> None:
    network, x = network_of(), pictures()
    shared = Decisions(network, ["first", "act", "second"], rule).of(x)
    scores = network(x)
    assert shared.classes.tolist() == scores.argmax(1).tolist()
    torch.testing.assert_close(shared.scores, scores.amax(1))
    for layer, parts in shared.parts.items():
        torch.testing.assert_close(parts.sum(1), shared.scores, msg=layer)
        torch.testing.assert_close(parts[:, 0], shared.relevance[layer].flatten(1).sum(1))


def test_gradient_x_activation_equals_autograd() -> None:
    torch.manual_seed(2)
    model = Split().double().eval()
    x = pictures(3)
    a = model.act(model.first(x)).detach().requires_grad_()
    scores = model.head((functional.relu(model.second(a)) + a).flatten(1))
    (gradient,) = torch.autograd.grad(scores[:, 2].sum(), a)
    shared = Decisions(dv.capture(model, (3, 16, 16)), ["act"], "gradient-x-activation").of(x, torch.tensor([2] * 3))
    torch.testing.assert_close(shared.relevance["act"], (gradient * a).detach())


def test_the_score_is_taken_in_front_of_a_softmax_and_two_classes_of_one_output() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 196, 3))
    x, ends = pictures(2), nn.Sequential(*plain, nn.Softmax(1))
    first, second = (Decisions(network_of(model), ["1"], "lrp-epsilon").of(x) for model in (plain, ends))
    torch.testing.assert_close(first.relevance["1"], second.relevance["1"])
    torch.testing.assert_close(first.probabilities, second.probabilities)
    single = network_of(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 196, 1)))
    for rule in ("lrp-epsilon", "gradient-x-activation"):
        yes, no = (Decisions(single, ["1"], rule).of(x, torch.tensor([c, c])) for c in (0, 1))
        torch.testing.assert_close(yes.relevance["1"], -no.relevance["1"])
        torch.testing.assert_close(yes.probabilities + no.probabilities, torch.ones(2, dtype=torch.float64))


def planted() -> dv.Network:
    """A network whose class 1 rests on channel 2 alone, and class 0 on all the others."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2))
    model[0].bias.data.fill_(0.5)
    weight = torch.tensor([[1.0, 1.0, 0.0, 1.0, 1.0, 1.0], [0.0, 0.0, 3.0, 0.0, 0.0, 0.0]])
    model[4].weight.data = weight
    model[4].bias.data.zero_()
    return dv.capture(model.eval(), (3, 16, 16))


@pytest.mark.parametrize("rule", RELEVANCE_RULES)
def test_a_planted_channel_is_named(rule: str) -> None:
    scenes = dv.Scenes(12)
    found = dv.relevance(
        planted(), scenes, ["1"], 3, rule=rule, target=1, preprocess=PREPROCESS, sources={"outputs": ["rest", "owl"]},
        progress=False,
    )  # fmt: skip
    means, _, images = found.shares_of("1", 1)
    assert images == 12 and means.argmax() == 2 and means[2] == pytest.approx(1)
    said = "owl (12 images), because of channel 2 of 1 (100 % of the relevance)."
    assert found.sentence("1", 1) == said
    assert '2 ("ear")' in found.sentence("1", 1, names={2: "ear"})
    decision = dv.image_relevance(planted(), PREPROCESS.tensor(PREPROCESS.picture(scenes[0][0])[None]), "1", 1, rule)
    assert decision.sentence(["rest", "owl"]).startswith("owl (") and "channel 2 (" in decision.sentence()
    assert found["1"].by_relevance.images[2].tolist() == [0, 1, 2] and (found["1"].by_relevance.images[0] == -1).all()


def test_the_table_is_that_of_each_image_alone() -> None:
    network, scenes = network_of(), dv.Scenes(11)
    found = dv.relevance(network, scenes, ["act"], 4, preprocess=PREPROCESS, batch_size=3, progress=False)
    shares, positions, classes = [], [], []
    for index in range(11):
        x = PREPROCESS.tensor(PREPROCESS.picture(scenes[index][0])[None]).double()
        decision = dv.image_relevance(network, x, "act")
        shares.append(decision.shares)
        positions.append(decision.positions)
        classes.append(decision.target)
    table, sums = np.stack(shares), found["act"].shares
    for channel in range(4):
        order = [int(i) for i in np.argsort(-table[:, channel], kind="stable") if table[i, channel] > 0][:4]
        kept = found["act"].by_relevance.images[channel]
        assert kept[kept >= 0].tolist() == order
        assert found["act"].by_relevance.positions[channel, : len(order)].tolist() == [
            positions[i][channel].tolist() for i in order
        ]
    assert sums.decided.tolist() == np.bincount(classes, minlength=5).tolist()
    for target in set(classes):
        rows = table[np.array(classes) == target]
        means, halves, count = sums.mean(target)
        np.testing.assert_allclose(means, rows.mean(0), atol=1e-7)
        if count > 1:
            np.testing.assert_allclose(halves, 1.959964 * rows.std(0, ddof=1) / np.sqrt(count), atol=1e-7)
    mined = dv.mine(network, scenes, ["act"], 4, preprocess=PREPROCESS, progress=False)
    np.testing.assert_array_equal(found["act"].by_activation.images, mined["act"].images)
    np.testing.assert_allclose(found["act"].by_activation.values, mined["act"].values, rtol=1e-6)


def test_shards_and_interrupted_runs_give_the_same(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, scenes = network_of(), dv.Scenes(13)
    how: dict[str, Any] = {"preprocess": PREPROCESS, "batch_size": 2, "progress": False, "commit_every": 1}
    whole = dv.relevance(network, scenes, ["act", "first"], 3, tmp_path / "whole.h5", **how)
    parts = [tmp_path / f"{i}.h5" for i in range(3)]
    for i, path in enumerate(parts):
        dv.relevance(network, scenes, ["act", "first"], 3, path, shard=(i, 3), **how)
    same(dv.merge_relevance(parts[::-1], tmp_path / "merged.h5"), whole)
    same(dv.load_relevance(tmp_path / "merged.h5"), whole)
    with pytest.raises(MismatchError, match="expected each of 0/3"):
        dv.merge_relevance(parts[:2], tmp_path / "two.h5")
    real, batches = RelevanceRun._with_batch, []

    def stopped(self: Any, tables: Any, batch: Any) -> Any:
        batches.append(batch)
        if len(batches) == 4:
            raise KeyboardInterrupt
        return real(self, tables, batch)

    monkeypatch.setattr(RelevanceRun, "_with_batch", stopped)
    with pytest.raises(KeyboardInterrupt):
        dv.relevance(network, scenes, ["act", "first"], 3, tmp_path / "cut.h5", **how)
    assert dv.load_relevance(tmp_path / "cut.h5").done == 6
    same(dv.relevance(network, scenes, ["act", "first"], 3, tmp_path / "cut.h5", **how), whole)
    with pytest.raises(MismatchError, match="rule"):
        dv.relevance(network, scenes, ["act", "first"], 3, tmp_path / "cut.h5", rule="lrp-gamma", **how)


def same(one: dv.Relevance, other: dv.Relevance) -> None:
    assert one.complete and one.done == other.done
    for name, layer in other.items():
        for key in ("images", "positions"):
            for table in ("by_relevance", "by_activation"):
                np.testing.assert_array_equal(
                    getattr(getattr(one[name], table), key), getattr(getattr(layer, table), key)
                )
        for key in ("total", "parts"):  # float32 in batches of other sizes is not the same to the last bit
            mine, theirs = (getattr(relevance.shares, key) for relevance in (one[name], layer))
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(one[name].shares.decided, layer.shares.decided)


def test_labels_and_images_whose_relevance_is_not_finite() -> None:
    scenes = dv.Scenes(8)
    outputs = np.arange(len(scenes.classes)) % 5
    found = dv.relevance(
        network_of(), scenes, ["act"], 2, target="label", outputs=outputs, preprocess=PREPROCESS, progress=False
    )
    expected = np.bincount(outputs[np.asarray(scenes.labels)], minlength=5)
    assert found["act"].shares.decided.tolist() == expected.tolist()
    broken = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 196, 2))
    broken[3].weight.data[0, 0] = torch.inf
    result = dv.relevance(network_of(broken), scenes, ["1"], 2, target=0, preprocess=PREPROCESS, progress=False)
    assert result["1"].shares.broken == 8 and (result["1"].by_relevance.images == -1).all()
    assert np.isfinite(result["1"].shares.total).all()


def test_concept_relevance_of_all_channels_is_the_relevance_of_the_pixels() -> None:
    """Restricted to each channel in turn and added up, the decision is what passes through the layer whole."""
    torch.manual_seed(4)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(432, 3))
    network, x = dv.capture(model.double().eval(), (3, 16, 16)), pictures(1)
    target = int(network(x).argmax())
    first, second, _ = (tensor for tensor in model.parameters() if tensor.dim() > 1)
    image = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(image)[0, target], image)
    with torch.no_grad():
        z, b, y = model[0](x), model[2](model[0](x).relu()), model(x)
        above = b.relu().flatten(1) * model[5].weight[target] * (y[0, target] / away(y[0, target]))
        middle = z.relu() * functional.conv_transpose2d(above.reshape(b.shape) / away(b), second)
        wholes = {
            "lrp-epsilon": x * functional.conv_transpose2d(middle / away(z), first),
            "gradient-x-activation": x * gradient,
        }
    for rule, whole in wholes.items():
        parts = [dv.project_decision(network, x, "1", channel, target, rule) for channel in range(4)]
        torch.testing.assert_close(torch.stack([part.pixels for part in parts]).sum(0), whole[0], atol=1e-6, rtol=1e-4)
    assert sum(abs(part.share) for part in parts) == pytest.approx(1)
    assert sum(part.relevance for part in parts) == pytest.approx(
        float(Decisions(network, ["1"], "gradient-x-activation").of(x).parts["1"][0, 0])
    )


def test_refusals(tmp_path: pathlib.Path) -> None:
    network, scenes = network_of(), dv.Scenes(2)
    with pytest.raises(DataError, match="classes 0 to 4"):
        dv.relevance(network, scenes, ["act"], target=5, preprocess=PREPROCESS)
    with pytest.raises(DataError, match="outputs"):
        dv.relevance(network, scenes, ["act"], target="label", preprocess=PREPROCESS)
    with pytest.raises(CaptureError, match="do not follow"):
        Decisions(network_of(nn.Sequential(nn.Flatten(), nn.Linear(768, 3), nn.Softmax(1))), ["2"])
    with pytest.raises(CaptureError, match="class 9 given"):
        Decisions(network, ["act"]).of(pictures(1), torch.tensor([9]))
    found = dv.relevance(network, scenes, ["act"], 2, preprocess=PREPROCESS, progress=False)
    empty = next(c for c in range(5) if not found["act"].shares.decided[c])
    with pytest.raises(DataError, match="no decision for class"):
        found.shares_of("act", empty)
    with pytest.raises(DataError, match="is not in this result"):
        _ = replace(found)["conv9"]


def test_the_command(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def run(words: str) -> Any:
        return CliRunner().invoke(cli, words.split(), catch_exceptions=True)

    done = run("relevance demo scenes:20:1 -l relu5 -o r.h5 -k 4 --csv r.csv --quiet")
    assert done.exit_code == 0, done.output
    assert "because of channel" in done.output and "--for" in done.output
    assert {path.name for path in tmp_path.iterdir()} == {"r.h5", "r.csv", "r.png"}
    header, first = (tmp_path / "r.csv").read_text().splitlines()[:2]
    assert header == "layer,target,class,images,channel,share,share_95" and first.startswith("relu5,")
    for i in (0, 1):
        assert run(f"relevance demo scenes:20:1 -l relu5 -o p{i}.h5 -k 4 --shard {i}/2 --quiet").exit_code == 0
    assert run("merge p0.h5 p1.h5 -o m.h5").exit_code == 0
    same(dv.load_relevance("m.h5"), dv.load_relevance("r.h5"))
    scene = dv.Scenes(1)[0][0]
    from PIL import Image

    Image.fromarray(scene).save("scene.png")
    pictured = run("relevance demo scenes:20:1 -l relu5 -o r.h5 -k 4 --image scene.png --quiet")
    assert "scene.png: " in pictured.output and "%), because of" in pictured.output
    assert run("project demo scene.png -l relu5 -c 41 --for cat -o c.png").exit_code == 0
    loaded = dv.load_model("demo")
    preprocess = dv.Preprocess.from_dict(loaded.settings)
    x = preprocess.tensor(preprocess.picture(scene)[None])
    decided = int(loaded.model(x).argmax())
    for target in (decided, (decided + 1) % 10):  # the figure tells where the network decides otherwise
        assert run(f"project demo scene.png -l relu5 -c 41 --for {target} -o c.png").exit_code == 0
        with Image.open("c.png") as figure:
            text = " ".join(figure.info["Description"].split())
        assert (f"decides for class {decided}" in text) == (target != decided)
        assert "of the sum of the absolute relevance of the layer's channels" in text
    projected = dv.project_decision(dv.capture(loaded.model, (3, 64, 64)), x, "relu5", 41, (decided + 1) % 10)
    assert projected.decided == decided
    drawn = np.asarray(dv.draw_projection(projected).axes[2].images[1].get_array())
    assert np.array_equal(np.sign(drawn), np.sign(projected.full().sum(0).numpy())) and drawn.min() < 0 < drawn.max()
    for words, message in {
        "relevance demo scenes:9 -l relu5 -o r.png": "ends in .h5",
        "relevance demo scenes:9 -l relu5 -o x.h5 --image scene.png --for cat": "leave the other out",
        "relevance demo scenes:9 -l relu5 -o x.h5 --for zebra": "zebra",
        "relevance demo scenes:9 -l relu5 -o x.h5 --for 99": "classes 0 to",
        "project demo scene.png -l relu5 -c 41 --for cat -p 1,1 -o d.png": "leave --position out",
        "project demo scene.png -l relu5 -c 41 --for cat --rule guided -o d.png": "a decision goes back by",
    }.items():
        failed = run(words)
        assert failed.exit_code != 0 and message in str(failed.exception), words
    assert not (tmp_path / "x.h5").exists() and not (tmp_path / "d.png").exists()
