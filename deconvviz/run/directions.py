"""Directions of a layer: learned from a store of images, and added to a network by the names of layers."""

from __future__ import annotations

import importlib
import pathlib
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from deconvviz.choices import DIRECTIONS
from deconvviz.data.datasets import Images, labels_of
from deconvviz.data.feed import Feed
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.sampling import spread
from deconvviz.errors import DataError, MismatchError, missing_library, require, require_choice
from deconvviz.graph.directions import parsed, with_directions
from deconvviz.graph.network import Network
from deconvviz.results.directions import Directions
from deconvviz.run.options import RunOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deconvviz.run.options import RunKeywords
    from deconvviz.types import Floats

Learn = Callable[[str, str, int], Directions]
PLACES = 32  # sampled positions of an image
MOST = 50_000  # samples in all; of more images fewer positions each are taken, one at least
ROUNDS = 200  # of NMF at most


def learn_directions(
    network: Network,
    images: Images,
    layer: str,
    kind: str = "nmf",
    count: int = 10,
    *,
    preprocess: Preprocess | None = None,
    limit: int | None = None,
    **options: Unpack[RunKeywords],
) -> Directions:
    """Learn directions of a layer's channels from its values at random places of many images.

    "nmf" factors the rectified values X [samples, channels] as X = C H with nothing negative; each row of H is a
    direction. "pca" takes the principal axes; the mean is subtracted, so that a reading is the score of a component.
    Directions have unit length. They stand in the order of what they explain, the most first. Two runs with the same
    arguments learn the same directions.

    Args:
        network: a captured network.
        images: such as an `ImageStore`.
        layer: name of a layer.
        kind: one of `choices.DIRECTIONS`.
        count: number of directions, at most that of the layer's channels.
        preprocess: how an image becomes the network's input; by default resized and cropped to the network's input.
        limit: take only so many images, spread over the classes; None takes all.
        options: `batch_size`, `precision`, `workers`, `seed` and `progress` of `RunOptions`.

    Returns:
        The directions. `about["explained"]` is the share of the samples' variance (PCA) or squared values (NMF) that
        they explain.

    Raises:
        LayerNotFound: the layer does not exist.
        DataError: an option is out of its range, the values are not finite or all zero, or scikit-learn is not
            installed.

    Source: Lee and Seung 1999 for NMF; Olah et al. 2018 ("The building blocks of interpretability") and Fel et al. 2023
    (CRAFT) factor the channels of a layer so. The numbers of places and rounds are our choice.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> network = dv.capture(nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU()), (3, 32, 32))
    >>> preprocess = dv.Preprocess(resize=32, crop=32)
    >>> learn_directions(network, dv.Scenes(20), "1", "pca", 3, preprocess=preprocess, progress=False).weights.shape
    (3, 8)
    """
    run = RunOptions(**options)
    channels = network.layer(layer).units[0]
    require_choice("kind of directions", kind, DIRECTIONS, DataError)
    require({"count": count}, DataError, count=(1 <= count <= channels, f"1 to {channels}, the layer's channels"))
    preprocess = preprocess or Preprocess.to_fit(network.input_shape)
    network.check_input(preprocess.shape)
    library = _scikit_learn()
    feed = Feed(images, preprocess, spread(labels_of(images), limit or len(images)), workers=run.workers)
    samples = _samples(network, feed, layer, run)
    if not np.isfinite(samples).all():
        raise DataError(f"layer {layer!r} gave NaN or infinite values; no directions can be learned")
    weights, bias, explained = (
        _nmf(library, samples, count, run.seed) if kind == "nmf" else _pca(library, samples, count)
    )
    about = {
        "model": network.name,
        "model_fingerprint": network.fingerprint,
        "store_fingerprint": images.fingerprint,
        "preprocess": preprocess.as_dict(),
        "images": len(feed),
        "samples": len(samples),
        "seed": run.seed,
        "explained": explained,
    }
    return Directions(weights=weights, bias=bias, layer=layer, kind=kind, about=about)


def _scikit_learn() -> Any:
    try:
        return importlib.import_module("sklearn.decomposition")
    except ImportError:
        raise DataError(f"no directions can be learned: {missing_library('scikit-learn')}") from None


