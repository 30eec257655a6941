"""Without a GPU: nothing mixes devices, and the host waits for the device no more often than it must.

The tests that a GPU runs, `tests/test_on_device.py`, and commands run on the stand-in device of `helpers/standin.py`,
in a process of their own, since torch believes in the device as long as the process lives.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest
import standin

ROOT = pathlib.Path(__file__).resolve().parents[2]
COUNTED = """
import json
import standin
standin.install()
standin.compute_there()
from deconvviz.cli.main import cli
standin.waits.clear()
cli(sys.argv[1:], standalone_mode=False)
print(json.dumps(standin.waits))
code = 0
"""
TESTED = """
import pytest
code = int(pytest.main(sys.argv[1:]))
"""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not standin.POSSIBLE, reason="this torch has no Python backends"),
]


# The thread in which torch takes gradients there is not joined at the end, which torch takes for an accident.
LEAVING = """
import os
sys.stdout.flush()
os._exit(code)
"""


def python(program: str, *words: object) -> str:
    """Run a program that ends with its exit code in `code`, and return what it prints."""
    command = [sys.executable, "-W", "ignore", "-c", f"import sys\n{program}{LEAVING}", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def waits_of(*words: object) -> dict[str, int]:
    """Run a command there, and return how often each line of the package waited for the device."""
    counted: dict[str, int] = json.loads(python(COUNTED, *words, "--quiet").splitlines()[-1])
    return {line: count for line, count in counted.items() if not line.startswith("graph/digest.py")}  # fingerprints


def test_what_a_gpu_runs_runs_there() -> None:
    said = python(TESTED, "-n0", "-p", "no:cacheprovider", "--device", standin.NAME, "tests/test_on_device.py")
    assert "passed" in said and "failed" not in said and "skipped" not in said


def test_it_refuses_what_a_gpu_refuses() -> None:
    program = """
import torch, standin
standin.install()
there, here = torch.randn(2, 3, device="standin"), torch.randn(2, 3)
for wrong in (lambda: there + here, lambda: torch.cat([there, here]), lambda: here[there[:, 0].long()]):
    try:
        wrong()
    except RuntimeError:
        continue
    raise SystemExit("not refused")
assert (there + torch.tensor(1.0)).device.type == "standin" and there[torch.tensor([0])].shape == (1, 3)
weight = torch.randn(4, 3, device="standin", requires_grad=True)
(there @ weight.T).sum().backward()
assert torch.allclose(weight.grad.cpu(), there.cpu().sum(0).expand(4, 3))
code = 0
"""
    assert python(program) == ""  # else it names what was not refused


def test_waits_do_not_grow_with_images_units_or_windows(tmp_path: pathlib.Path) -> None:
    """Mining waits where it commits, a figure once for a batch of projections, whatever their number."""
    layers = ["-l", "relu3", "-l", "relu5"]
    mined = [
        waits_of("mine", "demo", f"scenes:{count}:1", *layers, "--batch-size", "8", "-o", tmp_path / f"{count}.h5")
        for count in (24, 96)  # three batches and twelve, and one commit each
    ]
    assert mined[0] == mined[1] and sum(mined[0].values()) < 40
    drawn = [
        waits_of("grid", tmp_path / "24.h5", *layers[:2], "-n", count, "--rule", "guided", "-o", tmp_path / "g.png")
        for count in (2, 16)
    ]
    assert sum(drawn[1].values()) < sum(drawn[0].values()) + 12
