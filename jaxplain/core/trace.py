"""Trace a user's function to a model; give equal programs the same graph."""

from __future__ import annotations

import collections
import functools
import sys
from collections.abc import Callable
from typing import Any

import jax

from jaxplain.core import _compat
from jaxplain.core.flatten import flatten
from jaxplain.core.graph import Graph
from jaxplain.core.model import Model
from jaxplain.core.operations import known_numbers

_CACHE_SIZE = 256
_graphs: collections.OrderedDict = collections.OrderedDict()


def tag(x: jax.Array, name: str) -> jax.Array:
    """Name a value, so that explainers can address it as a layer. Free, and works everywhere.

    The same as ``jax.ad_checkpoint.checkpoint_name``.

    >>> import jax.numpy as jnp, jaxplain
    >>> def network(x):
    ...     hidden = jaxplain.tag(jnp.maximum(x, 0), "hidden")
    ...     return hidden.mean((1, 2))
    >>> [row.name for row in jaxplain.layers(network, jnp.ones((1, 2, 2, 3)))][:3]
    ['input', 'relu:0', 'hidden']
    """
    from jax.ad_checkpoint import checkpoint_name

    return checkpoint_name(x, name)


def trace(fn: Callable, *inputs: Any) -> Model:
    """Trace ``fn`` at ``inputs`` (arrays or pytrees of arrays) to a :class:`Model`.

    Weights that ``fn`` closes over become run-time arguments of the model. They are read anew at
    every call, so changed weights are seen; equal programs share one :class:`Graph`, so that
    nothing that is compiled for it compiles twice. ``fn`` is a callable or an NNX module.
    """
    nnx = sys.modules.get("flax.nnx")
    if nnx is not None and isinstance(fn, nnx.Module):
        return _trace_nnx(nnx, fn, inputs)
    if not callable(fn):
        raise TypeError(f"fn must be a callable or an NNX module, not {type(fn).__name__}")
    closed, out_tree = _jaxpr(fn, *inputs)
    return Model(_graph(closed, 0, out_tree), _compat.open_jaxpr(closed)[1])


def _jaxpr(fn: Callable, *args: Any) -> tuple[Any, Any]:
    # A new function each time: jax would reuse the trace of an old one, with the old weights.
    closed, shapes = jax.make_jaxpr(lambda *a: fn(*a), return_shape=True)(*args)
    return closed, jax.tree.structure(shapes)


def _graph(closed: Any, n_weights: int, out_tree: Any) -> Graph:
    text, keep = _compat.fingerprint(closed)
    consts = _compat.open_jaxpr(closed)[1]
    numbers = known_numbers(consts)
    key = (text, n_weights, out_tree, tuple(numbers.items()))
    if key in _graphs:
        _graphs.move_to_end(key)
        return _graphs[key]
    graph = Graph(flatten(closed), len(consts) + n_weights, out_tree, keep, numbers)
    _graphs[key] = graph
    if len(_graphs) > _CACHE_SIZE:
        _graphs.popitem(last=False)
    return graph


_nnx_graphs: collections.OrderedDict = collections.OrderedDict()


def _trace_nnx(nnx: Any, module: Any, inputs: tuple) -> Model:
    graphdef, state = nnx.split(module)
    leaves, tree = jax.tree.flatten(state)
    args, in_tree = jax.tree.flatten(inputs)
    key = (
        graphdef,
        tree,
        in_tree,
        tuple(jax.typeof(v) for v in [*leaves, *args]),
        jax.config.jax_enable_x64,
    )
    if key in _nnx_graphs:  # the program depends on nothing else: spare the tracing
        _nnx_graphs.move_to_end(key)
        return Model(_nnx_graphs[key], leaves)

    def apply(leaves: list, *inputs: Any) -> Any:
        copy = nnx.merge(graphdef, jax.tree.unflatten(tree, leaves))
        _enter_scopes(nnx, copy)
        return copy(*inputs)

    closed, out_tree = _jaxpr(apply, leaves, *inputs)
    consts = _compat.open_jaxpr(closed)[1]
    graph = _graph(closed, len(leaves), out_tree)
    if not consts:
        _nnx_graphs[key] = graph
        if len(_nnx_graphs) > _CACHE_SIZE:
            _nnx_graphs.popitem(last=False)
    return Model(graph, [*consts, *leaves])


def _enter_scopes(nnx: Any, module: Any) -> None:
    """Make every submodule of our private copy enter a named scope of its path when called."""
    for path, part in nnx.iter_modules(module):
        if path and callable(part):
            part.__class__ = _scoped(type(part), ".".join(map(str, path)))


@functools.lru_cache(maxsize=4096)
def _scoped(cls: type, path: str) -> type:
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        # An inner module's path begins with the outer one's: enter only what is new.
        with _Path(path) as scope, jax.named_scope(scope):
            return cls.__call__(self, *args, **kwargs)

    return type(cls.__name__, (cls,), {"__call__": __call__, "__module__": cls.__module__})


class _Path:
    stack: list[str] = []

    def __init__(self, path: str):
        self.path = path

    def __enter__(self) -> str:
        outer = self.stack[-1] if self.stack else ""
        self.stack.append(self.path)
        return self.path.removeprefix(outer + ".") if outer else self.path

    def __exit__(self, *_: object) -> None:
        self.stack.pop()
