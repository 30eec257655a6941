"""The diagnosis as a whole: its order, files and page, the command, and what is refused."""

from __future__ import annotations

import csv
import json
import math
import pathlib
import re
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from findings_made import Page, finding, in_layers, made, neighbour
from PIL import Image
from torch import nn

import deconvviz as dv
from deconvviz.choices import SEVERITIES
from deconvviz.data.datasets import open_images
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.truth import open_truth
from deconvviz.errors import DataError, DeconvvizError, LayerNotFound
from deconvviz.figures.tiles import rendered
from deconvviz.models.labels import outputs_of
from deconvviz.studies.diagnosis.command import diagnose as command
from deconvviz.studies.diagnosis.comparison import differences
from deconvviz.studies.diagnosis.diagnose import CHECKS, NAMES, diagnose, first_filters
from deconvviz.studies.diagnosis.figure import draw_evidence, draw_first_filters
from deconvviz.studies.diagnosis.finding import Evidence
from deconvviz.studies.diagnosis.joining import FIGURES, joined, ordered
from deconvviz.studies.diagnosis.page import APPEARANCES, write_report
from deconvviz.studies.diagnosis.result import COLUMNS, JSON_SCHEMA, Diagnosis
from deconvviz.studies.diagnosis.schema import schema_of

HOSTILE = '<script>alert("x")</script>&\'</td>'
ASKED = {"aliasing", "receptive-field", "removable", "unsettled", "confused", "dead", "dominating", "duplicates"}


@pytest.fixture(scope="module")
def demo() -> Diagnosis:
    """The packaged network, which aliases a little and reads more than its image."""
    loaded = dv.load_model("demo")
    preprocess, images = Preprocess.from_dict(loaded.settings), open_images("scenes:80:5")
    network = dv.capture(loaded.model, preprocess.shape)
    return diagnose(
        network,
        images,
        preprocess=preprocess,
        outputs=outputs_of(images.classes, network.outputs, loaded.classes),
        names=loaded.classes,
        truth=open_truth(None, images),
        progress=False,
        sources={"weights": "demo"},
    )


def wrong(value: Any, schema: dict[str, Any], at: str = "$") -> list[str]:
    """Where a JSON value does not fit a schema: the part of JSON Schema that is used here, from its specification."""
    if "const" in schema:
        return [] if value == schema["const"] else [f"{at}: {value!r}"]
    if "enum" in schema:
        return [] if value in schema["enum"] else [f"{at}: {value!r}"]
    kinds: dict[str, Any] = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "number": (int, float),
        "null": type(None),
    }
    allowed = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if not any(isinstance(value, kinds[kind]) and not isinstance(value, bool) for kind in allowed):
        return [f"{at}: {value!r} is no {allowed}"]
    found = []
    if isinstance(value, dict):
        found += [f"{at}: no {name}" for name in schema.get("required", []) if name not in value]
        if schema.get("additionalProperties") is False:
            found += [f"{at}: {name} is too much" for name in value if name not in schema["properties"]]
        for name, inner in schema.get("properties", {}).items():
            found += wrong(value[name], inner, f"{at}.{name}") if name in value else []
    if isinstance(value, list):
        found += [text for n, item in enumerate(value) for text in wrong(item, schema["items"], f"{at}[{n}]")]
    return found


# --- the study -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_check_is_asked_and_told(demo: Diagnosis) -> None:
    assert set(NAMES) == set(CHECKS) >= ASKED and [one.name for one in demo.checks] == [*NAMES]
    assert NAMES.index("dead") < NAMES.index("aliasing") < NAMES.index("removable") < NAMES.index("confused")
    assert set(demo.skipped) >= {"unsettled"} and "--snapshots" in demo.skipped["unsettled"]
    for one in demo.checks:
        assert one.title and "note" in one.about
        assert one.findings == sum(f.check == one.name for f in demo.findings)
    values = {one.name: one.value for one in demo.checks}
    assert values["aliasing"] is not None and 1.5 < values["aliasing"] < 2.1  # told, though it is no finding
    assert not [f for f in demo.findings if f.check == "aliasing"]  # 7x7, stride 2: what the paper changed to
    assert values["receptive-field"] is not None and values["removable"] is None
    assert [one.name for one in demo.classes] == [*dv.Scenes(10).classes]
    assert demo.config["images"] == 80 and 0.9 < demo.config["accuracy"] <= 1
    assert repr(demo).startswith("Diagnosis of ZFNet") and "skipped: unsettled" in repr(demo)


