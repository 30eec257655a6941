"""The training of an explainer: against plain torch, in phases, in half precision, and what its terms do."""

from __future__ import annotations

import pathlib
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import replicas as r
import replicas_learned as rl
import torch
from demo_explainers import MASKS, SELECTOR, SHORT, demo, learn, rows, same_files
from tiny_explainers import EXPLAINERS, lively_explainer
from torch import nn

import deconvviz as dv
from deconvviz.cam.learned.base import LEARNED, LearnedExplainer, Phase
from deconvviz.cam.learned.bump import Bump
from deconvviz.cam.learned.masking import RealTimeMasking
from deconvviz.data.preprocess import Preprocess
from deconvviz.studies.explainers.frozen import FrozenNetwork, new_explainer
from deconvviz.studies.explainers.train import train_explainer
from deconvviz.types import Picture


@pytest.mark.slow
@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("name", EXPLAINERS[:2])
def test_training_against_plain_torch(tmp_path: pathlib.Path, name: str, labels: bool) -> None:
    """Two epochs by hand: order, classes, loss, Nesterov steps, rates of weights and biases; and the CSV."""
    model, _, preprocess, scenes = demo()
    phase = Phase(
        "attention", epochs=2, batch_size=24, lr=0.2, decay=0.5, momentum=0.8, weight_decay=0.01, augment=False
    )
    mapping = np.roll(np.arange(10), 3)  # no label explains its own class
    out = tmp_path / "e.pth"
    first = new_explainer(name, FrozenNetwork(demo()[1], ["relu5"], preprocess, "fp32"), {}, 2)
    trained = learn(name, out, phase, outputs=mapping if labels else None)

    w = first.state_dict()["attention.weight"][:, :, 0, 0].clone().requires_grad_()
    b = first.state_dict()["attention.bias"].clone().requires_grad_()
    speed = [torch.zeros_like(w), torch.zeros_like(b)]
    x = torch.stack([preprocess(picture) for picture in scenes.pictures])
    black = torch.tensor([-m / s for m, s in zip(preprocess.mean, preprocess.std, strict=True)])[:, None, None]
    last = list(dict(model.named_children())).index("relu5") + 1
    parts = nn.Sequential(*list(model.children())[:last]), nn.Sequential(*list(model.children())[last:])
    for epoch in range(2):
        order = np.random.default_rng([2, 0, epoch]).permutation(64)
        sums = Counter[str]()
        for start in range(0, 64, 24):
            chosen = order[start : start + 24]
            n = len(chosen)
            with torch.no_grad():
                a = parts[0](x[chosen])
                y = torch.from_numpy(mapping[scenes.labels[chosen]]) if labels else parts[1](a).argmax(1)
            attention = (torch.einsum("rk,nkhw->nrhw", w, a) + b[:, None, None])[torch.arange(n), y].sigmoid()
            if name == "l-cam-fm":
                logits = parts[1](a * attention[:, None])
            else:
                mask = nn.functional.interpolate(attention[:, None], (64, 64), mode="bilinear")
                logits = model((x[chosen] - black) * mask + black)
            d, q = attention.diff(dim=1), attention.diff(dim=2)
            edges = [attention[:, 0], attention[:, -1], attention[:, :, 0], attention[:, :, -1]]
            tv = (d.pow(2).sum() + q.pow(2).sum() + 0.3 * sum(e.pow(2).sum() for e in edges)) / (2 * n)
            ce = nn.functional.cross_entropy(logits, y)
            terms = {
                "smoothness": 0.01 * tv,
                "area": 2 * ((attention + 0.0005) ** 0.3).mean(),
                "cross_entropy": 1.5 * ce,
            }
            loss = terms["smoothness"] + terms["area"] + terms["cross_entropy"]
            right = (logits.argmax(1) == y).double().mean()
            for key, value in {**terms, "loss": loss, "right": right}.items():
                sums[key] += float(value.detach()) * n  # type: ignore[assignment]
            gradients = torch.autograd.grad(loss, [w, b])
            with torch.no_grad():
                for p, g, v, factor in zip((w, b), gradients, speed, (1, 2), strict=True):
                    g = g + 0.01 * p
                    v.mul_(0.8).add_(g)
                    p -= 0.2 * 0.5**epoch * factor * (g + 0.8 * v)
        row, recorded = rows(out)[epoch], trained.history[epoch]
        assert row["phase"] == "attention" and int(row["epoch"]) == epoch + 1
        assert float(row["lr"]) == pytest.approx(0.2 * 0.5**epoch)
        for key, total in sums.items():
            assert float(row[key]) == pytest.approx(total / 64, rel=1e-3, abs=1e-6), key
            assert float(row[key]) == pytest.approx(recorded[key], rel=1e-6)
    found = torch.load(out, weights_only=True)
    assert torch.allclose(found["attention.weight"][:, :, 0, 0], w, atol=2e-4)
    assert torch.allclose(found["attention.bias"], b, atol=2e-4)
    assert float((w.detach() - first.state_dict()["attention.weight"][:, :, 0, 0]).abs().max()) > 0.01


