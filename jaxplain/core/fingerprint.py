"""What a traced program is, as a key: equal keys mean equal programs, whatever their weights.

The key is a nested tuple that compares by content. Arrays that the program closes over, those of
inner calls included, count by shape and dtype only: they become run-time arguments. What cannot be
compared by content makes a program equal to no other: it may compile twice, but is never stale.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Hashable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxplain.core import _compat

_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis))


class Fingerprint(NamedTuple):
    """What :func:`fingerprint` finds: the key; the constants that become arguments, each once; and
    the traced derivatives of custom calls, by the address of the equation."""

    key: Hashable
    constants: list
    rules: dict[int, Any]


def fingerprint(closed: Any) -> Fingerprint:
    """Describe a closed jaxpr."""
    description = _Description()
    key = description.program(*_compat.open_jaxpr(closed), hoisted=True)
    values = [value for _, value in description.constants.values()]
    return Fingerprint(key, values, description.rules)


class _Description:
    def __init__(self) -> None:
        #: The address of a constant -> its number, and the constant (whose address it stays).
        self.constants: dict[int, tuple[int, Any]] = {}
        self.rules: dict[int, Any] = {}
        self._seen: dict[tuple[int, bool, int], Hashable] = {}
        self._depth = 0  # of rules within rules

    def program(self, jaxpr: Any, consts: list, hoisted: bool) -> Hashable:
        """``hoisted`` says whether constants become arguments, or else stay in the program."""
        key = (id(jaxpr), hoisted, self._depth)
        if consts or key not in self._seen:
            self._seen[key] = _Hashed(self._program(jaxpr, consts, hoisted))
        return self._seen[key]

    def _program(self, jaxpr: Any, consts: list, hoisted: bool) -> Hashable:
        numbers: dict = {}

        def atom(v: Any) -> Hashable:
            if isinstance(v, _compat.Literal):
                return ("literal", _content(v.val), v.aval)
            return numbers.setdefault(v, len(numbers))

        arguments = [*jaxpr.constvars, *jaxpr.invars]
        header = tuple((atom(v), v.aval) for v in arguments)
        held = tuple(self._constant(value) if hoisted else _content(value) for value in consts)
        rows = tuple(
            (
                eqn.primitive,
                tuple(map(atom, eqn.invars)),
                tuple((atom(v), v.aval) for v in eqn.outvars),
                self._parameters(eqn, hoisted),
                _compat.name_stack(eqn),
                eqn.ctx,
                _place(eqn),
            )
            for eqn in jaxpr.eqns
        )
        return header, held, rows, tuple(map(atom, jaxpr.outvars))

    def _constant(self, value: Any) -> int:
        return self.constants.setdefault(id(value), (len(self.constants), value))[0]

    def _parameters(self, eqn: Any, hoisted: bool) -> Hashable:
        hoisted = hoisted and _compat.opens(eqn)
        params, rule = dict(eqn.params), None
        if eqn.primitive.name in _compat.CUSTOM_CALLS:
            params = {k: v for k, v in params.items() if k not in (*_RULES, "out_trees")}
            rule = library_rule(eqn) or self._rule(eqn, hoisted)
            hoisted = hoisted and id(eqn) in self.rules
        return rule, tuple((k, self._value(v, hoisted)) for k, v in sorted(params.items()))

    def _rule(self, eqn: Any, hoisted: bool) -> Hashable:
        """A derivative by what it computes."""
        if self._depth == 2:
            # A derivative may call its own function: the rules of its rules are enough for
            # derivatives of maps, and the next ones are refused.
            self.rules[id(eqn)] = None
            return None
        try:
            rule = _compat.custom_rule(eqn)
        except Exception:  # the rule's own error, which is raised where the rule is needed
            return _Unique()
        self.rules[id(eqn)] = rule
        self._depth += 1
        programs = tuple(self.program(*program, hoisted) for program in rule.programs)
        self._depth -= 1
        return programs, rule.pattern

    def _value(self, value: Any, hoisted: bool) -> Hashable:
        if isinstance(value, (_compat.ClosedJaxpr, _compat.Jaxpr)):
            return self.program(*_compat.open_jaxpr(value), hoisted)
        if isinstance(value, (tuple, list)):
            return type(value), tuple(self._value(item, hoisted) for item in value)
        return _content(value)


def _place(eqn: Any) -> tuple | None:
    """The user's line, where messages and tables show it.

    That of a call is shown for those equations within it that have none of their own.
    """
    if eqn.primitive.name in _compat.CALLS:
        inner, _ = _compat.body(eqn)
        if all(_compat.users_frame(e) for e in inner.eqns):
            return None
    return _compat.users_frame(eqn)


class _Unique:
    """Equal to nothing but itself."""


class _Hashed:
    """A key whose hash is computed once: a body that is called often is part of many."""

    def __init__(self, key: Hashable):
        self.key, self.hash = key, hash(key)

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, _Hashed) and self.hash == other.hash and self.key == other.key
        )

    def __hash__(self) -> int:
        return self.hash


def _content(value: Any) -> Hashable:
    """A stand-in that is equal for equal values."""
    if isinstance(value, _PLAIN):
        return type(value), repr(value)  # 1 == 1.0 == True, 0.0 == -0.0 and nan != nan
    if isinstance(value, jax.Array) and np.ndim(value):
        return "array", _Same(value)  # arrays of JAX do not change
    if isinstance(value, (np.ndarray, np.generic, jax.Array)) or hasattr(value, "__array__"):
        array = np.asarray(value)
        return "array", str(array.dtype), array.shape, array.tobytes()
    if isinstance(value, (tuple, list)):
        return type(value), tuple(map(_content, value))
    if isinstance(value, dict):
        return dict, tuple((_content(k), _content(v)) for k, v in value.items())
    if isinstance(value, _FUNCTIONS):
        return _function(value, 0)
    if _is_jax(value) and dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = (getattr(value, field.name) for field in dataclasses.fields(value))
        return type(value), tuple(map(_content, fields))
    return value if _hashable(value) else _Unique()


def _is_jax(value: Any) -> bool:
    module = type(value).__module__
    return module.startswith(("jax.", "jaxlib.")) and not isinstance(value, jax.Array)


class _Same:
    """Compares an object by identity, and keeps it, so that its address stays its own."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


