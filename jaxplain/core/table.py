"""The one table: rows that print as text, and as Markdown."""

from __future__ import annotations

import html
import math
import numbers
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

__all__ = ["Table"]

Row = TypeVar("Row", bound=Sequence[Any])


class Table(list[Row]):
    """A list of rows that prints as a table.

    Numbers stand to the right, words to the left; what is missing (None) is left blank, and NaN is
    ``-``.

    Args:
        rows: tuples of one length; the fields of a `NamedTuple` name the columns.
        columns: their names; None for the fields' own.
        right: the columns, by name, that stand to the right; None for those of numbers alone. For
            cells that are numbers made into text.
        form: how numbers with a fraction are written, as in a format string.

    Example:
        >>> table = Table([("CAM", 0.5, 7), ("Gradient", 0.25, 12)], ["method", "error", "images"])
        >>> print(table)
        method    error  images
        CAM         0.5       7
        Gradient   0.25      12
        >>> print(table.markdown())
        | method | error | images |
        | --- | ---: | ---: |
        | CAM | 0.5 | 7 |
        | Gradient | 0.25 | 12 |
    """

    def __init__(
        self,
        rows: Iterable[Row] = (),
        columns: Sequence[str] | None = None,
        *,
        right: Iterable[str] | None = None,
        form: str = ".4g",
    ):
        super().__init__(rows)
        self.form = form
        self._columns = None if columns is None else tuple(columns)
        self._right = None if right is None else frozenset(right)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns; none of an empty table that was given none."""
        if self._columns is not None:
            return self._columns
        return tuple(getattr(self[0], "_fields", ())) if self else ()

    def with_absent(self, names: Iterable[str]) -> Table[Any]:
        """The same with a row of ``-`` for each of these names, as of what could not be measured.

        >>> Table([("CAM", 0.5, "5 of 10")], ["method", "error", "hits"]).with_absent(["LRP"])
        method  error  hits
        CAM       0.5  5 of 10
        LRP         -  -
        """
        kinds = [_is_number(value) for value in self[0][1:]]
        empty = [math.nan if number else "-" for number in kinds]
        rows = [*self, *((name, *empty) for name in names)]
        return Table(rows, self.columns, right=self._right, form=self.form)

    def markdown(self) -> str:
        """The table as Markdown."""
        marks = ["---:" if right else "---" for right in self._to_the_right()]
        lines = [self.columns, marks, *self._cells()]
        return "\n".join(f"| {' | '.join(_escaped(c) for c in line)} |" for line in lines)

    def _repr_html_(self) -> str:
        """The table in a notebook."""
        sides = ["right" if right else "left" for right in self._to_the_right()]
        lines = [("th", self.columns), *(("td", line) for line in self._cells())]
        rows = "".join(
            "<tr>"
            + "".join(
                f'<{tag} style="text-align: {side}">{html.escape(cell)}</{tag}>'
                for cell, side in zip(line, sides, strict=True)
            )
            + "</tr>"
            for tag, line in lines
        )
        return f"<table>{rows}</table>" if self else "<p>(nothing)</p>"

    def __str__(self) -> str:
        if not self:
            return "(nothing)"
        lines = [list(self.columns), *self._cells()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        layout = list(zip(widths, self._to_the_right(), strict=True))
        return "\n".join(
            "  ".join(
                cell.rjust(width) if right else cell.ljust(width)
                for cell, (width, right) in zip(line, layout, strict=True)
            ).rstrip()
            for line in lines
        )

    __repr__ = __str__

    def _cells(self) -> list[list[str]]:
        return [[_text(value, self.form) for value in row] for row in self]

    def _to_the_right(self) -> list[bool]:
        if self._right is not None:
            return [name in self._right for name in self.columns]
        return [
            any(map(_is_number, column)) and all(v is None or _is_number(v) for v in column)
            for column in zip(*self, strict=True)
        ] or [False] * len(self.columns)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _text(value: Any, form: str) -> str:
    if value is None:
        return ""
    if _is_number(value) and not isinstance(value, numbers.Integral):
        return "-" if math.isnan(value) else format(float(value), form)
    if isinstance(value, tuple):
        shape = all(isinstance(v, numbers.Integral) for v in value)
        return (" x " if shape else ", ").join(_text(v, form) for v in value)
    return str(value)


def _escaped(cell: str) -> str:
    return cell.replace("|", r"\|")
