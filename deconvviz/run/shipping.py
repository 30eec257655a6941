"""Places: files and folders that the nodes of a cluster need, found there by path, or sent to them."""

from __future__ import annotations

import os
import pathlib
import re
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from deconvviz.data.datasets import Images, Store, open_images, open_store
from deconvviz.data.gpu_decoding import PREFIX
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import DataError
from deconvviz.models.load import LoadedModel, load_model
from deconvviz.models.parts import split_part
from deconvviz.run.opening import captured

if TYPE_CHECKING:
    from deconvviz.graph.network import Network

IN_A_FILE = re.compile(r"(?P<path>.+\.py):(?P<factory>\w+(#[\w.]+)?)")


@dataclass(frozen=True)
class Part:
    """One file that is sent.

    Attributes:
        name: its path relative to the place; "" where the place is the file itself.
        digest: SHA-256 of its content, in hex.
        content: a reference to its bytes in Ray's object store.
    """

    name: str
    digest: str
    content: Any


@dataclass(frozen=True)
class Place:
    """A file, or a folder with its files.

    Attributes:
        path: absolute path, on the machine that began the job.
        pattern: which files of a folder belong to it.
        parts: the files, where they are sent; None where every node has them at the same path.
    """

    path: str
    pattern: str = "*"
    parts: tuple[Part, ...] | None = None

    @classmethod
    def of(cls, path: str | os.PathLike[str], pattern: str = "*") -> Place:
        """Return the place at a path."""
        return cls(os.path.abspath(path), pattern)  # noqa: PTH100, links are kept: a node may have others

    def shipped(self, put: Callable[[Any], Any]) -> Place:
        """Return the place with its files, each put in the object store by `put`; DataError where there is none."""
        root = pathlib.Path(self.path)
        files = [root] if root.is_file() else sorted(file for file in root.rglob(self.pattern) if file.is_file())
        if not files:
            raise DataError(f"nothing to ship at {root}; give a file, or a folder with files")
        parts = []
        for file in files:
            content = file.read_bytes()
            name = "" if file == root else file.relative_to(root).as_posix()
            parts.append(Part(name, sha256(content).hexdigest(), put(content)))
        return replace(self, parts=tuple(parts))

    def here(self) -> str:
        """Return the path of the place on this node.

        Raises:
            DataError: the node does not have it.
        """
        if self.parts is None:
            if not os.path.exists(self.path):  # noqa: PTH110
                raise DataError(
                    f"node {socket.gethostname()} has no {self.path}; put it on storage that every node has at the "
                    "same path, or send it with --ship"
                )
            return self.path
        identity = sha256("".join(f"{part.name}\0{part.digest}\0" for part in self.parts).encode()).hexdigest()[:16]
        # The folder is the user's own: others could put files into one with a name that they know.
        root = pathlib.Path(tempfile.gettempdir()) / f"deconvviz-{os.getuid()}"
        root.mkdir(mode=0o700, exist_ok=True)
        if root.stat().st_uid != os.getuid():
            raise DataError(f"{root} belongs to another user; set TMPDIR to a folder of your own on this node")
        target = root / identity / os.path.basename(self.path)  # noqa: PTH119
        for part in self.parts:
            _write(target / part.name if part.name else target, part)
        return str(target)


def _write(path: pathlib.Path, part: Part) -> None:
    """Write a part to its place; the processes of a node may do so at the same time."""
    if path.exists():
        return
    import ray

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_bytes(ray.get(part.content))
    temporary.replace(path)


