"""Do parts correspond: does masking the same part of several images change a layer's features in the same way?"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from deconvviz.data.datasets import Images
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.truth import OBJECT, Truth, bounds
from deconvviz.errors import CaptureError, DataError, nearest
from deconvviz.graph.network import Network
from deconvviz.studies.correspondence.result import (
    NORMALISATIONS,
    SIGN_ZERO,
    Correspondence,
    Floats,
    Row,
    hamming,
    permutation_test,
)
from deconvviz.types import Mask

FILLS = ("mean", "black")
RANDOM_ON = ("picture", "object")
LEAST = {"count": 2, "repeats": 1, "random": 1, "permutations": 1, "batch_size": 1, "seed": 0}
ROUNDING = 64  # machine epsilons of a layer's largest value: another batch size changes float32 features by up to 10


def correspondence(
    network: Network,
    images: Images,
    truth: Truth,
    parts: Sequence[str] | None,
    layers: Sequence[str],
    *,
    preprocess: Preprocess,
    per_class: bool = True,
    count: int = 5,
    repeats: int = 10,
    random: int = 10,
    random_on: str = "picture",
    fill: str = "mean",
    sign_zero: str = "three-valued",
    normalisation: str = "mean",
    permutations: int = 1000,
    seed: int = 0,
    batch_size: int = 32,
    progress: bool = True,
) -> Correspondence:
    """Mask the same part in sets of images, and measure how alike the signs of what changes in each layer are.

    Of image i, eps_i = x_i - x~_i is the feature vector of a layer less that of the masked image; the score is the
    mean over the pairs of a set, and over the sets, of H(sign eps_i, sign eps_j), the share of differing dimensions.

    Args:
        truth: where the parts are; a part of which the network's picture shows no pixel is absent from its image.
        parts: by name; None for all that at least `count` images (of one class) have.
        layers: of any shape.
        per_class: sets are of images of one class (those of unknown class being one); else of any images.
        count: images in a set; repeats: the most sets of a part (and class), which share no image.
        random: masks for each image to compare with: the part's own shape, so of equal area, at other places drawn
            uniformly, anywhere within the "picture" or (`random_on`) so that the shape's middle is on the "object".
        fill: what masked pixels become, the "mean" colour or "black".
        sign_zero: an unchanged feature (up to rounding) has the sign 0 ("three-valued"), is left out where it is
            unchanged in either image ("drop"; 1/2 where none is left), or has the sign +1 ("positive").
        normalisation: "mean", or "sum" as the formula is printed: dimensions and ordered pairs are added up.
        permutations: of the test.

    Raises:
        DataError: no or too few images have a part; an unknown option. LayerNotFound: no such layer.
        CaptureError: the images do not fit the network.

    Source: Zeiler and Fergus 2014, arXiv 1311.2901, section 4.3 and table 1, whose scores such as .067 must be means.
    """
    options = {
        "per_class": per_class,
        "count": count,
        "repeats": repeats,
        "random": random,
        "random_on": random_on,
        "fill": fill,
        "sign_zero": sign_zero,
        "normalisation": normalisation,
        "permutations": permutations,
        "seed": seed,
    }
    _check(network, layers, preprocess, options, batch_size)
    study = _Study(network, images, truth, layers, preprocess, options, batch_size)
    sets = study.sets(parts, progress)
    rows: list[Row] = []
    examples: dict[str, NDArray[np.uint8]] = {}
    with tqdm(total=sum(map(len, sets.values())), unit="set", desc="masking parts", disable=not progress) as bar:
        for part, chosen in sets.items():
            tables: dict[str, list[Floats]] = {layer: [] for layer in layers}
            for members in chosen:
                x, masks = study.masked(members, part)
                examples.setdefault(part, study.shown(x, masks))
                for layer, signs in study.signs(x, masks).items():
                    tables[layer].append(hamming(signs, sign_zero, normalisation))
                bar.update()
            rows += [study.row(part, layer, chosen, np.stack(found)) for layer, found in tables.items()]
    config = {
        "model": network.name,
        "model_fingerprint": network.fingerprint,
        "images_fingerprint": images.fingerprint,
        "truth_fingerprint": truth.fingerprint,
        "parts": list(sets),
        "layers": list(layers),
        "preprocess": preprocess.as_dict(),
        **options,
    }
    return Correspondence(tuple(rows), examples, config)


def elsewhere(mask: Mask, number: int, rng: np.random.Generator, within: Mask | None = None) -> NDArray[np.bool_]:
    """Move a mask's shape to random other places of its picture: bool [H, W] -> [number, H, W], of equal area.

    within: where the middle of the shape's box may be, bool [H, W]; None for anywhere. Raises DataError without place.
    """
    top, left, bottom, right = bounds(mask)
    free = _free(mask, within)
    if not len(free):
        raise DataError("the part has no other place in the picture; choose a smaller part, or random_on='picture'")
    moved = np.zeros((number, *mask.shape), bool)
    for one, (y, x) in zip(moved, free[rng.integers(len(free), size=number)], strict=True):
        one[y : y + bottom - top, x : x + right - left] = mask[top:bottom, left:right]
    return moved


class _Study:
    """Finds the parts, masks them, and runs the network."""

    def __init__(
        self,
        network: Network,
        images: Images,
        truth: Truth,
        layers: Sequence[str],
        preprocess: Preprocess,
        options: Mapping[str, Any],
        batch_size: int,
    ) -> None:
        self.network, self.images, self.truth, self.layers = network, images, truth, layers
        self.preprocess, self.options, self.batch_size = preprocess, options, batch_size
        value = preprocess.level(0) if options["fill"] == "black" else torch.zeros(len(preprocess.mean))
        self.fill = value.to(network.device, network.dtype)[:, None, None]

    def sets(self, parts: Sequence[str] | None, progress: bool) -> dict[str, NDArray[np.int64]]:
        """Return the sets of images of each part, int64 [S, n]; raises DataError where there is none."""
        having: dict[str, list[int]] = {}
        for index in tqdm(range(len(self.images)), unit="image", desc="finding parts", disable=not progress):
            for part in self._masks(index).keys() - {OBJECT}:
                having.setdefault(part, []).append(index)
        if not having:
            raise DataError("no part is known in these images; give scenes, or boxes with a column part")
        chosen = {part: self._drawn(having.get(part, [])) for part in parts or sorted(having)}
        known = ", ".join(f"{part} ({len(members)})" for part, members in sorted(having.items()))
        least = f"{self.options['count']} {'of one class ' if self.options['per_class'] else ''}at least"
        for part in parts or ():
            if not len(chosen[part]):
                number = len(having.get(part, []))
                raise DataError(f"{number} images have a part {part!r}; expected {least}; the parts are {known}")
        chosen = {part: found for part, found in chosen.items() if len(found)}
        if not chosen:
            raise DataError(f"no part is in enough images; expected {least}; the parts are {known}")
        return chosen

    def _drawn(self, having: list[int]) -> NDArray[np.int64]:
        """Draw disjoint sets of images, of one class each or of any; parts of the same images get the same sets."""
        members, size = np.array(having, np.int64), self.options["count"]
        labels = self.images.labels[members] if self.options["per_class"] else np.zeros(len(members), np.int64)
        drawn = [np.zeros((0, size), np.int64)]
        for label in np.unique(labels):
            rng = np.random.default_rng([self.options["seed"], 0, label + 1])
            group = rng.permutation(members[labels == label])
            drawn.append(group[: min(len(group) // size, self.options["repeats"]) * size].reshape(-1, size))
        return np.concatenate(drawn)

    def _masks(self, index: int) -> dict[str, Mask]:
        """Return the masks of an image in the network's picture, but of parts that are cut off or leave no room."""
        found = {part: self.preprocess.mask(mask) for part, mask in self.truth.masks(index).items()}
        within = self._within(found, index)
        return {part: mask for part, mask in found.items() if part == OBJECT or len(_free(mask, within))}

    def _within(self, found: Mapping[str, Mask], index: int) -> Mask | None:
        if self.options["random_on"] == "picture" or not found:
            return None
        if OBJECT not in found:
            raise DataError(f"the object of {self.images.names[index]} is not known; give a box without a part for it")
        return found[OBJECT]

    def masked(self, members: NDArray[np.int64], part: str) -> tuple[Tensor, Tensor]:
        """Return images [n, C, H, W] and their masks, bool [n, 1 + R, H, W]: the part, then as large random ones."""
        pictures, masks = [], []
        for index in map(int, members):
            found, rng = self._masks(index), self._rng(part, 1, index)
            others = elsewhere(found[part], self.options["random"], rng, self._within(found, index))
            pictures.append(self.preprocess.picture(self.images[index][0]))
            masks.append(np.concatenate([found[part][None], others]))
        x = self.preprocess.tensor(np.stack(pictures), self.network.device, self.network.dtype)
        return x, torch.from_numpy(np.stack(masks)).to(x.device)

    def signs(self, x: Tensor, masks: Tensor) -> dict[str, NDArray[np.int8]]:
        """Return the signs of what each mask takes from each layer's features, int8 [n, 1 + R, D]."""
        found: dict[str, list[Tensor]] = {layer: [] for layer in self.layers}
        with torch.no_grad():
            for image, covers in zip(x, masks, strict=True):
                # The whole image runs among the masked ones: another batch size would round its features otherwise.
                covers = torch.cat([torch.zeros_like(covers[:1]), covers])[:, None]
                batches = [
                    self.network.activations(torch.where(some, self.fill, image), self.layers)
                    for some in torch.split(covers, self.batch_size)
                ]
                for layer in self.layers:
                    found[layer].append(_signs(torch.cat([batch[layer] for batch in batches]).flatten(1)).cpu())
        return {layer: torch.stack(some).numpy() for layer, some in found.items()}

    def shown(self, x: Tensor, masks: Tensor) -> NDArray[np.uint8]:
        """Return up to five images without the part, and the first one with a random mask, uint8 [m + 1, H, W, 3]."""
        cover = torch.cat([masks[:5, 0], masks[:1, 1]])[:, None]
        return self.preprocess.inverse(torch.where(cover, self.fill, torch.cat([x[:5], x[:1]])))

    def row(self, part: str, layer: str, chosen: NDArray[np.int64], tables: Floats) -> Row:
        """Summarise the distances [S, n, 1 + R, n, 1 + R] of one part and layer."""
        count, mask = tables.shape[1], np.arange(tables.shape[2])
        first, second = (one[:, None] for one in np.triu_indices(count, 1))
        scale = count * (count - 1) if self.options["normalisation"] == "sum" else 1
        p = permutation_test(tables, self.options["permutations"], self._rng(part, 2))
        return Row(part, layer, chosen, scale * tables[:, first, mask, second, mask], p)

    def _rng(self, part: str, *purpose: int) -> np.random.Generator:
        # Its own stream for each part and image: what is drawn does not depend on which other parts are asked for.
        return np.random.default_rng([self.options["seed"], zlib.crc32(part.encode()), *purpose])


