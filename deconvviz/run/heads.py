"""Where a new head belongs in a network: found by one forward pass, in any network whose modules are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from deconvviz.choices import HEADS
from deconvviz.errors import ModelError, require_choice
from deconvviz.graph.module_calls import ModuleCall, module_calls
from deconvviz.models.heads import Head, PooledMaps, is_last_layer

MOST_LINEAR = 4  # linear layers after the last maps of a convolutional network: VGG and ZFNet have three


def new_head(model: nn.Module, kind: str, classes: int, shape: Sequence[int], seed: int = 0) -> Head:
    """Give a network a new head for other classes, in place.

    "new" replaces the layer that gives the scores, a linear layer or a 1x1 convolution, by one with as many outputs as
    there are classes, and takes a rectifier away that follows it (SqueezeNet): new scores could not learn behind it.
    The others keep everything up to the last maps, those that the last convolution gives after the
    normalisation, addition and rectifier that follow it, and pool them: "gap" takes the mean of each map and one linear
    layer, which is CAM's own architecture; "max", "lse" and "wildcat" make maps of each class by a 1x1 convolution, and
    take the maximum, (1/10) log mean exp(10 s), or half of the mean of the highest half plus 0.6 times that of the
    lowest half of the mean of five maps. Modules that only came after the last maps are removed, and functions that
    follow the module of the last maps and are not modules themselves, such as DenseNet's last rectifier, are left out.
    A network that has a head that pools keeps its place; "new" makes its head anew.

    Args:
        model: the network, changed in place.
        kind: "new", "gap", "max", "lse" or "wildcat".
        classes: number of classes.
        shape: of an image, (channels, height, width).
        seed: of the new weights; see `Head.put_on`.

    Returns:
        What the head is and where, as `train` and files take it.

    Raises:
        ModelError: no layer gives the scores, or the network has no maps to pool.
        CaptureError: the network does not take such images.

    Source: Zhou et al. 2016, arXiv 1512.04150, for "gap"; Rony et al. 2023, arXiv 1909.03354, for the others.

    >>> import torch
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 2))
    >>> head = new_head(model, "gap", 5, (3, 8, 8))
    >>> head.layer, head.removed, model(torch.zeros(1, 3, 8, 8)).shape
    ('1', {'2': (288,), '3': (2,)}, torch.Size([1, 5]))
    """
    require_choice("head", kind, HEADS, ModelError)
    if isinstance(model, PooledMaps):
        before = model.pooled
        head = replace(before, kind=before.kind if kind == "new" else kind, classes=classes)
    else:
        calls = module_calls(model, shape)
        last = last_layer(model, calls)
        head = _new(model, calls, last, classes) if kind == "new" else _pooled(model, calls, last, kind, classes)
    head.put_on(model, seed)
    return head


def last_layer(model: nn.Module, calls: Sequence[ModuleCall]) -> ModuleCall | None:
    """Return the call of the layer that gives the scores [1, classes]; None where no layer's outputs are as many.

    Args:
        model: the network.
        calls: of its modules, see `module_calls`.
    """
    modules, output = dict(model.named_modules()), calls[-1].shape
    layers = [call for call in calls if is_last_layer(modules[call.name])]
    if not layers or output is None or len(output) != 2 or layers[-1].shape is None:
        return None
    shape = layers[-1].shape
    return layers[-1] if shape[1] == output[1] and len(shape) in (2, 4) else None


def _new(model: nn.Module, calls: Sequence[ModuleCall], last: ModuleCall | None, classes: int) -> Head:
    if last is None:
        shape = list(calls[-1].shape or ()) or "no tensor"
        raise ModelError(
            f"{type(model).__name__} returns {shape} for one image, and no linear layer or 1x1 convolution that gives "
            "it: a new last layer has no place; give a network that returns scores [1, classes], or --head gap"
        )
    layer = model.get_submodule(last.name)
    features = layer.in_channels if isinstance(layer, nn.Conv2d) else layer.in_features
    after = calls[calls.index(last) + 1]
    rectified = isinstance(model.get_submodule(after.name), nn.ReLU) and after.began == last.ended + 1
    rectifier = after.name if rectified else ""
    return Head(kind="new", classes=classes, layer=last.name, features=int(features), rectifier=rectifier)  # type: ignore[arg-type]


def _pooled(model: nn.Module, calls: Sequence[ModuleCall], last: ModuleCall | None, kind: str, classes: int) -> Head:
    before = calls if last is None else calls[: calls.index(last)]
    cut = _last_maps(model, before)
    removed = _only_after(model, calls, cut)
    linear = [m for name in removed for m in model.get_submodule(name).modules() if isinstance(m, nn.Linear)]
    if len(linear) > MOST_LINEAR:
        raise ModelError(
            f"{len(linear)} linear layers follow {cut.name!r}, the last maps of {type(model).__name__}: it does not "
            "end in convolutions, whose maps a head could pool; give --head new"
        )
    assert cut.shape is not None
    return Head(kind=kind, classes=classes, layer=cut.name, features=cut.shape[1], call=cut.number, removed=removed)


def _last_maps(model: nn.Module, calls: Sequence[ModuleCall]) -> ModuleCall:
    """Return the last call that returns maps of the size of the last convolution's: after what normalises them."""
    modules = dict(model.named_modules())
    convolutions = [call for call in calls if isinstance(modules[call.name], nn.Conv2d) and len(call.shape or ()) == 4]
    wide = [call for call in convolutions if _positions(call) > 1]
    if not wide:
        raise ModelError(f"{type(model).__name__} has no convolution whose maps a head could pool; give --head new")
    for call in convolutions[: convolutions.index(wide[-1]) : -1]:  # 1x1 ones read what is pooled already
        if max(modules[call.name].kernel_size) > 1:
            raise ModelError(
                f"the last convolution, {call.name!r}, gives maps of one position for images of this size: there is "
                "nothing to pool; give a larger --input, or --head new"
            )
    size = wide[-1].shape[2:]  # type: ignore[index]
    return [call for call in calls if call.name and len(call.shape or ()) == 4 and call.shape[2:] == size][-1]  # type: ignore[index]


def _positions(call: ModuleCall) -> int:
    assert call.shape is not None
    return call.shape[2] * call.shape[3]


def _only_after(model: nn.Module, calls: Sequence[ModuleCall], cut: ModuleCall) -> dict[str, tuple[int, ...]]:
    """Return the modules that are called only after a call has ended, the topmost ones, and what shape they return.

    A module that returns no tensor of the image, or tensors of several shapes, is not one of them.
    """
    of_module: dict[str, list[ModuleCall]] = {}
    for call in calls:
        of_module.setdefault(call.name, []).append(call)
    removed: dict[str, tuple[int, ...]] = {}

    waiting = _children("", model)
    while waiting:
        name, module = waiting.pop()
        own = of_module.get(name, [])
        inner = [call for each, _ in module.named_modules(prefix=name) for call in of_module.get(each, [])]
        shapes = {call.shape for call in own}
        shape = shapes.pop() if len(shapes) == 1 else None
        if shape and shape[0] == 1 and all(call.began > cut.ended for call in inner):
            removed[name] = shape[1:]
        elif not own or any(call.ended > cut.ended for call in own):
            waiting += _children(name, module)
    return removed


def _children(name: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the full names of a module's children, and the children, the last one first."""
    return [(f"{name}.{part}".lstrip("."), child) for part, child in module.named_children()][::-1]
