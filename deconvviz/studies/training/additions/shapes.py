"""What the parts of a network give for one image: which rectifiers have maps, and at how many places filters look."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from deconvviz.data.preprocess import Preprocess
from deconvviz.graph.evaluating import evaluating

RECTIFIERS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.CELU, nn.SELU, nn.SiLU, nn.GELU, nn.Hardswish,
    nn.Hardtanh, nn.Mish, nn.Softplus,
)  # fmt: skip
Kinds = type[nn.Module] | tuple[type[nn.Module], ...]
Shapes = dict[str, tuple[nn.Module, list[tuple[int, ...]]]]


def output_shapes(model: nn.Module, preprocess: Preprocess, device: torch.device, kinds: Kinds = nn.Module) -> Shapes:
    """Return the modules of some kinds that run for an image, in the order in which they do.

    The model is left as it was.

    Args:
        model: the network.
        preprocess: how images become its inputs.
        device: where it is.
        kinds: classes of modules.

    Returns:
        Name of a module -> the module, and the shape [1, ...] of its output each time it ran.

    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten())
    >>> output_shapes(model, Preprocess(resize=8, crop=8), torch.device("cpu"), nn.ReLU)
    {'1': (ReLU(), [(1, 4, 6, 6)])}
    """
    shapes: Shapes = {}

    def note(name: str, module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            shapes.setdefault(name, (module, []))[1].append(tuple(output.shape))

    handles = [
        module.register_forward_hook(partial(note, name))
        for name, module in model.named_modules()
        if isinstance(module, kinds)
    ]
    try:
        with torch.inference_mode(), evaluating(model):
            dtype = next((parameter.dtype for parameter in model.parameters()), torch.float32)
            model(torch.zeros(1, *preprocess.shape, device=device, dtype=dtype))
    finally:
        for handle in handles:
            handle.remove()
    return shapes
