"""Commands answer before torch is imported where they can: lists of names, and names that do not exist."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

import deconvviz.cam.explain  # noqa: F401, the methods register
from deconvviz.cam.catalogue import learned_declarations, method_declarations
from deconvviz.cam.learned.base import LEARNED
from deconvviz.cam.registry import METHODS
from deconvviz.choices import RULES, TRANSFORMS
from deconvviz.data.transforms import _TRANSFORMS as BY_NAME
from deconvviz.deconv.rules import WAYS
from deconvviz.studies.diagnosis.checks import CHECKS, MODULES
from deconvviz.studies.diagnosis.registry import FILES, check_declarations

# Each is run in one fresh process: words -> what the answer names.
ANSWERS = {
    "cam --list": "rise",
    "cam grad-kam demo x.png -o x.png": "nearest: grad-cam",
    "evaluate demo scenes:3 -m grad-kam -o x.csv": "nearest: grad-cam",
    "evaluate demo scenes:3 -m grad-cam --metrics road,adc -o x.csv": "adcc",
    "evaluate demo scenes:3 -m grad-cam --outputs softmix -o x.csv": "softmax",
    "train-cam l-kam demo scenes:3 -o x.pth": "nearest: l-cam",
    "diagnose --list": "unsettled",
    "diagnose demo scenes:3 --checks alias": "nearest: aliasing",
    "diagnose demo scenes:3 --fail-on worse": "--compare",
    "compare demo:1 demo:2 scenes:3 --checks alias -o c": "nearest: aliasing",
    "compare demo:1 demo:2 scenes:3 -m grad-kam -o c": "nearest: grad-cam",
    "probe demo scenes:3 --probes svn -o x.csv": "nearest: svm",
    "ablate zfnet scenes:3 --variants no-8 -o x.csv": "nearest: no-",
    "invariance demo scenes:3 --kinds rotate -o x.png": "rotation",
    "atlas demo scenes:3 --methods grad-kam -o a": "nearest: grad-cam",
    "occlude demo x.png --fill gray -o x.png": "grey",
    "project demo x.png -l conv1 -c 0 --rule deconv -o x.png": "deconvnet",
    "grid x.h5 -l conv1 --rule deconv -o x.png": "deconvnet",
    "mine demo x.h5 -o m.h5 --precision fp8": "bf16",
    "attack --list": "real-time-masking",
    "attack demo scenes:3 --method pgt -o x.h5": "nearest: pgd",
    "attack demo scenes:3 --option stops=3 -o x.h5": "pgd has no option 'stops'",
    "attack demo scenes:3 --fools cams -o x.h5": "nearest: cam",
    "attack demo scenes:3 --fools real-time-masking -o x.h5": "has to be trained first",
    "attack demo scenes:3 --fools real-time-masking --explainer no.pth -o x.h5": "no file no.pth",
    "attack demo scenes:3 --fools cam --explainer no.pth -o x.h5": "which real-time-masking alone reads",
    "attack demo scenes:3 --fools cam --method fgsm -o x.h5": "take pgd or cw or stadv",
    "attack demo scenes:3 --fools cam --goal explanation -t 1 -o x.h5": "keeps the class",
    "attack demo scenes:3 --edges weights -o x.h5": "without an explanation to fool",
    "attack demo scenes:3 --agreement grad-cam -o x.h5": "two methods or more",
    "attack demo scenes:3 --agreement grad-cam,grad-kam -o x.h5": "nearest: grad-cam",
    "attack demo scenes:3 --countermeasures blur=3 -o x.h5": "expected bit-depth=N",
    "attack demo scenes:3 --epsilon 2 -o x.h5": "epsilon 2 given",
    "attack demo no.h5 -o x.h5": "no.h5 does not exist",
    "attack demo no.png -o x.h5": "no image no.png",
    "mine demo no.h5 -l relu5 -o x.h5": "no.h5 does not exist",
    "train zfnet no/ -o x.pth": "no does not exist",
    "ablate zfnet no.h5 -o x.csv": "no.h5 does not exist",
    "tree demo scenes:x -o x.png": "scenes:x",
    "project demo no.jpg -l relu5 -c 1 -o x.png": "no image no.jpg",
    "occlude demo no.png -o x.png": "no image no.png",
    "occlude demo no.h5 -o x.png": "no.h5 does not exist",
    "evolve no.h5 scenes:3 -l conv1 -o x.png": "no.h5 does not exist",
    "prune --list": "explanations",
    "prune demo scenes:3 --criterion l3 -o x.pth": "nearest: l2",
    "prune demo scenes:3 --criterion explanations -o x.pth": "train-cam bump",
    "prune demo scenes:3 --criterion explanations --option explainer=no.pth -o x.pth": "no file no.pth",
    "prune demo scenes:3 --option gready=true -o x.pth": "l1 has no option 'gready'",
    "prune demo scenes:3 --keep 0 -o x.pth": "keep 0 given",
    "prune demo scenes:3 --mined no.h5 -o x.pth": "no.h5 does not exist",
    "prune demo no.h5 -o x.pth": "no.h5 does not exist",
    "prune demo scenes:3 --validation no.h5 -o x.pth": "no.h5 does not exist",
    "evaluate demo scenes:3 -m l-cam-img -o x.csv": "has to be trained first",
    "evaluate demo scenes:3 -m l-cam-img --explainer no.pth -o x.csv": "no file no.pth",
}
SCRIPT = """
import json, sys
from click.testing import CliRunner
from deconvviz.cli.main import cli
answers = {}
for words in json.loads(sys.argv[1]):
    result = CliRunner().invoke(cli, words.split())
    answers[words] = (result.exit_code, f"{result.output} {result.exception}", "torch" in sys.modules)
print(json.dumps(answers))
"""


def test_wrong_names_and_lists_need_no_torch(tmp_path: pathlib.Path) -> None:
    words = [sys.executable, "-c", SCRIPT, json.dumps([*ANSWERS])]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    answers = json.loads(done.stdout)
    for asked, named in ANSWERS.items():
        code, text, torch = answers[asked]
        assert named in text and (code == 0) == ("--list" in asked), (asked, text)
        assert not torch, asked
    assert not any(tmp_path.iterdir())


def test_what_is_declared_is_what_is_registered() -> None:
    declared = method_declarations()
    assert set(declared) == set(METHODS) and set(learned_declarations()) == set(LEARNED)
    for name, method in METHODS.items():
        assert declared[name].docstring == method.source
        assert repr(dict(declared[name].defaults)) == repr(dict(method.options))
        assert declared[name].keywords["passes"] == method.passes != ""
    checks = check_declarations()
    assert set(checks) == set(CHECKS) and len(MODULES) == len(FILES)
    for name, entry in CHECKS.items():
        assert (checks[name].docstring, checks[name].arguments[0]) == (entry.docstring, entry.title)
        assert tuple(checks[name].keywords.get("needs", ())) == entry.needs


def test_words_of_options_are_those_that_are_registered() -> None:
    assert set(RULES) >= set(WAYS) or set(WAYS) >= set(RULES)
    assert set(TRANSFORMS) == set(BY_NAME)


@pytest.mark.parametrize("name", ["grad-cam", "sess", "occlusion"])
def test_options_are_shown_with_their_defaults(name: str) -> None:
    assert list(method_declarations()[name].defaults) == list(METHODS[name].options)
