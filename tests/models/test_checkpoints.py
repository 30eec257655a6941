"""Files of weights: whatever a training wrapped them in, they give the outputs that were trained, or one line says why.

Every case is a file on the disk that `load_weights(model, read_weights(path))` meets as a command does.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import gzip
import io
import pathlib
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from deconvviz.errors import ModelError
from deconvviz.models.load import load_model
from deconvviz.models.weights import load_weights, misfit, read_weights

State = dict[str, Tensor]
Bytes = Callable[[], bytes]


def small(seed: int = 0, outputs: int = 3) -> nn.Module:
    """A network with weights, running statistics and a counter, all different for another seed."""
    torch.manual_seed(seed)
    layers = {
        "conv": nn.Conv2d(3, 4, 3),
        "norm": nn.BatchNorm2d(4),
        "act": nn.ReLU(),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flat": nn.Flatten(),
        "head": nn.Linear(4, outputs),
    }
    model = nn.Sequential(OrderedDict(layers))
    model(torch.randn(5, 3, 8, 8) * (seed + 1))
    return model.eval()


TRAINED = small(seed=7)
STATE: State = TRAINED.state_dict()
IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(IMAGES)


def load(model: nn.Module, content: Any, folder: pathlib.Path) -> None:
    """Save what a training would keep, and load it."""
    torch.save(content, folder / "w.pth")
    load_weights(model, read_weights(folder / "w.pth"))


def prefixed(prefix: str, state: State = STATE) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def compiled_inside(state: State) -> State:
    """As where only a part of the network was compiled: the wrapper's name stands between two others."""
    return {name.replace("conv.", "conv._orig_mod."): tensor for name, tensor in state.items()}


def with_optimiser() -> dict[str, Any]:
    model = small(seed=7)
    optimiser = torch.optim.Adam(model.parameters())
    model(IMAGES).sum().backward()
    optimiser.step()
    model.load_state_dict(STATE)
    scheduler = torch.optim.lr_scheduler.StepLR(optimiser, 3)
    return {
        "epoch": 3,
        "arch": "small",
        "optimizer": optimiser.state_dict(),
        "scheduler": scheduler.state_dict(),
        "model": model.state_dict(),
        "best": np.float64(0.9),
        "rng": torch.get_rng_state(),
    }


