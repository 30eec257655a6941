"""Table 3 of the paper on any data: the network without some of its layers, or wider, trained by one recipe."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from deconvviz.data.datasets import Images
from deconvviz.data.feed import Feed
from deconvviz.data.sampling import split
from deconvviz.errors import DataError, MismatchError, nearest
from deconvviz.models.load import build_model
from deconvviz.models.zfnet import GEOMETRY, ZFNet, zfnet
from deconvviz.results.files import Pathlike, one_line
from deconvviz.results.results import Result, require_same, versions
from deconvviz.results.tables import write_csv
from deconvviz.studies.lesions.result import paired_interval
from deconvviz.studies.training.recipe import PAPER, Recipe
from deconvviz.studies.training.result import Trained
from deconvviz.studies.training.train import train

KIND, SCHEMA, MEASURED = "ablation", 1, "ablation.h5"
FULL = "full"  # what the others are compared with
# What each variant changes, as arguments of `zfnet`; widths are those of a network of width 1.
VARIANTS: dict[str, dict[str, tuple[int, ...]]] = {
    FULL: {},
    "no-3-4": {"remove": (3, 4)},
    "no-7": {"remove": (7,)},
    "no-6-7": {"remove": (6, 7)},
    "no-3-4-6-7": {"remove": (3, 4, 6, 7)},
    "fc-2048": {"fc": (2048, 2048)},
    "fc-8192": {"fc": (8192, 8192)},
    "conv-512-1024-512": {"conv": (96, 256, 512, 1024, 512)},
    "conv-512-1024-512-fc-8192": {"conv": (96, 256, 512, 1024, 512), "fc": (8192, 8192)},
}
# Errors in percent on ImageNet, table 3: (training top-1, validation top-1, validation top-5). Layers are removed from
# the network of Krizhevsky et al. there, maps are added to the paper's own.
PAPER_ERRORS: dict[tuple[str, str], tuple[float, float, float]] = {
    ("alexnet", FULL): (35.1, 40.5, 18.1),
    ("alexnet", "no-3-4"): (41.8, 45.4, 22.1),
    ("alexnet", "no-7"): (27.4, 40.0, 18.4),
    ("alexnet", "no-6-7"): (27.4, 44.8, 22.4),
    ("alexnet", "no-3-4-6-7"): (71.1, 71.3, 50.1),
    ("alexnet", "fc-2048"): (40.3, 41.7, 18.8),
    ("alexnet", "fc-8192"): (26.8, 40.0, 18.1),
    ("zfnet", FULL): (33.1, 38.4, 16.5),
    ("zfnet", "fc-2048"): (38.2, 40.2, 17.6),
    ("zfnet", "fc-8192"): (22.0, 38.8, 17.0),
    ("zfnet", "conv-512-1024-512"): (18.8, 37.5, 16.0),
    ("zfnet", "conv-512-1024-512-fc-8192"): (10.0, 38.3, 16.9),
}


@dataclass(frozen=True)
class Variant:
    """One trained variant; errors are shares of images, measured on their central crop with the trained network.

    training_error, validation_error: top-1; the top-5 ones are None where there are at most 5 classes.
    difference, low, high: validation error above the full network's, and its 95 % interval (`paired_interval`: over
    images, not over trainings from other weights); None for itself, and where it is not trained, for as many epochs.
    seconds: of the training, validation included. paper: the errors in table 3, see PAPER_ERRORS.
    """

    name: str
    parameters: int
    epochs: int
    training_error: float
    training_top5_error: float | None
    validation_error: float
    validation_top5_error: float | None
    difference: float | None
    low: float | None
    high: float | None
    seconds: float
    paper: tuple[float, float, float] | None


@dataclass(frozen=True)
class VariantTable:
    """The variants in the order in which they were asked for; images: how many each was validated on."""

    config: dict[str, Any]
    rows: tuple[Variant, ...]
    images: int

    def save_csv(self, path: Pathlike) -> None:
        """Write a row for each variant; errors and differences in fractions, the paper's as well."""
        names = [field.name for field in fields(Variant)][:-1]
        paper = [f"paper_{name}" for name in ("training_error", "validation_error", "validation_top5_error")]
        rows = []
        for row in self.rows:
            theirs = ["", "", ""] if row.paper is None else [error / 100 for error in row.paper]
            values = [getattr(row, name) for name in names]
            rows.append([*("" if value is None else value for value in values), *theirs])
        write_csv(path, (*names, *paper), rows)

    def __repr__(self) -> str:
        head = f"{'variant':26s}  parameters  epochs  training  validation"
        lines = [f"{head}  above {FULL} [95 %], {self.images} images"]
        for row in self.rows:
            errors = f"{row.training_error:10.1%}{row.validation_error:12.1%}"
            lines.append(f"{row.name:26s}{row.parameters:12,}{row.epochs:8d}{errors}")
            if row.difference is not None:
                lines[-1] += f"  {row.difference:+.1%} [{row.low:+.1%}, {row.high:+.1%}]"
        return "\n".join(lines)


