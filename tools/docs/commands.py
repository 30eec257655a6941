"""Check the documentation's examples: every command parses, every Python block compiles, every link has its target.

Commands in code blocks must be complete and valid; those inside of a sentence may leave out arguments. Nothing is run.

    .venv/bin/python tools/docs/commands.py
"""

from __future__ import annotations

import pathlib
import re
import shlex
import sys
import textwrap
from collections.abc import Iterator

import click

from deconvviz.cli.main import COMMANDS, cli
from deconvviz.errors import DeconvvizError

ROOT = pathlib.Path(__file__).resolve().parents[2]
HOME = "https://github.com/deconvviz/deconvviz"
BLOCK = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", flags=re.M | re.S)
INLINE = re.compile(r"`(deconvviz [^`]+)`")
LINK = re.compile(rf"{re.escape(HOME)}/(?:blob|raw|tree)/main/([^\s)#]+)")


def commands(block: str) -> Iterator[str]:
    """Yield the deconvviz commands of a code block, with continued lines joined.

    >>> list(commands("ls\\ndeconvviz pack photos/ \\\\\\n    out.h5  # all\\n"))
    ['deconvviz pack photos/      out.h5  # all']
    """
    for line in re.sub(r"\\\n", " ", block).splitlines():
        if line.strip().startswith("deconvviz "):
            yield line.strip()


def wrong(command: str, complete: bool) -> str | None:
    """Return what is wrong with a command line, None where nothing is."""
    _, *words = shlex.split(command, comments=True)
    if words[0].startswith("-"):  # an option of `deconvviz` itself
        return None
    name, *arguments = words
    if name not in COMMANDS:
        return f"no command {name!r}"
    group = click.Context(cli)
    found = cli.get_command(group, name)
    assert found is not None
    lists = {option for parameter in found.get_params(group) if parameter.is_eager for option in parameter.opts}
    try:
        if lists & set(arguments):  # such as --list: to make the context would print it
            found.make_parser(click.Context(found)).parse_args(arguments)
        else:
            found.make_context(name, arguments, parent=group)
    except click.MissingParameter as error:
        return error.format_message() if complete else None
    except click.ClickException as error:
        return error.format_message()
    except DeconvvizError as error:
        return str(error)
    return None


def complaints(path: pathlib.Path) -> Iterator[str]:
    """Yield what is wrong in a page."""
    text = path.read_text(encoding="utf-8")
    for _, language, block in BLOCK.findall(text):
        for command in commands(block):
            if said := wrong(command, complete=True):
                yield f"{command}: {said}"
        if language == "python":
            try:
                compile(textwrap.dedent(block), str(path), "exec")
            except SyntaxError as error:
                yield f"a Python block does not compile: {error}"
    for command in INLINE.findall(BLOCK.sub("", text)):
        if said := wrong(" ".join(command.split()), complete=False):
            yield f"`{command}`: {said}"
    for target in LINK.findall(text):
        if not (ROOT / target).exists():
            yield f"{HOME}/.../{target}: no such file in the repository"


def main() -> int:
    """Check README, CONTRIBUTING and all pages; return 1 where something is wrong."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    found = [f"{page.relative_to(ROOT)}: {said}" for page in pages for said in complaints(page)]
    print(*found, f"{len(pages)} pages, {len(found)} complaints", sep="\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