def test_the_most_severe_come_first(demo: Diagnosis) -> None:
    order = [SEVERITIES.index(f.severity) for f in demo.findings]
    assert order == sorted(order, reverse=True)
    for severity in SEVERITIES:
        beyond = [abs(math.log(f.value / f.threshold)) for f in demo.findings if f.severity == severity and f.value > 0]
        assert beyond == sorted(beyond, reverse=True)
    assert demo.worst == (demo.findings[0].severity if demo.findings else None)
    some = [finding("note", 9.0), finding("serious", 2.0), finding("serious", 0.1), finding("note", 9.0, "dead")]
    order = [some.index(f) for f in ordered(some, NAMES)]
    assert order == [2, 1, 3, 0]  # a tenth of a threshold is farther from it than twice; then the checks' own order
    mixed = Diagnosis(findings=(finding("serious"), finding("warning"), finding("note")), config={})
    assert [len(mixed.at_least(severity)) for severity in SEVERITIES] == [3, 2, 1]
    assert mixed.worst == "serious" and Diagnosis(config={}).worst is None


def test_some_checks_and_layers_only() -> None:
    loaded = dv.load_model("demo")
    preprocess, images = Preprocess.from_dict(loaded.settings), open_images("scenes:20:5")
    network = dv.capture(loaded.model, preprocess.shape)
    found = diagnose(
        network, images, preprocess=preprocess, checks=["dead", "confused"], layers=["conv2"], limit=10, progress=False
    )
    assert [one.name for one in found.checks] == ["dead", "confused"] and found.config["layers"] == ["conv2"]
    assert found.config["images"] == 10 and found.config["accuracy"] is None and "confused" in found.skipped
    with pytest.raises(DeconvvizError, match="no check named 'ded'; nearest: dead"):
        diagnose(network, images, preprocess=preprocess, checks=["ded"])
    with pytest.raises(LayerNotFound, match="nearest: conv"):
        diagnose(network, images, preprocess=preprocess, layers=["konv1"], progress=False)


def test_json_fits_its_schema(demo: Diagnosis, tmp_path: pathlib.Path) -> None:
    tiles = Evidence(kind="tiles", arrays={"pictures": np.zeros((2, 4, 4, 3))})
    odd = Diagnosis(
        findings=(finding(value=math.inf), finding(evidence=tiles)),
        checks=(made(value=math.nan),),
        config={"images": np.int64(3)},
        classes=(neighbour(),),
    )
    for diagnosis in (demo, odd):
        diagnosis.save_json(tmp_path / "d.json")
        content = json.loads((tmp_path / "d.json").read_text())
        assert wrong(content, JSON_SCHEMA) == []
        assert content["schema"] == 3 and len(content["findings"]) == len(diagnosis.findings)
    assert content["findings"][0]["value"] is None and content["findings"][1]["evidence"]["arrays"] == {}
    assert content["findings"][0]["evidence"]["arrays"]["values"] == [1.0, None]
    assert wrong({**content, "worst": "bad"}, JSON_SCHEMA) and wrong({**content, "more": 1}, JSON_SCHEMA)


def test_the_schema_follows_from_types() -> None:
    assert schema_of(float) == {"type": ["number", "null"]} and schema_of(float | None) == schema_of(float)
    assert JSON_SCHEMA["properties"]["findings"]["items"]["properties"]["severity"] == {"enum": [*SEVERITIES]}
    assert JSON_SCHEMA["properties"]["worst"] == {"enum": [*SEVERITIES, None]}
    keys = "name title about findings skipped value unit seconds"  # of the files that version 0.1.0 wrote
    assert JSON_SCHEMA["properties"]["checks"]["items"]["required"] == keys.split()
    with pytest.raises(TypeError, match="no JSON Schema"):
        schema_of(set[int])


def test_a_diagnosis_shows_itself() -> None:
    text = hostile()._repr_html_()
    assert HOSTILE not in text and text.count("&lt;script&gt;") >= 3 and text.count("<tr>") == 4
    assert "no findings" in repr(Diagnosis(config={})) and "<tr>" not in Diagnosis(config={})._repr_html_()


