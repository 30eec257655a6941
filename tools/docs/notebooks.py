"""Run the notebooks of docs/notebooks, each in a kernel of its own, without a network; see tools/notebooks."""

from __future__ import annotations

import base64
import io
import os
import pathlib
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "docs" / "notebooks"
AT_ONCE = 2  # kernels, as there are cores
MOST_BYTES = 300_000  # of a notebook with its outputs
WIDEST, COLOURS = 720, 48  # pixels and colours of a picture that is committed
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
KEPT = ("image/png", "text/plain")  # forms of an output; GitHub shows a PNG, and not what is embedded in HTML


def kept(output: NotebookNode) -> NotebookNode | None:
    """Return an output as it is committed: a picture or text; None for what a run writes to standard error.

    >>> data = {"text/plain": "Maps", "text/html": "<img>"}
    >>> kept(NotebookNode(output_type="display_data", metadata={}, data=data)).data
    {'text/plain': 'Maps'}
    """
    if output.output_type == "stream":
        return output if output.name == "stdout" else None
    output.data = {kind: output.data[kind] for kind in KEPT if kind in output.data}
    if "image/png" in output.data:
        output.data["image/png"] = small(output.data["image/png"])
    return output


def small(png: str) -> str:
    """Return a PNG file in base64 with fewer pixels and colours, as the repository keeps it."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    picture.thumbnail((WIDEST, 2 * WIDEST))
    buffer = io.BytesIO()
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def run(path: pathlib.Path, write: bool) -> str:
    """Run a notebook and return a line about it; with `write`, write it back with its outputs.

    Raises:
        CellExecutionError: a cell raised an error.
        SystemExit: the notebook would be larger than MOST_BYTES.
    """
    notebook, start = nbformat.read(path, as_version=4), time.monotonic()
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", extra_arguments=["--log-level=ERROR"])
    client.execute(cwd=path.parent)
    if write:
        for cell in notebook.cells:
            cell.metadata = NotebookNode()
            if cell.cell_type == "code":
                cell.outputs = [each for each in map(kept, cell.outputs) if each is not None]
        notebook.metadata = NotebookNode(kernelspec=KERNEL)
        text = nbformat.writes(notebook, indent=1) + "\n"
        if len(text) > MOST_BYTES:
            raise SystemExit(f"{path.name} would have {len(text)} bytes; show less, at most {MOST_BYTES}")
        path.write_text(text, encoding="utf-8")
    return f"{path.name}: {time.monotonic() - start:.0f} s"


def main() -> None:
    """Run all notebooks, some at a time."""
    os.environ |= {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "JUPYTER_PLATFORM_DIRS": "1"}
    paths = sorted(NOTEBOOKS.glob("*.ipynb"))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for line in pool.map(lambda path: run(path, "--write" in sys.argv[1:]), paths):
            print(line)


if __name__ == "__main__":
    main()
