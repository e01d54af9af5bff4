"""The command line: `jaxplain explain`, `layers`, `models`, `convert`, `jaxplain --version`.

Whatever the user got wrong is one line on stderr and exit status 2. Heavy imports wait until a
command needs them.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib.metadata
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from jaxplain import _cli_evaluate, _cli_models
from jaxplain._methods import DEFAULT, METHODS, canonical

if TYPE_CHECKING:
    import numpy as np

DEFAULT_MODEL = "efficientnet_lite0"
DEFAULT_OUTPUT = "explained.png"
PHOTO = "cat_and_cup.jpg"
#: Largest side at which a photograph is drawn; what the network sees does not depend on it.
_DRAWN = 448


class CliError(Exception):
    """Something the user can put right; its text is the one line that they see."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status: 0, 2 for bad input, 130 if interrupted.

    >>> main(["explain", "--methods", "grad-camm"])
    2
    """
    try:
        arguments = _parser().parse_args(argv)
        arguments.command(arguments)
    except CliError as error:
        line = " ".join(str(error).split())
        print(f"jaxplain: error: {line}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `jaxplain layers | head`
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("jaxplain: interrupted", file=sys.stderr)
        return 130
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise CliError(f"{message} (see {self.prog} --help)")


class _Version(argparse.Action):
    def __call__(self, parser, *_) -> NoReturn:
        print(f"jaxplain {importlib.metadata.version('jaxplain')}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="jaxplain", description="Explains what a convolutional classifier looked at."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    explain = commands.add_parser(
        "explain",
        help="explain an image and write a panel of maps",
        description="Classifies an image, and writes a panel: the image, and for each class a row "
        "of maps, one a method.",
    )
    explain.add_argument(
        "image", nargs="?", metavar="IMAGE", help="an image file; default: a photo of a cat and a cup"
    )
    explain.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME",
                         help="network; default: %(default)s")  # fmt: skip
    explain.add_argument(
        "--methods", default=",".join(DEFAULT), metavar="A,B,C",
        help=f"methods, or 'all'; default: %(default)s; known: {', '.join(METHODS)}",
    )  # fmt: skip
    explain.add_argument(
        "--class", dest="classes", action="append", metavar="NAME|INDEX|topK",
        help="class to explain, by name or index, or the K most probable ones; may be repeated; "
        "default: top2",
    )  # fmt: skip
    explain.add_argument("--layer", metavar="NAME", help="layer of the methods that take one, see "
                         "'jaxplain layers'; default: each method's own")  # fmt: skip
    explain.add_argument("--output", default=DEFAULT_OUTPUT, metavar="FILE", type=Path,
                         help="picture to write; default: %(default)s")  # fmt: skip
    explain.set_defaults(command=_explain)

    layers = commands.add_parser(
        "layers", help="list a network's layers", description="Lists a network's layers with shapes."
    )
    layers.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME",
                        help="network; default: %(default)s")  # fmt: skip
    layers.set_defaults(command=_layers)
    _cli_models.add_commands(commands, CliError)
    _cli_evaluate.add_commands(commands, CliError)
    return parser


def _explain(arguments: argparse.Namespace) -> None:
    methods, every = _choose_methods(arguments.methods)
    if arguments.layer is not None and not any(METHODS[name].at_layer for name in methods):
        raise CliError("--layer has no effect: none of these methods is explained at a layer")
    # Whatever can be found wrong without the network is found before it is loaded.
    _check_output(arguments.output)
    with _extra("viz"):
        from jaxplain import viz
    path = example_photo() if arguments.image is None else Path(arguments.image)
    photo = _read_image(path)
    model = _load(arguments.model)
    with _step("classifying"):
        x, probabilities = _classify(model, photo)
    names = model.config.class_names or [f"class {i}" for i in range(len(probabilities))]
    targets = _choose_classes(arguments.classes or ["top2"], names, probabilities)
    print(f"{path}: {model.config.name} predicts")
    for index in probabilities.argsort()[::-1][:5]:
        print(f"  {probabilities[index]:6.1%}  {names[index]} ({index})")

    drawn = _drawn(photo)
    rows = {i: {} for i in targets}
    for count, name in enumerate(methods, 1):
        method = METHODS[name]
        with _step(f"[{count}/{len(methods)}] {method.title}"):
            try:
                maps = _maps(method, model, x, targets, arguments.layer)
            except (NotImplementedError, ValueError) as error:
                if not every:
                    raise CliError(f"{method.title}: {error}") from None
                print(f"{method.title} left out: {' '.join(str(error).split())}", file=sys.stderr)
                continue
            for i, one in zip(targets, maps, strict=True):
                # Nothing arrived, as when d-WTA's process ends above the layer: say so.
                title = method.title if one.any() else f"{method.title} (empty)"
                rows[i][title] = viz.overlay(drawn, one, method.style)
    if not all(rows.values()):
        raise CliError("none of the methods can explain this network there")
    with _step("drawing"):
        labelled = {}
        for i in targets:
            label = f"{names[i]}  {probabilities[i]:.1%}"
            labelled[f"{label} ({i})" if label in labelled else label] = rows[i]
        figure = viz.panel(drawn, labelled)
        try:
            viz.save(figure, arguments.output)
        except (OSError, ValueError) as error:
            raise CliError(f"cannot write {arguments.output}: {error}") from None
    print(f"wrote {arguments.output}")


def _layers(arguments: argparse.Namespace) -> None:
    model = _load(arguments.model)
    import jax
    import jaxplain

    size = model.config.input_size
    print(jaxplain.layers(model, jax.numpy.zeros((1, size, size, 3), "float32")))


def example_photo() -> Path:
    """Where the photograph of a cat and a cup is installed.

    >>> example_photo().name
    'cat_and_cup.jpg'
    """
    import importlib.resources

    path = Path(str(importlib.resources.files("jaxplain.examples") / PHOTO))
    if not path.is_file():
        raise CliError(f"the photo {PHOTO} is missing from this installation; name an image file")
    return path


def _choose_methods(text: str) -> tuple[list[str], bool]:
    """The methods named, in order and once each; and whether all were asked for."""
    asked = [canonical(name) for name in text.split(",") if name.strip()]
    if not asked:
        raise CliError(f"no method given; known: all, {', '.join(METHODS)}")
    if "all" in asked:
        return list(METHODS), True
    for name in asked:
        if name not in METHODS:
            raise CliError(f"unknown method {name!r}{_suggest(name, [*METHODS, 'all'])}")
    return list(dict.fromkeys(asked)), False


def _check_output(path: Path) -> None:
    if path.is_dir():
        raise CliError(f"the output {path} is a folder; name a file")
    if not path.parent.is_dir():
        raise CliError(f"the folder of the output does not exist: {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise CliError(f"cannot write in the folder of the output: {path.parent}")
    known = ("png", "jpg", "jpeg", "pdf", "svg", "webp", "tif", "tiff")
    if path.suffix.lower().lstrip(".") not in known:
        raise CliError(f"cannot write {str(path)!r}: use one of the suffixes .{', .'.join(known)}")


def _read_image(path: Path) -> np.ndarray:
    """An image file as (H, W, 3) uint8, upright, transparency over white."""
    with _extra("viz"):
        from PIL import Image, ImageOps
    import numpy as np

    if not path.exists():
        near = difflib.get_close_matches(path.name, _listing(path.parent), n=1)
        raise CliError(f"no such file: {path}" + (f"; did you mean {near[0]}?" if near else ""))
    if path.is_dir():
        raise CliError(f"{path} is a folder; name an image file")
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I"):  # 16 bits; PIL would clip them at 255
                image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
            if image.has_transparency_data:
                image = image.convert("RGBA")
                white = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(white, image)
            return np.asarray(image.convert("RGB"))
    except PermissionError:
        raise CliError(f"cannot read {path}: permission denied") from None
    # PIL raises many kinds of error on files that are broken or of another type.
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        reason = "" if type(error).__name__ == "UnidentifiedImageError" else f" ({error})"
        raise CliError(f"{path} is not an image that can be read{reason}") from None


def _listing(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _load(name: str):
    with _extra("zoo"):
        from jaxplain import models
    known = models.list_models()
    if name not in known and not Path(name).exists():
        raise CliError(f"unknown model {name!r}{_suggest(name, known)}")
    with _extra("zoo"):
        try:  # says itself what it does, if that takes a while
            return models.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise CliError(f"cannot load {name}: {error}") from None


def _classify(model, photo: np.ndarray):
    """The network's input (1, H, W, 3), and the probabilities of the classes as a host array."""
    import jax
    import numpy as np

    from jaxplain import models

    # The whole image, not its central crop: every pixel of the picture is explained.
    x = models.preprocess(photo, model.config, crop=False)
    return x, np.asarray(jax.nn.softmax(model(x)[0].astype("float32")))


