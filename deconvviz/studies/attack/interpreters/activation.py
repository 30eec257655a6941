"""The class activation map as an attack needs it."""

from __future__ import annotations

import torch
from torch import Tensor

from deconvviz.cam.shaping import min_max
from deconvviz.errors import CamError
from deconvviz.studies.attack.interpreters.base import Explained, Interpreter, Pass, Reader, interpreter


@interpreter
class ClassActivationMap(Interpreter):
    """mm(sum_k w_k A_k) of the maps A of a layer, w_k the mean over the positions of dz/dA_k, z the class's score.

    Zhou et al. 2016, arXiv 1512.04150, where a mean over the positions and a linear layer follow: w_k is the class's
    weight there, up to a factor that mm, the min-max scaling, takes out. Elsewhere it is Grad-CAM (Selvaraju et al.
    2017, arXiv 1610.02391) before its rectifier. The attack's gradient holds w constant: that is exact where what
    follows the layer is linear by parts, as convolutions, rectifiers, max pooling and linear layers are.
    """

    name = "cam"

    def __init__(self, explained: Explained) -> None:
        super().__init__(explained)
        if explained.layer is None:
            raise CamError("cam reads the maps of a layer, and none is given; name the last one with rows and columns")
        network = explained.network.network
        self.layers = (network.layer(explained.layer).name,)
        shape = network.layer(explained.layer).shape
        if len(shape) != 3 or min(shape[1:]) < 2:
            raise CamError(
                f"cam reads maps with rows and columns; {explained.layer} has the shape {list(shape)}: name another "
                "layer"
            )

    def reader(self, x: Tensor, classes: Tensor) -> Reader:
        return self._read

    def _read(self, seen: Pass, classes: Tensor) -> Tensor:
        value = seen.values[self.layers[0]]
        score = seen.scores.gather(1, classes[:, None]).sum()
        (slope,) = torch.autograd.grad(score, value, retain_graph=True)
        return min_max((slope.mean((2, 3), keepdim=True) * value).sum(1))
