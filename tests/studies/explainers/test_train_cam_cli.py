"""`deconvviz train-cam`, and what it wrote in `cam` and `evaluate`: real files, and what bad input gets."""

from __future__ import annotations

import csv
import json
import pathlib

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import deconvviz as dv
from deconvviz.cam.catalogue import learned_declarations
from deconvviz.cam.learned.base import LEARNED
from deconvviz.cam.learned.files import load_explainer
from deconvviz.cli.main import cli
from deconvviz.errors import CamError, DataError, DeconvvizError, MismatchError
from deconvviz.studies.explainers.command import DEFAULTS, ScheduleOptions, default_layers, train_cam

SHORT = ("--lr", "0.1", "--epochs", "2", "--batch-size", "16", "--quiet", "--device", "cpu")


def run(*arguments: object) -> str:
    result = CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    out = tmp_path_factory.mktemp("learned") / "lcam.pth"
    told = run(
        "train-cam", "l-cam-img", "demo", "scenes:80:3", "-l", "relu5", "-o", out, "--validation", "0.25", *SHORT
    )
    assert "20 images held out" in told and "grad-cam" in told and "deconvviz cam l-cam-img demo" in told
    return out


@pytest.mark.slow
def test_what_it_writes(trained: pathlib.Path) -> None:
    config = json.loads(trained.with_suffix(".json").read_text())
    assert config["method"] == "l-cam-img" and config["layers"] == {"relu5": [51, 7, 7]} and config["explain"] == "top"
    loaded = dv.load_model("demo")
    assert config["model_fingerprint"] == dv.capture(loaded.model, (3, 64, 64)).fingerprint
    state = torch.load(trained, weights_only=True)
    assert {name: tuple(t.shape) for name, t in state.items()} == {
        "attention.weight": (10, 51, 1, 1),
        "attention.bias": (10,),
    }
    rows = list(csv.DictReader(trained.with_suffix(".csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    for row in rows:
        terms = sum(float(row[name]) for name in ("smoothness", "area", "cross_entropy"))
        assert terms == pytest.approx(float(row["loss"]), rel=1e-5)
    assert [float(row["lr"]) for row in rows] == pytest.approx([0.1, 0.095])
    held = list(csv.DictReader(trained.with_suffix(".held-out.csv").open()))
    assert [row["method"] for row in held] == ["l-cam-img", "grad-cam"] and {row["images"] for row in held} == {"20"}


@pytest.mark.slow
def test_cam_takes_it(trained: pathlib.Path, tmp_path: pathlib.Path) -> None:
    scenes = dv.Scenes(2, seed=11)
    Image.fromarray(scenes[0][0]).save(tmp_path / "0.png")
    asked = ["cam", "l-cam-img,grad-cam", "demo", tmp_path / "0.png", "-l", "relu5", "--explainer", trained]
    run(*asked, "-o", tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert "l-cam-img: 1 forward;" in sheet.text["Description"]
    run(*asked, "-o", tmp_path / "maps.npz")
    loaded = dv.load_model("demo")
    x = dv.Preprocess.from_dict(loaded.settings)(scenes[0][0])[None]
    expected = dv.cam("l-cam-img", dv.capture(loaded.model, (3, 64, 64)), explainer=trained)(x)
    with np.load(tmp_path / "maps.npz") as arrays:
        assert np.allclose(arrays["l-cam-img"], expected.numpy(), atol=1e-4)


@pytest.mark.slow
def test_evaluate_takes_it_and_knows_it_again(trained: pathlib.Path, tmp_path: pathlib.Path) -> None:
    asked = ["evaluate", "demo", "scenes:6:7", "-l", "relu5", "-m", "l-cam-img", "--metrics", "faithfulness", "--quiet"]
    table = tmp_path / "table.csv"
    told = run(*asked, "--explainer", trained, "--sanity", "cascading", "--sanity-images", "1", "-o", table)
    assert "no sanity check of l-cam-img" in told
    (row,) = csv.DictReader(table.open())
    assert (row["forward_passes"], row["backward_passes"]) == ("1", "0")
    other = load_explainer(trained)
    state = {name: value + 0.01 for name, value in other.state_dict().items()}
    torch.save(state, tmp_path / "other.pth")
    (tmp_path / "other.json").write_text(trained.with_suffix(".json").read_text())
    with pytest.raises(MismatchError, match="methods"):
        run(*asked, "--explainer", tmp_path / "other.pth", "-o", table)


@pytest.mark.slow
def test_a_grid(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "best.pth"
    grid = ["--grid", "area=0,8", "--grid", "smoothness=0.01"]
    told = run("train-cam", "l-cam-fm", "demo", "scenes:48:3", "-l", "relu5", "-o", out, *SHORT, *grid)
    rows = list(csv.DictReader((tmp_path / "best.search.csv").open()))
    assert [row["area"] for row in rows] == ["0", "8"] and "best" in told
    drops = [sum(float(row[f"average_drop_{share}"]) for share in (100, 50, 15)) for row in rows]
    chosen = int(np.argmin(drops))
    assert [row["best"] for row in rows] == [str(int(n == chosen)) for n in range(2)]
    named = tmp_path / f"best-area{rows[chosen]['area']}-smoothness0.01.pth"
    weights = [load_explainer(path).get_parameter("attention.weight") for path in (out, named)]
    assert torch.equal(*weights)
    assert load_explainer(out).options["area"] == float(rows[chosen]["area"])


@pytest.mark.slow
def test_labels_may_be_learnt(tmp_path: pathlib.Path) -> None:
    """By label the class explained is the image's, whatever the network says; told by the share that stays right."""
    asked = ["train-cam", "l-cam-fm", "demo", "scenes:32:3", "-l", "relu5", "--validation", "0", *SHORT]
    run(*asked, "--explain", "label", "-o", tmp_path / "label.pth")
    assert json.loads((tmp_path / "label.json").read_text())["explain"] == "label"
    with pytest.raises(MismatchError, match="explain"):
        run(*asked, "-o", tmp_path / "label.pth")


def test_schedules() -> None:
    (own,) = ScheduleOptions().phases("l-cam-fm")
    assert (own.epochs, own.lr, own.bias_lr, own.decay, own.batch_size, own.weight_decay) == (
        26,
        1e-4,
        2,
        0.95,
        64,
        5e-4,
    )
    selector, masks = ScheduleOptions(epochs="3,4", lr="0.01", augment=False).phases("real-time-masking")
    assert (selector.epochs, selector.steps, masks.epochs, masks.lr, masks.augment) == (3, 0, 4, 0.01, False)
    assert (selector.fakes, masks.fakes, selector.parameters) == (0.5, 0.3, ("embedding",))
    network = dv.capture(dv.load_model("demo").model, (3, 64, 64))
    assert default_layers("l-cam-img", network) == ("relu5",)
    assert default_layers("real-time-masking", network) == ("relu1", "relu2", "relu5")
    assert default_layers("bump", network) == ("relu1", "relu2", "relu5")
    (alone,) = ScheduleOptions(steps="7").phases("bump")
    assert (alone.name, alone.steps, alone.parameters) == ("selector", 7, ("selector",))
    first, second = ScheduleOptions(lr="0.1,0.2").phases("bump", {"predictor": True})
    assert (first.name, first.lr, second.name, second.lr) == ("predictor", 0.1, "selector", 0.2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["train-cam", "l-cam", "demo"], DeconvvizError, "l-cam-fm"),
        (["train-cam", "l-cam-fm", "demo", "-l", "relu9"], DeconvvizError, "nearest"),
        (["train-cam", "l-cam-fm", "demo", "-l", "fc6"], CamError, "without rows and columns"),
        (["train-cam", "l-cam-fm", "demo", "-l", "relu4", "-l", "relu5"], DataError, "one layer, 2 given"),
        (["train-cam", "real-time-masking", "demo", "-l", "relu5"], CamError, "several sizes"),
        (
            ["train-cam", "bump", "demo", *["-l", "relu1", "-l", "relu2", "-l", "relu4", "-l", "relu5"]],
            CamError,
            "at most three",
        ),
        (["train-cam", "bump", "demo", "--option", "fill=red"], DataError, "black or mean"),
        (["train-cam", "l-cam-fm", "demo", "--option", "areas=2"], DataError, "its options are: smoothness"),
        (["train-cam", "l-cam-fm", "demo", "--option", "area"], DataError, "KEY=VALUE"),
        (["train-cam", "l-cam-fm", "demo", "--option", "area=-1"], DataError, "0 or more"),
        (["train-cam", "l-cam-fm", "demo", "--option", "start=zero"], DataError, "random or classifier"),
        (["train-cam", "l-cam-fm", "demo", "--option", "start=classifier"], CamError, "one linear layer"),
        (["train-cam", "l-cam-fm", "demo", "--epochs", "1,2"], DataError, "one value, or one for each of l-cam-fm"),
        (["train-cam", "l-cam-fm", "demo", "--lr", "0"], DataError, "positive"),
        (["train-cam", "l-cam-fm", "demo", "--grid", "area=1"], DataError, "1 settings"),
        (["train-cam", "l-cam-fm", "demo", "--grid", "area=1,2", "--validation", "0"], DataError, "nothing is held"),
        (["train-cam", "l-cam-fm", "demo", "--validation", "1"], DataError, "0 to below 1"),
    ],
)
def test_bad_input(arguments: list[str], error: type[Exception], message: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(error, match=message):
        run(*arguments, "scenes:20:3", "-o", tmp_path / "out.pth", "--quiet", "--device", "cpu")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_explainer_where_it_does_not_belong(trained: pathlib.Path, tmp_path: pathlib.Path) -> None:
    Image.fromarray(dv.Scenes(1, seed=11)[0][0]).save(tmp_path / "0.png")
    asked = ["cam", "l-cam-img", "demo", tmp_path / "0.png", "-o", tmp_path / "cam.png"]
    with pytest.raises(CamError, match="train-cam l-cam-img"):
        run(*asked)
    with pytest.raises(CamError, match="ask for l-cam-img"):
        run("cam", "grad-cam", *asked[2:], "-l", "relu5", "--explainer", trained)
    with pytest.raises(MismatchError, match=r"trained for another architecture .* give that network"):
        run(*asked[:2], "torchvision:squeezenet1_0", *asked[3:], "--weights", "none", "--explainer", trained)
    with pytest.raises(CamError, match="was trained on relu5, relu4 given"):
        dv.cam("l-cam-img", dv.capture(dv.load_model("demo").model, (3, 64, 64)), "relu4", explainer=trained)
    assert not (tmp_path / "cam.png").exists()


def test_the_help_tells_the_schedule_of_each_method() -> None:
    """Each default is that of the method's phases: one number, or one for each phase."""
    for name, kind in LEARNED.items():
        if name not in learned_declarations():
            continue  # of another test
        phases = kind.needed({})
        counts_steps = all(phase.steps for phase in phases)
        for option, text in DEFAULTS.items():
            told = {
                m: words.split(" for ")[0] for words in text.split("; ") for m in words.split(" for ")[1].split(", ")
            }
            if option == ("epochs" if counts_steps else "steps"):
                assert name not in told
                continue
            values = list(dict.fromkeys(getattr(phase, option) for phase in phases))
            assert told[name] == ",".join(f"{value:g}" for value in values), (name, option)
    shown = " ".join(CliRunner().invoke(train_cam, ["--help"]).output.split())
    assert "[default: 8500,3000 for real-time-masking; 1500 for bump]" in shown
