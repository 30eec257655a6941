"""The networks that `deconvviz ensemble` is given: what is typed, what is opened, and what each is called."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from deconvviz.cli.inputs import OpenedModel, open_model, output_names
from deconvviz.cli.options import ModelOptions
from deconvviz.cli.outputs import sources
from deconvviz.errors import DataError, ModelError

if TYPE_CHECKING:
    from deconvviz.data.datasets import Images
    from deconvviz.studies.ensembles.passes import Member

# A source or a Python file, the model's name (perhaps on a drive), and what comes after the next colon.
MEMBER = re.compile(r"((?:torchvision|timm|hf):|.*?\.py:)?((?:[A-Za-z]:[\\/])?[^:]*)(?::(.*))?", re.DOTALL)


class OpenedMembers(NamedTuple):
    """Networks that were opened.

    Attributes:
        members: the networks, each with a name of its own.
        named: for each network the names of its outputs; empty where they are unknown.
        origins: for each network where model and weights came from.
    """

    members: list[Member]
    named: list[tuple[str, ...]]
    origins: list[dict[str, str]]


def member_of(text: str) -> tuple[str, str]:
    """Return the model and the weights of MODEL[:WEIGHTS]; "DEFAULT" where none are given.

    Raises:
        DataError: no model is named, or nothing comes after the colon.

    >>> member_of("torchvision:resnet18"), member_of("timm:resnet18:a.pth"), member_of("zfnet:none")
    (('torchvision:resnet18', 'DEFAULT'), ('timm:resnet18', 'a.pth'), ('zfnet', 'none'))
    >>> member_of("nets/mine.py:make:runs/a.pth"), member_of("nets/mine.py:make")
    (('nets/mine.py:make', 'runs/a.pth'), ('nets/mine.py:make', 'DEFAULT'))
    """
    match = MEMBER.fullmatch(text)
    source, model, weights = match.groups() if match else ("", "", None)
    if not model or weights == "":
        raise DataError(f"{text!r} given; expected MODEL or MODEL:WEIGHTS, such as zfnet:weights.pth")
    return f"{source or ''}{model}", weights or "DEFAULT"


def opened(models: tuple[str, ...], images: Images, device: str, names: str | None) -> OpenedMembers:
    """Open networks, in their order.

    Args:
        models: MODEL[:WEIGHTS] each.
        images: whose classes may give the names of outputs.
        device: that computes.
        names: path of a file with the names of outputs, or None.

    Raises:
        DataError: no model is named, or nothing comes after a colon.
        ModelError: a model or its weights cannot be loaded, or its scores are NaN.
    """
    from deconvviz.studies.ensembles.passes import Member

    members: list[Member] = []
    named: list[tuple[str, ...]] = []
    origins: list[dict[str, str]] = []
    for text in models:
        model, weights = member_of(text)
        own = open_model(model, _options(weights, device))
        _require_decisions(own, text)
        named.append(output_names(own.loaded, names, own.network, images))
        members.append(Member(own.name, *own[:2]))
        origins.append({key: value for key, value in sources(own.loaded).items() if key != "command"})
    called = told_apart([each.name for each in members], [each["weights"] for each in origins])
    members = [each._replace(name=name) for each, name in zip(members, called, strict=True)]
    return OpenedMembers(members, named, origins)


def _require_decisions(own: OpenedModel, text: str) -> None:
    """Raise ModelError, with the member as it was typed, where its scores are NaN: others may be of the same class."""
    try:
        _ = own.network.readout
    except ModelError as error:
        raise ModelError(f"{text}: {error}") from error


def _options(weights: str, device: str) -> ModelOptions:
    return ModelOptions(
        resize=None,
        side=None,
        mean=None,
        std=None,
        limits=None,
        shown=None,
        weights=weights,
        device=device,
        outputs="auto",
        part=None,
    )


def told_apart(names: list[str], weights: list[str]) -> list[str]:
    """Return what networks are called: those of one name by their weights too, and numbered where these are the same.

    >>> told_apart(["ZFNet", "ZFNet", "resnet18"], ["runs/seed0.pth", "runs/seed1.pth", "DEFAULT"])
    ['ZFNet seed0', 'ZFNet seed1', 'resnet18']
    >>> told_apart(["ZFNet", "ZFNet"], ["DEFAULT", "DEFAULT"])
    ['ZFNet', 'ZFNet (2)']
    """
    stems = ["" if file in ("DEFAULT", "none") else re.split(r"[/\\\\]", file)[-1] for file in weights]
    stems = [stem.rpartition(".")[0] or stem for stem in stems]
    longer = [
        f"{name} {stem}".strip() if names.count(name) > 1 else name for name, stem in zip(names, stems, strict=True)
    ]
    return [
        name if name not in longer[:place] else f"{name} ({longer[: place + 1].count(name)})"
        for place, name in enumerate(longer)
    ]