@pytest.mark.slow
def test_terms_in_the_csv_add_up_and_crops_matter(tmp_path: pathlib.Path) -> None:
    """Weighted terms sum to the loss; crops are drawn from the seed: the same again, others with another one."""
    plain, again, other = (learn("l-cam-fm", tmp_path / f"{n}.pth", seed=s) for n, s in enumerate((2, 2, 3)))
    same_files(plain.path, again.path)
    assert [{**record, "seconds": 0} for record in plain.history] == [{**r, "seconds": 0} for r in again.history]
    assert plain.history[0]["loss"] != other.history[0]["loss"]
    still = learn("l-cam-fm", tmp_path / "still.pth", replace(SHORT, augment=False))
    assert still.history[0]["loss"] != plain.history[0]["loss"]
    for row in rows(plain.path):
        total = sum(float(row[term]) for term in ("smoothness", "area", "cross_entropy"))
        assert float(row["loss"]) == pytest.approx(total, rel=1e-5) and 0 <= float(row["right"]) <= 1


def test_batches_that_do_not_fit_go_in_parts(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phase = replace(SHORT, augment=False)
    whole, inputs = learn("l-cam-fm", tmp_path / "whole.pth", phase), FrozenNetwork.inputs

    def narrow(self: FrozenNetwork, preprocess: Preprocess, pictures: Picture) -> torch.Tensor:
        if len(pictures) > 9:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inputs(self, preprocess, pictures)

    monkeypatch.setattr(FrozenNetwork, "inputs", narrow)
    parts = learn("l-cam-fm", tmp_path / "parts.pth", phase)
    assert parts.history[-1]["loss"] == pytest.approx(whole.history[-1]["loss"], rel=1e-4)
    for ours, theirs in zip(parts.explainer.parameters(), whole.explainer.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_phases_in_order(tmp_path: pathlib.Path) -> None:
    """First the selector, which changes the embedding alone; then everything; and the defaults are the authors'."""
    _, network, preprocess, _ = demo()
    first = new_explainer(
        "real-time-masking", FrozenNetwork(network, ["relu2", "relu5"], preprocess, "fp32"), {"width": 8}, 2
    )
    half = learn("real-time-masking", tmp_path / "half.pth", SELECTOR).explainer.state_dict()
    for key, value in first.state_dict().items():
        assert torch.equal(half[key], value) == (key != "embedding.weight"), key
    head = learn(
        "real-time-masking", tmp_path / "head.pth", replace(MASKS, epochs=1, parameters=("head", "joins.0.norm"))
    )
    for key, value in first.state_dict().items():
        assert torch.equal(head.explainer.state_dict()[key], value) != key.startswith(("head", "joins.0.norm")), key
    whole = learn("real-time-masking", tmp_path / "whole.pth")
    assert [(r["phase"], r["epoch"]) for r in whole.history] == [("selector", 1), ("masks", 1), ("masks", 2)]
    assert whole.history[0]["exists"] == pytest.approx(whole.history[0]["loss"]) and "area" not in whole.history[0]
    state = whole.explainer.state_dict()
    assert all(not torch.equal(state[key], half[key]) for key in state)
    selector, masks = first.schedule()
    assert (selector.steps, selector.batch_size, selector.fakes, selector.every) == (8500, 128, 0.5, 4000)
    assert (masks.steps, masks.batch_size, masks.fakes, masks.lr, masks.weight_decay) == (3000, 64, 0.3, 1e-3, 1e-4)
    (attention,) = lively_explainer("l-cam-fm").schedule()
    assert (attention.epochs, attention.batch_size, attention.lr, attention.bias_lr) == (26, 64, 1e-4, 2)
    assert (attention.decay, attention.momentum, attention.weight_decay) == (0.95, 0.9, 5e-4)


@pytest.mark.parametrize("name", EXPLAINERS)
def test_bf16_learns_about_the_same(tmp_path: pathlib.Path, name: str) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 5, 4),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, 2),
        nn.ReLU(),
        nn.AvgPool2d(7),
        nn.Flatten(),
        nn.Linear(12, 5),
    ).eval()
    network, many = dv.capture(model, (3, 64, 64)), LEARNED[name].many
    losses = []
    for precision in ("fp32", "bf16"):
        trained = train_explainer(
            name,
            network,
            demo()[3],
            ["1", "3"] if many else ["3"],
            tmp_path / f"{precision}.pth",
            workers=1,
            preprocess=Preprocess(72, 64, (0.5,) * 3, (0.25,) * 3),
            phases=(MASKS if many else SHORT,),
            options={"width": 8} if many else {},
            outputs=np.arange(10) % 5,
            precision=precision,
            progress=False,
        )
        assert all(value.dtype == torch.float32 for value in trained.explainer.state_dict().values())
        assert all(t.dtype == torch.float32 for t in network.tensors.values())
        losses.append([record["loss"] for record in trained.history])
    assert losses[1][0] == pytest.approx(losses[0][0], rel=0.02)  # later the steps themselves differ
    assert losses[1] == pytest.approx(losses[0], rel=0.1) and losses[1] != losses[0]


