"""Every addition: off it is plain training, killed it ends the same, and it leaves a plain network behind."""

from __future__ import annotations

import pathlib
import sys

import numpy as np
import pytest
import torch
from additions import TRIALS, addition_for, trained
from click.testing import CliRunner
from torchvision.transforms import v2

from deconvviz.cli.main import cli, main
from deconvviz.errors import MismatchError, TrainingError
from deconvviz.models.weights import read_weights
from deconvviz.studies.training.additions.base import Addition, Step
from deconvviz.studies.training.additions.hiding import HideAndSeek
from deconvviz.studies.training.additions.listing import addition_declarations
from deconvviz.studies.training.additions.mixing import ColourJitter, MixUp, RandomErasing
from deconvviz.studies.training.additions.registry import ADDITIONS, addition, options_of, register_all

register_all()


class Killed(Exception):
    """Stands for a kill: nothing of the process is left but its files."""


class Nothing(Addition):
    """An addition that draws and changes nothing, and is killed before a step where it is told to."""

    name = "nothing"

    def __init__(self, killed_at: tuple[int, int] | None = None) -> None:
        self.killed_at = killed_at

    def after_backward(self, step: Step) -> None:
        step.numbers(self.name).random()
        with step.drawing(self.name):
            torch.rand(3)
        if self.killed_at == (step.epoch, step.number):
            raise Killed


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def without_seconds(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{name: value for name, value in record.items() if name != "seconds"} for record in history]


def test_each_addition_has_a_trial_and_tells_its_options() -> None:
    assert set(TRIALS) == set(ADDITIONS) == set(addition_declarations())
    for name, kind in ADDITIONS.items():
        said = addition_declarations()[name].docstring
        assert "Source:" in said, f"{name} names no source"
        for option in options_of(kind):
            assert option in said, f"{name} does not explain {option}"


def test_an_addition_that_does_nothing_is_plain_training_bit_for_bit(tmp_path: pathlib.Path) -> None:
    plain = trained(tmp_path / "plain.pth", [])
    with_nothing = trained(tmp_path / "nothing.pth", [Nothing()])
    assert equal(plain.model.state_dict(), with_nothing.model.state_dict())
    assert without_seconds(plain.history) == without_seconds(with_nothing.history)


@pytest.mark.parametrize("name", [name for name, trial in TRIALS.items() if trial.off is not None])
def test_switched_off_it_is_plain_training_bit_for_bit(name: str, tmp_path: pathlib.Path) -> None:
    trial = TRIALS[name]
    assert trial.off is not None
    plain = trained(tmp_path / "plain.pth", [], trial.network)
    off = trained(tmp_path / "off.pth", [addition(name, **trial.off(tmp_path))], trial.network)
    assert equal(plain.model.state_dict(), off.model.state_dict())


@pytest.mark.parametrize("name", list(TRIALS))
def test_killed_and_resumed_it_ends_the_same_and_leaves_a_plain_network(name: str, tmp_path: pathlib.Path) -> None:
    trial = TRIALS[name]
    straight = trained(tmp_path / "straight.pth", [addition_for(name, tmp_path), Nothing()], trial.network)
    plain = trained(tmp_path / "plain.pth", [Nothing()], trial.network)
    assert not equal(plain.model.state_dict(), straight.model.state_dict()), "the addition changes nothing"
    for moment in ((0, 1), (1, 0), (1, 2)):
        with pytest.raises(Killed):
            trained(tmp_path / "killed.pth", [addition_for(name, tmp_path), Nothing(moment)], trial.network)
    resumed = trained(tmp_path / "killed.pth", [addition_for(name, tmp_path), Nothing()], trial.network)
    assert equal(straight.model.state_dict(), resumed.model.state_dict())
    assert without_seconds(straight.history) == without_seconds(resumed.history)
    untouched = trial.network()
    assert list(straight.model.state_dict()) == list(untouched.state_dict())  # and not a name more
    assert not any(module._forward_hooks or module._backward_hooks for module in straight.model.modules())
    assert read_weights(tmp_path / "straight.pth").state.keys() == untouched.state_dict().keys()


@pytest.mark.parametrize("name", list(TRIALS))
def test_a_training_is_not_continued_with_other_additions(name: str, tmp_path: pathlib.Path) -> None:
    trained(tmp_path / "t.pth", [addition_for(name, tmp_path)], TRIALS[name].network)
    before = (tmp_path / "t.pth").read_bytes()
    with pytest.raises(MismatchError, match="additions"):
        trained(tmp_path / "t.pth", [], TRIALS[name].network)
    assert (tmp_path / "t.pth").read_bytes() == before


def step(count: int = 6) -> Step:
    return Step(indices=np.arange(count), labels=torch.arange(count) % 2, epoch=1, number=4, seed=3)


