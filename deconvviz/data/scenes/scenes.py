"""`Scenes`: pictures of ten objects that share their parts, with exact masks; a dataset that ships as code."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
from numpy.typing import NDArray

from deconvviz.data.scenes import parts as draw
from deconvviz.data.scenes.parts import BLACK, WHITE, Floats, Paint, Pen, Shape, box, hues, oval, shade, smooth
from deconvviz.errors import DataError

CLASSES: tuple[str, ...] = ("cat", "owl", "bird", "fish", "butterfly", "flower", "car", "bus", "train", "house")
_VERSION = "scenes 1"  # a change of any pixel or label needs another


@dataclasses.dataclass(frozen=True)
class Scene:
    """One picture and what is where in it.

    image: uint8 [S,S,3]. label: an index into CLASSES.
    mask: bool [S,S], the pixels at least half covered by the object, as far as nothing in front hides it.
    parts: by its name each part that is seen, bool [S,S]: the pixels at least half covered by it, where no later part
        hides it; within `mask`. Left and right are those of the drawing before a scene mirrors and turns it: the left
        eye of a mirrored owl is on the right of the picture.
    """

    image: NDArray[np.uint8]
    label: int
    mask: NDArray[np.bool_]
    parts: dict[str, NDArray[np.bool_]]


class Scenes:
    """A dataset of `count` drawn scenes of `size` x `size` pixels: `scenes[i]` is (uint8 [S,S,3], label).

    The objects are of ten CLASSES that share parts (eyes, wheels, windows, leaves, wings ...) in random colours,
    textures and poses, amid stray parts, so that neither a colour nor a single part tells the class.
    The seed settles every pixel: scene i is drawn from np.random.default_rng([seed, i]) when it is asked for.
    labels: int64 [count], balanced: the classes' numbers differ by at most 1. names: such as "000123-owl.png".
    fingerprint: SHA-256 in hex of the drawing code's version and the settings.
    Raises DataError for a count below 1, a size outside 48..128, or a negative seed.
    """

    def __init__(self, count: int = 8000, size: int = 72, seed: int = 0) -> None:
        for name, value, low, high in (("count", count, 1, 10**6), ("size", size, 48, 128), ("seed", seed, 0, 2**63)):
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or not low <= value <= high:
                raise DataError(f"{name} {value!r} is not an integer from {low} to {high}")
        self.count, self.size, self.seed = int(count), int(size), int(seed)
        self.classes = CLASSES
        blocks = np.random.default_rng([self.seed, 0, 1]).random((-(-self.count // len(CLASSES)), len(CLASSES)))
        self.labels: NDArray[np.int64] = blocks.argsort(1).ravel()[: self.count].astype(np.int64)
        self.names = tuple(f"{index:06d}-{CLASSES[label]}.png" for index, label in enumerate(self.labels))
        self.fingerprint = hashlib.sha256(f"{_VERSION} {self!r}".encode()).hexdigest()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        plan, ids = self._drawn(index)
        return _render(plan, ids), int(self.labels[index])

    def __repr__(self) -> str:
        return f"Scenes(count={self.count}, size={self.size}, seed={self.seed})"

    def scene(self, index: int) -> Scene:
        """Draw one scene with its masks; raises IndexError where there is none."""
        plan, ids = self._drawn(index)
        return Scene(_render(plan, ids), int(self.labels[index]), *_masks(plan, ids))

    def _drawn(self, index: int) -> tuple[_Plan, NDArray[np.intp]]:
        if not -self.count <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}")
        plan = _plan(self.labels[index], self.size, np.random.default_rng([self.seed, int(index) % self.count]))
        return plan, draw.rasterise(plan.shapes, self.size)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """Everything that a scene is made of, before it is drawn."""

    ground: Floats  # [S,S,3]
    shapes: list[Shape]  # in pixels; the later cover the earlier
    body: range  # which shapes are the object
    texture: tuple[Floats, Floats]  # how much of which colour textured shapes are given: [S,S] in 0..1, [3]
    light: Floats  # [S,S,1]
    noise: Floats  # [S,S,1]


def _plan(label: np.int64, size: int, rng: np.random.Generator) -> _Plan:
    colour, other = hues(rng, 2)
    paint = Paint(rng, colour)
    weave = _pattern(rng, size, 0.5)[..., None] * paint.between(0.1, 0.45)
    shapes: list[Shape] = []
    for kind in rng.integers(0, draw.STRAYS, rng.integers(1, 5)):
        shapes += _place(Pen([], paint).stray(kind), size, rng, (0.12, 0.26), 180, -0.05)
    artist, behind = _Artist([], paint), len(shapes)
    getattr(artist, CLASSES[label])()
    shapes += _place(artist.shapes, size, rng, (0.52, 0.95), 20, 0.02)
    body = range(behind, len(shapes))
    if paint.between(0, 1) < 0.25:
        shapes += _place(Pen([], paint).stray(int(rng.integers(0, draw.STRAYS))), size, rng, (0.12, 0.2), 180, -0.05)
    across, slope, angle = np.linspace(-1, 1, size), paint.between(0, 0.28), paint.between(0, 2 * np.pi)
    light = paint.between(0.85, 1.15) * (1 + slope * (np.cos(angle) * across + np.sin(angle) * across[:, None]))
    noise = rng.standard_normal((size, size, 1)) * paint.between(0, 0.02)
    texture = _pattern(rng, size, 0.35) * paint.between(0.25, 0.7), paint.pick()
    return _Plan(colour + weave * (other - colour), shapes, body, texture, light[..., None], noise)


def _place(
    shapes: list[Shape], size: int, rng: np.random.Generator, share: tuple[float, float], most: float, margin: float
) -> list[Shape]:
    """Turn by up to `most` degrees, perhaps mirror, and scale shapes to a share of the picture, somewhere in it."""
    angle = np.radians(rng.uniform(-most, most))
    mirror, sin, cos = rng.choice([-1, 1]), np.sin(angle), np.cos(angle)
    points = np.concatenate([shape.points for shape in shapes]) @ np.array([[mirror * cos, mirror * sin], [-sin, cos]])
    points *= size * rng.uniform(*share) / np.ptp(points, 0).max()
    low, high = points.min(0), points.max(0)
    first, last = margin * size - low, (1 - margin) * size - high
    points += first + np.maximum(last - first, 0) * rng.random(2)
    ends = np.cumsum([len(shape.points) for shape in shapes])
    return [shape._replace(points=part) for shape, part in zip(shapes, np.split(points, ends[:-1]), strict=True)]


def _pattern(rng: np.random.Generator, size: int, coarse: float) -> Floats:
    """A texture float64 [S,S] in 0..1: nothing, stripes, checks, dots, a gradient or clouds."""
    kind, angle, period = rng.integers(0, 6), rng.uniform(0, np.pi), size * rng.uniform(0.12, 0.4) * coarse
    across, level = np.arange(size) - size * rng.random(), rng.uniform(-0.5, 0.5)
    sin, cos = np.sin(angle) * 2 * np.pi / period, np.cos(angle) * 2 * np.pi / period
    u, v = cos * across + sin * across[:, None], cos * across[:, None] - sin * across
    if kind < 3:
        wave = (np.sin(u) + level, np.sin(u) * np.sin(v), np.cos(u) + np.cos(v) - 0.9 + 0.6 * level)[kind]
        return np.asarray(np.clip(0.5 + period / 4 * wave, 0, 1))  # changes within about a pixel: antialiased
    if kind == 3:
        return np.asarray((u - u.min()) / np.ptp(u))
    cells = int(rng.integers(4, 12))
    hats = np.clip(1 - np.abs(np.linspace(0, cells - 1, size)[:, None] - np.arange(cells)), 0, 1)
    return np.asarray(hats @ rng.random((cells, cells)) @ hats.T * (kind == 4))


def _render(plan: _Plan, ids: NDArray[np.intp]) -> NDArray[np.uint8]:
    """Colour the canvas that `rasterise` returned, average it to pixels, and light it: uint8 [S,S,3]."""
    table = np.zeros((len(plan.shapes) + 1, 5), np.float32)  # a shape's colour, whether it is there, whether textured
    table[1:] = [(*shape.colour, 1, shape.textured) for shape in plan.shapes]
    mean = np.zeros((*plan.light.shape[:2], 5), np.float32)
    for start in np.ndindex(draw.FINE, draw.FINE):
        mean += table[ids[start[0] :: draw.FINE, start[1] :: draw.FINE]] / draw.FINE**2
    amount, colour = plan.texture
    weight = mean[..., 4:] * amount[..., None]
    image = mean[..., :3] + (1 - mean[..., 3:4]) * plan.ground
    image = (image + weight * (colour - image)) * plan.light + plan.noise
    return np.asarray(np.round(np.clip(image, 0, 1) * 255).astype(np.uint8))


def _masks(plan: _Plan, ids: NDArray[np.intp]) -> tuple[NDArray[np.bool_], dict[str, NDArray[np.bool_]]]:
    """Return the pixels bool [S,S] at least half covered by the object, and by each of its parts that is seen."""
    size = len(ids) // draw.FINE
    names = sorted({plan.shapes[index].part for index in plan.body})
    table = np.zeros(len(plan.shapes) + 1, np.intp)
    for index in plan.body:
        table[index + 1] = 1 + names.index(plan.shapes[index].part)
    pixel, many = np.arange(size).repeat(draw.FINE), len(names) + 1
    bins = (pixel[:, None] * size + pixel) * many + table[ids]
    counts = np.bincount(bins.ravel(), minlength=size * size * many).reshape(size, size, many)
    half = counts[..., 1:] * 2 >= draw.FINE**2
    seen = {name: half[..., index] for index, name in enumerate(names) if name and half[..., index].any()}
    return counts[..., 1:].sum(2) * 2 >= draw.FINE**2, seen


class _Artist(Pen):
    """Draws an object: a method for each of CLASSES."""

    def cat(self) -> None:
        fur, apart = self.pick(), self.between(0.34, 0.4)
        for part, side in (("left ear", -1), ("right ear", 1)):
            self.at(side * 0.5, -0.3, self.between(0.62, 0.75), angle=side * 24, part=part).ear(fur)
        self.fill(oval(0, 0.12, self.between(0.8, 0.92), self.between(0.64, 0.76)), fur, 0.05, True)
        self.fill(oval(0, 0.46, 0.42, 0.28), shade(fur, 1.8))
        self.eyes([("left eye", -apart, -0.02, 0.23), ("right eye", apart, -0.02, 0.23)])
        whiskers = [(side * 0.3, y, side * 1.02, 2.2 * y - 0.5) for side in (-1, 1) for y in (0.34, 0.43, 0.52)]
        self.of("whiskers").lines(shade(fur, 0.2), 0.05, *whiskers)
        self.of("mouth").lines(BLACK, 0.06, (0, 0.36, 0, 0.52), (0, 0.51, -0.2, 0.62), (0, 0.51, 0.2, 0.62))
        self.of("nose").fill([(-0.16, 0.24), (0.16, 0.24), (0, 0.42)], self.pick(fur), 0.03)

    def owl(self) -> None:
        body, wing, radius = self.pick(), self.pick(), self.between(0.25, 0.31)
        toes = [(x, 0.9, x + 0.8 * out, 1.1) for x, out in ((-0.35, -0.1), (-0.25, 0), (-0.15, 0.1))]
        self.of("feet").lines(self.pick(), 0.09, *toes, *((-x, y, -to_x, to_y) for x, y, to_x, to_y in toes))
        for part, side in (("left ear", -1), ("right ear", 1)):
            self.at(side * 0.44, -0.7, 0.42, angle=side * 28, part=part).ear(body)
        half = [(0.62, -0.7), (0.72, 0.1), (0.5, 0.85)]
        self.fill(smooth([(0, -0.9), *half, (0, 1), *((-x, y) for x, y in half[::-1])]), body, 0.05, True)
        self.of("belly").fill(oval(0, 0.45, 0.4, 0.45), shade(body, 2))
        tips = [(-0.22, 0.42), (0, 0.42), (0.22, 0.42), (-0.12, 0.64), (0.12, 0.64)]
        down = [(x + side, y - 0.09, x, y) for x, y in tips for side in (-0.09, 0.09)]
        self.of("belly").lines(shade(body, 0.6), 0.06, *down)
        for part, side in (("left wing", -1), ("right wing", 1)):
            self.at(side * 0.66, -0.1, self.between(0.8, 0.95), angle=side * 8, wide=side * 0.8, part=part).wing(wing)
        self.eyes([("left eye", -0.32, -0.45, radius), ("right eye", 0.32, -0.45, radius)])
        self.at(0, -0.34, 0.36, angle=90, part="beak").beak()

    def bird(self) -> None:
        body, tilt = self.pick(), self.between(-14, 8)
        feet = [(-0.1, 0.92, 0.08, 0.92), (0.18, 0.92, 0.36, 0.92)]
        self.of("legs").lines(self.pick(), 0.08, (-0.08, 0.5, -0.08, 0.92), (0.2, 0.5, 0.2, 0.92), *feet)
        self.at(-0.5, 0.05, 0.72, angle=self.between(175, 205), part="tail").fan(shade(body, 0.7), self.pick(body))
        self.at(0.82, -0.36, self.between(0.32, 0.46), part="beak").beak()
        self.at(0, 0.15, angle=tilt).fill(oval(0, 0, 0.68, 0.45), body, 0.05, True)
        self.fill(oval(0.6, -0.35, 0.36, 0.34), body, 0.05, True)
        self.fill(oval(0.56, -0.22, 0.3, 0.28), body, 0, True)  # no line between the head and the body
        self.at(0.12, 0, self.between(0.66, 0.84), angle=self.between(55, 75), part="wing").wing(self.pick(body))
        self.eyes([("eye", 0.66, -0.4, self.between(0.15, 0.19))])

    def fish(self) -> None:
        body, fin, rays, tall = self.pick(), self.pick(), self.pick(), self.between(0.42, 0.62)
        self.at(-0.55, 0, self.between(0.55, 0.7), angle=180, part="tail").fan(fin, rays)
        self.at(0.12, 0.34 - 1.2 * tall, 0.62, angle=-125, part="top fin").fan(fin, rays)
        back = [(-0.3, -0.7 * tall), (0.2, -tall), (0.75, -0.6 * tall)]
        self.fill(smooth([(-0.75, 0), *back, (1, 0.03), *((x, -y) for x, y in back[::-1])]), body, 0.05, True)
        gill = [(0.4, -0.7 * tall, 0.31, -0.3 * tall), (0.31, -0.33 * tall, 0.31, 0.33 * tall)]
        self.of("gill").lines(shade(body, 0.4), 0.06, *gill, (0.31, 0.3 * tall, 0.4, 0.7 * tall))
        self.at(0.18, 0.12, 0.42, angle=155, part="side fin").fan(fin, rays)
        self.of("mouth").lines(BLACK, 0.06, (0.99, 0.1, 0.78, 0.16))
        self.eyes([("eye", 0.64, -0.12, self.between(0.15, 0.19))])

    def butterfly(self) -> None:
        upper, lower, body = self.pick(), self.pick(), self.pick()
        above = [(0.02, 0.08), (0.1, -0.4), (0.7, -self.between(0.75, 0.95)), (1.02, -0.55), (0.75, 0)]
        below = [(0.02, 0), (0.5, 0), (0.78, 0.35), (0.5, self.between(0.6, 0.8)), (0.16, 0.55)]
        for part, colour, points in (("lower wing", lower, below), ("upper wing", upper, above)):
            spot, (x, y) = self.pick(colour), np.mean(points, 0) * 1.18
            for side, name in ((-1, "left"), (1, "right")):
                wing = self.at(0, 0.02, wide=side, part=f"{name} {part}")
                wing.fill(smooth(points), colour, 0.06, True)
                for radius, ring in ((0.2, BLACK), (0.15, spot), (0.06, WHITE)):
                    wing.fill(oval(x, y, radius, radius), ring)
        at, dark = self.of("antennae"), shade(body, 0.4)
        at.lines(dark, 0.06, (0, -0.45, -0.25, -0.95), (0, -0.45, 0.25, -0.95))
        for x in (-0.25, 0.25):
            at.fill(oval(x, -0.95, 0.07, 0.07), dark)
        self.of("body").fill(oval(0, 0.1, 0.12, 0.6), body, 0.04)
        self.of("body").lines(dark, 0.07, *((-0.12, y, 0.12, y) for y in (-0.1, 0.1, 0.3)))

    def flower(self) -> None:
        self.of("stem").lines(self.pick(), 0.12, (0, -0.3, self.between(-0.15, 0.15), 1.1))
        for part, side in (("left leaf", -1), ("right leaf", 1)):
            low, long, lift = self.between(0.75, 0.95), self.between(0.6, 0.75), self.between(15, 45)
            self.at(0, low, long, angle=-side * lift, wide=side, part=part).leaf()
        at = self.at(0, -0.35, self.between(0.66, 0.8), angle=self.between(0, 90))
        at.of("petals").petals(int(self.paint.rng.integers(5, 9)))
        centre, heart = at.at(0, 0, self.between(0.27, 0.36), part="centre"), self.pick()
        centre.fill(oval(0, 0, 1, 1), heart, 0.13)
        for x, y in (*oval(0, 0, 0.58, 0.58)[::5], (0, 0)):
            centre.fill(oval(x, y, 0.17, 0.17), shade(heart, 0.5))

    def car(self) -> None:
        body, roof, radius = self.pick(), self.between(-0.6, -0.45), self.between(0.25, 0.32)
        self.fill([(-0.75, 0), (-0.5, roof), (0.3, roof), (0.62, 0)], body, 0.05, True)
        self.fill(box(-1.02, -0.08, 1.02, 0.42, 0.16), body, 0.05, True)
        self.windows([("rear window", -0.28, roof / 2, 0.23, 0.2), ("front window", 0.22, roof / 2, 0.22, 0.2)])
        gaps = [(-0.03, 0, -0.03, 0.38), (0.46, 0, 0.42, 0.38), (0.05, 0.08, 0.18, 0.08)]
        self.of("door").lines(shade(body, 0.45), 0.05, *gaps)
        self.at(0.92, 0.08, 0.12, part="lamp").lamp()
        self.wheels([("rear wheel", -0.56, 0.4, radius), ("front wheel", self.between(0.5, 0.62), 0.4, radius)])

    def bus(self) -> None:
        body, count, radius = self.pick(), int(self.paint.rng.integers(3, 5)), self.between(0.19, 0.25)
        self.fill(box(-1.05, -0.75, 1.05, 0.5, 0.12), body, 0.05, True)
        self.fill(box(-1.05, 0.12, 1.05, 0.24), self.pick(body))
        step = 1.4 / count
        self.windows((f"window {k + 1}", step * (k + 0.5) - 0.92, -0.3, 0.42 * step, 0.27) for k in range(count))
        self.at(0.78, -0.08, part="door").door(0.17, 0.48)
        self.at(0.98, 0.36, 0.1, part="lamp").lamp()
        self.wheels([("rear wheel", -0.6, 0.5, radius), ("front wheel", 0.42, 0.5, radius)])

    def train(self) -> None:
        body, cab = self.pick(), self.pick()
        self.of("funnel").fill([(0.5, -0.2), (0.42, -0.8), (0.82, -0.8), (0.74, -0.2)], self.pick(), 0.05)
        self.of("dome").fill(oval(0.1, -0.3, 0.16, 0.2), self.pick(), 0.04)
        self.fill([(0.85, 0.3), (1.2, 0.6), (0.6, 0.6)], shade(cab, 0.6), 0.04)
        self.fill(box(-0.4, -0.3, 0.98, 0.3, 0.14), body, 0.05, True)
        self.lines(shade(body, 0.5), 0.07, (-0.02, -0.3, -0.02, 0.3), (0.36, -0.3, 0.36, 0.3))
        self.fill(box(-1, -0.75, -0.28, 0.42), cab, 0.05)
        self.fill(box(-1.1, -0.88, -0.18, -0.72), self.pick(cab), 0.04)
        self.windows([("window", -0.64, -0.38, 0.24, 0.24)])
        self.at(0.96, -0.1, 0.13, part="lamp").lamp()
        big = ("rear wheel", -0.64, 0.42, self.between(0.25, 0.31))
        self.wheels([big, ("middle wheel", 0.06, 0.48, 0.22), ("front wheel", 0.6, 0.48, 0.22)])

    def house(self) -> None:
        wide, middle = self.between(0.72, 0.86), self.between(-0.3, 0.3)
        self.of("chimney").fill(box(0.4, -0.85, 0.66, -0.1), self.pick(), 0.05)
        self.fill(box(-wide, -0.1, wide, 0.95), self.pick(), 0.05, True)
        self.at(0, -0.08, wide + 0.16, part="roof").roof()
        self.at(middle, 0.52, part="door").door(0.17, 0.4)
        gaps = [("left window", -wide, middle - 0.2), ("right window", middle + 0.2, wide)]
        self.windows((part, (a + b) / 2, 0.35, min(0.24, 0.35 * (b - a)), 0.24) for part, a, b in gaps)
