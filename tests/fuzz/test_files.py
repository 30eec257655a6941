"""Damaged and hostile files: the same data, or one DataError within seconds and little memory, whatever was changed.

Every kind of file that version 0.1.0 wrote is changed at random, as it is (without a seal) and written anew (sealed, or
with digests of its parts). Each changed file is read in a process of its own with a limit of memory and time. A
failure prints the seed of the change. `--fuzz SECONDS` runs longer than the default.

This file is run as a program: its processes are forks of one that holds nothing but what it has imported, since to fork
takes as long as the memory of a process is large.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import pathlib
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import h5py
import numpy as np
import pytest
from killing import ONE_THREAD

import deconvviz as dv
from deconvviz.errors import DataError, DeconvvizError
from deconvviz.results.features import Features
from deconvviz.results.results import Result, kind_of
from deconvviz.results.sealed import BLOCK
from deconvviz.results.tiles import load_gallery
from deconvviz.run.verify import verify
from deconvviz.studies.atlas.site.inputs import DecisionsFile
from deconvviz.studies.evaluation.result import Evaluation
from deconvviz.studies.lesions.result import Lesions

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="reads in forked processes")]

FROZEN = pathlib.Path(__file__).resolve().parent.parent / "frozen" / "0.1.0.zip"
SECONDS, MEMORY = 5, 1 << 29  # that reading one file may take beyond what the process has already
READERS: dict[str, Callable[[str], Any]] = {
    "mined": dv.load_mined,
    "evaluation": Evaluation.load,
    "lesions": Lesions.load,
    "gallery": load_gallery,
    "features": lambda path: (
        features := Features(path),
        features.rows(next(iter(features.layers)), np.arange(features.done)),
    ),
    "snapshots": lambda path: [dv.Snapshots(path).weights(epoch) for epoch in dv.Snapshots(path).epochs],
    "decisions": lambda path: (decisions := DecisionsFile(path), decisions.maps(0)),
    "deconvviz-images": lambda path: [image for image, _ in dv.ImageStore.open(path)],
    "ablation": lambda path: Result.load(path, "ablation", 1),
    "atlas": lambda path: Result.load(path, "atlas", 1),
    "invariance of filters": lambda path: Result.load(path, "invariance of filters", 1),
    "occlusion of filters": lambda path: Result.load(path, "occlusion of filters", 1),
}

Change = Callable[[pathlib.Path, np.random.Generator], None]


# --- changes ---------------------------------------------------------------------------------------------------------


def flip(path: pathlib.Path, rng: np.random.Generator) -> None:
    content = bytearray(path.read_bytes())
    for place in rng.integers(0, len(content), rng.integers(1, 9)):
        content[place] ^= 1 << int(rng.integers(0, 8))
    path.write_bytes(content)


def cut(path: pathlib.Path, rng: np.random.Generator) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.integers(0, len(content))])


def overwrite(path: pathlib.Path, rng: np.random.Generator) -> None:
    content = bytearray(path.read_bytes())
    start, count = int(rng.integers(0, len(content))), int(rng.integers(1, 300))
    content[start : start + count] = rng.bytes(len(content[start : start + count]))
    path.write_bytes(content)


def _one(file: h5py.File, rng: np.random.Generator) -> str:
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return names[rng.integers(0, len(names))] if names else ""


def in_hdf5(change: Callable[[h5py.File, str, np.random.Generator], None]) -> Change:
    """Return a change of one array of a file."""

    def changed(path: pathlib.Path, rng: np.random.Generator) -> None:
        with h5py.File(path, "r+") as file:
            name = _one(file, rng)
            if name:
                change(file, name, rng)

    return changed


def _replaced(file: h5py.File, name: str, **created: Any) -> None:
    del file[name]
    file.create_dataset(name, **created)


def values(file: h5py.File, name: str, rng: np.random.Generator) -> None:
    array = file[name]
    if array.dtype.kind in "iuf" and array.size:
        content = array[()]
        flat = np.atleast_1d(content).ravel()
        odd = [np.nan, np.inf] if array.dtype.kind == "f" else [np.iinfo(array.dtype).max, np.iinfo(array.dtype).min]
        flat[rng.integers(0, flat.size)] = rng.choice([*odd, 0, 1])
        array[()] = flat.reshape(np.shape(content))


def another_type(file: h5py.File, name: str, rng: np.random.Generator) -> None:
    shape = file[name].shape
    dtype = rng.choice(["f4", "i1", "c8", "S5", "u8", "f8"])
    _replaced(file, name, shape=shape, dtype=str(dtype))


def another_shape(file: h5py.File, name: str, rng: np.random.Generator) -> None:
    old, dtype = file[name].shape, file[name].dtype
    shapes = [(*old, 2), old[1:], tuple(n + 1 for n in old), tuple(0 for _ in old)]
    _replaced(file, name, shape=shapes[rng.integers(0, len(shapes))], dtype=dtype)


def missing(file: h5py.File, name: str, rng: np.random.Generator) -> None:
    del file[name]


def huge(file: h5py.File, name: str, rng: np.random.Generator) -> None:
    shape = tuple(max(int(n), 1) * 10**6 for n in file[name].shape) or (10**9,)
    dtype = file[name].dtype
    _replaced(file, name, shape=shape, dtype=dtype, chunks=tuple(min(n, 16) for n in shape), compression="gzip")


def virtual(file: h5py.File, name: str, rng: np.random.Generator) -> None:
    shape, dtype = file[name].shape, file[name].dtype
    if shape and dtype.kind in "iuf":
        layout = h5py.VirtualLayout(shape, dtype)
        layout[...] = h5py.VirtualSource(rng.choice([".", "raw.h5", "/etc/passwd"]), name, shape, dtype)
        del file[name]
        file.create_virtual_dataset(name, layout)


def external(file: h5py.File, name: str, rng: np.random.Generator) -> None:
    shape, dtype = file[name].shape, file[name].dtype
    if shape and dtype.kind in "iuf" and file[name].size:
        size = file[name].size * dtype.itemsize
        _replaced(file, name, shape=shape, dtype=dtype, external=[("/etc/passwd", 0, size)])


def link(file: h5py.File, name: str, rng: np.random.Generator) -> None:
    del file[name]
    links = [h5py.SoftLink("/"), h5py.SoftLink(f"/{name}"), h5py.ExternalLink("raw.h5", "labels"), file["/"]]
    file[name] = links[rng.integers(0, len(links))]


def settings(file: h5py.File, name: str, rng: np.random.Generator) -> None:
    texts = ["", "{", "[]", "3", "null", "[" * 100_000, '{"a": ' + "1" * 100_000 + "}", '{"layers": 7}', "{}", "\x00"]
    keys = list(file.attrs)
    if keys:
        file.attrs[keys[rng.integers(0, len(keys))]] = texts[rng.integers(0, len(texts) - 1)]


def no_setting(file: h5py.File, name: str, rng: np.random.Generator) -> None:
    keys = list(file.attrs)
    if keys:
        del file.attrs[keys[rng.integers(0, len(keys))]]


HDF5 = (values, another_type, another_shape, missing, huge, virtual, external, link, settings, no_setting)
CHANGES: dict[str, Change] = {each.__name__: each for each in (flip, cut, overwrite)}
CHANGES |= {each.__name__: in_hdf5(each) for each in HDF5}


# --- files -----------------------------------------------------------------------------------------------------------


def files_of_every_kind(folder: pathlib.Path) -> list[tuple[str, pathlib.Path, bool]]:
    """(kind, path, whether a digest guards it) of every kind, as it was written by 0.1.0 and written anew."""
    with zipfile.ZipFile(FROZEN) as archive:
        archive.extractall(folder)
    found = []
    for path in sorted(folder.rglob("*.h5")):
        kind, guarded = kind_of(path)
        assert not guarded
        found.append((kind, path, False))
        anew = path.with_name(f"sealed-{path.name}")
        if kind not in ("features", "snapshots", "deconvviz-images"):
            schema = 2 if kind == "evaluation" else 1
            Result.load(path, kind, schema).save(anew)
            found.append((kind, anew, True))
    dv.pack(dv.Scenes(6), folder / "new.h5", progress=False)
    dv.pack(dv.Scenes(6), folder / "new-raw.h5", raw=True, size=16, progress=False)
    found += [("deconvviz-images", folder / name, True) for name in ("new.h5", "new-raw.h5")]
    assert {kind for kind, _, _ in found} == set(READERS)
    return found


def told(kind: str, path: pathlib.Path) -> bytes:
    """Return a digest of what a reader gives."""
    content = READERS[kind](str(path))
    return hashlib.sha256(pickle.dumps(_plain(content))).digest()


def _plain(value: Any) -> Any:
    """Return arrays as their bytes, and objects as their attributes, without paths and handles."""
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes()
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if hasattr(value, "__dict__"):
        return {key: _plain(each) for key, each in vars(value).items() if key not in ("path", "_handle")}
    return json.dumps(value, default=repr)


def outcome(kind: str, path: pathlib.Path) -> str:
    """Read a file in a process of its own; return "refused", the digest of what was read, or what went wrong."""
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reader)
        signal.alarm(SECONDS)
        used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        try:
            answer = told(kind, path).hex()
        except DeconvvizError as error:
            answer = "refused" if "\n" not in str(error) else f"several lines: {error}"
        except BaseException:
            answer = "traceback: " + traceback.format_exc(limit=-2)
        os.write(writer, answer.encode()[:60_000])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read().decode()
    _, status = os.waitpid(process, 0)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return "takes too long" if number == signal.SIGALRM else f"crash: signal {number}"
    return answer


def cases(files: list[tuple[str, pathlib.Path, bool]]) -> Iterator[tuple[int, str, pathlib.Path, bool, str]]:
    """Yield (seed, kind, path, guarded, change), every kind with every change in turn."""
    for seed in itertools.count():
        for (kind, path, guarded), change in itertools.product(files, CHANGES):
            yield seed, kind, path, guarded, change


def program(folder: pathlib.Path, seconds: float) -> None:
    """Change files for so long, each kind in each way at least once; print how many, and what went wrong, as JSON."""
    (folder / "files").mkdir()
    files = files_of_every_kind(folder / "files")
    right = {path: told(kind, path).hex() for kind, path, _ in files}
    until, tried, wrong = time.monotonic() + seconds, 0, []
    for seed, kind, path, guarded, change in cases(files):
        if time.monotonic() > until and seed > 0:
            break
        changed = folder / "changed.h5"
        shutil.copy(path, changed)
        rng = np.random.default_rng([seed, *f"{path.name} {change}".encode()])
        CHANGES[change](changed, rng)
        found, tried = outcome(kind, changed), tried + 1
        other = guarded and found not in ("refused", right[path])
        if other or not (found == "refused" or len(found) == 64):
            wrong.append(f"seed {seed}, {change} of {path.name}: {found[:400]}")
    print(json.dumps({"kinds": len(files), "tried": tried, "wrong": wrong}))


def test_changed_files_are_refused_or_the_same(tmp_path: pathlib.Path, request: pytest.FixtureRequest) -> None:
    command = [sys.executable, __file__, str(tmp_path), str(request.config.getoption("--fuzz"))]
    done = subprocess.run(command, env=ONE_THREAD, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert not found["wrong"], f"{len(found['wrong'])} of {found['tried']}:\n" + "\n".join(found["wrong"][:20])
    assert found["tried"] >= found["kinds"] * len(CHANGES)


def test_verify_tells_what_changed(tmp_path: pathlib.Path) -> None:
    (tmp_path / "files").mkdir()
    for kind, path, guarded in files_of_every_kind(tmp_path / "files"):
        assert ("unchanged since it was written" in verify(path)) is guarded, kind
        if guarded:
            content = bytearray(path.read_bytes())
            content[BLOCK + (len(content) - BLOCK) // 2] ^= 1
            (tmp_path / "c.h5").write_bytes(content)
            try:
                verify(tmp_path / "c.h5")
            except DataError:
                continue
            assert kind == "deconvviz-images", kind  # a byte of HDF5's own between the images: no image is another one


if __name__ == "__main__":
    program(pathlib.Path(sys.argv[1]), float(sys.argv[2]))