def test_hide_and_seek_hides_whole_cells_and_the_share_that_was_asked_for() -> None:
    x = torch.ones(400, 3, 12, 12)
    hidden, targets = HideAndSeek(cells=4, hidden=0.3).inputs(x, torch.zeros(400), step(400))
    cells = hidden.unfold(2, 3, 3).unfold(3, 3, 3).flatten(4)  # [n, C, 4, 4, 9]
    assert torch.equal(cells.amin(-1), cells.amax(-1)) and torch.equal(hidden[:, 0], hidden[:, 2])
    assert float((cells[:, 0, :, :, 0] == 0).double().mean()) == pytest.approx(0.3, abs=4 * (0.21 / 6400) ** 0.5)
    assert not torch.equal(hidden[0], hidden[1]) and torch.equal(targets, torch.zeros(400))


def test_brightness_is_a_factor_of_each_image() -> None:
    crops = np.random.default_rng(0).integers(10, 120, (5, 8, 8, 3), np.uint8)
    changed = ColourJitter(brightness=0.5, contrast=0, saturation=0, hue=0).crops(crops.copy(), step(5))
    factors = changed.astype(float).sum((1, 2, 3)) / crops.sum((1, 2, 3))
    assert np.ptp(factors) > 0.05 and (factors > 0.49).all() and (factors < 1.51).all()
    np.testing.assert_allclose(changed, crops * factors[:, None, None, None], atol=1.1)


def test_what_is_erased_is_one_rectangle_of_the_size_that_was_asked_for() -> None:
    erasing, x = RandomErasing(probability=1.0, smallest=0.1, largest=0.2), torch.ones(50, 3, 20, 20)
    erased, _ = erasing.inputs(x, torch.zeros(50), step(50))
    for image in erased:
        rows, columns = np.nonzero((image[0] == 0).numpy())
        area = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        assert area == len(rows) and 0.06 < area / 400 < 0.25


def test_mixup_mixes_images_and_targets_in_the_same_shares() -> None:
    mixing = MixUp(alpha=1.0)
    mixing._mix = v2.MixUp(alpha=1.0, num_classes=3)
    x, labels = torch.randn(4, 3, 5, 5), torch.tensor([0, 1, 2, 0])
    mixed, targets = mixing.inputs(x, labels, step(4))
    share = float(targets[1, 1])
    assert 0 < share < 1
    torch.testing.assert_close(mixed[1], share * x[1] + (1 - share) * x[0])
    torch.testing.assert_close(targets[1], torch.tensor([1 - share, share, 0.0]))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("--with hide-and-sek", "no addition named 'hide-and-sek'"),
        ("--with mixup --option cells=3", "option 'cells' given, which mixup has not"),
        ("--option cells=3", "but no addition was named by --with"),
        ("--with hide-and-seek --option cells=0", "cells 0 given"),
        ("--with hide-and-seek --option cells=2.5", "cells=2.5 given; expected a whole number"),
        ("--with hide-and-seek --option cells=many", "cells='many' given"),
        ("--with mixup --option alpha=none", "alpha='none' given; expected a number"),
        ("--with mixup,mixup", "mixup is asked for twice"),
        ("--with hide-and-seek --option cells=400", "the input has 32 pixels"),
        ("--with mixup --option alpha", "expected KEY=VALUE"),
    ],
)
def test_a_wrong_addition_is_refused_in_one_line(
    arguments: str,
    complaint: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "t.pth"
    command = f"deconvviz train zfnet scenes:20 --input 32 --width 0.05 --validation 0 --epochs 1 --quiet -o {out}"
    monkeypatch.setattr(sys, "argv", [*command.split(), *arguments.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr().err.strip().splitlines()
    assert ended.value.code == 2 and len(told) == 1 and complaint in told[0], told
    assert not out.exists()


def test_the_command_trains_several_seeds_with_tables(tmp_path: pathlib.Path) -> None:
    command = (
        f"train zfnet scenes:20 --input 32 --width 0.05 --epochs 2 --quiet --seed 4 --seeds 2 --batch-size 8 "
        f"--with hide-and-seek,mixup --option cells=2 --validation 0 -o {tmp_path}/t.pth --csv {tmp_path}/h.csv"
    )
    result = CliRunner().invoke(cli, command.split(), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    states = [torch.load(tmp_path / f"t-seed{seed}.pth", weights_only=True) for seed in (4, 5)]
    assert [state["identity"]["recipe"]["seed"] for state in states] == [4, 5]
    assert states[0]["identity"]["additions"][0] == {"name": "hide-and-seek", "cells": 2, "hidden": 0.5}
    assert not equal(states[0]["state_dict"], states[1]["state_dict"])
    rows = (tmp_path / "h-seed5.csv").read_text().splitlines()
    assert rows[0].startswith("epoch,lr,loss,accuracy") and len(rows) == 3


def test_python_takes_additions_by_name(tmp_path: pathlib.Path) -> None:
    import deconvviz as dv

    assert isinstance(dv.addition("hide-and-seek"), dv.Addition)
    assert dv.addition("hide-and-seek", cells=3).settings() == {"cells": 3, "hidden": 0.5}
    with pytest.raises(TrainingError, match="has no option 'cell'"):
        dv.addition("hide-and-seek", cell=3)
    with pytest.raises(TrainingError, match="the input has 12 pixels"):
        trained(tmp_path / "t.pth", [dv.addition("hide-and-seek", cells=13)])
    assert not (tmp_path / "t.pth").exists()
