"""The one form in which every protocol's result comes: tables, JSON, Markdown and a figure."""

from __future__ import annotations

import dataclasses
import html
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from jaxplain.core import Table
from jaxplain.core.addresses import local
from jaxplain.core.writing import write_atomically
from jaxplain.evaluation.intervals import CONFIDENCE, wilson

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["INTERVAL", "Report", "between", "mean_and_error", "percent", "share_interval"]

#: What an interval is called in tables and notes.
INTERVAL = f"{CONFIDENCE:.0%} interval".replace("%", " %")

Results = TypeVar("Results")


@dataclasses.dataclass(frozen=True, eq=False)
class Report(Generic[Results]):
    """What a protocol came to.

    Attributes:
        protocol: its name.
        title: stands over the tables; see `about`.
        tables: what is printed; a heading or "", and a table with one row per method.
        notes: sentences below the tables.
        results: everything behind the tables, in the protocol's own form, for further work.
        details: everything as plain values, for JSON; arrays become lists, and NaN null.
        draw: makes the figure of a report.
        failures: (id, reason) of images that could not be read.

    Example:
        >>> table = Table([("CAM", 0.5)], ["method", "error"])
        >>> report = Report("game", "Game", [("", table)], ["3 images."], {"CAM": 0.5},
        ...                 {"images": 3}, lambda report: None)
        >>> print(report.about("a network on a data set").markdown())
        | method | error |
        | --- | ---: |
        | CAM | 0.5 |
        <BLANKLINE>
        3 images.
        >>> report.to_json()
        {'protocol': 'game', 'images': 3, 'failures': []}
    """

    protocol: str
    title: str
    tables: Sequence[tuple[str, Table[Any]]]
    notes: Sequence[str]
    results: Results
    details: Mapping[str, Any]
    draw: Callable[[Report[Results]], Figure]
    failures: tuple[tuple[str, str], ...] = ()

    @property
    def table(self) -> Table[Any]:
        """The first table, of most protocols the only one."""
        return self.tables[0][1]

    def about(
        self, subject: str, failures: tuple[tuple[str, str], ...] | None = None
    ) -> Report[Results]:
        """The same, its title naming a network and a data set; with the caller's failures."""
        failures = self.failures if failures is None else failures
        return dataclasses.replace(self, title=f"{self.title}: {subject}", failures=failures)

    def without(self, left_out: Mapping[str, str]) -> Report[Results]:
        """The same with a row of ``-`` for each method that was left out, and the reasons.

        Args:
            left_out: method -> why it was not run, as the network does not allow it.
        """
        tables = [(heading, table.with_absent(left_out)) for heading, table in self.tables]
        details = {**self.details, "left_out": dict(left_out)}
        return dataclasses.replace(self, tables=tables, details=details)

    def markdown(self) -> str:
        """The tables and the notes."""
        parts = []
        for heading, table in self.tables:
            parts += [heading, table.markdown()] if heading else [table.markdown()]
        return "\n\n".join([*parts, "\n".join(self.notes)] if self.notes else parts)

    __str__ = markdown

    def _repr_html_(self) -> str:
        """The report in a notebook: its title, tables and notes."""
        parts = [f"<h4>{html.escape(self.title)}</h4>"]
        for heading, table in self.tables:
            parts += [f"<p>{html.escape(heading)}</p>"] if heading else []
            parts.append(table._repr_html_())
        return "".join([*parts, *(f"<p>{html.escape(note)}</p>" for note in self.notes)])

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values; null where there is no number."""
        failures = [list(failure) for failure in self.failures]
        return {"protocol": self.protocol, **_plain(self.details), "failures": failures}

    def figure(self) -> Figure:
        """The protocol's figure; write it with `jaxplain.viz.save`.

        Raises:
            ImportError: matplotlib is not installed.
        """
        return self.draw(self)

    def write(
        self, folder: str | os.PathLike[str], name: str, more: Mapping[str, Any] | None = None
    ) -> None:
        """Writes ``name.json`` and ``name.md``; ``more`` are further values of the JSON file."""
        folder = local(folder)
        folder.mkdir(parents=True, exist_ok=True)
        said = {"title": self.title, **_plain(more or {}), **self.to_json()}
        text = json.dumps(said, indent=1, allow_nan=False)
        write_atomically(folder / f"{name}.json", f"{text}\n".encode())
        markdown = f"# {self.title}\n\n{self.markdown()}\n"
        write_atomically(folder / f"{name}.md", markdown.encode())


def percent(value: Any) -> str:
    """A fraction in per cent, for a table; '-' for NaN.

    >>> percent(0.125), percent(float("nan"))
    ('12.5', '-')
    """
    return "-" if math.isnan(value) else f"{100 * float(value):.1f}"


def between(low: Any, high: Any) -> str:
    """The two ends of an interval as they are, for a table.

    >>> between(0.125, 1.0)
    '0.125 to 1.000'
    """
    return f"{float(low):.3f} to {float(high):.3f}"


def share_interval(hits: Any, trials: Any) -> str:
    """Wilson's interval of hits / trials in per cent, for a table; '-' of no trials.

    >>> share_interval(52, 75), share_interval(0, 0)
    ('58.2 to 78.6', '-')
    """
    if not trials:
        return "-"
    low, high = wilson(hits, trials)
    return f"{percent(low)} to {percent(high)}"


def mean_and_error(values: np.ndarray) -> str:
    """The mean and its standard error, for a table.

    >>> mean_and_error(np.array([1.0, 3.0]))
    '2.000 ± 1.000'
    """
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return f"{values.mean():.3f} ± {error:.3f}"


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, Mapping):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):  # arrays and scalars of NumPy and JAX
        return _plain(value.tolist())
    if isinstance(value, Path):
        return str(value)
    # JSON has neither NaN nor infinity.
    return None if isinstance(value, float) and not math.isfinite(value) else value
