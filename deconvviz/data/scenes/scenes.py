"""`Scenes`: pictures of ten objects that share their parts, with exact masks; a dataset that ships as code."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from deconvviz.data.scenes.artist import CLASSES, plan_scene
from deconvviz.data.scenes.raster import Plan, masks, rasterise, render
from deconvviz.errors import DataError
from deconvviz.notebook import Shown
from deconvviz.types import Ints, Mask, Pixels

_VERSION = "scenes 1"  # part of the fingerprint: a change of any pixel or label needs another
_BOUNDS = {"count": (1, 10**6), "size": (48, 128), "seed": (0, 2**63)}


@dataclasses.dataclass(frozen=True)
class Scene:
    """One picture, and what is where in it.

    Attributes:
        image: uint8 [S, S, 3].
        label: the class of the object, an index into `Scenes.classes`.
        mask: bool [S, S], the pixels of which the object covers at least half; what something in front of the object
            hides does not count.
        parts: name -> bool [S, S] for each visible part: the pixels of which it covers at least half, where no later
            part hides it. They lie within `mask`. Left and right are those of the drawing, before a scene mirrors and
            turns it: the left eye of a mirrored owl is on the right of the picture.
    """

    image: Pixels
    label: int
    mask: Mask
    parts: dict[str, Mask]


class Scenes(Shown, drawn_by="draw_images"):
    """A dataset of drawn pictures: each shows one of ten kinds of objects, amid stray parts of others.

    The objects share their parts (eyes, wheels, windows, leaves, wings ...), which come in random colours, textures
    and poses, so that neither a colour nor a single part tells the class. Scene i is drawn when it is asked for, from
    `np.random.default_rng([seed, i])`; so the seed settles every pixel.

    Attributes:
        count: number of scenes.
        size: S, the side of a picture in pixels.
        seed: of everything that is random.
        classes: the ten class names.
        labels: int64 [count], an index into the classes; the numbers of scenes of two classes differ by at most 1.
        names: such as "000123-owl.png".
        fingerprint: SHA-256 in hex of the drawing code's version and the settings.
        channels: 3.

    Raises:
        DataError: a count below 1, a size outside of 48..128, or a negative seed.

    >>> scenes = Scenes(100, seed=7)
    >>> scenes.names[3], scenes[3][0].shape, scenes[3][1]
    ('000003-bird.png', (72, 72, 3), 2)
    >>> sorted(scenes.scene(3).parts)
    ['beak', 'eye', 'legs', 'tail', 'wing']
    """

    channels = 3

    def __enter__(self) -> Scenes:
        """Return the scenes: they stand where a packed store is opened and closed."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the scenes as they are: they hold no file."""

    def __init__(self, count: int = 8000, size: int = 72, seed: int = 0) -> None:
        for name, value in (("count", count), ("size", size), ("seed", seed)):
            low, high = _BOUNDS[name]
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or not low <= value <= high:
                raise DataError(f"{name} {value!r} is not an integer from {low} to {high}")
        self.count, self.size, self.seed = int(count), int(size), int(seed)
        self.classes = CLASSES
        blocks = np.random.default_rng([self.seed, 0, 1]).random((-(-self.count // len(CLASSES)), len(CLASSES)))
        self.labels: Ints = blocks.argsort(1).ravel()[: self.count].astype(np.int64)
        self.names = tuple(f"{index:06d}-{CLASSES[label]}.png" for index, label in enumerate(self.labels))
        self.fingerprint = hashlib.sha256(f"{_VERSION} {self!r}".encode()).hexdigest()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Pixels, int]:
        """Draw one scene: return its picture, uint8 [S, S, 3], and its label."""
        plan, canvas = self._drawn(index)
        return render(plan, canvas), int(self.labels[index])

    def __repr__(self) -> str:
        return f"Scenes(count={self.count}, size={self.size}, seed={self.seed})"

    def scene(self, index: int) -> Scene:
        """Draw one scene with its masks; raises IndexError where `index` is out of range."""
        plan, canvas = self._drawn(index)
        return Scene(render(plan, canvas), int(self.labels[index]), *masks(plan, canvas))

    def _drawn(self, index: int) -> tuple[Plan, Ints]:
        """Return the plan of a scene, and its shapes as `rasterise` fills them."""
        if not -self.count <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}")
        rng = np.random.default_rng([self.seed, int(index) % self.count])
        plan = plan_scene(CLASSES[self.labels[index]], self.size, rng)
        return plan, rasterise(plan.shapes, self.size)
