"""The benchmark from nothing: draw the images, train the networks, play the pointing game."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxplain
from jaxplain import data
from jaxplain.digits.images import CLASSES, ClutteredDigits
from jaxplain.digits.networks import INPUT_SIZE, NETWORKS
from jaxplain.evaluation.classification import mean_average_precision
from jaxplain.evaluation.studies.pointing import PointingMethod, PointingTable, pointing_game
from jaxplain.explainers.catalogue import METHODS, explainer
from jaxplain.training.last_layer import LastLayer, last_layer_inputs
from jaxplain.training.loop import train_network

__all__ = [
    "FULL",
    "QUICK",
    "Size",
    "Result",
    "arrays",
    "benchmark",
    "new_head",
    "small_image",
    "train_small",
    "write",
]

#: RISE's 1000 masks take minutes a network; on images of 32 x 32 these say as much.
_OPTIONS: dict[str, dict[str, Any]] = {"rise": {"samples": 200}}
#: A network with dense layers on top has to learn each digit at each place.
_LONGER = {"VGG": 2.5}


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is done.

    Attributes:
      train, validation: images to train with, and to choose the epoch by (both of the digits for
        training).
      test: images of other digits, for mean average precision.
      pointing: the first so many test images are asked about.
      epochs: of training.
      methods: names of the methods, of the command line's.
    """

    train: int
    validation: int
    test: int
    pointing: int
    epochs: int
    methods: tuple[str, ...]


FULL = Size(3000, 200, 400, 120, 8, tuple(METHODS))
QUICK = Size(
    800,
    100,
    100,
    24,
    3,
    ("gradient", "guided-backprop", "lrp", "cam", "grad-cam", "mwp", "c-mwp"),
)


@dataclasses.dataclass(frozen=True)
class Result:
    """What the benchmark came to.

    Attributes:
      precision: network -> mean average precision on the test images.
      heads: network -> that of a new output layer on its frozen features, trained as `finetune`
        does it, and that of scikit-learn's logistic regression on the same features.
      tables: network -> its `PointingTable`.
      undefined: network -> {method: why it does not exist there}.
      seconds: what was done -> how long it took.
    """

    precision: dict[str, float]
    heads: dict[str, tuple[float, float]]
    tables: dict[str, PointingTable]
    undefined: dict[str, dict[str, str]]
    seconds: dict[str, float]

    def claims(self) -> dict[str, dict[str, bool]]:
        """Network -> whether what the paper's Table 1 says of the difficult subset holds here."""
        found = {}
        for name, table in self.tables.items():
            mean = {m: float(hard.mean) for m, (_, hard) in table.results.items()}
            found[name] = {
                "c-MWP above MWP": mean["c-MWP"] > mean["MWP"],
                "MWP above the centre": mean["MWP"] > mean["Center"],
            }
        return found

    def markdown(self) -> str:
        """Accuracies in per cent, all and difficult questions of each network."""
        names = list(self.tables)
        first = next(iter(self.tables.values()))
        methods = list(dict.fromkeys(m for t in self.tables.values() for m in t.results))
        lines = [
            "| method | " + " | ".join(f"{n}, all | difficult" for n in names) + " |",
            "| --- |" + " ---: | ---: |" * len(names),
        ]
        for method in methods:
            cells = []
            for table in self.tables.values():
                means = table.results.get(method)
                cells += [f"{100 * float(m.mean):.1f}" for m in means] if means else ["-", "-"]
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
        everything, hard = first.results["Center"]
        precision = ", ".join(f"{n} {100 * p:.1f} %" for n, p in self.precision.items())
        heads = ", ".join(
            f"{n} {100 * ours:.1f} ({100 * theirs:.1f}) %"
            for n, (ours, theirs) in self.heads.items()
        )
        lines += [
            "",
            f"{first.images} images, {int(everything.trials.sum())} questions, "
            f"{int(hard.trials.sum())} of them difficult; hits on {first.region}. Mean average "
            f"precision of the networks: {precision}; of new heads on their frozen features "
            f"(logistic regression on the same): {heads}. Took {sum(self.seconds.values()):.0f} s.",
        ]
        for network, claims in self.claims().items():
            lines += [
                f"Does not hold for {network} on the difficult subset: {claim}."
                for claim, holds in claims.items()
                if not holds
            ]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            "mean_average_precision": self.precision,
            "new_head": {
                name: {"finetune": ours, "logistic_regression": theirs}
                for name, (ours, theirs) in self.heads.items()
            },
            "pointing": {name: table.to_json() for name, table in self.tables.items()},
            "undefined": self.undefined,
            "claims": self.claims(),
            "seconds": {name: round(s, 1) for name, s in self.seconds.items()},
        }


