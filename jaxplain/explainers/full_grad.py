"""FullGrad: the full gradient, of the input and of all biases.

For a network of operations ``y = F(a)`` write ``y = J a + offset``, with ``J`` the Jacobian at the
values of the forward pass. With ``G_y`` the gradient of a class score at ``y``, the score is,
exactly,

    S = sum(x * dS/dx) + sum over operations of sum(offset * G_y)

The offsets are the biases: those of convolutions and dense layers, the shift ``beta - mean *
scale`` that a batch norm amounts to, and what the paper calls implicit biases, of operations that
are not piecewise linear through 0 (a saturated ReLU6 has the offset 6, SiLU that of its tangent, a
product of two activations minus itself). ReLUs, pools, additions and linear maps have none.

Reference: Srinivas and Fleuret, *Full-gradient representation for neural network visualization*,
NeurIPS 2019.
"""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import core
from jaxplain.core.numerics import safe_divide
from jaxplain.explainers._common import check_option, over_targets, run
from jaxplain.explainers._types import ClassChunk, Images, Network, Targets
from jaxplain.explainers.cams import SPACE
from jaxplain.postprocess import resize

__all__ = ["full_grad", "full_grad_terms"]

#: F(t a) = t F(a) for t > 0, so J a = F(a): no offset.
_HOMOGENEOUS_KINDS = ("linear", "scale", "max_pool", "add")
_HOMOGENEOUS_NAMES = ("relu", "leaky_relu", "prelu", "abs")
#: Structural operations that can bring constants in beside the activations.
_MIXING = ("concatenate", "select_n", "pad", "dynamic_update_slice")


class _Term(NamedTuple):
    """Operations whose offsets count as one, and so as one bias of the network.

    Either a run of scales and biases (a layer's bias and the batch norm behind it), or one
    operation with an implicit bias.
    """

    name: str
    ops: tuple[core.Operation, ...]
    implicit: bool

    @property
    def end(self) -> Any:
        return self.ops[-1].output


@functools.lru_cache(maxsize=64)
def _find_terms(graph: core.Graph, implicit: bool) -> tuple[_Term, ...]:
    names = {v: name for name, v in reversed(graph.names.items())}  # the first, the best, stays
    terms: list[_Term] = []
    grouped: set[core.Operation] = set()
    for op in graph.ops:
        if op in grouped or not jnp.issubdtype(op.output.aval.dtype, jnp.floating):
            continue
        ops = (op,)
        if op.kind in ("scale", "bias"):
            ops = _affine_run(graph, op)
            grouped.update(ops)
            # constant - activation is a scale by -1 as well as a bias
            shifts = ("add", "add_any", "sub")
            wanted = any(not o.identity and o.equations[-1].primitive.name in shifts for o in ops)
        elif op.kind == "structural":
            wanted = implicit and op.name in _MIXING
        else:
            wanted = (
                implicit and op.kind not in _HOMOGENEOUS_KINDS and op.name not in _HOMOGENEOUS_NAMES
            )
        if wanted:
            unnamed = f"{op.name}:{sum(t.ops[0].name == op.name for t in terms)}"
            name = next((names[o.output] for o in reversed(ops) if o.output in names), unnamed)
            terms.append(_Term(name, ops, op.kind not in ("scale", "bias")))
    return tuple(terms)


def _affine_run(graph: core.Graph, op: core.Operation) -> tuple[core.Operation, ...]:
    """The scales and biases that follow each other from ``op`` on, with no other use between."""
    ops = [op]
    while len(graph.consumers.get(ops[-1].output, ())) == 1:
        (user,) = graph.consumers[ops[-1].output]
        if ops[-1].output in graph.outputs:
            break
        more = [user] if user.kind in ("scale", "bias") else graph.detour(ops[-1].output)
        if not more:
            break
        ops += more
    return tuple(ops)


