"""The mask of a trained explainer as an attack needs it."""

from __future__ import annotations

from torch import Tensor

from deconvviz.cam.learned.files import fitting
from deconvviz.studies.attack.interpreters.base import Explained, Interpreter, Pass, Reader, interpreter


@interpreter
class RealTimeMasking(Interpreter):
    """The mask that a trained explainer draws in one pass; its file is given.

    Dabkowski and Gal 2017, arXiv 1705.07857; see the explanation method of the same name. The attack on it in the
    released code of AdvEdge also keeps the masking model's own encoder at the class; here the encoder is the network.
    """

    name = "real-time-masking"

    def __init__(self, explained: Explained) -> None:
        super().__init__(explained)
        network = explained.network.network
        self.explainer = fitting(explained.explainer, self.name, network)
        self.layers = tuple(self.explainer.layers)

    def reader(self, x: Tensor, classes: Tensor) -> Reader:
        return self._read

    def _read(self, seen: Pass, classes: Tensor) -> Tensor:
        network, dtype = self.explained.network.network, next(self.explainer.parameters(), seen.x).dtype
        values = {layer: network.maps(layer, value).to(dtype) for layer, value in seen.values.items()}
        maps: Tensor = self.explainer(values, classes)
        return maps.to(seen.x.dtype)