def test_csv_has_a_row_for_each_finding(demo: Diagnosis, tmp_path: pathlib.Path) -> None:
    demo.save_csv(tmp_path / "d.csv")
    with (tmp_path / "d.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = [(str(n), f, one) for n, f in enumerate(demo.findings, 1) for one in f.rows]
    assert tuple(rows[0]) == COLUMNS and len(rows) == len(expected)
    for row, (number, found, one) in zip(rows, expected, strict=True):
        assert row["channels"] == " ".join(map(str, one.channels)) and row["what"] == one.what
        assert np.isclose(float(row["value"]), one.value, rtol=1e-6)
        assert (row["finding"], row["severity"], row["layer_severity"]) == (number, found.severity, one.severity)


@pytest.mark.slow
def test_first_filters_are_the_weights() -> None:
    loaded = dv.load_model("demo")
    filters = first_filters(dv.capture(loaded.model, (3, 64, 64)))
    weight = loaded.model.state_dict()["conv1.weight"]
    assert filters is not None and np.allclose(filters, weight.permute(0, 2, 3, 1).numpy())
    grey = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 36, 2)).eval()
    assert first_filters(dv.capture(grey, (1, 8, 8))) is None


def test_the_same_finding_of_several_layers_is_one() -> None:
    sorted_findings = ordered([*in_layers(1.1, 5.0, 1.2, 3.0), finding("serious", check="dead")], NAMES)
    dead, many = joined(sorted_findings)
    assert (dead.check, dead.severity, [row.layer for row in dead.layers]) == ("dead", "serious", ["conv1"])
    assert (many.severity, many.layer, many.value, many.channels) == ("warning", "b", 5.0, (1,))
    assert [(row.layer, row.severity, row.value) for row in many.layers] == [
        ("b", "warning", 5.0),
        ("d", "warning", 3.0),
        ("c", "note", 1.2),
        ("a", "note", 1.1),
    ]
    assert len(many.more_evidence) == FIGURES - 1 and many.remedy == "Mend it."
    text = repr(Diagnosis(findings=(many,), config={}))
    assert "1 warning" in text and text.index("b has 5.") < text.index("d has 3.") < text.index("a has 1.1.")
    assert Diagnosis(findings=(many,), config={})._repr_html_().count("<tr>") == 5


def test_other_kinds_and_things_stay_apart() -> None:
    """Kinds of a check are findings of their own, and so are two findings about one layer, such as two classes."""
    kinds = joined(ordered([*in_layers(3, 4), *in_layers(3, 4, kind="nearly")], NAMES))
    assert [(f.kind, len(f.layers)) for f in kinds] == [("", 2), ("nearly", 2)]
    classes = joined([finding(), finding(), finding(layer="conv2")])
    assert [len(f.layers) for f in classes] == [1, 1, 1]
    advice = joined([finding(remedy="Do this.", layer="a"), finding(remedy="Do that.", layer="b")])
    assert advice[0].remedy == "For a: Do this. For b: Do that."
    shared = joined([finding(remedy="Look. Do this. Wait.", layer="a"), finding(remedy="Look. Wait.", layer="b")])
    assert shared[0].remedy == "Look. Wait. For a: Do this."  # what is for all is said once


@pytest.mark.slow
def test_the_page_shows_the_worst_layers_of_a_finding(tmp_path: pathlib.Path) -> None:
    (many,) = joined(ordered(in_layers(1.1, 5.0, 1.2, 3.0), NAMES))
    diagnosis = Diagnosis(findings=(many,), checks=(made(),), config=hostile().config)
    write_report(tmp_path, diagnosis, names=["n"], images="i", command="c")
    page = Page((tmp_path / "index.html").read_text())
    assert "4 layers: Aliasing at strides" in page.text and "The figures show the 3 worst layers" in page.text
    assert [pathlib.Path(link).name for link in page.all("a", "href") if "evidence" in link] == [
        f"001-aliasing-{letter}.png" for letter in "bdc"
    ]
    assert all(f"{letter} has" in page.text for letter in "abcd")
    diagnosis.save_json(tmp_path / "d.json")
    content = json.loads((tmp_path / "d.json").read_text())
    assert wrong(content, JSON_SCHEMA) == [] and len(content["findings"][0]["layers"]) == 4


