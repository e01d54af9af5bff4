"""What the axes of every value mean: batch, height, width, channel, and what is made of them.

A forward analysis over the traced program. It starts at the images ``(B, H, W, C)`` and follows
transposes, reshapes, slices, concatenations, reductions, products and convolutions. An axis is a
product of *factors*, the slowest first: tokens are ``height x width``, a window's number is
``batch x height x width`` and its tokens are the finer ``height x width``; heads are a part of the
channels. Tokens in front of the patches (a class token, registers) are known by their number.

From it :class:`Layout` reads maps ``(B, h, w, C)`` out of any value that has them, whatever its
order of axes. Where nothing can be known there is no layout, and whoever needs one must refuse.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction

import jax
import jax.numpy as jnp

SPACE = ("height", "width")
#: What an axis of a weight, or one that a broadcast made, may turn out to be: anything.
FREE = "free"
#: Parts of an axis of which no position can be told.
HIDDEN = frozenset({"tokens", "unknown"})


@dataclasses.dataclass(frozen=True)
class Factor:
    """A part of an axis.

    Attributes:
        kind: ``"batch"``, ``"height"``, ``"width"``, ``"channel"``, ``"free"`` (a broadcast),
            ``"tokens"`` (a whole axis that others in front or behind keep from being split), or
            ``"unknown"``.
        size: how many values it takes.
        step: how far one step of it goes in units of its whole dimension, for height and width
            that were split into coarse and fine.
        shift: by how many places the whole dimension was rolled, as Swin's windows are.
        mirrored: whether it runs backwards, as in a flipped image.
        axis: that of tokens.
    """

    kind: str
    size: int
    step: Fraction = Fraction(1)
    shift: int = 0
    mirrored: bool = False
    axis: Axis | None = None


@dataclasses.dataclass(frozen=True)
class Axis:
    """An axis: its factors, and how many places in front of and behind them are none of space."""

    factors: tuple[Factor, ...] = ()
    before: int = 0
    after: int = 0

    @property
    def size(self) -> int:
        return self.before + math.prod(f.size for f in self.factors) + self.after

    @property
    def kinds(self) -> frozenset[str]:
        return frozenset(f.kind for f in self.factors)

    @property
    def spatial(self) -> bool:
        """Whether it holds positions only: a patch's pixels within the channels are channels."""
        return bool(self.factors) and not self.kinds & {"channel", FREE, *HIDDEN}

    def __str__(self) -> str:
        if not self.factors:
            return "1"
        text = "".join(_LETTER[f.kind] for f in self.factors)
        return text + (f"+{self.before + self.after}" if self.before + self.after else "")


_LETTER = {
    "batch": "B",
    "height": "H",
    "width": "W",
    "channel": "C",
    "tokens": "T",
    FREE: ".",
    "unknown": "?",
}
Axes = tuple[Axis, ...]


def single(kind: str, size: int) -> Axis:
    """An axis of one kind; of size 1 it means nothing."""
    return Axis((Factor(kind, size),)) if size != 1 else Axis()


def image_axes(shape: Sequence[int]) -> Axes:
    """The axes of the network's images."""
    kinds = (
        ("batch", "height", "width", "channel") if len(shape) == 4 else ("unknown",) * len(shape)
    )
    return tuple(single(kind, n) for kind, n in zip(kinds, shape, strict=True))


def unknown(shape: Sequence[int]) -> Axes:
    return tuple(single("unknown", n) for n in shape)


