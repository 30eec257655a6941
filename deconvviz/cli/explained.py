"""What `deconvviz cam` explains and what comes out: a network, captured or with hooks, and maps for each image."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from deconvviz.cam.catalogue import OF_LAYERS
from deconvviz.cli.decisions import MEASURES, Question
from deconvviz.cli.inputs import folder_and_name, load, output_names
from deconvviz.cli.notes import no_layer_named
from deconvviz.errors import CamError, CaptureError, InputRefused, TargetError
from deconvviz.progress import write_line
from deconvviz.words import network_called

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from deconvviz.cam.explain import Explainer
    from deconvviz.cli.explaining import MethodOptions
    from deconvviz.cli.options import ModelOptions
    from deconvviz.data.preprocess import Preprocess
    from deconvviz.graph.calling import Call
    from deconvviz.graph.network import Network
    from deconvviz.models.load import LoadedModel
    from deconvviz.run.options import RunOptions
    from deconvviz.types import Picture


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model as `cam` works with it.

    Attributes:
        network: captured, or the module itself where it cannot be.
        preprocess: how an image becomes its input.
        loaded: the module, the names of its outputs, and where it came from.
        device: where it computes.
        dtype: in which it computes.
        call: how the module takes images, where it is not captured.
        whole: the network with its own outputs, where `network` ends at a layer.
    """

    network: Network | torch.nn.Module
    preprocess: Preprocess
    loaded: LoadedModel
    device: torch.device
    dtype: torch.dtype
    call: Call | None = None
    whole: Network | None = None

    @property
    def captured(self) -> Network | None:
        """The network where it is captured, else None."""
        from deconvviz.graph.network import Network

        return self.network if isinstance(self.network, Network) else None

    @property
    def name(self) -> str:
        """What figures call the network."""
        return network_called(self.loaded.spec, type(self.loaded.model).__name__)

    def names(self, file: str | None) -> tuple[str, ...]:
        """Return the names of the classes: of a file, of the model's own, or assumed; empty where they are unknown."""
        if self.captured is not None:
            return output_names(self.loaded, file, self.captured)
        from deconvviz.models.labels import read_classes

        return self.loaded.classes if file is None else read_classes(file)

    def input_of(self, picture: Picture) -> torch.Tensor:
        """Return the network's input, [1, C, H, W], of a picture that is resized and cropped."""
        return self.preprocess.tensor(picture[None], self.device, self.dtype)

    def output_of(self, photo: Picture) -> Any:
        """Return what the network returns for a photo."""
        import torch

        from deconvviz.graph.calling import called

        x = self.input_of(self.preprocess.picture(photo))
        with torch.no_grad():
            return self.captured(x) if self.captured is not None else called(self.loaded.model, x, self.call)

    def embedding(self, layer: str) -> str | None:
        """Return the layer whose value is the embedding, None for the output, and say which it is.

        Args:
            layer: as it was typed: "" for the last before the classifier, "output" for what the network returns.

        Raises:
            TargetError: a layer is named, and the network is not captured.
        """
        if self.captured is None:
            if layer not in ("", "output"):
                raise TargetError(f"embedding at {layer!r} given; {self.name} is not captured, and has its output only")
            return None
        from deconvviz.graph.ending import embedding_layer

        layer_name = None if layer == "output" else layer or embedding_layer(self.captured)
        if not layer:
            place = (
                f"at {layer_name}, the last layer before the classifier" if layer_name else "what the network returns"
            )
            click.echo(f"note: the embedding is that {place}: similarity:OTHER.jpg@LAYER takes another", err=True)
        return layer_name

    def ending_at(self, layer: str | None) -> Subject:
        """Return the subject whose network ends at a layer; itself where that is None."""
        if layer is None or self.captured is None:
            return self
        from deconvviz.graph.ending import ending_at

        return dataclasses.replace(self, network=ending_at(self.captured, layer), whole=self.captured)


def open_subject(model: str, options: ModelOptions, layers: Sequence[str], call: str | None) -> Subject:
    """Load a model and capture it; one that cannot be captured is taken as it is, and a note says why.

    Args:
        model: its name.
        options: weights, device and preprocessing.
        layers: names of layers that are explained; those of the form LAYER[FILE] are added.
        call: FILE.py:FUNCTION that gives the model its inputs, "list", or None.

    Raises:
        ModelError, DataError: the model, its weights or the function cannot be loaded.
        CaptureError: the device cannot be used.
    """
    from deconvviz.models.python_files import call_from
    from deconvviz.run.opening import captured, device_of

    loaded, preprocess = load(model, options)
    device, function = device_of(options.device), call_from(call)
    try:
        network = captured(loaded, preprocess, options.device, options.outputs, function)
    except InputRefused:
        raise
    except CaptureError as error:
        click.echo(f"note: hooks make the maps, by whole passes: {error}", err=True)
        return _hooked(loaded, preprocess, device, function)
    if any("[" in layer for layer in layers):
        from deconvviz.run.directions import with_named_directions

        network = with_named_directions(network, layers, None)
    return Subject(network, preprocess, loaded, network.device, network.dtype, function)


def _hooked(loaded: LoadedModel, preprocess: Preprocess, device: torch.device, call: Call | None) -> Subject:
    import torch

    module = loaded.model.to(device)
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    return Subject(module, preprocess, loaded, device, dtype, call)


