"""Write docs/files.md, or check that it says what the package declares: every kind of file that the program writes.

The text comes from `deconvviz.results.declarations` (HDF5), `deconvviz.results.columns` (CSV) and the JSON Schema of a
diagnosis, which the program itself checks files against.

    .venv/bin/python tools/docs/files.py            # checks; 1 where the page is out of date
    .venv/bin/python tools/docs/files.py --write    # writes it
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from deconvviz.results.columns import TABLES
from deconvviz.results.declarations import FILES
from deconvviz.results.file_schemas import ArraySchema, FileSchema
from deconvviz.results.table_schemas import TableSchema
from deconvviz.studies.diagnosis.result import JSON_SCHEMA

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "files.md"
HEAD = """\
# Files

Every kind of file that deconvviz writes: its arrays or columns, what they mean, and in which order values stand. The
program checks the files that it reads against these declarations. `deconvviz verify FILE` says whether a file is whole.
This page is written by `tools/docs/files.py`.

## What holds for all of them

* Files are written beside their place and then moved there, so that a reader never sees half of one.
* Indices, ranks, rows and columns begin at 0. A position is (y, x): row, then column. A box is (top, left, bottom,
  right) in pixels; bottom and right are the row and the column after the last ones.
* Images are [H, W, C]: rows, columns, channels. Values of a layer are [C, rows, columns].
* Pixels count in the image as the network sees it: after it was resized and cropped.
* An HDF5 file begins with 512 bytes of its own that hold a digest of the rest (BLAKE2b): one that was changed is
  refused. Image stores and features, which are read part by part, have a digest for each part instead. Any HDF5 reader
  can read all of them: `h5py.File("mined.h5")`.
* The attribute `deconvviz` (of an image store `format`) is the kind, and `schema` the version of the layout. Newer
  versions of deconvviz read files of older ones.
* Numbers in CSV files have seven digits; files are UTF-8, with a line of column names. `to_frame()` of the result gives
  the same table as a data frame of pandas (`pip install pandas`), with all digits.
"""
TAIL = """\
## Other files

**Explanations, .npz** (`deconvviz cam -o maps.npz`): for each method an array of its name, float32 [images, H, W] in
0..1, in the order of the images. `numpy.load` reads it.

**Weights, .pth** (`deconvviz train`, `deconvviz train-cam`): a dictionary that `torch.load` reads with
`weights_only=True`. That of a network has `state`, the state dict, beside what a training needs to resume (`history`,
`classes`, `settings` and others); that of an explainer is a state dict, and a .json file of the same name says of which
method, network and layers it is.

**Figures, .png, .pdf, .svg**: their metadata holds the caption and the command that made them.

**Pages** (`deconvviz atlas`, `deconvviz diagnose`, `deconvviz demo`): HTML with pictures and scripts beside it. They
are made from the files above, and are not meant to be read by programs.
"""


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """Yield the lines of a table in Markdown.

    >>> list(table(["a"], [["x | y"]]))
    ['| a |', '|---|', '| x \\\\| y |']
    """
    names = list(head)
    yield f"| {' | '.join(names)} |"
    yield f"|{'---|' * len(names)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def shape(array: ArraySchema) -> str:
    """Return the axes of an array as the page shows them.

    >>> shape(ArraySchema("layers/*/values", "f", ("channels*", "k")))
    '[channels, k]'
    """
    if array.axes == ("...",):
        return "see right"
    return f"[{', '.join(axis.rstrip('*') for axis in array.axes)}]" if array.axes else "a number"


def file_section(kind: str, schema: FileSchema) -> Iterator[str]:
    """Yield the lines about one kind of HDF5 file."""
    yield f"### {kind}"
    yield ""
    yield f"{schema.what} Written by {schema.written_by}; read by {schema.read_by}. Schema {schema.version}."
    yield ""
    yield from table(["attribute", "what it says"], ([f"`{name}`", said] for name, said in schema.settings.items()))
    if not schema.arrays:
        return
    yield ""
    rows = (
        [
            f"`{array.name.replace('*', 'NAME')}`" if array.name != "*" else "others",
            shape(array),
            array.dtype,
            "may be absent" if array.optional else "always",
            array.meaning,
        ]
        for array in schema.arrays
    )
    yield from table(["array", "axes", "dtype", "there", "what it holds"], rows)


def table_section(kind: str, schema: TableSchema) -> Iterator[str]:
    """Yield the lines about one kind of table."""
    yield f"### Table: {kind}"
    yield ""
    yield f"{schema.what} Written by {schema.written_by}."
    yield ""
    rows = (
        [f"`{column.name}`", column.type + (", may be empty" if column.optional else ""), column.unit, column.meaning]
        for column in schema.columns
    )
    yield from table(["column", "type", "unit", "what it holds"], rows)


def json_rows(properties: dict[str, Any], before: str = "") -> Iterator[list[str]]:
    """Yield (name, type) of each property of a JSON Schema, those of objects within it behind theirs.

    >>> list(json_rows({"a": {"type": "array", "items": {"type": "object", "properties": {"b": {"type": "string"}}}}}))
    [['`a`', 'array of objects'], ['`a[].b`', 'string']]
    """
    for name, schema in properties.items():
        items = schema.get("items", {})
        inner = items if items.get("properties") else schema
        yield [f"`{before}{name}`", json_type(schema)]
        if inner.get("properties"):
            yield from json_rows(inner["properties"], f"{before}{name}{'[]' if inner is items else ''}.")


def json_type(schema: dict[str, Any]) -> str:
    """Return the type of a JSON Schema in words.

    >>> json_type({"type": ["number", "null"]}), json_type({"enum": ["a", None]})
    ('number or null', '"a" or null')
    """
    if "const" in schema or "enum" in schema:
        values = [schema["const"]] if "const" in schema else schema["enum"]
        return " or ".join("null" if value is None else f'"{value}"' for value in values)
    kind = schema.get("type", "any")
    if kind == "array":
        return f"array of {json_type(schema['items'])}s"
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


def page() -> str:
    """Return the text of the page."""
    lines = [HEAD, "## HDF5 files", ""]
    lines.append("`NAME` stands for any text, such as the name of a layer; axes of one name have one length in a file,")
    lines += ["except that those of a layer have the layer's own.", ""]
    for kind, schema in FILES.items():
        lines += [*file_section(kind, schema), ""]
    lines += ["## Tables, .csv", "", "A star in the name of a column stands for any text.", ""]
    for kind, declared in TABLES.items():
        lines += [*table_section(kind, declared), ""]
    lines += ["## Diagnosis, .json", ""]
    lines += ["`deconvviz diagnose` writes `diagnosis.json`, and `Diagnosis.save_json` the same. Its JSON Schema is"]
    lines += ["`deconvviz.studies.diagnosis.result.JSON_SCHEMA`. A number that is not finite is null.", ""]
    lines += [*table(["property", "type"], json_rows(JSON_SCHEMA["properties"])), ""]
    return "\n".join([*lines, TAIL])


def main() -> int:
    """Write the page, or return 1 where it is out of date."""
    text = page()
    if "--write" in sys.argv[1:]:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
        print(f"{PAGE.name} is out of date: run tools/docs/files.py --write")
        return 1
    print(f"{PAGE.name}: {len(FILES)} kinds of HDF5 files, {len(TABLES)} kinds of tables")
    return 0


if __name__ == "__main__":
    sys.exit(main())