def _choose_classes(
    asked: Iterable[str], names: Sequence[str], probabilities: np.ndarray
) -> list[int]:
    """Class indices for NAME, INDEX or topK, in the order asked and once each."""
    from jaxplain import models

    count = len(probabilities)
    chosen: list[int] = []
    for text in asked:
        if top := re.fullmatch(r"top[-_ ]?(\d+)", text.strip().lower()):
            if not 1 <= int(top[1]) <= count:
                raise CliError(f"{text!r}: with {count} classes it must be top1 to top{count}")
            chosen += (int(i) for i in probabilities.argsort()[::-1][: int(top[1])])
        else:
            try:
                chosen.append(models.class_index(text.replace("_", " "), names, count))
            except ValueError as error:
                raise CliError(str(error)) from None
    return list(dict.fromkeys(chosen))


def _suggest(name: str, known: Iterable[str]) -> str:
    """'; did you mean ...?' with names alike, or holding the word; otherwise the names, if few."""
    known = list(known)
    near = [k for k in known if name and re.search(rf"\b{re.escape(name)}\b", k)][:4]
    near += difflib.get_close_matches(name, known, n=4, cutoff=0.6)
    near = list(dict.fromkeys(near))[:4] or difflib.get_close_matches(name, known, n=4, cutoff=0.3)
    if near:
        return f"; did you mean {' or '.join([', '.join(near[:-1]), near[-1]] if near[1:] else near)}?"
    return f"; known: {', '.join(known)}" if len(known) <= 30 else ""


