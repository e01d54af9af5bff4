"""Turn a traced function into one flat list of equations.

Calls (``jit``, ``checkpoint``) are opened and branches with a known predicate taken, so that every
operation of the network is seen. Calls with a derivative of their own (``custom_jvp``,
``custom_vjp``) stay whole: opening them would change the gradient (a ReLU's at 0 from 0 to 0.5).
Scans stay whole, too; :func:`unroll` opens them where a rule must look inside.

Constants of the program and of its inner calls become arguments. The equations of a ``checkpoint``
are marked with the number of their region, and those of a call that occurs again with the number
of the occurrence.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax

from jaxplain.core import _compat
from jaxplain.core.derivatives import is_ours
from jaxplain.core.effects import Program, assertion, wraps_assertion
from jaxplain.core.errors import UnsupportedOperationError
from jaxplain.core.fingerprint import library_rule

#: Longer scans stay whole: unrolling them would make the program too large to compile.
LONGEST_UNROLLED_SCAN = 256


def flatten(closed: Any, constants: Sequence[Any], rules: dict[int, Any]) -> Program:
    """The flat program of a closed jaxpr.

    ``constants`` are those that become arguments, and ``rules`` the traced derivatives of custom
    calls: what :func:`jaxplain.core.fingerprint.fingerprint` has found.
    """
    jaxpr, consts = _compat.open_jaxpr(closed)
    addresses = list(map(id, constants))
    flattener = _Flattener({}, rules)

    def program(*values: Any) -> list:
        flattener.held = dict(zip(addresses, values, strict=False))
        return flattener.evaluate(jaxpr, consts, values[len(addresses) :])

    shapes = [_compat.shape_of(jax.typeof(c)) for c in constants]
    return _program(
        program, [*shapes, *(_compat.shape_of(v.aval) for v in jaxpr.invars)], flattener
    )


def unroll(whole: Program) -> tuple[Program, dict[Any, Any]]:
    """The program with its scans opened, and which of its variables is which of ``whole``."""
    flattener = _Flattener({}, {}, whole.regions, unroll=True)
    variables = [v for eqn in whole.eqns for v in eqn.outvars if type(v) is _compat.Var]

    def program(*values: Any) -> list:
        env = dict(zip(whole.invars, values, strict=True))
        flattener.run([*whole.eqns, *whole.effects], env)
        return [_read(env, v) for v in [*whole.outvars, *variables]]

    flat = _program(program, [_compat.shape_of(v.aval) for v in whole.invars], flattener)
    count = len(whole.outvars)
    own = dict(zip([*whole.invars, *variables], [*flat.invars, *flat.outvars[count:]], strict=True))
    return flat._replace(outvars=flat.outvars[:count]), own


def is_scan(eqn: Any) -> bool:
    """Whether :func:`unroll` opens the equation."""
    return eqn.primitive.name == "scan" and 0 < eqn.params["length"] <= LONGEST_UNROLLED_SCAN


def _program(function: Callable, shapes: list, flattener: _Flattener) -> Program:
    flat, consts = _compat.open_jaxpr(jax.make_jaxpr(function)(*shapes))
    if consts:
        raise RuntimeError("flattening made constants of its own; please report this as a bug")
    eqns, effects = _apart(_share_rules(flat.eqns), flat.outvars)
    return Program(flat.invars, flat.outvars, eqns, effects, flattener.regions)


def _share_rules(equations: list) -> list:
    """Equal derivatives of JAX's own (those of all ReLUs of one shape) are traced only once."""
    shared: dict = {}
    found = []
    for eqn in equations:
        key = eqn.primitive.name == "custom_jvp_call" and library_rule(eqn)
        if key:
            key = key, tuple(v.aval for v in eqn.invars)
            rule = shared.setdefault(key, eqn.params["jvp_jaxpr_fun"])
            eqn = eqn.replace(params={**eqn.params, "jvp_jaxpr_fun": rule})
        found.append(eqn)
    return found


def _apart(equations: list, outputs: list) -> tuple[list, list]:
    """The equations that the outputs need, and those that are there for their effects."""
    needed = {v for v in outputs if not isinstance(v, _compat.Literal)}
    kept, effects = [], []
    for eqn in reversed(equations):
        _compat.refuse_references(eqn)
        if any(v in needed for v in eqn.outvars):
            kept.append(eqn)
            needed.update(v for v in eqn.invars if not isinstance(v, _compat.Literal))
    main = set(map(id, kept))
    wanted: set = set()
    for eqn in reversed(equations):
        if id(eqn) not in main and (eqn.effects or any(v in wanted for v in eqn.outvars)):
            effects.append(eqn)
            wanted.update(v for v in eqn.invars if not isinstance(v, _compat.Literal))
    return kept[::-1], effects[::-1]


