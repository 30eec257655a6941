"""Variants trained by one recipe, and lesions of a trained network, each against a replica from its definition."""

from __future__ import annotations

import csv
import dataclasses
import math
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import multinomial
from torch import Tensor, nn
from torch.nn import functional

import deconvviz as dv
from deconvviz.errors import CamError, CaptureError, DataError, LayerNotFound, MismatchError, ModelError
from deconvviz.studies.ablation import train as ablation
from deconvviz.studies.ablation.command import ablate
from deconvviz.studies.ablation.figure import draw_lesions, draw_variants
from deconvviz.studies.ablation.train import FULL, PAPER_ERRORS, VARIANTS, VariantTable, ablate_variants
from deconvviz.studies.lesions import measure as lesions
from deconvviz.studies.lesions.measure import lesion
from deconvviz.studies.lesions.result import Lesions, load_lesions, paired_interval
from deconvviz.studies.training import train as training
from deconvviz.studies.training.batches import split
from deconvviz.studies.training.recipe import Recipe

# --- variants --------------------------------------------------------------------------------------------------------

TINY: dict[str, Any] = {"input_size": 64, "width": 0.04, "dropout": 0.3, "progress": False, "workers": 1}
RECIPE = Recipe(epochs=2, batch_size=16, lr=0.01, seed=3)
SOME = ("no-6-7", FULL, "no-3-4-6-7")


def parameters(maps: list[int], units: list[int], remove: tuple[int, ...], side: int, classes: int) -> int:
    """Weights and a bias each, layer by layer as figure 3 lists them; side: of the last pool's maps."""
    total, below = 0, 3
    for number, (size, kernel) in enumerate(zip(maps, (7, 5, 3, 3, 3), strict=True), 1):
        if number not in remove:
            total, below = total + size * below * kernel * kernel + size, size
    below *= side * side
    for number, size in zip((6, 7), units, strict=True):
        if number not in remove:
            total, below = total + size * below + size, size
    return total + classes * below + classes


def test_table_3s_variants() -> None:
    """Numbers of parameters at 224 px: by hand for the full one, by the arithmetic of figure 3 for each."""
    usual, wide = [96, 256, 384, 384, 256], [96, 256, 512, 1024, 512]
    expected = {
        FULL: (usual, 4096, ()),
        "no-3-4": (usual, 4096, (3, 4)),
        "no-7": (usual, 4096, (7,)),
        "no-6-7": (usual, 4096, (6, 7)),
        "no-3-4-6-7": (usual, 4096, (3, 4, 6, 7)),
        "fc-2048": (usual, 2048, ()),
        "fc-8192": (usual, 8192, ()),
        "conv-512-1024-512": (wide, 4096, ()),
        "conv-512-1024-512-fc-8192": (wide, 8192, ()),
    }
    assert set(expected) == set(VARIANTS)
    counts = {name: parameters(m, [u, u], r, 6, 1000) for name, (m, u, r) in expected.items()}
    assert counts[FULL] == 62_357_608 and counts["no-7"] == 62_357_608 - 4096 * 4097
    for name, change in VARIANTS.items():
        assert ablation._parameters(change) == counts[name], name
    for (_, name), errors in PAPER_ERRORS.items():
        assert name in VARIANTS and errors[2] < errors[1]
    rises = [PAPER_ERRORS["alexnet", name][1] - 40.5 for name in ("no-3-4", "no-6-7", "no-3-4-6-7")]
    assert np.allclose(rises, [4.9, 4.3, 30.8])  # section 5.1: little, little, much


class Drawn:
    """Scenes that are drawn once, since each variant reads them."""

    def __init__(self, scenes: dv.Scenes) -> None:
        self.classes, self.labels, self.names = scenes.classes, scenes.labels, scenes.names
        self.fingerprint, self.images = scenes.fingerprint, [scenes[n] for n in range(len(scenes))]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        return self.images[index]


@pytest.fixture(scope="module")
def scenes() -> tuple[Drawn, Drawn]:
    return Drawn(dv.Scenes(48, seed=5)), Drawn(dv.Scenes(30, seed=6))


@pytest.fixture(scope="module")
def straight(
    scenes: tuple[Drawn, Drawn], tmp_path_factory: pytest.TempPathFactory
) -> tuple[pathlib.Path, VariantTable]:
    folder = tmp_path_factory.mktemp("ablation") / "straight"
    return folder, ablate_variants(*scenes, SOME, folder=folder, recipe=RECIPE, **TINY)


def without_seconds(table: VariantTable) -> list[dict[str, Any]]:
    return [{key: value for key, value in vars(row).items() if key != "seconds"} for row in table.rows]


