"""The files of a trained explainer: a plain state dict, and beside it JSON that says of which network it is."""

from __future__ import annotations

import hashlib
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import torch

from deconvviz.cam.learned import bump, lcam, masking  # noqa: F401, they register
from deconvviz.cam.learned.base import LEARNED, LearnedExplainer
from deconvviz.cam.learned.described import FORMAT, SCHEMA, described, json_beside
from deconvviz.errors import CamError, DataError, MismatchError
from deconvviz.graph.digest import architecture
from deconvviz.graph.network import Network
from deconvviz.models.checkpoints import read_file
from deconvviz.models.weights import misfit
from deconvviz.results.files import atomic, one_line
from deconvviz.results.results import other_network
from deconvviz.types import Pathlike
from deconvviz.words import counted


def configuration(explainer: LearnedExplainer, network: Network, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of the JSON file: what makes the explainer again, and the network that it explains."""
    return {
        "format": FORMAT,
        "schema": SCHEMA,
        "method": explainer.name,
        "options": explainer.options,
        "layers": {name: list(shape) for name, shape in explainer.layers.items()},
        "outputs": explainer.outputs,
        "model": network.name,
        "model_fingerprint": network.fingerprint,
        "architecture": architecture(network),
        "input_shape": list(network.input_shape),
        **about,
    }


def save_explainer(explainer: LearnedExplainer, path: Pathlike, config: Mapping[str, Any]) -> None:
    """Write both files, each atomically; raises DataError where that cannot be done."""
    with atomic(json_beside(path)) as temporary:
        # Not sorted: the layers stand in the order of depth, and the explainer is made again in this order.
        temporary.write_text(json.dumps(config, indent=1) + "\n", "utf-8")
    with atomic(path) as temporary:
        torch.save({name: value.detach().cpu().clone() for name, value in explainer.lasting_state().items()}, temporary)


def load_explainer(path: Pathlike) -> LearnedExplainer:
    """Read an explainer, on the CPU, in eval mode; `origin` holds its configuration.

    Raises:
        DataError: one of the files is missing, of another kind, or does not fit the other. ModelError: no state dict.
    """
    config = described(path)
    try:
        kind = LEARNED[config["method"]]
        layers = {name: tuple(shape) for name, shape in config["layers"].items()}
        explainer = kind(layers, config["outputs"], **config["options"])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise DataError(f"{json_beside(path)} is not whole ({one_line(error)}); train the explainer again") from error
    state = read_file(pathlib.Path(path))
    complaint = misfit(explainer.state_dict(), state) if isinstance(state, Mapping) else "it is no state dict"
    if complaint:
        raise DataError(
            f"{path} does not fit {json_beside(path).name} ({complaint}); give the two that belong together"
        )
    explainer.to(next(iter(state.values())).dtype).load_state_dict(state)
    explainer.origin, explainer.input_shape = config, tuple(config.get("input_shape", ()))
    return explainer.eval()


def digest(explainer: LearnedExplainer) -> str:
    """Return a digest of an explainer's method, options and weights, by which it is told from others."""
    content = hashlib.sha256(json.dumps([explainer.name, explainer.options], sort_keys=True).encode())
    for name, value in sorted(explainer.lasting_state().items()):
        content.update(
            name.encode() + value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        )
    return content.hexdigest()[:16]


def fitting(explainer_or_file: LearnedExplainer | Pathlike | None, method: str, network: object) -> LearnedExplainer:
    """Return an explainer, read from its file if need be, on the device of the network that it explains.

    Args:
        explainer_or_file: the explainer, or the path of its state dict.
        method: that it must be of.
        network: that it must have been trained for.

    Raises:
        CamError: it is missing or of another method, or the network was not captured.
        MismatchError: it was trained for another network.
    """
    if explainer_or_file is None:
        raise CamError(
            f"{method} has to be trained first: deconvviz train-cam {method} ...; give its file as explainer"
        )
    explainer = explainer_or_file
    if not isinstance(explainer, LearnedExplainer):
        explainer = load_explainer(explainer)
    if explainer.name != method:
        raise CamError(f"the explainer given is of the method {explainer.name}; {method} needs one of its own")
    if not isinstance(network, Network):
        raise CamError("a trained explainer belongs to a captured network; capture the model")
    trained_for = explainer.origin.get("model_fingerprint")
    if trained_for is not None and trained_for != network.fingerprint:
        what = other_network(explainer.origin.get("architecture"), architecture(network))
        right = "the weights that it was trained with (--weights FILE)" if "weights" in what else "that network"
        raise MismatchError(
            f"the explainer was trained for {what} (fingerprint {trained_for} of {explainer.origin.get('model')}; this "
            f"is {network.fingerprint} of {network.name}): give {right}, or train one for this network"
        )
    layers = {name: tuple(network.layer(name).shape) for name in explainer.layers}
    sizes = {name: math.prod(shape) for name, shape in explainer.layers.items()}
    if explainer.outputs != network.outputs or any(sizes[name] > math.prod(layers[name]) for name in layers):
        raise MismatchError(
            f"the explainer reads {explainer.layers} for {counted(explainer.outputs, 'class')}; "
            f"{network.name} has {layers} and "
            f"{network.outputs}: train one for it"
        )
    return explainer.to(network.device)
