"""`jaxplain evaluate fixations`: methods against human fixations (Ebrahimpour et al. 2019)."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jaxplain.cli import datasets
from jaxplain.cli.progress import Bar
from jaxplain.cli.protocols.common import Protocol

if TYPE_CHECKING:
    from jaxplain.evaluation.studies.report import Report

_CENTRE, _EMPTY = "centre baseline", "empty map"


def _run(arguments: argparse.Namespace, progress: Bar) -> Report[Any]:
    from jaxplain.evaluation.studies import fixations

    source, indices = datasets.open_data(arguments, images=arguments.images)
    network = datasets.load_network(arguments)
    x, truth, points, failures = load(source, indices, network.config, arguments.workers)
    prepared = datasets.prepared(arguments, network)
    report = fixations.compare_with_fixations(
        _methods(prepared),
        x,
        truth,
        points,
        batch_size=arguments.batch_size,
        baselines=(_CENTRE, _EMPTY),
        progress=progress,
    )
    about = f"{network.config.name}, {len(x)} images"
    return report.about(about, failures).without(prepared.left_out)


def _methods(prepared: datasets.Methods) -> dict[str, Callable]:
    """Title -> images to maps; classes are the ones that the network predicts."""
    import jax.numpy as jnp

    from jaxplain.evaluation import fixations

    methods: dict[str, Callable] = {}
    for title, method in prepared.items():
        if method.choice.name == "pfv":
            methods[title.replace("PFV", "PFV weights", 1)] = functools.partial(_pfv, method)
        elif method.choice.name == "dense-attention":
            methods[title] = functools.partial(_dense, method)
        else:
            methods[title] = functools.partial(method, targets=None)
    # People look at little of an image, so that the MAE favours maps of almost nothing.
    return methods | {
        _CENTRE: lambda x: jnp.broadcast_to(fixations.centre_map(x.shape[1:3]), x.shape[:3]),
        _EMPTY: lambda x: jnp.zeros(x.shape[:3]),
    }


def _pfv(method: datasets.Prepared, x: Any) -> Any:
    return method(x, None).weights


def _dense(method: datasets.Prepared, x: Any) -> dict[str, Any]:
    """The layers' own maps, 1 being the first, and the cumulative ones, named as in the paper."""
    own, cumulative = method(x, None)
    n = len(own)
    titles = {layer: "".join(map(str, range(n, i, -1))) for i, layer in enumerate(own)}
    return {
        **{f"Dense Attention {i} ({layer})": m for i, (layer, m) in enumerate(own.items(), 1)},
        **{f"Dense Attention {titles[layer]}": m for layer, m in list(cumulative.items())[:-1]},
    }


def load(source: Any, indices: range, config: Any, workers: int = 0) -> tuple:
    """The photographs as the network sees them, the human maps, the points of lists, failures."""
    import jax.numpy as jnp
    import numpy as np

    from jaxplain import data, postprocess
    from jaxplain.evaluation import fixations

    size = (config.input_size, config.input_size)
    pixels, truth, points, failures = [], [], [], []
    prepare = datasets.Stretched(config)
    for item in data.load(source, prepare, indices=indices, workers=workers):
        if item.error is not None:
            failures.append((item.error.record, item.error.reason))
            continue
        pixels.append(item.pixels)
        record = item.record
        density = record.fixation_map
        if density is None:
            density = fixations.fixation_map(record.fixations, record.size)
            scaled = record.fixations * [size[0] / record.size[0], size[1] / record.size[1], 1]
            points.append(_count(scaled, size))
        truth.append(postprocess.resize(jnp.asarray(density), size, antialias=True))
    if not pixels:
        raise ValueError(f"none of the {len(failures)} images of {source.name} could be read")
    x = data.normalise(jnp.asarray(np.stack(pixels)), config)
    points = jnp.asarray(np.stack(points)) if points else None
    return x, jnp.stack(truth), points, tuple(failures)


def _count(points: Any, size: tuple[int, int]) -> Any:
    import numpy as np

    counts = np.zeros(size, np.float32)
    for row, column, _ in points:
        if 0 <= row < size[0] and 0 <= column < size[1]:
            counts[int(row), int(column)] += 1
    return counts


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--images",
        required=True,
        metavar="FOLDER",
        help="the photographs; files have the same names as in --data",
    )


PROTOCOL = Protocol(
    name="fixations",
    help="maps against human fixations (Ebrahimpour et al. 2019, Fig. 9)",
    description="Do maps mark what people look at? The network sees each photograph whole, "
    "stretched to its square; maps of the predicted class are scored at that size. Baselines are a "
    "Gaussian at the centre and an empty map.",
    methods=(
        "cam",
        "grad-cam",
        "guided-backprop",
        "guided-grad-cam",
        "mwp",
        "c-mwp",
        "pfv",
        "dense-attention",
    ),
    run=_run,
    options=_options,
    data="folder of fixation maps (grey pictures), or of lists of fixations",
    unit="batches",
    extra=("pfv", "dense-attention"),
)
