"""Attack a network: change images a little, each within its ball, and see what the network makes of them."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconvviz.arrays import evenly
from deconvviz.cam.learned.files import digest
from deconvviz.data.datasets import Images, labels_of, limited, place_of
from deconvviz.data.feed import Feed
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.sampling import MEMORY, spread
from deconvviz.errors import DataError, TargetError
from deconvviz.graph.digest import architecture
from deconvviz.graph.network import Network
from deconvviz.models.labels import class_label
from deconvviz.results.files import require_place
from deconvviz.results.results import require_same, stamped
from deconvviz.studies.attack.attacks import ATTACKS, FOOLERS
from deconvviz.studies.attack.countermeasures import Jury
from deconvviz.studies.attack.explaining import Explaining, default_layer
from deconvviz.studies.attack.fooled import empty_countered, empty_maps
from deconvviz.studies.attack.interpreters.learned import RealTimeMasking
from deconvviz.studies.attack.options import NO_LABELS, AttackOptions
from deconvviz.studies.attack.pixels import PixelNetwork, PixelScale, with_noise
from deconvviz.studies.attack.registry import Attack, require_fooler
from deconvviz.studies.attack.result import AttackStudy
from deconvviz.studies.attack.running import AttackRun
from deconvviz.types import Pathlike
from deconvviz.words import counted

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deconvviz.studies.attack.options import AttackKeywords

DRAWN = 6  # images of the figure
LARGEST = 2 * MEMORY  # bytes of changes that are kept, at most


def attack(
    network: Network,
    images: Images,
    method: str = "pgd",
    out: Pathlike | None = None,
    *,
    preprocess: Preprocess,
    names: Sequence[str] = (),
    sources: Mapping[str, Any] | None = None,
    **options: Unpack[AttackKeywords],
) -> AttackStudy:
    """Change images a little, so that a network takes them for something else, and measure how often that succeeds.

    Pixels are shares of the way from black to white, 0 to 1; the normalisation is inside. No pixel leaves that range or
    goes farther than epsilon, exactly. The changes are kept in float16, and what is measured of an attacked image is
    measured with the change that is kept: `attacked_images` gives the same image again. With `out`, what is done is
    written there every `commit_every` batches; calling again with the same arguments resumes.

    Args:
        network: a captured network that returns scores of classes, on the device that computes.
        images: a packed store, a folder of classes, scenes or images in memory.
        method: name of an attack; `deconvviz attack --list` lists them.
        out: path of the HDF5 file; None keeps the result in memory only.
        preprocess: how an image becomes the network's input.
        names: of the network's outputs, for tables and figures; empty where they are unknown.
        sources: where the model and the images came from, for the file.
        options: the fields of `AttackOptions`: `epsilons`, `away_from`, `outputs`, `target`, `loss`, `method_options`,
            `limit`, `keep` and `commit_every`; of explanations `fools`, `layer`, `explainer`, `goal`, `edges`,
            `edge_stages` and `towards`; `countermeasures` and `agreement`; and `batch_size`, `workers`, `seed` and
            `progress` of `RunOptions`.

    Raises:
        DeconvvizError: an attack of this name does not exist.
        DataError: an option out of its range or that the attack does not have, an image without a class where that is
            needed, images too large for the attack, or more changes than there is memory for.
        TargetError: the target is no output, or the class of every image.
        CaptureError: the images do not fit the network, or it returns no scores of classes.
        CamError: a layer has no rows and columns, or an interpreter needs a trained explainer, and none is given.
        LayerNotFound: a layer of this name does not exist.
        MismatchError: `out` was written with other settings, or the explainer belongs to another network.

    Source: of each attack its docstring.

    >>> import deconvviz as dv
    >>> torch.manual_seed(0) and None
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 3)).eval()
    >>> network, preprocess = dv.capture(model, (3, 16, 16)), dv.Preprocess(resize=16, crop=16)
    >>> about = {"preprocess": preprocess, "away_from": "top", "progress": False}
    >>> study = dv.attack(network, dv.Scenes(4), "fgsm", epsilons=[0, 8 / 255], **about)
    >>> float(study.accuracy[0]), study.noise.shape, bool(np.abs(study.noise).max() <= 8 / 255)
    (1.0, (2, 4, 3, 16, 16), True)
    """
    how = AttackOptions(**options)
    entry = _entry(method, how)
    method_options = entry.checked(how.method_options)
    network.check_input(preprocess.shape)
    entry.require_room(preprocess.shape)
    how = replace(how, layer=how.layer or default_layer(network, how.fools, how.agreement))
    pixel_network = PixelNetwork(network, PixelScale(preprocess))
    explaining = Explaining(pixel_network, how) if how.fools else None
    jury = Jury(pixel_network, how.agreement, how.layer, how.seed) if how.agreement else None
    labels = labels_of(images)
    feed = Feed(images, preprocess, spread(labels, how.limit or len(labels)), workers=how.workers)
    own_classes = _own_classes(feed, network, how)
    config = {
        "model": network.name,
        "model_fingerprint": network.fingerprint,
        "images_fingerprint": images.fingerprint,
        "limit": how.limit,
        **limited(len(images), how.limit),
        "preprocess": preprocess.as_dict(),
        "method": method,
        "method_options": method_options,
        "epsilons": list(how.epsilons_or(entry.epsilon)),
        "away_from": how.away_from,
        "outputs": None if how.outputs is None else np.asarray(how.outputs).tolist(),
        "target": how.target,
        "loss": how.loss,
        "keep": how.keep,
        "seed": how.seed,
        **_of_explanations(how, explaining),
    }
    about = {"architecture": architecture(network), **place_of(images), **(sources or {})}
    study = _begun(_empty(feed, config, stamped(about), how, names), out)
    if study.complete:
        return study
    return AttackRun(pixel_network, feed, entry, how, own_classes, explaining, jury).resume(study, out)


def _entry(method: str, how: AttackOptions) -> Attack:
    """Return the attack of a name, or its form that fools explanations."""
    require_fooler(method, how.fooling, ATTACKS, FOOLERS)
    return FOOLERS[method] if how.fooling else ATTACKS[method]


def _of_explanations(how: AttackOptions, explaining: Explaining | None) -> dict[str, Any]:
    """Return the settings that are about maps and countermeasures; none where nothing of them is asked for."""
    about: dict[str, Any] = {}
    if explaining is not None:
        learned = [each for each in explaining.interpreters.values() if isinstance(each, RealTimeMasking)]
        about |= {"fools": list(how.fools), "goal": how.goal, "edges": how.edges, "edge_stages": how.edge_stages}
        about |= {"towards": how.towards if how.goal == "explanation" else None}
        about |= {"explainer": digest(learned[0].explainer) if learned else None}
    if how.fools or how.agreement:
        about["layer"] = how.layer
    if how.countermeasures:
        about["countermeasures"] = list(how.countermeasures)
    if how.agreement:
        about["agreement"] = list(how.agreement)
    return about


def attacked_images(
    study: AttackStudy, images: Images, epsilon: int = -1, places: Sequence[int] | None = None
) -> NDArray[np.float32]:
    """Return attacked images as they were measured, float32 [K, h, w, C] in 0..1, from black to white.

    They are the same to the last bit where the network is float32.

    Args:
        study: what `attack` returned, or `AttackStudy.load`.
        images: the images that were attacked.
        epsilon: which of the study's epsilons, by its index.
        places: which of the images whose changes are kept, from 0 to K - 1; None takes all.

    Raises:
        MismatchError: these are other images.
    """
    now = {"images_fingerprint": images.fingerprint}
    require_same(study.path or "the study", {name: study.config[name] for name in now}, now, "give its own images")
    kept_rows = np.arange(len(study.places)) if places is None else np.asarray(places, np.int64)
    preprocess = Preprocess.from_dict(study.config["preprocess"])
    feed = Feed(images, preprocess, study.indices[study.places[kept_rows]])
    x = PixelScale(preprocess).shares(feed.pictures(range(len(feed))))
    changed = with_noise(x, torch.from_numpy(study.noise[epsilon][kept_rows]), study.epsilons[epsilon])
    return np.ascontiguousarray(changed.permute(0, 2, 3, 1).numpy())


def _own_classes(feed: Feed, network: Network, how: AttackOptions) -> Tensor | None:
    """Return the output of each image's label, int64 [N] on the device; None where the network's own choice counts."""
    if how.target is not None and how.target >= network.outputs:
        raise TargetError(f"target {how.target} given; {network.name} has classes 0 to {network.outputs - 1}")
    if how.away_from == "top":
        if how.target is not None:
            _refuse_own(feed, network, how)
        return None
    if how.outputs is None or (feed.labels < 0).any():
        raise DataError(NO_LABELS)
    outputs = np.asarray(how.outputs, np.int64)
    if feed.labels.max() >= len(outputs) or outputs.min() < 0 or outputs.max() >= network.outputs:
        raise DataError(
            f"outputs {outputs.min()} to {outputs.max()} given for {counted(len(outputs), 'class')}; the images have "
            f"{counted(int(feed.labels.max()) + 1, 'class')}, and {network.name} has outputs 0 to {network.outputs - 1}"
        )
    classes = outputs[feed.labels]
    if how.target is not None and np.equal(classes, how.target).all():
        raise TargetError(_is_own(how.target))
    return torch.from_numpy(classes).to(network.device)


def _refuse_own(feed: Feed, network: Network, how: AttackOptions) -> None:
    """Raise TargetError where the network finds the target in every image; more than a batch are not asked."""
    if len(feed) <= how.images_at_once(network.device):
        with torch.no_grad():
            x = feed.tensor(feed.pictures(range(len(feed))), network.device, network.dtype)
            decisions = network.scores(x).argmax(1)
        if decisions.tolist() == [how.target] * len(feed):
            raise TargetError(_is_own(int(decisions[0])))


def _is_own(target: int) -> str:
    return f"target {class_label(target)} given, which is the class of every image; give another one"


def _empty(
    feed: Feed, config: dict[str, Any], sources: dict[str, Any], how: AttackOptions, names: Sequence[str]
) -> AttackStudy:
    """Return a study of which no image is attacked yet."""
    count, epsilons = len(feed), len(config["epsilons"])
    places = evenly(count, count if how.keep is None else how.keep)
    drawn, (channels, height, width) = evenly(len(places), DRAWN), feed.preprocess.shape
    size = 2 * epsilons * len(places) * channels * height * width
    size += 2 * (1 + 2 * epsilons) * len(how.fools) * len(places) * height * width
    if size > LARGEST:
        raise DataError(
            f"the changes of {counted(len(places), 'image')} take {size / 1e9:.1f} GB; keep those of fewer images"
        )
    about = (epsilons, len(how.fools), count, len(places), (height, width), len(drawn))
    pairs = len(how.agreement) * (len(how.agreement) - 1) // 2
    counters = (epsilons, len(how.countermeasures), pairs, count)
    return AttackStudy(
        config=config,
        sources=sources,
        names=tuple(feed.name(place) for place in range(count)),
        outputs=tuple(names),
        indices=feed.indices,
        own=np.full(count, -1, np.int64),
        before=np.full(count, -1, np.int64),
        probability_before=np.zeros(count),
        after=np.full((epsilons, count), -1, np.int64),
        probability_after=np.zeros((epsilons, count)),
        target_probability=np.zeros((epsilons, count)),
        pixels=np.zeros((epsilons, count), np.int64),
        length=np.zeros((epsilons, count)),
        largest=np.zeros((epsilons, count)),
        places=places,
        noise=np.zeros((epsilons, len(places), channels, height, width), np.float16),
        shown=drawn,
        pictures=np.zeros((len(drawn), height, width, 3), np.uint8),
        attacked=np.zeros((epsilons, len(drawn), height, width, 3), np.uint8),
        maps=empty_maps(*about) if how.fools else None,
        countered=empty_countered(*counters) if how.countermeasures or how.agreement else None,
    )


def _begun(empty: AttackStudy, out: Pathlike | None) -> AttackStudy:
    """Return what the file holds already, or the empty study; a place where nothing can be written is refused."""
    if out is None:
        return empty
    if pathlib.Path(out).exists():
        study = AttackStudy.load(out)
        both = study.sources, empty.sources
        require_same(out, study.config, empty.config, "remove it or choose another output", both)
        return study
    require_place(out)
    return replace(empty, path=pathlib.Path(out))