# -- layouts --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Layout:
    """How maps lie in a value: :meth:`maps` gives ``(B, h, w, C)``, :meth:`edit` writes them back.

    Attributes:
        batch, height, width, channels: of the maps.
    """

    axes: Axes
    batch: int
    height: int
    width: int
    channels: int
    _order: tuple[int, ...]
    _shift: tuple[int, int]
    _mirrored: tuple[int, ...]

    @classmethod
    def of(cls, axes: Axes) -> Layout | None:
        """The layout of a value with these axes; None where it holds no maps or is unknown."""
        if any(f.kind in HIDDEN for axis in axes for f in axis.factors):
            return None
        parts = [(axis, f) for axis in axes for f in axis.factors]
        batch = [i for i, (_, f) in enumerate(parts) if f.kind == "batch"]
        space: dict[str, list[int]] = {
            kind: [i for i, (axis, f) in enumerate(parts) if axis.spatial and f.kind == kind]
            for kind in SPACE
        }
        shifts = []
        mirrored = [0] if any(parts[i][1].mirrored for i in batch) else []
        for place, kind in enumerate(SPACE, 1):
            own = sorted(space[kind], key=lambda i: -parts[i][1].step)
            if not _nested([parts[i][1] for i in own]):
                return None
            space[kind] = own
            shifts.append(parts[own[0]][1].shift if own else 0)
            mirrored += [place] if own and parts[own[0]][1].mirrored else []
        if len(batch) > 1 or not (space["height"] or space["width"]):
            return None
        chosen = [*batch, *space["height"], *space["width"]]
        rest = [i for i in range(len(parts)) if i not in chosen]
        size = lambda own: math.prod(parts[i][1].size for i in own)  # noqa: E731
        return cls(
            axes,
            size(batch),
            size(space["height"]),
            size(space["width"]),
            size(rest),
            (*chosen, *rest),
            (shifts[0], shifts[1]),
            tuple(mirrored),
        )

    @property
    def plain(self) -> bool:
        """Whether the value is ``(B, h, w, C)`` as it is."""
        shape = tuple(axis.size for axis in self.axes)
        whole = tuple(range(len(self._order)))
        return (
            shape == (self.batch, self.height, self.width, self.channels)
            and self._order == whole
            and self._shift == (0, 0)
            and not self._mirrored
        )

    @property
    def tokens(self) -> bool:
        """Whether height and width lie in one axis."""
        return any({"height", "width"} <= axis.kinds for axis in self.axes if axis.spatial)

    @property
    def prefix(self) -> int:
        return sum(axis.before + axis.after for axis in self.axes)

    def _inner(self) -> tuple[slice, ...]:
        return tuple(slice(a.before, a.size - a.after) for a in self.axes)

    def _sizes(self) -> list[int]:
        return [f.size for axis in self.axes for f in axis.factors]

    def maps(self, value: jax.Array) -> jax.Array:
        """The maps ``(B, h, w, C)`` in a value of this layout."""
        if self.plain:
            return value
        parts = value[self._inner()].reshape(self._sizes())
        parts = parts.transpose(self._order)
        maps = parts.reshape(self.batch, self.height, self.width, self.channels)
        maps = jnp.flip(maps, self._mirrored)
        return jnp.roll(maps, self._shift, (1, 2)) if any(self._shift) else maps

    def edit(self, value: jax.Array, function: Callable[[jax.Array], jax.Array]) -> jax.Array:
        """The value with ``function(maps)`` in place of its maps; what is no map stays."""
        if self.plain:
            return function(value)
        maps = function(self.maps(value))
        if any(self._shift):
            maps = jnp.roll(maps, tuple(-s for s in self._shift), (1, 2))
        maps = jnp.flip(maps, self._mirrored)
        sizes = self._sizes()
        inverse = sorted(range(len(self._order)), key=self._order.__getitem__)
        parts = maps.reshape([sizes[i] for i in self._order]).transpose(inverse)
        inner = tuple(a.size - a.before - a.after for a in self.axes)
        return value.at[self._inner()].set(parts.reshape(inner).astype(value.dtype))

    def __str__(self) -> str:
        if self.tokens:
            extra = f" + {self.prefix}" if self.prefix else ""
            return f"tokens {self.height}x{self.width}{extra}"
        letters = list(map(str, self.axes))
        if self.batch == 1 and letters[0] == "1":  # one image: nothing else leads
            letters[0] = "B"
        return " ".join(letters)


def _nested(factors: list[Factor]) -> bool:
    """Whether factors, the coarsest first, make one dimension without gaps or repetition."""
    return all(
        a.step == b.step * b.size and (a.shift, a.mirrored) == (b.shift, b.mirrored)
        for a, b in zip(factors, factors[1:], strict=False)
    )


# -- propagation ----------------------------------------------------------------------------------


def merge(found: Sequence[Axes]) -> Axes:
    """The axes of an elementwise result: what is known of one operand says what the others are.

    A position says more than a channel (a token-mixing layer's outputs are made of weights, and
    become tokens where they are added to the stream), a channel more than a broadcast.
    """
    return tuple(_merge_axis(own) for own in zip(*found, strict=True))


def _merge_axis(own: Iterable[Axis]) -> Axis:
    best = Axis()
    for axis in own:
        if _rank(axis) > _rank(best):
            best = axis
        elif (
            _rank(axis) == _rank(best) >= 4
            and axis != best
            and not (axis.kinds <= {"channel"} and best.kinds <= {"channel"})
        ):
            best = best if _coarse(axis) == _coarse(best) else single("unknown", axis.size)
    return best


def _rank(axis: Axis) -> int:
    if not axis.factors:
        return 0
    if FREE in axis.kinds:
        return 1
    if "unknown" in axis.kinds:
        return 2
    if axis.kinds == {"channel"}:
        return 3
    return 4


