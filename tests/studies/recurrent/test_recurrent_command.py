"""`deconvviz recurrent` from the command line: a page that opens offline, refusals in one line, kill and resume."""

from __future__ import annotations

import json
import pathlib
import random
import sys
import time
from typing import Any

import numpy as np
import pytest
from bracket_lstm import COUNTER, bracket_text
from click.testing import CliRunner, Result
from killing import Job, answer_of, be_ready_to_fork

import deconvviz.studies.recurrent.command
import deconvviz.studies.recurrent.measure
import deconvviz.studies.recurrent.page
import deconvviz.studies.recurrent.record
from deconvviz.cli.main import cli
from deconvviz.errors import DeconvvizError
from deconvviz.results.features import Features

HELPERS = pathlib.Path(__file__).resolve().parents[2] / "helpers"
FACTORY = f"import sys\nsys.path.insert(0, {str(HELPERS)!r})\nfrom bracket_lstm import bracket_lstm\n"
FEW = ["--permutations", "9", "--groups", "2", "--quiet", "--device", "cpu"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("recurrent")
    (folder / "net.py").write_text(FACTORY)
    (folder / "t.txt").write_text(bracket_text(12) + "\n")
    return folder


def ran(place: pathlib.Path, *more: str) -> Result:
    return CliRunner().invoke(cli, ["recurrent", f"{place}/net.py:bracket_lstm", *more])


@pytest.fixture(scope="module")
def page(place: pathlib.Path) -> pathlib.Path:
    out = place / "views"
    done = ran(place, f"{place}/t.txt", "-o", str(out), "--explain", "1:9", *FEW)
    assert done.exit_code == 0, done.output
    assert "depth best in unit 0, r = 1.00" in done.output and f"open {out}/index.html" in done.output
    return out


def test_the_folder_has_page_tables_figures_and_data(page: pathlib.Path) -> None:
    names = {path.relative_to(page).as_posix() for path in page.rglob("*") if path.is_file()}
    tables = {f"{name}.csv" for name in ("tracking", "responses", "gates", "passages", "together", "relevance")}
    figures = {f"figures/{name}.png" for name in ("layer_0", "cell_0", "relevance")}
    data = {f"data/{name}.h5" for name in ("recording", "states", "views")}
    assert names == {"index.html", *tables, *figures, *data}
    rows = (page / "relevance.csv").read_text().splitlines()
    assert rows[0].startswith("number,output,score") and len(rows) == 11 and ",deep," in rows[4]


def test_text_is_escaped(place: pathlib.Path) -> None:
    (place / "tags.py").write_text(
        "import deconvviz as dv, torch\ndef make():\n"
        "    words = ('<script>alert(1)</script>', '&', '<b>', '(', ')')\n"
        "    return dv.RecurrentModel(recurrent=torch.nn.GRU(5, 3), vocabulary=words, tokens='words')\n"
    )
    (place / "tags.txt").write_text("<b> & ( <script>alert(1)</script> ) <b>\n" * 6)
    arguments = [f"{place}/tags.py:make", f"{place}/tags.txt", "-o", f"{place}/tags", *FEW]
    assert CliRunner().invoke(cli, ["recurrent", *arguments]).exit_code == 0
    text = (place / "tags" / "index.html").read_text()
    assert "alert(1)" in text and "<script>alert" not in text and "<b>" not in text
    assert "relevance" in text  # it has no head, which is told


def test_the_page_in_a_browser(page: pathlib.Path, browser: Any) -> None:
    view, errors = browser.new_page(), list[str]()
    view.on("pageerror", lambda error: errors.append(str(error)))
    requests = list[str]()
    view.on("request", lambda request: requests.append(request.url))
    view.goto(f"file://{page}/index.html")
    assert view.locator("#text span").count() == len(Features(page / "data" / "states.h5"))
    view.locator("#unit").fill(str(COUNTER))
    view.locator("#unit").press("Tab")
    assert "depth r = +1.00" in view.locator("#facts").inner_text() and view.locator("#passages li").count() == 5
    colours = view.evaluate("[...document.querySelectorAll('#text span')].map(s => s.style.backgroundColor)")
    assert len(set(colours)) >= 4
    view.locator("#facts").click()
    view.keyboard.press("ArrowRight")
    assert view.locator("#facts").inner_text().startswith("Unit 1 of layer 0")
    assert not errors and all(url.startswith(("file:", "data:")) for url in requests)
    view.close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "neither sequences nor an --image given"),
        (("t.txt", "--words", "a"), "--words 'a' given without --image"),
        (("t.txt", "--range", "3"), "expected SEQUENCE:FIRST-LAST"),
        (("t.txt", "--explain", "x"), "expected SEQUENCE or SEQUENCE:STEP"),
        (("none.txt",), "cannot read"),
        (("t.txt", "--property", "colour"), "expected one of position, quotes, depth"),
        (("--image", "none.png"), "none.png"),
    ],
)
def test_bad_input_is_told_and_changes_nothing(place: pathlib.Path, arguments: tuple[str, ...], words: str) -> None:
    given = [f"{place}/{each}" if each == "t.txt" else each for each in arguments]
    done = ran(place, *given, "-o", str(place / "none"))
    assert done.exit_code != 0 and isinstance(done.exception, DeconvvizError) and words in str(done.exception)
    assert "\n" not in str(done.exception) and not (place / "none").exists()


