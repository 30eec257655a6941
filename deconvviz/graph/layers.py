"""The layer table: which node of the graph each module call returned, its shape, receptive field and parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor, fx

from deconvviz.errors import CamError
from deconvviz.graph import table  # noqa: F401, an import that fills the table
from deconvviz.graph.ops import UNKNOWN, op_name, op_of
from deconvviz.graph.reach import Geometry, Interval, Reach, axes_of, data_inputs, receptive_interval, shape_of


class ReceptiveField(NamedTuple):
    """The pixels of the input that one unit depends on, each as (rows, columns).

    The unit at map position a depends on the pixels `offset + a * stride` to `offset + a * stride + size - 1`, clipped
    to the image. A stride of 0 means that every unit depends on the same pixels.

    Attributes:
        size: number of pixels.
        stride: pixels between the fields of two neighbouring units.
        offset: first pixel of the field of unit (0, 0); negative where it begins in the padding.
    """

    size: tuple[int, int]
    stride: tuple[int, int]
    offset: tuple[int, int]


@dataclass(frozen=True)
class Layer:
    """A layer: a module call, or a functional op under the graph's own name.

    Attributes:
        name: module path; `name@1` for the second call of the same module.
        kind: the module's class, or the op.
        shape: of its value, without the batch axis.
        receptive_field: the pixels of the input that one of its units depends on.
        stride: input pixels between neighbouring units, (rows, columns).
        parameters: number of parameters of the module.
        node: the node of the graph that holds its value.
        where: of a functional op, the module in whose forward it stands and which of its kind it is there, such as
            "layer2.1, second relu"; "" of a module call.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    receptive_field: ReceptiveField
    stride: tuple[int, int]
    parameters: int
    node: fx.Node = field(repr=False, compare=False)
    where: str = ""

    @property
    def functional(self) -> bool:
        """Whether it is an op that no module call returned."""
        return not any(call == self.name for call, *_ in self.node.meta["modules"])

    @property
    def units(self) -> tuple[int, int, int]:
        """Number of channels, rows and columns: how its units are addressed."""
        shape, axis = shape_of(self.node), channel_axis(self.node)
        rest = [n for i, n in enumerate(shape) if i not in (0, axis)]
        rows, columns = [*rest, 1, 1][:2]
        return shape[axis], rows, columns

    def require_channels(self) -> None:
        """Raise CamError where its value has more axes than channels, rows and columns."""
        if len(self.shape) > 3:
            raise CamError(f"layer {self.name!r} has the shape {list(self.shape)}, without channels; choose another")


def annotate(graph: fx.Graph, image: fx.Node) -> None:
    """Note on each node whether it depends on the image ("data"), and its "geometry"."""
    for node in graph.nodes:
        node.meta["data"] = node is image or any(n.meta["data"] for n in node.all_input_nodes)
        if node is image:
            node.meta["geometry"] = Geometry((2, 3) if len(shape_of(node)) == 4 else None, ())
        elif node.meta["data"] and node.op == "call_function":
            node.meta["geometry"] = op_of(node).reach(node)
            if len(shape_of(node)) == 3:
                node.meta["channels"] = _channels_of_row(node)


def _channels_of_row(node: fx.Node) -> int:
    """Return which dimension of a value [N, a, b] counts its channels: 1 for [N, C, L], 2 for tokens [N, L, C].

    It is told by the op that made the value. Rows and columns that were flattened stand where the map had them,
    one-dimensional convolutions take channels first, and moving dimensions moves the channels too. Other ops leave
    them where their input has them; what comes from anything else is taken for tokens.
    """
    op, sources = op_of(node), data_inputs(node)
    if op.channels_first:
        return 1
    rows = [source for source in sources if len(shape_of(source)) == 3]
    if op.reshapes and sources and len(shape_of(sources[0])) == 4:
        axes = axes_of(sources[0])
        before = shape_of(sources[0])
        first = axes == (2, 3) and shape_of(node)[1:] == (before[1], before[2] * before[3])
        return 1 if first else 2
    if not rows:
        return _of_length(node, {shape_of(source)[1] for source in sources if len(shape_of(source)) == 4}) or 2
    channels: int = rows[0].meta["channels"]
    kept = shape_of(rows[0])
    if op is UNKNOWN and kept[1] != kept[2]:  # what it does to the dimensions is told by their lengths
        return _of_length(node, {kept[channels]}) or channels
    return op.reorders(node).index(channels) or 2 if op.reorders is not None else channels


def _of_length(node: fx.Node, lengths: set[int]) -> int | None:
    """Return which of the last two dimensions of a value alone has one of these lengths."""
    axes = [axis for axis in (1, 2) if shape_of(node)[axis] in lengths]
    return axes[0] if len(axes) == 1 else None