def _read(env: dict, atom: Any) -> Any:
    return atom.val if isinstance(atom, _compat.Literal) else env[atom]


class _Flattener:
    """Evaluates jaxprs with tracers, and leaves out of the new trace what is to be opened.

    ``held`` has the tracers that stand for constants, by the address of the constant; ``rules`` the
    traced derivatives of custom calls, by the address of the equation.
    """

    def __init__(
        self, held: dict[int, Any], rules: dict[int, Any], regions: Sequence = (), unroll=False
    ):
        self.held, self.rules, self.unroll = held, rules, unroll
        self.regions = list(regions)
        self._opened: dict[int, int] = {}
        self._steps = itertools.count()
        self._found: dict[int, frozenset] = {}

    def evaluate(
        self, jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], outer: Any = None, top=True
    ) -> list:
        """The outputs; ``top`` says that the equations become equations of the flat program."""
        # In jax 0.12 an open jaxpr has its constants among the inputs: they come first in any case.
        values = [*(self.held.get(id(c), c) for c in consts), *args]
        env: dict = dict(zip([*jaxpr.constvars, *jaxpr.invars], values, strict=True))
        self.run(jaxpr.eqns, env, outer, top)
        return [_read(env, v) for v in jaxpr.outvars]

    def run(self, equations: list, env: dict, outer: Any = None, top: bool = True) -> None:
        for eqn in equations:
            traceback = _compat.users_traceback(eqn, outer)
            values = [_read(env, v) for v in eqn.invars]
            with _compat.equation_context(eqn, traceback, marks=True):
                outs = self._open(eqn, values, traceback) if top else self._keep(eqn, values)
            env.update(zip(eqn.outvars, outs, strict=True))

    # -- equations of the flat program -------------------------------------------------------

    def _open(self, eqn: Any, values: list, traceback: Any) -> list:
        name = eqn.primitive.name
        if name in _compat.CALLS or wraps_assertion(eqn) or is_ours(eqn):
            jaxpr, consts = _compat.body(eqn)
            with self._mark(eqn, jaxpr):
                return self.evaluate(jaxpr, consts, values, traceback)
        if self.unroll and is_scan(eqn):
            return self._unroll(eqn, values)
        if name == "cond" and isinstance(eqn.invars[0], _compat.Literal):
            branches = eqn.params["branches"]
            chosen = min(max(int(values[0]), 0), len(branches) - 1)
            jaxpr, consts = _compat.open_jaxpr(branches[chosen])
            return self.evaluate(jaxpr, consts, values[1:], traceback)
        passed = assertion(eqn)
        if passed is not None:
            return self._assert(eqn, values, passed)
        return self._whole(eqn, values)

    def _mark(self, eqn: Any, jaxpr: Any) -> Any:
        if eqn.primitive.name in _compat.REMATS:
            self.regions.append((eqn.params["policy"], eqn.params["prevent_cse"]))
            return _compat.mark("checkpoint", len(self.regions) - 1)
        number = self._opened[id(jaxpr)] = self._opened.get(id(jaxpr), -1) + 1
        return _compat.mark("again", number)

    def _unroll(self, eqn: Any, values: list) -> list:
        inner, closed_consts = _compat.body(eqn)
        consts, carry, xs = _parts(eqn, values)
        length, n_carry = eqn.params["length"], len(carry)
        steps = range(length)[::-1] if eqn.params["reverse"] else range(length)
        stacked: list = [None] * length
        for i in steps:
            row = [lax.index_in_dim(x, i, 0, keepdims=False) for x in xs]
            with _compat.mark("again", f"step {next(self._steps)}"):
                outs = self.evaluate(inner, closed_consts, [*consts, *carry, *row])
            carry, stacked[i] = outs[:n_carry], outs[n_carry:]
        ys = [
            lax.concatenate([lax.expand_dims(y, (0,)) for y in column], 0)
            for column in zip(*stacked, strict=True)
        ]
        return [*carry, *ys]

    def _assert(self, eqn: Any, values: list, passed: list[int]) -> list:
        """The check becomes an effect, and what it passes on goes past it."""

        def branch(closed: Any) -> Callable:
            jaxpr, consts = _compat.open_jaxpr(closed)

            def call(*operands: Any) -> tuple:
                env = dict(zip(jaxpr.constvars, consts, strict=True))
                env.update(zip(jaxpr.invars, operands, strict=True))
                for inner in jaxpr.eqns:
                    outs = _compat.as_io_callback(inner, *(_read(env, v) for v in inner.invars))
                    env.update(zip(inner.outvars, outs, strict=True))
                return ()

            return call

        index, *operands = map(lax.stop_gradient, values)
        lax.switch(index, [branch(b) for b in eqn.params["branches"]], *operands)
        return [values[1 + i] for i in passed]

    # -- equations that stay whole ------------------------------------------------------------

    def _keep(self, eqn: Any, values: list) -> list:
        """An equation within a body that stays whole."""
        name = eqn.primitive.name
        if name in _compat.CALLBACKS:
            return _compat.bind(eqn, *(values if eqn.outvars else map(lax.stop_gradient, values)))
        if name not in _compat.CALLS or not self._changes(eqn):
            return self._whole(eqn, values)
        jaxpr, consts = _compat.body(eqn)

        def call(*args: Any) -> list:
            return self.evaluate(jaxpr, consts, args, top=False)

        if name in _compat.REMATS:
            call = jax.checkpoint(
                call, policy=eqn.params["policy"], prevent_cse=eqn.params["prevent_cse"]
            )
        return call(*values)

    def _whole(self, eqn: Any, values: list) -> list:
        again = {
            "scan": self._scan,
            "while": self._while,
            "cond": self._cond,
            "custom_jvp_call": self._custom_jvp,
            "custom_vjp_call": self._custom_vjp,
        }.get(eqn.primitive.name)
        if again is None or not self._changes(eqn):
            return _compat.rebind(eqn, *values)
        return again(eqn, values)

    def _scan(self, eqn: Any, values: list) -> list:
        inner, closed_consts = _compat.body(eqn)
        consts, start, rows = _parts(eqn, values)

        def step(carry: list, row: list) -> tuple[list, list]:
            outs = self.evaluate(inner, closed_consts, [*consts, *carry, *row], top=False)
            return outs[: len(carry)], outs[len(carry) :]

        options = {key: eqn.params[key] for key in ("length", "reverse", "unroll")}
        carry, stacked = lax.scan(step, start, rows, **options)
        return [*carry, *stacked]

    def _while(self, eqn: Any, values: list) -> list:
        n, m = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        bodies = [_compat.open_jaxpr(eqn.params[key]) for key in ("cond_jaxpr", "body_jaxpr")]
        held = values[:n], values[n : n + m]
        goes_on, body = (
            lambda carry, b=b, h=h: self.evaluate(b[0], b[1], [*h, *carry], top=False)
            for b, h in zip(bodies, held, strict=True)
        )
        return lax.while_loop(lambda carry: goes_on(carry)[0], body, values[n + m :])

    def _cond(self, eqn: Any, values: list) -> list:
        def branch(closed: Any) -> Callable:
            jaxpr, consts = _compat.open_jaxpr(closed)
            return lambda *args: self.evaluate(jaxpr, consts, args, top=False)

        return lax.switch(values[0], list(map(branch, eqn.params["branches"])), *values[1:])

    def _custom_jvp(self, eqn: Any, values: list) -> list:
        rule, rules, n = self.rules[id(eqn)], self.rules, eqn.params["num_consts"]
        jaxpr, consts = _compat.body(eqn)
        addresses = sorted(self._constants(eqn))

        # The derivative is evaluated long after this trace: it gets all that it needs as arguments.
        @jax.custom_jvp
        def call(held: list, args: list) -> list:
            inner = _Flattener(dict(zip(addresses, held, strict=True)), rules)
            return inner.evaluate(jaxpr, consts, args, top=False)

        @call.defjvp
        def derivative(primals: Any, tangents: Any) -> tuple[list, list]:
            if rule is None:
                raise _no_third_derivative(eqn)
            inner = _Flattener(dict(zip(addresses, primals[0], strict=True)), rules)
            dots = [t for t, zero in zip(tangents[1][n:], rule.zeros, strict=True) if not zero]
            outs = inner.evaluate(rule.jaxpr, rule.consts, [*primals[1][n:], *dots], top=False)
            results, found = outs[: len(rule.out_zeros)], iter(outs[len(rule.out_zeros) :])
            return results, [
                _compat.zero_tangent(y) if zero else next(found)
                for y, zero in zip(results, rule.out_zeros, strict=True)
            ]

        return call([self.held[a] for a in addresses], values)

    def _custom_vjp(self, eqn: Any, values: list) -> list:
        rule, rules, n = self.rules[id(eqn)], self.rules, eqn.params["num_consts"]
        jaxpr, consts = _compat.body(eqn)
        addresses = sorted(self._constants(eqn))

        @jax.custom_vjp
        def call(held: list, args: list) -> list:
            inner = _Flattener(dict(zip(addresses, held, strict=True)), rules)
            return inner.evaluate(jaxpr, consts, args, top=False)

        def forward(held: list, args: list) -> tuple[list, tuple]:
            if rule is None:
                raise _no_third_derivative(eqn)
            if any(v.perturbed for v in [*held, *args[:n]]):
                raise UnsupportedOperationError(
                    f"the function with a custom_vjp at {_compat.source_line(eqn)} closes over an "
                    "array and has no derivative for it; pass the array to it as an argument"
                )
            held, args = [v.value for v in held], [v.value for v in args[n:]]
            inner = _Flattener(dict(zip(addresses, held, strict=True)), rules)
            own = iter(inner.evaluate(rule.forward, rule.consts, args, top=False))
            residuals = [next(own) if i is None else args[i] for i in rule.forwarded]
            return list(own), (held, residuals)

        def backward(saved: tuple, cotangents: list) -> tuple[None, list]:
            held, residuals = saved
            inner = _Flattener(dict(zip(addresses, held, strict=True)), rules)
            cotangents = list(map(_compat.instantiate, cotangents))
            outs = inner.evaluate(
                *_compat.open_jaxpr(rule.backward), [*residuals, *cotangents], top=False
            )
            found = iter(outs)
            return None, [*[None] * n, *(next(found) if p else None for p in rule.present)]

        call.defvjp(forward, backward, symbolic_zeros=True)
        return call([self.held[a] for a in addresses], values)

    # -- which of them must be written anew -----------------------------------------------------

    def _changes(self, eqn: Any) -> bool:
        return _compat.opens(eqn) and bool(self._constants(eqn) or _calls_host(eqn))

    def _constants(self, eqn: Any) -> frozenset:
        """The addresses of the constants within an equation's bodies that become arguments."""
        if not _compat.opens(eqn):
            return frozenset()
        if eqn.primitive.name in _compat.CUSTOM_CALLS and id(eqn) not in self.rules:
            return frozenset()
        return frozenset().union(*(self._within(*b) for b in _bodies(eqn, self.rules)))

    def _within(self, jaxpr: Any, consts: list) -> frozenset:
        if id(jaxpr) not in self._found:
            inner = frozenset().union(*map(self._constants, jaxpr.eqns))
            self._found[id(jaxpr)] = inner
        return self._found[id(jaxpr)] | {id(c) for c in consts if id(c) in self.held}


def _no_third_derivative(eqn: Any) -> UnsupportedOperationError:
    return UnsupportedOperationError(
        f"the function with a derivative of its own at {_compat.source_line(eqn)} closes over an "
        "array, and a third derivative of it is asked for; pass the array to it as an argument"
    )


def _bodies(eqn: Any, rules: dict[int, Any]) -> list[tuple[Any, list]]:
    """The bodies of an equation, those of its derivative included, with their constants."""
    rule = rules.get(id(eqn))
    return _compat.inner_programs(eqn) + (rule.programs if rule else [])


def _calls_host(eqn: Any) -> bool:
    """Whether a loop or branch calls the host, whose calls have no derivative."""
    if eqn.primitive.name in _compat.CUSTOM_CALLS:  # has a derivative of its own
        return False
    return any(
        inner.primitive.name in _compat.CALLBACKS or _calls_host(inner)
        for jaxpr in _compat.inner_jaxprs(eqn)
        for inner in jaxpr.eqns
    )


def _parts(eqn: Any, values: list) -> tuple[list, list, list]:
    """The constants, the carried values and the stacked ones of a scan."""
    n, m = _compat.scan_arity(eqn)
    return values[:n], values[n : n + m], values[n + m :]
