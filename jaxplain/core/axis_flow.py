"""How the meaning of axes goes through a program; see :mod:`jaxplain.core.axes`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxplain.core import _compat
from jaxplain.core.axes import Axes, image_axes, single, unknown
from jaxplain.core.axis_rules import RULES, Cut, alike
from jaxplain.core.primitives import of_class


class AxisFlow:
    """The axes of every value that depends on the network's input.

    Args:
        equations: of the flat program, in order, the ones that do not depend on the input too.
        constants: the program's weights.
        inputs: the images.
        given: values of which somebody knows better.

    Attributes:
        cuts: the values that are a part of another along one axis.
        parts: value -> the one that it is a part of, turned or not.
    """

    def __init__(
        self,
        equations: Sequence[Any],
        constants: Sequence[Any],
        inputs: Sequence[Any],
        given: Mapping[Any, Axes] | None = None,
    ):
        self.axes: dict[Any, Axes] = {v: image_axes(v.aval.shape) for v in inputs}
        self._given = given or {}
        self._learned: set = set(constants)
        self.cuts: dict[Any, Cut] = {}
        self.parts: dict[Any, Any] = {}
        self._run(equations)

    def _run(self, equations: Sequence[Any]) -> None:
        for eqn in equations:
            known = [self._of(v) for v in eqn.invars]
            if not any(a is not None for a in known):
                if any(v in self._learned for v in eqn.invars if not _literal(v)):
                    self._learned.update(eqn.outvars)
                continue
            for v, axes in zip(eqn.outvars, self._outputs(eqn, known), strict=True):
                shape = getattr(v.aval, "shape", ())
                fits = len(axes) == len(shape) and all(
                    a.size == n for a, n in zip(axes, shape, strict=True)
                )
                self.axes[v] = axes if fits else unknown(shape)
                self.axes[v] = self._given.get(v, self.axes[v])

    def _of(self, atom: Any) -> Axes | None:
        return None if _literal(atom) else self.axes.get(atom)

    def synthetic(self, atom: Any) -> bool:
        """Whether a constant is computed from nothing that the network was given: interpolation."""
        return not _literal(atom) and atom not in self.axes and atom not in self._learned

    def _outputs(self, eqn: Any, known: list[Axes | None]) -> list[Axes]:
        name = eqn.primitive.name
        rule = RULES.get(name)
        if rule is not None:
            return rule(self, eqn, known)
        if name in _compat.CALLS | _compat.CUSTOM_CALLS:
            return self._inside(*_compat.body(eqn), known)
        if name in ("scan", "while", "cond"):
            return _LOOPS[name](self, eqn, known)
        first = next(a for a in known if a is not None)
        shapes = [getattr(v.aval, "shape", ()) for v in eqn.outvars]
        if of_class(name, "identity", "elementwise", "move", "discrete") or name.startswith("cum"):
            return [alike(eqn, known) for _ in eqn.outvars]
        if name.startswith(("reduce_", "arg")) and "axes" in eqn.params:
            gone = set(eqn.params["axes"])
            kept = tuple(a for i, a in enumerate(first) if i not in gone)
            return [kept for _ in eqn.outvars]
        return [unknown(shape) for shape in shapes]

    # -- bodies --------------------------------------------------------------------------------

    def _inside(self, jaxpr: Any, consts: list, known: Sequence[Axes | None]) -> list[Axes]:
        """The axes of a body's outputs from those of its inputs."""
        self._learned.update(jaxpr.constvars)
        for v, axes in zip(jaxpr.invars, known, strict=True):
            self.axes.pop(v, None)
            if axes is not None:
                self.axes[v] = axes
            else:
                self._learned.add(v)
        self._run(jaxpr.eqns)
        return [
            axes if (axes := self._of(v)) is not None else unknown(getattr(v.aval, "shape", ()))
            for v in jaxpr.outvars
        ]

    def _scan(self, eqn: Any, known: list[Axes | None]) -> list[Axes]:
        jaxpr, consts = _compat.body(eqn)
        n_consts, n_carry = _compat.scan_arity(eqn)
        rows = [None if a is None else a[1:] for a in known[n_consts + n_carry :]]
        inputs = [*known[: n_consts + n_carry], *rows]
        outs = self._inside(jaxpr, consts, inputs)
        for i in range(n_carry):  # once more, with what the first step made of the carry
            inputs[n_consts + i] = outs[i]
        outs = self._inside(jaxpr, consts, inputs)
        steps = single("channel", eqn.params["length"])
        return [*outs[:n_carry], *((steps, *axes) for axes in outs[n_carry:])]

    def _while(self, eqn: Any, known: list[Axes | None]) -> list[Axes]:
        jaxpr, consts = _compat.open_jaxpr(eqn.params["body_jaxpr"])
        skip, n = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        outs = self._inside(jaxpr, consts, known[skip:])
        return self._inside(jaxpr, consts, [*known[skip : skip + n], *outs])

    def _cond(self, eqn: Any, known: list[Axes | None]) -> list[Axes]:
        jaxpr, consts = _compat.open_jaxpr(eqn.params["branches"][0])
        return self._inside(jaxpr, consts, known[1:])


def _literal(atom: Any) -> bool:
    return isinstance(atom, _compat.Literal)


_LOOPS = {"scan": AxisFlow._scan, "while": AxisFlow._while, "cond": AxisFlow._cond}
