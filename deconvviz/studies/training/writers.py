"""Where the numbers of a training are logged to: TensorBoard, Weights & Biases, or the loggers of Lightning.

None of these libraries is imported here but by what the user gives: an object is known by its methods.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from deconvviz.errors import DataError
from deconvviz.studies.training.live_page import picture_of

if TYPE_CHECKING:
    from deconvviz.studies.training.live_page import LiveState
    from deconvviz.types import Pixels

PREFIX, PICTURE = "deconvviz/", "deconvviz/filters"


def require_writer(writer: Any) -> None:
    """Raise DataError for an object that is nothing to log to."""
    if not any(hasattr(writer, name) for name in ("add_scalar", "log_metrics", "log")):
        raise DataError(
            f"a writer of type {type(writer).__name__} given; expected TensorBoard's SummaryWriter, a run of Weights & "
            "Biases, or a logger of Lightning"
        )


def active_run(writers: Iterable[Any]) -> list[Any]:
    """Return the run of Weights & Biases that is active, where there is one that `writers` do not log to already."""
    wandb = sys.modules.get("wandb")  # where it was not imported, no run is active
    run = getattr(wandb, "run", None)
    logged = [getattr(writer, "experiment", writer) for writer in writers] if run is not None else []
    return [] if run is None or any(each is run for each in logged) else [run]


def log(writer: Any, state: LiveState, step: int) -> None:
    """Log the numbers of an epoch, and the picture of its filters where the writer takes pictures.

    Args:
        writer: TensorBoard's `SummaryWriter` (it has `add_scalar` and `add_image`), a run of Weights & Biases (`log`),
            or a logger of Lightning (`log_metrics`, and `experiment`, which is one of the others).
        state: of the training after the epoch.
        step: what the numbers belong to. Weights & Biases counts its own steps, which must not fall: it gets the epoch
            as a number instead.
    """
    numbers = {f"{PREFIX}{name}": value for name, value in state.logged.items()}
    picture = picture_of(state)
    if hasattr(writer, "log_metrics"):
        writer.log_metrics(numbers, step)
        _log_picture(getattr(writer, "experiment", None), picture, state.epoch, step)
    elif hasattr(writer, "add_scalar"):
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)
        _log_picture(writer, picture, state.epoch, step)
    else:
        writer.log(numbers | {f"{PREFIX}epoch": state.epoch} | _as_media(picture))


def _log_picture(writer: Any, picture: Pixels, epoch: int, step: int) -> None:
    if hasattr(writer, "add_image"):
        writer.add_image(PICTURE, picture, step, dataformats="HWC")
    elif hasattr(writer, "log") and _as_media(picture):
        writer.log({f"{PREFIX}epoch": epoch} | _as_media(picture))


def _as_media(picture: Pixels) -> dict[str, Any]:
    """Return a picture as Weights & Biases takes it; nothing where it is not imported."""
    wandb = sys.modules.get("wandb")
    return {} if wandb is None else {PICTURE: wandb.Image(picture)}
