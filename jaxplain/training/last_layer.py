"""Transfer learning in its simplest form: a new last layer on the unchanged features below it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxplain.core import Model, trace
from jaxplain.training import loop

__all__ = ["LastLayer", "confusion_matrix", "last_layer_inputs"]


def last_layer_inputs(fn: Callable, x: Any, *, batch_size: int = 16) -> jax.Array:
    """The values that enter a network's last dense layer: ``(N, F)`` of images ``(N, H, W, C)``.

    Args:
        fn: images to scores; found in its trace, what follows the layer's input is not computed.
        x: float images.
        batch_size: how many go through the network at once.

    Raises:
        ValueError: the network does not end in a dense layer on ``(B, F)``.

    >>> w = jnp.ones((2, 5))
    >>> fn = lambda x: jnp.concatenate([x.mean((1, 2)), x.max((1, 2))], -1) @ w
    >>> last_layer_inputs(fn, jnp.arange(4.0).reshape(1, 2, 2, 1)).tolist()
    [[1.5, 3.0]]
    """
    x = jnp.asarray(x)
    batch = min(batch_size, len(x))
    parts = []
    for start in range(0, len(x), batch):
        rows = np.minimum(np.arange(start, start + batch), len(x) - 1)  # one shape, one program
        model = trace(fn, x[rows])
        linear = [op for op in model.graph.ops if op.weighted]
        if not linear or linear[-1].name != "dense" or linear[-1].inputs[0].aval.ndim != 2:
            raise ValueError(
                "the network does not end in a dense layer on features (B, F); give a "
                "network whose classifier is one dense layer"
            )
        inputs = _evaluate(model.graph, linear[-1].inputs[0], model.constants, x[rows])
        parts.append(inputs[: len(x) - start])
    return jnp.concatenate(parts)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _evaluate(graph, v, constants, x):
    return Model(graph, constants).evaluate([x], outputs=[v])[0]


def confusion_matrix(labels: Any, predicted: Any, classes: int) -> np.ndarray:
    """Counts ``(K, K)``: row the true class, column the predicted one.

    >>> confusion_matrix([0, 0, 1], [0, 1, 1], 2).tolist()
    [[1, 1], [0, 1]]
    """
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (labels, predicted), 1)
    return counts


class LastLayer(NamedTuple):
    """A dense classifier on features; call it with ``(N, F)`` for logits ``(N, K)``.

    Attributes:
        kernel, bias: ``(F, K)`` and ``(K,)``.
        losses: ``(epochs, 2)``, one row per epoch: the loss on the training set during it, and
            on the validation set before it (NaN without one).
    """

    kernel: jax.Array
    bias: jax.Array
    losses: np.ndarray

    def __call__(self, features: ArrayLike) -> jax.Array:
        return jnp.asarray(features, self.kernel.dtype) @ self.kernel + self.bias

    @classmethod
    def fit(
        cls,
        train: tuple[Any, Any],
        validation: tuple[Any, Any] | None,
        *,
        classes: int,
        loss: str = "softmax",
        learning_rate: float = 0.01,
        momentum: float = 0.9,
        epochs: int = 1000,
        patience: int = 20,
        **options: Any,
    ) -> LastLayer:
        """Trains from zero until the loss stops falling.

        Features are standardised by the training set's mean and deviation for the training; the
        kernel and bias returned act on the features as they are. Deterministic.

        Args:
            train, validation: features ``(N, F)``, and labels ``(N,)``, 0 to K - 1, or targets
                ``(N, K)`` of 0 to 1. Where the training loss decides when to stop, ``validation``
                may be None.
            classes: K.
            loss: ``softmax`` for exclusive classes, ``sigmoid`` (the sum over classes) or
                ``sigmoid_mean`` for several to an image.
            learning_rate, momentum: of stochastic gradient descent.
            epochs: at most so many.
            patience: stops after so many epochs without a lower loss.
            options: of `jaxplain.training.loop.train`: ``stop`` (by the validation loss by
                default), ``batch_size`` (all at once by default), ``seed``, ``checkpoint``,
                ``progress``.

        Raises:
            ValueError: labels out of range, or shapes that do not fit.
        """
        import optax  # only training needs it

        sets = []
        pairs = [("training", train), ("validation", validation)]
        for name, pair in [(name, pair) for name, pair in pairs if pair is not None]:
            features, labels = pair
            features, labels = jnp.asarray(features, jnp.float32), np.asarray(labels)
            if features.ndim != 2 or labels.shape[:1] != features.shape[:1] or not len(labels):
                raise ValueError(
                    f"{name} features must be (N, F) and labels (N,), not "
                    f"{features.shape} and {labels.shape}"
                )
            if labels.ndim == 1:
                if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= classes:
                    raise ValueError(f"{name} labels must be whole numbers from 0 to {classes - 1}")
                labels = np.eye(classes, dtype=np.float32)[labels]
            if labels.shape[1:] != (classes,):
                raise ValueError(f"{name} targets must be (N, {classes}), not {labels.shape}")
            sets.append((features, labels))
        mean, deviation = sets[0][0].mean(0), sets[0][0].std(0)
        varies = deviation > 1e-6 * jnp.abs(mean)  # a constant's deviation is rounding
        inverse = jnp.where(varies, 1 / jnp.where(varies, deviation, 1), 0)
        scaled = [((f - mean) * inverse, y) for f, y in sets]
        zero = (jnp.zeros((sets[0][0].shape[1], classes)), jnp.zeros(classes))
        result = loop.train(
            lambda weights, _, x, training: (x @ weights[0] + weights[1], ()),
            zero,
            (),
            scaled[0],
            scaled[1] if validation is not None else None,
            loss=loss,
            optimiser=optax.sgd(learning_rate, momentum),
            epochs=epochs,
            patience=patience,
            **options,
        )
        kernel, bias = result.parameters
        kernel = kernel * inverse[:, None]
        losses = np.stack([result.training, result.validation[:-1]], axis=1)
        return cls(kernel, bias - mean @ kernel, losses)