_FUNCTIONS = (types.FunctionType, types.MethodType, functools.partial)


def _function(value: Any, depth: int) -> Hashable:
    """A function that is called when the program runs: its code, and the objects that it holds.

    JAX wraps the user's callback anew at every trace, while what it wraps stays.
    """
    if depth > 12:
        return _Same(value)
    if isinstance(value, types.MethodType):
        return "method", _function(value.__func__, depth + 1), _held(value.__self__, depth + 1)
    if isinstance(value, functools.partial):
        parts = (value.func, value.args, tuple(value.keywords.items()))
        return "partial", tuple(_held(part, depth + 1, own=True) for part in parts)
    # What JAX's own wrappers hold is made anew; what the user's functions hold may change.
    own = (value.__module__ or "").startswith("jax.")
    held = [cell.cell_contents if _filled(cell) else None for cell in value.__closure__ or ()]
    held += [value.__defaults__, value.__kwdefaults__]
    parts = tuple(_held(item, depth + 1, own) for item in held)
    return "function", value.__code__, _Same(value.__globals__), parts


def _held(value: Any, depth: int, own: bool = False) -> Hashable:
    if isinstance(value, _FUNCTIONS):
        return _function(value, depth)
    if isinstance(value, _PLAIN):
        return type(value), repr(value)
    if isinstance(value, tuple):
        return type(value), tuple(_held(item, depth, own) for item in value)
    if own and isinstance(value, list):
        return list, tuple(_held(item, depth, own) for item in value)
    if own and isinstance(value, dict):
        return dict, tuple((k, _held(v, depth, own)) for k, v in value.items())
    if _is_jax(value):
        return _content(value)  # a tree's structure and the like
    return _Same(value)


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


#: The parameters of custom calls that are functions: their derivatives.
_RULES = ("jvp_jaxpr_fun", "fwd_jaxpr_thunk", "bwd")


def library_rule(eqn: Any) -> Hashable | None:
    """The derivative of a custom call by its code, if all of that is JAX's own."""
    try:
        return _code([eqn.params.get(key) for key in _RULES], 0)
    except _Foreign:
        return None


class _Foreign(Exception):
    """A derivative rule holds something that is not JAX's own."""


#: What JAX keeps beside its rules, made anew at every trace: caches, sentinels, the trace.
_KEPT = ("Store", "EqualStore", "list", "dict", "object", "DebugInfo", "DynamicJaxprTrace")


def _code(value: Any, depth: int) -> Hashable:
    """What a derivative rule consists of; an error unless all of it is JAX's own."""
    if isinstance(value, _compat.WrappedFun):
        parts: list = [value.f, *(part for f, params in value.transforms for part in (f, *params))]
        return tuple(_code(part, depth + 1) for part in parts)
    if isinstance(value, types.FunctionType):
        if depth > 12 or not (value.__module__ or "").startswith("jax."):
            raise _Foreign
        cells = [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)]
        return value.__code__, tuple(_code(item, depth + 1) for item in cells)
    if isinstance(value, functools.partial):
        parts = [value.func, *value.args, *value.keywords.values()]
        return tuple(_code(part, depth + 1) for part in parts)
    if isinstance(value, tuple) or depth == 0:
        return type(value), tuple(_code(item, depth + 1) for item in value)
    if isinstance(value, _PLAIN):
        return type(value), repr(value)
    if type(value).__name__ in _KEPT:
        return type(value).__name__
    if _is_jax(value) and _hashable(value):
        return value
    raise _Foreign


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True
