"""Page: what the reader of a figure asks of it, such as the width of a journal's column."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypedDict

from deconvviz.errors import DataError


class PageKeywords(TypedDict, total=False):
    """What the public drawing functions take of `Page`, as keyword arguments."""

    width: float | None
    dpi: int | None


class ColumnsKeywords(PageKeywords, total=False):
    """The same of figures whose parts stand in rows."""

    columns: int | None


@dataclass(frozen=True, kw_only=True)
class Page:
    """How a figure is laid out for the place where it will stand. Letters keep their size on a page of any width.

    Attributes:
        title: text above the figure; "" for none, None for the figure's own.
        width: of the page in inches, such as 3.3 for a column and 6.9 for a page of a paper; None for the figure's own.
        dpi: pixels per inch of a PNG, and of the pictures in a PDF or SVG; None for the figure's own.
        caption: whether the caption stands below the figure; it is in the file's metadata in any case.
        columns: how many pictures, filters or panels stand in a row; None for as many as there is room for.
    """

    title: str | None = None
    width: float | None = None
    dpi: int | None = None
    caption: bool = True
    columns: int | None = None

    def beside(self) -> Page:
        """Return what is asked for of a further figure of the same command: it has its own title and columns.

        >>> Page(title="A", width=5, columns=2).beside()
        Page(title=None, width=5, dpi=None, caption=True, columns=None)
        """
        return replace(self, title=None, columns=None)

    def fitted(self, natural: float, fixed: float, parts: float, least: float) -> float:
        """Return the size of each of several parts that share the width with parts of a fixed size.

        Args:
            natural: size of a part in inches, where no width is asked for.
            fixed: inches of the width that belong to margins, gaps and texts.
            parts: number of parts that stand side by side; one that is half as wide counts half.
            least: inches that a part needs.

        Raises:
            DataError: the page is too narrow for so many parts of the least size.

        >>> Page(width=7).fitted(natural=3.0, fixed=1.0, parts=3, least=0.5), Page().fitted(3.0, 1.0, 3, 0.5)
        (2.0, 3.0)
        """
        size = natural if self.width is None else (self.width - fixed) / parts
        if size < least:
            raise DataError(
                f"a figure {self.width:g} in wide is asked for; this one needs {fixed + parts * least:.1f} in "
                "to be read; give a larger --width" + (" or fewer --columns" if self.columns else "")
            )
        return size

    def across(self, count: int, natural: int, size: float, fixed: float) -> int:
        """Return how many of `count` parts stand in a row.

        Args:
            count: number of parts in all.
            natural: how many stand in a row where neither columns nor a width are asked for.
            size: natural size of a part in inches, with its gap.
            fixed: inches of the width that belong to other things.

        >>> Page(width=6).across(9, natural=9, size=2.0, fixed=1.0), Page(columns=4).across(9, 9, 2.0, 1.0)
        (2, 4)
        """
        if self.columns is not None:
            return min(self.columns, count)
        if self.width is not None:
            natural = int((self.width - fixed + 1e-6) / size)
        return max(1, min(natural, count))


OWN = Page()
"""A figure as it is laid out by itself."""
