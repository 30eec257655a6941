"""A loaded model as a network on a device: what commands do here, and the nodes of a cluster there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deconvviz.errors import CaptureError

if TYPE_CHECKING:
    import torch

    from deconvviz.data.preprocess import Preprocess
    from deconvviz.graph.network import Network
    from deconvviz.models.load import LoadedModel


def captured(loaded: LoadedModel, preprocess: Preprocess, device: str, outputs: str = "auto") -> Network:
    """Capture a loaded model; `device` is a name, as for `device_of`, and `outputs` as for `Network.with_outputs`."""
    from deconvviz.graph.capture import capture

    target = device_of(device)
    network = capture(loaded.model, preprocess.shape)
    if outputs != "auto":
        network = network.with_outputs(outputs)
    return network if target.type == "cpu" else network.to(target)


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
