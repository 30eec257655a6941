"""Figure 5 of the paper: how features and the output change as an image is translated, scaled and rotated.

Beyond the paper, every layer and filter gets a score: how much less a transform moves it than another image does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from deconvviz.arrays import evenly, widened
from deconvviz.data.datasets import Images, labels_of, open_images
from deconvviz.data.parallel import in_order
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.sampling import spread
from deconvviz.data.transforms import Canvas, canvas_of, checked_steps, inverse_map, moving
from deconvviz.errors import DataError
from deconvviz.graph.choose import by_depth, first_and_last
from deconvviz.graph.network import Network
from deconvviz.studies.invariance.observer import Observation, Observer
from deconvviz.studies.invariance.options import InvarianceOptions
from deconvviz.studies.invariance.result import Invariance
from deconvviz.types import Floats, Ints, Pixels

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deconvviz.studies.invariance.options import InvarianceKeywords

REFERENCES = 10  # images whose features are kept: chance is the distance to these


def invariance(
    network: Network,
    images: Any,
    layers: Sequence[str] | str | None = None,
    *,
    preprocess: Preprocess,
    which: Sequence[int] | None = None,
    outputs: Ints | None = None,
    units: Sequence[str] = (),
    **options: Unpack[InvarianceKeywords],
) -> Invariance:
    """Measure how far transforms of images move a network's features, and what they do to the probability of a class.

    Args:
        network: captured; it returns one score for each class.
        images: what `open_images` takes.
        layers: names; "all" for every convolution and linear layer, None for the first of them and what the last one
            reads (the paper's layers 1 and 7); both after BatchNorm and ReLU where these follow.
        preprocess: how an image becomes the network's input.
        which: indices of the images, by default of the first 5. Chance is measured among the first REFERENCES of them.
        outputs: int64, the output that stands for each class of the images, as `models.labels.outputs_of` finds it;
            None follows each image's own most probable class.
        units: layers whose filters are scored too.
        options: `kinds`, `steps`, `padding` and `interpolation` of `InvarianceOptions`; `batch_size` (pictures in one
            pass, by default 32; a pass gives all layers and the output), `precision`, `workers` and `progress` of
            `RunOptions`. Nothing is drawn at random.

    Returns:
        The distances and probabilities; its methods make the scores of them.

    Raises:
        DataError: a kind, step, image, label or padding that does not exist.
        LayerNotFound: a name in `layers` or `units` does not exist.
        CamError: there is no convolution or linear layer to take by default.
        CaptureError: the preprocessing does not fit the network, or the network returns no scores.

    Source: Zeiler and Fergus 2013, figure 5. The paper does not state its distance: here it is ||f(Tx) - f(x)|| /
    ||f(x)|| over all values of a layer (our choice).

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 5)).eval()
    >>> network, preprocess = dv.capture(model, (3, 16, 16)), dv.Preprocess(resize=16, crop=16)
    >>> options = {"kinds": ["rotation"], "steps": {"rotation": [30, 90]}, "progress": False}
    >>> result = invariance(network, dv.Scenes(3), ["1"], preprocess=preprocess, **options)
    >>> result.distance("rotation").shape  # images, steps, layers
    (3, 2, 1)
    """
    settings, dataset = InvarianceOptions(**options), open_images(images)
    network.check_input(preprocess.shape)
    steps, names = checked_steps(settings.kinds, settings.steps, network.input_shape), _layer_names(network, layers)
    observer = Observer(network, preprocess, names, units, settings)
    indices = _checked_indices(dataset, which)
    followed = _followed_outputs(dataset, indices, outputs, network.outputs)
    result = Invariance.blank(
        config=_config(network, dataset, preprocess, settings)
        | {"which": indices.tolist(), "layers": list(names), "steps": {k: v.tolist() for k, v in steps.items()}}
        | {"where": {name: network.layer(name).where for name in names if network.layer(name).where}},
        layers=names,
        images=[dataset.names[int(index)] for index in indices],
        steps=steps,
        units=observer.filters,
    )
    passes = len(indices) * sum(int(moving(kind, values).sum()) for kind, values in steps.items())
    references: Observation | None = None
    with settings.bar("picture", passes, "transforming") as bar, torch.no_grad():
        for start in range(0, len(indices), REFERENCES):
            block = indices[start : start + REFERENCES]
            # A canvas keeps what lies around the picture, which a feed of pictures has cropped away.
            canvases = [canvas_of(dataset[int(index)][0], preprocess, settings.padding) for index in block]
            originals = observer.observe_all([canvas.picture for canvas in canvases])
            references = references or originals
            _record_originals(result, start, originals, references, followed[start : start + len(block)])
            for variants, pictures in _transformed(canvases, steps, settings, observer.at_once):
                _record_variants(result, start, variants, observer.observe(pictures), originals)
                bar.update(len(variants))
    return result


def example_strips(
    result: Invariance, images: Images, preprocess: Preprocess, rows: int = 5, columns: int = 5
) -> dict[str, tuple[Floats, Pixels]]:
    """Return the first images as they were transformed.

    Args:
        result: what was measured.
        images: that it was measured on.
        preprocess: as it was then.
        rows: images at most.
        columns: steps at most, evenly chosen; of a whole turn at most its quarters.

    Returns:
        kind -> (steps float64 [K], pictures uint8 [n, K, h, w, 3]).
    """
    strips = {}
    padding, interpolation = result.config["padding"], result.config["interpolation"]
    canvases = [canvas_of(images[index][0], preprocess, padding) for index in result.config["which"][:rows]]
    for kind, steps in result.steps.items():
        example_steps = steps[example_places(kind, steps, columns)]
        maps = [inverse_map(kind, step) for step in example_steps]
        pictures = [[canvas.transformed(inverse, interpolation) for inverse in maps] for canvas in canvases]
        strips[kind] = example_steps, preprocess.display(np.array(pictures))
    return strips


def example_places(kind: str, steps: Floats, columns: int) -> Ints:
    """Return the places of at most `columns` steps that stand for all, ascending: the first, the last, evenly between.

    A whole turn ends where it begins: of one they are the quarters, as far as there are steps near them.

    >>> turn = np.arange(0, 360, 10.0)
    >>> turn[example_places("rotation", turn, 5)].tolist(), turn[example_places("rotation", turn[:10], 3)].tolist()
    ([0.0, 90.0, 180.0, 270.0], [0.0, 40.0, 90.0])
    """
    widest = float(np.diff(steps).max(initial=0))
    if kind != "rotation" or steps[-1] - steps[0] + widest < 360 or steps[-1] - steps[0] > 360:
        return evenly(len(steps), columns)
    parts = min(columns, 4)
    turns = steps[0] + np.arange(parts) * 360 / parts
    return np.unique(np.abs(steps[:, None] - turns).argmin(0))


# --- what is measured ------------------------------------------------------------------------------------------------


def _config(network: Network, images: Images, preprocess: Preprocess, settings: InvarianceOptions) -> dict[str, Any]:
    return {
        "network": network.fingerprint,
        "images": images.fingerprint,
        "padding": settings.padding,
        "interpolation": settings.interpolation,
        "precision": settings.precision,
        "preprocess": preprocess.as_dict(),
        "references": REFERENCES,
    }


def _layer_names(network: Network, layers: Sequence[str] | str | None) -> tuple[str, ...]:
    if layers is None:
        return first_and_last(network)
    if layers == "all":
        return by_depth(network)
    return tuple(dict.fromkeys(network.layer(name).name for name in ([layers] if isinstance(layers, str) else layers)))


def _checked_indices(images: Images, which: Sequence[int] | None) -> Ints:
    indices = spread(labels_of(images), 5) if which is None else np.asarray(which, np.int64)
    if not len(indices) or len({*indices.tolist()}) != len(indices):
        raise DataError(f"images {indices.tolist()} given; expected at least one, and distinct ones")
    outside = indices[(indices < 0) | (indices >= len(images))]
    if len(outside):
        raise DataError(f"image {outside[0]} given; there are 0 to {len(images) - 1}")
    return indices


def _followed_outputs(images: Images, indices: Ints, outputs: Ints | None, classes: int) -> Ints:
    """Return the output whose probability is followed for each image, int64 [N]; -1 for its own most probable one."""
    if outputs is None:
        return np.full(len(indices), -1, np.int64)
    for index, label in zip(indices, images.labels[indices], strict=True):
        if not 0 <= label < len(outputs):
            raise DataError(
                f"image {images.names[int(index)]} has the label {label}, outputs stand for 0 to {len(outputs) - 1}; "
                "choose labelled images, or outputs=None to follow each one's own most probable class"
            )
        if not 0 <= outputs[label] < classes:
            raise DataError(f"output {outputs[label]} given for the label {label}; the network has 0 to {classes - 1}")
    return np.asarray(outputs[images.labels[indices]], np.int64)


# --- measuring -------------------------------------------------------------------------------------------------------


class Variant(NamedTuple):
    """One transformed picture.

    Attributes:
        row: of the image in its block.
        kind: of the transform.
        step: index of the step among the kind's steps.
    """

    row: int
    kind: str
    step: int


def _transformed(
    canvases: Sequence[Canvas], steps: Mapping[str, Floats], settings: InvarianceOptions, at_once: int
) -> Iterator[tuple[list[Variant], list[Pixels]]]:
    """Yield batches of variants and their pictures, made in threads while the network is busy with the batch before."""
    variants = [
        Variant(row, kind, int(step))
        for row in range(len(canvases))
        for kind, values in steps.items()
        for step in np.flatnonzero(moving(kind, values))
    ]

    def picture(variant: Variant) -> Pixels:
        inverse = inverse_map(variant.kind, steps[variant.kind][variant.step])
        return canvases[variant.row].transformed(inverse, settings.interpolation)

    # Each thread works on 8 pictures ahead: so many threads that the next batch is ready when the network is.
    threads = max(settings.workers, min(at_once // 8, 8))
    with contextlib.closing(in_order(picture, variants, threads)) as pictures:
        for start in range(0, len(variants), at_once):
            batch = variants[start : start + at_once]
            yield batch, list(islice(pictures, len(batch)))


def _record_originals(
    result: Invariance, start: int, originals: Observation, references: Observation, followed: Ints
) -> None:
    """Record what is known of a block of images before any transform; its first one is image `start`."""
    for row, probabilities in enumerate(originals.probabilities):
        n = start + row
        others = [reference for reference in range(len(references.probabilities)) if reference != n]
        result.targets[n] = followed[row] if followed[row] >= 0 else int(probabilities.argmax())
        result.untouched[n] = float(probabilities[int(result.targets[n])])
        for kind in result.steps:
            result.probability[kind][n] = result.untouched[n]
        for m, value in enumerate(originals.values):
            result.norms[n, m] = float(_norm(value[row]))
            distances = [float(_norm(references.values[m][reference] - value[row])) for reference in others]
            result.apart[n, m] = np.mean(distances) if distances else np.nan
        for name, maxima in originals.maxima.items():
            apart = (references.maxima[name][others] - maxima[row]).abs().double().mean(0)  # NaN without other images
            result.units[name].apart[n] = apart.cpu().numpy()


def _record_variants(
    result: Invariance, start: int, variants: Sequence[Variant], observed: Observation, originals: Observation
) -> None:
    """Record how far the features of transformed pictures are from those of their originals."""
    rows = [variant.row for variant in variants]
    distances = [
        torch.stack([_norm(value[n] - original[row]) for n, row in enumerate(rows)]).tolist()
        for value, original in zip(observed.values, originals.values, strict=True)
    ]
    steps_moving = {kind: int(moving(kind, steps).sum()) for kind, steps in result.steps.items()}
    moved = {
        name: (maxima - originals.maxima[name][rows]).abs().double().cpu().numpy()
        for name, maxima in observed.maxima.items()
    }
    for n, (row, kind, step) in enumerate(variants):
        image = start + row
        result.moved[kind][image, step] = [of_layer[n] for of_layer in distances]
        result.probability[kind][image, step] = float(observed.probabilities[n, int(result.targets[image])])
        for name, filters in result.units.items():
            filters.moved[kind][image] += moved[name][n] / steps_moving[kind]


def _norm(difference: Tensor) -> Tensor:
    """Return the Euclidean norm over everything; half precision would overflow."""
    norm: Tensor = torch.linalg.vector_norm(difference.to(widened(difference.dtype)))
    return norm
