"""Pictures by optimisation, and images found again from a layer: what comes out, as arrays and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deconvviz.notebook import Shown
from deconvviz.results.results import Result, whole
from deconvviz.results.tables import to_frame, write_csv
from deconvviz.types import Floats, Ints, Pathlike
from deconvviz.words import counted, readable

if TYPE_CHECKING:
    import pandas as pd

KIND, SCHEMA = "visualisation", 1
ARRAYS = ("channels", "pictures", "values", "strongest", "mined", "curve", "opacity")
COLUMNS = ("layer", "channel", "variant", "objective", "value", "strongest", "mined")
INVERSION_KIND, INVERSION_SCHEMA = "inversion", 1
INVERSION_COLUMNS = ("network", "layer", "error", "pixel_error")


@dataclass(frozen=True, kw_only=True)
class Visualisation(Shown, drawn_by="draw_visualisation"):
    """N pictures that were made to make something large.

    Attributes:
        config: the network, the layer and the settings, JSON values.
        sources: where the model came from, JSON values.
        channels: int64 [N], the channel, class or direction of each picture; several in a row are variants.
        pictures: float32 [N, h, w, C], in 0..1: the share of the way from black to white.
        values: float64 [N], the objective for the finished picture, neither moved nor turned, in units of the layer's
            values.
        strongest: float64 [N], the largest value on the channel's map for the finished picture, which is what mining
            compares; the objective itself where that is not the mean of a channel.
        mined: float64 [N], the largest activation of the channel that was mined; NaN where none is known.
        curve: float64 [steps, N], the objective at each step, for the moved and turned picture.
        opacity: float32 [N, h, w] in 0..1, how much the objective looked at each pixel; [N, 0, 0] where it was not
            measured, which only the canvas "phase" does.
    """

    config: dict[str, Any]
    sources: dict[str, Any]
    channels: Ints
    pictures: NDArray[np.float32]
    values: Floats
    strongest: Floats
    mined: Floats
    curve: Floats
    opacity: NDArray[np.float32]

    def save(self, path: Pathlike) -> None:
        """Write the HDF5 file atomically; raises DataError where it cannot be written."""
        arrays = {name: getattr(self, name) for name in ARRAYS}
        Result(KIND, SCHEMA, self.config, self.sources, arrays).save(path)

    @classmethod
    def load(cls, path: Pathlike) -> Visualisation:
        """Read the file that `save` wrote; raises DataError where it cannot be read or is something else."""
        file = Result.load(path, KIND, SCHEMA)
        with whole(path, KIND):
            return cls(config=file.config, sources=file.sources, **{name: file.arrays[name] for name in ARRAYS})

    def save_csv(self, path: Pathlike) -> None:
        """Write a table with a row for each picture."""
        write_csv(path, "visualisation", COLUMNS, self._rows())

    def to_frame(self) -> pd.DataFrame:
        """Return the table that `save_csv` writes as a data frame; DataError where pandas is not installed."""
        return to_frame("visualisation", COLUMNS, self._rows())

    def _rows(self) -> Iterator[tuple[Any, ...]]:
        for number, channel in enumerate(self.channels.tolist()):
            mined = "" if np.isnan(self.mined[number]) else float(self.mined[number])
            numbers = float(self.values[number]), float(self.strongest[number]), mined
            yield (self.config["layer"], channel, self.variant(number), self.config["objective"], *numbers)

    def variant(self, number: int) -> int:
        """Return which of the pictures of its channel a picture is, from 0."""
        return number % int(self.config["variants"])

    @property
    def place(self) -> str:
        """The position on the layer's map of the unit that was made large, "row,column"."""
        return ",".join(map(str, self.config["position"] or ())) or "the centre"  # as older files have it

    def heading(self, number: int, names: Sequence[str] = ()) -> str:
        """Return what a picture is of, in words; names: of the classes, where they are known."""
        channel, objective, variants = int(self.channels[number]), self.config["objective"], self.config["variants"]
        text = {"class": "class ", "direction": "direction ", "cosine": "direction "}.get(objective, "") + str(channel)
        if objective == "dream":
            text = "the whole layer"
        if objective == "unit":
            text = f"{channel} at {self.place}"
        if objective == "class" and channel < len(names):
            text = f"{channel} {names[channel]}"
        return f"{text}, variant {self.variant(number) + 1}" if variants > 1 else text

    def __repr__(self) -> str:
        config, height, width = self.config, *self.pictures.shape[1:3]
        layer = config["layer"] or "the output"
        head = f"Visualisation of {layer}, objective {config['objective']}"
        lines = [f"{head}: {counted(len(self.channels), 'picture')} of {width} x {height} px, {config['steps']} steps"]
        for number, mined in enumerate(self.mined[:9]):
            strongest = f", strongest {readable(self.strongest[number])}" if config["objective"] == "channel" else ""
            beside = "" if np.isnan(mined) else f", strongest mined {readable(mined)}"
            lines.append(f"  {self.heading(number)}: {readable(self.values[number])}{strongest}{beside}")
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class InvertedImage:
    """One image as a network's layers still know it, L layers.

    Attributes:
        network: what the network is called.
        layers: names of its layers.
        original: float32 [h, w, C] in 0..1, the image as the network sees it.
        pictures: float32 [L, h, w, C] in 0..1, what was found from each layer.
        errors: float64 [L], |F(x) - F(x0)|^2 / |F(x0)|^2 at the layer, for picture x and image x0.
    """

    network: str
    layers: tuple[str, ...]
    original: NDArray[np.float32]
    pictures: NDArray[np.float32]
    errors: Floats

    @property
    def pixel_errors(self) -> Floats:
        """float64 [L], the root of the mean squared difference of the pixels, in units of the way black to white."""
        errors: Floats = np.sqrt(np.square(self.pictures.astype(np.float64) - self.original).mean((1, 2, 3)))
        return errors


