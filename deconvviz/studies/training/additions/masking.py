"""AdvMask: squares around the pixels that carry a decision are hidden, so that the network has to find others."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from deconvviz.arrays import PEAKS
from deconvviz.choices import KEY_POINT_ATTACKS
from deconvviz.errors import MismatchError, TrainingError, require
from deconvviz.results.declarations import FILES
from deconvviz.results.results import Result, require_same
from deconvviz.studies.training.additions.base import Addition, Course, Step
from deconvviz.studies.training.additions.registry import registered
from deconvviz.types import Ints, Mask, Picture

CROWDED = 0.1  # of a square: where more of it is hidden already, the square is left out
MOST = 0.5  # of the picture is never reached
FEWEST = 100 / 1024  # of the picture: where less is hidden, a grid takes the place of the squares
PERIODS, KEPT = (0.75, 1.0), 0.4  # of the grid: its period in sides of the picture, and what of a period stays


class Rule(NamedTuple):
    """How squares are drawn, all lengths as shares of the picture's side.

    Attributes:
        shortest: side of a square, at least.
        longest: side of a square, at most.
        least: share of the picture at which no further square is added.
        shift: the most by which all squares together are moved, each way.
    """

    shortest: float = 5 / 32
    longest: float = 21 / 32
    least: float = 0.03
    shift: float = 9 / 32


def hidden_squares(points: Ints, side: int, rule: Rule, rng: np.random.Generator) -> Mask:
    """Return which pixels of a picture are hidden by squares around some of its points, bool [side, side].

    One length is drawn for all squares, from the shortest to the longest. Around the points, in random order, squares
    of that length are hidden until the least share is reached; a square is left out where more than a tenth of it is
    hidden already, and where half of the picture would be. What lies beyond the picture's edge is cut off. Then all
    squares are moved together.

    Args:
        points: int64 [n, 2], (row, column) of each; may lie outside of the picture, and is left out then.
        side: of the picture in pixels.
        rule: the numbers.
        rng: where the length, the order and the shift are drawn from, in this order.

    Source: Yang et al. 2022, AdvMask, arXiv 2211.16040, the released code for CIFAR-10; squares have the length that
    was drawn.

    >>> rule = Rule(shortest=0.25, longest=0.25, shift=0.0)
    >>> hidden_squares(np.array([[4, 4]]), 8, rule, np.random.default_rng(0))[2:6, 3:6].astype(int)
    array([[0, 0, 0],
           [1, 1, 0],
           [1, 1, 0],
           [0, 0, 0]])
    """
    shortest, longest = (max(1, round(share * side)) for share in (rule.shortest, rule.longest))
    length = int(rng.integers(shortest, longest + 1))
    hidden = np.zeros((side, side), bool)
    inside = points[((points >= 0) & (points < side)).all(1)]
    for row, column in inside[rng.permutation(len(inside))].tolist():
        if hidden.mean() >= rule.least:
            break
        top, left = row - length // 2, column - length // 2
        square = (slice(max(top, 0), top + length), slice(max(left, 0), left + length))
        would = hidden.sum() + (~hidden[square]).sum()
        if hidden[square].sum() <= CROWDED * length**2 and would < MOST * side**2:
            hidden[square] = True
    most = round(rule.shift * side)
    down, across = (int(by) for by in rng.integers(-most, most + 1, 2))
    return moved(hidden, down, across)


def moved(mask: Mask, down: int, across: int) -> Mask:
    """Return a mask moved by some pixels; what leaves the picture is lost, and nothing comes in.

    >>> moved(np.eye(2, dtype=bool), 1, 0).astype(int)
    array([[0, 0],
           [1, 0]])
    """
    height, width = mask.shape
    out = np.zeros_like(mask)
    rows, columns = (np.arange(max(by, 0), length + min(by, 0)) for by, length in ((down, height), (across, width)))
    if len(rows) and len(columns):
        out[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = mask[
            rows[0] - down : rows[-1] + 1 - down, columns[0] - across : columns[-1] + 1 - across
        ]
    return out


def hidden_grid(side: int, rng: np.random.Generator) -> Mask:
    """Return which pixels of a picture are hidden by a grid of squares, bool [side, side].

    The period is drawn from three quarters of the side to the whole side, and of each period 0.4 stays; the place of
    the grid is drawn too.

    Source: Chen et al. 2020, GridMask, arXiv 2001.04086 (the definition from memory), with AdvMask's numbers.

    >>> grid = hidden_grid(32, np.random.default_rng(0))
    >>> bool(0.05 < grid.mean() < 0.5)
    True
    """
    period = int(rng.integers(round(PERIODS[0] * side), round(PERIODS[1] * side) + 1))
    kept_pixels = math.ceil(KEPT * period)
    rows, columns = ((np.arange(side) + int(by)) % period >= kept_pixels for by in rng.integers(0, period, 2))
    return np.asarray(rows[:, None] & columns)


@registered
@dataclass
class AdvMask(Addition):
    """Squares around the key points of an image are hidden: pixels whose change takes the decision away.

    An image is hidden in part with a probability that rises from epoch to epoch up to `final`, and stays there after
    `epochs` epochs. Around its key points, in random order, squares of one random length are hidden until 3 % of the
    picture are, never half of it; all of them are moved together by up to 9/32 of its side. An image without points, or
    with less than 100/1024 hidden, gets a grid instead. Then it is cropped and mirrored as ever. What is hidden has the
    mean colour.

    Options: points, the file that `deconvviz attack --method sparse` wrote for the training images, or `--method
    sparse-convolution`, the authors' form, which takes longer; epochs, over which the probability rises (100); final,
    the probability then (0.8); shortest and longest, the length of a square as a share of the side (0.16 and 0.66: 5
    and 21 of 32 px).

    Source: Yang et al. 2022, AdvMask, arXiv 2211.16040: the augmentation of the released code for CIFAR-10. That the
    lengths are shares of the side, and the mean colour in the place of "zero", are our choice; so is the attack sparse.
    What it cannot show: whether points of another network would serve as well.
    """

    name = "adv-mask"
    points: str = ""
    epochs: int = 100
    final: float = 0.8
    shortest: float = 0.16
    longest: float = 0.66

    def __post_init__(self) -> None:
        require(
            self,
            TrainingError,
            points=(bool(self.points), "the file that `deconvviz attack --method sparse` wrote: --option points=FILE"),
            epochs=(self.epochs >= 1, "at least 1"),
            final=(0 <= self.final <= 1, "a number from 0 to 1"),
            longest=(0 < self.shortest <= self.longest <= 1, "lengths in order, above 0 and at most 1"),
        )

    @cached_property
    def _attack(self) -> Result:
        return Result.load(self.points, "attack", FILES["attack"].version)

    def settings(self) -> dict[str, Any]:
        """Return the options; a digest of the points stands for their file, which may move."""
        digest = hashlib.sha256(str(sorted(self._attack.config.items())).encode())
        for name in ("indices", "places", "noise"):
            digest.update(self._attack.arrays[name].tobytes())
        return {**super().settings(), "points": digest.hexdigest()[:16]}

    def begin(self, course: Course) -> None:
        """Read the points, and refuse those of other images, or of images that were resized in another way."""
        config, arrays, state = self._attack.config, self._attack.arrays, self._attack.state
        has_key_points = config["method"] in KEY_POINT_ATTACKS
        if not has_key_points or state["done"] < len(arrays["indices"]):
            unfinished = f", {state['done']} of {len(arrays['indices'])} images" if has_key_points else ""
            raise TrainingError(
                f"{self.points} is of the attack {config['method']}{unfinished}; give one of "
                f"{' or '.join(KEY_POINT_ATTACKS)} that is finished"
            )
        now = {"images_fingerprint": course.training.images.fingerprint}
        require_same(
            self.points, {name: config[name] for name in now}, now, "attack the images that the training is given"
        )
        own_preprocess = course.preprocess.as_dict()
        for name in ("resize", "interpolation", "fit"):
            if config["preprocess"].get(name) != own_preprocess.get(name):
                raise MismatchError(
                    f"{self.points} has points of images with {name} {config['preprocess'].get(name)}, the training "
                    f"has {own_preprocess.get(name)}; attack a network with the same input, or train with --resize"
                )
        side = course.training.preprocess.shape[1]
        self._by_image = _points_by_image(arrays, side)
        if not any(index in self._by_image for index in course.training.indices.tolist()):
            raise TrainingError(f"{self.points} has no points of the training images; attack them, without --keep")
        self._rule = Rule(shortest=self.shortest, longest=self.longest)
        kind = str(np.dtype(getattr(course.training.images, "dtype", np.uint8)))
        scale = PEAKS.get(kind) or 1
        colours = np.array(course.preprocess.mean) * scale
        self._fill = (np.rint(colours) if scale > 1 else colours).astype(kind)

    def probability(self, epoch: int) -> float:
        """Return with which probability an image is hidden in part in an epoch, from 0."""
        return self.final * min((epoch + 1) / self.epochs, 1)

    def pictures(self, pictures: Picture, step: Step) -> Picture:
        """Hide parts of the whole pictures, so that what is hidden is cropped and mirrored with them."""
        if not self.final:
            return pictures
        rng, out = step.numbers(self.name), np.array(pictures)
        for picture, index, drawn in zip(out, step.indices.tolist(), rng.random(len(out)), strict=True):
            if drawn < self.probability(step.epoch):
                picture[self.hidden(index, len(picture), rng)] = self._fill
        return out

    def hidden(self, index: int, side: int, rng: np.random.Generator) -> Mask:
        """Return what is hidden of an image of the dataset, bool [side, side]."""
        hidden = hidden_squares(self._by_image.get(index, np.zeros((0, 2), np.int64)), side, self._rule, rng)
        return hidden if hidden.mean() >= FEWEST else hidden_grid(side, rng)


def _points_by_image(arrays: dict[str, Any], side: int) -> dict[int, Ints]:
    """Return the index of an image -> its points, int64 [n, 2], in a picture of the training, of this side.

    The network that was attacked saw the middle of the picture from which the training takes its crops.
    """
    changed = (arrays["noise"][-1] != 0).any(1)
    offset = np.array([(side - length) // 2 for length in changed.shape[1:]])
    indices = arrays["indices"][arrays["places"]].tolist()
    return {index: np.argwhere(of_image) + offset for index, of_image in zip(indices, changed, strict=True)}
