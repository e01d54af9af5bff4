"""`jaxplain pfv show`: images in one basis."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from jaxplain.cli import datasets, options
from jaxplain.cli.common import CliError, check_output, extra, load_model, step
from jaxplain.cli.features import common
from jaxplain.cli.progress import Bar
from jaxplain.explanation import drawing
from jaxplain.explanation.choice import Choice

if TYPE_CHECKING:
    import jax
    import numpy as np


def add_options(parser: argparse.ArgumentParser) -> None:
    common.add_images(parser, "*", "image files and folders of images; or none, with --data")
    add = parser.add_argument
    add("--data", metavar="NAME|FOLDER", help="a data set with classes, to draw images from")
    add("--split", metavar="NAME", help="of the data set; default: the usual one")
    add("--data-dir", metavar="FOLDER", help="where TFDS keeps its data")
    options.add_number(parser, "--per-class", 1, "images of each class of --data")
    add("--classes", metavar="A,B,C", help="classes of --data; default: all")
    add("--seed", type=int, default=0, metavar="N", help="of the drawing; default: %(default)s")
    add("--steps", action="store_true", help="draw the activation map and the unweighted features")
    options.add_batch_size(parser, 32, "images at once; of more the basis is fitted to batches")
    common.add_picture(parser, "pfv.png")


def run(arguments: argparse.Namespace) -> None:
    choice = common.own_choice(arguments)
    check_output(arguments.output)
    if bool(arguments.images) == (arguments.data is not None):
        raise CliError("name images, or a data set to draw them from with --data, and not both")
    if arguments.data is None and arguments.classes is not None:
        raise CliError("--classes has no effect: it is of a data set, which --data names")
    with extra("viz"):
        from jaxplain import viz
    photos = common.read(arguments.images) if arguments.data is None else _drawn(arguments)
    network: Any = load_model(arguments)
    x = common.inputs(network, photos.values())
    shown = [drawing.thumbnail(photo) for photo in photos.values()]
    with step(f"principal features of {len(x)} images"):
        found = _in_one_basis(network, x, choice, arguments.batch_size)
        colours, weights = found
        if arguments.steps:
            plain, _ = _in_one_basis(network, x, choice, arguments.batch_size, weight_layers=())
    if arguments.steps:
        rows = {
            name: {
                "activation map": viz.overlay(image, weights[i]),
                "unweighted": viz.feature_overlay(image, plain[i], strength=1.0),
                "principal features": viz.feature_overlay(image, colours[i], strength=1.0),
            }
            for i, (name, image) in enumerate(zip(photos, shown, strict=True))
        }
        figure = viz.panel(dict(zip(rows, shown, strict=True)), rows)
    else:
        figure = viz.feature_panel(shown, colours, list(photos))
    common.save(figure, arguments.output)


def _in_one_basis(
    network: Any, x: jax.Array, choice: Choice, batch_size: int, **more: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Colours and activation maps of all images, in one basis."""
    import jax.numpy as jnp
    import numpy as np

    import jaxplain

    given = {**choice.arguments(None), "layer": choice.one_layer, **more}
    if len(x) <= batch_size:
        found = [jaxplain.pfv(network, x, **given)]
    else:
        if "method" in given:
            raise CliError("--set pfv.method is for one batch: raise --batch-size")
        batches = [x[i : i + batch_size] for i in range(0, len(x), batch_size)]
        basis = jaxplain.pfv_fit(network, batches, **given)
        found = [jaxplain.pfv_apply(network, batch, basis=basis) for batch in batches]
    colours, weights = (
        np.asarray(jnp.concatenate(parts), np.float32)
        for parts in ([f.colours for f in found], [f.weights for f in found])
    )
    return colours, weights


def _drawn(arguments: argparse.Namespace) -> dict[str, np.ndarray]:
    """Title -> photograph: so many images of each class, drawn at random."""
    import numpy as np

    from jaxplain import data

    source = data.open_source(arguments.data, arguments.split, data_dir=arguments.data_dir)
    if not source.class_names:
        raise CliError(f"{source.name} has no classes; name its images instead")
    chosen = common.class_numbers(arguments.classes, source.class_names)
    wanted = arguments.per_class
    found: dict[int, list[np.ndarray]] = {c: [] for c in chosen}
    order = np.random.default_rng(arguments.seed).permutation(len(source))
    with Bar("images") as progress:
        for item in data.load(source, lambda record: record.image, indices=order.tolist()):
            if item.error is not None:
                datasets.show_failures([(item.error.record, item.error.reason)])
                continue
            for label in np.unique(item.record.labels).tolist():
                if label in found and len(found[label]) < wanted:
                    found[label].append(item.pixels)
                    progress(sum(map(len, found.values())), wanted * len(chosen))
                    break  # no image stands for two classes
            if all(len(images) == wanted for images in found.values()):
                break
    lacking = [source.class_names[c] for c, images in found.items() if len(images) < wanted]
    if lacking:
        raise CliError(f"{source.name} has less than {wanted} images of {', '.join(lacking)}")
    return {
        source.class_names[c] + (f" {i + 1}" if wanted > 1 else ""): image
        for c, images in found.items()
        for i, image in enumerate(images)
    }