def benchmark(
    size: Size = FULL,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Result, dict[str, nnx.Module]]:
    """Runs the benchmark: returns its result, and the trained networks.

    Args:
      size: how much is done.
      checkpoint: a folder for training's checkpoints, from which a second run goes on.
      say: is told what is going on.

    Raises:
      ImportError: a package of ``jaxplain[benchmark]`` is missing.
    """
    precision, heads, tables, undefined, seconds, trained = {}, {}, {}, {}, {}, {}

    def timed(what: str, function: Callable[[], Any]) -> Any:
        say(f"{what} ...")
        start = time.perf_counter()
        result = function()
        seconds[what] = time.perf_counter() - start
        return result

    fitted = timed("drawing the images", lambda: arrays(size.train + size.validation, train=True))
    tested = timed("drawing the test images", lambda: arrays(size.test, train=False))
    source = ClutteredDigits(size.pointing, train=False)
    for name in NETWORKS:
        folder = None if checkpoint is None else Path(checkpoint) / name
        network = timed(
            f"training {name}",
            functools.partial(
                train_small,
                name,
                fitted,
                size,
                checkpoint=folder,
                progress=lambda epoch, loss: say(f"  epoch {epoch}: validation loss {loss:.4f}"),
            ),
        )
        trained[name] = network
        scores = nnx.jit(lambda network, x: network(x))(network, _inputs(network, tested[0]))
        precision[name] = float(mean_average_precision(scores, tested[1] > 0))
        say(f"  mean average precision {100 * precision[name]:.1f} %")
        heads[name] = timed(
            f"new head for {name}", functools.partial(new_head, network, fitted, tested, size)
        )
        tables[name], undefined[name] = timed(
            f"pointing {name}", functools.partial(_point, network, source, size.methods)
        )
    return Result(precision, heads, tables, undefined, seconds), trained


def arrays(count: int, *, train: bool) -> tuple[np.ndarray, np.ndarray]:
    """Images as small as the networks see them, uint8 ``(N, h, w, 3)``, and targets ``(N, K)``."""
    source = ClutteredDigits(count, train=train, side=4 * INPUT_SIZE)  # drawn faster
    pixels = np.zeros((count, INPUT_SIZE, INPUT_SIZE, 3), np.uint8)
    targets = np.zeros((count, len(CLASSES)), np.float32)
    for item in data.load(source, small_image):
        pixels[item.index] = item.pixels
        targets[item.index, item.record.labels] = 1
    return pixels, targets


def small_image(record: data.Record) -> np.ndarray:
    """A record as the networks see it, uint8 ``(h, w, 3)``."""
    return data.resize_image(record.image, (INPUT_SIZE, INPUT_SIZE))


def _inputs(network: nnx.Module, pixels: np.ndarray) -> jax.Array:
    return jnp.asarray(data.normalise(pixels, network.config))


def train_small(
    name: str, images: tuple[np.ndarray, np.ndarray], size: Size, **options: Any
) -> nnx.Module:
    """A small network, trained on the first ``size.train`` images; ``options`` of `train`."""
    import optax

    network = NETWORKS[name](CLASSES, rngs=nnx.Rngs(0))
    pixels, targets = images
    inputs = _inputs(network, pixels)
    batch = 32
    epochs = round(size.epochs * _LONGER.get(name, 1))
    steps = epochs * max(size.train // batch, 1)
    train_network(
        network,
        (inputs[: size.train], targets[: size.train]),
        (inputs[size.train :], targets[size.train :]),
        loss="sigmoid",
        optimiser=optax.adamw(optax.cosine_onecycle_schedule(steps, 4e-3, 0.2), weight_decay=1e-3),
        batch_size=batch,
        epochs=epochs,
        patience=epochs,
        **options,
    )
    return network


def new_head(
    network: nnx.Module,
    fitted: tuple[np.ndarray, np.ndarray],
    tested: tuple[np.ndarray, np.ndarray],
    size: Size,
) -> tuple[float, float]:
    """Mean average precision of a new output layer, and of logistic regression in its place."""
    from sklearn.linear_model import LogisticRegression

    features, unseen = (
        np.asarray(last_layer_inputs(network, _inputs(network, pixels), batch=100))
        for pixels, _ in (fitted, tested)
    )
    targets = fitted[1]
    parts = slice(0, size.train), slice(size.train, None)
    layer = LastLayer.fit(
        *((features[part], targets[part]) for part in parts),
        classes=len(CLASSES),
        loss="sigmoid",
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
    return tuple(float(mean_average_precision(s, present)) for s in (layer(unseen), theirs))


def _point(
    network: nnx.Module, source: ClutteredDigits, methods: Sequence[str]
) -> tuple[PointingTable, dict[str, str]]:
    """The pointing game with the methods that are defined, and why the others are not."""
    players, undefined = {}, {}
    example = jnp.zeros((1, INPUT_SIZE, INPUT_SIZE, 3))
    for name in methods:
        explain = explainer(name, network.config, **_OPTIONS.get(name, {}))
        explain = functools.partial(explain, network)
        try:
            jax.eval_shape(explain, example, jnp.zeros((1, len(CLASSES))))
        except (ValueError, jaxplain.UnsupportedOperationError) as error:
            undefined[METHODS[name].title] = str(error)
            continue
        players[METHODS[name].title] = PointingMethod(explain, METHODS[name].blurred)
    table = pointing_game(
        source,
        small_image,
        functools.partial(_inputs, network),
        np.eye(len(CLASSES), dtype=np.float32),
        players,
        batch_size=16,
    )
    return table, undefined


def write(folder: str | os.PathLike[str], title: str, result: Result) -> None:
    """Writes ``benchmark.json`` and ``benchmark.md``."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result.to_json(), indent=1, allow_nan=False)
    (folder / "benchmark.json").write_text(f"{text}\n", "utf-8")
    (folder / "benchmark.md").write_text(f"# {title}\n\n{result.markdown()}\n", "utf-8")
