"""What a trained bump says of a network, which may be another one than it was trained for, with gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from deconvviz.cam.captured import Captured
from deconvviz.cam.learned.bump import Bump
from deconvviz.cam.learned.files import load_explainer
from deconvviz.errors import CamError, MismatchError
from deconvviz.graph.network import Network
from deconvviz.types import Pathlike


class BumpReader:
    """A bump that reads the layers of a network of the architecture that it was trained for.

    Attributes:
        explainer: the trained bump.
        layers: names of the layers that it reads, in the order of depth.
    """

    def __init__(self, explainer: Bump | Pathlike, network: Network) -> None:
        """Prepare the reading.

        Args:
            explainer: the bump, or the path of its file.
            network: a network with the same layers: the one that it was trained for, or that one pruned, trained
                further or from another start.

        Raises:
            CamError: an explainer of another method.
            DataError: its files are damaged.
            MismatchError: a layer has another shape than the explainer reads, or the outputs or images are others.
        """
        found = explainer if isinstance(explainer, Bump) else load_explainer(explainer)
        if not isinstance(found, Bump):
            raise CamError(f"an explainer of the method {found.name} given; expected one of `deconvviz train-cam bump`")
        self.explainer, self.layers = found.to(network.device), tuple(found.layers)
        backend = Captured(network)
        values = {name: torch.zeros(1, *network.layer(name).shape) for name in self.layers}
        self._layouts = {name: backend.layout(name, value, found.size, None) for name, value in values.items()}
        shapes = {name: tuple(self._layouts[name].maps(value).shape[1:]) for name, value in values.items()}
        wrong = [name for name in self.layers if shapes[name] != tuple(found.layers[name])]
        if wrong:
            expected, given = (" x ".join(map(str, shape)) for shape in (found.layers[wrong[0]], shapes[wrong[0]]))
            raise MismatchError(
                f"layer {wrong[0]} of {network.name} has maps of {given}, the explainer reads {expected}: give a "
                "network of the same architecture (of a pruned one the masked form, whose shapes stay)"
            )
        if network.outputs != found.outputs or tuple(network.input_shape) != tuple(found.input_shape):
            raise MismatchError(
                f"the explainer is of images {found.input_shape} and {found.outputs} classes; {network.name} has "
                f"{network.input_shape} and {network.outputs}: train one for it"
            )

    def numbers(self, values: dict[str, Tensor], classes: Tensor) -> Tensor:
        """Return a, b and c of the selector [N, 3], without unit; gradients pass through to the values.

        Args:
            values: layer -> its value [N, ...], as the network computed it.
            classes: int64 [N], to explain.
        """
        dtype = next(self.explainer.parameters()).dtype
        maps = {name: self._layouts[name].maps(values[name]).to(dtype) for name in self.layers}
        numbers: Tensor = self.explainer.selector(maps, classes)
        return numbers