FORMS: dict[str, Callable[[], Any]] = {
    "plain": lambda: STATE,
    "plain dict without versions": lambda: dict(STATE),
    "parameters instead of tensors": lambda: {n: nn.Parameter(t, t.is_floating_point()) for n, t in STATE.items()},
    "DataParallel": lambda: nn.DataParallel(TRAINED).state_dict(),
    "compiled": lambda: prefixed("_orig_mod."),
    "compiled, then DataParallel": lambda: prefixed("module._orig_mod."),
    "DataParallel, then compiled": lambda: prefixed("_orig_mod.module."),
    "DataParallel twice": lambda: prefixed("module.module."),
    "a part compiled": lambda: compiled_inside(STATE),
    "a part compiled below DataParallel": lambda: prefixed("module.", compiled_inside(STATE)),
    "Lightning": lambda: {"state_dict": prefixed("model."), "epoch": 3, "pytorch-lightning_version": "2.6"},
    "Lightning with others beside": lambda: {
        "state_dict": {"loss.weight": torch.ones(3), **prefixed("model."), "metric.total": torch.zeros(())},
        "hyper_parameters": {"lr": 0.1},
    },
    "Lightning of a compiled network": lambda: {"state_dict": prefixed("net._orig_mod.")},
    "a deep prefix": lambda: prefixed("learner.algorithm.backbone."),
    "below net": lambda: {"net": STATE, "acc": 91.2},
    "below an unusual key": lambda: {"best_of_run_4": STATE, "epoch": 3},
    "only the average": lambda: {"model_ema": STATE, "epoch": 3},
    "nested": lambda: {"model": {"state_dict": STATE, "name": "small"}, "epoch": 3},
    "nested below DataParallel": lambda: {"checkpoint": {"model": {"weights": prefixed("module.")}}},
    "an optimiser beside": with_optimiser,
    "a Namespace beside": lambda: {"model": STATE, "args": argparse.Namespace(lr=0.1, out=pathlib.Path("runs/1"))},
    "numbers of NumPy beside": lambda: {"state_dict": STATE, "loss": np.float32(0.5), "history": np.arange(5.0)},
    "no counters": lambda: {n: t for n, t in STATE.items() if "num_batches" not in n},
    "no counters, below DataParallel": lambda: {
        "state_dict": prefixed("module.", {n: t for n, t in STATE.items() if "num_batches" not in n})
    },
    "counted by thop": lambda: {
        **STATE,
        "total_ops": torch.ones(1),
        "total_params": torch.ones(1),
        "conv.total_ops": torch.ones(1),
    },
    "NumPy arrays": lambda: {"state_dict": {name: tensor.numpy() for name, tensor in STATE.items()}},
    "double precision": lambda: {name: t.double() if t.is_floating_point() else t for name, t in STATE.items()},
    "a tensor subclass's strides": lambda: {
        name: t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for name, t in STATE.items()
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_whatever_the_weights_are_wrapped_in(tmp_path: pathlib.Path, form: str) -> None:
    model = small()
    assert not torch.allclose(outputs(model), outputs(TRAINED), atol=1e-2)  # else the test would show nothing
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # there is one network in the file, and nothing to warn of
        load(model, FORMS[form](), tmp_path)
    assert torch.equal(outputs(model), outputs(TRAINED))
    assert all(p.dtype == torch.float32 and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gets_the_dtype_of_the_model(tmp_path: pathlib.Path, dtype: torch.dtype) -> None:
    rounded = {name: t.to(dtype) if t.is_floating_point() else t for name, t in STATE.items()}
    model, expected = small(), small()
    load(model, {"state_dict": rounded}, tmp_path)
    expected.load_state_dict({name: tensor.to(STATE[name].dtype) for name, tensor in rounded.items()})
    assert torch.equal(outputs(model), outputs(expected)) and outputs(model).dtype == torch.float32


def test_files_in_the_older_format_of_torch(tmp_path: pathlib.Path) -> None:
    torch.save({"state_dict": prefixed("module.")}, tmp_path / "w.th", _use_new_zipfile_serialization=False)
    model = small()
    load_weights(model, read_weights(tmp_path / "w.th"))
    assert torch.equal(outputs(model), outputs(TRAINED))


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_safetensors(tmp_path: pathlib.Path, prefix: str) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(prefixed(prefix), tmp_path / "model.bin", {"format": "pt"})  # told by its content, not name
    model = small()
    load_weights(model, read_weights(tmp_path / "model.bin"))
    assert torch.equal(outputs(model), outputs(TRAINED))


RAW_AND_AVERAGE = {
    "timm": ("state_dict_ema", "state_dict"),
    "YOLO": ("ema", "model"),
    "model_ema": ("model_ema", "model"),
    "swa": ("swa_state", "net"),
    "teacher and student": ("teacher", "student"),
}


@pytest.mark.parametrize("keys", RAW_AND_AVERAGE.values(), ids=RAW_AND_AVERAGE)
def test_of_weights_and_their_average_the_weights_are_taken_and_both_named(
    tmp_path: pathlib.Path, keys: tuple[str, str]
) -> None:
    average, raw = keys
    model = small()
    with pytest.warns(UserWarning, match=f"several networks; {raw} is taken, not {average}"):
        load(model, {average: small(seed=5).state_dict(), raw: prefixed("module.")}, tmp_path)
    assert torch.equal(outputs(model), outputs(TRAINED))


def test_of_several_networks_the_one_that_fits_is_taken(tmp_path: pathlib.Path) -> None:
    """A GAN's file: its generator, under a likelier name, is another network. Nothing is to be warned of."""
    generator = nn.Sequential(nn.Linear(2, 3)).state_dict()
    model = small()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(model, {"model": generator, "discriminator": prefixed("module."), "encoder": generator}, tmp_path)
    assert torch.equal(outputs(model), outputs(TRAINED))


# --- networks whose own names look like wrappers, or that load in their own way --------------------------------------


class Named(nn.Module):
    """A network inside another one, under a name."""

    def __init__(self, name: str, inner: nn.Module, head: nn.Module | None = None) -> None:
        super().__init__()
        self.inner, self.head = name, head or nn.Identity()
        self.add_module(name, inner)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(getattr(self, self.inner)(images))


@pytest.mark.parametrize("name", ["network", "model", "backbone"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_model_that_wraps_the_network_of_the_file(tmp_path: pathlib.Path, name: str, prefix: str) -> None:
    model = Named(name, small())
    load(model, prefixed(prefix), tmp_path)
    assert torch.equal(outputs(model), outputs(TRAINED))


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model."])
def test_a_network_that_calls_a_part_of_itself_module(tmp_path: pathlib.Path, prefix: str) -> None:
    """What looks like a wrapper's prefix belongs to the names, and another part must not be lost with it."""
    trained, model = (Named("module", small(seed), nn.Linear(3, 2)) for seed in (7, 0))
    load(model, {prefix + key: tensor for key, tensor in trained.state_dict().items()}, tmp_path)
    assert torch.equal(outputs(model), outputs(trained))


class Versioned(nn.Module):
    """A layer whose files of version 1 hold half of its weights, as some layers of detection libraries do."""

    _version = 2

    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3, 1, 1), value))

    def forward(self, images: Tensor) -> Tensor:
        return images * self.weight

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, metadata: dict[str, Any], *others: Any) -> None:
        if metadata.get("version", 1) < 2 and prefix + "weight" in state:
            state[prefix + "weight"] = state[prefix + "weight"] * 2
        super()._load_from_state_dict(state, prefix, metadata, *others)


def versioned(value: float) -> nn.Module:
    return nn.Sequential(OrderedDict(scale=Versioned(value), features=nn.Sequential(Versioned(value))))


def below(prefix: str, state: Any) -> Any:
    """A state dict below a prefix with its versions, as a module that contains the network would give it."""
    moved = OrderedDict((prefix + name, tensor) for name, tensor in state.items())
    moved._metadata = {  # type: ignore[attr-defined]
        "": {"version": 1},
        **{(prefix + name).rstrip("."): entry for name, entry in state._metadata.items()},
    }
    return moved


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model.", "trainer.net."])
@pytest.mark.parametrize("version", [1, 2])
def test_the_versions_of_modules_outlast_prefixes(tmp_path: pathlib.Path, prefix: str, version: int) -> None:
    state: Any = versioned(3.0).state_dict()
    for name in ("scale", "features.0"):
        state._metadata[name]["version"] = version
    model = versioned(0.5)
    load(model, {"state_dict": below(prefix, state) if prefix else state}, tmp_path)
    expected = 3.0 if version == 2 else 6.0
    assert [tensor.unique().tolist() for tensor in model.state_dict().values()] == [[expected], [expected]]


def test_refused_weights_leave_a_versioned_layer_as_it_was(tmp_path: pathlib.Path) -> None:
    model = versioned(3.0)
    with pytest.raises(ModelError, match=r"2 missing, first scale\.weight"):
        load(model, {"other": torch.ones(3)}, tmp_path)
    assert [tensor.unique().tolist() for tensor in model.state_dict().values()] == [[3.0], [3.0]]


class Counting(nn.Linear):
    """A layer with a state that is no tensor, which its state dict keeps too."""

    def __init__(self, count: int) -> None:
        super().__init__(2, 2)
        self.count = count

    def get_extra_state(self) -> dict[str, int]:
        return {"count": self.count}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.count = state["count"]


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_state_that_is_no_tensor_comes_back_too(tmp_path: pathlib.Path, prefix: str) -> None:
    trained, model = nn.Sequential(Counting(5)), nn.Sequential(Counting(1))
    load(model, prefixed(prefix, trained.state_dict()), tmp_path)
    assert torch.equal(model(torch.eye(2)), trained(torch.eye(2))) and model[0].count == 5


def test_names_of_an_older_weight_norm_are_taken_where_the_module_takes_them(tmp_path: pathlib.Path) -> None:
    """The module's own hook renames weight_g and weight_v; a comparison of names alone would refuse them."""
    model, trained = nn.Sequential(weight_norm(nn.Conv2d(3, 2, 3))), nn.Conv2d(3, 2, 3)
    direction, length = torch.randn(2, 3, 3, 3), torch.rand(2, 1, 1, 1) + 1
    with torch.no_grad():
        trained.weight.copy_(length * direction / direction.flatten(1).norm(dim=1)[:, None, None, None])
    state = {"module.0.bias": trained.bias, "module.0.weight_g": length, "module.0.weight_v": direction}
    load(model, state, tmp_path)
    torch.testing.assert_close(outputs(model), outputs(trained))


def test_names_of_densenets_of_torchvision_0_1(tmp_path: pathlib.Path) -> None:
    from torchvision.models import DenseNet

    def densenet(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return DenseNet(4, (2, 1), num_init_features=8, bn_size=2, num_classes=3).eval()

    trained, model = densenet(1), densenet(2)
    old = trained.state_dict()
    for name in list(old):
        for layer in ("norm", "conv"):
            for number in "12":
                if "denselayer" in name and f".{layer}{number}." in name:
                    old[name.replace(f"{layer}{number}", f"{layer}.{number}")] = old.pop(name)
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    load(model, old, tmp_path)
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(model(images), trained(images))


# --- another number of classes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "model."])
def test_fewer_classes_than_the_model_of_that_name_has(tmp_path: pathlib.Path, prefix: str) -> None:
    from torchvision.models import squeezenet1_1

    trained = squeezenet1_1(num_classes=7).eval()
    torch.save({"state_dict": prefixed(prefix, trained.state_dict())}, tmp_path / "w.pth")
    loaded = load_model("torchvision:squeezenet1_1", str(tmp_path / "w.pth"))
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(loaded.model(images), trained(images)) and loaded.classes == ()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet", "test_convnext"])
def test_fewer_classes_than_a_model_of_timm_has(tmp_path: pathlib.Path, name: str) -> None:
    timm = pytest.importorskip("timm")
    trained = timm.create_model(name, num_classes=2).eval()
    torch.save({"state_dict": prefixed("module.", trained.state_dict())}, tmp_path / "w.pth")
    images = torch.randn(1, 3, 160, 160)
    assert torch.equal(load_model(f"timm:{name}", str(tmp_path / "w.pth")).model(images), trained(images))


def test_a_factory_with_other_outputs_than_the_file_is_refused(tmp_path: pathlib.Path) -> None:
    """Its outputs are for the factory to say."""
    (tmp_path / "net.py").write_text("from torch import nn\ndef make():\n    return nn.Sequential(nn.Linear(4, 3))\n")
    torch.save({"0.weight": torch.zeros(5, 4), "0.bias": torch.zeros(5)}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"2 of another shape, first 0.weight: \(5, 4\), expected \(3, 4\)"):
        load_model(f"{tmp_path / 'net.py'}:make", str(tmp_path / "w.pth"))


# --- refused ---------------------------------------------------------------------------------------------------------


def saved(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def drawn(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9)).save(buffer, kind)
    return buffer.getvalue()


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo("model/w.pth")
        entry.size = 3
        archive.addfile(entry, io.BytesIO(b"abc"))
    return buffer.getvalue()


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, weight=np.ones(3), bias=np.ones(2))
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("runs/1/w.pth", saved(STATE))
    return buffer.getvalue()


def hdf5() -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["weight"] = np.ones(3)
    return buffer.getvalue()


def script() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(small(), IMAGES), buffer)  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def exported() -> bytes:
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(nn.Linear(3, 2), (torch.ones(1, 3),)), buffer)
    return buffer.getvalue()