def ablate_variants(
    images: Images,
    validation: Images | None = None,
    variants: Sequence[str] = tuple(VARIANTS),
    *,
    folder: Pathlike,
    input_size: int | None = None,
    width: float = 1.0,
    first: str = "zfnet",
    dropout: float = 0.5,
    resize: int | None = None,
    recipe: Recipe = PAPER,
    device: torch.device | str = "cpu",
    workers: int = 2,
    commit_every: int = 500,
    progress: bool = True,
    sources: Mapping[str, Any] | None = None,
) -> VariantTable:
    """Train each variant by the same recipe into FOLDER/NAME.pth, and compare them.

    The same call again trains nothing that is finished and continues what is not; with more epochs it trains on.

    Args:
        images: labelled images to train on; validation: others, by default a share of them (`recipe.validation`).
        variants: names from VARIANTS.
        folder: made where it is not there; ablation.h5 in it keeps what was measured, and of what.
        input_size: side in pixels, by default the largest that `zfnet` has for the first image.
        width, first, dropout: as in `zfnet`, of every variant. The paper removes layers from "alexnet".
        resize: shorter side of the images before the crop, by default 8/7 of the input.
        commit_every: steps between checkpoints within an epoch.

    Raises:
        DataError: an unknown variant, images without classes, none to validate on, or a folder that cannot be made.
        MismatchError: the folder holds variants of another recipe, size or data, or ones trained for more epochs.
        ModelError: a size or width that makes no network. TrainingError: a training that diverged.

    Source: Zeiler and Fergus 2013, section 5.1 and table 3.
    """
    names, (training, held) = _names(variants), _parts(images, validation, recipe)
    classes = len(images.classes) or int(images.labels.max(initial=-1)) + 1
    size = input_size or _fitting(images, first)
    shared = {"classes": classes, "input_size": size, "width": width, "first": first, "dropout": dropout}
    counts = {name: _parameters({**shared, **VARIANTS[name]}) for name in names}
    place = pathlib.Path(folder)
    kept = _kept(place, _config(images, validation, {**shared, "resize": resize}, recipe), names, recipe.epochs)
    kept.sources = {"versions": versions(), **(sources or {})}
    for number, name in enumerate(names, 1):
        out = place / f"{name}.pth"
        if out.exists() and kept.state.get(name, {}).get("epochs") == recipe.epochs:
            continue
        if progress:
            tqdm.write(f"{name} ({number} of {len(names)}): {counts[name]:,} parameters", file=sys.stderr)
        model, _ = build_model("zfnet", {**shared, **VARIANTS[name]}, seed=recipe.seed)
        assert isinstance(model, ZFNet)
        trained = train(
            model,
            images,
            out,
            recipe,
            resize=resize,
            validation=validation,
            name="zfnet",
            arguments=model.arguments,
            device=device,
            workers=workers,
            commit_every=commit_every,
            progress=progress,
            sources=sources,
        )
        if len(trained.history) != recipe.epochs:
            raise _longer(out, len(trained.history), recipe.epochs)
        seen = [_right(trained, *part, recipe.batch_size, workers) for part in (training, held)]
        kept.arrays[name] = seen[1][:, 0]
        kept.state[name] = {
            "epochs": recipe.epochs,
            "errors": [1 - float(share) for right in seen for share in right.mean(0)],
            "seconds": sum(row["seconds"] for row in trained.history),
        }
        kept.save(place / MEASURED)
    return _table(kept, names, counts, classes > 5)


def _names(variants: Sequence[str]) -> list[str]:
    names = list(dict.fromkeys([variants] if isinstance(variants, str) else variants))
    for name in names:
        if name not in VARIANTS:
            raise DataError(f"variant {name!r} given; {nearest(name, VARIANTS, len(VARIANTS))}")
    if not names:
        raise DataError(f"no variant given; expected some of {', '.join(VARIANTS)}")
    return names