def test_what_is_better_and_worse() -> None:
    """By check and kind: severity first, then a value that is a tenth farther beyond its threshold."""
    checks = (made(), made("dead"), made("rank"))
    base = Diagnosis(findings=(finding("note", 1.5), finding("note", check="dead")), checks=checks, config={})
    assert differences(base, base) == ()
    other = Diagnosis(findings=(finding("warning", 1.6), finding("note", 2.1, check="dead")), checks=checks, config={})
    assert [str(one)[:14] for one in differences(other, base)] == ["worse: aliasin"]  # 2.1 of 2.0 is no tenth
    assert [(one.check, one.worse) for one in differences(base, other)] == [("aliasing", False)]
    assert "note in layer conv1: 1.5 (parts), against warning in layer conv1: 1.6 (parts)" in str(
        differences(base, other)[0]
    )
    new = Diagnosis(findings=(*base.findings, finding(check="rank")), checks=checks, config={})
    assert [(one.check, one.worse) for one in differences(new, base)] == [("rank", True)]
    unmade = made("rank", findings=0, skipped="why")
    without = Diagnosis(findings=base.findings, checks=(*checks[:2], unmade), config={})
    assert differences(new, without) == ()  # what was not checked is not better


@pytest.mark.parametrize(("ours", "images", "expected"), [(0.9, 100, [False]), (0.7, 100, []), (0.4, 100, [True])])
def test_accuracies_differ_beyond_chance(ours: float, images: int, expected: list[bool]) -> None:
    pair = [Diagnosis(config={"accuracy": value, "labelled": images}) for value in (ours, 0.65)]
    assert [one.worse for one in differences(*pair)] == expected


def test_nothing_is_further_beyond_a_threshold_than_zero() -> None:
    """A finding whose value is 0 is of a check where lower is worse."""
    least, little = (finding(check="rank", value=value, threshold=0.02) for value in (0.0, 0.008))
    assert least.beyond > little.beyond > 0


def test_one_image_tells_no_two_networks_apart() -> None:
    pair = [Diagnosis(config={"accuracy": value, "labelled": 1}) for value in (1.0, 0.0)]
    assert differences(*pair) == ()


# --- figures and page ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "evidence",
    [
        Evidence(kind="bars", arrays={"values": np.arange(5.0)}, labels=tuple("abcde"), x="filter", y="RMS", mark=2.0),
        Evidence(kind="bars", arrays={"values": np.arange(96.0)}, x="filter", y="RMS"),
        Evidence(kind="histogram", arrays={"values": np.array([0.1, np.nan, 0.5] * 30)}, x="share", mark=0.3),
        Evidence(
            kind="line",
            arrays={"x": np.arange(9.0), "y": np.ones((2, 9))},
            labels=("one", "two"),
            x="epoch",
            y="way",
            mark=3.0,
        ),
        Evidence(kind="scatter", arrays={"x": np.arange(9.0), "y": np.arange(9.0)}, x="a", y="b", mark=3.0),
        Evidence(kind="tiles", arrays={"pictures": np.zeros((1, 8, 8, 3), np.uint8)}, x="What is shown."),
        Evidence(
            kind="tiles",
            arrays={"pictures": np.zeros((15, 8, 4, 3), np.uint8)},
            labels=("a rather long label " * 5,) * 15,
        ),
    ],
    ids=lambda e: f"{e.kind}-{len(next(iter(e.arrays.values())))}",
)
def test_every_kind_of_evidence_is_drawn(evidence: Evidence) -> None:
    """The threshold, the labels and the axes' units are in the drawing, and nothing leaves it."""
    figure = draw_evidence(evidence, "title", "a caption " * 40)
    content = rendered(figure, "svg", "").decode()
    drawn = figure.axes[0]
    if evidence.kind == "tiles":
        assert len(figure.axes) == len(evidence.arrays["pictures"])
        boxes = [axes.get_position() for axes in figure.axes]
        assert all(0 <= b.x0 < b.x1 <= 1 and 0 < b.y0 < b.y1 < 1 for b in boxes)
        assert evidence.x in content  # the caption says what the pictures show
    else:
        assert {drawn.get_xlabel(), drawn.get_ylabel()} == {evidence.x, evidence.y or "count"}
        assert (drawn.get_legend() is not None) == (evidence.mark is not None or bool(evidence.kind == "line"))
        marks = [line for line in drawn.get_lines() if line.get_linestyle() == "--" and np.size(line.get_xdata()) == 2]
        assert len(marks) == (evidence.mark is not None)
    assert content.startswith("<?xml")