def make_explainers(
    methods: Sequence[str], subject: Subject, how: MethodOptions, run: RunOptions, convention: str, example: Picture
) -> list[Explainer]:
    """Return an explainer for each method; a note says which layer is taken where none is named.

    Args:
        methods: their names.
        subject: what is explained.
        how: layers and options of the methods.
        run: batch size, precision and seed.
        convention: the order in which maps are finished.
        example: a picture, resized and cropped.

    Raises:
        CamError: no layer is named, and the network is not captured.
        DeconvvizError: a layer or an option does not exist.
    """
    from deconvviz.cam.explain import cam
    from deconvviz.cam.registry import METHODS
    from deconvviz.graph.choose import last_maps

    options_by_method = how.by_method(methods)
    layers: Sequence[str] = how.layers
    of_layers = [method for method in methods if METHODS[method].needs in OF_LAYERS]
    if not layers and of_layers and subject.captured is None:
        raise CamError(_choices(of_layers[0], subject, example))
    if not layers and of_layers and subject.whole is not None:
        layers = [last_maps(subject.whole)]
    explainers = [
        cam(
            method,
            subject.network,
            METHODS[method].layers_for(layers),
            convention=convention,
            batch_size=run.images_at_once(subject.device),
            precision=run.precision,
            seed=run.seed,
            call=subject.call,
            preprocess=subject.preprocess,
            **options_by_method[method],
        )
        for method in methods
    ]
    chosen_here = [explainer for explainer in explainers if explainer.method.needs != "trained"]  # a file names its own
    if not how.layers and (place := place_of(chosen_here)):
        click.echo(no_layer_named(place), err=True)
    return explainers


def _choices(method: str, subject: Subject, example: Picture) -> str:
    """Return that a layer has to be named, and the last one of each size of maps."""
    from deconvviz.cam.hooks import HookedModel

    layers = HookedModel(subject.loaded.model, subject.call).last_of_each_size(subject.input_of(example))
    listed = ", ".join(f"{name} ({height} x {width})" for name, (height, width) in layers.items())
    return f"{method} explains a layer, and {subject.name} is not captured; name one with -l, such as {listed}"


def place_of(explainers: Sequence[Explainer]) -> str:
    """Return where maps are made, for a title: " at " and the layers, or nothing where no method explains a layer."""
    layers = [layer for each in explainers if each.method.needs not in ("image",) for layer in each.layers]
    return f" at {', '.join(dict.fromkeys(layers))}" if layers else ""


class ExplainedImage(NamedTuple):
    """The maps of one image and one target, cut to the part of the picture that shows the image.

    Attributes:
        name: of the image: its folder, and its name.
        picture: what the network received, in its own colours, [h, w, C].
        maps: a map for each method, float32 [h, w] in 0..1; signed ones are in -1..1.
        words: what is explained.
        measure: what is measured, and its value.
        box: left, top, right and bottom of the box that is explained, in pixels of the picture; None for others.
        size: height and width of the network's input.
    """

    name: str
    picture: Picture
    maps: list[NDArray[np.float32]]
    words: str
    measure: str
    box: tuple[float, float, float, float] | None
    size: tuple[int, int]


def explain_image(
    photo: Picture,
    path: str,
    question: Question,
    subject: Subject,
    explainers: Sequence[Explainer],
    signed: bool,
) -> ExplainedImage:
    """Explain one image.

    Args:
        photo: as it was read, [H, W, C].
        path: of its file.
        question: what is asked.
        subject: the network.
        explainers: the methods.
        signed: whether maps keep their sign.

    A map that is the same everywhere is told of by the name of its image's file.
    """
    from deconvviz.cam.explain import constant_maps_allowed
    from deconvviz.data.placement import placement_of
    from deconvviz.types import Box

    preprocess = subject.preprocess
    size, picture = (photo.shape[0], photo.shape[1]), preprocess.picture(photo)
    seen_size, placement = (picture.shape[0], picture.shape[1]), placement_of(preprocess, *size)
    target = question.of_image(path, size, placement, seen_size)
    x = subject.input_of(picture)
    with constant_maps_allowed():
        maps = [_map(explainer, x, target, signed) for explainer in explainers]
    for explainer, map_ in zip(explainers, maps, strict=True):
        if map_.min() == map_.max():
            write_line(f"warning: {explainer.method.name} gave a constant map for {path}; it shows nothing")
    first = explainers[0]
    assert first.scores is not None
    contained = preprocess.fit == "contain"
    window = placement.seen(*seen_size) if contained else Box(0, 0, *seen_size)
    box = getattr(target, "box", None)
    return ExplainedImage(
        folder_and_name(path),
        window.of(preprocess.display(picture)),
        [window.of(map_) for map_ in maps],
        _words(first, target, question.names),
        f"{MEASURES[question.kind][0]} {float(first.scores[0]):.2f}",
        None if box is None else tuple(v - o for v, o in zip(box, (window.left, window.top) * 2, strict=True)),
        seen_size,
    )


def _words(explainer: Explainer, target: Any, names: Sequence[str]) -> str:
    from deconvviz.models.labels import class_label

    if explainer.classes is None:
        return str(target.words)
    number, network = int(explainer.classes[0]), explainer.logits
    has_class_names = network is not None and len(names) == network.shape[1]
    return names[number] if has_class_names else class_label(number)


def _map(explainer: Explainer, x: torch.Tensor, target: Any, signed: bool) -> NDArray[np.float32]:
    """Return the map of one image, float32 [H, W]."""
    from deconvviz.cam.shaping import signed_shares

    maps = signed_shares(explainer(x, target, raw=True), (x.shape[2], x.shape[3])) if signed else explainer(x, target)
    array: NDArray[np.float32] = maps[0].float().cpu().numpy()
    return array
