"""The command `jaxplain evaluate PROTOCOL`: the papers' experiments on a data set."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxplain._methods import METHODS, Method, canonical

if TYPE_CHECKING:
    import jax

#: The methods of Zhang et al. 2018, Table 1. "Deconv" there is guided backprop's rule.
POINTING_METHODS = ("gradient", "guided-backprop", "lrp", "cam", "mwp", "c-mwp")
#: Explained at the image, and sparse: their maps are blurred, as the paper's Grad, Deconv, LRP are.
_BLURRED = {"gradient", "input-x-gradient", "smooth-grad", "integrated-gradients",
            "guided-backprop", "deconvnet", "c-deconvnet", "guided-grad-cam", "lrp", "full-grad"}  # fmt: skip


def add_commands(commands: Any, error: Callable[[str], Exception]) -> None:
    """Adds the command; what the user got wrong is raised as ``error(sentence)``."""
    evaluate = commands.add_parser(
        "evaluate",
        help="run a paper's experiment on a data set",
        description="Runs a paper's experiment on a data set and prints its table.",
    )
    protocols = evaluate.add_subparsers(title="protocols", metavar="PROTOCOL", required=True)
    pointing = protocols.add_parser(
        "pointing",
        help="the pointing game (Zhang et al. 2018, section 6.1)",
        description="The pointing game: is the maximum of a class's map on an object of the class, "
        "or less than 15 pixels from it? Prints mean accuracy over classes, for all questions and "
        "for the difficult ones.",
    )
    pointing.add_argument(
        "--data", required=True, metavar="NAME|FOLDER",
        help="voc/2007, voc/2012, coco/2014, coco/2017 of TFDS; or a folder: VOCdevkit/VOC2007, "
        "COCO (with annotations/)",
    )  # fmt: skip
    pointing.add_argument("--split", metavar="NAME",
                          help="such as test or val2017; default: the data set's usual one, or all "
                          "annotated images of a folder")  # fmt: skip
    pointing.add_argument("--data-dir", metavar="FOLDER", help="where TFDS keeps its data")
    pointing.add_argument("--model", required=True, metavar="NAME|FILE",
                          help="network, see 'jaxplain models'; or a file of weights")  # fmt: skip
    pointing.add_argument("--network", metavar="NAME", help="the network that a file is for")
    pointing.add_argument("--methods", default=",".join(POINTING_METHODS), metavar="A,B,C",
                          help="default: %(default)s")  # fmt: skip
    pointing.add_argument("--layer", metavar="NAME",
                          help="layer of the methods that take one; default: their own")  # fmt: skip
    pointing.add_argument("--short", type=int, default=224, metavar="N",
                          help="short side of the images; default: %(default)s")  # fmt: skip
    pointing.add_argument(
        "--multiple", type=int, default=16, metavar="N",
        help="long sides are rounded to multiples of N pixels (every shape compiles anew); "
        "default: %(default)s",
    )  # fmt: skip
    pointing.add_argument(
        "--batch-size", type=int, default=8, metavar="N", help="default: %(default)s"
    )
    pointing.add_argument("--limit", type=int, metavar="N", help="take the first N images only")
    pointing.add_argument("--workers", type=int, default=0, metavar="N",
                          help="processes that read images; default: 0, threads")  # fmt: skip
    pointing.add_argument("--output", type=Path, metavar="FOLDER",
                          help="write pointing.json, .md and .png there")  # fmt: skip
    pointing.set_defaults(command=lambda arguments: _pointing(arguments, error))


def _pointing(arguments: argparse.Namespace, error: Callable[[str], Exception]) -> None:
    chosen = list(dict.fromkeys(canonical(n) for n in arguments.methods.split(",") if n.strip()))
    unknown = [name for name in chosen if name not in METHODS]
    if unknown or not chosen:
        raise error(f"unknown method {unknown[0]!r}; known: {', '.join(METHODS)}"
                    if unknown else "no method given")  # fmt: skip
    for option in ("short", "multiple", "batch_size"):
        if getattr(arguments, option) < 1:
            raise error(f"--{option.replace('_', '-')} must be positive")
    if arguments.output is not None and arguments.output.exists() and not arguments.output.is_dir():
        raise error(f"the output {arguments.output} is not a folder")
    try:
        from jaxplain import data, evaluation, models

        source = data.open_source(arguments.data, arguments.split, data_dir=arguments.data_dir)
        # Dense layers slide over the whole image, and the score map spreads the signal (section
        # 6.1.1).
        network = models.from_pretrained(
            arguments.model, network=arguments.network, fully_convolutional=True
        )
        config = network.config
        count = len(config.class_names) or config.outputs
        signals = data.cue_signals(source.class_names, count, config.class_names)
        methods = {
            METHODS[name].title: evaluation.pointing_game.PointingMethod(
                _explainer(METHODS[name], network, arguments), name in _BLURRED
            )
            for name in chosen
        }
        table = evaluation.pointing_game.pointing_game(
            source,
            _Prepare(arguments.short, arguments.multiple, config.interpolation),
            lambda pixels: data.normalise(pixels, config),
            signals,
            methods,
            batch_size=arguments.batch_size,
            indices=None if arguments.limit is None else range(min(arguments.limit, len(source))),
            workers=arguments.workers,
            progress=_progress(len(source) if arguments.limit is None
                               else min(arguments.limit, len(source))),
        )  # fmt: skip
    except (ImportError, OSError, ValueError, NotImplementedError) as problem:
        raise error(str(problem)) from None
    title = f"Pointing game: {config.name} on {source.name}"
    print(f"{title}\n\n{table.markdown()}")
    for record, reason in table.failures:
        print(f"could not be read: {record}: {reason}", file=sys.stderr)
    if arguments.output is not None:
        try:
            _write(arguments.output, title, table, arguments)
        except OSError as problem:
            raise error(f"cannot write in {arguments.output}: {problem}") from None
        print(f"\nwrote {arguments.output}")


class _Prepare:
    """A record to its pixels; a class, so that it can be sent to worker processes."""

    def __init__(self, short: int, multiple: int, interpolation: str):
        self.short, self.multiple, self.interpolation = short, multiple, interpolation

    def __call__(self, record: Any) -> Any:
        from jaxplain import data

        shape = data.aspect_shape(record.size, self.short, self.multiple)
        return data.resize_image(record.image, shape, self.interpolation)


def _explainer(
    method: Method, network: Any, arguments: argparse.Namespace
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    import jax

    import jaxplain
    from jaxplain import models

    explain = getattr(jaxplain, method.function)
    options: dict[str, Any] = dict(method.options)
    if method.at_layer:
        own = network.config.layer(method.function)
        options["layer"] = own if arguments.layer is None else arguments.layer
    if method.random:
        options["key"] = jax.random.key(0)
    if method.function == "cam":  # defined by a pool over the whole image, of any size
        network = models.from_pretrained(arguments.model, network=arguments.network)

    def maps(x: jax.Array, signals: jax.Array) -> jax.Array:
        return explain(network, x, signals, **options)

    return maps


def _progress(total: int) -> Callable[[int], None] | None:
    if not sys.stderr.isatty():
        return None

    def show(done: int) -> None:
        end = "\n" if done == total else ""
        print(f"\r\033[K{done} of {total} images", end=end, file=sys.stderr, flush=True)

    return show


def _write(folder: Path, title: str, table: Any, arguments: argparse.Namespace) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    said: Mapping[str, Any] = {
        "title": title,
        **{
            k: getattr(arguments, k)
            for k in ("data", "split", "model", "layer", "short", "multiple")
        },
    }
    text = json.dumps({**said, **table.to_json()}, indent=1, allow_nan=False)
    (folder / "pointing.json").write_text(text + "\n", "utf-8")
    (folder / "pointing.md").write_text(f"# {title}\n\n{table.markdown()}\n", "utf-8")
    if importlib.util.find_spec("matplotlib") is None:
        print('no pointing.png: that needs pip install "jaxplain[viz]"', file=sys.stderr)
        return
    _draw(table, title).savefig(folder / "pointing.png", dpi=150, bbox_inches="tight")


def _draw(table: Any, title: str) -> Any:
    """Accuracy a class and method, as dots: the figure of the paper's supplement."""
    from matplotlib.figure import Figure

    trials = table.results["Center"][0].trials
    rows = [i for i in range(len(table.class_names)) if trials[i]]
    figure = Figure(figsize=(7, 1.5 + 0.25 * len(rows)))
    axes = figure.add_subplot()
    markers = "x.osD^v<>Pp*hH8d"
    for k, (name, (everything, _)) in enumerate(table.results.items()):
        label = f"{name} ({100 * float(everything.mean):.1f})"
        axes.plot([100 * float(everything.per_class[i]) for i in rows], range(len(rows)),
                  markers[k % len(markers)], label=label, alpha=0.8)  # fmt: skip
    axes.set_yticks(range(len(rows)), [f"{table.class_names[i]} ({int(trials[i])})" for i in rows])
    axes.invert_yaxis()
    axes.grid(axis="y", alpha=0.3)
    axes.set_xlabel("accuracy (%); in brackets: number of questions, mean over classes")
    axes.set_title(title)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
