"""Marks in a traced network where its framework calls activations, softmax and norms."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

PASSED = ("relu", "relu6", "gelu", "silu", "elu")
GATES = ("softmax", "sigmoid", "hard_sigmoid")
#: The norms of frameworks: module, class, method.
_NORMS = (
    ("flax.linen", "LayerNorm", "__call__"),
    ("keras.layers", "LayerNormalization", "call"),
    ("equinox.nn", "LayerNorm", "__call__"),
)


def traced(fn: Callable[..., jax.Array], *inputs: jax.Array) -> Any:
    """The closed jaxpr of a function, with marks ``"begin KIND NUMBER"`` and ``"end ..."``."""
    with _marked():
        # A function of its own, for what was traced before has no marks.
        return jax.make_jaxpr(lambda *inputs: fn(*inputs))(*inputs)


def walk(
    jaxpr: Any,
    consts: Sequence[Any],
    inputs: Sequence[Any],
    step: Callable[[Any, list], list],
    known: Callable[[jax.Array], Any],
) -> list:
    """What a jaxpr gives, by ``step(equation, inputs)``, that of what it calls included.

    ``known`` makes the values that steps take of constants.
    """
    env = dict(zip(jaxpr.invars, inputs, strict=True))
    env.update(zip(jaxpr.constvars, map(known, consts), strict=True))

    def read(v: Any) -> Any:
        return known(jnp.asarray(v.val)) if hasattr(v, "val") else env[v]

    for eqn in jaxpr.eqns:
        ins = [read(v) for v in eqn.invars]
        inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
        if inner is None:
            outs = step(eqn, ins)
        else:
            own = getattr(inner, "consts", ())
            outs = walk(getattr(inner, "jaxpr", inner), own, ins, step, known)
        env.update(zip(eqn.outvars, outs, strict=True))
    return [read(v) for v in jaxpr.outvars]


def bound(eqn: Any, arrays: Sequence[jax.Array]) -> list[jax.Array]:
    """The outputs of an equation."""
    out = eqn.primitive.bind(*arrays, **eqn.params)
    return list(out) if eqn.primitive.multiple_results else [out]


def mark_of(eqn: Any) -> tuple[str, str, str] | None:
    """Of a mark: ``"begin"`` or ``"end"``, its kind, and its number."""
    if eqn.primitive.name != "name":
        return None
    words = str(eqn.params["name"]).split()
    return (words[0], words[1], words[2]) if len(words) == 3 else None


@contextlib.contextmanager
def _marked() -> Iterator[None]:
    count = itertools.count()

    def around(kind: str, call: Callable, at: int) -> Callable:
        def called(*args: Any, **options: Any) -> Any:
            number = f"{kind} {next(count)}"
            args = list(args)
            args[at] = checkpoint_name(args[at], f"begin {number}")
            return checkpoint_name(call(*args, **options), f"end {number}")

        return called

    with contextlib.ExitStack() as stack:
        calls = {name: around(name, getattr(jax.nn, name), 0) for name in (*PASSED, *GATES)}
        for module in filter(None, (jax.nn, sys.modules.get("flax.linen"))):
            own = {name: call for name, call in calls.items() if hasattr(module, name)}
            stack.enter_context(mock.patch.multiple(module, **own))
        # `jax.nn.dot_product_attention` calls it by its own name.
        own = inspect.unwrap(jax.nn.dot_product_attention).__globals__
        new = around("softmax", own["softmax"], 0)
        stack.enter_context(mock.patch.dict(own, softmax=new))
        for module, kind, method in _NORMS:
            if module in sys.modules:
                own = getattr(sys.modules[module], kind)
                new = around("norm", getattr(own, method), 1)
                stack.enter_context(mock.patch.object(own, method, new))
        yield
