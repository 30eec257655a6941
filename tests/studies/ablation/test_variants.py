"""Variants trained by one recipe: their table against the files, interruptions, refusals, and their figure."""

from __future__ import annotations

import csv
import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from in_memory import coloured_images, drawn_scenes
from torch import nn

import deconvviz as dv
from deconvviz.data.memory import InMemoryImages
from deconvviz.data.sampling import split
from deconvviz.errors import DataError, MismatchError, ModelError
from deconvviz.metrics.intervals import paired_interval
from deconvviz.studies.ablation import ablate as ablation
from deconvviz.studies.ablation.ablate import ablate
from deconvviz.studies.ablation.figure import draw_variants
from deconvviz.studies.ablation.result import VariantTable
from deconvviz.studies.ablation.variants import FULL, PAPER_ERRORS, VARIANTS
from deconvviz.studies.training import train as training
from deconvviz.studies.training.recipe import Recipe, fitting_input_size

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


@pytest.fixture(scope="module")
def scenes() -> tuple[InMemoryImages, InMemoryImages]:
    return drawn_scenes(48, 5), drawn_scenes(30, 6)


@pytest.fixture(scope="module")
def straight(
    scenes: tuple[InMemoryImages, InMemoryImages], tmp_path_factory: pytest.TempPathFactory
) -> tuple[pathlib.Path, VariantTable]:
    folder = tmp_path_factory.mktemp("ablation") / "straight"
    return folder, ablate(*scenes, SOME, folder=folder, recipe=RECIPE, **TINY)


def without_seconds(table: VariantTable) -> list[dict[str, Any]]:
    return [{key: value for key, value in vars(row).items() if key != "seconds"} for row in table.rows]


@pytest.mark.slow
def test_the_table_tells_of_the_files(
    straight: tuple[pathlib.Path, VariantTable], scenes: tuple[InMemoryImages, InMemoryImages], tmp_path: pathlib.Path
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
    straight: tuple[pathlib.Path, VariantTable], scenes: tuple[InMemoryImages, InMemoryImages], tmp_path: pathlib.Path
) -> None:
    """The weights of the variant equal those of its network, begun from the recipe's seed and trained by itself."""
    torch.manual_seed(RECIPE.seed)
    model = dv.zfnet(10, 64, width=0.04, remove=(6, 7), dropout=0.3)
    training.train(model, scenes[0], tmp_path / "t.pth", RECIPE, validation=scenes[1], progress=False)
    kept = torch.load(straight[0] / "no-6-7.pth", weights_only=True)["state_dict"]
    assert all(torch.equal(weight, kept[name]) for name, weight in model.state_dict().items())