def _samples(network: Network, feed: Feed, layer: str, run: RunOptions) -> Floats:
    """Return the values of a layer at random places of each image, float64 [samples, channels]."""
    forward, record = network.forward_only(run.precision, keep=[layer]), network.layer(layer)
    _, rows, columns = record.units
    places_of_an_image = max(1, min(PLACES, rows * columns, MOST // max(len(feed), 1)))
    samples: list[Floats] = []
    with torch.no_grad(), run.bar("image", len(feed), "directions") as bar:
        for places, x in feed.tensors(run.images_at_once(network.device), network.device, network.dtype):
            maps = forward.maps(layer, forward.activations(x, [layer])[layer]).flatten(2)
            # Which places are taken depends on seed and image alone, and not on the batches.
            picks = [
                np.random.default_rng((run.seed, int(place))).permutation(rows * columns)[:places_of_an_image]
                for place in places
            ]
            index = torch.as_tensor(np.stack(picks), device=maps.device)[:, None].expand(-1, maps.shape[1], -1)
            samples.append(maps.gather(2, index).transpose(1, 2).flatten(0, 1).double().cpu().numpy())
            bar.update(len(places))
    return np.concatenate(samples)


def _nmf(library: Any, samples: Floats, count: int, seed: int) -> tuple[Floats, Floats, float]:
    """Return the directions, their bias and the share of the squared values that they explain."""
    rectified = np.maximum(samples, 0)
    total = float((rectified**2).sum())
    if total == 0:
        raise DataError("the layer is nowhere above zero on these images; no directions can be learned")
    init = "nndsvda" if count <= min(rectified.shape) else "random"
    model = library.NMF(n_components=count, init=init, random_state=seed, max_iter=ROUNDS)
    with warnings.catch_warnings():  # that it could go on is no news: the share that is explained is told
        warnings.filterwarnings("ignore", message="Maximum number of iterations", module="sklearn")
        coefficients = model.fit_transform(rectified)
    parts = np.asarray(model.components_, np.float64)
    lengths = np.linalg.norm(parts, axis=1)
    energies = (coefficients.astype(np.float64) ** 2).sum(0) * lengths**2
    order = np.argsort(-energies, kind="stable")
    weights = (parts / np.maximum(lengths, 1e-30)[:, None])[order]
    explained = 1 - float(((rectified - coefficients @ parts) ** 2).sum()) / total
    return weights, np.zeros(count), explained


def _pca(library: Any, samples: Floats, count: int) -> tuple[Floats, Floats, float]:
    """Return the principal axes, the bias that subtracts the mean, and the share of the variance that they explain."""
    if len(samples) < count:
        raise DataError(f"{len(samples)} samples for {count} directions; give more images or a smaller --count")
    if not np.ptp(samples, axis=0).any():
        raise DataError("the layer gives the same values everywhere on these images; no directions can be learned")
    model = library.PCA(n_components=count, svd_solver="covariance_eigh")
    model.fit(samples)
    weights = np.asarray(model.components_, np.float64)
    return weights, -weights @ model.mean_, float(model.explained_variance_ratio_.sum())


def with_named_directions(network: Network, layers: Sequence[str], learn: Learn | None = None) -> Network:
    """Return a network with the directions that names of layers ask for.

    Args:
        network: a captured network.
        layers: names: LAYER[FILE], where FILE is .npy or .npz, or LAYER[KIND:COUNT], such as features.7[nmf:10], for
            directions that are learned now. Names without brackets are left to others.
        learn: learns directions from a layer, a kind and a count; None where there are no images to learn from.

    Raises:
        LayerNotFound: a layer does not exist.
        DataError: a file cannot be read, or directions are to be learned and there are no images.
        MismatchError: directions were learned at another layer, or in another network.
        CaptureError: a matrix does not fit its layer.
    """
    out = network
    for name in dict.fromkeys(layers):
        asked = parsed(name)
        if asked is None or name in out.layers:
            continue
        layer, source = asked
        network.layer(layer)
        kind, _, count = source.rpartition(":")
        if kind in DIRECTIONS and count.isdecimal():
            if learn is None:
                raise DataError(
                    f"{name} has to be learned from images, which `deconvviz mine` does; elsewhere, give a file that "
                    f"`deconvviz directions` wrote: '{layer}[FILE.npz]'"
                )
            directions = learn(layer, kind, int(count))
        else:
            directions = _from_file(name, layer, source)
        require_fitting(directions, source, network, layer)
        about = {"kind": directions.kind, **directions.about}
        out = with_directions(out, layer, directions.weights, directions.bias, name, about)
    return out


def _from_file(name: str, layer: str, source: str) -> Directions:
    if not pathlib.Path(source).is_file():
        learned = " or ".join(f"{kind}:COUNT" for kind in DIRECTIONS)
        raise DataError(
            f"{name} given, and there is no file {source}; between the brackets stands a file that `deconvviz "
            f"directions` wrote, .npz, or your own matrix, .npy; `deconvviz mine` also takes {learned}, such as "
            f"'{layer}[nmf:10]'"
        )
    return Directions.load(source)


def require_fitting(directions: Directions, source: str, network: Network, layer: str) -> None:
    """Raise MismatchError where directions were learned at another layer, or in another network.

    Args:
        directions: from `source`; a plain matrix fits any network and layer.
        source: path of their file, for the message.
        network: the captured network in which they are to be read.
        layer: name of the layer that they are to read.
    """
    if directions.layer not in ("", layer):
        raise MismatchError(f"{source} holds directions of layer {directions.layer!r}; {layer!r} given")
    if directions.about.get("model_fingerprint", network.fingerprint) != network.fingerprint:
        raise MismatchError(f"{source} was learned in another network or with other weights; learn them anew")