@dataclass(frozen=True)
class RemoteImages:
    """Labelled images that a node opens by itself.

    Attributes:
        text: what they are, as `open_images` takes it.
        place: the store or folder; None for generated images.
    """

    text: str
    place: Place | None

    @classmethod
    def of(cls, text: str) -> RemoteImages:
        """Return what a node has to know of images that commands name so.

        >>> len(RemoteImages.of("scenes:20").open())
        20
        """
        path = text.removeprefix(PREFIX)
        return cls(text, Place.of(path) if pathlib.Path(path).exists() else None)

    def shipped(self, put: Callable[[Any], Any]) -> RemoteImages:
        """Return the images with their files; see `Place.shipped`."""
        return replace(self, place=self.place and self.place.shipped(put))

    def open(self) -> Images:
        """Open the images on this node; raises DataError where it does not have them."""
        return open_images(self._source())

    def open_store(self) -> Store:
        """Open images that are a packed store on this node; raises DataError where it does not have them."""
        return open_store(self._source())

    def _source(self) -> str:
        if self.place is None:
            return self.text
        return (PREFIX if self.text.startswith(PREFIX) else "") + self.place.here()


@dataclass(frozen=True)
class RemoteModel:
    """A model that a node loads and captures by itself.

    Attributes:
        spec: its name, as `load_model` takes it; a path in it is absolute.
        weights: "DEFAULT", "none" or the path of a file.
        outputs: as for `Network.with_outputs`; "auto" leaves it to the network.
        preprocess: how an image becomes the network's input.
        device: "cpu", "cuda", or "auto" for a GPU where Ray gives one.
        file: the place of the model's code or folder; None where its name holds no path.
        weights_file: the place of the weights; None where they are no file.
    """

    spec: str
    weights: str
    outputs: str
    preprocess: Preprocess
    device: str
    file: Place | None = None
    weights_file: Place | None = None

    @classmethod
    def of(cls, spec: str, weights: str, outputs: str, preprocess: Preprocess, device: str) -> RemoteModel:
        """Return what a node has to know of a model that was loaded here."""
        file = None
        in_a_file = IN_A_FILE.fullmatch(spec)
        if in_a_file:
            code = os.path.abspath(in_a_file["path"])  # noqa: PTH100, links are kept: a node may have others
            spec, file = f"{code}:{in_a_file['factory']}", Place.of(_root_of(pathlib.Path(code)), "*.py")
        elif spec.startswith("hf:"):
            file = Place.of(split_part(spec)[0].removeprefix("hf:"))
        weights_file = None if weights in ("DEFAULT", "none") else Place.of(weights)
        return cls(spec, weights, outputs, preprocess, device, file, weights_file)

    def shipped(self, put: Callable[[Any], Any]) -> RemoteModel:
        """Return the model with its files; see `Place.shipped`."""
        file, weights = (place and place.shipped(put) for place in (self.file, self.weights_file))
        return replace(self, file=file, weights_file=weights)

    def loaded(self) -> LoadedModel:
        """Load the model on this node, once for each process; raises as `load_model` does."""
        return _loaded(self)

    def network(self) -> Network:
        """Capture the loaded model on this node, once for each process; raises as `captured` does."""
        return _network(self)

    def names_here(self) -> tuple[str, str]:
        """Return name and weights with the paths that they have on this node; DataError where it lacks a file."""
        spec = self.spec
        if self.file is not None:
            here = pathlib.Path(self.file.here())
            in_a_file = IN_A_FILE.fullmatch(spec)
            if in_a_file:
                spec = f"{here / pathlib.Path(in_a_file['path']).relative_to(self.file.path)}:{in_a_file['factory']}"
            else:
                _, part = split_part(spec)
                spec = f"hf:{here}#{part}" if part else f"hf:{here}"
        return spec, self.weights if self.weights_file is None else self.weights_file.here()


def _root_of(file: pathlib.Path) -> pathlib.Path:
    """Return the folder that holds a file's code: above its packages, so that relative imports find theirs."""
    folder = file.parent
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    return folder


@lru_cache(maxsize=1)
def _loaded(model: RemoteModel) -> LoadedModel:
    return load_model(*model.names_here())


@lru_cache(maxsize=1)
def _network(model: RemoteModel) -> Network:
    return captured(_loaded(model), model.preprocess, model.device, model.outputs)
