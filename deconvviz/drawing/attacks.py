"""Figures of attacks, by the functions that the commands draw with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from deconvviz.errors import DataError, require_choice
from deconvviz.figures.page import Page
from deconvviz.metrics.movement import MOVES
from deconvviz.studies.attack import figure as attacking
from deconvviz.studies.attack import maps_figure
from deconvviz.studies.attack.result import AttackStudy
from deconvviz.studies.evaluation import under_attack_figure as moving
from deconvviz.studies.evaluation.under_attack_result import SHOWN_MOVE, MapsUnderAttack

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from typing_extensions import Unpack

    from deconvviz.figures.page import PageKeywords


def draw_attack(
    study: AttackStudy, epsilon: int = -1, title: str = "", caption: str = "", **page: Unpack[PageKeywords]
) -> Figure:
    """Draw some attacked images: as they were, attacked, the change, and which pixels are changed, or maps.

    Of a study with maps, the maps of each interpreter are drawn before the attack, after it, and after an attack that
    does not care for maps.

    Args:
        study: what `dv.attack` returns, or `dv.AttackStudy.load`.
        epsilon: which of the study's epsilons, by its index; by default the largest.
        title: text above.
        caption: text below.
        page: `width` in inches and `dpi` of `Page`, which say how the figure is laid out.

    Raises:
        DataError: the changes of no image are kept, or the study is unfinished.

    >>> import torch
    >>> import deconvviz as dv
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 3)).eval()
    >>> about = {"preprocess": dv.Preprocess(resize=16, crop=16), "away_from": "top", "progress": False}
    >>> study = dv.attack(dv.capture(model, (3, 16, 16)), dv.Scenes(2), "fgsm", **about)
    >>> len(dv.draw_attack(study).axes)  # two rows of three pictures, and a colour bar
    7
    """
    _require_pictures(study)
    if study.maps is not None:
        return maps_figure.draw_fooled(study, epsilon, title, caption, page=Page(**page))
    return attacking.draw_attack(study, epsilon, title, caption, page=Page(**page))


def draw_robustness(
    studies: AttackStudy | Mapping[str, AttackStudy],
    title: str = "",
    caption: str = "",
    **page: Unpack[PageKeywords],
) -> Figure:
    """Draw how accuracy falls, and how many images fool the network, as pixels may go farther.

    Args:
        studies: what `dv.attack` returns, with several epsilons; or several of them, by what the legend says.
        title: text above.
        caption: text below.
        page: `width` in inches and `dpi` of `Page`, which say how the figure is laid out.

    Raises:
        DataError: there is no study.

    >>> import torch
    >>> import deconvviz as dv
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 3)).eval()
    >>> about = {"preprocess": dv.Preprocess(resize=16, crop=16), "away_from": "top", "progress": False}
    >>> network = dv.capture(model, (3, 16, 16))
    >>> study = dv.attack(network, dv.Scenes(2), "fgsm", epsilons=[0, 0.01], **about)
    >>> [axes.get_ylabel() for axes in dv.draw_robustness({"FGSM": study}).axes][0]
    'same decision (%)'
    """
    by_name = studies if isinstance(studies, Mapping) else {studies.config["method"]: studies}
    if not by_name:
        raise DataError("no study given; expected at least one")
    return attacking.draw_robustness(by_name, title, caption, page=Page(**page))


def draw_maps_under_attack(
    found: MapsUnderAttack, measure: str = SHOWN_MOVE, title: str = "", caption: str = "", **page: Unpack[PageKeywords]
) -> Figure:
    """Draw how far each method's maps move under each attack and under noise of the same size, and some of the maps.

    Args:
        found: what `dv.maps_under_attack` returns, or `dv.MapsUnderAttack.load`.
        measure: "ssim", "pearson", "spearman", "l1" or "top_15"; see `metrics.moves`.
        title: text above.
        caption: text below.
        page: `width` in inches and `dpi` of `Page`, which say how the figure is laid out.

    Raises:
        DataError: there is no such measure, or no image is measured yet.

    >>> import torch
    >>> import deconvviz as dv
    >>> maps = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5, 4), torch.nn.ReLU())
    >>> head = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 3))
    >>> network = dv.capture(torch.nn.Sequential(maps, head).eval(), (3, 32, 32))
    >>> about = {"preprocess": dv.Preprocess(resize=32, crop=32), "progress": False}
    >>> study = dv.attack(network, dv.Scenes(2), "fgsm", away_from="top", **about)
    >>> found = dv.maps_under_attack(network, dv.Scenes(2), ["grad-cam"], {"fgsm": study}, ["0"], **about)
    >>> len(dv.draw_maps_under_attack(found).axes)  # two tables with their colour bars, two images with a map twice
    12
    """
    require_choice("measure", measure, MOVES)
    if not any(found.measured(attack, method).any() for attack in found.attacks for method in found.methods):
        raise DataError("no image is measured yet; run the same measurement again, it resumes")
    return moving.draw_maps_under_attack(found, measure, title, caption, page=Page(**page))


def _require_pictures(study: AttackStudy) -> None:
    if not study.complete:
        raise DataError(f"{study.done} of {study.total} images are attacked; run the same attack again, it resumes")
    if not len(study.shown):
        raise DataError("the changes of no image are kept; attack with another --keep")