@dataclass(frozen=True, kw_only=True)
class Inversion(Shown, drawn_by="draw_inversion"):
    """What some layers of one network, or of several, still know of an image.

    Attributes:
        config: the settings, JSON values.
        sources: where models and image came from, JSON values.
        images: what each network gives.
    """

    config: dict[str, Any]
    sources: dict[str, Any]
    images: tuple[InvertedImage, ...]

    def save(self, path: Pathlike) -> None:
        """Write the HDF5 file atomically; raises DataError where it cannot be written."""
        arrays = {
            f"networks/{number}/{name}": getattr(image, name)
            for number, image in enumerate(self.images)
            for name in ("original", "pictures", "errors")
        }
        networks = [{"network": image.network, "layers": list(image.layers)} for image in self.images]
        Result(INVERSION_KIND, INVERSION_SCHEMA, {**self.config, "networks": networks}, self.sources, arrays).save(path)

    @classmethod
    def load(cls, path: Pathlike) -> Inversion:
        """Read the file that `save` wrote; raises DataError where it cannot be read or is something else."""
        file = Result.load(path, INVERSION_KIND, INVERSION_SCHEMA)
        with whole(path, INVERSION_KIND):
            networks = file.config.pop("networks")
            images = tuple(
                InvertedImage(
                    network=entry["network"],
                    layers=tuple(entry["layers"]),
                    original=file.arrays[f"networks/{number}/original"],
                    pictures=file.arrays[f"networks/{number}/pictures"],
                    errors=file.arrays[f"networks/{number}/errors"],
                )
                for number, entry in enumerate(networks)
            )
        return cls(config=file.config, sources=file.sources, images=images)

    def save_csv(self, path: Pathlike) -> None:
        """Write a table with a row for each network and layer."""
        write_csv(path, "inversion", INVERSION_COLUMNS, self._rows())

    def to_frame(self) -> pd.DataFrame:
        """Return the table that `save_csv` writes as a data frame; DataError where pandas is not installed."""
        return to_frame("inversion", INVERSION_COLUMNS, self._rows())

    def _rows(self) -> Iterator[tuple[Any, ...]]:
        for image in self.images:
            errors = image.errors.tolist(), image.pixel_errors.tolist()
            for layer, error, pixel_error in zip(image.layers, *errors, strict=True):
                yield image.network, layer, error, pixel_error

    def __repr__(self) -> str:
        rows = (
            f"  {network}, {layer}: error {error:.3g} at the layer, {pixels:.3g} of the range in pixels"
            for network, layer, error, pixels in self._rows()
        )
        return "\n".join([f"Inversion of {self.config['image']}, {self.config['steps']} steps", *rows])
