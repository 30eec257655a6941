"""What a classifier says of generated images, and the samples with their scores in a features file, in commits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import DataError, ModelError
from deconvviz.graph.network import Network
from deconvviz.models.labels import names_of_outputs
from deconvviz.models.load import LoadedModel
from deconvviz.results.features import Features, write_features
from deconvviz.results.results import stamped
from deconvviz.run.opening import captured
from deconvviz.run.options import RunOptions
from deconvviz.studies.latent.model import Generator, pictures
from deconvviz.types import Pathlike

COMMIT = 10  # batches


class Scorer:
    """A classifier of generated images, which are resized and normalised as its own images are.

    Attributes:
        network: the classifier, captured.
        preprocess: how an image becomes its input.
        names: of its scores; a network with a single output has two, "yes" and "no". Numbers where there are no names.

    Raises:
        ModelError: the classifier takes other images than the generator makes.
    """

    def __init__(self, loaded: LoadedModel, image_shape: tuple[int, int, int], device: str = "cpu") -> None:
        self.preprocess = Preprocess(**loaded.settings)
        channels_wanted, channels_given = len(self.preprocess.mean), image_shape[0]
        if channels_wanted not in (1, 3):
            raise ModelError(
                f"{loaded.spec} takes images of {channels_wanted} channels; the generator makes {channels_given}"
            )
        self.network: Network = captured(loaded, self.preprocess, device)
        count = self.network.outputs
        own_classes = loaded.classes if len(loaded.classes) == count else ()
        self.names = names_of_outputs(self.network.width, own_classes, loaded.classes) or tuple(map(str, range(count)))
        self._channels = max(channels_wanted, channels_given)

    @torch.no_grad()
    def scores(self, images: Tensor) -> NDArray[np.float32]:
        """Return the scores of all classes before any softmax, float32 [N, S], of images [N, C, H, W] in 0..1.

        Grey images are given to a network for colours with three equal channels.
        """
        pixels = pictures(images.expand(-1, self._channels, -1, -1))
        x = torch.stack([self.preprocess(picture) for picture in pixels])
        scores = self.network.scores(x.to(self.network.device, self.network.dtype)).float()
        if not bool(torch.isfinite(scores).all()):
            raise DataError("the scorer returned a score that is NaN or infinite; check its weights")
        return np.asarray(scores.cpu().numpy())


def record(
    generator: Generator,
    scorer: Scorer | None,
    out: Pathlike,
    count: int,
    *,
    sources: Mapping[str, Any] | None = None,
    run: RunOptions | None = None,
) -> Features:
    """Write samples of z and their scores to a file; calling again with the same arguments resumes.

    The file is one of features, as `dv.stream_features` writes it, with the "layers" z and, with a scorer, scores.

    Args:
        generator: makes the images.
        scorer: scores them; None where nothing does.
        out: path of the file.
        count: samples; the first ones are the same whatever the count is.
        sources: where the models came from, for the file.
        run: `seed` of the samples, `batch_size` and `progress`.

    Raises:
        DataError: an image or a score is not finite, or the file cannot be written.
        MismatchError: the file was written with other settings.
    """
    run = run or RunOptions()
    widths = {"z": generator.model.size, **({"scores": len(scorer.names)} if scorer else {})}
    config = {
        "generator": generator.fingerprint,
        "scorer": scorer.network.fingerprint if scorer else None,
        "preprocess": scorer.preprocess.as_dict() if scorer else None,
        "samples": count,
        "seed": run.seed,
    }
    names = scorer.names if scorer else ()
    rows, size = np.full(count, -1, np.int64), run.images_at_once(generator.network.device, 64)
    with (
        write_features(out, widths, rows, names, config, stamped(sources)) as writer,
        run.bar("image", count, "samples", writer.row) as bar,
    ):
        since = 0
        while writer.row < count:
            indices = np.arange(writer.row, min(writer.row + size, count))
            z = generator.model.sample(run.seed, indices)
            images = generator.images(z)
            writer.append({"z": z, **({"scores": scorer.scores(images)} if scorer else {})})
            since += 1
            if since >= COMMIT:
                writer.commit()
                since = 0
            bar.update(len(indices))
    return Features(out)
