"""Strict conversion of foreign tensors into the parameters of a Flax NNX network.

Nothing is guessed and nothing is skipped in silence: whatever is missing, unexpected, of the
wrong shape or not finite is collected, and reported in one error; what was done beyond renaming is
written in a report.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxplain.weights_convert.errors import ConversionError
from jaxplain.weights_convert.name_maps import NameMap, each_name, own_names
from jaxplain.weights_convert.norms import epsilons as epsilons_of
from jaxplain.weights_convert.norms import fits, impossible, settle_norms

_Net = TypeVar("_Net", bound=nnx.Module)
_SHOWN = 5  # names listed of each sort of trouble; the error's attributes hold them all


@dataclasses.dataclass(frozen=True)
class Report:
    """What a conversion did; prints as text.

    Attributes:
        source: the name map that was used.
        tensors: how many tensors of the checkpoint went into the network.
        parameters: how many numbers they hold.
        notes: what was done to them beyond renaming, one sentence each.
        dropped: names of the auxiliary heads' tensors, which were left out.
        counters: names of counters of training steps, which were left out.
    """

    source: str
    tensors: int
    parameters: int
    notes: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    counters: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"{self.tensors} tensors ({self.parameters:,} numbers), named as by {self.source}, "
            "every one accounted for",
            *self.notes,
        ]
        if self.dropped:
            lines.append(f"dropped, of auxiliary heads: {', '.join(self.dropped)}")
        if self.counters:
            lines.append(f"dropped: {len(self.counters)} counters of training steps")
        return "\n".join(lines)


def parameter_shapes(network: nnx.Module) -> dict[str, tuple[int, ...]]:
    """The dotted name and shape of every parameter and statistic of a network.

    Example:
        >>> from flax import nnx
        >>> from jaxplain.weights_convert import parameter_shapes
        >>> parameter_shapes(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
        {'bias': (2,), 'kernel': (3, 2)}
    """
    return {name: tuple(value.shape) for name, value in _parameters(network).items()}


def _parameters(network: nnx.Module) -> dict[str, Any]:
    leaves = nnx.to_flat_state(nnx.state(network))
    return {".".join(map(str, path)): leaf.get_value() for path, leaf in leaves}


def abstract(build: Callable[[nnx.Rngs], _Net]) -> _Net:
    """Builds a network without computing its initial weights: they have shapes only.

    Example:
        >>> from flax import nnx
        >>> from jaxplain import weights_convert as wc
        >>> wc.abstract(lambda rngs: nnx.Linear(3, 2, rngs=rngs)).kernel.get_value().shape
        (3, 2)
    """
    one_key = _OneKey()
    return nnx.eval_shape(lambda: build(cast(nnx.Rngs, one_key)))


class _OneKey:
    """Stands in for ``nnx.Rngs`` where no random number is drawn.

    The real one counts its keys in a traced variable, which takes quadratic time: 8 times as
    long for ResNet-152.
    """

    def __init__(self):
        self._key = jax.random.key(0)

    def __getattr__(self, stream: str) -> Callable[[], jax.Array]:
        if stream.startswith("_"):
            raise AttributeError(stream)
        return lambda: self._key


def with_weights(network: _Net, weights: Mapping[str, Any]) -> _Net:
    """A network with the structure of ``network`` and the given weights (by dotted name).

    The dtypes are the network's own.

    Raises:
        ConversionError: a weight is missing, unexpected or of the wrong shape.
    """
    shapes = parameter_shapes(network)
    _check(
        missing=[n for n in shapes if n not in weights],
        unexpected=[n for n in weights if n not in shapes],
        wrong_shape=[
            (n, tuple(np.shape(weights[n])), s)
            for n, s in shapes.items()
            if n in weights and tuple(np.shape(weights[n])) != s
        ],
    )
    graph, state = nnx.split(network)
    filled = []
    for path, leaf in nnx.to_flat_state(state):
        value = weights[".".join(map(str, path))]
        filled.append((path, leaf.replace(jnp.asarray(value, leaf.get_value().dtype))))
    return nnx.merge(graph, nnx.from_flat_state(filled))


def best_fit(
    tensors: Iterable[str], network: nnx.Module, maps: Sequence[NameMap]
) -> tuple[NameMap, float]:
    """The map of `match`, and how well it fits: 0 for no name in common, 1 for all of them."""
    found = set(tensors)
    shapes = parameter_shapes(network)

    def fit(names: NameMap) -> float:
        wanted = set(each_name(names.resolve(shapes).values()))
        rest = {n for n in found if not _any(n, (*names.auxiliary, *names.counters))}
        return len(wanted & found) / len(wanted | rest)

    best = max((*maps, own_names(shapes)), key=fit)
    return best, fit(best)


def match(tensors: Iterable[str], network: nnx.Module, maps: Sequence[NameMap]) -> NameMap:
    """The map whose names fit a checkpoint's best; also tried is the network's own naming.

    The fit is the number of names in common over the number of all names. Of equal ones the
    first is taken.

    Args:
        tensors: the checkpoint's names.
        network: the network, which may be abstract.
        maps: the name maps of the network's sources.

    Raises:
        ConversionError: not one name is in common.
    """
    found = set(tensors)
    best, fit = best_fit(found, network, maps)
    if fit == 0:
        some = ", ".join(sorted(found)[:3])
        known = ", ".join(dict.fromkeys(names.source for names in maps))
        raise ConversionError(
            f"The tensors ({some} ...) are named as by none of the network's sources ({known}): "
            "they belong to another network.",
            unexpected=sorted(found),
        )
    return best


def convert(
    tensors: Mapping[str, np.ndarray], network: nnx.Module, names: NameMap
) -> tuple[dict[str, np.ndarray], Report]:
    """Renames foreign tensors, puts their axes in order, and settles what differs otherwise.

    - Tensors of theirs that are one of ours are joined along the outputs.
    - Kernels become ``(h, w, in, out)`` and matrices ``(in, out)``. A matrix for a kernel with a
      window (the dense layer after a flatten) is unfolded; a kernel of 1 x 1 for a matrix is
      squeezed.
    - ``names.bgr``: the input channels of the first convolution are reversed.
    - ``factor`` (Caffe): the stored mean and variance are divided by it.
    - ``shift``: the bias of a convolution before batch normalisation is taken off the mean.
    - where batch normalisation adds another epsilon than the network's, the difference is added
      to the variance, so that their sum is as it was.

    Args:
        tensors: name -> array, as a reader gives them.
        network: the network, which may be abstract.
        names: the name map of the tensors' source.

    Returns:
        (the network's parameter name -> array, report). The arrays are views where possible.

    Raises:
        ConversionError: lists every tensor that is missing, unexpected, of the wrong shape, or
            gives values that no trained network has: NaN, infinity (also of numbers that are too
            large for the network's dtype), complex numbers, a variance that is negative or that
            the factor makes 0.

    Example:
        >>> import numpy as np
        >>> from flax import nnx
        >>> from jaxplain.weights_convert import convert
        >>> from jaxplain.weights_convert.name_maps import TORCH, NameMap
        >>> class Net(nnx.Module):
        ...     def __init__(self, rngs):
        ...         self.linear = nnx.Linear(3, 2, use_bias=False, rngs=rngs)
        >>> names = NameMap("mine", {"linear": "fc"}, **TORCH)
        >>> weights, report = convert({"fc.weight": np.ones((2, 3))}, Net(nnx.Rngs(0)), names)
        >>> weights["linear.kernel"].shape
        (3, 2)
        >>> print(report)
        1 tensors (6 numbers), named as by mine, every one accounted for
    """
    parameters = _parameters(network)
    shapes = {name: tuple(value.shape) for name, value in parameters.items()}
    resolved = names.resolve(shapes)
    missing = [theirs for theirs in each_name(resolved.values()) if theirs not in tensors]
    used = set(each_name(resolved.values()))
    left = [name for name in tensors if name not in used]
    counters = tuple(n for n in left if _any(n, names.counters))
    dropped = tuple(n for n in left if _any(n, names.auxiliary) and n not in counters)
    unexpected = [n for n in left if n not in counters and n not in dropped]

    weights, wrong_shape, notes = {}, [], _Notes()
    for target, theirs in resolved.items():
        own = list(each_name([theirs]))
        if target not in shapes or any(name not in tensors for name in own):
            continue
        parts, text = [tensors[name] for name in own], " + ".join(own)
        array = parts[0] if len(parts) == 1 else _joined(parts, names.layout)
        fitted = None if array is None else _fit(array, shapes[target], names.layout)
        if array is None or fitted is None:
            found = parts[0].shape if array is None else array.shape
            needed = _their_shape(shapes[target], names.layout)
            wrong_shape.append((text, tuple(found), needed))
            continue
        weights[target] = fitted
        if fitted.ndim == 4 and array.ndim == 2 and math.prod(fitted.shape[:2]) > 1:
            notes.add("unfolded from their flatten order to (h, w, in, out)", text)
        if len(parts) > 1:
            notes.add("joined to one", text)
    epsilons = epsilons_of(network)
    for module in epsilons:  # which are no parameters of the network
        for target, shape in (
            (f"{module}.factor", (1,)),
            (f"{module}.shift", shapes[f"{module}.mean"]),
        ):
            for theirs in each_name([resolved[target]] if target in resolved else []):
                found = np.shape(tensors.get(theirs, np.zeros(shape)))
                if found != shape:
                    wrong_shape.append((theirs, found, shape))
    settled = {f"{module}.{name}" for module in epsilons for name in ("mean", "var")}
    bad = [  # statistics are compared with what they can be when they are settled
        name
        for target, value in weights.items()
        for name in each_name([resolved[target]])
        if not fits(tensors[name], value.dtype if target in settled else parameters[target].dtype)
    ]
    for module, epsilon in epsilons.items():  # with a factor, its sign is not known yet
        variance = resolved[f"{module}.var"]
        if f"{module}.factor" not in resolved and variance not in bad:
            lowest = -(names.epsilon or epsilon)
            bad += [variance] * bool(np.min(weights.get(f"{module}.var", 0)) <= lowest)
    extras = {n for t, theirs in resolved.items() if t not in shapes for n in each_name([theirs])}
    bad += [n for n in sorted(extras) if n in tensors and not fits(tensors[n], np.float32)]
    _check(missing, unexpected, wrong_shape, bad)

    if names.bgr is not None:
        kernel = f"{names.bgr}.kernel"
        weights[kernel] = weights[kernel][:, :, ::-1]
        notes.add(
            "input channels reversed, from BGR to RGB", " + ".join(each_name([resolved[kernel]]))
        )
    before = {module: weights[f"{module}.var"] for module in epsilons}
    with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is looked at
        settle_norms(weights, tensors, resolved, epsilons, names, notes)
    _check(bad=impossible(weights, parameters, epsilons, before, resolved))
    taken = [tensors[theirs] for theirs in used]
    report = Report(
        names.source,
        len(taken),
        sum(math.prod(a.shape) for a in taken),
        notes.sentences(),
        dropped,
        counters,
    )
    return weights, report


class _Notes:
    """What was done, and to which tensors; one sentence for each sort."""

    def __init__(self):
        self._names: dict[str, list[str]] = {}

    def add(self, what: str, name: str) -> None:
        self._names.setdefault(what, []).append(name)

    def sentences(self) -> tuple[str, ...]:
        return tuple(f"{what}: {_some(names)}" for what, names in self._names.items())


def _joined(parts: Sequence[np.ndarray], layout: str) -> np.ndarray | None:
    """Tensors behind each other along their outputs; None where their other axes differ."""
    axis, others = (-1, slice(-1)) if layout == "keras" else (0, slice(1, None))
    if 0 in {p.ndim for p in parts} or len({(p.ndim, p.shape[others]) for p in parts}) > 1:
        return None
    return np.concatenate(parts, axis)


def _fit(array: np.ndarray, shape: tuple[int, ...], layout: str) -> np.ndarray | None:
    """The array with its axes in our order, or None where its shape does not fit."""
    array = np.asarray(array)
    if layout == "keras":
        if array.ndim == 2 and len(shape) == 4:
            return array.reshape(shape) if _folded(shape) == array.shape else None
        return array if array.shape == shape else None
    if array.ndim == 4 and len(shape) == 2 and array.shape[2:] == (1, 1):
        array = array[:, :, 0, 0]
    if len(shape) in (1, 3) and _without_ones(array.shape) == _without_ones(shape):
        return array.reshape(shape)  # of tokens, positions and scales, whose axes have one order
    if array.ndim == 2 and len(shape) == 4:
        h, w, inputs, outputs = shape
        if array.shape != (outputs, inputs * h * w):
            return None
        array = array.reshape(outputs, inputs, h, w)
    if array.shape != _their_shape(shape, layout):
        return None
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    return array.T if array.ndim == 2 else array


def _their_shape(shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    if layout == "keras":
        return shape
    if len(shape) == 4:
        h, w, i, o = shape
        return (o, i, h, w)
    return tuple(reversed(shape)) if len(shape) == 2 else shape


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)


def _folded(shape: tuple[int, ...]) -> tuple[int, int]:
    return math.prod(shape[:-1]), shape[-1]


def _any(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, p) for p in patterns)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(f'{name:.300}' for name in names[:_SHOWN])}{more}"


def _check(missing=(), unexpected=(), wrong_shape=(), bad=()) -> None:
    parts = []
    for sort, items in (
        ("missing", missing),
        ("unexpected", unexpected),
        ("wrong shape", [f"{n:.200} is {f}, must be {s}" for n, f, s in wrong_shape]),
        ("with NaN, infinity, complex numbers or an impossible variance", bad),
    ):
        if items:
            parts.append(f"{len(items)} {sort} ({_some(items)})")
    if parts:
        raise ConversionError(
            f"The weights do not fit the network: {'; '.join(parts)}.",
            missing,
            unexpected,
            wrong_shape,
            bad,
        )