def safetensors_file() -> bytes:
    return bytes(pytest.importorskip("safetensors.torch").save(dict(STATE)))


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 46830571\n"
REFUSED: dict[str, tuple[Bytes, str]] = {
    "empty": (lambda: b"", "is an empty file, no state dict"),
    "text": (lambda: "läuft: ja\nnein\n".encode(), r"is a text file that begins with 'läuft: ja', no state dict"),
    "blank text": (lambda: b"\n\n \n", "is a text file"),
    "text, cut within a letter": (lambda: "ä".encode() * 700, "is a text file that begins with 'äääää"),
    "web page": (lambda: b"\n<!DOCTYPE html>\n<html>404</html>", "is a web page, as a failed download leaves it"),
    "LFS pointer": (lambda: LFS, r"is a pointer of Git LFS, whose content was not fetched \(git lfs pull"),
    "tar": (tar, r"is a tar archive \(unpack it first\)"),
    "gzip": (lambda: gzip.compress(saved(STATE)), r"is a gzip archive \(unpack it first\)"),
    "npz": (npz, "is an archive of NumPy arrays"),
    "zip": (zipped, r"is a zip archive \(unpack it first\)"),
    "HDF5": (hdf5, "is an HDF5 file"),
    "PNG": (lambda: drawn("PNG"), "is an image"),
    "JPEG": (lambda: drawn("JPEG"), "is an image"),
    "TorchScript": (script, r"is a TorchScript program \(take torch.jit.load"),
    "torch.export": (exported, r"is an exported program of torch.export"),
    "a whole module": (
        lambda: saved(nn.Sequential(nn.Linear(3, 2))),
        r"holds Python objects \(torch.nn.modules.container.Sequential\), and only tensors are loaded",
    ),
    "a module beside": (
        lambda: saved({"model": nn.Linear(3, 2), "epoch": 3}),
        r"holds Python objects \(torch.nn.modules.linear.Linear\)",
    ),
    "only an optimiser": (
        lambda: saved({"optimizer": with_optimiser()["optimizer"], "epoch": 3}),
        r"holds no state dict \(name -> tensor\); it holds optimizer, epoch; save one with",
    ),
    "numbers": (lambda: saved({"lr": 0.1, "loss": [0.5, 0.4]}), "holds no state dict .*; it holds lr, loss"),
    "one tensor": (lambda: saved(torch.ones(3)), "holds no state dict"),
    "a list of tensors": (lambda: saved([torch.ones(3)]), "holds no state dict"),
    "nothing": (lambda: saved({}), "holds no state dict"),
    "cut archive": (lambda: saved(STATE)[:-700], "is a damaged archive, perhaps cut off"),
    "cut in the middle": (lambda: saved(STATE)[:1500], "is a damaged archive, perhaps cut off"),
    "cut safetensors": (lambda: safetensors_file()[:-9], "is a damaged safetensors file .* fetch it again"),
    "cut header of safetensors": (lambda: safetensors_file()[:99], "is a damaged safetensors file .* fetch it again"),
    "zeros, as a crash of the machine leaves them": (lambda: b"\0" * 99, "is no plain state dict"),
    "another network": (
        lambda: saved({"model": nn.Linear(4, 2).state_dict()}),
        r"do not fit Sequential \(8 missing, first conv.weight; 2 unexpected, first weight in 'model'\)",
    ),
    "another size": (
        lambda: saved({"state_dict": prefixed("module.", small(outputs=5).state_dict())}),
        r"2 of another shape, first head.weight: \(5, 4\), expected \(3, 4\) in 'state_dict'\); choose the model",
    ),
    "one layer too many": (
        lambda: saved({**prefixed("module."), "module.extra.weight": torch.ones(2)}),
        r"\(1 unexpected, first extra.weight\)",
    ),
    "no statistics": (
        lambda: saved({name: tensor for name, tensor in STATE.items() if "running" not in name}),
        r"\(2 missing, first norm.running_mean\)",
    ),
    "several others": (
        lambda: saved({"net": nn.Linear(4, 2).state_dict(), "critic": nn.Linear(4, 9).state_dict()}),
        "in 'net'; also found: 'critic'",
    ),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's, of tracing
@pytest.mark.parametrize("kind", REFUSED)
def test_what_holds_no_fitting_weights_is_named_in_one_line(tmp_path: pathlib.Path, kind: str) -> None:
    make, told = REFUSED[kind]
    path = tmp_path / "w.pth"
    path.write_bytes(make())
    model = small()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ModelError, match=told) as raised:
        load_weights(model, read_weights(path))
    message = str(raised.value)
    assert str(path) in message and "\n" not in message and len(message) < 400 + len(str(path))
    assert not misfit(before, model.state_dict())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("content", [b"\x08\x07\x12\x07pytorch\x1a\x8f" * 9, b"BM\x9a\0\0\0" * 9], ids=["ONNX", "BMP"])