def test_two_first_layers_stand_side_by_side() -> None:
    filters = [np.random.default_rng(0).normal(size=(n, side, side, 3)) for n, side in ((19, 7), (32, 11))]
    figure = draw_first_filters(filters, ["one", "two"], "title", "caption")
    left, right = (axes.get_position() for axes in figure.axes)
    assert left.x1 < right.x0 and np.isclose(left.width, right.width) and right.x1 <= 1


def hostile() -> Diagnosis:
    bars = Evidence(kind="bars", arrays={"values": np.ones(2)}, labels=(HOSTILE, HOSTILE), x=HOSTILE, y=HOSTILE)
    worst = finding("serious", layer=HOSTILE, what=HOSTILE, unit=HOSTILE, source=HOSTILE, remedy=HOSTILE, evidence=bars)
    config = {"images": 3, "accuracy": None, "parameters": 7, "input": [3, 8, 8], "layers": [HOSTILE], "model": HOSTILE}
    config |= {"model_fingerprint": "f", "images_fingerprint": HOSTILE, "seed": 0}
    checks = (made(), made("dead", findings=0, skipped=HOSTILE))
    return Diagnosis(
        findings=(worst, finding("warning"), finding()),
        checks=checks,
        config=config,
        classes=(neighbour(HOSTILE, HOSTILE, HOSTILE),),
    )


def test_the_page_tells_all_and_escapes_all(tmp_path: pathlib.Path) -> None:
    (tmp_path / "evidence").mkdir()
    (tmp_path / "evidence" / "009-old.png").write_bytes(b"old")
    (tmp_path / "evidence" / "mine.png").write_bytes(b"mine")
    write_report(
        tmp_path,
        hostile(),
        names=[HOSTILE, "other"],
        images=HOSTILE,
        command=f"deconvviz {HOSTILE}",
        other=hostile(),
        first_layers=[np.ones((3, 5, 5, 3))] * 2,
    )
    text = (tmp_path / "index.html").read_text()
    page = Page(text)
    assert HOSTILE not in text and not [tag for tag, _ in page.tags if tag == "script"]
    assert page.text.count(HOSTILE) >= 12
    headings = [tag for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == "h1" and headings.count("h1") == 1 and headings.count("h3") == 3
    assert page.text.index("Serious") < page.text.index("Warnings") < page.text.index("Notes")
    for tag, attributes in page.tags:
        assert tag != "img" or (attributes["alt"] and str(attributes["src"]).startswith("data:image/"))
    ids, links = page.all("a", "href"), {f"#{one}" for _, a in page.tags for one in [a.get("id")] if one}
    assert {link for link in ids if link.startswith("#")} <= links
    files = [link for link in ids if not link.startswith("#")]
    assert len(files) == 3 and all((tmp_path / file).is_file() for file in files)
    assert not re.search(r"""(src|href)=["']?(https?:|//)""", text) and "@import" not in text
    assert sorted(p.name for p in (tmp_path / "evidence").iterdir()) == sorted(
        [*(pathlib.Path(file).name for file in files), "first-layers.png", "mine.png"]
    )


def test_every_severity_has_its_look() -> None:
    assert {*APPEARANCES} == {*SEVERITIES}


def test_a_page_without_findings(tmp_path: pathlib.Path) -> None:
    config = hostile().config
    write_report(
        tmp_path,
        Diagnosis(checks=(made(findings=0, value=1.25, unit="x"),), config=config),
        names=["n"],
        images="i",
        command="c",
    )
    text = Page((tmp_path / "index.html").read_text()).text
    assert "No findings in 1 check on 3 images" in text and "1.25 (x)" in text and "side by side" not in text


# --- the command -----------------------------------------------------------------------------------------------------


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, [*arguments, "--quiet"], catch_exceptions=False)


