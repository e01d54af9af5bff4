"""The benchmark from nothing: draw the images, train the networks, play the pointing game."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from flax import nnx

from jaxplain import data
from jaxplain.core import Table
from jaxplain.digits import games
from jaxplain.digits.games import network_inputs
from jaxplain.digits.images import CLASSES, ClutteredDigits
from jaxplain.digits.networks import INPUT_SIZE, NETWORKS, small_image
from jaxplain.evaluation.classification import mean_average_precision
from jaxplain.evaluation.studies.pointing import CENTRE, Accuracies
from jaxplain.evaluation.studies.report import Report, percent
from jaxplain.explainers.catalogue import METHODS
from jaxplain.training.last_layer import LastLayer, last_layer_inputs
from jaxplain.training.loop import train_network

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FULL", "QUICK", "Outcome", "Size", "arrays", "benchmark", "new_head", "train_small"]

_log = logging.getLogger(__name__)

#: A network with dense layers on top has to learn each digit at each place.
_LONGER = {"VGG": 2.5, "ConvNeXt": 0.75, "ViT": 0.75}
#: Attention and large kernels learn from more images what small kernels have built in.
_MORE = {"ConvNeXt": 4, "ViT": 4}


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is done.

    Attributes:
        train, validation: images to train with, and to choose the epoch by (both of the digits for
            training).
        test: images of other digits, for mean average precision.
        pointing: the first so many test images are asked about.
        changed: of so many of them pixels are changed, and the maps compared with those of random
            networks.
        epochs: of training.
        methods: names of the methods, of the command line's.
    """

    train: int
    validation: int
    test: int
    pointing: int
    changed: int
    epochs: int
    methods: tuple[str, ...]


#: c-Grad is zero everywhere, and c-CAM has CAM's maxima.
_TOLD_APART = tuple(name for name in METHODS if name not in ("c-gradient", "c-cam"))
FULL = Size(3000, 200, 400, 120, 32, 8, _TOLD_APART)
QUICK = Size(
    800,
    100,
    100,
    24,
    16,
    3,
    ("gradient", "guided-backprop", "lrp", "cam", "grad-cam", "mwp", "c-mwp"),
)


class Outcome(NamedTuple):
    """What the benchmark came to for a network.

    Attributes:
        network: it, trained.
        precision: mean average precision on the test images.
        head: that of a new output layer on its frozen features, trained as `finetune` does it, and
            that of scikit-learn's logistic regression on the same features.
        pointing, faithfulness: the `Report` of the pointing game, and of insertion, deletion and
            pixel-flipping.
        sanity: method -> how alike its maps stay in networks made random.
        undefined: method -> why it does not exist there.
        claims: whether what the paper's Table 1 says of the difficult subset holds here.
    """

    network: Any
    precision: float
    head: tuple[float, float]
    pointing: Report[Accuracies]
    faithfulness: Report[Any]
    sanity: dict[str, games.Likeness]
    undefined: dict[str, str]

    @property
    def claims(self) -> dict[str, bool]:
        mean = {name: float(hard.mean) for name, (_, hard) in self.pointing.results.items()}
        return {
            "c-MWP above MWP": mean["c-MWP"] > mean["MWP"],
            "MWP above the centre": mean["MWP"] > mean[CENTRE],
        }


