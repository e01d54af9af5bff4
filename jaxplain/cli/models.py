"""The command `jaxplain models`."""

from __future__ import annotations

import argparse
from typing import Any

from jaxplain.core import Table


def add_commands(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "models",
        help="list the networks",
        description="Lists the networks: parameters, image size, sources whose weights convert, "
        "where pretrained weights come from, published top-1 accuracy in per cent.",
    )
    parser.set_defaults(command=_models)


def _models(_: argparse.Namespace) -> None:
    print(models_table())


def models_table() -> Table[Any]:
    """The networks, one row each."""
    from jaxplain.models.entries import ENTRIES, PARAMETERS

    rows = []
    for name, entry in sorted(ENTRIES.items()):
        fetched = next((s for s in entry.sources if s.weights), None)
        published = (fetched or entry.sources[0]).top1
        rows.append(
            (
                name,
                f"{PARAMETERS[name] / 1e6:.2f} M",
                entry.config.input_size,
                ", ".join(dict.fromkeys(s.names.source for s in entry.sources)),
                str(fetched.weights) if fetched else "your file",
                "-" if published is None else f"{published:.1f}",
            )
        )
    columns = ("network", "parameters", "input", "sources", "pretrained from", "top-1")
    return Table(rows, columns, right=("parameters", "input", "top-1"))
