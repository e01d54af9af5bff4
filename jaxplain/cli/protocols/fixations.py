"""`jaxplain evaluate fixations`: methods against human fixations (Ebrahimpour et al. 2019)."""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jaxplain.cli import datasets
from jaxplain.cli.common import load_model
from jaxplain.cli.progress import Bar
from jaxplain.cli.protocols.common import Protocol
from jaxplain.explanation.choice import layer_of_fit

if TYPE_CHECKING:
    from jaxplain.evaluation.studies.report import Report

_CENTRE, _EMPTY = "centre baseline", "empty map"
_FITTED = "fitted-cam"


def _run(arguments: argparse.Namespace, progress: Bar) -> Report[Any]:
    from jaxplain.evaluation.studies import fixations

    source, indices = datasets.open_data(arguments, images=arguments.images)
    if arguments.fit_images is not None and _FITTED not in arguments.methods:
        raise ValueError(f"--fit-images has no effect without the method {_FITTED}")
    network = load_model(arguments)
    x, truth, points, failures = load(source, indices, network.config, arguments.workers)
    fit, images = _fit(network, arguments, x) if _FITTED in arguments.methods else (None, 0)
    prepared = datasets.prepared(arguments, network, fit=fit)
    report = fixations.compare_with_fixations(
        _methods(prepared),
        x,
        truth,
        points,
        batch_size=arguments.batch_size,
        baselines=(_CENTRE, _EMPTY),
        progress=progress,
    )
    if fit is not None:
        report = dataclasses.replace(
            report, notes=[*report.notes, _about_fit(fit, images, network, x, arguments)]
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


def _fit(network: Any, arguments: argparse.Namespace, x: Any) -> tuple[Any, int]:
    """The regression of CAM, on the images of ``--fit-images`` or else on the photographs.

    And the number of images.
    """
    import jax.numpy as jnp
    import numpy as np

    import jaxplain
    from jaxplain import data

    config, size = network.config, arguments.batch_size
    count = 0

    def batches():
        nonlocal count
        if arguments.fit_images is None:
            count = len(x)
            yield from (x[start : start + size] for start in range(0, count, size))
            return
        images = data.ImageFolder(arguments.fit_images)
        group = []
        for item in data.load(images, datasets.Stretched(config), workers=arguments.workers):
            if item.error is not None:
                datasets.show_failures([(item.error.record, item.error.reason)])
                continue
            count += 1
            group.append(item.pixels)
            if len(group) == size:
                yield data.normalise(jnp.asarray(np.stack(group)), config)
                group = []
        if group:
            yield data.normalise(jnp.asarray(np.stack(group)), config)

    layer = layer_of_fit(arguments.choices[_FITTED], config)
    return jaxplain.fit_cam(network, batches(), layer=layer), count


def _about_fit(fit: Any, images: int, network: Any, x: Any, arguments: argparse.Namespace) -> str:
    """How much of the predicted classes' scores the regression explains."""
    import numpy as np

    from jaxplain.evaluation.studies.questions import predicted

    size = arguments.batch_size
    classes = [predicted(network, x[start : start + size]) for start in range(0, len(x), size)]
    explained = np.asarray(fit.explained)[np.concatenate(classes)]
    return (
        f"Fitted CAM: regression at {fit.layer} on {images} images, whose R^2 for the predicted "
        f"classes is {np.median(explained):.2f} in the median; it takes several times as many "
        f"images as the layer's {len(fit.weight)} channels for the fit to mean something."
    )


def load(source: Any, indices: range, config: Any, workers: int = 0) -> tuple:
    """The photographs as the network sees them; the human maps and, of lists, how often each pixel
    was looked at, in the photographs' own sizes; failures."""
    import jax.numpy as jnp
    import numpy as np

    from jaxplain import data
    from jaxplain.evaluation import fixations

    pixels, truth, points, failures = [], [], [], []
    prepare = datasets.Stretched(config)
    for item in data.load(source, prepare, indices=indices, workers=workers):
        if item.error is not None:
            failures.append((item.error.record, item.error.reason))
            continue
        record = item.record
        density = record.fixation_map
        if density is None:
            density = fixations.fixation_map(record.fixations, record.size)
            points.append(_count(record.fixations, record.size))
        pixels.append(item.pixels)
        truth.append(np.asarray(density))
    if not pixels:
        raise ValueError(f"none of the {len(failures)} images of {source.name} could be read")
    if points and len(points) < len(truth):
        raise ValueError(
            f"{len(points)} of {len(truth)} images have lists of fixations and the others maps; "
            "all must have the same"
        )
    x = data.normalise(jnp.asarray(np.stack(pixels)), config)
    return x, truth, points or None, tuple(failures)


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
    parser.add_argument(
        "--fit-images",
        metavar="FOLDER",
        help="images on which fitted-cam, CAM by regression for networks that do not end in a "
        "global pool, learns its weights: several thousand are right, of all classes; default: the "
        "photographs themselves",
    )


PROTOCOL = Protocol(
    name="fixations",
    help="maps against human fixations (Ebrahimpour et al. 2019, Fig. 9)",
    description="Do maps mark what people look at? The network sees each photograph whole, "
    "stretched to its square; maps of the predicted class are scored at the photograph's own size. "
    "Baselines are a Gaussian at the centre and an empty map. Beside the usual methods there are "
    "pfv, dense-attention, and fitted-cam, the paper's CAM of VGG-16.",
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
    data="folder of fixation maps (grey pictures of the photographs' sizes), or of lists of "
    "fixations (.csv, .txt or .npy: column, row and optionally duration, in its pixels)",
    unit="batches",
    extra=("pfv", "dense-attention", _FITTED),
)
