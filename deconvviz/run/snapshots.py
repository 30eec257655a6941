"""A model with the weights of an epoch of a training."""

from __future__ import annotations

import torch
from torch import nn

from deconvviz.errors import MismatchError
from deconvviz.models.weights import COUNTERS, misfit
from deconvviz.results.snapshots import Snapshots


def with_weights(model: nn.Module, snapshots: Snapshots, epoch: int, advice: str) -> nn.Module:
    """Give a model the weights of an epoch, in place.

    Args:
        model: a network of the kind that was trained.
        snapshots: the weights of the epochs.
        epoch: one of them.
        advice: what the user can do where the weights do not fit, for the message.

    Returns:
        The model, in eval mode.

    Raises:
        MismatchError: the weights are those of another network.
        DataError: the file does not hold the epoch, or its weights are damaged.
    """
    state = {name: torch.from_numpy(array) for name, array in snapshots.weights(epoch).items()}
    complaint = misfit(model.state_dict(), state, COUNTERS)
    if complaint:
        raise MismatchError(
            f"epoch {epoch} of {snapshots.path} does not fit {type(model).__name__} ({complaint}); {advice}"
        )
    model.load_state_dict(state)
    return model.eval()
