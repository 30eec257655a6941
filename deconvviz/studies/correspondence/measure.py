"""Do parts correspond: does masking the same part of several images change a layer's features in the same way?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconvviz.data.datasets import Images
from deconvviz.data.feed import Feed
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.truth import Truth
from deconvviz.errors import DataError, nearest
from deconvviz.graph.network import Network
from deconvviz.halving import AtOnce
from deconvviz.studies.correspondence.distances import hamming, permutation_test
from deconvviz.studies.correspondence.options import CorrespondenceOptions
from deconvviz.studies.correspondence.parts import Parts
from deconvviz.studies.correspondence.result import Correspondence, PartScore
from deconvviz.types import Floats, Ints, Pixels

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deconvviz.studies.correspondence.options import CorrespondenceKeywords

ROUNDING = 64  # machine epsilons of a layer's largest value: another batch size changes float32 features by up to 10
EXAMPLES = 5  # pictures of each part that are kept for the figure


def correspondence(
    network: Network,
    images: Images,
    truth: Truth,
    parts: Sequence[str] | None,
    layers: Sequence[str],
    *,
    preprocess: Preprocess,
    **options: Unpack[CorrespondenceKeywords],
) -> Correspondence:
    """Mask the same part in sets of images, and measure how alike the signs of what changes in each layer are.

    For image i, eps_i = x_i - x~_i is the feature vector of a layer less that of the masked image. The score is the
    mean over the pairs of a set, and over the sets, of H(sign eps_i, sign eps_j), the share of differing dimensions.

    Args:
        network: captured.
        images: labelled images.
        truth: where the parts are; a part of which the network's picture shows no pixel is absent from its image.
        parts: by name; None takes all that at least `count` images (of one class) have.
        layers: names of layers, of any shape.
        preprocess: how an image becomes the network's input.
        options: `per_class`, `count`, `repeats`, `random`, `random_on`, `fill`, `sign_zero`, `normalisation` and
            `permutations` of `CorrespondenceOptions`; `batch_size` (masked images in one pass, by default 32), `seed`
            (of sets, random masks and permutations) and `progress` of `RunOptions`.

    Raises:
        DataError: no or too few images have a part, or an option does not exist.
        LayerNotFound: a name in `layers` does not exist.
        CaptureError: the images do not fit the network.

    Source: Zeiler and Fergus 2014, arXiv 1311.2901, section 4.3 and table 1, whose scores such as .067 must be means.
    The random masks, the permutation test and the treatment of unchanged features are this package's.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Conv2d(3, 4, 5, stride=4), nn.ReLU(), nn.Flatten()).eval()
    >>> network, preprocess = dv.capture(model, (3, 64, 64)), dv.Preprocess(resize=64, crop=64)
    >>> scenes = dv.Scenes(40)
    >>> options = {"count": 3, "permutations": 20, "progress": False}
    >>> truth = dv.open_truth(None, scenes)
    >>> result = correspondence(network, scenes, truth, ["left eye"], ["0"], preprocess=preprocess, **options)
    >>> (row,) = result.rows
    >>> row.part, row.layer, 0 <= row.mean <= 1
    ('left eye', '0', True)
    """
    settings = CorrespondenceOptions(**options)
    if not layers:
        raise DataError(f"no layer given; name at least one, {nearest('', network.layers)}")
    for name in layers:
        network.layer(name)
    network.check_input(preprocess.shape)
    where = Parts(Feed(images, preprocess), truth, settings)
    masking = Masking(network, layers, where)
    sets = where.sets(parts)
    rows: list[PartScore] = []
    examples: dict[str, Pixels] = {}
    with settings.bar("set", sum(map(len, sets.values())), "masking parts") as bar:
        for part, image_sets in sets.items():
            tables: dict[str, list[Floats]] = {layer: [] for layer in layers}
            for members in image_sets:
                x, masks = masking.inputs(members, part)
                examples.setdefault(part, masking.examples(x, masks))
                for layer, signs in masking.signs(x, masks).items():
                    tables[layer].append(hamming(signs, settings.sign_zero, settings.normalisation))
                bar.update()
            rows += [masking.score(part, layer, image_sets, np.stack(table)) for layer, table in tables.items()]
    config = {
        "model": network.name,
        "model_fingerprint": network.fingerprint,
        "images_fingerprint": images.fingerprint,
        "truth_fingerprint": truth.fingerprint,
        "parts": list(sets),
        "layers": list(layers),
        "preprocess": preprocess.as_dict(),
        **settings.as_config(),
    }
    return Correspondence(rows=tuple(rows), examples=examples, config=config)


class Masking:
    """Masks parts, and runs the network on what is left of the images."""

    def __init__(self, network: Network, layers: Sequence[str], parts: Parts) -> None:
        self.network, self.layers, self.parts, self.options = network, layers, parts, parts.options
        preprocess = parts.feed.preprocess
        colour = preprocess.level(0) if self.options.fill == "black" else torch.zeros(preprocess.shape[0])
        self.fill = colour.to(network.device, network.dtype)[:, None, None]

    def inputs(self, members: Ints, part: str) -> tuple[Tensor, Tensor]:
        """Return images as the network takes them, and their masks.

        Args:
            members: int64 [n], indices of images that have the part.
            part: its name.

        Returns:
            Images [n, C, H, W], and bool [n, 1 + R, H, W]: the part's mask, then random masks of equal area.
        """
        feed = self.parts.feed
        masks = np.stack([self.parts.with_random_masks(int(index), part) for index in members])
        x = feed.tensor(feed.pictures(members), self.network.device, self.network.dtype)
        return x, torch.from_numpy(masks).to(x.device)

    def signs(self, x: Tensor, masks: Tensor) -> dict[str, NDArray[np.int8]]:
        """Return the signs of what each mask takes from each layer's features, int8 [n, 1 + R, D]."""
        signs: dict[str, list[Tensor]] = {layer: [] for layer in self.layers}
        at_once = AtOnce(self.options.images_at_once(x.device, 32), "masked images")
        with torch.no_grad():
            for image, image_masks in zip(x, masks, strict=True):
                # The whole image runs among the masked ones: another batch size would round its features otherwise.
                covers = torch.cat([torch.zeros_like(image_masks[:1]), image_masks])[:, None]

                def part(start: int, stop: int, image: Tensor = image, covers: Tensor = covers) -> dict[str, Tensor]:
                    return self.network.activations(torch.where(covers[start:stop], self.fill, image), self.layers)

                batches = [*at_once.parts(len(covers), part)]
                for layer in self.layers:
                    features = torch.cat([batch[layer] for batch in batches]).flatten(1)
                    signs[layer].append(signs_of_change(features).cpu())
        return {layer: torch.stack(of_images).numpy() for layer, of_images in signs.items()}

    def examples(self, x: Tensor, masks: Tensor) -> Pixels:
        """Return up to five images without the part, and the first one with a random mask, uint8 [m + 1, H, W, 3]."""
        cover = torch.cat([masks[:EXAMPLES, 0], masks[:1, 1]])[:, None]
        masked = torch.where(cover, self.fill, torch.cat([x[:EXAMPLES], x[:1]]))
        return self.parts.feed.preprocess.inverse(masked)

    def score(self, part: str, layer: str, image_sets: Ints, tables: Floats) -> PartScore:
        """Summarise the distances [S, n, 1 + R, n, 1 + R] of one part and layer."""
        count, mask = tables.shape[1], np.arange(tables.shape[2])
        first, second = (indices[:, None] for indices in np.triu_indices(count, 1))
        scale = count * (count - 1) if self.options.normalisation == "sum" else 1
        p = permutation_test(tables, self.options.permutations, self.parts.generator(part, 2))
        distances = scale * tables[:, first, mask, second, mask]
        return PartScore(part=part, layer=layer, image_sets=image_sets, distances=distances, p=p)


def signs_of_change(features: Tensor) -> Tensor:
    """Return the signs of the first row's features less each other row's; 0 where rounding alone may make a change.

    Args:
        features: [1 + K, D]: of the whole image, then of K masked ones.

    Returns:
        int8 [K, D].

    >>> signs_of_change(torch.tensor([[1.0, 2.0, 3.0], [0.5, 2.0, 4.0]]))
    tensor([[ 1,  0, -1]], dtype=torch.int8)
    """
    change = features[:1] - features[1:]
    least = ROUNDING * torch.finfo(features.dtype).eps * features[0].abs().max()
    return torch.where(change.abs() > least, change.sign(), 0).to(torch.int8)
