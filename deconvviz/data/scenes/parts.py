"""The parts that the objects of `Scenes` share, and the pen that draws them as polygons.

x points right and y points down, and an object spans about -1..1; `artist` turns, scales and places what is drawn here.
A `Pen` draws the parts, and a `Paint` chooses the colours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from deconvviz.data.scenes.raster import Shape
from deconvviz.types import Floats

Place = tuple[str, float, float, float]  # a part's name, its centre x, y and its radius
Points = Floats | Sequence[tuple[float, float]]
STRAYS = 11  # kinds of parts that lie about
BLACK, WHITE = np.array([0.08, 0.07, 0.1]), np.array([0.97, 0.97, 0.95])
_UNTURNED = np.eye(2)
_ORIGIN = np.zeros(2)
# Red, green, blue -> lightness (counted most: shapes are seen by it), blue-yellow and red-green.
_OPPONENT = np.array([[0.48, -0.12, 0.35], [0.944, -0.236, -0.295], [0.176, 0.356, -0.055]])
_CONTRAST = 0.55  # between two colours that are told apart: the sum of their opponent differences

_TURNS = (np.arange(28) + 0.5) * (2 * np.pi / 28)
_CIRCLE = np.stack([np.cos(_TURNS), np.sin(_TURNS)], 1)
_CORNERS = np.sign(_CIRCLE)  # seven in each corner
_CUBIC = np.array([[-1, 3, -3, 1], [2, -5, 4, -1], [-1, 0, 1, 0], [0, 2, 0, 0]]) / 2  # Catmull-Rom, of t^3 .. 1
_SPLINE = np.vander(np.arange(5) / 5, 4) @ _CUBIC  # what four neighbouring points add to five points of a curve


def shade(colour: Floats, factor: float) -> Floats:
    """Return a darker colour (factor < 1), or one closer to white (factor > 1).

    >>> shade(np.array([0.5, 1.0, 0.0]), 0.5).tolist(), shade(np.array([0.5, 1.0, 0.0]), 2).tolist()
    ([0.25, 0.5, 0.0], [0.75, 1.0, 0.5])
    """
    return colour * factor if factor < 1 else 1 - (1 - colour) / factor


def ellipse(x: float, y: float, wide: float, high: float) -> Floats:
    """Return an ellipse with these half axes around (x, y), clockwise: float64 [28, 2]."""
    return _CIRCLE * (wide, high) + (x, y)


def rectangle(x: float, y: float, to_x: float, to_y: float, radius: float = 0) -> Floats:
    """Return a rectangle between two corners, float64 [4, 2], or [28, 2] where its corners are rounded by a radius.

    >>> rectangle(0, 0, 2, 1).tolist()
    [[2, 1], [0, 1], [0, 0], [2, 0]]
    """
    low, high = np.array([x, y]), np.array([to_x, to_y])
    if not radius:
        return np.where(_CORNERS[3::7] > 0, high, low)
    return np.asarray((low + high) / 2 + _CORNERS * ((high - low) / 2 - radius) + radius * _CIRCLE)


def smooth(points: Sequence[tuple[float, float]]) -> Floats:
    """Return a closed curve through n points: float64 [5 n, 2]."""
    around = (np.arange(len(points))[:, None] + (-1, 0, 1, 2)) % len(points)
    return np.asarray(_SPLINE @ np.array(points)[around]).reshape(-1, 2)


def grown(points: Floats, by: float) -> Floats:
    """Return a polygon [n, 2] with each side moved outwards by `by`; its corners are blunted.

    >>> grown(rectangle(0, 0, 2, 1), 0.5).round(6).tolist()
    [[2.5, 1.5], [-0.5, 1.5], [-0.5, -0.5], [2.5, -0.5]]
    """
    (x, y), (to_x, to_y) = points.T, np.concatenate([points[1:], points[:1]]).T
    normals = np.stack([to_y - y, x - to_x], 1) / (np.hypot(to_x - x, to_y - y)[:, None] + 1e-9)
    both = normals + np.concatenate([normals[-1:], normals[:-1]])
    mitre = np.maximum((both**2).sum(1, keepdims=True) / 2, 0.6)  # 2 on a straight line, less at a corner
    return np.asarray(points + by * np.sign(x @ to_y - y @ to_x) * both / mitre)  # by the sign of the area: outwards


def random_colours(rng: np.random.Generator, count: int) -> Floats:
    """Return random colours of all hues, from pale to saturated and from dark to bright: float64 [count, 3]."""
    hue, saturation, value = rng.random((3, count, 1))
    cycle = np.clip(np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return np.asarray((0.3 + 0.68 * value) * (1 - (0.2 + 0.75 * saturation) * (1 - cycle)))


class Paint:
    """Chooses random colours that differ from the ground and from the colours beside them.

    Attributes:
        rng: where the colours are drawn from.
    """

    def __init__(self, rng: np.random.Generator, ground: Floats) -> None:
        self.rng = rng
        self._pool = random_colours(rng, 48)
        self._opponent = self._pool @ _OPPONENT
        self._to_ground = np.abs(self._opponent - ground @ _OPPONENT).sum(1)
        self._next = 0

    def pick(self, *others: Floats) -> Floats:
        """Return a random colour, float64 [3], that contrasts with the ground and with other colours."""
        contrast = self._to_ground
        for other in others:
            contrast = np.minimum(contrast, np.abs(self._opponent - other @ _OPPONENT).sum(1))
        suitable = np.flatnonzero(contrast > _CONTRAST)
        self._next += 7
        return np.asarray(self._pool[suitable[self._next % len(suitable)] if len(suitable) else contrast.argmax()])

    def between(self, low: float, high: float) -> float:
        """Return a random number between two bounds."""
        return low + (high - low) * self.rng.random()


class Pen:
    """Adds shapes to a list. A point of the pen lies at `point @ turn + shift` in the coordinates of the object.

    Attributes:
        shapes: the list.
        paint: chooses the colours.
        part: name of the part that is being drawn; "" for none.
        turn: float64 [2, 2].
        shift: float64 [2].
    """

    def __init__(
        self, shapes: list[Shape], paint: Paint, part: str = "", turn: Floats = _UNTURNED, shift: Floats = _ORIGIN
    ) -> None:
        self.shapes, self.paint, self.part, self.turn, self.shift = shapes, paint, part, turn, shift
        self.pick, self.between = paint.pick, paint.between

    def at(self, x: float, y: float, size: float = 1, *, angle: float = 0, wide: float = 1, part: str = "") -> Pen:
        """Return a pen with its origin at (x, y).

        Args:
            x: in the coordinates of this pen.
            y: in the coordinates of this pen.
            size: factor on lengths.
            angle: degrees by which the pen is turned clockwise.
            wide: a further factor on widths; a negative one mirrors.
            part: name of the part that it draws, by default this pen's.
        """
        sin, cos = np.sin(np.radians(angle)) * size, np.cos(np.radians(angle)) * size
        turn = np.array([[wide * cos, wide * sin], [-sin, cos]]) @ self.turn
        return Pen(self.shapes, self.paint, part or self.part, turn, np.array([x, y]) @ self.turn + self.shift)

    def of(self, part: str) -> Pen:
        """Return the same pen for another part."""
        return Pen(self.shapes, self.paint, part, self.turn, self.shift)

    def fill(self, points: Points, colour: Floats, edge: float = 0, textured: bool = False) -> None:
        """Fill a polygon.

        Args:
            points: [n, 2].
            colour: float64 [3].
            edge: width of a dark line around it.
            textured: whether the scene's texture lies on it.
        """
        points = np.asarray(points, float)
        if edge:
            self.fill(grown(points, edge), shade(colour, 0.38))
        self.shapes.append(Shape(points @ self.turn + self.shift, colour, self.part, textured))

    def lines(self, colour: Floats, width: float, *ends: tuple[float, float, float, float]) -> None:
        """Draw straight lines of a width; each is given by its ends, (x, y, to x, to y)."""
        x, y, to_x, to_y = np.array(ends).reshape(-1, 4).T
        scale = width / 2 / np.hypot(to_x - x, to_y - y)
        over, down = (y - to_y) * scale, (to_x - x) * scale  # across the line
        corners = [(x - over, y - down), (x + over, y + down), (to_x + over, to_y + down), (to_x - over, to_y - down)]
        quads = np.array(corners).transpose(2, 0, 1) @ self.turn + self.shift
        self.shapes.extend(Shape(quad, colour, self.part, False) for quad in quads)

    def eyes(self, places: Iterable[Place]) -> None:
        """Draw eyes that look the same way: each has a white disc, an iris, a pupil and a glint."""
        iris, white = self.pick(WHITE, BLACK), shade(self.pick(), 5)
        look_x, look_y, iris_radius = self.between(-0.18, 0.18), self.between(-0.15, 0.15), self.between(0.52, 0.64)
        slit = self.between(0.14, 0.3) if self.between(0, 1) < 0.3 else 0.3
        for part, x, y, radius in places:
            at = self.at(x, y, radius, part=part)
            at.fill(ellipse(0, 0, 1, 1), BLACK)
            at.fill(ellipse(0, 0, 0.85, 0.85), white)
            at.fill(ellipse(look_x, look_y, iris_radius, iris_radius), iris)
            at.fill(ellipse(look_x, look_y, slit, 0.32), BLACK)
            at.fill(ellipse(look_x - 0.22, look_y - 0.24, 0.17, 0.17), WHITE)

    def wheels(self, places: Iterable[Place]) -> None:
        """Draw equal wheels: each has a dark tyre, a rim, spokes and a hub."""
        rim, tyre = shade(self.pick(BLACK), 1.6), shade(self.pick(), 0.22)
        hub, start, count = self.pick(rim), self.between(0, 90), int(self.paint.rng.integers(3, 6))
        for part, x, y, radius in places:
            at = self.at(x, y, radius, angle=start, part=part)
            at.fill(ellipse(0, 0, 1, 1), tyre)
            at.fill(ellipse(0, 0, 0.64, 0.64), rim)
            turns = np.arange(count) * (2 * np.pi / count)
            at.lines(tyre, 0.17, *((0, 0, 0.66 * float(np.cos(t)), 0.66 * float(np.sin(t))) for t in turns))
            at.fill(ellipse(0, 0, 0.24, 0.24), hub)

    def windows(self, places: Iterable[tuple[str, float, float, float, float]]) -> None:
        """Draw equal windows: each has a frame, a pane with a glint, and mostly a cross.

        Args:
            places: (name, centre x, centre y, half width, half height) of each.
        """
        frame = self.pick()
        pane = shade(self.pick(frame), 1.8)
        cross = self.between(-0.3, 0.1) if self.between(0, 1) < 0.7 else None
        for part, x, y, wide, high in places:
            at, line = self.at(x, y, part=part), 0.05 + 0.12 * min(wide, high)
            at.fill(rectangle(-wide, -high, wide, high), frame, 0.035)
            at.fill(rectangle(line - wide, line - high, wide - line, high - line), pane)
            glint = np.array([(-0.75, 0.3), (-0.75, -0.1), (0.0, -0.85), (0.4, -0.85)]) * (wide - line, high - line)
            at.fill(glint, shade(pane, 2.2))
            if cross is not None:
                at.lines(frame, 0.07, (0, -high, 0, high), (-wide, cross * high, wide, cross * high))

    def leaf(self) -> None:
        """Draw a pointed leaf with its midrib and veins, from the origin to (1, 0)."""
        colour, along = self.pick(), np.linspace(0, 1, 9)
        half = self.between(0.24, 0.32) * np.sin(np.pi * along**0.85)
        outline = np.concatenate([np.stack([along, -half], 1), np.stack([along, half], 1)[-2:0:-1]])
        self.fill(outline, colour, 0.04)
        veins = [(x, 0.0, x + 0.14, side) for x in (0.25, 0.5) for side in (-0.17, 0.17)]
        self.lines(shade(colour, 0.55), 0.06, (-0.12, 0, 0.88, 0), *veins)

    def petals(self, count: int) -> None:
        """Draw petals around the origin, out to a radius of 1; each has a heart of another colour."""
        colour, plump = self.pick(), min(1.0, 3.3 / count) * self.between(0.42, 0.52)
        heart = self.pick(colour)
        half = [(0.1, 0.1), (0.5, 0.75), (0.85, 0.75)]
        outline = smooth([*half, (1, 0), *((x, -y) for x, y in half[::-1])]) * (1, plump)
        for at in (self.at(0, 0, angle=360 / count * k) for k in range(count)):
            at.fill(outline, colour, 0.045)
            at.fill(outline * (0.55, 0.45) + (0.2, 0), heart)

    def ear(self, colour: Floats) -> None:
        """Draw a pointed ear that stands on the origin; its tip is at (0, -1)."""
        self.fill([(-0.55, 0.1), (-0.1, -1.0), (0.1, -1.0), (0.55, 0.1)], colour, 0.07)
        self.fill([(-0.28, -0.02), (0, -0.72), (0.28, -0.02)], self.pick(colour))

    def beak(self) -> None:
        """Draw a beak from the origin to (1, 0); its lower half is darker."""
        colour = self.pick()
        self.fill([(0, -0.45), (0.5, -0.32), (1, 0.06), (0.45, 0.36), (0, 0.45)], colour, 0.09)
        self.fill([(0, 0.06), (1, 0.06), (0.45, 0.36), (0, 0.45)], shade(colour, 0.62))

    def wing(self, colour: Floats) -> None:
        """Draw a folded wing from the origin to (0, 1), with three rows of feathers."""
        self.fill(
            smooth([(-0.1, -0.1), (0.34, 0.1), (0.36, 0.5), (0.05, 1.0), (-0.3, 0.55), (-0.36, 0.15)]), colour, 0.05
        )
        line = shade(colour, 0.5) if self.between(0, 1) < 0.5 else self.pick(colour)
        for y, half in ((0.25, 0.29), (0.47, 0.28), (0.69, 0.18)):
            self.lines(line, 0.08, (-half, y - 0.06, 0, y + 0.06), (0, y + 0.06, half, y - 0.06))

    def fan(self, colour: Floats, rays: Floats) -> None:
        """Draw a fin or a tail that spreads from the origin to (1, 0), with rays."""
        half = [(0, -0.16), (0.9, -0.62), (1, -0.3)]
        self.fill([*half, (0.84, 0), *((x, -y) for x, y in half[::-1])], colour, 0.05)
        self.lines(rays, 0.07, (0.1, 0, 0.8, 0), (0.1, -0.06, 0.84, -0.36), (0.1, 0.06, 0.84, 0.36))

    def door(self, wide: float, high: float) -> None:
        """Draw a door around the origin, with two panels and a knob; `wide` and `high` are half its sides."""
        colour = self.pick()
        self.fill(rectangle(-wide, -high, wide, high), colour, 0.05)
        for y in (-0.8, 0.1):
            self.fill(rectangle(-0.62 * wide, y * high, 0.62 * wide, (y + 0.65) * high), shade(colour, 0.6))
        self.fill(ellipse(0.78 * wide, 0.06 * high, 0.05, 0.05), WHITE)

    def lamp(self) -> None:
        """Draw a lamp of radius 1: a dark ring around bright glass."""
        self.fill(ellipse(0, 0, 1, 1), BLACK)
        self.fill(ellipse(0, 0, 0.72, 0.72), shade(self.pick(), 3))

    def roof(self) -> None:
        """Draw a roof with rows of tiles on the line from (-1, 0) to (1, 0); its ridge is at y = -0.75."""
        ridge, colour = self.between(0.05, 0.5), self.pick()
        self.fill([(-1, 0), (-ridge, -0.75), (ridge, -0.75), (1, 0)], colour, 0.05)
        line = shade(colour, 0.62)
        for level in (0.25, 0.5, 0.75):
            half = level * ridge + (1 - level) * 0.97
            self.lines(line, 0.05, (-half, -0.75 * level, half, -0.75 * level))
            tiles = np.arange(-half + 0.18, half - 0.1, 0.3) + 0.15 * (level == 0.5)
            self.lines(line, 0.05, *((float(x), -0.75 * level, float(x), 0.19 - 0.75 * level) for x in tiles))

    def stray(self, kind: int) -> list[Shape]:
        """Draw a part of one of the STRAYS kinds by itself, and return all shapes of the pen."""
        at, pick = self.at, self.pick
        (
            lambda: self.eyes([("", 0, 0, 0.8)]),
            lambda: self.wheels([("", 0, 0, 1)]),
            lambda: at(0, 0, 2).windows([("", 0, 0, self.between(0.3, 0.5), 0.4)]),
            lambda: at(-0.9, 0, 1.8).leaf(),
            lambda: self.petals(int(self.paint.rng.integers(1, 4))),
            lambda: at(0, 0.5, 1.3).ear(pick()),
            lambda: at(-0.6, 0, 1.3).beak(),
            lambda: at(0, -0.8, 1.7).wing(pick()),
            lambda: at(-0.8, 0, 1.6).fan(pick(), pick()),
            lambda: self.door(0.5, 0.95),
            lambda: at(0, 0.4).roof(),
        )[kind]()
        return self.shapes
