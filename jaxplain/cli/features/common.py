"""What the forms of `jaxplain pfv` share: images, the network's view of them, what is written."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxplain.cli import method_options
from jaxplain.cli.common import CliError, local_path, read_image, step
from jaxplain.core.errors import suggest
from jaxplain.explanation.choice import Choice
from jaxplain.explanation.explaining import names_of_files

if TYPE_CHECKING:
    import jax
    import numpy as np

    from jaxplain.evaluation.studies.report import Report


def add_images(parser: argparse.ArgumentParser, nargs: str, text: str) -> None:
    parser.add_argument("images", nargs=nargs, type=local_path, metavar="IMAGE|FOLDER", help=text)


def add_picture(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--output",
        type=local_path,
        default=Path(default),
        metavar="FILE",
        help="picture to write; default: %(default)s",
    )


def own_choice(arguments: argparse.Namespace) -> Choice:
    choice = method_options.choices(["pfv"], arguments.settings, arguments.layer)["pfv"]
    if choice.options.get("components", 3) != 3:
        raise CliError("--set pfv.components: colours are three components")
    return choice


def visualiser(network: Any, choice: Choice) -> Callable[[jax.Array], Any]:
    import jaxplain

    given = choice.arguments(None)
    return functools.partial(jaxplain.pfv, network, layer=choice.one_layer, **given)


def read(paths: Sequence[Path]) -> dict[str, np.ndarray]:
    """Name -> photograph, of files and folders."""
    from jaxplain.data.images import image_files

    files = [f for path in paths for f in (image_files(path) if path.is_dir() else [path])]
    called = names_of_files(dict.fromkeys(files))
    return {name: read_image(path) for path, name in called.items()}


def inputs(network: Any, photos: Iterable[np.ndarray]) -> jax.Array:
    """The whole photographs as the network sees them, (N, H, W, 3)."""
    import jax.numpy as jnp

    from jaxplain import models

    return jnp.concatenate([models.preprocess(p, network.config, crop=False) for p in photos])


def top_names(network: Any, x: jax.Array) -> list[str]:
    """What the network takes each image for."""
    names = network.config.class_names
    top = network(x).argmax(-1).tolist()
    return [names[i] if names else f"class {i}" for i in top]


def check_folder(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise CliError(f"the output {output} is not a folder")


def save(figure: Any, path: Path) -> None:
    from jaxplain import viz

    with step("drawing"):
        viz.save(figure, path)
    print(f"wrote {path}")


def write(arguments: argparse.Namespace, report: Report[Any], name: str, figure: Any) -> None:
    """Prints the report, and writes it with its figure."""
    from jaxplain import viz

    print(f"{report.title}\n\n{report.markdown()}")
    left_out = ("command", "output", "traceback")
    said = {key: value for key, value in vars(arguments).items() if key not in left_out}
    report.write(arguments.output, name, {"options": said})
    viz.save(figure, arguments.output / f"{name}.png", dpi=150)


def class_numbers(text: str | None, names: Sequence[str]) -> list[int]:
    if text is None:
        return list(range(len(names)))
    asked = [name.strip() for name in text.split(",") if name.strip()]
    for name in asked:
        if name not in names:
            raise CliError(f"the data set has no class {name!r}{suggest(name, names)}")
    return [list(names).index(name) for name in dict.fromkeys(asked)]
