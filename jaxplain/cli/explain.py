"""The command `jaxplain explain`."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxplain.cli import drawing, method_options, similarity
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
from jaxplain.cli.method_options import can_take_layer, choices, layer_of_fit
from jaxplain.cli.options import add_model
from jaxplain.explainers.catalogue import CATALOGUE, DEFAULT, canonical

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
        "rows of their own; PFV's colours mean the same in all images. With --reference it "
        "explains what makes the image similar to another picture.",
    )
    explain.add_argument(
        "images",
        nargs="*",
        metavar="IMAGE",
        help="image files; default: a photo of a cat and a cup",
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
        "--reference",
        dest="references",
        action="append",
        type=Path,
        metavar="PICTURE",
        help="explain the cosine similarity of the image's embedding to this picture's, and the "
        "other way round; may be repeated: the most similar one is the prediction, so that five, "
        "one of each class, are a 5-way 1-shot episode",
    )
    explain.add_argument(
        "--boxes",
        type=float,
        metavar="ALPHA",
        help="draw the tightest box around the pixels above ALPHA times the mean of each map; "
        "'jaxplain evaluate localisation' finds each method's best",
    )
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
    if arguments.references is not None:
        if arguments.classes is not None:
            raise CliError("--class has no effect: with --reference the similarity is explained")
        chosen = similarity.comparable(chosen, every)
    fitted = [name for name, method in CATALOGUE.items() if method.needs == "fit"]
    if arguments.fit is not None and not set(fitted) & set(chosen):
        raise CliError(
            f"--fit has no effect: {', '.join(fitted)}, which it is for, is not asked for"
        )
    if arguments.boxes is not None and not arguments.boxes >= 0:
        raise CliError(f"--boxes must not be negative, but is {arguments.boxes}")
    if arguments.boxes is not None and all(CATALOGUE[name].rows for name in chosen):
        raise CliError("--boxes has no effect: none of these methods has one map per class")
    check_output(arguments.output)
    with extra("viz"):
        from jaxplain import viz
    paths = [Path(name) for name in dict.fromkeys(arguments.images)] or [example_photo()]
    references = arguments.references or []
    # What is no image is said before a network is loaded.
    photos = {path: read_image(path) for path in dict.fromkeys([*paths, *references])}
    model: Any = load_model(arguments.model, arguments.network)
    if arguments.references is None:
        views = _classified(model, photos, arguments.classes or ["top2"])
    else:
        views = similarity.views(model, photos, paths, references)
    drawing.draw(
        chosen,
        model,
        views,
        every=every,
        fit=lambda choice: _fit(model, arguments.fit, layer_of_fit(choice, model.config)),
        boxes=arguments.boxes,
    )
    images, rows = drawing.panel_rows(views)
    if not rows:
        raise CliError("none of the methods can explain this network there")
    with step("drawing"):
        try:
            viz.save(viz.panel(images, rows), arguments.output)
        except (OSError, ValueError) as error:
            raise CliError(f"cannot write {arguments.output}: {error}") from None
    print(f"wrote {arguments.output}")


def _classified(
    model, photos: Mapping[Path, np.ndarray], classes: Sequence[str]
) -> list[drawing.View]:
    """The images with the classes that are asked for, and what the network predicts on stdout."""
    views, called = [], drawing.names(photos)
    for path, photo in photos.items():
        with step("classifying"):
            x, probabilities = _classify(model, photo)
        names = model.config.class_names or [f"class {i}" for i in range(len(probabilities))]
        targets = _choose_classes(classes, names, probabilities)
        print(f"{path}: {model.config.name} predicts")
        for index in probabilities.argsort()[::-1][:5]:
            print(f"  {probabilities[index]:6.1%}  {names[index]} ({index})")
        labels = _labels(targets, names, probabilities)
        name = called[path] if len(photos) > 1 else ""
        views.append(drawing.View(name, drawing.thumbnail(photo), x, model, targets, labels))
    return views


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
    other = [name for name in methods if not can_take_layer(name)]
    print(f"left out, for they take no layer: {', '.join(other)}", file=sys.stderr)
    return [name for name in methods if can_take_layer(name)]


def _classify(model, photo: np.ndarray):
    """The network's input (1, H, W, 3), and the probabilities of the classes as a host array."""
    import jax
    import numpy as np

    from jaxplain import models, trace

    # The whole image, not its central crop: every pixel of the picture is explained.
    x = models.preprocess(photo, model.config, crop=False)
    # In one program, which is kept for the next time.
    scores = jax.jit(lambda traced, x: traced(x))(trace(model, x), x)
    return x, np.asarray(jax.nn.softmax(scores[0].astype("float32")))


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


def _fit(model, folder: Path | None, layer: str | None):
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

    fit = jaxplain.fit_cam(model, batches(), layer=layer)
    print(
        f"fitted on {len(files)} photographs: R^2 {float(np.median(fit.explained)):.2f} in the "
        "median over classes, on these photographs themselves",
        file=sys.stderr,
    )
    return fit
