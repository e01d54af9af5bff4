"""The command `jaxplain explain`."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxplain.cli import drawing, method_options
from jaxplain.cli.common import (
    DEFAULT_MODEL,
    CliError,
    check_output,
    extra,
    load_model,
    read_image,
    step,
    suggest,
)
from jaxplain.cli.method_options import Choice, choices
from jaxplain.cli.options import add_model
from jaxplain.core import UnsupportedOperationError
from jaxplain.explainers.catalogue import CATALOGUE, DEFAULT, canonical, takes_layer

if TYPE_CHECKING:
    import numpy as np

DEFAULT_OUTPUT = "explained.png"
PHOTO = "cat_and_cup.jpg"
_BATCH = 8


def add_commands(commands: Any) -> None:
    """Adds the command."""
    explain = commands.add_parser(
        "explain",
        help="explain an image and write a panel of maps",
        description="Classifies an image, and writes a panel: the image, and for each class a row "
        "of maps, one per method. Methods that give a map for every layer, or need no class, have "
        "rows of their own.",
    )
    explain.add_argument(
        "image",
        nargs="?",
        metavar="IMAGE",
        help="an image file; default: a photo of a cat and a cup",
    )
    add_model(explain, DEFAULT_MODEL)
    explain.add_argument(
        "--methods",
        default=",".join(DEFAULT),
        metavar="A,B,C",
        help=f"methods, or 'all'; default: %(default)s; known: {', '.join(CATALOGUE)}",
    )
    explain.add_argument(
        "--class",
        dest="classes",
        action="append",
        metavar="NAME|INDEX|topK",
        help="class to explain, by name or index, or the K most probable ones; may be repeated; "
        "default: top2",
    )
    method_options.add_options(explain, several=True)
    explain.add_argument(
        "--fit",
        metavar="FOLDER",
        type=Path,
        help="photographs on which fitted-cam learns its weights, the more the better",
    )
    explain.add_argument(
        "--output",
        default=DEFAULT_OUTPUT,
        metavar="FILE",
        type=Path,
        help="picture to write; default: %(default)s",
    )
    explain.set_defaults(command=_explain)


def _explain(arguments: argparse.Namespace) -> None:
    methods, every = _choose_methods(arguments.methods)
    if every and arguments.layer is not None:
        methods = _with_layers(methods)
    chosen = choices(methods, arguments.settings, arguments.layer)
    fitted = [name for name, method in CATALOGUE.items() if method.needs == "fit"]
    if arguments.fit is not None and not set(fitted) & set(methods):
        raise CliError(
            f"--fit has no effect: {', '.join(fitted)}, which it is for, is not asked for"
        )
    check_output(arguments.output)
    with extra("viz"):
        from jaxplain import viz
    path = example_photo() if arguments.image is None else Path(arguments.image)
    photo = read_image(path)
    model: Any = load_model(arguments.model, arguments.network)
    with step("classifying"):
        x, probabilities = _classify(model, photo)
    names = model.config.class_names or [f"class {i}" for i in range(len(probabilities))]
    targets = _choose_classes(arguments.classes or ["top2"], names, probabilities)
    print(f"{path}: {model.config.name} predicts")
    for index in probabilities.argsort()[::-1][:5]:
        print(f"  {probabilities[index]:6.1%}  {names[index]} ({index})")

    drawn = drawing.thumbnail(photo)
    labels = _labels(targets, names, probabilities)
    rows: drawing.Rows = {label: {} for label in labels}
    for count, (name, choice) in enumerate(chosen.items(), 1):
        method = CATALOGUE[name]
        with step(f"[{count}/{len(chosen)}] {choice.title}"):
            try:
                if method.rows:
                    rows |= drawing.ROWS[name](model, x, targets, labels, drawn, choice)
                    continue
                more = {"fit": _fit(model, arguments.fit)} if method.needs == "fit" else {}
                maps = _maps(choice, model, x, targets, **more)
            # What a network does not allow, a method says in these words; OSError: of --fit.
            except (UnsupportedOperationError, ValueError, OSError) as error:
                if not every:
                    raise CliError(f"{choice.title}: {error}") from None
                print(f"{choice.title} left out: {' '.join(str(error).split())}", file=sys.stderr)
                continue
            for title, at_layer in maps.items():
                for label, one in zip(labels, at_layer, strict=True):
                    # Nothing arrived, as when d-WTA's process ends above the layer: say so.
                    shown = title if one.any() else f"{title} (empty)"
                    rows[label][shown] = viz.overlay(drawn, one, method.style)
    rows = {label: row for label, row in rows.items() if row}
    if not rows:
        raise CliError("none of the methods can explain this network there")
    with step("drawing"):
        try:
            viz.save(viz.panel(drawn, rows), arguments.output)
        except (OSError, ValueError) as error:
            raise CliError(f"cannot write {arguments.output}: {error}") from None
    print(f"wrote {arguments.output}")


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
        raise CliError(f"no method given; known: all, {', '.join(CATALOGUE)}")
    if "all" in asked:
        return list(CATALOGUE), True
    for name in asked:
        if name not in CATALOGUE:
            raise CliError(f"unknown method {name!r}{suggest(name, [*CATALOGUE, 'all'])}")
    return list(dict.fromkeys(asked)), False


def _with_layers(methods: Iterable[str]) -> list[str]:
    """The methods that take a layer; the others are named on stderr."""
    other = [name for name in methods if not takes_layer(name)]
    print(f"left out, for they take no layer: {', '.join(other)}", file=sys.stderr)
    return [name for name in methods if takes_layer(name)]


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


def _labels(targets: Sequence[int], names: Sequence[str], probabilities: np.ndarray) -> list[str]:
    """What is written over each class's row; two classes can bear one name."""
    labels: list[str] = []
    for i in targets:
        label = f"{names[i]}  {probabilities[i]:.1%}"
        labels.append(f"{label} ({i})" if label in labels else label)
    return labels


def _maps(choice: Choice, model, x, targets: Sequence[int], **more) -> dict[str, np.ndarray]:
    """Title -> one map per class, (K, h, w), on the host; one forward pass for all of them."""
    import jax
    import numpy as np

    import jaxplain

    try:
        explain = choice.explainer(model.config, **more)
        maps = explain(model, x, jax.numpy.asarray([targets]))
    except jaxplain.UnknownLayerError as error:
        raise CliError(str(error)) from None
    if isinstance(choice.layer, tuple):
        titled = {f"{choice.title}, {layer}": maps[layer] for layer in choice.layer}
    else:
        titled = {choice.title: maps}
    return {title: np.asarray(m[0], np.float32) for title, m in titled.items()}


def _fit(model, folder: Path | None):
    """The weights of CAM, from a folder of photographs."""
    import numpy as np

    import jaxplain
    from jaxplain import models
    from jaxplain.data.images import image_files

    if folder is None:
        raise ValueError("it needs photographs to learn its weights from: --fit FOLDER")
    files = image_files(folder)

    def batches():
        for i in range(0, len(files), _BATCH):
            chosen = files[i : i + _BATCH]
            yield np.concatenate(
                [models.preprocess(read_image(f), model.config, crop=False) for f in chosen]
            )

    fit = jaxplain.fit_cam(model, batches(), layer=model.config.layer("last"))
    print(
        f"fitted on {len(files)} photographs: R^2 {float(np.median(fit.explained)):.2f} in the "
        "median over classes, on these photographs themselves",
        file=sys.stderr,
    )
    return fit
