"""The maps of attacked images: what an attack on explanations aims at, and how alike maps are before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from deconvviz.cam import explain  # noqa: F401, the methods register
from deconvviz.cam.catalogue import OF_LAYERS
from deconvviz.cam.registry import METHODS
from deconvviz.cam.shaping import resized
from deconvviz.graph.choose import last_maps
from deconvviz.graph.network import Network
from deconvviz.metrics.movement import overlap, strongest
from deconvviz.metrics.sanity import WINDOW, ssim
from deconvviz.studies.attack.attacks import ATTACKS, FOOLERS
from deconvviz.studies.attack.edges import THRESHOLD, edge_weights
from deconvviz.studies.attack.fooled import FooledMaps
from deconvviz.studies.attack.fooling import Fooling, maps_of, runner_up, towards
from deconvviz.studies.attack.interpreters import INTERPRETERS
from deconvviz.studies.attack.interpreters.base import Explained
from deconvviz.studies.attack.options import AttackOptions
from deconvviz.studies.attack.pixels import PixelNetwork
from deconvviz.studies.attack.victims import Victims
from deconvviz.types import Floats, Ints

STRONGEST = 0.1  # share of the pixels of a map whose overlap is measured


def default_layer(network: Network, fools: Sequence[str], agreement: Sequence[str]) -> str | None:
    """Return the layer that interpreters and methods read where none is named: the last with rows and columns.

    Args:
        network: captured.
        fools: names of interpreters.
        agreement: names of explanation methods.

    Returns:
        Its name; None where none of them reads a layer that the user names.

    >>> import deconvviz as dv
    >>> layers = torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 2)
    >>> network = dv.capture(torch.nn.Sequential(*layers).eval(), (3, 8, 8))
    >>> default_layer(network, ["cam"], []), default_layer(network, ["gradient"], ["rise", "gradient"])
    ('1', None)
    """
    read = "cam" in fools or any(METHODS[name].needs in OF_LAYERS for name in agreement)
    return last_maps(network) if read else None


class Aims(NamedTuple):
    """What an attack on explanations aims at, of the images of a batch.

    Attributes:
        classes: int64 [N], the class that each shall have.
        maps: interpreter -> maps [N, h, w] of the unchanged images, for the class that the network finds in them.
    """

    classes: Tensor
    maps: Mapping[str, Tensor]


class Explaining:
    """The interpreters whose maps an attack is after, and the attack on them.

    Attributes:
        network: takes pixels in 0..1.
        how: what is attacked and how.
        interpreters: by name.
    """

    def __init__(self, network: PixelNetwork, how: AttackOptions) -> None:
        """Make the interpreters; raises their errors where a layer or an explainer is missing."""
        self.network, self.how = network, how
        about = Explained(network=network, layer=how.layer, explainer=how.explainer)
        self.interpreters = {name: INTERPRETERS[name](about) for name in how.fools}

    def aims(self, x: Tensor, scores: Tensor, own: Tensor) -> Aims:
        """Return what is aimed at: the target, or the runner-up without one; the class before for maps alone."""
        before = scores.argmax(1)
        classes = before
        if self.how.goal != "explanation":
            target = self.how.target
            classes = runner_up(scores, own) if target is None else torch.full_like(own, target)
        return Aims(classes, self._maps(x, before))

    def changed(self, victims: Victims, aims: Aims, options: Mapping[str, object], method: str) -> Tensor:
        """Return the images that an attack on explanations makes of those of a batch."""
        alone = self.how.goal == "explanation"
        where = self.how.towards
        fooling = Fooling(
            victims=replace(victims, targets=aims.classes, already=torch.zeros_like(victims.already)),
            interpreters=self.interpreters,
            wanted={name: towards(maps, where) if alone else maps for name, maps in aims.maps.items()},
            sign=-1 if alone and where == "away" else 1,
            moves_decision=not alone,
            edges=self.how.edges,
            both_stages=self.how.edge_stages == "both",
        )
        return FOOLERS[method](fooling, **options)

    def plain(self, victims: Victims, aims: Aims) -> Tensor:
        """Return images of an attack that does not care for maps: PGD towards the same class, or uniform noise.

        Where the epsilon is larger than that of PGD by default, it is that.
        """
        epsilon = min(victims.epsilon, ATTACKS["pgd"].epsilon)
        alike = replace(victims, targets=aims.classes, epsilon=epsilon)
        if self.how.goal == "both":
            alike = replace(alike, already=alike.fooled(victims.x))
            return ATTACKS["pgd"](alike, start="image")
        return alike.ball.nearest(victims.x + epsilon * victims.noise)

    def maps(self, x: Tensor, classes: Tensor) -> Tensor:
        """Return the maps of images for classes int64 [N], float16 [N, I, H, W], at the images' size."""
        return self.sized(self._maps(x, classes), x)

    def _maps(self, x: Tensor, classes: Tensor) -> dict[str, Tensor]:
        return {name: maps_of(self.network, each, x, classes) for name, each in self.interpreters.items()}

    def sized(self, maps: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Return maps at the size of the images, float16 [N, I, H, W]."""
        size = (x.shape[-2], x.shape[-1])
        return torch.stack([resized(each, size).clamp(0, 1).half() for each in maps.values()], 1)


def flat_energy(x: Tensor, changed: Tensor) -> Tensor:
    """Return the share of the squared change that is where the edge's weight is below 0.1, [N]; 0 of no change."""
    energy = (changed - x).square().sum(1, keepdim=True)
    flat = (energy * (edge_weights(x) < THRESHOLD)).flatten(1).sum(1)
    return flat / energy.flatten(1).sum(1).clamp(min=torch.finfo(x.dtype).tiny)


def similarities(maps: Tensor, others: Tensor) -> Floats:
    """Return how alike maps are, float64 [4, N]: L1, L2, IoU and SSIM.

    L1 is the mean absolute difference and L2 the root of the mean square, 0 of equal maps. IoU is the overlap of the
    strongest tenth of the pixels of each map, of equal pixels the first; it and SSIM are 1 of equal maps. SSIM is that
    of `metrics.ssim`; it is 0 where a map is the same everywhere, or smaller than 11 x 11.

    Args:
        maps: floating [N, H, W] in 0..1.
        others: the same.

    >>> map_ = torch.linspace(0, 1, 144).reshape(1, 12, 12)
    >>> similarities(map_, map_.flip(1)).round(2)[:, 0].tolist()
    [0.5, 0.58, 0.0, -0.92]
    """
    first, second = (each.double().cpu() for each in (maps, others))
    difference = first - second
    shared = overlap(strongest(first, STRONGEST), strongest(second, STRONGEST))
    small = min(first.shape[-2:]) < WINDOW
    structural = torch.zeros_like(shared) if small else ssim(first, second)
    sizes = difference.abs().mean((1, 2)), difference.square().mean((1, 2)).sqrt()
    return torch.stack([*sizes, shared, structural]).numpy()


def with_maps(part: FooledMaps, found: Mapping[str, Tensor], images: slice, kept: Ints, rows: Ints) -> FooledMaps:
    """Return the maps of a study with those of further images; large arrays change in place, nobody else has them.

    Args:
        part: so far.
        found: what was found of the images: "maps_before" [n, I, H, W]; "maps_after", "maps_plain" [E, n, I, H, W]; and
            the arrays of `FooledMaps` that have an axis of images.
        images: their places in the study.
        kept: the places of the maps that are kept, among those that are.
        rows: the same, among these images.
    """
    before, after, plain = (found[f"maps_{name}"] for name in ("before", "after", "plain"))
    part.before[:, kept] = before[rows].transpose(0, 1).cpu().numpy()
    for mine, theirs in ((part.after, after), (part.plain, plain)):
        mine[:, :, kept] = theirs[:, rows].transpose(1, 2).cpu().numpy()
    arrays = {name: getattr(part, name).copy() for name in ("plain_after", "flat_energy", "plain_flat_energy")}
    for name, array in arrays.items():
        array[:, images] = found[name].cpu().numpy()
    similar: dict[str, Floats] = {}
    for name, others in (("similarity", after), ("plain_similarity", plain)):
        similar[name] = getattr(part, name).copy()
        for epsilon, number in np.ndindex(similar[name].shape[:2]):
            similar[name][epsilon, number, :, images] = similarities(others[epsilon, :, number], before[:, number])
    changed: dict[str, Any] = {**arrays, **similar}
    return replace(part, **changed)