def _offset(term: _Term, values: dict) -> jax.Array:
    """``F(a) - J a`` of the term's operations, in the shape of the value at its end."""
    if not term.implicit:  # affine: F(0)
        value = jnp.zeros_like(values[term.ops[0].inputs[0]])
        for op in term.ops:
            (value,) = op.evaluate((value,), tuple(values[v] for v in op.constants))
        return value
    (op,) = term.ops
    inputs = tuple(values[v] for v in op.inputs)
    constants = tuple(values[v] for v in op.constants)

    def forward(*inputs: jax.Array) -> jax.Array:
        return op.evaluate(inputs, constants)[0]

    if op.kind == "activation" and op.inputs[0].aval.shape == op.output.aval.shape:
        # Elementwise: reverse mode does it too, which derivatives written by users have.
        output, pull = jax.vjp(forward, *inputs)
        linear = inputs[0] * pull(jnp.ones_like(output))[0]
    elif len(op.outputs) > 1 or op.name == "custom_vjp_call":
        raise core.UnsupportedOperationError(
            f"full_grad finds no implicit bias of the operation {op.name!r} at {op.place}, which "
            "has several outputs or a derivative of its own; use implicit=False to leave implicit "
            "biases out"
        )
    else:

        def tangent(a: jax.Array) -> Any:
            floating = jnp.issubdtype(a.dtype, jnp.floating)
            return a if floating else np.zeros(a.shape, jax.dtypes.float0)

        output, linear = jax.jvp(forward, inputs, tuple(map(tangent, inputs)))
    offset = output - linear
    # What rounding leaves of an offset of 0 must not be taken for one when maps are rescaled.
    size = jnp.maximum(jnp.abs(output), jnp.abs(linear))
    return jnp.where(jnp.abs(offset) <= 4 * jnp.finfo(output.dtype).eps * size, 0, offset)


def _decomposed(model, x, implicit):
    """The scores, and seed -> {term: array}."""
    terms = _find_terms(model.graph, implicit)
    needed = dict.fromkeys(v for t in terms for v in t.ops[0].inputs)
    needed.update(dict.fromkeys(v for t in terms for op in t.ops for v in op.constants))
    values = dict(zip(needed, model.evaluate([x], outputs=list(needed)), strict=True))
    offsets = {t.name: _offset(t, values) for t in terms}
    ends = {t.name: t.end for t in terms}
    model.check_gradient(["input"])
    scores, _, pull = model.pull_values(x, {"": model.graph.layer("input"), **ends})

    def one(seed):
        signal = pull(seed)
        parts = {"input": x * signal.pop("")}
        return parts | {name: offsets[name] * g for name, g in signal.items()}

    return scores, one


def _layouts(graph: core.Graph, implicit: bool) -> dict[str, Any]:
    """Term -> how maps lie in it, None where it has no place in the image."""
    found = {}
    for term in _find_terms(graph, implicit):
        found[term.name] = graph.layout(term.end)
        if found[term.name] is None and graph.places.anywhere(term.end):
            shape = tuple(term.end.aval.shape)
            hint = ", or leave implicit biases out with implicit=False" if term.implicit else ""
            raise core.UnsupportedOperationError(
                f"full_grad adds up maps, and it is not known where in the image the values of "
                f"{term.name!r}, of shape {shape}, at {term.ops[-1].place} lie; "
                f"full_grad_terms gives the parts as they are{hint}"
            )
    return found


def _full_grad_terms(model, x, targets, *, layers, class_chunk, implicit):
    scores, one = _decomposed(model, x, implicit)
    return {"input": over_targets(one, scores, targets, class_chunk)}


def full_grad_terms(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    implicit: bool = True,
    class_chunk: ClassChunk = "auto",
) -> dict[str, jax.Array]:
    """The full-gradient decomposition of a score (Srinivas and Fleuret 2019, Proposition 1).

    ``x * dS/dx`` and, for every bias of the network, ``bias * dS/d(value it is added to)``. A batch
    norm, together with the bias before it, is one bias. The sum of all entries is the score,
    whatever the network: completeness.

    Args:
        fn: images ``(B, H, W, C)`` to scores ``(B, N)`` or a score map ``(B, H', W', N)``.
        x: float images ``(B, H, W, C)``.
        targets: None for the top class, an int, ``(B,)`` or ``(B, K)`` ints, or a float signal
            ``(B, N)`` or ``(B, K, N)`` over the scores; of a score map also ``(B, H', W', N)`` or
            ``(B, K, H', W', N)``.
        implicit: whether activations that are not piecewise linear through 0, and normalisations
            and products of activations, count with their implicit biases. Without them the sum is
            the score for networks of ReLUs only.
        class_chunk: how many of K classes to take at once: with ``"auto"`` as many as 256
            MiB hold; None takes all.

    Returns:
        A dict from name to array: ``"input"``, ``(B, H, W, C)``, and the name of every layer at
        which a bias (or its batch norm) ends, in the layer's shape; with K targets an axis K after
        B.

    Raises:
        TypeError: x is not of a float dtype.
        ValueError: x is not four-dimensional or not finite, or a class is out of range.
        UnsupportedOperationError: an implicit bias that cannot be found.

    Example:
        >>> import jax, jax.numpy as jnp, jaxplain
        >>> def fn(x):
        ...     return jax.nn.relu(jaxplain.tag(x * 2 - 1, "shifted")).sum((1, 2)) + 5
        >>> terms = jaxplain.full_grad_terms(fn, jnp.full((1, 1, 2, 1), 3.), 0)
        >>> {name: float(term.sum()) for name, term in terms.items()}
        {'bias:1': 5.0, 'input': 12.0, 'shifted': -2.0}
    """
    return run(
        _full_grad_terms,
        fn,
        x,
        targets,
        layer="input",
        class_chunk=class_chunk,
        implicit=bool(implicit),
    )


