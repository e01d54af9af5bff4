"""Trace a user's function to a model; give equal programs the same graph."""

from __future__ import annotations

import collections
import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.core import frameworks
from jaxplain.core.fingerprint import Fingerprint, fingerprint
from jaxplain.core.flatten import flatten
from jaxplain.core.graph import Graph
from jaxplain.core.kinds import known_numbers
from jaxplain.core.model import Model

#: Graphs live as long as somebody uses them: a model, or a program that is compiled for them.
_graphs: weakref.WeakValueDictionary = weakref.WeakValueDictionary()
#: The latest stay, so that tables and captures of one network in turn build its graph once.
_latest: collections.deque = collections.deque(maxlen=16)
_lock = threading.Lock()


def tag(x: jax.Array, name: str) -> jax.Array:
    """Name a value, so that explainers can address it as a layer. Free, and works everywhere.

    The same as ``jax.ad_checkpoint.checkpoint_name``.

    >>> import jax.numpy as jnp, jaxplain
    >>> def network(x):
    ...     hidden = jaxplain.tag(jnp.maximum(x, 0), "hidden")
    ...     return hidden.mean((1, 2))
    >>> [row.name for row in jaxplain.layers(network, jnp.ones((1, 2, 2, 3)))]
    ['input', 'hidden']
    """
    from jax.ad_checkpoint import checkpoint_name

    return checkpoint_name(x, name)


def trace(fn: Callable, *inputs: Any) -> Model:
    """Trace ``fn`` at ``inputs`` (arrays or pytrees of arrays) to a :class:`~jaxplain.core.Model`.

    The model is taken by every explainer in place of ``fn``. Explainers that are given ``fn``
    itself trace it anew at every call, so that nothing that changed is explained as it was; in a
    loop of eager calls most of the time then goes into tracing. A model is traced once. It holds
    the weights as they were then, and explains inputs of the same shapes and dtypes. (NAFlow takes
    images one by one, and so a model that was traced at one image.)

    Arrays that ``fn`` closes over, also within functions under ``jax.jit``, become run-time
    arguments of the model. Equal programs share one graph, so that nothing that is compiled for it
    compiles twice when weights change.

    Args:
        fn: a callable, an NNX module, a Keras layer, or a model (which is returned as it is). The
            network is left as it was, whatever the forward pass changes in it: NNX modules (also
            those of a method, and the arguments of a `functools.partial`) are copied, Keras
            networks called statelessly and in inference mode.
        inputs: examples of the arguments.

    Raises:
        ValueError: ``fn`` is a model that was traced at other shapes or dtypes.
        TypeError: ``fn`` cannot be called, or is a Keras network of another backend than JAX.
        UnsupportedOperationError: ``fn`` changes an NNX module that it closes over.

    Example:
        >>> import jax, jax.numpy as jnp, jaxplain
        >>> weight = jnp.array([[1.0, -2.0, 3.0]])
        >>> x = jnp.ones((1, 2, 2, 1))
        >>> model = jaxplain.trace(lambda x: x.mean((1, 2)) @ weight, x)
        >>> model
        Model(float32[1, 2, 2, 1] -> float32[1, 3]; 1 arrays of 3 weights)
        >>> jaxplain.gradient(model, x, 1).tolist()
        [[[0.5, 0.5], [0.5, 0.5]]]
        >>> doubled = jax.tree.map(lambda w: 2 * w, model)
        >>> doubled(x).tolist()
        [[2.0, -4.0, 6.0]]
    """
    if isinstance(fn, Model):
        fn.flat(inputs)
        return fn
    call, weights = frameworks.pure(fn)
    # A new function each time: jax would reuse the trace of an old one, with the old weights.
    with frameworks.stateless():
        closed, shapes = jax.make_jaxpr(lambda *a: call(*a), return_shape=True)(weights, *inputs)
    found = fingerprint(closed)
    trees = jax.tree.structure(inputs), jax.tree.structure(shapes)
    graph = _graph(closed, found, len(weights), trees)
    return Model(graph, [*map(_held, found.constants), *weights])


def _graph(closed: Any, found: Fingerprint, n_weights: int, trees: tuple) -> Graph:
    numbers = known_numbers(found.constants)
    key: Hashable = (found.key, n_weights, trees, tuple(numbers.items()))
    with _lock:
        graph = _graphs.get(key)
    if graph is None:
        program = flatten(closed, found.constants, found.rules)
        in_tree, out_tree = trees
        made = Graph(program, len(found.constants) + n_weights, in_tree, out_tree, numbers)
        with _lock:  # two threads must not have two graphs for one program
            graph = _graphs.setdefault(key, made)
            _latest.append(graph)
    return graph


def _held(constant: Any) -> Any:
    """The constant as an array that nobody else can change."""
    return constant if isinstance(constant, jax.Array) else jnp.array(constant)