# --- kill and resume: the processes are forks of one that has imported torch: this file, run as a program

JOB = "recurrent ../net.py:bracket_lstm ../t.txt --permutations 3 --groups 0 --batch-size 1 --device cpu --quiet -o v"
KILLS = 3


def only_tables(folder: str, views: Any, *_: Any, **__: Any) -> str:
    """Stand in for the page, which takes seconds and no part in resuming."""
    views.save_tables(folder)
    return "index.html"


def program(root: pathlib.Path) -> None:
    """Make `straight`, and `killed` with kills on the way; print how many rows each kill left."""
    deconvviz.studies.recurrent.record.PIECE = 15
    deconvviz.studies.recurrent.page.write_views = only_tables  # type: ignore[assignment]
    (root / "net.py").write_text(FACTORY)
    (root / "t.txt").write_text(bracket_text(14))
    for name in ("straight", "killed"):
        (root / name).mkdir()
    be_ready_to_fork()
    whole = Job(root / "straight", JOB.split(), "v/data/views.h5")
    while whole.runs():
        time.sleep(0.001)
    rng, left, states = random.Random(0), list[int](), root / "killed" / "v" / "data" / "states.h5"
    while len(left) < KILLS:
        job = Job(root / "killed", JOB.split(), "v/data/states.h5")
        for _ in range(rng.randint(1, 8)):
            job.commits()
        if not job.kill():
            break
        left.append(Features(states).done if states.exists() else 0)
    last = Job(root / "killed", JOB.split(), "v/data/views.h5")
    while last.runs():
        time.sleep(0.001)
    print(json.dumps({"left": left, "rows": len(Features(states))}))


@pytest.mark.kill
@pytest.mark.slow
def test_killed_and_resumed_is_the_same(tmp_path: pathlib.Path) -> None:
    answer = answer_of(__file__, tmp_path)
    assert len(answer["left"]) >= 2 and any(0 < rows < answer["rows"] for rows in answer["left"])
    assert answer["left"] == sorted(answer["left"])
    one, other = (Features(tmp_path / name / "v" / "data" / "states.h5") for name in ("straight", "killed"))
    assert one.config == other.config
    for layer in one.layers:
        rows = np.arange(len(one))
        np.testing.assert_array_equal(one.rows(layer, rows), other.rows(layer, rows))
    for name in ("tracking", "responses", "passages", "relevance"):
        pair = [(tmp_path / folder / "v" / f"{name}.csv").read_bytes() for folder in ("straight", "killed")]
        assert pair[0] == pair[1]


if __name__ == "__main__":
    program(pathlib.Path(sys.argv[1]))
