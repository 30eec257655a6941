"""An option that does something only beside another one is refused without it: none is passed over."""

from __future__ import annotations

import pathlib
from typing import Any

import click
import pytest
from click.testing import CliRunner

from deconvviz.cli.dependent import Dependent
from deconvviz.cli.main import cli
from deconvviz.errors import DataError


def commands() -> dict[str, click.Command]:
    context = click.Context(cli)
    return {name: command for name in cli.list_commands(context) if (command := cli.get_command(context, name))}


DEPENDENT = [
    (name, option) for name, command in commands().items() for option in command.params if isinstance(option, Dependent)
]


def value_of(option: click.Option) -> list[str]:
    if option.is_flag:
        return []
    return [option.type.choices[0]] if isinstance(option.type, click.Choice) else ["1"]


@pytest.mark.parametrize(("name", "option"), DEPENDENT, ids=[f"{name} {o.opts[-1]}" for name, o in DEPENDENT])
def test_it_is_refused_alone_and_what_it_needs_exists(name: str, option: Dependent) -> None:
    command, typed = commands()[name], max(option.opts, key=len)
    known = {text for parameter in command.params for text in parameter.opts}
    assert known.issuperset(option.needs)
    result = CliRunner().invoke(command, ["a", "b", typed, *value_of(option)])
    assert isinstance(result.exception, DataError), result.output
    assert str(result.exception).startswith(typed) and f"given without {option.needs[0]}" in str(result.exception)
    needed = next(each for each in command.params if option.needs[0] in each.opts)
    assert isinstance(needed, click.Option)
    both = [typed, *value_of(option), option.needs[0], *value_of(needed)]
    assert "given without" not in str(CliRunner().invoke(command, ["a", "b", *both]).exception)


def test_there_are_some_in_many_commands() -> None:
    assert len({name for name, _ in DEPENDENT}) > 12


def refused(*words: Any) -> str:
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert isinstance(result.exception, DataError), result.output
    return str(result.exception)


def test_options_of_a_zfnet_are_refused_for_another_network(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "a.pth"
    for command in ("train", "pretrain"):
        for words in (["--conv", "3,4"], ["--remove", "3"], ["--fc", "9,9"], ["--first", "alexnet"], ["--width", "2"]):
            said = refused(command, "torchvision:resnet18", "scenes:20:1", "-o", out, *words)
            assert f"{words[0]} given for torchvision:resnet18; it is an option of zfnet" in said
    assert not out.exists()


def test_weights_are_not_written_to_a_file_named_as_a_picture(tmp_path: pathlib.Path) -> None:
    for command in (["train", "zfnet"], ["pretrain", "zfnet"], ["train-cam", "l-cam-img", "demo"]):
        assert "expected a name that ends in .pth" in refused(*command, "scenes:20:1", "-o", tmp_path / "net.png")


def test_how_many_filters_is_not_said_beside_their_numbers(tmp_path: pathlib.Path) -> None:
    mined = tmp_path / "m.h5"
    asked = ["mine", "demo", "scenes:6:1", "-l", "relu3", "-o", str(mined), "--quiet"]
    assert CliRunner().invoke(cli, asked).exit_code == 0
    said = refused("grid", mined, "-l", "relu3", "-c", "1,2", "-n", "5", "-o", tmp_path / "g.png")
    assert "--count given beside the numbers 1,2" in said
