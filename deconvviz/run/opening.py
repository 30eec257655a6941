"""A loaded model as a network on a device: what commands do here, and the nodes of a cluster there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deconvviz.errors import CaptureError, DataError

if TYPE_CHECKING:
    import torch

    from deconvviz.data.preprocess import Preprocess
    from deconvviz.graph.calling import Call
    from deconvviz.graph.network import Network
    from deconvviz.models.load import LoadedModel


ANY_SIDE = 128  # pixels of images that try whether a network can be captured


def captured(
    loaded: LoadedModel, preprocess: Preprocess, device: str, outputs: str = "auto", call: Call | None = None
) -> Network:
    """Capture a loaded model.

    Args:
        loaded: the model.
        preprocess: how its images are prepared.
        device: a name, as for `device_of`.
        outputs: as for `Network.with_outputs`.
        call: how the model takes images, as for `capture`.

    Raises:
        CaptureError: the model cannot be captured, or the device cannot be used.
        DataError: the preprocessing leaves images as large as they are.
    """
    from deconvviz.graph.capture import capture

    target = device_of(device)
    network = capture(loaded.model, _shape(loaded, preprocess), call)
    if outputs != "auto":
        network = network.with_outputs(outputs)
    return network if target.type == "cpu" else network.to(target)


def _shape(loaded: LoadedModel, preprocess: Preprocess) -> tuple[int, int, int]:
    """Return the shape of the input; of a model that takes images of any size, raise why it cannot be captured."""
    from deconvviz.graph.capture import capture

    if preprocess.crop is None:
        capture(loaded.model, (len(preprocess.mean), ANY_SIDE, ANY_SIDE))  # raises where it cannot be, at any size
        raise DataError(f"{loaded.spec} takes images of any size; give the side of its input, such as --input 320")
    return preprocess.shape


def device_of(name: str) -> torch.device:
    """Return a device by its name; "auto" is a GPU if there is one, else the CPU.

    Raises:
        CaptureError: the device cannot be used.

    >>> device_of("cpu")
    device(type='cpu')
    """
    import torch

    name = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise CaptureError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}; try --device cpu") from error
