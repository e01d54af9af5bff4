"""For the site's reference: the examples of docstrings become blocks of code."""

from __future__ import annotations

from typing import Any

from griffe import Extension  # pyright: ignore[reportMissingImports]


class Doctests(Extension):
    """Puts every doctest between fences; without them Markdown takes its lists for links."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """The text with fences around its doctests, each from ``>>>`` to the next empty line."""
    lines: list[str] = []
    indent: str | None = None  # of the doctest at hand
    for line in [*text.splitlines(), ""]:
        if indent is None and line.lstrip().startswith(">>>"):
            indent = line[: len(line) - len(line.lstrip())]
            if lines[-1:] and lines[-1].strip() not in ("", "Example:"):
                lines.append("")
            lines.append(f"{indent}```pycon")
        elif indent is not None and not line.strip():
            lines.append(f"{indent}```")
            indent = None
        lines.append(line)
    return "\n".join(lines[:-1])
