"""The maps of methods, for pictures that are explained together."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxplain.core import UnknownLayerError, UnsupportedOperationError
from jaxplain.explanation.choice import Choice
from jaxplain.explanation.result import Explanation, MethodMaps

if TYPE_CHECKING:
    import jax

    from jaxplain.models import ModelConfig

_log = logging.getLogger(__name__)

#: Part of a method's result -> array.
Parts = dict[str, np.ndarray]


@dataclasses.dataclass(eq=False)
class Subject:
    """A picture that is explained.

    Attributes:
        about: where the maps are put.
        x: as the network sees it, ``(1, H, W, C)``.
        fn: images to the scores that are explained: the network, or a similarity.
        reference: the embedding that the picture is compared with, if it is.
    """

    about: Explanation
    x: jax.Array
    fn: Callable
    reference: jax.Array | None = None


def fill(
    choices: Mapping[str, Choice],
    network: Callable,
    config: ModelConfig | None,
    subjects: Sequence[Subject],
    *,
    fit: Callable[[Choice], Any],
    refused: Callable[[Choice, Exception], None],
    around: Callable[[Choice], contextlib.AbstractContextManager] | None = None,
) -> None:
    """Computes the maps of all methods into the subjects' `Explanation`.

    Args:
        choices: the methods.
        network: that methods explain which have rows of their own.
        config: knows the default layers; None for the functions' own.
        subjects: the pictures; PFV's colours mean the same in all of them.
        fit: makes what `fitted_cam` needs.
        refused: is told which method the network does not allow, and why; it may raise.
        around: what is to be entered around each method.
    """
    for name, choice in choices.items():
        with contextlib.nullcontext() if around is None else around(choice):
            try:
                found = _parts(choice, network, config, subjects, fit)
            # What a network does not allow, a method says in these words; OSError: of `fit`.
            except (UnsupportedOperationError, ValueError, OSError) as error:
                if isinstance(error, UnknownLayerError) and choice.layer is not None:
                    raise  # a name that is wrong for all methods
                refused(choice, error)
                continue
        for subject, parts in zip(subjects, found, strict=True):
            subject.about.methods[name] = MethodMaps(
                name,
                choice.title,
                _style(choice, parts.values()),
                choice.known_layer(config),
                dict(choice.said),
                parts,
            )


def _style(choice: Choice, arrays: Iterable[np.ndarray]) -> Any:
    """How a method is drawn; one of the user's own by whether it has a sign."""
    if choice.method is not None:
        return choice.method.style
    return "signed" if any((array < 0).any() for array in arrays) else "heat"


def _parts(
    choice: Choice,
    network: Callable,
    config: ModelConfig | None,
    subjects: Sequence[Subject],
    fit: Callable[[Choice], Any],
) -> list[Parts]:
    if choice.method is not None and choice.method.rows:
        return COMPUTED[choice.name](network, subjects, choice)
    needs_fit = choice.method is not None and choice.method.needs == "fit"
    more = {"fit": fit(choice)} if needs_fit else {}
    explain = choice.explainer(config, **more)
    return [_maps(explain, subject, choice) for subject in subjects]


def _maps(explain: Callable, subject: Subject, choice: Choice) -> Parts:
    """One map per target, and per layer; one forward pass for all of them."""
    targets = subject.about.targets
    maps = explain(subject.fn, subject.x, np.asarray([targets], np.int32))
    layers = choice.layer if isinstance(choice.layer, tuple) else ()
    parts = {layer: maps[layer] for layer in layers} or {"": maps}
    found = {part: np.asarray(m[0], np.float32) for part, m in parts.items()}
    for array in found.values():
        if array.ndim != 3 or len(array) != len(targets):
            raise ValueError(
                f"a method must give maps (1, {len(targets)}, h, w) for targets (1, "
                f"{len(targets)}), not {(1, *array.shape)}"
            )
    return found


def _several(layer: str | tuple[str, ...] | None) -> list[str] | None:
    """The layers as a list, so that a dict comes back."""
    if layer is None:
        return None
    return [layer] if isinstance(layer, str) else list(layer)


def _flow(network: Any, subjects: Sequence[Subject], choice: Choice) -> list[Parts]:
    return [_flow_maps(network, subject, choice) for subject in subjects]


def _flow_maps(network: Any, subject: Subject, choice: Choice) -> Parts:
    """NAFlow at each layer, the last one first."""
    from jaxplain.explainers import LeastSquares
    from jaxplain.explainers.naflow import all_layers, naflow, naflow_similarity

    solver = LeastSquares(tolerance=1e-2, iterations=200)
    options = choice.arguments(None, solver=solver)
    solver = options["solver"]
    if choice.layer == "all":
        options["layer"] = all_layers(network, subject.x, options.get("last"))
    else:
        options["layer"] = _several(choice.layer)
    flow: Any
    if subject.reference is None:
        targets = np.asarray([subject.about.targets], np.int32)
        flow = naflow(subject.fn, subject.x, targets, details=True, **options)
    else:
        if "class_chunk" in options:
            raise ValueError("with --reference there are no classes, and class_chunk has no effect")
        flow = naflow_similarity(network, subject.x, subject.reference, details=True, **options)
    for name, residual in flow.residuals.items():
        if residual[0] > solver.tolerance:
            _log.warning(
                "NAFlow: at %s a residual of %.1e is left after %d iterations",
                *(name, float(residual[0]), solver.iterations),
            )
    maps = {name: np.asarray(m[0], np.float32) for name, m in flow.maps.items()}
    # The last layer first, or in the order asked for, as other methods' layers.
    asked = choice.layer if isinstance(choice.layer, tuple) else tuple(reversed(list(maps)))
    maps = {name: maps[name] for name in asked}
    return maps if subject.reference is None else {name: m[None] for name, m in maps.items()}


def _attention(network: Any, subjects: Sequence[Subject], choice: Choice) -> list[Parts]:
    from jaxplain.explainers.dense_attention import dense_attention

    layer, options = _several(choice.layer), choice.arguments(None)
    found = []
    for subject in subjects:
        maps = dense_attention(network, subject.x, layer=layer, **options)
        found.append(
            {
                f"{kind}/{name}": np.asarray(m[0], np.float32)
                for kind, part in (("layers", maps.layers), ("cumulative", maps.cumulative))
                for name, m in part.items()
            }
        )
    return found


def _features(network: Any, subjects: Sequence[Subject], choice: Choice) -> list[Parts]:
    """All pictures in one batch, so that a colour means the same in each."""
    import jax.numpy as jnp

    from jaxplain.explainers.pfv import pfv

    x = jnp.concatenate([subject.x for subject in subjects])
    found = pfv(network, x, layer=choice.one_layer, **choice.arguments(None))
    colours, weights = (np.asarray(v, np.float32) for v in (found.colours, found.weights))
    return [{"colours": colours[i], "weights": weights[i]} for i in range(len(subjects))]


#: How the methods are computed that the catalogue gives rows of their own: network, subjects and
#: choice to the parts of each subject.
COMPUTED: Mapping[str, Callable[[Any, Sequence[Subject], Choice], list[Parts]]] = {
    "naflow": _flow,
    "dense-attention": _attention,
    "pfv": _features,
}
