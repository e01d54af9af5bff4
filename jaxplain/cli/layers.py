"""The command `jaxplain layers`."""

from __future__ import annotations

import argparse
from typing import Any

from jaxplain.cli.common import DEFAULT_MODEL, load_model
from jaxplain.cli.options import add_model
from jaxplain.explainers.catalogue import CATALOGUE


def add_commands(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "layers",
        help="list a network's layers",
        description="Lists a network's modules and tags that have a place in the image: their "
        "shapes, what their axes mean, and which methods look there by default.",
    )
    add_model(parser, DEFAULT_MODEL)
    parser.add_argument("--all", action="store_true", help="list every value that has a name")
    parser.set_defaults(command=_layers)


def _layers(arguments: argparse.Namespace) -> None:
    model: Any = load_model(arguments)
    import jax

    import jaxplain

    config = model.config
    image = jax.numpy.zeros((1, config.input_size, config.input_size, 3), "float32")
    print(jaxplain.layers(model, image, all=arguments.all, defaults=dict(config.layers)))
    print()
    for kind, name in config.layers:
        methods = [title for title, method in CATALOGUE.items() if method.layer == kind]
        print(f"{kind}: {name}, the default of {', '.join(methods)}")
