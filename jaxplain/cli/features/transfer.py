"""`jaxplain pfv transfer`: which classes of a data set will be confused."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxplain.cli import datasets, options
from jaxplain.cli.common import CliError, extra, load_model
from jaxplain.cli.features import common
from jaxplain.cli.progress import Bar

if TYPE_CHECKING:
    import numpy as np


def add_options(parser: argparse.ArgumentParser) -> None:
    options.add_data(
        parser, "a data set with classes, of TFDS or a folder; images of several are left out"
    )
    parser.add_argument(
        "--validation-split", required=True, metavar="NAME", help="to count confusions on"
    )
    parser.add_argument("--classes", metavar="A,B,C", help="default: all that have images")
    options.add_limit(parser)
    options.add_batch_size(parser, 16)
    options.add_workers(parser)
    options.add_output(
        parser,
        "write transfer.json, .md and .png, features.png and confusion.png there",
        default=Path("pfv-transfer"),
    )


def run(arguments: argparse.Namespace) -> None:
    choice = common.own_choice(arguments)
    common.check_folder(arguments.output)
    with extra("viz"):
        from jaxplain import viz
    import numpy as np

    from jaxplain import data
    from jaxplain.evaluation.studies import features

    splits = [arguments.split, arguments.validation_split]
    sources = [data.open_source(arguments.data, s, data_dir=arguments.data_dir) for s in splits]
    every = sources[0].class_names
    if not every:
        raise CliError(f"{sources[0].name} has no classes")
    chosen = common.class_numbers(arguments.classes, every)
    network: Any = load_model(arguments)
    with Bar("images") as progress:
        pixels, labels = zip(
            *(_of_one_class(source, chosen, network, arguments, progress) for source in sources),
            strict=True,
        )
    there = [c for c in chosen if all((own == c).any() for own in labels)]
    if len(there) < 2:
        raise CliError("there must be two classes or more with images of them alone in each split")
    seen = chosen if arguments.classes is not None else np.unique(np.concatenate(labels)).tolist()
    lacking = [every[c] for c in seen if c not in there]
    if lacking:
        print(
            f"left out, for a split has no image of them alone: {', '.join(lacking)}",
            file=sys.stderr,
        )
    kept = [np.isin(own, there) for own in labels]
    both = [
        (data.normalise(p[k], network.config), np.array([there.index(c) for c in own[k]]))
        for p, own, k in zip(pixels, labels, kept, strict=True)
    ]
    names = [every[c] for c in there]
    with Bar("epochs at most") as progress:
        report = features.transfer_report(
            network,
            common.visualiser(network, choice),
            *both,
            class_names=names,
            batch_size=arguments.batch_size,
            progress=progress,
        ).about(f"{network.config.name} on {sources[0].name}")
    first = [int(np.flatnonzero(both[0][1] == i)[0]) for i in range(len(names))]
    shown = [pixels[0][kept[0]][i] for i in first]
    colours = np.asarray(report.results.features.colours, np.float32)
    common.write(arguments, report, "transfer", report.figure())
    viz.save(viz.feature_panel(shown, colours, names), arguments.output / "features.png")
    matrix = viz.confusion(
        report.results.confusion, names, f"{network.config.name} on {sources[0].name}"
    )
    viz.save(matrix, arguments.output / "confusion.png")
    print(f"\nwrote {arguments.output}")


def _of_one_class(
    source: Any, chosen: Sequence[int], network: Any, arguments: argparse.Namespace, progress: Bar
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels ``(N, h, w, 3)`` and classes of the images that have one class, of those asked for."""
    import numpy as np

    from jaxplain import data

    count = len(source) if arguments.limit is None else min(arguments.limit, len(source))
    pixels, labels, failures = [], [], []
    prepare = datasets.Stretched(network.config)
    loaded = data.load(source, prepare, indices=range(count), workers=arguments.workers)
    for done, item in enumerate(loaded, 1):
        progress(done, count)
        if item.error is not None:
            failures.append((item.error.record, item.error.reason))
            continue
        own = np.unique(item.record.labels)
        if len(own) == 1 and own[0] in chosen:
            pixels.append(item.pixels)
            labels.append(int(own[0]))
    datasets.show_failures(failures)
    if not pixels:
        raise CliError(f"none of {count} images of {source.name} has one class, of those asked for")
    return np.stack(pixels), np.array(labels)
