"""Caption: the words that a network says of an image, and where each comes from: the image, and the words before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deconvviz.notebook import Shown
from deconvviz.results.tables import to_frame, write_csv
from deconvviz.types import Floats, Pathlike, Pixels

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("place", "word", "probability", "score", "of", "of_place", "relevance")


@dataclass(frozen=True, kw_only=True)
class Caption(Shown, drawn_by="draw_caption"):
    """A caption of W words.

    Attributes:
        network: its name.
        picture: uint8 [H, W, 3], the image as the network sees it.
        words: the words, without the stop.
        probabilities: float64 [W], that the network gives each word there, in 0..1.
        scores: float64 [W], before the softmax.
        of_image: float64 [W], what the image adds to the score of each word.
        of_words: float64 [W, W], what each word before adds; 0 for those that do not stand before.
        maps: float64 [W, H, W], what each pixel adds, summed over colours; red where above zero.
        method: by which relevance goes on through the network of the image.
    """

    network: str
    picture: Pixels
    words: tuple[str, ...]
    probabilities: Floats
    scores: Floats
    of_image: Floats
    of_words: Floats
    maps: Floats
    method: str

    @property
    def kept(self) -> Floats:
        """float64 [W], what biases and the stabiliser keep of each score."""
        return np.asarray(self.scores - self.of_image - self.of_words.sum(1))

    @property
    def text(self) -> str:
        """The caption as a text."""
        return " ".join(self.words)

    def _rows(self) -> Iterator[tuple[Any, ...]]:
        for place, word in enumerate(self.words):
            told = place, word, float(self.probabilities[place]), float(self.scores[place])
            yield *told, "image", -1, float(self.of_image[place])
            for before in range(place):
                yield *told, self.words[before], before, float(self.of_words[place, before])

    def save_csv(self, path: Pathlike) -> None:
        """Write a row for each word and each part that it rests on; DataError where it cannot be written."""
        write_csv(path, "caption", COLUMNS, self._rows())

    def to_frame(self) -> pd.DataFrame:
        """Return the same as a data frame; raises DataError where pandas is not installed."""
        return to_frame("caption", COLUMNS, self._rows())

    def __repr__(self) -> str:
        shares = ", ".join(
            f"{word} {score:.2f} (image {image:+.2f})"
            for word, score, image in zip(self.words, self.scores, self.of_image, strict=True)
        )
        return f"<Caption of {self.network}: {self.text!r}; scores: {shares}>"
