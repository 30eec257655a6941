"""The concepts of a batch of pictures: for each pixel that is looked at, the numbers of the concepts that it shows."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np
import torch
from torch import Tensor

from deconvviz.data.feed import Feed
from deconvviz.data.parallel import in_order
from deconvviz.data.truth import OBJECT, Truth
from deconvviz.studies.dissection.concepts import COLOURS, PIXEL_CONCEPTS, colour_table, colours_of, textures_of
from deconvviz.studies.dissection.firing import sampled
from deconvviz.studies.dissection.naming import OBJECT as WHOLE_KIND
from deconvviz.studies.dissection.naming import PART, Concept
from deconvviz.types import Ints, Mask

WHOLE = Concept(WHOLE_KIND, "object")
NOTHING = 0  # the number that stands where a plane shows no concept; concept i has the number i + 1


def with_families(masks: dict[str, Mask]) -> dict[str, Mask]:
    """Return masks of parts, and of each family of them all together: "wheel" for "front wheel" and "rear wheel".

    A part's family is the last word of its name, numbers left aside; a part that is called like its family stays what
    it is where it has no relatives.

    >>> masks = {"left eye": np.array([[True, False]]), "eye 2": np.array([[False, True]])}
    >>> with_families(masks)["eye"].tolist()
    [[True, True]]
    """
    families: dict[str, Mask] = {}
    for name, mask in masks.items():
        family = next((word for word in reversed(name.split()) if not word.isdecimal()), name)
        families[family] = families[family] | mask if family in families else mask
    return {**masks, **families}


class ConceptPlanes:
    """Numbers the concepts, and says where pictures show them.

    Attributes:
        feed: the pictures.
        truth: where parts are; None where nothing is known.
        concepts: those that were met, in the order of their numbers.
        rows: rows of a picture that are looked at.
        columns: columns that are looked at.
    """

    def __init__(self, feed: Feed, truth: Truth | None, concepts: Sequence[Concept], device: torch.device) -> None:
        self.feed, self.truth = feed, truth
        self.concepts: list[Concept] = list(concepts or PIXEL_CONCEPTS)
        self.numbers = {concept: number for number, concept in enumerate(self.concepts, 1)}
        self.rows, self.columns = sampled(*feed.preprocess.shape[1:])
        self._table = torch.from_numpy(colour_table()).to(device)
        pixel_numbers = torch.tensor([self.numbers[concept] for concept in PIXEL_CONCEPTS], device=device)
        colours = len(COLOURS)
        self._colour_numbers, self._texture_numbers = pixel_numbers[:colours], pixel_numbers[colours:]

    def of_pixels(self, pictures: Tensor) -> Tensor:
        """Return int64 [N, 2, rows, columns]: the numbers of each pixel's colour and of its texture.

        Args:
            pictures: uint8, uint16 or float32 [N, h, w, C], as the feed gives them, on the device.
        """
        if pictures.dtype != torch.uint8 or pictures.shape[3] != 3:  # shown as figures show them
            shown = self.feed.preprocess.display(pictures.cpu().numpy())
            pictures = torch.from_numpy(shown).to(pictures.device)
        rows, columns = (slice(of.start, of.stop, of.step) for of in (self.rows, self.columns))
        colours = self._colour_numbers[colours_of(pictures[:, rows, columns], self._table)]
        return torch.stack([colours, self._texture_numbers[textures_of(pictures, self.rows, self.columns)]], 1)

    def masks(self, places: Ints) -> Generator[dict[str, Mask]]:
        """Yield for pictures of the feed what is known of them: part -> bool [rows, columns]; read in threads."""
        truth, indices, preprocess = self.truth, self.feed.indices, self.feed.preprocess

        def read(place: int) -> dict[str, Mask]:
            masks = {} if truth is None else truth.masks(int(indices[place]))
            looked_at = np.ix_(self.rows, self.columns)
            return with_families({part: preprocess.mask(np.asarray(mask))[looked_at] for part, mask in masks.items()})

        yield from in_order(read, map(int, places), self.feed.workers)

    def of_masks(self, masks: Sequence[dict[str, Mask]]) -> Tensor:
        """Return int64 [N, Q, rows, columns], a plane for each part that a picture shows, Q of the one with most."""
        planes = np.full((len(masks), max(map(len, masks), default=0), len(self.rows), len(self.columns)), NOTHING)
        for image, parts in enumerate(masks):
            for plane, (part, mask) in enumerate(parts.items()):
                planes[image, plane][mask] = self._number(Concept(PART, part) if part != OBJECT else WHOLE)
        return torch.from_numpy(planes)

    def _number(self, concept: Concept) -> int:
        """Return the number of a concept, a new one where it has none."""
        if concept not in self.numbers:
            self.concepts.append(concept)
            self.numbers[concept] = len(self.concepts)
        return self.numbers[concept]