def _rescaled(m: jax.Array, axes: tuple[int, ...], eps: float) -> jax.Array:
    low, high = m.min(axes, keepdims=True), m.max(axes, keepdims=True)
    # What is the same everywhere but for rounding, as below a global pool, has no range to fill.
    flat = high - low <= 16 * jnp.finfo(m.dtype).eps * high
    return safe_divide(m - low, jnp.where(flat, jnp.zeros_like(high), high - low) + eps)


def _full_grad(model, x, targets, *, layers, class_chunk, rescale, implicit, eps):
    layouts = {"input": model.layout("input"), **_layouts(model.graph, implicit)}
    scores, decompose = _decomposed(model, x, implicit)
    axes = {"channel": SPACE, "layer": (1, 2, 3), None: ()}[rescale]

    def one(seed):
        wide = jnp.promote_types(x.dtype, jnp.float32)
        # Resizing is linear: what has one size is added up first.
        sums: dict[tuple, jax.Array] = {x.shape[1:3]: jnp.zeros(x.shape[:3], wide)}
        for name, term in decompose(seed).items():
            layout = layouts[name]
            if layout is None or layout.height * layout.width == 1:
                continue  # a dense layer's, which has no place in the image
            term = layout.maps(term)
            m = jnp.abs(term).astype(jnp.promote_types(term.dtype, jnp.float32))
            m = _rescaled(m, axes, eps) if axes else m
            m = m.sum(-1)
            sums[m.shape[1:]] = sums.get(m.shape[1:], 0) + m
        total = functools.reduce(jnp.add, (resize(m, x.shape[1:3]) for m in sums.values()))
        return {"input": total.astype(x.dtype)}

    return over_targets(one, scores, targets, class_chunk)


def full_grad(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    rescale: Literal["channel", "layer"] | None = "channel",
    implicit: bool = True,
    eps: float = 0.0,
    class_chunk: ClassChunk = "auto",
) -> jax.Array:
    """FullGrad saliency (Srinivas and Fleuret 2019): where input and biases move the score.

    The sum over all channels of ``x * dS/dx`` and of all bias gradients (see `full_grad_terms`) of
    ``upsample(rescale(abs(.)))``, bilinear to the image. The biases of dense layers have no place
    in the image and are left out.

    Arguments are those of `full_grad_terms`, and:

    Args:
        rescale: ``"channel"`` maps every channel to [0, 1] by its least and greatest value, as the
            paper's formula says (and pytorch-grad-cam does); ``"layer"`` all channels of a layer
            together, as in the authors' code; None leaves the magnitudes.
        implicit: False counts only the biases proper, as other packages do.
        eps: is added to the range that ``rescale`` divides by, so that channels far weaker than it
            count less; 1e-7 in pytorch-grad-cam, 1e-6 in the authors' code.

    Returns:
        Non-negative maps ``(B, H, W)``, or ``(B, K, H, W)`` for K targets, in the dtype of the
        images.

    Raises:
        UnsupportedOperationError: a convolution of the network is given its channels before height
            and width, besides the errors of `full_grad_terms`.

    Reference: Srinivas and Fleuret, *Full-gradient representation for neural network
    visualization*, NeurIPS 2019.

    Example:
        >>> import jax, jax.numpy as jnp, jaxplain
        >>> def fn(x):
        ...     return jax.nn.relu(x * 2 - 1).sum((1, 2))
        >>> x = jnp.array([[[[0.], [1.], [3.]]]])
        >>> jaxplain.full_grad(fn, x, 0, rescale=None)
        Array([[[0., 3., 7.]]], dtype=float32)
    """
    check_option("rescale", rescale, ("channel", "layer", None))
    if not eps >= 0:
        raise ValueError(f"eps must not be negative, but is {eps}")
    return run(
        _full_grad,
        fn,
        x,
        targets,
        layer="input",
        class_chunk=class_chunk,
        rescale=rescale,
        implicit=bool(implicit),
        eps=float(eps),
    )