def test_the_table_tells_of_the_files(
    straight: tuple[pathlib.Path, VariantTable], scenes: tuple[Drawn, Drawn], tmp_path: pathlib.Path
) -> None:
    """Each file loaded anew and run image by image: errors, differences, intervals, parameters, epochs, seconds."""
    folder, table = straight
    right: dict[str, list[bool]] = {}
    for row in table.rows:
        loaded = dv.load_model("zfnet", str(folder / f"{row.name}.pth"))
        preprocess, errors = dv.Preprocess.from_dict(loaded.settings), []
        for images in scenes:
            first, fifth = [], []
            for image, label in (images[n] for n in range(len(images))):
                order = loaded.model(preprocess(image)[None])[0].argsort(descending=True).tolist()
                first.append(order[0] == label)
                fifth.append(label in order[:5])
            errors += [1 - np.mean(first), 1 - np.mean(fifth)]
        right[row.name] = first
        found = [row.training_error, row.training_top5_error, row.validation_error, row.validation_top5_error]
        assert np.allclose(found, errors), row.name  # type: ignore[arg-type]
        content = torch.load(folder / f"{row.name}.pth", weights_only=True)
        assert row.validation_error == pytest.approx(1 - content["history"][-1]["validation_accuracy"])
        assert row.parameters == sum(p.numel() for p in content["state_dict"].values())
        assert row.epochs == 2 and row.seconds == pytest.approx(sum(h["seconds"] for h in content["history"]))
        assert row.paper == PAPER_ERRORS.get(("zfnet", row.name)) and loaded.classes == scenes[0].classes
    assert [row.name for row in table.rows] == list(SOME) and table.images == 30
    assert len({tuple(one) for one in right.values()}) > 1, "the variants answer alike: nothing is compared"
    assert table.rows[1].difference is None  # the full one, from itself
    for row in (table.rows[0], table.rows[2]):
        lost = sum(a and not b for a, b in zip(right[FULL], right[row.name], strict=True))
        gained = sum(b and not a for a, b in zip(right[FULL], right[row.name], strict=True))
        assert row.difference == pytest.approx((lost - gained) / 30)
        assert [row.low, row.high] == pytest.approx(paired_interval(np.array(lost), np.array(gained), 30).tolist())
    table.save_csv(tmp_path / "t.csv")
    with (tmp_path / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == list(SOME) and rows[1]["paper_validation_error"] == "0.384"
    assert rows[0]["paper_validation_error"] == "" and float(rows[0]["difference"]) == pytest.approx(
        table.rows[0].difference, abs=1e-6
    )
    assert "no-3-4-6-7" in repr(table) and "30 images" in repr(table)


def test_a_variant_is_what_train_makes(
    straight: tuple[pathlib.Path, VariantTable], scenes: tuple[Drawn, Drawn], tmp_path: pathlib.Path
) -> None:
    """The weights of the variant equal those of its network, begun from the recipe's seed and trained by itself."""
    torch.manual_seed(RECIPE.seed)
    model = dv.zfnet(10, 64, width=0.04, remove=(6, 7), dropout=0.3)
    training.train(model, scenes[0], tmp_path / "t.pth", RECIPE, validation=scenes[1], progress=False)
    kept = torch.load(straight[0] / "no-6-7.pth", weights_only=True)["state_dict"]
    assert all(torch.equal(weight, kept[name]) for name, weight in model.state_dict().items())


class Stop(Exception):
    pass


@pytest.mark.parametrize("stop", [4, 8, 17])  # of 3 steps an epoch, 6 a variant: in the middle of each, and between
def test_interrupted_and_continued(
    straight: tuple[pathlib.Path, VariantTable],
    scenes: tuple[Drawn, Drawn],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    stop: int,
) -> None:
    steps, renormalise = 0, training.renormalise

    def counted(model: nn.Module, radius: float) -> None:
        nonlocal steps
        renormalise(model, radius)
        steps += 1
        if steps == stop:
            raise Stop

    monkeypatch.setattr(training, "renormalise", counted)
    job: dict[str, Any] = {"folder": tmp_path / "f", "recipe": RECIPE, "commit_every": 1, **TINY}
    with pytest.raises(Stop):
        ablate_variants(*scenes, SOME, **job)
    found = ablate_variants(*scenes, SOME, **job)
    assert without_seconds(found) == without_seconds(straight[1])
    assert steps == 18 + 1  # the step that was stopped, and no other, was taken twice
    again = ablate_variants(*scenes, SOME, **job)
    assert steps == 19 and again.rows == found.rows


def test_what_is_finished_is_not_opened(
    straight: tuple[pathlib.Path, VariantTable], scenes: tuple[Drawn, Drawn], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("trained or measured again")

    monkeypatch.setattr(ablation, "train", never)
    monkeypatch.setattr(ablation, "_right", never)
    folder, table = straight
    assert ablate_variants(*scenes, SOME, folder=folder, recipe=RECIPE, **TINY).rows == table.rows
    alone = ablate_variants(*scenes, "no-6-7", folder=folder, recipe=RECIPE, **TINY)  # compared with the kept full one
    assert alone.rows == table.rows[:1]
    with pytest.raises(AssertionError, match="again"):
        ablate_variants(*scenes, "no-7", folder=folder, recipe=RECIPE, **TINY)


def test_more_epochs_and_a_share_held_out(scenes: tuple[Drawn, Drawn], tmp_path: pathlib.Path) -> None:
    """Trained on, as if at once; the held-out share is what it was validated on, the rest what it was trained on."""
    images, recipe = scenes[0], Recipe(epochs=1, batch_size=16, lr=0.01, validation=0.4)
    longer = Recipe(epochs=2, batch_size=16, lr=0.01, validation=0.4)
    ablate_variants(images, None, FULL, folder=tmp_path / "a", recipe=recipe, **TINY)
    ahead = ablate_variants(images, None, "no-3-4-6-7", folder=tmp_path / "a", recipe=longer, **TINY)
    assert ahead.rows[0].difference is None  # the full one has seen fewer epochs
    found = ablate_variants(images, None, FULL, folder=tmp_path / "a", recipe=longer, **TINY)
    once = ablate_variants(images, None, FULL, folder=tmp_path / "b", recipe=longer, **TINY)
    assert without_seconds(found) == without_seconds(once) and found.rows[0].epochs == 2
    parts = split(images.labels, 0.4, 0)
    loaded = dv.load_model("zfnet", str(tmp_path / "a" / "full.pth"))
    preprocess = dv.Preprocess.from_dict(loaded.settings)
    errors = []
    for part in parts:
        x = torch.stack([preprocess(images[int(n)][0]) for n in part])
        errors.append(float(np.mean(loaded.model(x).argmax(1).numpy() != images.labels[part])))
    assert [found.rows[0].training_error, found.rows[0].validation_error] == pytest.approx(errors)
    assert found.images == len(parts[1])
    with pytest.raises(MismatchError, match="trained for 2 epochs, 1 asked for"):
        ablate_variants(images, None, ("no-7", FULL), folder=tmp_path / "a", recipe=recipe, **TINY)
    assert not (tmp_path / "a" / "no-7.pth").exists()  # refused before any work
    (tmp_path / "a" / "ablation.h5").unlink()  # the networks tell it too
    with pytest.raises(MismatchError, match="trained for 2 epochs, 1 asked for"):
        ablate_variants(images, None, FULL, folder=tmp_path / "a", recipe=recipe, **TINY)


def test_a_folder_holds_one_recipe_and_one_dataset(
    straight: tuple[pathlib.Path, VariantTable], scenes: tuple[Drawn, Drawn]
) -> None:
    folder, _ = straight
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    images, held = scenes
    other = dv.Scenes(48, seed=7)
    cases: list[tuple[tuple[Any, Any], dict[str, Any], str]] = [
        ((images, held), {"recipe": Recipe(epochs=2, batch_size=16, lr=0.02)}, "lr: 0.01 in the file, 0.02 now"),
        ((images, held), {"width": 0.05}, "width: 0.04 in the file"),
        ((images, held), {"first": "alexnet"}, "first: zfnet in the file"),
        ((images, held), {"resize": 70}, "resize: None in the file"),
        ((other, held), {}, "images: "),
        ((images, other), {}, "validation_images: "),
    ]
    for data, change, complaint in cases:
        with pytest.raises(MismatchError, match=complaint):
            ablate_variants(*data, "no-7", folder=folder, **{"recipe": RECIPE, **TINY, **change})
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


class Solid:
    """Images of one colour each, with a little noise; the colour tells the class."""

    def __init__(self, labels: list[int], classes: tuple[str, ...] = ("red", "green", "blue"), noise: int = 0) -> None:
        rng = np.random.default_rng(len(labels))
        self.labels, self.classes = np.array(labels, np.int64), classes
        self.images = np.zeros((len(labels), 8, 8, 3), np.uint8)
        for image, label in zip(self.images, labels, strict=True):
            if label >= 0:
                image[..., label % 3] = 200
        self.images += rng.integers(0, noise + 1, self.images.shape, np.uint8)
        self.names = tuple(f"image {n}" for n in range(len(labels)))
        self.fingerprint = f"solid {labels} {noise}"

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        return self.images[index], int(self.labels[index])


def test_what_cannot_be_trained(scenes: tuple[Drawn, Drawn], tmp_path: pathlib.Path) -> None:
    images, held = scenes
    (tmp_path / "file").write_text("no folder")
    colours = Solid([0, 1, 2])
    cases: list[tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
        ((images, held, "no-5"), {}, DataError, "variant 'no-5' given; nearest: .*no-7"),
        ((images, held, ()), {}, DataError, "no variant given; expected some of full, no-3-4"),
        ((images, None, FULL), {"recipe": Recipe(validation=0)}, DataError, "no image to validate on"),
        ((images, colours, FULL), {}, MismatchError, "classes red, green, blue to validate on, cat, owl, bird"),
        ((Solid([-1, -1]), None, FULL), {}, DataError, "0 of 2 images have a class"),
        ((images, held, FULL), {"width": 0.0}, ModelError, "positive factor"),
        ((images, held, FULL), {"input_size": 50}, ModelError, "input size 50 given"),
        ((images, held, FULL), {"folder": tmp_path / "file"}, DataError, "cannot make the folder"),
    ]
    for data, change, kind, complaint in cases:
        with pytest.raises(kind, match=complaint):
            ablate_variants(*data, **{"folder": tmp_path / "f", "recipe": RECIPE, **TINY, **change})
    assert not list(tmp_path.rglob("*.pth"))


def test_few_classes_have_no_top_5_and_the_size_fits(tmp_path: pathlib.Path) -> None:
    """8 px images get the smallest input there is; of three classes the five best would always hold the right one."""
    job = {**TINY, "input_size": None, "recipe": Recipe(epochs=1, batch_size=8)}
    found = ablate_variants(Solid([0, 1, 2] * 4), Solid([0, 1, 2]), "no-6-7", folder=tmp_path / "f", **job)
    assert found.config["input_size"] == 32 and found.rows[0].validation_top5_error is None
    assert found.rows[0].difference is None and found.rows[0].training_top5_error is None
    assert ablation._fitting(dv.Scenes(1, size=100), "zfnet") == 96
    assert ablation._fitting(dv.Scenes(1, size=48), "alexnet") == 64


# --- intervals -------------------------------------------------------------------------------------------------------


def test_the_interval_by_hand() -> None:
    """9 lost and 2 gained of 50: (10 - 3) / 52 +- 1.96 sqrt((13 / 52 - (7 / 52)^2) / 52)."""
    low, high = paired_interval(np.array([9, 0]), np.array([2, 0]), 50).T
    assert low[0] == pytest.approx(0.003734, abs=1e-5) and high[0] == pytest.approx(0.265496, abs=1e-5)
    assert -low[1] == high[1] == pytest.approx(1.959964 * math.sqrt(2) / 52)  # not nothing where nothing was seen


def test_the_interval_covers() -> None:
    """All outcomes of 40 images, weighed by their probability: 95 % of them cover the true difference, or nearly."""
    count = 40
    lost, gained = (a.ravel() for a in np.meshgrid(np.arange(count + 1), np.arange(count + 1)))
    lost, gained = lost[lost + gained <= count], gained[lost + gained <= count]
    low, high = paired_interval(lost, gained, count).T
    covered = []
    for p in (0.01, 0.05, 0.1, 0.2, 0.4):
        for q in (0.01, 0.05, 0.1, 0.2, 0.4):
            weights = multinomial.pmf(np.stack([lost, gained, count - lost - gained], 1), count, [p, q, 1 - p - q])
            covered.append(weights[(low <= p - q) & (p - q <= high)].sum())
    assert min(covered) > 0.935 and 0.945 < np.mean(covered) < 0.975


@given(st.integers(1, 300), st.floats(0, 1), st.floats(0, 1))
def test_the_interval_holds_what_was_seen(count: int, a: float, b: float) -> None:
    lost = round(a * count)
    gained = round(b * (count - lost))
    low, high = paired_interval(np.array(lost), np.array(gained), count)
    assert -1 <= low <= (lost - gained) / count + 1e-12 and (lost - gained) / count - 1e-12 <= high <= 1
    mirrored = paired_interval(np.array(gained), np.array(lost), count)
    assert np.allclose(mirrored, [-high, -low])


# --- lesions against a replica ---------------------------------------------------------------------------------------

PLAIN = dv.Preprocess(resize=12, crop=12, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
Hook = Callable[[str, Tensor], Tensor]


class Noise:
    """Random images of 12 px, each of another tint; some are of no known class."""

    classes: tuple[str, ...] = ("a", "b", "c", "d")

    def __init__(self, count: int = 23, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        noise = rng.integers(100, 256, (count, 12, 12, 3))
        self.images = (noise * rng.random((count, 1, 1, 3))).astype(np.uint8)
        self.labels = rng.integers(0, 4, count)
        self.labels[[3, 11]] = -1
        self.names, self.fingerprint = tuple(map(str, range(count))), f"noise {count} {seed}"
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        self.read.append(index)
        return self.images[index], int(self.labels[index])


def chain() -> nn.Sequential:
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(5, 7, 3), nn.ReLU(), nn.Flatten(), nn.Linear(63, 6)
    )
    return model.double().eval()


class Residual(nn.Module):
    """Two paths around one convolution; `forward` says nothing of where it may be cut."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)  # a network whose answers differ from image to image
        self.first, self.act = nn.Conv2d(3, 6, 3), nn.ReLU()
        self.inner, self.norm, self.out = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Linear(6, 6)
        nn.init.uniform_(self.norm.running_mean, -0.2, 0.2)
        nn.init.uniform_(self.norm.running_var, 0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.first(x))
        found: Tensor = self.out(functional.relu(h + self.norm(self.inner(h))).mean((2, 3)))
        return found


def cut_residual(model: Residual) -> Callable[[Tensor, str, Hook], Tensor]:
    """The residual network in plain torch, with a value replaced where it is made."""

    def run(x: Tensor, layer: str, change: Hook) -> Tensor:
        def at(name: str, value: Tensor) -> Tensor:
            return change(name, value) if name == layer else value

        h = at("act", functional.conv2d(x, model.first.weight, model.first.bias).clamp(min=0))
        inner = at("inner", functional.conv2d(h, model.inner.weight, model.inner.bias, padding=1))
        scale = model.norm.weight / torch.sqrt(model.norm.running_var + model.norm.eps)  # type: ignore[operator]
        shift = model.norm.bias - model.norm.running_mean * scale  # type: ignore[operator]
        normed = at("norm", inner * scale[:, None, None] + shift[:, None, None])
        return (h + normed).clamp(min=0).mean((2, 3)) @ model.out.weight.T + model.out.bias

    return run


def cut_chain(model: nn.Sequential) -> Callable[[Tensor, str, Hook], Tensor]:
    def run(x: Tensor, layer: str, change: Hook) -> Tensor:
        for name, module in model.named_children():
            x = module(x)
            x = change(name, x) if name == layer else x
        return x

    return run


def replica(
    run: Callable[[Tensor, str, Hook], Tensor], images: Noise, layers: list[str], by: str, how: str, outputs: list[int]
) -> dict[str, NDArray[Any]]:
    """Every lesion on every image, one at a time, whole passes: what is right and the log-loss, before and after."""
    known = [n for n in range(len(images)) if images.labels[n] >= 0]
    x = [PLAIN.tensor(images.images[n][None], dtype=torch.float64) for n in known]
    targets = [outputs[images.labels[n]] for n in known]

    def read(output: Tensor, target: int) -> tuple[bool, float]:
        scores = output[0].tolist()
        return scores.index(max(scores)) == target, math.log(sum(map(math.exp, scores))) - scores[target]

    def keep(_: str, value: Tensor) -> Tensor:
        seen.append(value)
        return value

    before = [read(run(one, "", keep), target) for one, target in zip(x, targets, strict=True)]
    rows: list[list[float]] = []
    for layer in layers:
        seen: list[Tensor] = []
        for one in x:
            run(one, layer, keep)
        channels = seen[0].shape[1]
        means = [torch.stack([value[0, c] for value in seen]).mean().item() for c in range(channels)]
        fill = means if how == "mean" else [0.0] * channels
        for channel in [list(range(channels))] if by == "layer" else [[c] for c in range(channels)]:

            def change(_: str, value: Tensor, channel: list[int] = channel, fill: list[float] = fill) -> Tensor:
                value = value.clone()
                for c in channel:
                    value[0, c] = fill[c]
                return value

            after = [read(run(one, layer, change), target) for one, target in zip(x, targets, strict=True)]
            lost = sum(b[0] and not a[0] for b, a in zip(before, after, strict=True))
            gained = sum(a[0] and not b[0] for b, a in zip(before, after, strict=True))
            rises = [a[1] - b[1] for b, a in zip(before, after, strict=True)]
            rows.append([lost, gained, np.mean(rises), np.std(rises, ddof=1) / math.sqrt(len(rises))])
    columns = np.array(rows).T
    return {
        "lost": columns[0],
        "gained": columns[1],
        "rise": columns[2],
        "error": 1.959964 * columns[3],
        "accuracy": np.array(np.mean([b[0] for b in before])),
        "loss": np.array(np.mean([b[1] for b in before])),
    }


OUTPUTS = [4, 0, 5, 2]  # which output stands for a class: not the order, and not all of them


def operate(network: dv.Network, images: Any, layers: Any, **options: Any) -> Lesions:
    options = {"preprocess": PLAIN, "outputs": np.array(OUTPUTS), "progress": False, **options}
    return lesion(network, images, layers, **options)


def assert_same(found: Lesions, expected: dict[str, NDArray[Any]], tolerance: float = 1e-9) -> None:
    assert np.array_equal(found.lost, expected["lost"]) and np.array_equal(found.gained, expected["gained"])
    assert np.allclose(found.drop, (expected["lost"] - expected["gained"]) / found.images)
    assert np.allclose(found.loss_rise, expected["rise"], atol=tolerance, rtol=0)
    assert np.allclose(found.loss_rise_error, expected["error"], atol=10 * tolerance, rtol=0)
    assert found.accuracy == pytest.approx(float(expected["accuracy"]))
    assert found.loss / found.images == pytest.approx(float(expected["loss"]), abs=tolerance)


@pytest.mark.parametrize("how", ["zero", "mean"])
@pytest.mark.parametrize("by", ["filter", "layer"])
@pytest.mark.parametrize("kind", ["chain", "residual"])
def test_against_the_replica(kind: str, by: str, how: str) -> None:
    model: nn.Module = chain() if kind == "chain" else Residual().double().eval()
    layers = ["4", "0", "2", "5", "6"] if kind == "chain" else ["norm", "act", "inner"]
    run = cut_chain(model) if isinstance(model, nn.Sequential) else cut_residual(model)  # type: ignore[arg-type]
    network, images = dv.capture(model, (3, 12, 12)), Noise()
    expected = replica(run, images, layers, by, how, OUTPUTS)
    assert expected["lost"].any() and expected["gained"].any()
    found = operate(network, images, layers, by=by, how=how)
    assert_same(found, expected)
    assert found.images == found.total == 21 and found.complete
    channels = [7, 5, 5, 63, 6] if kind == "chain" else [6, 6, 6]
    if by == "layer":
        assert found.layer.tolist() == list(range(len(layers))) and (found.channel == -1).all()
        assert found.name(1) == layers[1]
    else:
        assert found.channel.tolist() == [c for count in channels for c in range(count)]
        assert found.layer.tolist() == [n for n, count in enumerate(channels) for _ in range(count)]
        assert found.name(9) == f"{layers[1]}:{9 - channels[0]}"


def test_in_single_precision_with_norms_folded() -> None:
    """The fast form of a float32 network, in which a convolution that is asked for stays apart from its BatchNorm."""
    model = Residual()
    layers, images = ["inner", "norm"], Noise(20, seed=8)
    expected = replica(cut_residual(Residual().double()), images, layers, "filter", "mean", OUTPUTS)
    assert_same(operate(dv.capture(model.eval(), (3, 12, 12)), images, layers, how="mean"), expected, 1e-5)


def test_in_half_precision() -> None:
    """bfloat16 keeps eight bits: log-losses agree to a hundredth or so, and every lesion is told apart."""
    images, network = Noise(20, seed=8), dv.capture(Residual().eval(), (3, 12, 12))
    expected = replica(cut_residual(Residual().double()), images, ["act"], "filter", "mean", OUTPUTS)
    found = operate(network, images, ["act"], how="mean", precision="bf16")
    assert found.config["precision"] == "bf16" and not np.allclose(found.loss_rise, expected["rise"], atol=1e-6)
    assert np.allclose(found.loss_rise, expected["rise"], atol=0.01) and np.abs(expected["rise"]).max() > 0.03


class Tokens(nn.Module):
    """Nine tokens of five features; the layer `mix` has its channels last."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.patch, self.mix, self.head = nn.Conv2d(3, 4, 4, stride=4), nn.Linear(4, 5), nn.Linear(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.mix(self.patch(x).flatten(2).transpose(1, 2)).relu().amax(1))
        return found


def test_features_of_tokens() -> None:
    """A filter of tokens is a feature, at every token."""
    model = Tokens().double().eval()

    def run(x: Tensor, layer: str, change: Hook) -> Tensor:
        tokens = torch.stack([model.patch(x)[0, :, n // 3, n % 3] for n in range(9)])
        value = (tokens @ model.mix.weight.T + model.mix.bias).T[None]  # channels in front, as the replica wants
        value = change(layer, value) if layer else value
        return value[0].clamp(min=0).amax(1)[None] @ model.head.weight.T + model.head.bias

    for how in ("zero", "mean"):
        expected = replica(run, Noise(), ["mix"], "filter", how, OUTPUTS)
        assert_same(operate(dv.capture(model, (3, 12, 12)), Noise(), "mix", how=how), expected)


@pytest.mark.parametrize("how", ["zero", "mean"])
def test_any_batch_size(how: str) -> None:
    network, images = dv.capture(Residual().double().eval(), (3, 12, 12)), Noise()
    first, *others = [
        operate(network, images, ["act", "norm"], how=how, batch_size=size) for size in (32, 1, 3, 7, 500)
    ]
    for other in others:
        assert np.array_equal(first.lost, other.lost) and np.array_equal(first.gained, other.gained)
        assert np.allclose(first.rise, other.rise, atol=1e-10) and np.allclose(first.squares, other.squares, atol=1e-10)
        assert first.right == other.right and first.loss == pytest.approx(other.loss, abs=1e-10)
        assert np.array_equal(first.ranking, other.ranking)


def test_what_comes_before_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty-one images in chunks of eight: three whole passes and three cuts a layer; tails for what changes only."""
    network, images, calls = dv.capture(chain(), (3, 12, 12)), Noise(), {"split": 0, "tail": 0}
    original = dv.Network.split

    def counted(self: dv.Network, layer: str, x: Tensor) -> Any:
        calls["split"] += 1
        value, tail = original(self, layer, x)

        def counting(values: Tensor, of: Tensor) -> Any:
            calls["tail"] += len(values)
            return tail(values, of)

        return value, counting

    monkeypatch.setattr(dv.Network, "split", counted)
    operate(network, images, ["4"])
    x = torch.cat(
        [PLAIN.tensor(images.images[n][None], dtype=torch.float64) for n in range(23) if images.labels[n] >= 0]
    )
    active = int((network.activations(x, ["4"])["4"].amax((2, 3)) > 0).sum())
    assert calls == {"split": 3, "tail": active}


# --- planted networks ------------------------------------------------------------------------------------------------

AS_IS = dv.Preprocess(resize=8, crop=8, mean=(0, 0, 0), std=(1, 1, 1))


def planted(bias: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> nn.Sequential:
    """Filters 0 to 2 find red, green and blue, each for its class alone; filter 3 is dead."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(4, 3)[:, :, None, None])  # type: ignore[operator]
        model[0].bias.copy_(torch.tensor([0, 0, 0, -1.0]))  # type: ignore[operator]
        model[4].weight.copy_(torch.eye(3, 4) * 10)  # type: ignore[operator]
        model[4].bias.copy_(torch.tensor(bias))  # type: ignore[operator]
    return model.eval()


def test_a_planted_filter() -> None:
    """5 red, 3 green and 2 blue images: without green's filter exactly the green ones are lost."""
    images = Solid([0, 1, 2, 0, 1, 0, 0, 1, 2, 0])
    network = dv.capture(planted((0.0, -1.0, 1.0)), (3, 8, 8))
    found = operate(network, images, "1", preprocess=AS_IS, outputs=np.arange(3))
    assert found.accuracy == 1 and found.lost.tolist() == [5, 3, 0, 0] and not found.gained.any()
    assert found.drop.tolist() == [0.5, 0.3, 0, 0] and found.ranking.tolist() == [0, 1, 2, 3]
    logit = 10 * 200 / 255

    def loss(scores: list[float], target: int) -> float:
        return math.log(sum(map(math.exp, scores))) - scores[target]

    green = loss([0, -1, 1], 1) - loss([0, logit - 1, 1], 1)
    blue = loss([0, -1, 1], 2) - loss([0, -1, logit + 1], 2)
    assert found.loss_rise == pytest.approx([found.loss_rise[0], 0.3 * green, 0.2 * blue, 0.0], abs=1e-6)
    assert found.loss_rise[3] == 0 and found.loss_rise_error[3] == 0 and found.squares[3] == 0  # dead: exactly nothing


def test_of_equal_outputs_the_first_counts() -> None:
    """Without its filter an image's outputs are all zero; class 0 is then right, and the others are not."""
    images = Solid([0, 1, 2, 0, 1, 0])
    found = operate(dv.capture(planted(), (3, 8, 8)), images, "1", preprocess=AS_IS, outputs=np.arange(3))
    assert found.lost.tolist() == [0, 2, 1, 0]


def test_the_mean_is_of_the_images_that_take_part() -> None:
    images = Solid([0, 1, 2, 0, -1, 1])
    network = dv.capture(planted(), (3, 8, 8))
    found = operate(network, images, "1", preprocess=AS_IS, outputs=np.arange(3), how="mean", indices=[0, 1, 4, 3])
    assert found.images == 3 and found.means["1"] == pytest.approx([2 / 3 * 200 / 255, 200 / 255 / 3, 0, 0])


def test_which_images() -> None:
    network = dv.capture(chain(), (3, 12, 12))
    for options, expected in (
        ({}, [n for n in range(23) if n not in (3, 11)]),
        ({"indices": [7, 3, 2, 7]}, [7, 2, 7]),
        ({"count": 3}, [0, 12, 22]),  # of 21 known ones the first, the middle one and the last
        ({"count": 99}, [n for n in range(23) if n not in (3, 11)]),
    ):
        images = Noise()
        found = operate(network, images, ["6"], workers=1, **options)
        assert images.read == expected and found.total == len(expected)


# --- results ---------------------------------------------------------------------------------------------------------


def made(lost: list[int], gained: list[int], rise: list[float], layer: list[int], channel: list[int]) -> Lesions:
    config = {"layers": ["x", "y"], "by": "filter", "how": "zero"}
    arrays = [np.array(a) for a in (layer, channel, lost, gained)]
    return Lesions(config, {}, *arrays, np.array(rise), np.square(rise), right=8, loss=5.0, images=10, total=10)


def test_the_order_and_its_ties(tmp_path: pathlib.Path) -> None:
    """The larger drop first; then the larger rise of log-loss; then the layer named first; then the channel."""
    rises, layer, channel = [0.6, 0.0, 0.5, 0.7, 0.5, 0.5, 0.5], [1, 1, 0, 0, 0, 0, 1], [0, 1, 2, 3, 9, 4, 3]
    found = made([1, 3, 2, 1, 1, 1, 1], [0, 0, 1, 0, 0, 0, 0], rises, layer, channel)
    assert [found.name(i) for i in found.ranking] == ["y:1", "x:3", "y:0", "x:2", "x:4", "x:9", "y:3"]
    assert "Lesions of 7 filters (zero), 10 images, accuracy 80.0%" in repr(found)
    assert repr(found).splitlines()[1].startswith("  without y:1: drop 30.0%")
    found.save_csv(tmp_path / "l.csv")
    with (tmp_path / "l.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["rank"], row["layer"], row["channel"]) for row in rows[:2]] == [("1", "y", "1"), ("2", "x", "3")]
    row = {key: float(value) for key, value in rows[3].items() if key != "layer"}
    low, high = paired_interval(np.array(2), np.array(1), 10)
    assert (row["accuracy_intact"], row["accuracy"], row["drop"]) == pytest.approx((0.8, 0.7, 0.1))
    assert (row["drop_low"], row["drop_high"]) == pytest.approx((low, high), abs=1e-6)
    assert (row["lost"], row["gained"], row["images"]) == (2, 1, 10)
    assert (row["log_loss_intact"], row["log_loss"], row["log_loss_rise"]) == pytest.approx((0.5, 0.55, 0.05))
    assert row["log_loss_rise_95"] == pytest.approx(1.959964 * math.sqrt((0.25 - 0.025) / 9 / 10), abs=1e-6)


@pytest.mark.parametrize("how", ["zero", "mean"])
def test_interrupted_lesions_go_on(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Stopped after two of three chunks: the rest is done, the first chunks and the means are not done again."""
    network, out = dv.capture(chain(), (3, 12, 12)), tmp_path / "l.h5"
    straight = operate(network, Noise(), ["1", "4"], how=how)
    added, original = 0, lesions._added

    def stopping(*arguments: Any) -> Lesions:
        nonlocal added
        added += 1
        if added == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(lesions, "_added", stopping)
        operate(network, Noise(), ["1", "4"], how=how, out=out)
    assert load_lesions(out).images == 16 and "16 images of 21, unfinished" in repr(load_lesions(out))
    images = Noise()
    ended = operate(network, images, ["1", "4"], how=how, out=out, workers=1)
    assert len(images.read) == 5 and ended.complete
    for name in ("layer", "channel", "lost", "gained", "rise", "squares"):
        assert np.array_equal(getattr(ended, name), getattr(straight, name)), name
    assert (ended.right, ended.loss) == (straight.right, straight.loss)
    again, untouched = load_lesions(out), Noise()
    assert again.means.keys() == straight.means.keys() and np.array_equal(again.drop, straight.drop)
    assert operate(network, untouched, ["1", "4"], how=how, out=out).complete and not untouched.read


def test_other_lesions_in_the_file(tmp_path: pathlib.Path) -> None:
    network, out = dv.capture(chain(), (3, 12, 12)), tmp_path / "l.h5"
    operate(network, Noise(), ["1"], out=out)
    other = chain()
    with torch.no_grad():
        other[0].weight[0, 0, 0, 0] += 1  # type: ignore[index, operator]
    cases: list[tuple[dv.Network, Any, list[str], dict[str, Any], str]] = [
        (dv.capture(other, (3, 12, 12)), Noise(), ["1"], {}, "model_fingerprint"),
        (network, Noise(23, seed=1), ["1"], {}, "images_fingerprint"),
        (network, Noise(), ["4"], {}, "layers"),
        (network, Noise(), ["1"], {"how": "mean"}, "how: zero in the file, mean now"),
        (network, Noise(), ["1"], {"by": "layer"}, "by: filter in the file"),
        (network, Noise(), ["1"], {"count": 5}, "chosen: 21"),
        (network, Noise(), ["1"], {"outputs": np.array([0, 1, 2, 3])}, "outputs: "),
        (network, Noise(), ["1"], {"preprocess": dv.Preprocess(resize=12, crop=12)}, "preprocess"),
    ]
    for net, images, layers, options, complaint in cases:
        with pytest.raises(MismatchError, match=complaint):
            operate(net, images, layers, out=out, **options)


class Odd(nn.Module):
    """Has a value with five dimensions, and may return what are no classes."""

    def __init__(self, pair: bool = False) -> None:
        super().__init__()
        self.conv, self.pair = nn.Conv2d(3, 4, 1), pair

    def forward(self, x: Tensor) -> Any:
        x = self.conv(x)
        split = x.reshape(x.shape[0], 2, 2, 12, 12) * 2
        return x if self.pair else split.mean((3, 4)).flatten(1)


def test_what_cannot_be_operated_on() -> None:
    network, odd = dv.capture(chain(), (3, 12, 12)), dv.capture(Odd().double(), (3, 12, 12))
    maps, images = dv.capture(Odd(True).double(), (3, 12, 12)), Noise()
    deep = next(name for name, layer in odd.layers.items() if len(layer.shape) == 4)
    cases: list[tuple[dv.Network, Any, dict[str, Any], type[Exception], str]] = [
        (network, "9", {}, LayerNotFound, "no layer '9'"),
        (odd, deep, {}, CamError, r"shape \[2, 2, 12, 12\], without channels"),
        (maps, "conv", {}, CaptureError, r"returns \(4, 12, 12\) for an image"),
        (network, "1", {"outputs": np.array([0, 1, 2])}, DataError, "is of class 3; outputs are given for 3 classes"),
        (network, "1", {"outputs": np.array([0, 1, 2, 6])}, DataError, "outputs 0 to 6 given; Sequential has 6"),
        (network, "1", {"by": "unit"}, DataError, "by 'unit' given; expected filter or layer"),
        (network, "1", {"how": "noise"}, DataError, "how 'noise' given; expected zero or mean"),
        (network, "1", {"precision": "fp8"}, DataError, "precision 'fp8' given"),
        (network, [], {}, DataError, "0 layers and batches of 32 given"),
        (network, "1", {"batch_size": 0}, DataError, "batches of 0 given"),
        (network, "1", {"count": 0}, DataError, "expected at least one"),
        (network, "1", {"indices": [3, 11]}, DataError, "of 0 images of known class"),
        (network, "1", {"indices": [23]}, DataError, "image 23 given; expected 0 to 22"),
        (network, "1", {"preprocess": dv.Preprocess(16, 16)}, CaptureError, "network takes"),
    ]
    for net, layers, options, kind, complaint in cases:
        with pytest.raises(kind, match=complaint):
            operate(net, images, layers, **options)
    assert not images.read


# --- figures ---------------------------------------------------------------------------------------------------------


def test_the_figure_of_variants(straight: tuple[pathlib.Path, VariantTable]) -> None:
    """Bars as long as the errors and counts, on labelled axes; the full network has no difference from itself."""
    _, table = straight
    errors, differences, counts = draw_variants(table, "title", "caption").axes
    widths = [bar.get_width() for bar in errors.patches]  # type: ignore[attr-defined]
    rows = table.rows
    assert widths == pytest.approx([100 * r.training_error for r in rows] + [100 * r.validation_error for r in rows])
    assert [text.get_text() for text in errors.get_yticklabels()] == [row.name for row in rows]
    known = [100 * row.difference for row in rows if row.difference is not None]
    assert [bar.get_width() for bar in differences.patches] == pytest.approx(known)  # type: ignore[attr-defined]
    assert len(known) == 2 and counts.get_xscale() == "log"
    assert [bar.get_width() for bar in counts.patches] == [row.parameters for row in rows]  # type: ignore[attr-defined]
    assert [axes.get_xlabel()[:10] for axes in (errors, differences, counts)] == [
        "top-1 erro",
        "validation",
        "parameters",
    ]


def test_the_figure_of_lesions() -> None:
    """At most twenty by name, in the order of the ranking, with their intervals; and every one in its layer's row."""
    lost = list(range(23))
    found = made(lost, [0] * 23, [0.1] * 23, [n % 2 for n in lost], lost)
    found = dataclasses.replace(found, images=50, total=50)
    ranked, losses, spread = draw_lesions(found, "title", "caption").axes
    expected = [found.name(n) for n in range(22, 2, -1)]
    assert [text.get_text() for text in ranked.get_yticklabels()] == expected
    assert [bar.get_width() for bar in ranked.patches] == pytest.approx([2.0 * n for n in range(22, 2, -1)])  # type: ignore[attr-defined]
    assert [bar.get_width() for bar in losses.patches] == pytest.approx([0.002] * 20)  # type: ignore[attr-defined]
    first = ranked.collections[0].get_segments()[0]  # type: ignore[attr-defined]
    assert first[:, 0] == pytest.approx(100 * found.interval[22])
    clouds = [sorted(line.get_xdata()) for line in spread.lines if line.get_marker() == "o"]
    assert clouds == [pytest.approx([2.0 * n for n in lost if n % 2 == layer]) for layer in (0, 1)]
    assert [text.get_text() for text in spread.get_yticklabels()] == ["x", "y"]
    assert "95 %" in ranked.get_xlabel() and "nats" in losses.get_xlabel() and "accuracy" in spread.get_xlabel()


# --- the command -----------------------------------------------------------------------------------------------------


def call(*arguments: str) -> str:
    result = CliRunner().invoke(ablate, [*arguments, "--quiet", "--device", "cpu"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_trains_then_operates(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "ablation.csv"
    asked = "--input 64 --width 0.04 --epochs 1 --batch-size 16 --validation scenes:20:6 --variants full,no-6-7"
    train = ["zfnet", "scenes:30:5", "-o", str(table), *asked.split()]
    assert "the networks are in" in call(*train)
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["full", "no-6-7"] and rows[0]["epochs"] == "1"
    with Image.open(table.with_suffix(".png")) as figure:
        assert figure.width > 1500 and "20 images of scenes:20:6" in figure.info["Description"]
    monkeypatch.setattr(ablation, "train", None)
    assert "no-6-7" in call(*train)  # finished: nothing is trained
    out = tmp_path / "lesions.csv"
    weights = ["--weights", str(tmp_path / "ablation" / "full.pth"), "-o", str(out)]
    told = call("zfnet", "scenes:30:7", *weights, "-l", "relu3", "-l", "relu5", "--how", "mean", "--count", "20")
    assert "Lesions of 25 filters (mean), 20 images" in told
    with out.open() as file:
        ranked = list(csv.DictReader(file))
    drops = [float(row["drop"]) for row in ranked]
    assert len(ranked) == 15 + 10 and drops == sorted(drops, reverse=True)
    with Image.open(out.with_suffix(".png")) as figure:
        assert figure.width > 1500
    assert load_lesions(out.with_suffix(".h5")).complete


def test_the_command_on_layers_and_what_it_refuses(tmp_path: pathlib.Path) -> None:
    out = str(tmp_path / "l.csv")
    told = call("demo", "scenes:12:9", "--by", "layer", "-o", out)
    assert "Lesions of 21 layers (zero), 12 images" in told  # all modules but the two dropouts
    (tmp_path / "names.txt").write_text("\n".join(reversed(dv.Scenes(1).classes)))
    swapped = str(tmp_path / "swapped.csv")
    call("demo", "scenes:12:9", "-l", "fc8", "--classes", str(tmp_path / "names.txt"), "-o", swapped)
    assert load_lesions(tmp_path / "l.h5").accuracy > 0.8 > 0.2 > load_lesions(tmp_path / "swapped.h5").accuracy
    cases = [
        (["zfnet", "scenes:12", "-l", "relu3"], "--layer given, which has no effect here"),
        (["zfnet", "scenes:12", "--mean", "0,0,0"], "--mean given"),
        (["demo", "scenes:12", "-l", "relu3", "--epochs", "3"], "--epochs given, which has no effect here"),
        (["demo", "scenes:12", "-l", "relu3", "--no-augment"], "--augment given"),
        (["demo", "scenes:12"], "no layer given; name one with -l"),
        (["zfnet", "scenes:12", "--variants", "full,no-1"], "variant 'no-1' given"),
        (["zfnet", "scenes:12", "-o", "x.txt"], "ends in .csv"),
    ]
    for arguments, complaint in cases:
        with pytest.raises(DataError, match=complaint):
            call(arguments[0], arguments[1], "-o", str(tmp_path / "x.csv"), *arguments[2:])
    assert not list(tmp_path.glob("x*"))
