"""What of a pruning is refused before any work: it needs the images, and neither torch nor the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deconvviz.data.datasets import Images, labels_of
from deconvviz.errors import DataError
from deconvviz.results.results import require_same
from deconvviz.studies.pruning.options import PruningOptions
from deconvviz.studies.pruning.registry import require_labels

if TYPE_CHECKING:
    from deconvviz.studies.mining.result import Mined

OTHER_MINED = "give one of this network and of the images that are measured on, or leave --mined out"
NOT_TUNABLE = "in their order; give those that it was trained on, or --finetune 0"


def require_possible(
    criterion: str,
    needs: str,
    how: PruningOptions,
    images: Images,
    validation: Images | None = None,
    mined: Mined | None = None,
) -> None:
    """Refuse what the images alone tell to be impossible.

    Args:
        criterion: its name.
        needs: what it cannot do without, one of `registry.NEEDS`.
        how: what is pruned and measured.
        images: those that the criterion looks at, and that are trained on.
        validation: other ones to measure on; None for a share of `images`.
        mined: a mined file whose patches the figure shows; None for none.

    Raises:
        DataError: no image has a class, and the criterion or fine-tuning needs one.
        MismatchError: the mined file is of other images than those that are measured on.

    >>> import deconvviz as dv
    >>> unlabelled = dv.InMemoryImages([dv.Scenes(1)[0][0]])
    >>> require_possible("l1", "", PruningOptions(finetune=1), unlabelled)
    Traceback (most recent call last):
    deconvviz.errors.DataError: fine-tuning needs images with a class for each of the network's outputs, in their \
order; give those that it was trained on, or --finetune 0
    """
    labelled = bool((labels_of(images) >= 0).any())
    require_labels(criterion, needs, labelled)
    if how.finetune and not labelled:
        raise DataError(f"fine-tuning needs images with a class for each of the network's outputs, {NOT_TUNABLE}")
    if mined is not None and how.shown:
        measured = {"store_fingerprint": (images if validation is None else validation).fingerprint}
        before = {name: mined.config[name] for name in measured}
        require_same(mined.path or "the mined file", before, measured, OTHER_MINED)
