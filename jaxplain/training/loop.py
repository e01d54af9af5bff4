"""The training loop: for a new last layer on fixed features, and for whole (small) networks.

Batches of a fixed size in an order that the seed and the epoch decide; it stops when the validation
loss has not fallen for some epochs, with the weights of the lowest, or when the training loss has
come to a plateau; and it can be killed at any moment and goes on from the last finished epoch, to
the same weights bit for bit.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxplain.core.extras import missing
from jaxplain.weights_convert import CheckpointError, store

if TYPE_CHECKING:
    import optax

__all__ = ["LOSSES", "STOPS", "Training", "train", "train_network"]

_log = logging.getLogger(__name__)

#: Means over images. softmax: exclusive classes; sigmoid: each class by itself, for several to an
#: image, summed over classes, as Caffe and Zhang et al. 2018 have it; sigmoid_mean: their mean.
LOSSES = ("softmax", "sigmoid", "sigmoid_mean")
#: Which loss it is that must fall.
STOPS = ("validation", "training")
#: The training loss is at its plateau unless it falls by more than this part of itself.
_PLATEAU = 0.01


class Training(NamedTuple):
    """What `train` returns.

    Attributes:
        parameters, statistics: of the lowest validation loss; or of the end, where the training
            loss decides.
        training: float32 ``(epochs,)``: the mean loss of each epoch's batches.
        validation: float32 ``(epochs + 1,)``: the loss before each epoch, and after the last; NaN
            without a validation set.
    """

    parameters: Any
    statistics: Any
    training: np.ndarray
    validation: np.ndarray


class _State(NamedTuple):
    parameters: Any
    statistics: Any
    optimiser: Any
    best: Any  # parameters and statistics that are returned


def train(
    forward: Callable[[Any, Any, jax.Array, bool], tuple[jax.Array, Any]],
    parameters: Any,
    statistics: Any,
    data: tuple[Any, Any],
    validation: tuple[Any, Any] | None,
    *,
    loss: str,
    stop: str = "validation",
    optimiser: optax.GradientTransformation,
    batch_size: int | None = None,
    epochs: int = 100,
    patience: int = 5,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Training:
    """Trains until the loss stops falling: the validation loss, or the training loss.

    Args:
        forward: ``(parameters, statistics, inputs, training)`` to logits ``(B, K)`` and statistics.
        parameters: the pytree that is trained.
        statistics: a pytree that ``forward`` alone changes, such as those of batch normalisation.
        data, validation: inputs ``(N, ...)`` and targets ``(N, K)``, of 0 to 1. Where the training
            loss decides, ``validation`` may be None.
        loss: one of `LOSSES`.
        stop: ``"validation"``: which has not been lower for ``patience`` epochs; the weights of the
            lowest are returned. ``"training"``: whose lowest value has fallen by no more than 1 %
            in ``patience`` epochs; the weights of the end are returned.
        optimiser: of `optax`.
        batch_size: None for all at once. What an epoch leaves over comes up in the next.
        epochs: at most so many.
        patience: stops after so many epochs in which the loss has not fallen.
        seed: of the order.
        checkpoint: a folder, made if need be, that holds the state after the last epoch; training
            goes on from there. None keeps nothing.
        progress: called with the number of epochs that are done, and ``epochs``.

    Raises:
        ValueError: shapes that do not fit, an unknown loss or stop, or no validation set where it
            decides.
        weights_convert.CheckpointError: the checkpoint is of another training, or damaged.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> from jaxplain.training.loop import train
        >>> line = lambda w, statistics, x, training: (x * w, statistics)
        >>> data = (jnp.array([[-1.0], [1.0]]), jnp.array([[0.0], [1.0]]))
        >>> fit = train(line, jnp.zeros(()), (), data, data, loss="sigmoid",
        ...             optimiser=optax.sgd(1.0), epochs=3)
        >>> [round(float(loss), 2) for loss in fit.validation]
        [0.69, 0.47, 0.35, 0.27]
    """
    cost = _loss(loss)
    if stop not in STOPS:
        raise ValueError(f"stop must be one of {', '.join(STOPS)}, not {stop!r}")
    if validation is None and stop == "validation":
        raise ValueError(
            "there is no validation set to stop by; give one, or stop by the training loss"
        )
    x, targets = _checked(*data)
    held = None if validation is None else _checked(*validation)
    size = len(x) if batch_size is None else min(batch_size, len(x))
    if size < 1:
        raise ValueError(f"batch_size must be positive, not {batch_size}")

    @jax.jit
    def step(state, x, targets, rows):
        def objective(parameters):
            logits, statistics = forward(parameters, state.statistics, x[rows], True)
            return cost(logits, targets[rows]), statistics

        (value, statistics), slope = jax.value_and_grad(objective, has_aux=True)(state.parameters)
        updates, moments = optimiser.update(slope, state.optimiser, state.parameters)
        moved = jax.tree.map(jnp.add, state.parameters, updates)
        return state._replace(parameters=moved, statistics=statistics, optimiser=moments), value

    @jax.jit
    def evaluate(state, x, targets):
        return cost(forward(state.parameters, state.statistics, x, False)[0], targets)

    start = (parameters, statistics)
    state = _State(*start, optimiser.init(parameters), start)
    history = {"training": [], "validation": []}
    keeper = None
    if checkpoint is not None:
        # An optimiser is functions; what they compute stands for it.
        moments = jax.make_jaxpr(optimiser.update)(parameters, state.optimiser, parameters)
        settings = [loss, stop, size, seed, str(moments)]
        keeper = _Keeper(Path(checkpoint), settings, [start, x, targets, held])
        state, history = keeper.newest(state, history)
    while True:
        if len(history["validation"]) == len(history["training"]):
            held_out = float("nan") if held is None else float(evaluate(state, *held))
            lower = not history["validation"] or held_out < min(history["validation"])
            if stop == "training" or lower:
                state = state._replace(best=(state.parameters, state.statistics))
            history["validation"].append(held_out)
            if keeper is not None:
                keeper.save(state, history)
            _log.debug("epoch %d: validation loss %.4f", len(history["training"]), held_out)
            if progress is not None:
                progress(len(history["training"]), epochs)
        epoch = len(history["training"])
        if stop == "validation":
            fell = int(np.argmin(history["validation"]))
        else:
            fell = _last_fall(history["training"])
        if epoch >= epochs or epoch - fell >= patience:
            break
        order = np.random.default_rng([seed, epoch]).permutation(len(x))
        values = []
        for first in range(0, len(x) - size + 1, size):
            state, value = step(state, x, targets, order[first : first + size])
            values.append(value)
        history["training"].append(float(np.mean(values)))
    return Training(*state.best, *(np.array(h, np.float32) for h in history.values()))


def train_network(
    network: nnx.Module, data: tuple[Any, Any], validation: tuple[Any, Any], **options: Any
) -> Training:
    """Trains all weights of a network, which has those of the lowest validation loss afterwards.

    Batch normalisation uses the batch's statistics while training, and updates the stored ones.

    Args:
        network: images ``(B, H, W, C)`` to logits ``(B, K)``.
        data, validation: images as the network sees them, and targets ``(N, K)``.
        options: of `train`.
    """
    network.train()
    live, parameters, statistics = nnx.split(network, nnx.Param, ...)
    network.eval()
    still, *_ = nnx.split(network, nnx.Param, ...)

    def forward(parameters: Any, statistics: Any, x: jax.Array, training: bool):
        called = nnx.merge(live if training else still, parameters, statistics, copy=True)
        logits = called(x)
        return logits, nnx.split(called, nnx.Param, ...)[2]

    result = train(forward, parameters, statistics, data, validation, **options)
    nnx.update(network, result.parameters, result.statistics)
    return result


def _last_fall(losses: list[float]) -> int:
    """How many epochs there had been when the loss last fell by more than `_PLATEAU` of itself.

    >>> _last_fall([]), _last_fall([9.0, 5.0, 4.98, 4.96, 4.97]), _last_fall([5.0, 4.98, 4.94])
    (0, 2, 3)
    """
    fell, reference = 0, np.inf
    for epoch, loss in enumerate(losses, 1):
        if loss < (1 - _PLATEAU) * reference:
            fell, reference = epoch, loss
    return fell


def _loss(name: str) -> Callable[[jax.Array, jax.Array], jax.Array]:
    try:
        import optax
    except ImportError as error:
        raise missing("finetune", "optax", "Training") from error
    if name not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, not {name!r}")
    if name == "softmax":
        return lambda logits, targets: optax.softmax_cross_entropy(logits, targets).mean()
    each = optax.sigmoid_binary_cross_entropy
    if name == "sigmoid":
        return lambda logits, targets: each(logits, targets).sum(-1).mean()
    return lambda logits, targets: each(logits, targets).mean()


def _checked(inputs: Any, targets: Any) -> tuple[jax.Array, jax.Array]:
    inputs, targets = jnp.asarray(inputs), jnp.asarray(targets, jnp.float32)
    if targets.ndim != 2 or len(inputs) != len(targets) or not len(inputs):
        raise ValueError(
            f"inputs must be (N, ...) and targets (N, K), not {inputs.shape} and {targets.shape}"
        )
    return inputs, targets


class _Keeper:
    """Keeps the state after each epoch in a folder of its own, and the newest one only."""

    def __init__(self, folder: Path, settings: list, arrays: Any):
        self.folder = folder
        digest = hashlib.sha256(repr(settings).encode())
        for leaf in jax.tree.leaves(arrays):
            digest.update(np.ascontiguousarray(leaf))
        self.identity = digest.hexdigest()

    def _saved(self) -> list[Path]:
        return sorted(self.folder.glob("epoch-[0-9]*[0-9]"))

    def newest(self, state: _State, history: dict) -> tuple[_State, dict]:
        """The state that was saved last, or what was given where there is none."""
        saved = self._saved()
        if not saved:
            return state, history
        arrays, about = store.load(saved[-1])
        if about.get("identity") != self.identity:
            raise CheckpointError(
                f"The checkpoint in {self.folder} is of another training (other data, network or "
                "settings); name a new folder, or delete it."
            )
        leaves = [jnp.asarray(arrays[name]) for name in sorted(arrays)]
        state = jax.tree.unflatten(jax.tree.structure(state), leaves)
        return state, {name: about[name] for name in history}

    def save(self, state: _State, history: dict) -> None:
        before = self._saved()
        arrays = {f"{i:05d}": np.asarray(x) for i, x in enumerate(jax.tree.leaves(state))}
        store.save(
            self.folder / f"epoch-{len(history['training']):05d}",
            arrays,
            {"identity": self.identity, **history},
        )
        for old in before:
            shutil.rmtree(old)
