"""Figures of attacks, by the functions that the commands draw with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from deconvviz.errors import DataError
from deconvviz.figures.page import Page
from deconvviz.studies.attack import figure as attacking
from deconvviz.studies.attack import maps_figure
from deconvviz.studies.attack.result import AttackStudy

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
    'accuracy (%)'
    """
    by_name = studies if isinstance(studies, Mapping) else {studies.config["method"]: studies}
    if not by_name:
        raise DataError("no study given; expected at least one")
    return attacking.draw_robustness(by_name, title, caption, page=Page(**page))


def _require_pictures(study: AttackStudy) -> None:
    if not study.complete:
        raise DataError(f"{study.done} of {study.total} images are attacked; run the same attack again, it resumes")
    if not len(study.shown):
        raise DataError("the changes of no image are kept; attack with another --keep")
