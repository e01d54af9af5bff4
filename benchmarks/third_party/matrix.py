"""The matrix of networks and methods: one cell each, and the table of them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jaxplain
from benchmarks.third_party.checks import CHECKS
from benchmarks.third_party.networks import network
from benchmarks.third_party.subject import NoCheckError, Subject

#: Relative errors up to this are rounding, in double precision.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Cell:
    """What a method did on a network; ``words`` are those of the check or of the refusal."""

    state: Literal["right", "refused", "wrong", "unchecked"]
    words: str


def cell(method: str, subject: Subject) -> Cell:
    """One method on one network."""
    try:
        check, off = CHECKS[method](subject)
    except (
        jaxplain.UnsupportedOperationError,
        jaxplain.UnknownLayerError,
        jaxplain.UnsuitableNetworkError,
    ) as refusal:
        return Cell("refused", str(refusal))
    except NoCheckError as none:
        return Cell("unchecked", str(none))
    except Exception as crash:  # a crash is a finding of this table, whatever its kind
        return Cell("wrong", f"{type(crash).__name__}: {crash}")
    return Cell("right" if off <= TOLERANCE else "wrong", f"{check} (off by {off:.0e})")


def rows(name: str, methods: Sequence[str], say=print) -> dict[str, Cell]:
    """The cells of one network, each said as it is found."""
    begun = time.perf_counter()
    subject = Subject(network(name))
    found = {}
    for method in methods:
        started = time.perf_counter()
        found[method] = cell(method, subject)
        took = f"{time.perf_counter() - started:.0f} s"
        say(
            f"{name} | {method} | {found[method].state} | {found[method].words}, {took}", flush=True
        )
    say(f"{name}: {time.perf_counter() - begun:.0f} s", flush=True)
    return found


def markdown(cells: Mapping[str, Mapping[str, Cell]]) -> str:
    """The table: one row per network; below it, the words of every refusal and of every check."""
    methods = list(dict.fromkeys(m for row in cells.values() for m in row))
    notes: dict[tuple[str, str], list[str]] = {}
    lines = [
        "# Every method on networks that others wrote",
        "",
        "Written by `python -m benchmarks.third_party --output benchmarks/third_party.md`. + is "
        "right, r is refused; **W** is wrong and **?** unchecked; an empty cell was not run.",
        "",
        "| network | " + " | ".join(methods) + " |",
        "| --- |" + " --- |" * len(methods),
    ]
    signs = {"right": "+", "refused": "r", "wrong": "**W**", "unchecked": "**?**"}
    for name, row in cells.items():
        lines.append(
            f"| {name} | "
            + " | ".join(signs[row[m].state] if m in row else "" for m in methods)
            + " |"
        )
        for method, found in row.items():
            words = found.words.partition(" (off by")[0] if found.state == "right" else found.words
            notes.setdefault((method, f"{found.state}: {words}"), []).append(name)
    lines += ["", "| method | what happened | on |", "| --- | --- | --- |"]
    for method in methods:
        for (of, words), names in notes.items():
            if of == method:
                text = " ".join(words.split()).replace("|", "\\|").replace(f"{Path.cwd()}/", "")
                run = [name for name, row in cells.items() if method in row]
                where = "all" if names == run else ", ".join(names)
                lines.append(f"| {method} | {text} | {where} |")
    return "\n".join(lines) + "\n"