def layer_table(graph: fx.Graph, input_shape: tuple[int, ...], parameters: Mapping[str, int]) -> dict[str, Layer]:
    """Return every layer by name, in the order in which their values are computed."""
    image = (input_shape[-2], input_shape[-1]) if len(input_shape) == 3 else (1, 1)
    returned, places = _returned(graph), _places(graph)
    below: dict[fx.Node, Reach] = {}
    layers: dict[str, Layer] = {}
    for node in graph.nodes:
        if not node.meta["data"] or node.op == "output":
            continue
        if node.op == "placeholder":
            below[node] = (Interval(1, 0, 1), Interval(1, 0, 1))
            continue
        below[node] = receptive_interval(node, below, image)
        if not node.meta.get("batched") or -1 in shape_of(node)[1:] or len(shape_of(node)) < 2:
            continue
        calls = returned.get(node) or [(_free_name(node.name, parameters), "", op_name(node))]
        for name, path, kind in calls:
            rows, columns = below[node]
            seen = ReceptiveField((rows.size, columns.size), (rows.jump, columns.jump), (rows.low, columns.low))
            count, where = (parameters.get(path, 0), "") if path else (0, places[node])
            layers[name] = Layer(
                name, kind.rsplit(".", 1)[-1], shape_of(node)[1:], seen, seen.stride, count, node, where
            )
    return layers


def _places(graph: fx.Graph) -> dict[fx.Node, str]:
    """Return where each op stands: its module, and which op of its kind it is in that module's own forward."""
    alike: dict[tuple[str, str], list[fx.Node]] = {}
    for node in graph.nodes:
        if node.op == "call_function":
            calls = [name for name, *_ in node.meta.get("modules", ())]
            alike.setdefault((max(calls, key=len, default=""), op_name(node).rstrip("_")), []).append(node)
    return {
        node: f"{module or 'the network itself'}, {f'{ordinal(number)} ' if len(nodes) > 1 else ''}{kind}"
        for (module, kind), nodes in alike.items()
        for number, node in enumerate(nodes, 1)
    }


def ordinal(number: int) -> str:
    """Return which one in a row it is, in words up to the third.

    >>> ordinal(2), ordinal(11), ordinal(23)
    ('second', '11th', '23rd')
    """
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}{ending}")


def _free_name(name: str, parameters: Mapping[str, int]) -> str:
    """Return the graph's name of an op, changed where a module has the same name."""
    return f"{name}_op" if name in parameters else name


def _returned(graph: fx.Graph) -> dict[fx.Node, list[tuple[str, str, str]]]:
    """Map a node to the module calls that returned its value, the innermost first.

    A call returned the value that is used outside of it; where several values are (a tuple), the last of them.
    """
    members: dict[tuple[str, str, str], list[fx.Node]] = {}
    for node in graph.nodes:
        for call in node.meta.get("modules", ()):
            if node.op == "call_function" and call[0]:
                members.setdefault(call, []).append(node)
    calls_by_node: dict[fx.Node, list[tuple[str, str, str]]] = {}
    for call, nodes in members.items():
        inside = set(nodes)
        used_outside = [n for n in nodes if any(user not in inside and "reads" not in user.meta for user in n.users)]
        calls_by_node.setdefault((used_outside or nodes)[-1], []).append(call)
    return {node: sorted(calls, key=lambda call: -len(call[0])) for node, calls in calls_by_node.items()}


def channel_axis(node: fx.Node) -> int:
    """Return the dimension of a value that counts its channels: 1, or the last one of tokens and of [N, H, W, C].

    See `_channels_of_row` for values of three dimensions.
    """
    axes = axes_of(node)
    if axes is not None and len(shape_of(node)) == 4:
        return ({1, 2, 3} - set(axes)).pop()
    return int(node.meta.get("channels", 2)) if len(shape_of(node)) == 3 else 1


def as_maps(node: fx.Node, value: Tensor) -> Tensor:
    """View a value [N, ...] of `node` as maps [N, channels, rows, columns], without a copy."""
    value = value.movedim(channel_axis(node), 1)
    while value.dim() < 4:
        value = value.unsqueeze(-1)
    return value


def as_value(node: fx.Node, maps: Tensor) -> Tensor:
    """View maps as a value of `node`: the inverse of `as_maps`."""
    for _ in range(4 - len(shape_of(node))):
        maps = maps.squeeze(-1)
    return maps.movedim(1, channel_axis(node))


def text_table(layers: Mapping[str, Layer], modules_only: bool) -> str:
    """Return the layers as aligned columns of text."""
    head = (
        "layer",
        "kind",
        "shape",
        "sees (px)",
        "stride",
        "offset",
        "parameters",
        *([] if modules_only else ["where"]),
    )
    rows = [head]
    for layer in layers.values():
        if modules_only and layer.functional:
            continue
        field = layer.receptive_field
        cells = (_by(layer.shape), _by(field.size), _by(field.stride), f"{field.offset[0]},{field.offset[1]}")
        where = [] if modules_only else [layer.where]
        rows.append((layer.name, layer.kind, *cells, f"{layer.parameters:,}", *where))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _by(sizes: tuple[int, ...]) -> str:
    """Return sizes as text such as 96x54x54; a field whose stride is 0 has one number."""
    return str(sizes[0]) if len(set(sizes)) == 1 and len(sizes) == 2 and sizes[0] == 0 else "x".join(map(str, sizes))