@pytest.mark.slow
def test_the_command_and_its_exit_code(tmp_path: pathlib.Path) -> None:
    out = str(tmp_path / "d")
    common = ("demo", "scenes:16:5", "-o", out, "--checks", "receptive-field,confused")
    result = run(*common, "--fail-on", "warning")
    assert result.exit_code == 0
    assert "note: receptive-field, conv5" in result.output and f"open {out}" in result.output
    content = json.loads((tmp_path / "d" / "diagnosis.json").read_text())
    assert wrong(content, JSON_SCHEMA) == [] and content["worst"] == "note"
    assert content["sources"]["command"].startswith("deconvviz")
    names = {path.name for path in (tmp_path / "d").iterdir()}
    assert names == {"index.html", "diagnosis.json", "findings.csv", "classes.csv", "evidence"}
    (tmp_path / "d" / "other.json").write_text("of an earlier report")
    failed = run(*common, "--fail-on", "note")  # into the same folder again
    assert failed.exit_code == 1 and "--fail-on note: \n  note: receptive-field, conv5" in failed.output
    assert {path.name for path in (tmp_path / "d").iterdir()} == names
    page = Page((tmp_path / "d" / "index.html").read_text())
    assert "Diagnosis of demo" in page.text and len(page.all("img", "src")) == len(content["findings"])


@pytest.mark.slow
def test_two_networks_are_compared(tmp_path: pathlib.Path) -> None:
    out = str(tmp_path / "d")
    checks = ("--checks", "aliasing,dead,unsettled", "--compare", "demo", "--compare-weights", "none")
    result = run("demo", "scenes:20:5", "-o", out, *checks, "--fail-on", "worse")
    assert result.exit_code == 0 and "compared with demo:" in result.output and "\n  better: " in result.output
    turned = ("demo", "scenes:20:5", "-o", str(tmp_path / "turned"), "--weights", "none", "--compare", "demo")
    failed = run(*turned, "--checks", "aliasing,dead,unsettled", "--fail-on", "worse")
    assert failed.exit_code == 1 and "--fail-on worse: \n  worse: " in failed.output
    first, second = (json.loads((tmp_path / "d" / name).read_text()) for name in ("diagnosis.json", "other.json"))
    assert wrong(second, JSON_SCHEMA) == []
    assert first["config"]["model_fingerprint"] != second["config"]["model_fingerprint"]
    page = Page((tmp_path / "d" / "index.html").read_text())
    assert "demo (DEFAULT)" in page.text and "demo (none)" in page.text and "not checked" in page.text
    for content in (first, second):
        values = [one["value"] for one in content["checks"] if one["name"] == "aliasing"]
        assert f"{values[0]:.3g}" in page.text
    shown = Image.open(tmp_path / "d" / "evidence" / "first-layers.png")
    assert shown.width > shown.height and any("side by side" in alt for alt in page.all("img", "alt"))


def test_the_list_of_checks() -> None:
    result = CliRunner().invoke(command, ["--list"], catch_exceptions=False)
    assert result.exit_code == 0
    assert [line.split(":")[0] for line in result.output.splitlines()[::2]] == [*NAMES]
    assert "unsettled: Features that had not settled when the training ended (needs snapshots)" in result.output


@pytest.mark.slow
def test_what_is_refused_changes_nothing(tmp_path: pathlib.Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("precious")
    with pytest.raises(DataError, match="holds other files"):
        run("demo", "scenes:20:5", "-o", str(mine))
    assert [path.name for path in mine.iterdir()] == ["thesis.txt"]
    with pytest.raises(DataError, match="is a file"):
        run("demo", "scenes:20:5", "-o", str(mine / "thesis.txt"))
    with pytest.raises(DataError, match="no folder"):
        run("demo", "scenes:20:5", "-o", str(tmp_path / "a" / "b"))
    with pytest.raises(DataError, match="--compare MODEL"):
        run("demo", "scenes:20:5", "-o", str(tmp_path / "new"), "--fail-on", "worse")
    with pytest.raises(DeconvvizError, match="no check named"):
        run("demo", "scenes:20:5", "-o", str(tmp_path / "new"), "--checks", "alias")
    with pytest.raises(DataError):
        run("demo", "scenes:20:5", "-o", str(tmp_path / "new"), "--snapshots", str(mine / "thesis.txt"))
    with pytest.raises(LayerNotFound):
        run("demo", "scenes:20:5", "-o", str(tmp_path / "new"), "-l", "konv")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_the_seed_settles_everything() -> None:
    """Nothing but the time that it took differs between two diagnoses."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 10))
    preprocess, images = Preprocess(64, 64), open_images("scenes:20:5")
    network = dv.capture(model.eval(), preprocess.shape)
    told = []
    for batch_size in (4, 7):
        found = diagnose(network, images, preprocess=preprocess, batch_size=batch_size, progress=False).as_json()
        told.append([(f["check"], f["layer"], f["severity"], round(f["value"], 4)) for f in found["findings"]])
    assert told[0] == told[1]