def benchmark(
    size: Size = FULL,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report[dict[str, Outcome]]:
    """Runs the benchmark.

    Args:
        size: how much is done.
        checkpoint: a folder for training's checkpoints, from which a second run goes on.
        progress: called with how many are done, and of how many: for each network first the epochs
            of its training, then the images of the pointing game.

    Returns:
        A `Report` whose results are network -> `Outcome`.

    Raises:
        ImportError: a package of ``jaxplain[benchmark]`` is missing.
    """
    results: dict[str, Outcome] = {}
    seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def timed(what: str) -> Iterator[None]:
        _log.info("%s ...", what)
        start = time.perf_counter()
        yield
        seconds[what] = time.perf_counter() - start

    with timed("drawing the images"):
        extra = (max(_MORE.values()) - 1) * size.train
        fitted = arrays(size.train + size.validation + extra, train=True)
    with timed("drawing the test images"):
        tested = arrays(size.test, train=False)
    source = ClutteredDigits(size.pointing, train=False)
    for name in NETWORKS:
        folder = None if checkpoint is None else Path(checkpoint) / name
        with timed(f"training {name}"):
            network, loss = train_small(name, fitted, size, checkpoint=folder, progress=progress)
        scores = nnx.jit(lambda network, x: network(x))(network, network_inputs(network, tested[0]))
        precision = float(mean_average_precision(scores, tested[1] > 0))
        _log.info(
            "%s: validation loss %.4f, mean average precision %.1f %%", name, loss, 100 * precision
        )
        with timed(f"new head for {name}"):
            head = new_head(network, fitted, tested, size)
        with timed(f"pointing {name}"):
            playing, undefined = games.players(network, size.methods)
            played = games.point(network, source, playing, progress)
        changed = tested[0][: size.changed]
        with timed(f"changing pixels for {name}"):
            faithful = games.faithfulness(network, changed, playing)
        with timed(f"random weights for {name}"):
            sane = games.sanity(network, changed, playing)
        results[name] = Outcome(network, precision, head, played, faithful, sane, undefined)
    return _report(results, seconds)


def _report(results: dict[str, Outcome], seconds: dict[str, float]) -> Report[dict[str, Outcome]]:
    """Accuracies in per cent, on all and on difficult questions of each network."""
    played = [found.pointing for found in results.values()]
    heads = [head for name in results for head in (f"{name}, all", "difficult")]
    rows = []
    for method in dict.fromkeys(name for game in played for name in game.results):
        cells: list[str] = []
        for game in played:
            means = game.results.get(method)
            cells += [percent(m.mean) for m in means] if means else ["-", "-"]
        rows.append((method, *cells))
    everything, hard = played[0].results[CENTRE]
    precision = ", ".join(f"{n} {100 * r.precision:.1f} %" for n, r in results.items())
    new = ", ".join(
        f"{n} {100 * r.head[0]:.1f} ({100 * r.head[1]:.1f}) %" for n, r in results.items()
    )
    return Report(
        "digits in clutter",
        "Pointing game on digits in clutter",
        [
            ("", Table(rows, ["method", *heads], right=heads)),
            (
                "Insertion (higher is better) and deletion (lower), mean area in per cent",
                _compared(results, ("insertion", "deletion"), _areas),
            ),
            (
                "Rank correlation of maps with those of the network whose top layer, or all of "
                "whose layers, are random",
                _compared(results, ("top", "all"), _likeness),
            ),
        ],
        [
            f"{played[0].details['images']} images, {int(everything.trials.sum())} questions, "
            f"{int(hard.trials.sum())} of them difficult; hits on {played[0].details['region']}. "
            f"Mean average precision of the networks: {precision}; of new heads on their frozen "
            f"features (logistic regression on the same): {new}. Took "
            f"{sum(seconds.values()):.0f} s.",
            *(
                f"Does not hold for {name} on the difficult subset: {claim}."
                for name, found in results.items()
                for claim, holds in found.claims.items()
                if not holds
            ),
        ],
        results,
        {
            "mean_average_precision": {name: r.precision for name, r in results.items()},
            "new_head": {
                name: dict(zip(("finetune", "logistic_regression"), r.head, strict=True))
                for name, r in results.items()
            },
            "pointing": {name: r.pointing.to_json() for name, r in results.items()},
            "faithfulness": {name: r.faithfulness.to_json() for name, r in results.items()},
            "sanity": {
                name: {method: alike._asdict() for method, alike in r.sanity.items()}
                for name, r in results.items()
            },
            "undefined": {name: r.undefined for name, r in results.items()},
            "claims": {name: r.claims for name, r in results.items()},
            "seconds": {name: round(s, 1) for name, s in seconds.items()},
        },
        _draw,
    )


def _compared(
    results: dict[str, Outcome],
    columns: Sequence[str],
    read: Callable[[Outcome], dict[str, Sequence[str]]],
) -> Table[Any]:
    """Cells of each method, as many as there are columns for each network; "-" where undefined."""
    found = {name: read(outcome) for name, outcome in results.items()}
    heads = [head for n in results for head in (f"{n}, {columns[0]}", *columns[1:])]
    methods = dict.fromkeys(method for own in found.values() for method in own)
    none = ["-"] * len(columns)
    rows = [(m, *(c for own in found.values() for c in own.get(m, none))) for m in methods]
    return Table(rows, ["method", *heads], right=heads)


def _areas(outcome: Outcome) -> dict[str, Sequence[str]]:
    inserted, deleted = (outcome.faithfulness.results[k] for k in ("insertion", "deletion"))
    return {m: [percent(c.area.mean()) for c in (inserted[m], deleted[m])] for m in inserted}


def _likeness(outcome: Outcome) -> dict[str, Sequence[str]]:
    return {m: [f"{value:.2f}" for value in alike] for m, alike in outcome.sanity.items()}


def _draw(report: Report[dict[str, Outcome]]) -> Figure:
    from jaxplain.digits import drawing

    return drawing.examples({name: found.network for name, found in report.results.items()})


def arrays(count: int, *, train: bool) -> tuple[np.ndarray, np.ndarray]:
    """Images as small as the networks see them, uint8 ``(N, h, w, 3)``, and targets ``(N, K)``."""
    source = ClutteredDigits(count, train=train, side=4 * INPUT_SIZE)  # drawn faster
    pixels = np.zeros((count, INPUT_SIZE, INPUT_SIZE, 3), np.uint8)
    targets = np.zeros((count, len(CLASSES)), np.float32)
    for item in data.load(source, small_image):
        pixels[item.index] = item.pixels
        targets[item.index, item.record.labels] = 1
    return pixels, targets


def train_small(
    name: str, images: tuple[np.ndarray, np.ndarray], size: Size, **options: Any
) -> tuple[Any, float]:
    """A small network, trained on the first ``size.train`` images, and its validation loss.

    Those after the validation images are for networks that need more.

    ``options`` are those of `jaxplain.training.loop.train`.
    """
    import optax

    network = NETWORKS[name](CLASSES, rngs=nnx.Rngs(0))
    pixels, targets = images
    end = size.train + size.validation
    rows = np.r_[: size.train, end : end + (_MORE.get(name, 1) - 1) * size.train]
    inputs = network_inputs(network, pixels)
    batch = 32
    epochs = round(size.epochs * _LONGER.get(name, 1))
    steps = epochs * max(len(rows) // batch, 1)
    result = train_network(
        network,
        (inputs[rows], targets[rows]),
        (inputs[size.train : end], targets[size.train : end]),
        loss="sigmoid_mean",
        optimiser=optax.adamw(optax.cosine_onecycle_schedule(steps, 4e-3, 0.2), weight_decay=1e-3),
        batch_size=batch,
        epochs=epochs,
        patience=epochs,
        **options,
    )
    return network, float(result.validation.min())


def new_head(
    network: nnx.Module,
    fitted: tuple[np.ndarray, np.ndarray],
    tested: tuple[np.ndarray, np.ndarray],
    size: Size,
) -> tuple[float, float]:
    """Mean average precision of a new output layer, and of logistic regression in its place."""
    from sklearn.linear_model import LogisticRegression

    end = size.train + size.validation
    features, unseen = (
        np.asarray(last_layer_inputs(network, network_inputs(network, pixels), batch_size=100))
        for pixels in (fitted[0][:end], tested[0])
    )
    targets = fitted[1][:end]
    parts = slice(0, size.train), slice(size.train, None)
    layer = LastLayer.fit(
        *((features[part], targets[part]) for part in parts),
        classes=len(CLASSES),
        loss="sigmoid_mean",
        batch_size=64,
        epochs=100,
        patience=5,
    )
    known = features[parts[0]]
    mean, deviation = known.mean(0), np.maximum(known.std(0), 1e-6)
    theirs = np.stack(
        [
            LogisticRegression(max_iter=1000)
            .fit((known - mean) / deviation, targets[parts[0], k] > 0)
            .decision_function((unseen - mean) / deviation)
            for k in range(len(CLASSES))
        ],
        axis=1,
    )
    present = tested[1] > 0
    ours, reference = (mean_average_precision(s, present) for s in (layer(unseen), theirs))
    return float(ours), float(reference)
