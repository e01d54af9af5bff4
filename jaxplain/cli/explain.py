"""The command `jaxplain explain`."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxplain.cli import method_options, options, similarity
from jaxplain.cli.common import (
    DEFAULT_MODEL,
    CliError,
    check_output,
    extra,
    load_model,
    local_path,
    read_image,
    step,
)
from jaxplain.cli.method_options import choices
from jaxplain.cli.options import add_model
from jaxplain.explainers.catalogue import CATALOGUE, DEFAULT
from jaxplain.explanation import drawing, outputs
from jaxplain.explanation.choice import Choice, can_take_layer, layer_of_fit, names_of_methods
from jaxplain.explanation.computing import Subject, fill
from jaxplain.explanation.explaining import names_of_files, subject_of

if TYPE_CHECKING:
    import numpy as np

    from jaxplain.explanation import Explanation

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
        "default: top2. Of an embedding, the index of a number; default: the embedding as a whole. "
        "Of a score map, a place ROW,COLUMN; default: the brightest",
    )
    method_options.add_options(explain, several=True)
    explain.add_argument(
        "--reference",
        dest="references",
        action="append",
        type=local_path,
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
        type=local_path,
        help="photographs on which fitted-cam learns its weights, the more the better",
    )
    explain.add_argument(
        "--output",
        metavar="FILE",
        type=local_path,
        help=f"picture to write; its suffix tells the format; default: {DEFAULT_OUTPUT}",
    )
    explain.add_argument(
        "--format",
        choices=("png", "pdf", "svg", "jpg", "webp", "tif"),
        help="of the picture, where --output does not say it",
    )
    options.add_number(explain, "--dpi", 200, "dots to the inch of the picture")
    explain.add_argument(
        "--cmap",
        metavar="NAME",
        help="colour map of heat maps, by matplotlib's name, such as viridis; default: plasma",
    )
    explain.add_argument(
        "--colour-bar", action="store_true", help="draw below what the colours mean"
    )
    explain.add_argument(
        "--save-maps",
        metavar="FOLDER|FILE.npz",
        type=local_path,
        help="also write the maps as they are: a new folder with arrays, overlays and a manifest, "
        "or one file; of several images a folder each",
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
    output = _output(arguments)
    with extra("viz"):
        from jaxplain import viz
        from jaxplain.viz.colour import colour_map
    if arguments.cmap is not None:
        colour_map(arguments.cmap)  # says so if there is none
    paths = [Path(name) for name in dict.fromkeys(arguments.images)] or [example_photo()]
    references = arguments.references or []
    # What is no image is said before a network is loaded.
    photos = {path: read_image(path) for path in dict.fromkeys([*paths, *references])}
    model: Any = load_model(arguments)
    if arguments.references is None:
        subjects = _asked(model, photos, arguments.classes)
    elif outputs.kind(model.config) == "score map":
        raise CliError(f"--reference needs an embedding, and {arguments.model} gives a score map")
    else:
        subjects = similarity.subjects(model, photos, paths, references)
    _fill(chosen, model, subjects, every, arguments.fit)
    found = [subject.about for subject in subjects]
    if not any(one.methods for one in found):
        raise CliError("none of the methods can explain this network there")
    with step("drawing"):
        figure = drawing.figure(
            found, cmap=arguments.cmap, colour_bar=arguments.colour_bar, boxes=arguments.boxes
        )
        try:
            viz.save(figure, output, dpi=arguments.dpi)
        except (OSError, ValueError) as error:
            raise CliError(f"cannot write {output}: {error}") from None
    print(f"wrote {output}")
    if arguments.save_maps is not None:
        _save_maps(found, arguments.save_maps)


def _output(arguments: argparse.Namespace) -> Path:
    """Where the picture is written; ``--format`` may replace the suffix of the default's name."""
    output, kind = arguments.output, arguments.format
    if output is None:
        output = Path(DEFAULT_OUTPUT).with_suffix(f".{kind}" if kind else ".png")
    elif kind is not None and output.suffix.lower() != f".{kind}":
        raise CliError(f"--format {kind} does not agree with the name {output}")
    check_output(output)
    maps = arguments.save_maps
    if maps is not None:
        if maps.suffix not in ("", ".npz"):
            raise CliError(f"--save-maps {maps} should be a new folder, or a file named NAME.npz")
        if maps.exists():
            raise CliError(f"--save-maps {maps} exists already; name a new folder or file")
        if not maps.absolute().parent.is_dir():
            raise CliError(f"the folder of --save-maps does not exist: {maps.parent}")
    return output


def _save_maps(found: Sequence[Explanation], path: Path) -> None:
    """One explanation as it is named; of several each in the folder, under its picture's name."""
    try:
        if len(found) == 1:
            found[0].save(path)
        else:
            path.mkdir()
            for i, one in enumerate(found):
                name = re.sub(r"[^\w.+-]+", "_", one.name).rpartition(".")[0]
                one.save(path / f"{i:03d}_{name}")
    except OSError as error:
        raise CliError(f"cannot write {path}: {error}") from None
    print(f"wrote {path}")


def _fill(
    chosen: Mapping[str, Choice],
    model: Any,
    subjects: Sequence[Subject],
    every: bool,
    folder: Path | None,
) -> None:
    """Computes the maps, and says how far it has come and what the network does not allow."""
    numbers = {name: i for i, name in enumerate(chosen, 1)}

    def refused(choice: Choice, error: Exception) -> None:
        if not every:
            raise CliError(f"{choice.title}: {error}") from None
        print(f"{choice.title} left out: {' '.join(str(error).split())}", file=sys.stderr)

    fill(
        chosen,
        model,
        model.config,
        subjects,
        fit=lambda choice: _fit(model, folder, layer_of_fit(choice, model.config)),
        refused=refused,
        around=lambda one: step(f"[{numbers[one.name]}/{len(chosen)}] {one.title}"),
    )


def _asked(
    model: Any, photos: Mapping[Path, np.ndarray], classes: Sequence[str] | None
) -> list[Subject]:
    """The images with what is asked of them, and what the network makes of them on stdout."""
    from jaxplain import models

    subjects, called = [], names_of_files(photos)
    for path, photo in photos.items():
        with step("looking"):
            # The whole image, not its central crop: every pixel of the picture is explained.
            x = models.preprocess(photo, model.config, crop=False)
            try:
                subject, said = subject_of(
                    model, photo, x, classes, name=called[path], config=model.config
                )
            except ValueError as error:
                raise CliError(str(error)) from None
        print(f"{path}: {said}")
        subjects.append(subject)
    return subjects


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
    asked = names_of_methods(text.split(","), [*CATALOGUE, "all"])
    return (list(CATALOGUE), True) if "all" in asked else (asked, False)


def _with_layers(methods: Iterable[str]) -> list[str]:
    """The methods that take a layer; the others are named on stderr."""
    other = [name for name in methods if not can_take_layer(name)]
    print(f"left out, for they take no layer: {', '.join(other)}", file=sys.stderr)
    return [name for name in methods if can_take_layer(name)]


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