def _maps(method, model, x, targets: Sequence[int], layer: str | None) -> np.ndarray:
    """One map a class, (K, h, w), on the host; one forward pass for all of them."""
    import jax
    import numpy as np

    import jaxplain

    options = dict(method.options)
    if method.at_layer:
        options["layer"] = model.config.layer(method.function) if layer is None else layer
    if method.random:
        options["key"] = jax.random.key(0)
    explainer = getattr(jaxplain, method.function)
    try:
        maps = explainer(model, x, jax.numpy.asarray([targets]), **options)
    except jaxplain.UnknownLayerError as error:
        raise CliError(str(error)) from None
    return np.asarray(maps[0], np.float32)


def _drawn(photo: np.ndarray) -> np.ndarray:
    from PIL import Image

    import numpy as np

    image = Image.fromarray(photo)
    image.thumbnail((_DRAWN, _DRAWN), Image.Resampling.LANCZOS)
    return np.asarray(image)


@contextlib.contextmanager
def _extra(name: str) -> Iterator[None]:
    """Turns a missing optional package into advice on how to install it."""
    try:
        yield
    except ImportError as error:
        raise CliError(f"{error}; install it with: pip install 'jaxplain[{name}]'") from None


@contextlib.contextmanager
def _step(what: str) -> Iterator[None]:
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
        print(f"\r\033[K{what}: {seconds:.1f} s" if seconds > 1 else "\r\033[K",
              end="\n" if seconds > 1 else "", file=sys.stderr, flush=True)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
