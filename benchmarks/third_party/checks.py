"""What each method should give on a network, worked out without jaxplain.

Every check is ``check(subject) -> (what was compared, worst relative error)``. Only the name of the
default layer, the masks of RISE and the parts of FullGrad, whose sum must be the score, are
jaxplain's own.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import jaxplain
from benchmarks.third_party.attention import legrad, rollout, transformer_attribution
from benchmarks.third_party.shares import c_mwp, d_wta, lrp, mwp, relevance_cam
from benchmarks.third_party.subject import (
    NoCheckError,
    Result,
    Subject,
    compiled,
    error,
    over_space,
    replaced_backward,
)
from jaxplain.explainers.perturbation import draw_masks, make_mask

SAMPLES = 3


# ---------------------------------------------------------------- gradients


def gradient(s: Subject) -> Result:
    expected = jnp.abs(s.grad(s.x)).max(-1)
    return "jax.grad", error(s.explain("gradient"), expected)


def input_x_gradient(s: Subject) -> Result:
    expected = (s.x * s.grad(s.x)).sum(-1)
    return "jax.grad", error(s.explain("input-x-gradient"), expected)


def smooth_grad(s: Subject) -> Result:
    key = jax.random.key(5)
    sigma = 0.15 * (s.x.max((1, 2, 3), keepdims=True) - s.x.min((1, 2, 3), keepdims=True))
    noisy = [
        s.x + sigma * jax.random.normal(k, s.x.shape, s.x.dtype)
        for k in jax.random.split(key, SAMPLES)
    ]
    expected = jnp.abs(sum(map(s.grad, noisy)) / SAMPLES).max(-1)
    return "jax.grad of noisy copies", error(
        s.explain("smooth-grad", key=key, samples=SAMPLES), expected
    )


def integrated_gradients(s: Subject) -> Result:
    nodes, weights = np.polynomial.legendre.leggauss(4)
    total = sum(w / 2 * s.grad(s.x * (n + 1) / 2) for n, w in zip(nodes, weights, strict=True))
    return "jax.grad along the path", error(
        s.explain("integrated-gradients", steps=4), (s.x * total).sum(-1)
    )


def _guided(s: Subject, sign: float = 1.0, closed: bool = False) -> jax.Array:
    """The gradient with ReLUs that pass positive signals only, where open (or anywhere)."""

    def passes(g: jax.Array, a: jax.Array, relu: Callable) -> jax.Array:
        g = jnp.maximum(g, 0)
        return g if closed else jax.vjp(relu, a)[1](g)[0]

    with replaced_backward(passes, "relu", "relu6"):
        return compiled(jax.grad(lambda v: sign * s.network.fn(v)[:, s.target].sum()), s.x)(s.x)


def guided_backprop(s: Subject) -> Result:
    found = s.explain("guided-backprop")
    return "jax.grad, ReLUs replaced", error(found, jnp.abs(_guided(s)).max(-1))


def deconvnet(s: Subject) -> Result:
    found = s.explain("deconvnet")
    return "jax.grad, ReLUs replaced", error(found, jnp.abs(_guided(s, closed=True)).max(-1))


def contrastive_deconvnet(s: Subject) -> Result:
    found = s.explain("c-deconvnet")
    # The classifier comes last in all of these networks: negating it negates the signal.
    ahead, against = (jnp.abs(_guided(s, sign)).max(-1) for sign in (1.0, -1.0))
    ahead, against = (m / m.sum((1, 2), keepdims=True) for m in (ahead, against))
    return "jax.grad, ReLUs replaced", error(found, ahead - against)


def _contrast(ahead: jax.Array) -> jax.Array:
    """Of a signed map and its negative, each over its L1 norm: what the first has more."""
    return 2 * ahead / over_space(jnp.abs(ahead)[..., None])[..., 0]


def contrastive_gradient(s: Subject) -> Result:
    empty = s.explain("c-gradient")  # as magnitudes both are equal
    found = s.explain("c-gradient", reduce="sum")
    off = error(found, _contrast(s.grad(s.x).sum(-1)))
    return "jax.grad, 0 of magnitudes", max(off, float(jnp.abs(empty).max()))


def feedback(s: Subject) -> Result:
    found = s.explain("feedback", steps=1)
    return "one sweep: jax.grad, ReLUs replaced", error(found, jnp.abs(_guided(s)).max(-1))


def full_grad(s: Subject) -> Result:
    found = s.explain("full-grad")
    terms = jaxplain.full_grad_terms(s.model, s.x, s.target)
    total = sum(np.asarray(t).reshape(len(t), -1).sum(1) for t in terms.values())
    complete = error(total, s.fn(s.x)[:, s.target])
    size, expected = s.x.shape[1:3], 0.0
    for name, term in terms.items():
        term = term if name == "input" or term.ndim < 3 else s.cut.maps(term)
        if term is not None and term.ndim == 4 and term.shape[1] * term.shape[2] > 1:
            m = jnp.abs(term)
            low, high = m.min((1, 2), keepdims=True), m.max((1, 2), keepdims=True)
            m = jnp.where(high > low, (m - low) / jnp.where(high > low, high - low, 1), 0).sum(-1)
            expected = expected + jax.image.resize(m, (len(m), *size), "bilinear", antialias=False)
    return "completeness; sum of the rescaled parts", max(complete, error(found, expected))


# ---------------------------------------------------------------- maps at the last layer


def _cam(method: str, combine: Callable, relu: bool = False) -> Callable[[Subject], Result]:
    def check(s: Subject) -> Result:
        found = s.explain(method)
        expected = combine(s.activation, s.slope).sum(-1)
        expected = jnp.maximum(expected, 0) if relu else expected
        return "jax.grad at the framework's own layer", error(found, expected)

    return check


def _mean(g: jax.Array) -> jax.Array:
    return g.mean((1, 2), keepdims=True)


def _plus_plus(a: jax.Array, g: jax.Array) -> jax.Array:
    below = 2 * g**2 + over_space(a) * g**3
    alpha = jnp.where(below == 0, 0, g**2 / jnp.where(below == 0, 1, below))
    return over_space(jnp.maximum(g, 0) * alpha) * a


def _x_weights(a: jax.Array, g: jax.Array) -> jax.Array:
    return over_space(g * a) / (over_space(a) + 1e-7) * a


def cam(s: Subject) -> Result:
    found = s.explain("cam")
    expected = s.activation @ s.dense[:, s.target]
    return "the classifier's weights", error(found, expected)


def contrastive_cam(s: Subject) -> Result:
    found = s.explain("c-cam")
    expected = s.activation @ s.dense[:, s.target]
    return "the classifier's weights", error(found, _contrast(expected))


def fitted_cam(s: Subject) -> Result:
    weight = np.random.default_rng(1).normal(size=(s.activation.shape[-1], s.fn(s.x).shape[-1]))
    fit = jaxplain.FittedCam(
        jnp.asarray(weight), jnp.zeros(weight.shape[1]), jnp.ones(weight.shape[1]), s.layer
    )
    return "weights times activations", error(
        s.explain("fitted-cam", fit=fit), s.activation @ weight[:, s.target]
    )


def guided_grad_cam(s: Subject) -> Result:
    found = s.explain("guided-grad-cam")
    coarse = jnp.maximum((_mean(s.slope) * s.activation).sum(-1), 0)
    fine = jax.image.resize(coarse, s.x.shape[:3], "bilinear", antialias=False)
    return "jax.grad, ReLUs replaced; at the framework's own layer", error(
        found, jnp.abs(_guided(s) * fine[..., None]).max(-1)
    )


def score_cam(s: Subject) -> Result:
    if s.network.narrow is None:
        a, words, layer = s.activation, "masked forward passes", s.layer
    else:  # a pass for every channel of the last layer takes a quarter of an hour
        a, words = compiled(s.network.narrow, s.x)(s.x), "masked forward passes, at an early layer"
        layer = s.named(a)
    found = s.explain("score-cam", layer=layer)
    masks = jax.image.resize(a, (*s.x.shape[:3], a.shape[-1]), "bilinear", antialias=False)
    low, high = masks.min((1, 2), keepdims=True), masks.max((1, 2), keepdims=True)
    masks = jnp.where(high > low, (masks - low) / jnp.where(high > low, high - low, 1), 0)
    scores = jnp.stack(
        [s.fn(s.x * masks[..., c, None])[:, s.target] for c in range(a.shape[-1])], -1
    )
    weights = jax.nn.softmax(scores, -1)[:, None, None]
    return words, error(found, jnp.maximum((weights * a).sum(-1), 0))


def ablation_cam(s: Subject) -> Result:
    a = s.activation
    head = compiled(s.head, a)
    whole = head(a)
    lost = jnp.stack([whole - head(a.at[..., c].set(0)) for c in range(a.shape[-1])], 1)
    for target in range(whole.shape[-1]):  # of which one may be 0 where all channels speak against
        weights = (lost[..., target] / whole[:, None, target])[:, None, None]
        expected = jnp.maximum((weights * a).sum(-1), 0)
        found = s.explain("ablation-cam", target)
        if expected.any() or found.any():
            return "forward passes without a channel", error(found, expected)
    raise NoCheckError("every map is 0 everywhere, which shows nothing")


def eigen_cam(s: Subject) -> Result:
    found, a = s.explain("eigen-cam"), np.asarray(s.activation)
    u, values, _ = np.linalg.svd(a.reshape(len(a), -1, a.shape[-1]), full_matrices=False)
    expected = (u[..., 0] * values[:, :1]).reshape(a.shape[:3])
    sign = np.sign((expected * a.sum(-1)).sum((1, 2), keepdims=True))
    return "numpy's SVD", error(found, expected * sign)


def dense_attention(s: Subject) -> Result:
    s.explain("dense-attention")  # at its own layers
    found = s.explain("dense-attention", layer=s.layer).layers[s.layer]
    _, h, w, channels = s.activation.shape
    expected = (jnp.square(s.activation) * (1 / (h * w) + 1 / channels)).mean(-1)
    return "uniform weights at the last layer", error(found, expected)


def pfv(s: Subject) -> Result:
    s.explain("pfv")  # at its own layers
    found = s.explain("pfv", layer=s.layer, weight_layers=(), components=1).components[..., 0]
    a = np.asarray(s.activation)
    rows = a.reshape(-1, a.shape[-1])
    u, values, _ = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    expected = np.abs(u[:, 0] * values[0]).reshape(a.shape[:3])
    return "numpy's SVD", error(np.abs(found), expected)


def naflow(s: Subject) -> Result:
    # It takes images one by one, and so a model of one image, or the function.
    found = jaxplain.naflow(s.network.fn, s.x, s.target, layer=s.layer)
    return "jax.grad at the framework's own layer", error(found, (s.slope * s.activation).sum(-1))


# ---------------------------------------------------------------- perturbation


def occlusion(s: Subject) -> Result:
    size = s.x.shape[1:3]
    window = step = max(size) // 3
    found = s.explain("occlusion", window=window, stride=step)
    total = np.zeros(s.x.shape[:3])
    whole = s.fn(s.x)[:, s.target]
    for top in range(0, size[0], step):
        for left in range(0, size[1], step):
            here = (slice(None), slice(top, top + window), slice(left, left + window))
            drop = whole - s.fn(s.x.at[here].set(0))[:, s.target]
            total[here] = np.asarray(drop)[:, None, None]
    return "masked forward passes", error(found, total)


def rise(s: Subject) -> Result:
    key, size = jax.random.key(5), s.x.shape[1:3]
    found = s.explain("rise", key=key, samples=SAMPLES)
    drawn = draw_masks(key, SAMPLES, size, (7, 7), 0.5)
    masks = [make_mask(cells, shift, size) for cells, shift in zip(*drawn, strict=True)]
    scores = jnp.stack([s.fn(s.x * m[..., None].astype(s.x.dtype))[:, s.target] for m in masks])
    expected = jnp.einsum("ib,iyx->byx", scores - scores.mean(0), jnp.stack(masks))
    return "masked forward passes", error(found, expected / (SAMPLES * 0.5))


CHECKS: dict[str, Callable[[Subject], Result]] = {
    "mwp": mwp,
    "c-mwp": c_mwp,
    "d-wta": d_wta,
    "c-deconvnet": contrastive_deconvnet,
    "c-gradient": contrastive_gradient,
    "c-cam": contrastive_cam,
    "gradient": gradient,
    "input-x-gradient": input_x_gradient,
    "smooth-grad": smooth_grad,
    "integrated-gradients": integrated_gradients,
    "guided-backprop": guided_backprop,
    "deconvnet": deconvnet,
    "full-grad": full_grad,
    "feedback": feedback,
    "cam": cam,
    "fitted-cam": fitted_cam,
    "grad-cam": _cam("grad-cam", lambda a, g: _mean(g) * a, relu=True),
    "guided-grad-cam": guided_grad_cam,
    "grad-cam++": _cam("grad-cam++", _plus_plus),
    "x-grad-cam": _cam("x-grad-cam", _x_weights),
    "layer-cam": _cam("layer-cam", lambda a, g: jnp.maximum(g, 0) * a),
    "hires-cam": _cam("hires-cam", lambda a, g: g * a),
    "score-cam": score_cam,
    "ablation-cam": ablation_cam,
    "eigen-cam": eigen_cam,
    "relevance-cam": relevance_cam,
    "dense-attention": dense_attention,
    "pfv": pfv,
    "naflow": naflow,
    "lrp": lrp,
    "attention-rollout": rollout,
    "transformer-attribution": transformer_attribution,
    "legrad": legrad,
    "occlusion": occlusion,
    "rise": rise,
}
