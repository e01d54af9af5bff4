"""What the benchmark asks of a trained network's maps: to point, to order pixels, to depend on it.

All three call a method with the same shapes, so that each of its programs is compiled once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import data
from jaxplain.core import UnsupportedOperationError
from jaxplain.digits.images import CLASSES, ClutteredDigits
from jaxplain.digits.networks import INPUT_SIZE, small_image
from jaxplain.evaluation import similarity
from jaxplain.evaluation.studies.faithfulness import Curve, faithfulness_study
from jaxplain.evaluation.studies.pointing import Accuracies, PointingMethod, pointing_game
from jaxplain.evaluation.studies.questions import predicted
from jaxplain.evaluation.studies.report import Report
from jaxplain.evaluation.studies.sanity import randomisations, top_modules
from jaxplain.explainers.calling import explainer
from jaxplain.explainers.catalogue import METHODS

__all__ = ["Likeness", "Player", "faithfulness", "network_inputs", "players", "point", "sanity"]

_BATCH = 16
_SIGNALS = np.eye(len(CLASSES), dtype=np.float32)
#: RISE's 1000 masks take minutes a network; on images of 32 x 32 these say as much.
_OPTIONS: dict[str, dict[str, Any]] = {"rise": {"samples": 200}}


class Player(NamedTuple):
    """A method that plays: (network, images, signals) to maps, and how its maps are read."""

    explain: Callable[..., jax.Array]
    blurred: bool
    style: str


class Likeness(NamedTuple):
    """The mean rank correlation of a method's maps with those of the trained network."""

    top: float
    every: float


def network_inputs(network: Any, pixels: Any) -> jax.Array:
    """Pixels as a network sees them."""
    return jnp.asarray(data.normalise(pixels, network.config))


def players(network: Any, methods: Sequence[str]) -> tuple[dict[str, Player], dict[str, str]]:
    """Title -> the methods that are defined for a network, and why the others are not.

    Transformer attribution plays in both of its forms.
    """
    forms: list[tuple[str, str, dict[str, Any]]] = []
    for name in methods:
        forms.append((name, METHODS[name].title, _OPTIONS.get(name, {})))
        if name == "transformer-attribution":
            forms.append((name, f"{METHODS[name].title}, relevance", {"relevance": True}))
    found, undefined = {}, {}
    example = jnp.zeros((1, INPUT_SIZE, INPUT_SIZE, 3))
    for name, title, options in forms:
        method = METHODS[name]
        explain = explainer(name, network.config, **options)
        try:
            jax.eval_shape(
                functools.partial(explain, network), example, jnp.zeros((1, len(CLASSES)))
            )
        except (ValueError, UnsupportedOperationError) as error:
            undefined[title] = str(error)
            continue
        found[title] = Player(explain, method.blurred, method.style)
    return found, undefined


def point(
    network: Any,
    source: ClutteredDigits,
    playing: Mapping[str, Player],
    progress: Callable[[int, int], None] | None,
) -> Report[Accuracies]:
    """The pointing game."""
    return pointing_game(
        source,
        small_image,
        functools.partial(network_inputs, network),
        _SIGNALS,
        {
            title: PointingMethod(functools.partial(player.explain, network), player.blurred)
            for title, player in playing.items()
        },
        batch_size=_BATCH,
        progress=progress,
    )


def faithfulness(
    network: Any, pixels: np.ndarray, playing: Mapping[str, Player]
) -> Report[dict[str, dict[str, Curve]]]:
    """Insertion, deletion and the flipping of squares of 4 pixels."""
    methods = {title: functools.partial(_of, p, network) for title, p in playing.items()}
    x = network_inputs(network, pixels)
    return faithfulness_study(network, x, methods, steps=32, patch=4, flips=32, batch_size=_BATCH)


def sanity(network: Any, pixels: np.ndarray, playing: Mapping[str, Player]) -> dict[str, Likeness]:
    """How alike maps stay when the network's top layer is random, and when all its layers are.

    Maps that are drawn as heat count where they are positive, others by their size.
    """
    x = network_inputs(network, pixels[:_BATCH])
    classes = predicted(network, x)
    layers = top_modules(network, x[:1])
    copies = [copy for _, copy in randomisations(network, x[:1], jax.random.key(0), layers=layers)]
    found = {}
    for title, player in playing.items():
        trained, top, every = (
            _evidence(player, other, x, classes) for other in (network, copies[0], copies[-1])
        )
        found[title] = Likeness(
            *(float(similarity.rank_correlation(trained, m).mean()) for m in (top, every))
        )
    return found


def _of(player: Player, network: Any, x: jax.Array, classes: jax.Array) -> jax.Array:
    return player.explain(network, x, jnp.asarray(_SIGNALS)[classes])


def _evidence(player: Player, network: Any, x: jax.Array, classes: jax.Array) -> jax.Array:
    maps = _of(player, network, x, classes)
    return jnp.maximum(maps, 0) if player.style == "heat" else jnp.abs(maps)
