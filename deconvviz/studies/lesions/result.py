"""What lesions leave: which images a network loses without a filter or a layer, and the statistics made of that."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconvviz.results.files import Pathlike
from deconvviz.results.results import Result
from deconvviz.results.tables import write_csv

KIND, SCHEMA = "lesions", 1
WHOLE = -1  # in the place of a channel: all of them
NORMAL_95 = 1.959964  # the 97.5 % quantile of the normal distribution
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def paired_interval(lost: Ints, gained: Ints, count: int) -> Floats:
    """Return the 95 % interval of (lost - gained) / count, [..., 2]: the change of accuracy on the same images.

    One image that was lost and one that was gained are added to those seen, so that the interval has a width, and
    covers, also where nothing changed; the plain 1.96 standard errors would then say that nothing ever can.

    lost, gained: how many of `count` images are right before only, and after only.

    Source: Bonett and Price 2012, Journal of Educational and Behavioral Statistics 37, pages 479-488.
    """
    more, fewer, size = np.asarray(lost) + 1.0, np.asarray(gained) + 1.0, count + 2.0
    centre = (more - fewer) / size
    half = NORMAL_95 * np.sqrt(((more + fewer) / size - centre**2) / size)
    return np.stack([np.maximum(centre - half, -1), np.minimum(centre + half, 1)], -1)


@dataclass(frozen=True)
class Lesions:
    """What `lesion` found: sums over the images done so far, and the statistics made of them.

    Attributes:
        config: what was asked; sources: where it came from.
        layer, channel: int64 [T], of each lesion: an index into config["layers"], and the channel (-1: all of them).
        right, loss: of the network as it is: how many images, and the sum of their log-losses (nats).
        lost, gained: int64 [T], images that are right before the lesion only, and after it only.
        rise, squares: float64 [T], sums of each image's rise of log-loss, and of its square.
        images, total: how many are done, and how many there are.
        means: layer -> float64 [channels], what "mean" puts in the place of a channel.
    """

    config: dict[str, Any]
    sources: dict[str, Any]
    layer: Ints
    channel: Ints
    lost: Ints
    gained: Ints
    rise: Floats
    squares: Floats
    right: int = 0
    loss: float = 0.0
    images: int = 0
    total: int = 0
    means: dict[str, Floats] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return self.images == self.total

    @property
    def accuracy(self) -> float:
        """Share of the images that the network as it is names right."""
        return self.right / max(self.images, 1)

    @property
    def drop(self) -> Floats:
        """Loss of accuracy, [T]; negative where the network does better without."""
        return (self.lost - self.gained) / max(self.images, 1)

    @property
    def interval(self) -> Floats:
        """95 % interval of each drop by itself, [T, 2]; see `paired_interval`."""
        return paired_interval(self.lost, self.gained, self.images)

    @property
    def loss_rise(self) -> Floats:
        """Mean rise of the log-loss, [T]."""
        return self.rise / max(self.images, 1)

    @property
    def loss_rise_error(self) -> Floats:
        """Half-width of its 95 % interval, [T]: 1.96 standard errors of the images' differences."""
        variance = np.maximum(self.squares - self.rise * self.loss_rise, 0) / max(self.images - 1, 1)
        half: Floats = NORMAL_95 * np.sqrt(variance / max(self.images, 1))
        return half

    @property
    def ranking(self) -> Ints:
        """The lesions from the largest drop on, [T]; of equal ones first that of the larger rise of log-loss, then in
        the order of layers and channels."""
        return np.lexsort((self.channel, self.layer, -self.loss_rise, -self.drop))

    def name(self, lesion: int) -> str:
        """Name a lesion: layer:channel, or the layer alone."""
        layer, channel = self.config["layers"][self.layer[lesion]], int(self.channel[lesion])
        return str(layer) if channel == WHOLE else f"{layer}:{channel}"

    def save(self, path: Pathlike) -> None:
        """Write the file atomically."""
        arrays = {name: getattr(self, name) for name in ("layer", "channel", "lost", "gained", "rise", "squares")}
        arrays |= {f"means/{name}": values for name, values in self.means.items()}
        state = {name: getattr(self, name) for name in ("right", "loss", "images", "total")}
        Result(KIND, SCHEMA, self.config, self.sources, arrays, state).save(path)

    def save_csv(self, path: Pathlike) -> None:
        """Write the table: a row for each lesion in the order of the ranking; drops in fractions, losses in nats."""
        ranking, whole = self.ranking, self.channel == WHOLE
        intact, rise = self.loss / max(self.images, 1), self.loss_rise
        low, high = self.interval.T
        columns: dict[str, Any] = {
            "layer": [self.config["layers"][n] for n in self.layer],
            "channel": ["" if w else int(c) for w, c in zip(whole, self.channel, strict=True)],
            "images": [self.images] * len(whole),
            "accuracy_intact": [self.accuracy] * len(whole),
            "accuracy": self.accuracy - self.drop,
            "drop": self.drop,
            "drop_low": low,
            "drop_high": high,
            "lost": self.lost,
            "gained": self.gained,
            "log_loss_intact": [intact] * len(whole),
            "log_loss": intact + rise,
            "log_loss_rise": rise,
            "log_loss_rise_95": self.loss_rise_error,
        }
        rows = ((rank, *(values[i] for values in columns.values())) for rank, i in enumerate(ranking, 1))
        write_csv(path, ("rank", *columns), rows)

    def __repr__(self) -> str:
        what = "filters" if self.config["by"] == "filter" else "layers"
        done = "" if self.complete else f" of {self.total}, unfinished"
        seen = f"{self.images} images{done}, accuracy {self.accuracy:.1%}"
        lines = [f"Lesions of {len(self.drop)} {what} ({self.config['how']}), {seen}"]
        for i in self.ranking[:5].tolist():
            (low, high), rise = self.interval[i], self.loss_rise[i]
            lines.append(
                f"  without {self.name(i)}: drop {self.drop[i]:.1%} [{low:.1%}, {high:.1%}], log-loss {rise:+.3g}"
            )
        return "\n".join(lines)


def load_lesions(path: Pathlike) -> Lesions:
    """Read what `lesion` wrote; raises DataError where it cannot be read."""
    file = Result.load(path, KIND, SCHEMA)
    means = {name[6:]: array for name, array in file.arrays.items() if name.startswith("means/")}
    sums: dict[str, Any] = {name: array for name, array in file.arrays.items() if not name.startswith("means/")}
    return Lesions(file.config, file.sources, **sums, **file.state, means=means)
