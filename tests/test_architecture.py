"""The layout holds: imports go downwards, each library has its one home, modules and bodies stay short."""

from __future__ import annotations

import ast
import pathlib
import re

PACKAGE = pathlib.Path(__file__).resolve().parent.parent / "deconvviz"
ROOT = {"errors", "registry"}
# What a room may import. An engine room imports no study.
BELOW: dict[str, set[str]] = {"graph": ROOT, "results": ROOT}
BELOW["data"] = ROOT | {"results"}
BELOW["models"] = ROOT
BELOW["deconv"] = ROOT | {"graph", "data", "models"}
BELOW["metrics"] = BELOW["deconv"]
BELOW["cam"] = BELOW["deconv"] | {"deconv", "metrics", "results"}
BELOW["figures"] = {"errors"}
BELOW["web"] = ROOT | {"results"}
BELOW["studies"] = BELOW["cam"] | {"cam", "figures", "web", "studies"}
BELOW["cli"] = BELOW["studies"]


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


def modules() -> list[tuple[str, str, ast.Module]]:
    paths = sorted(PACKAGE.rglob("*.py"))
    assert len(paths) > 30
    return [(p.relative_to(PACKAGE).as_posix(), p.read_text(), ast.parse(p.read_text())) for p in paths]


def test_imports_go_downwards() -> None:
    for name, _, tree in modules():
        folder = name.split("/")[0]
        used = {m.split(".")[1] for m in imports(tree) if m.startswith("deconvviz.")} - {"__version__", folder}
        if folder in BELOW:
            allowed = BELOW[folder] | ({"cli"} if name.endswith("command.py") else set())
            assert used <= allowed, f"{name} imports {used - allowed}"


def test_each_library_has_its_one_room() -> None:
    homes = {
        "torch.export": r"graph/capture\.py",
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
        draws = name.startswith(("figures/", "web/", "studies/atlas/site/")) or name.endswith("figure.py")
        assert not (draws and any(m.split(".")[0] == "torch" for m in used)), name


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
