"""The page for those who come from other packages: its scripts run as they are written, and give equal maps."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import pytest
import torch

PAGE = pathlib.Path(__file__).resolve().parent.parent / "docs" / "how-to" / "coming-from.md"
MODULES = {"pytorch-grad-cam": "pytorch_grad_cam", "captum": "captum", "torch-cam": "torchcam"}


def scripts(text: str) -> list[str]:
    """The Python of a part of the page."""
    return re.findall(r"^```python.*?\n(.*?)^```", text, flags=re.M | re.S)


@pytest.mark.peers
@pytest.mark.parametrize("library", MODULES)
def test_both_scripts_give_the_same_maps(library: str) -> None:
    pytest.importorskip(MODULES[library], reason=f"{library} is not installed")
    beginning, *sections = re.split(r"^## ", PAGE.read_text("utf-8"), flags=re.M)
    (section,) = [each for each in sections if each.startswith(f"{library}\n")]
    space: dict[str, Any] = {}
    for script in (*scripts(beginning), *scripts(section)):
        exec(compile(script, str(PAGE), "exec"), space)
    theirs, ours = torch.as_tensor(space["theirs"]).float(), space["ours"].float()
    assert theirs.shape == ours.shape and float(theirs.max()) > 0
    assert float((theirs - ours).abs().max()) < 2e-3 * float(theirs.max())
