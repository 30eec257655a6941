"""What an atlas shows, and the files that making one gives."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deconvviz.choices import CHANNEL_CHOICES, RULE_CHOICES
from deconvviz.errors import DataError, require
from deconvviz.types import Pixels
from deconvviz.words import counted

METHODS = ("grad-cam", "layercam", "recipro-cam", "guided")  # explain decisions where no others are named
DECISIONS_KIND, DECISIONS_SCHEMA = "decisions", 1  # of the file with the decisions that are explained
RESEMBLING_KIND, RESEMBLING_SCHEMA = "resembling images", 1  # of the training images that they resemble


@dataclass(frozen=True, kw_only=True)
class AtlasOptions:
    """What an atlas shows.

    Attributes:
        layers: names of the layers.
        filters: channels of each layer, or "active", "random" or "first"; None for all channels.
        count: filters of each layer, where `filters` is a word.
        k: images of each filter.
        rule: of the projections, one of `choices.RULES`; "auto" takes for each layer the rule that shows it best, or
            the rule with which the atlas was begun.
        decisions: number of images whose decision is explained; 0 for none.
        methods: names of the methods that explain decisions.
        cam_layer: the layer at which the methods explain; None for the last one with rows and columns.
        invariance: whether each filter is scored under transforms of images.
        occlusion: whether a grey square is moved over each filter's strongest image.
        wanted: whether the picture that each filter would like best is made.
        off: whether each filter is switched off on its strongest images, to see which classes fall.

    Raises:
        DataError: an option is out of its range.

    >>> AtlasOptions(layers=("conv1", "conv5"), filters="active", count=16).config["count"]
    16
    """

    layers: tuple[str, ...]
    filters: str | tuple[int, ...] | None = None
    count: int = 64
    k: int = 9
    rule: str = "auto"
    decisions: int = 12
    methods: tuple[str, ...] = METHODS
    cam_layer: str | None = None
    invariance: bool = False
    occlusion: bool = False
    off: bool = False
    wanted: bool = False

    def __post_init__(self) -> None:
        word = self.filters if isinstance(self.filters, str) else CHANNEL_CHOICES[0]
        require(
            self,
            DataError,
            filters=(word in CHANNEL_CHOICES, f"{', '.join(CHANNEL_CHOICES)} or channels"),
            count=(self.count >= 1, "at least 1"),
            k=(self.k >= 1, "at least 1"),
            rule=(self.rule in RULE_CHOICES, ", ".join(RULE_CHOICES)),
            decisions=(self.decisions >= 0, "0 or more"),
        )

    @property
    def config(self) -> dict[str, Any]:
        """The options as JSON values: they must agree for an atlas to be continued."""
        return {
            "layers": list(self.layers),
            "filters": list(self.filters) if isinstance(self.filters, tuple) else self.filters,
            "count": self.count if isinstance(self.filters, str) else None,
            "k": self.k,
            "rule": self.rule,
            "decisions": self.decisions,
            "methods": list(self.methods) if self.decisions else None,
            "cam_layer": self.cam_layer,
            "invariance": self.invariance,
            "occlusion": self.occlusion,
            **({"wanted": True} if self.wanted else {}),  # likewise
            **({"off": True} if self.off else {}),  # which atlases of earlier versions do not mention
        }


@dataclass(frozen=True, kw_only=True)
class AtlasResult:
    """The files of an atlas.

    Attributes:
        galleries: one file for each layer, in the order of depth.
        decisions: the file with the decisions; None where none were asked for.
        resembling: the file with the training images that the explained images resemble; None where none were given.
        filters: number of filters that are shown.
        new_filters: how many of them this call computed.
        seconds: time that this call took.
        picture: index of an image of the store -> the picture that the network receives, as figures show it, uint8
            [H, W, 3].
    """

    galleries: tuple[pathlib.Path, ...]
    decisions: pathlib.Path | None
    resembling: pathlib.Path | None = None
    filters: int
    new_filters: int
    seconds: float
    picture: Callable[[int], Pixels]

    def __repr__(self) -> str:
        rate = f", {1000 * self.seconds / self.new_filters:.0f} ms each" if self.new_filters else ""
        total = f"{counted(self.filters, 'filter')} of {counted(len(self.galleries), 'layer')}"
        return f"AtlasResult({total}, {self.new_filters} of them computed now in {self.seconds:.0f} s{rate})"
