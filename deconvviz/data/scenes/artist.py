"""What a scene shows: an object of one of ten classes, made of parts that the classes share, amid stray parts."""

from __future__ import annotations

import numpy as np

from deconvviz.data.scenes.parts import (
    BLACK,
    STRAYS,
    WHITE,
    Paint,
    Pen,
    ellipse,
    random_colours,
    rectangle,
    shade,
    smooth,
)
from deconvviz.data.scenes.raster import Plan, Shape
from deconvviz.types import Floats

# The names of the methods of `Artist`; a label is an index into them.
CLASSES: tuple[str, ...] = ("cat", "owl", "bird", "fish", "butterfly", "flower", "car", "bus", "train", "house")


def plan_scene(kind: str, size: int, rng: np.random.Generator) -> Plan:
    """Decide everything that a scene shows.

    Args:
        kind: one of CLASSES.
        size: S, the side of the picture in pixels.
        rng: where everything random is drawn from; the order of the draws is part of the dataset.
    """
    colour, other = random_colours(rng, 2)
    paint = Paint(rng, colour)
    weave = _pattern(rng, size, 0.5)[..., None] * paint.between(0.1, 0.45)
    shapes: list[Shape] = []
    for stray in rng.integers(0, STRAYS, rng.integers(1, 5)):
        shapes += _placed(Pen([], paint).stray(stray), size, rng, (0.12, 0.26), 180, -0.05)
    artist, behind = Artist([], paint), len(shapes)
    getattr(artist, kind)()
    shapes += _placed(artist.shapes, size, rng, (0.52, 0.95), 20, 0.02)
    body = range(behind, len(shapes))
    if paint.between(0, 1) < 0.25:  # a stray part in front of the object
        shapes += _placed(Pen([], paint).stray(int(rng.integers(0, STRAYS))), size, rng, (0.12, 0.2), 180, -0.05)
    across, slope, angle = np.linspace(-1, 1, size), paint.between(0, 0.28), paint.between(0, 2 * np.pi)
    light = paint.between(0.85, 1.15) * (1 + slope * (np.cos(angle) * across + np.sin(angle) * across[:, None]))
    noise = rng.standard_normal((size, size, 1)) * paint.between(0, 0.02)
    texture_amount = _pattern(rng, size, 0.35) * paint.between(0.25, 0.7)
    return Plan(
        ground=colour + weave * (other - colour),
        shapes=shapes,
        body=body,
        texture_amount=texture_amount,
        texture_colour=paint.pick(),
        light=light[..., None],
        noise=noise,
    )


def _placed(
    shapes: list[Shape], size: int, rng: np.random.Generator, share: tuple[float, float], turn: float, margin: float
) -> list[Shape]:
    """Return shapes somewhere in the picture, turned, perhaps mirrored, and scaled.

    Args:
        shapes: in the coordinates of the artist.
        size: of the picture in pixels.
        rng: where angle, mirroring, scale and place are drawn from.
        share: the least and the largest extent of the shapes, as shares of the picture's side.
        turn: the largest angle in degrees, either way.
        margin: between the shapes and the border, as a share of the picture's side; negative ones reach beyond it.
    """
    angle = np.radians(rng.uniform(-turn, turn))
    mirror, sin, cos = rng.choice([-1, 1]), np.sin(angle), np.cos(angle)
    points = np.concatenate([shape.points for shape in shapes]) @ np.array([[mirror * cos, mirror * sin], [-sin, cos]])
    points *= size * rng.uniform(*share) / np.ptp(points, 0).max()
    low, high = points.min(0), points.max(0)
    first, last = margin * size - low, (1 - margin) * size - high
    points += first + np.maximum(last - first, 0) * rng.random(2)
    ends = np.cumsum([len(shape.points) for shape in shapes])
    return [shape._replace(points=part) for shape, part in zip(shapes, np.split(points, ends[:-1]), strict=True)]


