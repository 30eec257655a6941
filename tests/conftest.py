"""What the tests share: the real data where it is present, and the networks, captured once."""

from __future__ import annotations

import gc
import os
import pathlib
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import standin
import torch
from networks import build
from torch import nn

import deconvviz as dv

torch.set_num_threads(1)  # the tests run in two processes
pytest.register_assert_rewrite("demo_explainers")  # its assertions tell as much as those of a test file
LEFT_OUT_OF_FAST = ("slow", "kill", "browser", "peers", "data")
CHROMIUM = pathlib.Path("/usr/bin/chromium")
HELPERS = str(pathlib.Path(__file__).resolve().parent / "helpers")
# A test file that is run as a program by its own test finds the helpers as pytest does.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (HELPERS, os.environ.get("PYTHONPATH"))))


@pytest.fixture(autouse=True)
def cycles_are_collected_as_usual() -> Iterator[None]:
    """Undo what the command line sets for its process, where a test runs it in its own."""
    usual = gc.get_threshold()
    yield
    gc.set_threshold(*usual)


def data_folder() -> pathlib.Path:
    """The folder of real data: $DECONVVIZ_DATA, or ../shared/data beside the checkout."""
    root = pathlib.Path(__file__).resolve().parent.parent
    return pathlib.Path(os.environ.get("DECONVVIZ_DATA", root.parent / "shared" / "data"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer --fast, --device and --fuzz."""
    help_text = f"leave out the tests marked {', '.join(LEFT_OUT_OF_FAST)}: less than two minutes on two cores"
    parser.addoption("--fast", action="store_true", help=help_text)
    help_text = "where tests with the fixture `device` compute: cpu or cuda; or standin, where commands compute, too"
    parser.addoption("--device", default="cpu", help=help_text)
    parser.addoption("--fuzz", default=20.0, type=float, help="seconds that tests/fuzz changes files for, at least")


def pytest_configure(config: pytest.Config) -> None:
    """Turn --fast into an expression of markers, beside the one that is given; and make the device standin."""
    if config.getoption("--device") == standin.NAME:
        standin.install()
        standin.compute_there()
    if config.getoption("--fast"):
        fast = " and ".join(f"not {marker}" for marker in LEFT_OUT_OF_FAST)
        given = config.option.markexpr
        config.option.markexpr = f"({given}) and {fast}" if given else fast


def pytest_collection_finish() -> None:
    """Keep Python's collector from looking through all that was imported and captured, again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_ignore_collect(collection_path: pathlib.Path, config: pytest.Config) -> bool | None:
    """With --fast, import no file for the sake of a large library alone: peers, and the callback for Lightning."""
    large = collection_path.name.endswith("_peers.py") or collection_path.name == "lightning.py"
    return True if config.getoption("--fast") and large else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the real data or a browser, or is about a device, by the fixture that it uses."""
    for item in items:
        for fixture in ("data", "browser", "device"):
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(fixture)


@pytest.fixture(scope="session")
def data() -> pathlib.Path:
    """The real data; absent, the test is skipped, or fails where DECONVVIZ_REQUIRE_DATA=1."""
    folder = data_folder()
    if not (folder / "imagenet-sample").is_dir():
        reason = f"no real data at {folder}; set DECONVVIZ_DATA to the folder that holds imagenet-sample"
        if os.environ.get("DECONVVIZ_REQUIRE_DATA") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """Where the test computes: --device."""
    name = torch.device(request.config.getoption("--device"))
    if name.type == "cuda" and not torch.cuda.is_available():
        pytest.fail("--device cuda given, and torch sees no GPU here")
    return name


@pytest.fixture(scope="session")
def network() -> Callable[[str, int], tuple[nn.Module, dv.Network]]:
    """`network(name, size)` -> (float64 model in eval mode, its captured Network), each made once a session."""

    @cache
    def made(name: str, size: int) -> tuple[nn.Module, dv.Network]:
        model = build(name)
        return model, dv.capture(model, (3, size, size))

    return made


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Debian's chromium; absent, the test is skipped, or fails where DECONVVIZ_REQUIRE_BROWSER is set."""
    try:
        from playwright.sync_api import sync_playwright

        if not CHROMIUM.exists():
            raise ImportError(f"no {CHROMIUM}: apt-get install chromium")
    except ImportError as error:
        if os.environ.get("DECONVVIZ_REQUIRE_BROWSER"):
            pytest.fail(str(error))
        pytest.skip(str(error))
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield running
        running.close()
