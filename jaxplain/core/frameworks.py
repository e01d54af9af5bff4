"""What frameworks need for their networks to be traced as pure functions.

None of them is imported here: a network of one can only be there once the user has imported it.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import jax

from jaxplain.core import _compat
from jaxplain.core.errors import UnsupportedOperationError


def pure(fn: Any) -> tuple[Callable, list]:
    """``call`` and ``weights`` such that ``call(weights, *inputs)`` is ``fn(*inputs)``.

    Weights that ``fn`` closes over need not be among them.
    """
    nnx = sys.modules.get("flax.nnx")
    if nnx is not None:
        modules, rebuild = _nnx_modules(nnx, fn)
        if modules:
            return _pure_nnx(nnx, modules, rebuild)
    keras = sys.modules.get("keras")
    if keras is not None and isinstance(fn, getattr(keras, "Layer", ())):
        return _pure_keras(keras, fn)
    if not callable(fn):
        raise TypeError(f"fn must be a callable or a module, not {type(fn).__name__}")
    return (lambda weights, *inputs: fn(*inputs)), []


@contextlib.contextmanager
def stateless() -> Iterator[None]:
    """Within it, no call of a network changes the network, and calls of modules are told apart."""
    token = _calls.set({})
    try:
        with contextlib.ExitStack() as stack:
            keras: Any = sys.modules.get("keras")
            if hasattr(keras, "StatelessScope") and keras.backend.backend() == "jax":
                stack.enter_context(keras.StatelessScope())
            for name in ("flax.linen", "haiku"):
                framework: Any = sys.modules.get(name)
                if hasattr(framework, "intercept_methods"):
                    stack.enter_context(framework.intercept_methods(_marked))
            yield
    except Exception as error:
        flax: Any = sys.modules.get("flax.errors")
        if flax is None or not isinstance(error, flax.TraceContextError):
            raise
        raise UnsupportedOperationError(
            "the function changes an NNX module that it closes over, or hands it to a function "
            "under nnx.jit, which Flax does not allow within jax.jit or jax.grad either: pass the "
            "module itself, a method of it, or functools.partial(function, module), which are "
            f"copied ({error})"
        ) from error
    finally:
        _calls.reset(token)


# -- calls of modules ---------------------------------------------------------------------------

#: In the trace at hand: (jaxpr that is being made, module path) -> number of calls so far.
_calls: contextvars.ContextVar[dict] = contextvars.ContextVar("calls")


def _call_mark(path: Any) -> Any:
    """Marks the next call of the module at ``path``."""
    calls = _calls.get(None)
    if calls is None:
        return contextlib.nullcontext()
    trace = _compat.jaxpr_trace()
    _, counts = calls.setdefault(id(trace), (trace, {}))  # the trace is kept, and so its address
    counts[path] = counts.get(path, -1) + 1
    return _compat.mark("call", counts[path])


def _marked(next_fun: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
    """An interceptor of Linen's and Haiku's methods, which both run in a scope of their path."""
    module = context.module
    if getattr(module, "scope", module) is None:
        path = ""  # Linen's without a scope, as of a class whose own __init__ sets no fields
    else:
        path = getattr(module, "path", None) or getattr(module, "module_name", "")
    with _call_mark((path, context.method_name)):
        return next_fun(*args, **kwargs)


# -- NNX ------------------------------------------------------------------------------------------


def _nnx_modules(nnx: Any, fn: Any) -> tuple[list, Callable]:
    """The modules that a callable is, is a method of, or holds as arguments of a partial.

    Also how the same callable is made of other modules in their place.
    """
    if isinstance(fn, nnx.Module):
        return [fn], lambda modules: modules[0]
    if isinstance(fn, types.MethodType) and isinstance(fn.__self__, nnx.Module):
        return [fn.__self__], lambda modules: types.MethodType(fn.__func__, modules[0])
    if not isinstance(fn, functools.partial):
        return [], lambda modules: fn
    inner, rebuild = _nnx_modules(nnx, fn.func)
    parts = [*fn.args, *fn.keywords.values()]
    places = [i for i, part in enumerate(parts) if isinstance(part, nnx.Module)]

    def again(modules: list) -> Callable:
        new = list(parts)
        for i, module in zip(places, modules[len(inner) :], strict=True):
            new[i] = module
        n = len(fn.args)
        keywords = dict(zip(fn.keywords, new[n:], strict=True))
        return functools.partial(rebuild(modules[: len(inner)]), *new[:n], **keywords)

    return [*inner, *(parts[i] for i in places)], again


def _pure_nnx(nnx: Any, modules: list, rebuild: Callable) -> tuple[Callable, list]:
    parts = [nnx.split(module) for module in modules]
    leaves, tree = jax.tree.flatten([state for _, state in parts])

    def call(leaves: list, *inputs: Any) -> Any:
        copies = []
        for (graphdef, _), state in zip(parts, jax.tree.unflatten(tree, leaves), strict=True):
            copies.append(nnx.merge(graphdef, state))
            _enter_scopes(nnx, copies[-1])
        return rebuild(copies)(*inputs)

    return call, leaves


def _enter_scopes(nnx: Any, module: Any) -> None:
    """Make every submodule of our private copy enter a named scope of its path when called."""
    for path, part in nnx.iter_modules(module):
        if path and callable(part):
            part.__class__ = _scoped(type(part), ".".join(map(str, path)))


#: The path of the NNX module that is being called.
_path: contextvars.ContextVar[str] = contextvars.ContextVar("path", default="")


@functools.lru_cache(maxsize=4096)
def _scoped(cls: type, path: str) -> type:
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        outer = _path.get()
        # An inner module's path begins with the outer one's: enter only what is new.
        scope = path.removeprefix(outer + ".") if outer else path
        token = _path.set(path)
        try:
            with jax.named_scope(scope), _call_mark(path):
                return cls.__call__(self, *args, **kwargs)
        finally:
            _path.reset(token)

    return type(cls.__name__, (cls,), {"__call__": __call__, "__module__": cls.__module__})


# -- Keras ----------------------------------------------------------------------------------------


def _pure_keras(keras: Any, layer: Any) -> tuple[Callable, list]:
    if keras.backend.backend() != "jax":
        raise TypeError(
            f"the network is one of Keras on {keras.backend.backend()}, and jaxplain needs Keras "
            "on JAX: set the environment variable KERAS_BACKEND to jax before keras is imported"
        )
    if not layer.built:
        raise ValueError(
            f"the Keras network {layer.name!r} has no weights yet: call it once on an image"
        )

    def call(weights: list, *inputs: Any) -> Any:
        return layer(*inputs, training=False)

    return call, []