def _pattern(rng: np.random.Generator, size: int, coarse: float) -> Floats:
    """Return a texture, float64 [S, S] in 0..1: stripes, checks, dots, a gradient, clouds or nothing.

    Args:
        rng: where the kind of texture and its form are drawn from.
        size: S, in pixels.
        coarse: factor on the period of stripes, checks and dots.
    """
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


class Artist(Pen):
    """Draws an object: it has a method for each of CLASSES. Parts that are drawn later cover earlier ones."""

    def cat(self) -> None:
        """Draw the head of a cat: ears, eyes, nose, mouth and whiskers."""
        fur, apart = self.pick(), self.between(0.34, 0.4)
        for part, side in (("left ear", -1), ("right ear", 1)):
            self.at(side * 0.5, -0.3, self.between(0.62, 0.75), angle=side * 24, part=part).ear(fur)
        self.fill(ellipse(0, 0.12, self.between(0.8, 0.92), self.between(0.64, 0.76)), fur, 0.05, True)
        self.fill(ellipse(0, 0.46, 0.42, 0.28), shade(fur, 1.8))
        self.eyes([("left eye", -apart, -0.02, 0.23), ("right eye", apart, -0.02, 0.23)])
        whiskers = [(side * 0.3, y, side * 1.02, 2.2 * y - 0.5) for side in (-1, 1) for y in (0.34, 0.43, 0.52)]
        self.of("whiskers").lines(shade(fur, 0.2), 0.05, *whiskers)
        self.of("mouth").lines(BLACK, 0.06, (0, 0.36, 0, 0.52), (0, 0.51, -0.2, 0.62), (0, 0.51, 0.2, 0.62))
        self.of("nose").fill([(-0.16, 0.24), (0.16, 0.24), (0, 0.42)], self.pick(fur), 0.03)

    def owl(self) -> None:
        """Draw an owl from the front: ears, eyes, beak, belly, wings and feet."""
        body, wing, radius = self.pick(), self.pick(), self.between(0.25, 0.31)
        toes = [(x, 0.9, x + 0.8 * out, 1.1) for x, out in ((-0.35, -0.1), (-0.25, 0), (-0.15, 0.1))]
        self.of("feet").lines(self.pick(), 0.09, *toes, *((-x, y, -to_x, to_y) for x, y, to_x, to_y in toes))
        for part, side in (("left ear", -1), ("right ear", 1)):
            self.at(side * 0.44, -0.7, 0.42, angle=side * 28, part=part).ear(body)
        half = [(0.62, -0.7), (0.72, 0.1), (0.5, 0.85)]
        self.fill(smooth([(0, -0.9), *half, (0, 1), *((-x, y) for x, y in half[::-1])]), body, 0.05, True)
        self.of("belly").fill(ellipse(0, 0.45, 0.4, 0.45), shade(body, 2))
        tips = [(-0.22, 0.42), (0, 0.42), (0.22, 0.42), (-0.12, 0.64), (0.12, 0.64)]
        down = [(x + side, y - 0.09, x, y) for x, y in tips for side in (-0.09, 0.09)]
        self.of("belly").lines(shade(body, 0.6), 0.06, *down)
        for part, side in (("left wing", -1), ("right wing", 1)):
            self.at(side * 0.66, -0.1, self.between(0.8, 0.95), angle=side * 8, wide=side * 0.8, part=part).wing(wing)
        self.eyes([("left eye", -0.32, -0.45, radius), ("right eye", 0.32, -0.45, radius)])
        self.at(0, -0.34, 0.36, angle=90, part="beak").beak()

    def bird(self) -> None:
        """Draw a bird from the side: beak, eye, wing, tail and legs."""
        body, tilt = self.pick(), self.between(-14, 8)
        feet = [(-0.1, 0.92, 0.08, 0.92), (0.18, 0.92, 0.36, 0.92)]
        self.of("legs").lines(self.pick(), 0.08, (-0.08, 0.5, -0.08, 0.92), (0.2, 0.5, 0.2, 0.92), *feet)
        self.at(-0.5, 0.05, 0.72, angle=self.between(175, 205), part="tail").fan(shade(body, 0.7), self.pick(body))
        self.at(0.82, -0.36, self.between(0.32, 0.46), part="beak").beak()
        self.at(0, 0.15, angle=tilt).fill(ellipse(0, 0, 0.68, 0.45), body, 0.05, True)
        self.fill(ellipse(0.6, -0.35, 0.36, 0.34), body, 0.05, True)
        self.fill(ellipse(0.56, -0.22, 0.3, 0.28), body, 0, True)  # no line between the head and the body
        self.at(0.12, 0, self.between(0.66, 0.84), angle=self.between(55, 75), part="wing").wing(self.pick(body))
        self.eyes([("eye", 0.66, -0.4, self.between(0.15, 0.19))])

    def fish(self) -> None:
        """Draw a fish from the side: eye, mouth, gill, fins and tail."""
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
        """Draw a butterfly from above: four wings with spots, body and antennae."""
        upper, lower, body = self.pick(), self.pick(), self.pick()
        above = [(0.02, 0.08), (0.1, -0.4), (0.7, -self.between(0.75, 0.95)), (1.02, -0.55), (0.75, 0)]
        below = [(0.02, 0), (0.5, 0), (0.78, 0.35), (0.5, self.between(0.6, 0.8)), (0.16, 0.55)]
        for part, colour, points in (("lower wing", lower, below), ("upper wing", upper, above)):
            spot, (x, y) = self.pick(colour), np.mean(points, 0) * 1.18
            for side, name in ((-1, "left"), (1, "right")):
                wing = self.at(0, 0.02, wide=side, part=f"{name} {part}")
                wing.fill(smooth(points), colour, 0.06, True)
                for radius, ring in ((0.2, BLACK), (0.15, spot), (0.06, WHITE)):
                    wing.fill(ellipse(x, y, radius, radius), ring)
        at, dark = self.of("antennae"), shade(body, 0.4)
        at.lines(dark, 0.06, (0, -0.45, -0.25, -0.95), (0, -0.45, 0.25, -0.95))
        for x in (-0.25, 0.25):
            at.fill(ellipse(x, -0.95, 0.07, 0.07), dark)
        self.of("body").fill(ellipse(0, 0.1, 0.12, 0.6), body, 0.04)
        self.of("body").lines(dark, 0.07, *((-0.12, y, 0.12, y) for y in (-0.1, 0.1, 0.3)))

    def flower(self) -> None:
        """Draw a flower: petals around a centre, a stem and two leaves."""
        self.of("stem").lines(self.pick(), 0.12, (0, -0.3, self.between(-0.15, 0.15), 1.1))
        for part, side in (("left leaf", -1), ("right leaf", 1)):
            low, long, lift = self.between(0.75, 0.95), self.between(0.6, 0.75), self.between(15, 45)
            self.at(0, low, long, angle=-side * lift, wide=side, part=part).leaf()
        at = self.at(0, -0.35, self.between(0.66, 0.8), angle=self.between(0, 90))
        at.of("petals").petals(int(self.paint.rng.integers(5, 9)))
        centre, heart = at.at(0, 0, self.between(0.27, 0.36), part="centre"), self.pick()
        centre.fill(ellipse(0, 0, 1, 1), heart, 0.13)
        for x, y in (*ellipse(0, 0, 0.58, 0.58)[::5], (0, 0)):
            centre.fill(ellipse(x, y, 0.17, 0.17), shade(heart, 0.5))

    def car(self) -> None:
        """Draw a car from the side: two windows, door, lamp and wheels."""
        body, roof, radius = self.pick(), self.between(-0.6, -0.45), self.between(0.25, 0.32)
        self.fill([(-0.75, 0), (-0.5, roof), (0.3, roof), (0.62, 0)], body, 0.05, True)
        self.fill(rectangle(-1.02, -0.08, 1.02, 0.42, 0.16), body, 0.05, True)
        self.windows([("rear window", -0.28, roof / 2, 0.23, 0.2), ("front window", 0.22, roof / 2, 0.22, 0.2)])
        gaps = [(-0.03, 0, -0.03, 0.38), (0.46, 0, 0.42, 0.38), (0.05, 0.08, 0.18, 0.08)]
        self.of("door").lines(shade(body, 0.45), 0.05, *gaps)
        self.at(0.92, 0.08, 0.12, part="lamp").lamp()
        self.wheels([("rear wheel", -0.56, 0.4, radius), ("front wheel", self.between(0.5, 0.62), 0.4, radius)])

    def bus(self) -> None:
        """Draw a bus from the side: three or four windows, door, lamp and wheels."""
        body, count, radius = self.pick(), int(self.paint.rng.integers(3, 5)), self.between(0.19, 0.25)
        self.fill(rectangle(-1.05, -0.75, 1.05, 0.5, 0.12), body, 0.05, True)
        self.fill(rectangle(-1.05, 0.12, 1.05, 0.24), self.pick(body))
        step = 1.4 / count
        self.windows((f"window {k + 1}", step * (k + 0.5) - 0.92, -0.3, 0.42 * step, 0.27) for k in range(count))
        self.at(0.78, -0.08, part="door").door(0.17, 0.48)
        self.at(0.98, 0.36, 0.1, part="lamp").lamp()
        self.wheels([("rear wheel", -0.6, 0.5, radius), ("front wheel", 0.42, 0.5, radius)])

    def train(self) -> None:
        """Draw a locomotive from the side: funnel, dome, window, lamp and three wheels."""
        body, cab = self.pick(), self.pick()
        self.of("funnel").fill([(0.5, -0.2), (0.42, -0.8), (0.82, -0.8), (0.74, -0.2)], self.pick(), 0.05)
        self.of("dome").fill(ellipse(0.1, -0.3, 0.16, 0.2), self.pick(), 0.04)
        self.fill([(0.85, 0.3), (1.2, 0.6), (0.6, 0.6)], shade(cab, 0.6), 0.04)
        self.fill(rectangle(-0.4, -0.3, 0.98, 0.3, 0.14), body, 0.05, True)
        self.lines(shade(body, 0.5), 0.07, (-0.02, -0.3, -0.02, 0.3), (0.36, -0.3, 0.36, 0.3))
        self.fill(rectangle(-1, -0.75, -0.28, 0.42), cab, 0.05)
        self.fill(rectangle(-1.1, -0.88, -0.18, -0.72), self.pick(cab), 0.04)
        self.windows([("window", -0.64, -0.38, 0.24, 0.24)])
        self.at(0.96, -0.1, 0.13, part="lamp").lamp()
        big = ("rear wheel", -0.64, 0.42, self.between(0.25, 0.31))
        self.wheels([big, ("middle wheel", 0.06, 0.48, 0.22), ("front wheel", 0.6, 0.48, 0.22)])

    def house(self) -> None:
        """Draw a house: roof, chimney, door and two windows."""
        wide, middle = self.between(0.72, 0.86), self.between(-0.3, 0.3)
        self.of("chimney").fill(rectangle(0.4, -0.85, 0.66, -0.1), self.pick(), 0.05)
        self.fill(rectangle(-wide, -0.1, wide, 0.95), self.pick(), 0.05, True)
        self.at(0, -0.08, wide + 0.16, part="roof").roof()
        self.at(middle, 0.52, part="door").door(0.17, 0.4)
        gaps = [("left window", -wide, middle - 0.2), ("right window", middle + 0.2, wide)]
        self.windows((part, (a + b) / 2, 0.35, min(0.24, 0.35 * (b - a)), 0.24) for part, a, b in gaps)
