"""The command `jaxplain app`: a page in the browser on which one explains pictures."""

from __future__ import annotations

import argparse
import threading
from functools import partial
from typing import Any

from jaxplain.cli import options
from jaxplain.cli.common import DEFAULT_MODEL, CliError, load_model, step
from jaxplain.explanation.choice import names_of_methods


def add_commands(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "app",
        help="explain pictures in the browser",
        description="Opens a page on which one drops a picture, and turns the knobs: methods, "
        "classes, layer, colours. It needs the extra 'app'. Only this machine can reach it, unless "
        "--host says otherwise. Ctrl-C ends it.",
    )
    options.add_model(parser, DEFAULT_MODEL)
    options.add_methods(parser, "grad-cam,c-mwp", "what is chosen at first")
    parser.add_argument(
        "--others",
        default="",
        metavar="A,B",
        help="networks that can be chosen besides, see 'jaxplain models'; each is loaded when it "
        "is chosen",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen on; 0.0.0.0 lets other machines in; default: %(default)s",
    )
    options.add_number(
        parser, "--port", None, "port to listen on; default: the first free one from 7860 on",
        show_default=False,
    )  # fmt: skip
    parser.set_defaults(command=_app)


def _app(arguments: argparse.Namespace) -> None:
    from jaxplain import models
    from jaxplain.page.app import app
    from jaxplain.page.studio import METHODS

    methods = names_of_methods(arguments.methods.split(","), METHODS)
    others = [name for name in arguments.others.split(",") if name]
    known = models.list_models()
    for name in others:
        if name not in known:
            raise CliError(f"--others {name}: there is no network of this name")
    network = load_model(arguments)
    with step("opening the page"):
        page = app(
            network,
            methods=methods,
            others={name: partial(models.from_pretrained, name) for name in others},
            name=arguments.model,
            host=arguments.host,
            port=arguments.port,
        )
    print(f"open {page.local_url} in a browser; Ctrl-C ends it", flush=True)
    try:
        threading.Event().wait()
    finally:
        page.close()
