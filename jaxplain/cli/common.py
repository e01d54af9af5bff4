"""What the commands of the command line share: their error, models, pictures, steps."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxplain.core.extras import MissingPackageError, missing

if TYPE_CHECKING:
    import numpy as np

DEFAULT_MODEL = "efficientnet_lite0"


class CliError(Exception):
    """Something the user can put right; its text is the one line that they see."""


def load_model(arguments: argparse.Namespace, *, fully_convolutional: bool = False) -> Any:
    """The network of ``--model`` and the options that tell more of it."""
    name, classes = arguments.model, classes_of(arguments)
    with extra("zoo"):
        from jaxplain import models
        from jaxplain.models.own import is_place

        try:  # says itself what it does, if that takes a while
            if is_place(name):
                find_in_this_folder()
                return models.own_network(
                    name,
                    class_names=classes,
                    input_size=arguments.input_size,
                    pixels=arguments.pixels,
                )
            for flag in ("input_size", "pixels"):
                if getattr(arguments, flag) is not None:
                    raise ValueError(f"--{flag.replace('_', '-')} is for MODULE:NAME")
            return models.from_pretrained(
                name,
                network=arguments.network,
                class_names=classes,
                fully_convolutional=fully_convolutional,
            )
        except (OSError, ValueError) as error:
            raise CliError(f"cannot load {name}: {error}") from None


def classes_of(arguments: argparse.Namespace) -> int | list[str] | None:
    """What ``--classes`` says: how many, or their names."""
    said = arguments.class_names
    if said is None:
        return None
    if said.isdecimal():
        if not int(said):
            raise CliError("--classes must be at least 1")
        return int(said)
    try:
        names = [line.strip() for line in Path(said).read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"--classes {said}: neither a number nor a file of names: {error}") from None
    names = [name for name in names if name]
    if not names:
        raise CliError(f"--classes {said} holds no name")
    return names


def find_in_this_folder() -> None:
    """Lets modules in the present folder be imported, which the installed command does not."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def local_path(text: str) -> Path:
    """The path of an option; an address would become a folder called ``gs:``."""
    from jaxplain.core.addresses import is_address

    if is_address(text):
        raise CliError(
            f"{text} is an address; addresses are for --data and --output of explain-dataset"
        )
    return Path(text)


def read_image(path: Path) -> np.ndarray:
    """The image that the user named, see `jaxplain.data.read_image`."""
    from jaxplain import data

    if not os.path.lexists(path):
        near = difflib.get_close_matches(path.name, _listing(path.parent), n=1)
        raise CliError(f"no such file: {path}" + (f"; did you mean {near[0]}?" if near else ""))
    try:
        return data.read_image(path)
    except data.UnreadableImageError as error:
        raise CliError(f"{path} is not an image that can be read: {error.reason}") from None


def _listing(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def check_output(path: Path) -> None:
    """An error unless a picture can be written there."""
    if path.is_dir():
        raise CliError(f"the output {path} is a folder; name a file")
    if not path.parent.is_dir():
        raise CliError(f"the folder of the output does not exist: {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise CliError(f"cannot write in the folder of the output: {path.parent}")
    known = ("png", "jpg", "jpeg", "pdf", "svg", "webp", "tif", "tiff")
    if path.suffix.lower().lstrip(".") not in known:
        raise CliError(f"cannot write {str(path)!r}: use one of the suffixes .{', .'.join(known)}")


@contextlib.contextmanager
def extra(name: str) -> Iterator[None]:
    """Turns a missing optional package into advice on how to install it."""
    try:
        yield
    except MissingPackageError:
        raise
    except ModuleNotFoundError as error:
        raise missing(name, str(error.name), "This command") from error


@contextlib.contextmanager
def step(what: str) -> Iterator[None]:
    """Says on stderr what is going on, and how long it took if that was over a second."""
    live = sys.stderr.isatty()
    print(f"{what} ...", end="" if live else "\n", file=sys.stderr, flush=True)
    start = time.perf_counter()
    try:
        yield
    except BaseException:
        if live:
            print(file=sys.stderr)
        raise
    seconds = time.perf_counter() - start
    if live:
        print(
            f"\r\033[K{what}: {seconds:.1f} s" if seconds > 1 else "\r\033[K",
            end="\n" if seconds > 1 else "",
            file=sys.stderr,
            flush=True,
        )
