"""The command line on real files: the main job from end to end, and what bad input gets."""

from __future__ import annotations

import pathlib
import pickle
import re
import subprocess
import sys
from collections.abc import Callable

import click
import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from deconvviz.cli.main import COMMANDS, cli
from deconvviz.errors import DeconvvizError

MODEL = """
import torch
from torch import nn

def make():
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 12, 5, 2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(12, 20, 3), nn.ReLU())

def number():
    return 3

def broken():
    raise ValueError("no GPU today")
"""
SIZE = ["--input", "48", "--resize", "56", "--weights", "none"]
Run = Callable[..., str]


@pytest.fixture
def run() -> Run:
    """Run a command in this process and return its output; a failure raises what it raised."""

    def invoke(*args: object) -> str:
        result = CliRunner().invoke(cli, [str(a) for a in args], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    return invoke


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with a model file, some pictures in two classes, their store, and a mined file."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "model.py").write_text(MODEL)
    random = np.random.default_rng(0)
    for n in range(14):
        path = folder / "photos" / ("cat" if n % 2 else "<b>dog") / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = random.integers(0, 255, (6, 7, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((70, 60), Image.Resampling.BICUBIC).save(path)
    model = f"{folder / 'model.py'}:make"
    for args in (
        ["pack", folder / "photos", folder / "photos.h5", "--quiet"],
        ["mine", model, folder / "photos.h5", "-l", "1", "-l", "4", "-o", folder / "mined.h5", "--quiet", *SIZE],
    ):
        result = CliRunner().invoke(cli, [str(a) for a in args], catch_exceptions=False)
        assert result.exit_code == 0, result.output
    return folder


def test_help_teaches() -> None:
    top = CliRunner().invoke(cli, ["--help"]).output
    assert "deconvviz mine" in top and "MODEL is" in top
    for name in COMMANDS:
        text = CliRunner().invoke(cli, [name, "--help"]).output
        assert re.search(rf"Examples?:\s+deconvviz {name}", text), name
    for name in ("grid", "project"):  # honest where the user reads
        assert "randomised" in CliRunner().invoke(cli, [name, "--help"]).output


def test_the_list_of_commands_says_what_each_command_says() -> None:
    """--help imports no command, so that it has each summary a second time: they are the same words."""
    group = click.Context(cli)
    for name, entry in COMMANDS.items():
        command = cli.get_command(group, name)
        assert command is not None and command.name == name
        assert entry.summary == command.get_short_help_str(limit=10_000), f"{name}: correct it in deconvviz/cli/main.py"
    listed = " ".join(CliRunner().invoke(cli, ["--help"]).output.split())
    assert all(f"{name} {entry.summary}" in listed for name, entry in COMMANDS.items())


def test_help_and_an_unknown_command_import_no_command() -> None:
    code = "import sys, click.testing as t, deconvviz.cli.main as m; t.CliRunner().invoke(m.cli, sys.argv[1:]); "
    code += "print({n for n in sys.modules if n.split('.')[0] in ('torch', 'numpy', 'matplotlib', 'h5py', 'PIL')}, "
    code += "sorted(n for n in sys.modules if n.startswith(('deconvviz.cli', 'deconvviz.studies', 'deconvviz.run'))))"
    for arguments in (["--help"], ["--version"], ["mien"]):
        command = [sys.executable, "-c", code, *arguments]
        imported = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        assert imported == "set() ['deconvviz.cli', 'deconvviz.cli.main']", arguments


@pytest.mark.parametrize(("typed", "meant"), [("mien", "mine"), ("corespond", "correspond"), ("cams", "cam")])
def test_an_unknown_command_is_answered_with_the_nearest(typed: str, meant: str) -> None:
    result = CliRunner().invoke(cli, [typed])
    assert result.exit_code == 2 and f"no command '{typed}'; nearest: {meant}" in result.output


def test_layers(run: Run, work: pathlib.Path) -> None:
    text = run("layers", f"{work / 'model.py'}:make", *SIZE)
    assert re.search(r"3 +Conv2d +20x8x8 +17x17 +4x4 +0,0 +2,180", text), text


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_grid_draws_and_keeps_its_projections(
    run: Run, work: pathlib.Path, tmp_path: pathlib.Path, suffix: str
) -> None:
    mined = tmp_path / "mined.h5"
    mined.write_bytes((work / "mined.h5").read_bytes())
    out = tmp_path / f"grid.{suffix}"
    run("grid", mined, "-l", "4", "-o", out, "-c", "0-3,7", "--quiet")
    assert out.read_bytes()[:5] in (b"\x89PNG\r", b"%PDF-", b"<?xml")
    kept = mined.stat().st_mtime_ns
    run(
        "grid",
        mined,
        "-l",
        "4",
        "-o",
        tmp_path / f"again.{suffix}",
        "-c",
        "0-3,7",
        "--quiet",
        "--model",
        "nowhere.py:x",
    )
    assert mined.stat().st_mtime_ns == kept  # nothing was computed again: the model was not even looked for
    assert (tmp_path / f"again.{suffix}").stat().st_size > 1000
    if suffix == "png":
        text = Image.open(out).info["Description"]
        assert "deconvviz" in text and re.search(  # one of the 20 filters is dead
            r"keeps 90 % of a unit's activation, median of 19 filters; with this size for all they keep 1?\d\d %", text
        )
        assert re.search(r"The rule is [\w-]+, chosen by .*, median of 19 units: \d\.\d\d; \w+: \d\.\d\d\.", text)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("crop", "words"),
    [
        ("receptive-field", "the theoretical receptive field"),
        ("11", "as given"),
        ("energy", "98 % of the projections' energy"),
        ("need", "the smallest square that keeps 90 % of a unit's activation"),
        ("each", "each as small as keeps 90 % of its unit's activation"),
    ],
)
def test_grid_crops_and_first_layer_filters(
    run: Run, work: pathlib.Path, tmp_path: pathlib.Path, crop: str, words: str
) -> None:
    mined = tmp_path / "mined.h5"
    mined.write_bytes((work / "mined.h5").read_bytes())
    run("grid", mined, "-l", "1", "-o", tmp_path / "g.png", "-n", "4", "--crop", crop, "--quiet")
    text = Image.open(tmp_path / "g.png").info["Description"]
    chosen = re.search(r"The rule is ([\w-]+), chosen by", text)
    assert chosen and words in text
    with h5py.File(mined) as file:
        assert file["figures/1/filters"].shape == (12, 5, 5, 3)
        assert len(file[f"projections/1/{chosen[1]}"]) == 4
        assert set(file["figures/1/kept"]) == {"deconvnet", "guided", "lrp-gamma", "lrp-zplus", "lrp-composite"}
    run("grid", mined, "-l", "1", "-o", tmp_path / "p.png", "-n", "4", "--crop", crop, "--rule", "gradient", "--quiet")
    assert "The rule is gradient." in Image.open(tmp_path / "p.png").info["Description"]
    with h5py.File(mined) as file:
        assert len(file["projections/1/gradient"]) == 4


def test_grid_refuses_another_model_and_other_images(run: Run, work: pathlib.Path, tmp_path: pathlib.Path) -> None:
    other = tmp_path / "other.py"
    other.write_text(MODEL.replace("manual_seed(3)", "manual_seed(4)"))
    before = (work / "mined.h5").read_bytes()
    with pytest.raises(DeconvvizError, match="fingerprint"):
        run("grid", work / "mined.h5", "-l", "4", "-o", tmp_path / "g.png", "--model", f"{other}:make", "--quiet")
    run("pack", work / "photos" / "cat", tmp_path / "cats.h5", "--quiet")
    with pytest.raises(DeconvvizError, match="not the store that was mined"):
        run("grid", work / "mined.h5", "-l", "4", "-o", tmp_path / "g.png", "--images", tmp_path / "cats.h5", "--quiet")
    assert (work / "mined.h5").read_bytes() == before and not (tmp_path / "g.png").exists()


def test_project(run: Run, work: pathlib.Path, tmp_path: pathlib.Path) -> None:
    photo = work / "photos" / "cat" / "1.png"
    for extra in ([], ["-p", "2,3", "--rule", "guided", "--overlap", "last", "--lrn", "gradient"]):
        out = tmp_path / f"p{len(extra)}.png"
        run("project", f"{work / 'model.py'}:make", photo, "-l", "4", "-c", 5, "-o", out, *SIZE, *extra)
        assert Image.open(out).size[0] > 1000


@pytest.mark.slow
def test_shards_merge_to_the_same_table(run: Run, work: pathlib.Path, tmp_path: pathlib.Path) -> None:
    parts = [tmp_path / f"{i}.h5" for i in range(3)]
    for i, part in enumerate(parts):
        run(
            "mine",
            f"{work / 'model.py'}:make",
            work / "photos.h5",
            "-l",
            "1",
            "-l",
            "4",
            "-o",
            part,
            "--shard",
            f"{i}/3",
            "--quiet",
            *SIZE,
        )
    run("merge", *parts, "-o", tmp_path / "all.h5")
    with h5py.File(tmp_path / "all.h5") as merged, h5py.File(work / "mined.h5") as single:
        for name in ("values", "images", "positions", "fired"):
            assert np.array_equal(merged[f"layers/4/{name}"], single[f"layers/4/{name}"]), name


def bad(work: pathlib.Path, tmp: pathlib.Path) -> list[tuple[list[object], str]]:
    """Commands that a tired person might give, and what the one line must say."""
    model, store, mined = f"{work / 'model.py'}:make", work / "photos.h5", work / "mined.h5"
    (tmp / "empty").mkdir()
    (tmp / "text.h5").write_text("hello")
    (tmp / "half.h5").write_bytes(store.read_bytes()[:2000])
    (tmp / "halfmined.h5").write_bytes(mined.read_bytes()[:2000])
    with h5py.File(tmp / "foreign.h5", "w") as file:
        file["x"] = [1]
    (tmp / "evil.pth").write_bytes(pickle.dumps({"weight": subprocess.Popen}))
    torch.save({"0.weight": torch.zeros(12, 3, 5, 5), "9.weight": torch.zeros(1)}, tmp / "other.pth")
    torch.save([1, 2], tmp / "list.pth")
    (tmp / "bad.jpg").write_bytes(b"\xff\xd8 no picture")
    Image.new("L", (40, 40)).save(tmp / "gray.png")
    mine, to = ["mine", model, store, *SIZE, "-o", tmp / "m.h5", "-l"], ["-o", tmp / "f.png"]
    weights = ["--weights"]
    return [
        ([*mine, "features.3"], "nearest|3"),
        ([*mine, "4", "--device", "cuda:7"], "--device cpu"),
        ([*mine, "4", "--shard", "3/2"], "i/n"),
        ([*mine, "4", "--mean", "a,b"], "numbers"),
        ([*mine, "4", "--mean", "0.5"], "mean"),
        (["mine", "torchvision:resnet1", store, "-l", "x", "-o", tmp / "m.h5", *SIZE], "resnet18"),
        (["mine", "resnet18", store, "-l", "x", "-o", tmp / "m.h5"], "torchvision:NAME"),
        (["mine", "jax:resnet18", store, "-l", "x", "-o", tmp / "m.h5"], "torchvision:NAME"),
        (["mine", "nofile.py:make", store, "-l", "4", "-o", tmp / "m.h5", *SIZE], "no file"),
        (["mine", f"{work / 'model.py'}:maker", store, "-l", "4", "-o", tmp / "m.h5", *SIZE], "nearest: make"),
        (["mine", f"{work / 'model.py'}:number", store, "-l", "4", "-o", tmp / "m.h5", *SIZE], "Module"),
        (["mine", f"{work / 'model.py'}:broken", store, "-l", "4", "-o", tmp / "m.h5", *SIZE], "no GPU today"),
        (["mine", model, tmp / "nothing.h5", "-l", "4", "-o", tmp / "m.h5", *SIZE], "does not exist"),
        (["mine", model, tmp / "text.h5", "-l", "4", "-o", tmp / "m.h5", *SIZE], "not an HDF5 file"),
        (["mine", model, tmp / "half.h5", "-l", "4", "-o", tmp / "m.h5", *SIZE], "half.h5"),
        (["mine", model, tmp / "foreign.h5", "-l", "4", "-o", tmp / "m.h5", *SIZE], "no image store"),
        (["mine", model, mined, "-l", "4", "-o", tmp / "m.h5", *SIZE], "no image store"),
        (["mine", model, store, "-l", "4", "-o", tmp / "no" / "m.h5", *SIZE], "no folder"),
        (["mine", model, store, "-l", "4", "-o", mined, "-k", 4, *SIZE], "k: 9 in the file, 4 now"),
        (["mine", model, store, "-l", "4", "-o", tmp / "text.h5", *SIZE], "mined file"),
        (["layers", model, *SIZE[:4], *weights, tmp / "evil.pth"], "only tensors"),
        (
            ["layers", model, *SIZE[:4], *weights, tmp / "other.pth"],
            "missing, first 0.bias.*unexpected, first 9.weight",
        ),
        (["layers", model, *SIZE[:4], *weights, tmp / "list.pth"], "state dict"),
        (["layers", model, *SIZE[:4], *weights, tmp / "no.pth"], "no weights file"),
        (["layers", model, "--input", "3", "--resize", "3"], "does not accept"),
        (["pack", tmp / "empty", tmp / "s.h5"], "empty"),
        (["pack", tmp / "nothing", tmp / "s.h5"], "nothing"),
        (["pack", work / "photos", store], "exists"),
        (["pack", work / "photos", tmp / "no" / "s.h5"], "no folder"),
        (["grid", mined, "-l", "7", *to], "holds 1, 4"),
        (["grid", mined, "-l", "4", "-c", "99", *to], "0 to 19"),
        (["grid", mined, "-l", "4", "-c", "one", *to], "active, random"),
        (["grid", mined, "-l", "4", "--crop", "small", *to], "receptive-field"),
        (["grid", mined, "-l", "4", "--crop", "0", *to], "pixels"),
        (["grid", mined, "-l", "4", "-o", tmp / "f.bmp"], ".png, .pdf, .svg"),
        (["grid", mined, "-l", "4", "-o", tmp / "no" / "f.png"], "no folder"),
        (["grid", tmp / "halfmined.h5", "-l", "4", *to], "mined"),
        (["grid", store, "-l", "4", *to], "mined"),
        (["project", model, tmp / "bad.jpg", "-l", "4", "-c", "1", *to, *SIZE], "cannot|image"),
        (["project", model, tmp / "no.jpg", "-l", "4", "-c", "1", *to, *SIZE], "no image"),
        (["project", model, tmp / "gray.png", "-l", "4", "-c", "20", *to, *SIZE], "0 to 19"),
        (["project", model, tmp / "gray.png", "-l", "4", "-c", "1", "-p", "9,9", *to, *SIZE], "8 x 8"),
        (["project", model, tmp / "gray.png", "-l", "4", "-c", "1", "-p", "9", *to, *SIZE], "y,x"),
    ]


def snapshot(*folders: pathlib.Path) -> dict[str, bytes]:
    files = [p for folder in folders for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    return {str(p): p.read_bytes() for p in files}


def test_bad_input_gets_one_clear_line_and_changes_no_file(work: pathlib.Path, tmp_path: pathlib.Path) -> None:
    cases = bad(work, tmp_path)
    before = snapshot(work, tmp_path)
    for args, expected in cases:
        result = CliRunner().invoke(cli, [str(a) for a in args])
        error = result.exception
        assert isinstance(error, DeconvvizError), (args, result.output, error)
        assert re.search(expected, str(error)), (args, str(error))
        assert "\n" not in str(error), args
        assert snapshot(work, tmp_path) == before, args


@pytest.mark.slow
def test_exit_codes_and_debug(tmp_path: pathlib.Path) -> None:
    """As a process: code 2, one line on standard error, a traceback only when asked for."""
    command = [
        sys.executable,
        "-m",
        "deconvviz",
        "grid",
        str(tmp_path / "no.h5"),
        "-l",
        "x",
        "-o",
        str(tmp_path / "g.png"),
    ]
    plain = subprocess.run(command, capture_output=True, text=True, check=False)
    assert plain.returncode == 2 and plain.stdout == ""
    assert plain.stderr.count("\n") == 1 and plain.stderr.startswith("deconvviz: ") and "does not exist" in plain.stderr
    debug = subprocess.run([*command, "--debug"], capture_output=True, text=True, check=False)
    assert debug.returncode not in (0, 2) and "Traceback" in debug.stderr
    unknown = subprocess.run([sys.executable, "-m", "deconvviz", "mien"], capture_output=True, text=True, check=False)
    assert unknown.returncode == 2 and "nearest: mine" in unknown.stderr


@pytest.mark.slow
def test_a_full_disk_leaves_the_mined_file_alone(
    run: Run, work: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every write fails as on a full disk: the figure is not written, the file keeps its bytes."""
    mined = tmp_path / "mined.h5"
    mined.write_bytes((work / "mined.h5").read_bytes())
    before = mined.read_bytes()

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(DeconvvizError, match=r"No space left.*free some space"):
        run("grid", mined, "-l", "4", "-o", tmp_path / "g.png", "-n", "2", "--quiet")
    assert mined.read_bytes() == before and sorted(p.name for p in tmp_path.iterdir()) == ["mined.h5"]


@pytest.mark.slow
def test_the_main_job_on_real_photos(run: Run, data: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """SqueezeNet on the photos: the classes are right, the figure's filter 150 shows its lettering."""
    import deconvviz as dv

    weights = data / "squeezenet1_0-imagenet-fp16.pth"
    model = ["torchvision:squeezenet1_0", "--weights", weights, "--input", "227", "--resize", "256"]
    run("pack", data / "imagenet-sample", tmp_path / "photos.h5", "--quiet")
    run(
        "mine", model[0], tmp_path / "photos.h5", *model[1:], "-l", "features.7", "-o", tmp_path / "mined.h5", "--quiet"
    )
    run("grid", tmp_path / "mined.h5", "-l", "features.7", "-c", "150", "-o", tmp_path / "f.png", "--quiet")
    with dv.ImageStore.open(tmp_path / "photos.h5") as store:
        names = [store.names[i] for i in dv.load_mined(tmp_path / "mined.h5")["features.7"].images[150]]
    assert len(names) == 9
    lettered = ("plastic_bag", "trolleybus", "cab", "typewriter_keyboard", "suit", "microphone")
    assert sum(any(word in name for word in lettered) for name in names) >= 4, names
