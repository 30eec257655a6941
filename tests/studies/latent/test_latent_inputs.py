"""What `latent` is given and cannot use is told in one line, before a file is written; black images are drawn."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.errors import DataError, DeconvvizError
from deconvviz.models.load import LoadedModel
from deconvviz.studies.latent.result import LatentViews
from deconvviz.studies.latent.units import UnitViews

PLAIN = {"resize": None, "crop": 8, "mean": (0.0,) * 3, "std": (1.0,) * 3}
FEW: dict[str, Any] = {"samples": 20, "masked": 8, "units": 1, "rows": 1, "steps": 2, "axes": 1, "progress": False}


def coded_generator(last: nn.Module | None = None, **known: Any) -> dv.LatentModel:
    """A generator with codes of 2 and of 3 categories; its image is black but for the first code's first category."""
    module = nn.Sequential(
        nn.Linear(6, 192), nn.Unflatten(1, (3, 8, 8)), nn.Conv2d(3, 3, 1), nn.ReLU(), last or nn.Identity()
    )
    torch.nn.init.eye_(module[2].weight.data[:, :, 0, 0])
    module[0].weight.data, module[0].bias.data = torch.zeros(192, 6), torch.zeros(192)
    module[0].weight.data[:, 0], module[0].weight.data[:, 5], module[2].bias.data = 0.7, 0.01, torch.zeros(3)
    return dv.LatentModel(
        module=module, size=6, limits=(0, 1), categorical=((0, 2), (2, 5)), codes=(5,), name="coded", **known
    )


def scorer(module: nn.Module, **settings: Any) -> LoadedModel:
    return LoadedModel(module.eval(), {**PLAIN, **settings}, "scorer", "none", ())


# --- categories


def test_categories_that_are_black_are_drawn(tmp_path: pathlib.Path) -> None:
    """Of the second code all images are nearly black; of the first one the last category is."""
    views = dv.latent(coded_generator(), **FEW)
    assert views.sweeps.sizes.tolist() == [2, 3] and views.sweeps.categories.shape[:3] == (2, 1, 3)
    black = dataclasses.replace(views.sweeps, categories=views.sweeps.categories * 0)
    dataclasses.replace(views, sweeps=black).save(tmp_path / "v.h5")
    again = LatentViews.load(tmp_path / "v.h5")
    assert not again.sweeps.categories.any()
    for code, count in enumerate((2, 3)):
        drawn = dv.draw_latent(again, f"code {code}")
        assert sum(len(axes.images) for axes in drawn.axes) == count
        words = {text.get_text() for axes in drawn.axes for text in axes.texts} | {t.get_text() for t in drawn.texts}
        assert str(count - 1) in words and str(count) not in words
    with pytest.raises(DataError, match="no categorical code 2; the generator has 2"):
        dv.draw_latent(again, "code 2")


def test_a_single_score_has_two_classes() -> None:
    """The image is white for the first category of the first code, else black: one score tells both."""
    one = nn.Sequential(nn.Flatten(), nn.Linear(192, 1))
    one[1].weight.data[:], one[1].bias.data[:] = 1 / 192, -0.3
    views = dv.latent(coded_generator(), scorer=LoadedModel(one.eval(), PLAIN, "s", "none", ("dark", "light")), **FEW)
    assert views.classes == ("light", "dark")
    counts = views.sweeps.counts[0]
    assert counts[0, 1] == counts[1, 0] == 0 < min(counts[0, 0], counts[1, 1]) and counts.sum() == 20


# --- what cannot be used


def returns_an_array(images: Tensor) -> Any:
    return {"a": images[:, 0].numpy() > 0.5}


def returns_soft_masks(images: Tensor) -> Any:
    return {"a": images[:, 0]}


def returns_rows(images: Tensor) -> Any:
    return {"a": images[:, 0, :4] > 0.5}


def returns_nothing(images: Tensor) -> Any:
    return {}


def raises_an_error(images: Tensor) -> Any:
    raise ValueError("no\nway")


SEGMENTERS = {
    returns_an_array: r"returned ndarray for 'a'; expected a bool tensor \[2, 8, 8\]",
    returns_soft_masks: r"returned torch.float32 \[2, 8, 8\] for 'a'; expected a bool tensor",
    returns_rows: r"returned torch.bool \[2, 4, 8\] for 'a'; expected a bool tensor \[2, 8, 8\]",
    returns_nothing: "returned dict that is empty",
    raises_an_error: r"raised ValueError: no way; it is given float32 \[2, 3, 8, 8\]",
}


class Unfinished(nn.Module):
    """Makes values that are no numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return x / torch.zeros_like(x)


def refused(folder: pathlib.Path, words: str, model: dv.LatentModel | None = None, **more: Any) -> None:
    """Assert that a call is refused in one line and makes no folder."""
    with pytest.raises(DeconvvizError, match=words) as caught:
        dv.latent(model or coded_generator(), out=folder / "out", **{**FEW, **more})
    assert "\n" not in str(caught.value) and not (folder / "out").exists()


@pytest.mark.parametrize("segment", SEGMENTERS, ids=lambda segment: segment.__name__)
def test_segmenters_are_tried_before_a_file_is_written(segment: Any, tmp_path: pathlib.Path) -> None:
    refused(tmp_path, SEGMENTERS[segment], segment=segment)


def test_scorers_and_generators_are_tried_before_a_file_is_written(tmp_path: pathlib.Path) -> None:
    two = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    refused(tmp_path, "NaN or infinite", coded_generator(Unfinished()))
    refused(tmp_path, "expected 0 to 1", scorer=scorer(two), attributes=("2",))
    refused(tmp_path, "mat1 and mat2|192", scorer=scorer(two, crop=9, resize=9))
    refused(tmp_path, "expected one score for each class", scorer=scorer(nn.Conv2d(3, 2, 3)))
    refused(tmp_path, "no layer", layer="9")


def test_parts_must_be_the_same_for_all_images() -> None:
    calls = list[int]()

    def changing(images: Tensor) -> dict[str, Tensor]:
        calls.append(len(images))
        return {f"part {len(calls) > 1}": images[:, 0] > 0.5}

    from deconvviz.studies.latent.model import Generator

    views = UnitViews(Generator(coded_generator()), "3", changing, 4)
    with pytest.raises(DataError, match="the parts part False and then part True; expected the same"):
        views.maps_and_masks(coded_generator().sample(0, torch.arange(8).numpy()))
