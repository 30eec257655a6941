"""The maps of one image at some layers, and the kernels of layers: arrays that save and show themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconvviz.choices import MAP_ORDERS, MAP_SCALES
from deconvviz.errors import DataError, require_choice
from deconvviz.notebook import Shown
from deconvviz.results.files import atomic
from deconvviz.types import Floats, Ints, Mask, Pathlike, Pixels
from deconvviz.words import counted

FAINT = 0.01  # of a layer's largest value: a map with smaller ones only would show noise with a scale of its own


@dataclass(frozen=True, kw_only=True)
class LayerMaps:
    """The maps of one image at one layer.

    Attributes:
        layer: name of the layer.
        values: float32 [channels, rows, columns], what the layer returned, in its own units.
        extra_tokens: number of tokens of a transformer that belong to no place, such as a class token: they are left
            out.
    """

    layer: str
    values: NDArray[np.float32]
    extra_tokens: int = 0

    @property
    def zeros(self) -> float:
        """Share of the values that are zero, 0..1."""
        return float((self.values == 0).mean())

    @property
    def dead(self) -> Mask:
        """bool [channels], whether a map has one value everywhere, so that it says nothing about this image.

        A map of one place has one value in any case: it is dead where that is zero.

        >>> LayerMaps(layer="pool", values=np.array([[[2.0]], [[0.0]]], np.float32)).dead.tolist()
        [False, True]
        """
        flat = self.values.reshape(len(self.values), -1)
        return np.asarray(flat.min(1) == flat.max(1) if flat.shape[1] > 1 else flat[:, 0] == 0)

    @property
    def broken(self) -> int:
        """Number of values that are NaN or infinite."""
        return int((~np.isfinite(self.values)).sum())

    @property
    def signed(self) -> bool:
        """Whether some value is below zero."""
        return bool((self.values < 0).any())

    @property
    def peaks(self) -> Floats:
        """float64 [channels], the largest absolute finite value of each map."""
        finite = np.where(np.isfinite(self.values), np.abs(self.values), 0)
        return np.asarray(finite.reshape(len(finite), -1).max(1, initial=0), np.float64)

    def order(self, by: str) -> Ints:
        """Return the channels in an order; of equal ones the lower channel comes first, dead ones last.

        Args:
            by: one of `choices.MAP_ORDERS`: "maximum" takes the largest value of a map, "energy" the sum of its
                squares; the largest comes first. "index" keeps the order of the layer.

        Raises:
            DataError: another word.

        >>> values = np.array([[[1.0, 1.0]], [[3.0, 0.0]], [[2.5, 2.5]]], np.float32)
        >>> LayerMaps(layer="conv", values=values).order("energy").tolist()  # 1 and 2 have one value everywhere
        [1, 2, 0]
        """
        require_choice("order of the maps", by, MAP_ORDERS, DataError)
        if by == "index":
            return np.arange(len(self.values))
        finite = np.where(np.isfinite(self.values), self.values, 0).reshape(len(self.values), -1).astype(np.float64)
        keys = finite.max(1) if by == "maximum" else (finite**2).sum(1)
        return np.lexsort((-keys, self.dead))

    def limits(self, scale: str) -> Floats:
        """Return float64 [channels], the absolute value that is drawn with the strongest colour in each map.

        Args:
            scale: one of `choices.MAP_SCALES`. With "common" it is the layer's largest for all maps. With "own" it is
                that of each map, but that of the layer where a map has less than a hundredth of it.

        Raises:
            DataError: another word.
        """
        require_choice("scale of the maps", scale, MAP_SCALES, DataError)
        peaks = self.peaks
        largest = peaks.max(initial=0) or 1.0
        return np.asarray(np.where((scale == "common") | (peaks < FAINT * largest), largest, peaks))

    def scaled(self, scale: str) -> Floats:
        """Return the maps as shares of a colour scale: value / limit, in -1..1 where values are signed, else in 0..1.

        Args:
            scale: one of `choices.MAP_SCALES`; see `limits`.

        Returns:
            float64 [channels, rows, columns]; zero stays zero, and values that are not finite are NaN.

        >>> maps = LayerMaps(layer="conv", values=np.array([[[1, 2]], [[0, 4]]], np.float32))
        >>> maps.scaled("own")[0].tolist(), maps.scaled("common")[0].tolist()
        ([[0.5, 1.0]], [[0.25, 0.5]])
        """
        finite = np.where(np.isfinite(self.values), self.values, np.nan).astype(np.float64)
        return finite / self.limits(scale)[:, None, None]

    def words(self) -> str:
        """Return what is known of the layer's maps on this image, as a line.

        >>> LayerMaps(layer="conv", values=np.array([[[1, 0]], [[0, 0]]], np.float32)).words()
        'conv: 2 maps of 1 x 2, 75 % of the values are zero, 1 map is dead'
        """
        count, rows, columns = self.values.shape
        dead, left_out = int(self.dead.sum()), self.extra_tokens
        return (
            f"{self.layer}: {counted(count, 'map')} of {rows} x {columns}, {100 * self.zeros:.3g} % of the values are "
            f"zero, {counted(dead, 'map')} {'is' if dead == 1 else 'are'} dead"
            + (f", {counted(left_out, 'token')} without a place left out" if left_out else "")
            + (f", {counted(self.broken, 'value')} NaN or infinite" if self.broken else "")
        )


@dataclass(frozen=True, kw_only=True)
class FeatureMaps(Shown, drawn_by="draw_feature_maps"):
    """The maps of one image at some layers: how a network takes the image apart.

    Attributes:
        network: name of the network.
        name: of the image.
        picture: uint8 [H, W, 3], the image as the network sees it.
        layers: the maps of each layer, in the order in which they were asked for.
    """

    network: str
    name: str
    picture: Pixels
    layers: tuple[LayerMaps, ...]

    def __getitem__(self, layer: str) -> LayerMaps:
        """Return the maps of a layer; raises DataError where it was not asked for."""
        for maps in self.layers:
            if maps.layer == layer:
                return maps
        raise DataError(f"layer {layer!r} is not among the maps; they are of {', '.join(m.layer for m in self.layers)}")

    def save(self, path: Pathlike) -> None:
        """Write the values to a NumPy file: an array float32 [channels, rows, columns] under the name of each layer.

        Args:
            path: of the file, which ends in .npz; `numpy.load` reads it.

        Raises:
            DataError: the name has another ending, or the file cannot be written.
        """
        save_arrays(path, {maps.layer: maps.values for maps in self.layers})

    def __repr__(self) -> str:
        lines = "".join(f"\n  {maps.words()}" for maps in self.layers)
        return f"FeatureMaps({self.name or 'one image'}, {self.network}){lines}"


@dataclass(frozen=True, kw_only=True)
class LayerKernels:
    """The kernels of one layer.

    Attributes:
        layer: name of the layer.
        norms: float64 [filters, inputs], the root of the sum of squares of the kernel with which a filter reads an
            input channel, times the factor of a BatchNorm that follows. A filter of a grouped convolution has the
            inputs of its own group.
        groups: number of groups of the convolution.
        pictures: float64 [filters, rows, columns, inputs], the weights, where they can be looked at: the layer reads
            the image, or each filter reads one channel; None elsewhere.
        normalised: whether a BatchNorm follows, whose factor is in the norms.
        connected: float64 [filters, inputs], the share of the kernel's weights that are not zero; None where all are,
            as in a network that was not made sparse.
    """

    layer: str
    norms: Floats
    groups: int = 1
    pictures: Floats | None = None
    normalised: bool = False
    connected: Floats | None = None

    def words(self) -> str:
        """Return what the kernels are, as a line."""
        filters, inputs = self.norms.shape
        of = f", {self.groups} groups" if self.groups > 1 else ""
        words = f"{self.layer}: {counted(filters, 'filter')}, {counted(inputs, 'input channel')} each{of}"
        if self.connected is None:
            return words
        without = int((self.connected == 0).all(1).sum())
        empty = f", {counted(without, 'filter')} without any" * bool(without)
        return f"{words}; {self.connected.mean():.1%} of the connections are there{empty}"


@dataclass(frozen=True, kw_only=True)
class Kernels(Shown, drawn_by="draw_kernels"):
    """The kernels of some layers.

    Attributes:
        network: name of the network.
        layers: the kernels of each layer, in the order in which they were asked for.
    """

    network: str
    layers: tuple[LayerKernels, ...]

    def save(self, path: Pathlike) -> None:
        """Write the norms to a NumPy file: float64 [filters, inputs] under the name of each layer.

        Args:
            path: of the file, which ends in .npz.

        Raises:
            DataError: the name has another ending, or the file cannot be written.
        """
        save_arrays(path, {kernels.layer: kernels.norms for kernels in self.layers})

    def __repr__(self) -> str:
        return f"Kernels({self.network})" + "".join(f"\n  {kernels.words()}" for kernels in self.layers)


def save_arrays(path: Pathlike, arrays: dict[str, NDArray[Any]]) -> None:
    """Write arrays to a NumPy file, whole or not at all; raises DataError where that cannot be done."""
    check_arrays_file(path)
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def check_arrays_file(path: Pathlike) -> None:
    """Raise DataError where the name of a file of arrays does not end in .npz."""
    if not str(path).endswith(".npz"):
        raise DataError(f"{path} given; expected a name that ends in .npz")
