"""The command `jaxplain layers`."""

from __future__ import annotations

import argparse
from typing import Any

from jaxplain.cli.common import DEFAULT_MODEL, load_model
from jaxplain.cli.options import add_model


def add_commands(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "layers",
        help="list a network's layers",
        description="Lists a network's layers with shapes.",
    )
    add_model(parser, DEFAULT_MODEL)
    parser.set_defaults(command=_layers)


def _layers(arguments: argparse.Namespace) -> None:
    model: Any = load_model(arguments.model, arguments.network)
    import jax

    import jaxplain

    size = model.config.input_size
    print(jaxplain.layers(model, jax.numpy.zeros((1, size, size, 3), "float32")))