def _check(
    network: Network, layers: Sequence[str], preprocess: Preprocess, options: Mapping[str, Any], batch_size: int
) -> None:
    if not layers:
        raise DataError(f"no layer given; name at least one, {nearest('', network.layers)}")
    for name in layers:
        network.layer(name)
    choices = {"fill": FILLS, "sign_zero": SIGN_ZERO, "normalisation": NORMALISATIONS, "random_on": RANDOM_ON}
    for name, known in choices.items():
        if options[name] not in known:
            raise DataError(f"{name} {options[name]!r} given; expected {' or '.join(known)}")
    numbers = {**options, "batch_size": batch_size}
    for name, low in LEAST.items():
        if numbers[name] < low:
            raise DataError(f"{name} {numbers[name]} given; expected {low} or more")
    if preprocess.shape != network.input_shape:
        raise CaptureError(f"preprocessing gives images of {preprocess.shape}; the network takes {network.input_shape}")


def _signs(features: Tensor) -> Tensor:
    """Return the signs of the first row less each other, [1 + K, D] -> int8 [K, D]; 0 where rounding may differ so."""
    change = features[:1] - features[1:]
    least = ROUNDING * torch.finfo(features.dtype).eps * features[0].abs().max()
    return torch.where(change.abs() > least, change.sign(), 0).to(torch.int8)


def _free(mask: Mask, within: Mask | None) -> NDArray[np.intp]:
    """Return where the corner of a shape's box may be moved to, [places, 2]."""
    if not mask.any():
        return np.zeros((0, 2), np.intp)
    top, left, bottom, right = bounds(mask)
    height, width = bottom - top, right - left
    free = np.ones((mask.shape[0] - height + 1, mask.shape[1] - width + 1), bool)
    if within is not None:
        free &= within[height // 2 :, width // 2 :][: free.shape[0], : free.shape[1]]
    free[top, left] = False
    return np.argwhere(free)
