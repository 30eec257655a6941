"""The options of `deconvviz train` and `pretrain` about snapshots."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TYPE_CHECKING

import click

from deconvviz.cli.dependent import Dependent
from deconvviz.cli.inputs import integers
from deconvviz.cli.options import option_group
from deconvviz.cli.outputs import check_place, command_line
from deconvviz.errors import DataError

if TYPE_CHECKING:
    from deconvviz.studies.training.recorder import SnapshotRecorder

SNAPSHOT_EPOCHS = "1,2,5,10,20,30,40,64"  # `recorder.PAPER_EPOCHS`, whose module needs torch


@dataclasses.dataclass(frozen=True, kw_only=True)
class SnapshotOptions:
    """What the command line says of snapshots.

    Attributes:
        snapshots: path of their file; None records none.
        snapshot_epochs: the epochs whose weights are kept, as text.
        snapshot_half: whether they are kept in half precision.
        diagnose: images by which the network is diagnosed after each epoch; None for no diagnosis.
    """

    snapshots: str | None
    snapshot_epochs: str
    snapshot_half: bool
    diagnose: str | None

    def require_place(self) -> None:
        """Raise DataError, before the training, where a file that is there cannot be gone on with."""
        from deconvviz.results.snapshots import Snapshots

        if self.snapshots is not None:
            check_place(self.snapshots)
            if pathlib.Path(self.snapshots).exists():
                Snapshots(self.snapshots)

    def path(self, mark: str = "") -> str | None:
        """Return the file that they are recorded in, None where none is named; `mark` goes into its name."""
        return self.snapshots and marked(self.snapshots, mark)

    def recorder(self, mark: str = "") -> SnapshotRecorder | None:
        """Return what records them, None where no file is named; `mark` is as for `path`."""
        import torch

        from deconvviz.studies.training.recorder import SnapshotRecorder

        path = self.path(mark)
        if path is None:
            if self.diagnose is not None:
                raise DataError("--diagnose given without --snapshots FILE, beside which the page is written")
            return None
        return SnapshotRecorder(
            path,
            integers(self.snapshot_epochs),
            sources={"command": command_line()},
            dtype=torch.float16 if self.snapshot_half else None,
            resume=True,
            diagnose=self.diagnose,
        )


snapshot_options = option_group(
    "snapshots",
    SnapshotOptions,
    click.option("--snapshots", metavar="FILE", help="Record weights during training, for `deconvviz evolve`."),
    click.option(
        "--snapshot-epochs",
        cls=Dependent,
        needs="--snapshots",
        default=SNAPSHOT_EPOCHS,
        help="The epochs whose weights are kept.",
    ),
    click.option(
        "--snapshot-half",
        cls=Dependent,
        needs="--snapshots",
        is_flag=True,
        help="Keep them in half precision, in half the space.",
    ),
    click.option(
        "--diagnose",
        metavar="DATA",
        help="Images, a store or a folder: after each epoch the page NAME.live.html beside the snapshots shows "
        "filters, dead ones, findings and curves.",
    ),
)


def marked(path: str, mark: str) -> str:
    """Return a path with a mark at the end of the file's name.

    >>> marked("nets/zfnet.pth", "-seed3"), marked("zfnet.pth", "")
    ('nets/zfnet-seed3.pth', 'zfnet.pth')
    """
    file = pathlib.Path(path)
    return str(file.with_name(f"{file.stem}{mark}{file.suffix}")) if mark else path
