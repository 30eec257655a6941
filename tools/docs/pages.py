"""Pages that are made while the site is built: the commands, the reference, CONTRIBUTING and CHANGELOG.

mkdocs-gen-files runs this file. The reference has the names of `deconvviz.__all__`, each where it is defined; griffe
reads the source, so that torch is not imported.
"""

from __future__ import annotations

import ast
import pathlib
import re
import sys
from collections import defaultdict
from typing import Any

import click
import griffe
import mkdocs_gen_files

ROOT = pathlib.Path(__file__).resolve().parents[2]
HOME = "https://github.com/deconvviz/deconvviz"
WIDTH = 80  # columns of a command's help
# Not in `deconvviz.__all__`, because its module needs Lightning.
ALSO = "deconvviz.studies.training.lightning.SnapshotCallback"


def read() -> griffe.Module:
    """Return the package as griffe sees it."""
    package = griffe.load("deconvviz", search_paths=[str(ROOT)])
    assert isinstance(package, griffe.Module)
    return package


def public_names() -> list[str]:
    """Return the names that `deconvviz/__init__.pyi` exports: those that it imports as themselves."""
    stub = ast.parse((ROOT / "deconvviz" / "__init__.pyi").read_text(encoding="utf-8"))
    imported = [alias for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    return [alias.name for alias in imported if alias.asname == alias.name and not alias.name.startswith("_")]


def public_homes(package: griffe.Module) -> dict[str, griffe.Object]:
    """Return each public name's object, found in the module that defines it."""
    found = {}
    for name in public_names():
        # A name that is a sub-package as well, such as `cam`, is taken from where `deconvviz/__init__.py` imports it.
        path = package.imports.get(name)
        if path is None:
            raise SystemExit(
                f"tools/docs/pages.py: deconvviz/__init__.py names {name} in __all__ but imports it nowhere"
            )
        found[name] = defined(package, path)
    return found


def defined(package: griffe.Module, path: str) -> griffe.Object:
    """Return the object at a dotted path, in the module that defines it even where others import it from elsewhere."""
    try:
        target = package[path.removeprefix("deconvviz.")]
        return target.final_target if isinstance(target, griffe.Alias) else target
    except (KeyError, griffe.AliasResolutionError) as error:
        raise SystemExit(f"tools/docs/pages.py: {path} is not in the source: {error}") from None


def returned(package: griffe.Module, target: griffe.Object) -> list[griffe.Object]:
    """Return the classes of this package that a function returns."""
    if not isinstance(target, griffe.Function) or not isinstance(target.returns, griffe.Expr):
        return []
    names = [part for part in target.returns.iterate(flat=True) if isinstance(part, griffe.ExprName)]
    paths = [name.canonical_path for name in names if name.canonical_path.startswith("deconvviz.")]
    return [found for found in (defined(package, path) for path in paths) if found.is_class]


def room(path: str) -> str:
    """Return the page that an object belongs to: its room, or its study.

    >>> room("deconvviz.graph.capture.capture"), room("deconvviz.studies.mining.mine.mine"), room("deconvviz.types.Box")
    ('graph', 'studies.mining', 'types')
    """
    parts = path.split(".")[1:]
    return ".".join(parts[:2] if parts[0] == "studies" else parts[:1])


def first_line(package: griffe.Module, name: str) -> str:
    """Return the first line of a room's or a study's own docstring."""
    docstring = package[name].docstring
    return docstring.value.splitlines()[0] if docstring else ""


def write_reference() -> list[dict[str, Any]]:
    """Write one page for each room and study, and an index; return their part of the navigation.

    Beside the public names the pages have the classes that public functions return, and every kind of error.
    """
    package = read()
    public = public_homes(package)
    shown = {target.path for target in public.values()} | {defined(package, ALSO).path}
    shown |= {found.path for target in public.values() for found in returned(package, target)}
    shown |= {error.path for error in package["errors"].classes.values() if not error.is_alias}
    pages: dict[str, list[str]] = defaultdict(list)
    for path in shown:
        pages[room(path)].append(path)
    studies = {name: paths for name, paths in sorted(pages.items()) if name.startswith("studies.")}
    rooms = {name: paths for name, paths in sorted(pages.items()) if name not in studies}

    for name, paths in pages.items():
        with mkdocs_gen_files.open(f"reference/{name}.md", "w") as file:
            file.write(f"# {name}\n\n{first_line(package, name)}\n")
            file.writelines(f"\n::: {path}\n" for path in sorted(paths, key=lambda path: path.split(".")[-1].lower()))

    with mkdocs_gen_files.open("reference/index.md", "w") as file:
        file.write("# Reference\n\n")
        file.write(
            "These are the names that `import deconvviz as dv` gives. Each of them is imported when it is first used. "
            "The other modules of the package are its inside and may change; [the architecture](../architecture.md) "
            "tells how they fit together.\n\n"
        )
        for name, target in sorted(public.items(), key=lambda item: item[0].lower()):
            said = target.docstring.value.splitlines()[0] if target.docstring else ""
            file.write(f"* [`{name}`]({room(target.path)}.md#{target.path}): {said}\n")
    navigation: list[dict[str, Any]] = [{"All names": "reference/index.md"}]
    navigation += [{name: f"reference/{name}.md"} for name in rooms]
    return [*navigation, {"studies": [{name.split(".")[1]: f"reference/{name}.md"} for name in studies]}]


def write_commands() -> str:
    """Write the page of all commands with what their --help says; return its path."""
    sys.path.insert(0, str(ROOT))
    from deconvviz.cli.main import COMMANDS, cli

    settings = {**cli.context_settings, "max_content_width": WIDTH, "terminal_width": WIDTH}
    group = click.Context(cli, info_name="deconvviz", **settings)
    with mkdocs_gen_files.open("commands.md", "w") as file:
        file.write("# Commands\n\nThis is what `deconvviz COMMAND --help` prints.\n")
        for name in COMMANDS:
            command = cli.get_command(group, name)
            assert command is not None
            context = click.Context(command, parent=group, info_name=name)
            file.write(f"\n## {name}\n\n```text\n{command.get_help(context)}\n```\n")
    return "commands.md"


def write_root_page(source: str, page: str) -> bool:
    """Copy a page from the repository's root, where it is there, with links that work from here."""
    path = ROOT / source
    if not path.exists():
        return False

    def moved(match: re.Match[str]) -> str:
        target = match[1]
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        return f"]({target.removeprefix('docs/') if target.startswith('docs/') else f'{HOME}/blob/main/{target}'})"

    with mkdocs_gen_files.open(page, "w") as file:
        file.write(re.sub(r"\]\(([^)\s]+)\)", moved, path.read_text(encoding="utf-8")))
    return True


def main() -> None:
    """Write the pages and put them into the navigation that mkdocs.yml leaves open for them."""
    written: dict[str, Any] = {"Commands": write_commands(), "Reference": write_reference()}
    for title, source, page in (
        ("Contributing", "CONTRIBUTING.md", "contributing.md"),
        ("Changes", "CHANGELOG.md", "changes.md"),
    ):
        if write_root_page(source, page):
            written[title] = page
    navigation = mkdocs_gen_files.config["nav"]
    place = next(place for place, entry in enumerate(navigation) if "Glossary" in entry)
    navigation[place + 1 : place + 1] = [{title: written.pop(title)} for title in ("Commands", "Reference")]
    navigation += [{title: page} for title, page in written.items()]


main()