def _coarse(axis: Axis) -> tuple:
    parts = tuple((f.kind, f.size, f.mirrored, f.axis and _coarse(f.axis)) for f in axis.factors)
    return parts, axis.before, axis.after


def reshape(axes: Axes, new: Sequence[int]) -> Axes:
    """The axes after a reshape in row order; unknown where sizes do not divide."""
    if math.prod(new) == 0:
        return unknown(new)
    old = [axis for axis in axes if axis.factors or axis.size != 1]
    result: list[Axis] = []
    pending: list[Factor] = []
    for n in new:
        if n == 1:
            result.append(Axis())
            continue
        taken: list[Factor] = []
        left = n
        while left > 1:
            if not pending:
                if not old:
                    return _partly(axes, new, result)
                pending = _parts(old.pop(0))
            factor = pending.pop(0)
            if left % factor.size == 0:
                taken.append(factor)
                left //= factor.size
            elif factor.size % left == 0 and factor.axis is None:
                fine = factor.size // left
                taken.append(dataclasses.replace(factor, size=left, step=factor.step * fine))
                pending.insert(0, dataclasses.replace(factor, size=fine))
                left = 1
            else:
                return _partly(axes, new, result)
        result.append(_settled(_joined(taken), n))
    return tuple(result)


def _parts(axis: Axis) -> list[Factor]:
    """What an axis can be merged of and split into: tokens with others in front keep together."""
    if axis.before or axis.after:
        return [Factor("tokens", axis.size, axis=axis)]
    return list(axis.factors)


def _partly(axes: Axes, new: Sequence[int], known: list[Axis]) -> Axes:
    """What was known before sizes did not divide, and nothing of the rest."""
    return (*known, *unknown(new[len(known) :]))


def _joined(factors: list[Factor]) -> tuple[Factor, ...]:
    """Coarse and fine parts of one dimension that meet again are one."""
    result: list[Factor] = []
    for f in factors:
        last = result[-1] if result else None
        if last is not None and last.kind == f.kind not in HIDDEN:
            whole = f.kind in ("channel", FREE) or (
                last.step == f.step * f.size
                and (last.shift, last.mirrored) == (f.shift, f.mirrored)
            )
            if whole:
                result[-1] = dataclasses.replace(f, size=last.size * f.size)
                continue
        result.append(f)
    return tuple(result)


def _settled(factors: tuple[Factor, ...], n: int) -> Axis:
    """An axis of these factors, of which tokens alone are the axis that they were.

    A broadcast behind positions repeats them.
    """
    if len(factors) == 1 and factors[0].axis is not None:
        return factors[0].axis
    kinds = {f.kind for f in factors}
    if FREE not in kinds or not kinds & {*SPACE, "batch"}:
        return Axis(factors)
    if "channel" in kinds:
        return Axis(factors)
    settled: list[Factor] = []
    for f in factors:
        if f.kind != FREE:
            settled.append(f)
        elif settled and settled[-1].kind in SPACE and not settled[-1].shift:
            last = settled[-1]
            settled[-1] = dataclasses.replace(
                last, size=last.size * f.size, step=last.step / f.size
            )
        else:
            return single("unknown", n)
    return Axis(tuple(settled))


def mirrored(axis: Axis) -> Axis:
    """The axis read backwards: each of its factors is."""
    if axis.kinds <= {"channel", FREE}:
        return dataclasses.replace(axis, before=axis.after, after=axis.before)
    if axis.kinds - {"batch", *SPACE} or any(f.shift for f in axis.factors):
        return single("unknown", axis.size)
    factors = tuple(dataclasses.replace(f, mirrored=not f.mirrored) for f in axis.factors)
    return Axis(factors, axis.after, axis.before)


def resized(axis: Axis, new: int) -> Axis:
    """The axis after a window, a stride, a pad or a crop changed its size."""
    if axis.size == new:
        return axis
    if new == 1:
        return Axis()
    if new == 0:  # a roll by nothing
        return single("unknown", 0)
    if not axis.factors:  # one place was repeated
        return single(FREE, new)
    if axis.before or axis.after or len(axis.factors) > 1:
        return single("channel" if axis.kinds == {"channel"} else "unknown", new)
    f = next(iter(axis.factors))
    if f.kind not in SPACE:
        return single(
            "channel" if f.kind == FREE else f.kind if f.kind == "channel" else "unknown", new
        )
    if f.shift * new % f.size:
        return single("unknown", new)
    step, shift = f.step * Fraction(f.size, new), f.shift * new // f.size
    return Axis((dataclasses.replace(f, size=new, step=step, shift=shift),))
