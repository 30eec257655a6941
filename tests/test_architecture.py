"""The layout holds: imports go downwards, each library has its one home, modules and bodies stay short."""

from __future__ import annotations

import ast
import pathlib
import re
from functools import cache

PACKAGE = pathlib.Path(__file__).resolve().parent.parent / "deconvviz"
# What a room may import. The files beside the rooms (errors, types, choices, ...) are everybody's.
ROOT = {
    "errors",
    "registry",
    "types",
    "choices",
    "arrays",
    "halving",
    "lengths",
    "notebook",
    "progress",
    "version",
    "declarations",
    "words",
}
BELOW: dict[str, set[str]] = {"graph": ROOT, "results": ROOT}
BELOW["data"] = ROOT | {"results"}
BELOW["models"] = ROOT
BELOW["run"] = ROOT | {"graph", "results", "data", "models"}
BELOW["deconv"] = ROOT | {"graph", "metrics"}
BELOW["metrics"] = ROOT
BELOW["cam"] = ROOT | {"graph", "results", "models", "data", "deconv"}
BELOW["figures"] = ROOT
BELOW["web"] = ROOT | {"results"}
ENGINE = ROOT.union(*BELOW.values()) | {"cam", "metrics", "figures", "web", "run", "deconv"}
BELOW["studies"] = ENGINE
BELOW["drawing"] = ENGINE | {"studies"}
BELOW["cli"] = ENGINE
# The studies that a study may import, besides itself.
STUDIES_BELOW = {
    "ablation": {"training"},
    "atlas": {"evolution", "invariance", "mining", "relevance", "visualisation"},
    "comparison": {"diagnosis", "mining"},
    "dissection": {"mining"},
    "evaluation": {"attack"},  # what an attack changed, and its pixels
    "evolution": {"mining"},
    "explainers": {"evaluation"},
    "latent": {"mining"},  # top-k tables, of samples
    "pretraining": {"training"},
    "recurrent": {"mining"},  # top-k tables, of passages
    "relevance": {"mining"},
    "probing": {"training"},
    "training": {"diagnosis"},  # the page that is written after each epoch
    "pruning": {"mining", "training"},  # patches of the filters that went; fine-tuning
    "mining": {"visualisation"},  # its commands, which no module imports
    "visualisation": {"mining"},  # likewise
}


@cache
def imports(tree: ast.AST) -> set[str]:
    """Modules imported for running; what stands under TYPE_CHECKING is for the type checker."""
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if node not in typing_only and isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif node not in typing_only and isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@cache
def modules() -> list[tuple[str, str, ast.Module]]:
    paths = sorted(PACKAGE.rglob("*.py"))
    assert len(paths) > 30
    return [(p.relative_to(PACKAGE).as_posix(), p.read_text(), ast.parse(p.read_text())) for p in paths]


def rooms_imported(tree: ast.AST) -> set[str]:
    return {name.split(".")[1] for name in imports(tree) if name.startswith("deconvviz.")}


def studies_imported(tree: ast.AST) -> set[str]:
    """The studies that a module imports; names of `deconvviz.studies` itself are studies too."""
    return {name.split(".")[2] for name in imports(tree) if name.startswith("deconvviz.studies.")}


def test_rooms_import_downwards_and_the_engine_no_study() -> None:
    for name, _, tree in modules():
        room = name.split("/")[0]
        if room not in BELOW:
            continue
        allowed = BELOW[room] | {room}
        if room == "studies" and name.endswith("command.py"):
            allowed = allowed | {"cli"}
        used = rooms_imported(tree)
        assert used <= allowed, f"{name} imports {used - allowed}"


def test_a_study_imports_another_only_where_the_list_says_so() -> None:
    # A comparison shows what others measure, before and after; and a training, its diagnosis: without these arrows both
    # would be written twice.
    assert sum(map(len, STUDIES_BELOW.values())) <= 22
    for name, _, tree in modules():
        if name.startswith("studies/") and name.count("/") > 1:
            study = name.split("/")[1]
            used = studies_imported(tree) - {study}
            assert used <= STUDIES_BELOW.get(study, set()), f"{name} imports {used}"


def test_results_know_no_network_and_figures_no_torch() -> None:
    for name, _, tree in modules():
        libraries = {module.split(".")[0] for module in imports(tree)}
        if name.startswith("studies/") and name.endswith("/result.py"):
            assert "torch" not in libraries and "graph" not in rooms_imported(tree), name
        drawn = name.startswith(("figures/", "web/", "studies/atlas/site/")) or name.endswith("figure.py")
        if drawn:
            assert "torch" not in libraries, name


def test_no_two_modules_import_each_other_in_a_circle() -> None:
    """Also none that is hidden in a function: every import counts."""
    trees = {"deconvviz." + name.removesuffix(".py").replace("/", "."): tree for name, _, tree in modules()}
    arrows = {name: {used for used in imports(tree) if used in trees and used != name} for name, tree in trees.items()}
    # cli/main finds a command by its name, so that nothing below it is imported there.
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for used in sorted(arrows[name]):
                visit(used, (*path, name))
            done.add(name)

    for name in sorted(trees):
        visit(name, ())


def test_each_library_has_its_one_room() -> None:
    homes = {
        "torch.export": r"graph/(capture|exporting)\.py",
        "h5py": r"data/|results/",
        "matplotlib": r"figures/|studies/.*figure\.py",
        "click": r"cli/|studies/.*command\.py",
        "jinja2": r"web/",
    }
    for name, text, tree in modules():
        used = imports(tree)
        for library, home in homes.items():
            if library in used or (library == "torch.export" and "torch.export." in text):
                assert re.match(home, name), f"{name} imports {library}"


def test_modules_and_bodies_stay_short() -> None:
    for name, text, tree in modules():
        assert text.count("\n") <= 400, name
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                assert not body or node.end_lineno is None or node.end_lineno - body[0].lineno < 41, (name, node.name)


def test_weights_are_never_unpickled() -> None:
    loads = [
        (name, node)
        for name, _, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
    ]
    assert loads
    for name, node in loads:
        assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords), name


def test_no_function_within_another_calls_itself() -> None:
    """It would hold itself, and with it whatever it sees, such as maps, until Python looks for cycles."""
    recursive = [
        f"{path.name}: {inner.name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for outer in ast.walk(ast.parse(path.read_text()))
        if isinstance(outer, ast.FunctionDef)
        for inner in ast.walk(outer)
        if isinstance(inner, ast.FunctionDef)
        and inner is not outer
        and any(isinstance(part, ast.Name) and part.id == inner.name for part in ast.walk(inner))
    ]
    assert not recursive