class Stop(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("stop", [4, 8, 17])  # of 3 steps an epoch, 6 a variant: in the middle of each, and between
def test_interrupted_and_continued(
    straight: tuple[pathlib.Path, VariantTable],
    scenes: tuple[InMemoryImages, InMemoryImages],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    stop: int,
) -> None:
    steps, renormalise = 0, training.renormalise  # type: ignore[attr-defined]

    def counted(model: nn.Module, radius: float) -> None:
        nonlocal steps
        renormalise(model, radius)
        steps += 1
        if steps == stop:
            raise Stop

    monkeypatch.setattr(training, "renormalise", counted)
    job: dict[str, Any] = {"folder": tmp_path / "f", "recipe": RECIPE, "commit_every": 1, **TINY}
    with pytest.raises(Stop):
        ablate(*scenes, SOME, **job)
    found = ablate(*scenes, SOME, **job)
    assert without_seconds(found) == without_seconds(straight[1])
    assert steps == 18 + 1  # the step that was stopped, and no other, was taken twice
    again = ablate(*scenes, SOME, **job)
    assert steps == 19 and again.rows == found.rows


def test_what_is_finished_is_not_opened(
    straight: tuple[pathlib.Path, VariantTable],
    scenes: tuple[InMemoryImages, InMemoryImages],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("trained or measured again")

    monkeypatch.setattr(ablation, "train", never)
    monkeypatch.setattr(ablation, "correct_images", never)
    folder, table = straight
    assert ablate(*scenes, SOME, folder=folder, recipe=RECIPE, **TINY).rows == table.rows
    alone = ablate(*scenes, "no-6-7", folder=folder, recipe=RECIPE, **TINY)  # compared with the kept full one
    assert alone.rows == table.rows[:1]
    with pytest.raises(AssertionError, match="again"):
        ablate(*scenes, "no-7", folder=folder, recipe=RECIPE, **TINY)


@pytest.mark.slow
def test_more_epochs_and_a_share_held_out(
    scenes: tuple[InMemoryImages, InMemoryImages], tmp_path: pathlib.Path
) -> None:
    """Trained on, as if at once; the held-out share is what it was validated on, the rest what it was trained on."""
    images, recipe = scenes[0], Recipe(epochs=1, batch_size=16, lr=0.01, validation=0.4)
    longer = Recipe(epochs=2, batch_size=16, lr=0.01, validation=0.4)
    ablate(images, None, FULL, folder=tmp_path / "a", recipe=recipe, **TINY)
    ahead = ablate(images, None, "no-3-4-6-7", folder=tmp_path / "a", recipe=longer, **TINY)
    assert ahead.rows[0].difference is None  # the full one has seen fewer epochs
    found = ablate(images, None, FULL, folder=tmp_path / "a", recipe=longer, **TINY)
    once = ablate(images, None, FULL, folder=tmp_path / "b", recipe=longer, **TINY)
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
    with pytest.raises(MismatchError, match="trained for 2 epochs, 1 given; give 2"):
        ablate(images, None, ("no-7", FULL), folder=tmp_path / "a", recipe=recipe, **TINY)
    assert not (tmp_path / "a" / "no-7.pth").exists()  # refused before any work
    (tmp_path / "a" / "ablation.h5").unlink()  # the networks tell it too
    with pytest.raises(MismatchError, match="trained for 2 epochs, 1 given; give 2"):
        ablate(images, None, FULL, folder=tmp_path / "a", recipe=recipe, **TINY)


def test_a_folder_holds_one_recipe_and_one_dataset(
    straight: tuple[pathlib.Path, VariantTable], scenes: tuple[InMemoryImages, InMemoryImages]
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
            ablate(*data, "no-7", folder=folder, **{"recipe": RECIPE, **TINY, **change})
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_cannot_be_trained(scenes: tuple[InMemoryImages, InMemoryImages], tmp_path: pathlib.Path) -> None:
    images, held = scenes
    (tmp_path / "file").write_text("no folder")
    colours = coloured_images([0, 1, 2])
    cases: list[tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
        ((images, held, "no-5"), {}, DataError, "variant 'no-5' given; nearest: .*no-7"),
        ((images, held, ()), {}, DataError, "no variant given; expected some of full, no-3-4"),
        ((images, None, FULL), {"recipe": Recipe(validation=0)}, DataError, "no image to validate on"),
        ((images, colours, FULL), {}, MismatchError, "classes red, green, blue to validate on, cat, owl, bird"),
        ((coloured_images([-1, -1]), None, FULL), {}, DataError, "0 of 2 images have a class"),
        ((images, held, FULL), {"width": 0.0}, ModelError, "positive factor"),
        ((images, held, FULL), {"input_size": 50}, ModelError, "input size 50 given"),
        ((images, held, FULL), {"folder": tmp_path / "file"}, DataError, "cannot make .*file: "),
    ]
    for data, change, kind, complaint in cases:
        with pytest.raises(kind, match=complaint):
            ablate(*data, **{"folder": tmp_path / "f", "recipe": RECIPE, **TINY, **change})
    assert not list(tmp_path.rglob("*.pth"))


def test_few_classes_have_no_top_5_and_the_size_fits(tmp_path: pathlib.Path) -> None:
    """8 px images get the smallest input there is; of three classes the five best would always hold the right one."""
    job = {**TINY, "input_size": None, "recipe": Recipe(epochs=1, batch_size=8)}
    found = ablate(coloured_images([0, 1, 2] * 4), coloured_images([0, 1, 2]), "no-6-7", folder=tmp_path / "f", **job)
    assert found.config["input_size"] == 32 and found.rows[0].validation_top5_error is None
    assert found.rows[0].difference is None and found.rows[0].training_top5_error is None
    assert fitting_input_size(dv.Scenes(1, size=100), "zfnet") == 96
    assert fitting_input_size(dv.Scenes(1, size=48), "alexnet") == 64


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