def measured(explainer: LearnedExplainer) -> tuple[float, float]:
    """Mean area and total variation of the maps in 0..1 that the network's decisions have; masks at the image's size,
    as their loss takes them."""
    _, network, preprocess, scenes = demo()
    x = torch.stack([preprocess(picture) for picture in scenes.pictures[:16]])
    with torch.no_grad():
        values, logits = network.observed(x, list(explainer.layers))
        classes = logits.argmax(1)
        if isinstance(explainer, RealTimeMasking):
            maps = explainer.masks(values, classes, 0.0).double().numpy()
            return float(maps.mean()), rl.total_variation(r.resize(maps, (64, 64)))
        if isinstance(explainer, Bump):
            maps = explainer(values, classes).double().numpy()
            return float(maps.mean()), rl.total_variation(maps)
        maps = rl.sigmoid(explainer(values, classes).double().numpy())
    return float(maps.mean()), rl.total_variation(maps)


TERMS: dict[tuple[str, str], tuple[float, float, float]] = {
    ("l-cam-fm", "area"): (0.0, 2.0, 20.0),
    ("l-cam-img", "area"): (0.0, 2.0, 20.0),
    ("real-time-masking", "area"): (0.0, 30.0, 300.0),
    ("bump", "area"): (0.0, 0.2, 0.6),  # a bump has three numbers: larger weights make it vanish at once
    ("bump", "smoothness"): (0.0, 0.01, 0.05),
}
FINE = (0.0, 0.3, 3.0)
WEIGHTS = [
    pytest.param(name, term, marks=pytest.mark.slow if name == "real-time-masking" else ())
    for name in EXPLAINERS
    for term in ("area", "smoothness")
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "term"), WEIGHTS)
def test_terms_do_what_they_claim(tmp_path: pathlib.Path, name: str, term: str) -> None:
    """The more the area weighs the smaller the maps, the more smoothness weighs the smoother they are."""
    many, found = LEARNED[name].many, []
    steps = replace(MASKS, lr=1e-2) if many else replace(SHORT, lr=0.2, decay=1.0)
    others = {"area": 0.0} if (name, term) == ("bump", "smoothness") else {}  # its own area makes it vanish too
    for n, weight in enumerate(TERMS.get((name, term), FINE)):
        options = others | ({"width": 8, term: weight} if many else {term: weight})
        trained = learn(name, tmp_path / f"{n}.pth", replace(steps, augment=False), options=options)
        found.append(measured(trained.explainer)[0 if term == "area" else 1])
    assert found[0] > 1.01 * found[1] > 1.01**2 * found[2], found
