"""A griffe extension that reads the docstrings of this package: doctests anywhere, and several names on one line."""

from __future__ import annotations

import re
from typing import Any

import griffe

SECTION = re.compile(r"^(Args|Attributes|Raises):\n((?:(?: +.*)?\n)*(?: +.*)?)", flags=re.M)
ENTRY = re.compile(r"^    (\w[\w, ]*): (.*(?:\n(?: {5,}.*|(?=\n {5})))*)", flags=re.M)
DOCTEST = re.compile(r"^( *)>>> .*(?:\n.*\S.*)*", flags=re.M)


class PlainDocstrings(griffe.Extension):
    """Bring the docstrings of this package into the form that griffe's google parser expects."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of an object."""
        if obj.docstring:
            obj.docstring.value = fenced(
                SECTION.sub(lambda found: one_name_a_line(*found.groups()), obj.docstring.value)
            )


def one_name_a_line(title: str, body: str) -> str:
    """Return a section with an entry for each name; one that has no entries becomes a paragraph.

    >>> print(one_name_a_line("Args", "    x, y: where,\\n        in pixels.\\n    z: how deep."))
    Args:
        x: where,
            in pixels.
        y: where,
            in pixels.
        z: how deep.
    >>> one_name_a_line("Raises", "    As `project`.")
    '**Raises:** As `project`.'
    """
    if not ENTRY.search(body):
        return f"**{title}:** {body.strip()}" + "\n" * (len(body) - len(body.rstrip("\n")))

    def each(found: re.Match[str]) -> str:
        return "\n".join(f"    {name}: {found[2]}" for name in found[1].split(", "))

    return f"{title}:\n{ENTRY.sub(each, body)}"


def fenced(text: str) -> str:
    """Return a docstring with a fence around each doctest, which ends at an empty line; Markdown would quote it.

    >>> fenced("Add one.\\n\\n>>> f(1)\\n2\\n\\nThat is all.")
    'Add one.\\n\\n```pycon\\n>>> f(1)\\n2\\n```\\n\\nThat is all.'
    """
    return DOCTEST.sub(lambda found: f"{found[1]}```pycon\n{found[0]}\n{found[1]}```", text)