def _fitting(images: Images, first: str) -> int:
    """Return the largest input that `zfnet` is laid out for and the first image has room for, else the smallest."""
    sizes = sorted(size for kind, size in GEOMETRY if kind == first)
    smallest = min(images[0][0].shape[:2])
    return max((size for size in sizes if size <= smallest), default=min(sizes, default=224))


def _parameters(arguments: Mapping[str, Any]) -> int:
    with torch.device("meta"):  # table 3's widest network has 238 million: counted without making them
        return sum(p.numel() for p in zfnet(**arguments).parameters())


def _parts(images: Images, validation: Images | None, recipe: Recipe) -> list[tuple[Images, NDArray[np.int64]]]:
    """Return the images and indices that `train` trains and validates on."""
    training, held = split(images.labels, 0 if validation is not None else recipe.validation, recipe.seed)
    if validation is not None:
        if list(validation.classes) != list(images.classes):
            raise MismatchError(
                f"classes {_some(validation.classes)} to validate on, {_some(images.classes)} to train on; expected "
                "the same in the same order"
            )
        held = np.flatnonzero(validation.labels >= 0)
    if not len(held):
        raise DataError("no image to validate on; give a share of the images, such as 0.1, or others")
    return [(images, training), (images if validation is None else validation, held)]


def _some(classes: Sequence[str]) -> str:
    return ", ".join(classes[:3]) + (f" ... ({len(classes)})" if len(classes) > 3 else "")


def _config(images: Images, validation: Images | None, network: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Return what all variants of a folder have in common."""
    return {
        "images": images.fingerprint,
        "validation_images": validation.fingerprint if validation is not None else None,
        **network,
        **{key: value for key, value in asdict(recipe).items() if key != "epochs"},
    }


def _kept(place: pathlib.Path, config: dict[str, Any], names: Sequence[str], epochs: int) -> Result:
    """Return what was measured in this folder so far; a folder of something else is refused before any work."""
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the folder {place}: {one_line(error)}; give another") from error
    path = place / MEASURED
    if not path.exists():
        kept = Result(KIND, SCHEMA, config)
        kept.save(path)
        return kept
    kept = Result.load(path, KIND, SCHEMA)
    require_same(path, kept.config, config, "give another folder")
    for name in names:
        found = kept.state.get(name, {}).get("epochs", 0)
        if found > epochs:
            raise _longer(place / f"{name}.pth", found, epochs)
    return kept


def _longer(path: pathlib.Path, found: int, wanted: int) -> MismatchError:
    return MismatchError(
        f"{path} was trained for {found} epochs, {wanted} asked for; ask for {found}, or another folder"
    )


def _right(
    trained: Trained, images: Images, chosen: NDArray[np.int64], batch_size: int, workers: int
) -> NDArray[np.bool_]:
    """Return which images are named right, bool [N, 2]: by the largest output, and by the five largest."""
    feed, model = Feed(images, trained.preprocess, chosen, workers=workers), trained.model.eval()
    device, labels, right = next(model.parameters()).device, feed.labels, []
    with torch.inference_mode():
        for places, x in feed.tensors(batch_size, device):
            outputs = model(x)
            best = outputs.topk(min(5, outputs.shape[1])).indices.cpu().numpy() == labels[places, None]
            right.append(np.stack([best[:, 0], best.any(1)], 1))
    return np.concatenate(right)


def _table(kept: Result, names: Sequence[str], counts: Mapping[str, int], many: bool) -> VariantTable:
    """Make the table of what was measured; many: whether there are more than five classes."""
    rows, epochs = [], kept.state[names[0]]["epochs"]
    full = kept.arrays[FULL] if kept.state.get(FULL, {}).get("epochs") == epochs else None
    for name in names:
        state, right = kept.state[name], kept.arrays[name]
        training, training5, validation, validation5 = state["errors"]
        difference, low, high = None, None, None
        if full is not None and name != FULL:
            lost, gained = (full & ~right).sum(), (right & ~full).sum()
            difference = float(lost - gained) / len(right)
            low, high = paired_interval(lost, gained, len(right)).tolist()
        rows.append(
            Variant(
                name,
                counts[name],
                epochs,
                training,
                training5 if many else None,
                validation,
                validation5 if many else None,
                difference,
                low,
                high,
                state["seconds"],
                PAPER_ERRORS.get((kept.config["first"], name)),
            )
        )
    return VariantTable(kept.config, tuple(rows), len(kept.arrays[names[0]]))
