"""Optional packages: the one sentence that says how a missing one is installed."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

__all__ = ["MissingPackageError", "install", "missing"]


class MissingPackageError(ImportError):
    """A package that only some uses need is not installed; the text says how to install it."""


def missing(extra: str, package: str, what: str) -> MissingPackageError:
    """The error to raise where an optional package cannot be imported.

    Args:
        extra: the group of optional packages that holds it.
        package: its name, as pip knows it.
        what: what needs it, to begin the sentence with.

    Example:
        >>> print(missing("viz", "matplotlib", "Drawing"))
        Drawing needs the package matplotlib; install it with pip install ...[viz]".
    """
    return MissingPackageError(
        f"{what} needs the package {package}; install it with {install(extra)}."
    )


def install(extra: str) -> str:
    """The command that adds an extra to this installation, of whatever origin it is.

    Example:
        >>> install("viz")
        'pip install ...[viz]"'
    """
    try:
        text = importlib.metadata.distribution("jaxplain").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:  # a clone that was not installed
        return f'pip install "{_clone(Path(__file__).parents[2])}[{extra}]"'
    if text is None:  # from a package index
        return f'pip install "jaxplain[{extra}]"'
    origin = json.loads(text)  # PEP 610
    url = origin["url"]
    if "dir_info" in origin:
        folder = Path(url2pathname(unquote(urlsplit(url).path)))
        editable = "-e " if origin["dir_info"].get("editable") else ""
        return f'pip install {editable}"{_clone(folder)}[{extra}]"'
    if "vcs_info" in origin:
        vcs = origin["vcs_info"]
        url = f"{vcs['vcs']}+{url}@{vcs.get('requested_revision') or vcs['commit_id']}"
    return f'pip install "jaxplain[{extra}] @ {url}"'


def _clone(folder: Path) -> str:
    """The folder, by the shortest name that is right where the program runs."""
    return "." if folder.resolve() == Path.cwd().resolve() else str(folder)
