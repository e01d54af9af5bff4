"""What a type checker knows of the public face; pyright reads this file, nothing runs it."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from typing import assert_type

import jax
import numpy as np
from flax import nnx

import jaxplain
from jaxplain.explainers import DenseAttention, Feedback, FittedCam, Flow, PFVBasis

Dict = dict[str, jax.Array]


def fn(x: jax.Array) -> jax.Array:
    return x.mean((1, 2))


def maps(x: jax.Array, key: jax.Array, module: nnx.Module, layer: str | None) -> None:
    # One array, or a dict of several layers.
    assert_type(jaxplain.grad_cam(fn, x), jax.Array)
    assert_type(jaxplain.grad_cam(fn, x, 3, layer="pool", relu=False), jax.Array)
    assert_type(jaxplain.grad_cam(fn, x, layer=["pool", "conv"]), Dict)
    assert_type(jaxplain.grad_cam(fn, x, layer=("pool", "conv")), Dict)
    assert_type(jaxplain.grad_cam(module, x, layer=layer), jax.Array)
    assert_type(jaxplain.gradient(fn, x, [3, 5], reduce=None), jax.Array)
    assert_type(jaxplain.gradient(fn, x, [[3, 5]], layer=["pool", "input"]), Dict)
    assert_type(jaxplain.lrp(fn, x, np.array([1, 2]), composite="z_plus"), jax.Array)
    assert_type(jaxplain.excitation_backprop(fn, x, contrastive=True), jax.Array)
    assert_type(jaxplain.smooth_grad(fn, x, key=key, layer=["pool"]), Dict)
    assert_type(jaxplain.rise(fn, x, key=key), jax.Array)
    assert_type(jaxplain.integrated_gradients(fn, np.zeros((1, 8, 8, 3))), jax.Array)
    # Layers that are None are several here.
    assert_type(jaxplain.naflow(fn, x), Dict)
    assert_type(jaxplain.naflow(fn, x, layer="pool"), jax.Array)
    assert_type(jaxplain.naflow(fn, x, layer=["pool"]), Dict)
    assert_type(jaxplain.dense_attention(fn, x), DenseAttention)


def records(x: jax.Array, batches: list[jax.Array]) -> None:
    assert_type(jaxplain.feedback(fn, x), jax.Array)
    assert_type(jaxplain.feedback(fn, x, details=True), Feedback)
    assert_type(jaxplain.naflow(fn, x, layer="pool", details=True), Flow)
    assert_type(jaxplain.full_grad_terms(fn, x), Dict)
    assert_type(jaxplain.fit_cam(fn, batches), FittedCam)
    assert_type(jaxplain.pfv_fit(fn, batches), PFVBasis)
    assert_type(jaxplain.pfv_apply(fn, x, basis=jaxplain.pfv_fit(fn, batches)).colours, jax.Array)


def wrong(x: jax.Array) -> None:
    # Each of these is an error; were it none, the comment on its line would be one.
    jaxplain.grad_cam(fn, x, rleu=False)  # pyright: ignore[reportCallIssue]
    jaxplain.gradient(fn, x, reduce="mean")  # pyright: ignore[reportArgumentType]
    jaxplain.smooth_grad(fn, x)  # pyright: ignore[reportCallIssue]


def lazy() -> None:
    assert_type(jaxplain.models.list_models(), list[str])
    _ = jaxplain.viz.overlay, jaxplain.finetune, jaxplain.data.open_source