def test_what_no_python_has_written_is_not_said_to_hold_python_objects(tmp_path: pathlib.Path, content: bytes) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(ModelError, match="is no plain state dict") as raised:
        read_weights(tmp_path / "w.pth")
    assert "Python objects" not in str(raised.value)


def test_paths_without_a_file(tmp_path: pathlib.Path) -> None:
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(ModelError, match=f"no weights file {path}"):
            read_weights(path)


def test_no_code_of_a_file_is_run(tmp_path: pathlib.Path) -> None:
    """A file that would write another one while it is unpickled."""

    class Command:
        def __reduce__(self) -> Any:
            return pathlib.Path.touch, (tmp_path / "ran",)

    torch.save({"model": STATE, "extra": Command()}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="holds Python objects"):
        read_weights(tmp_path / "w.pth")
    assert not (tmp_path / "ran").exists()


def test_weights_in_lists_and_beside_plain_values_are_found(tmp_path: pathlib.Path) -> None:
    """(state, epoch), lists of networks, and the logs, dates and names that trainings keep."""
    kept: dict[str, Any] = {
        "at": datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc),
        "log": collections.defaultdict(list),
        "names": np.array(["cat", "owl"]),
    }
    contents: tuple[Any, ...] = ((STATE, 3), {"models": [STATE], **kept})
    for number, content in enumerate(contents):
        model = small()
        torch.save(content, tmp_path / f"{number}.pth")
        load_weights(model, read_weights(tmp_path / f"{number}.pth"))
        assert torch.equal(outputs(model), outputs(TRAINED))
