"""What holds of every method that has classes: batches, classes, jit, half precision."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import methods
import nets
import numpy as np
import pytest

from jaxplain.explainers.calling import explainer
from jaxplain.explainers.catalogue import CATALOGUE

TARGETS = jnp.asarray([[0, 3], [2, 1]])


#: RISE's noise falls with the number of its masks; of magnitudes c-Grad makes zero, as it should.
MORE = {"rise": {"samples": 32}, **methods.NOT_EMPTY}


def compiled(name, dtype):
    """Images to maps of two classes per image, under jit."""
    fn = nets.convnet({k: jnp.asarray(v, dtype) for k, v in nets.convnet_params(5).items()})
    more = {"fit": methods.fit("act1")} if CATALOGUE[name].needs == "fit" else MORE.get(name, {})
    explain = explainer(name, None, "act1" if CATALOGUE[name].at_layer else None, **more)
    return jax.jit(lambda x, targets: explain(fn, x, targets))


@pytest.mark.parametrize(
    "name", [name for name, method in methods.OF_ANY_NETWORK.items() if method.per_class]
)
def test_batches_classes_jit_and_bfloat16(name):
    x = jnp.asarray(nets.images(8), jnp.float32)
    explain = compiled(name, jnp.float32)
    maps = np.asarray(explain(x, TARGETS))
    assert maps.shape[:2] == (2, 2) and maps.ndim == 4 and min(maps.shape[2:]) > 1
    assert np.isfinite(maps).all() and maps.any()
    # An image's map depends neither on the others of the batch nor on the order of the classes.
    # (RISE and SmoothGrad draw their noise for the batch.)
    if not CATALOGUE[name].random:
        turned = np.asarray(explain(x[::-1], TARGETS[::-1, ::-1]))[::-1, ::-1]
        assert nets.relative_error(maps, turned) < 1e-4
    half = compiled(name, jnp.bfloat16)(x.astype(jnp.bfloat16), TARGETS)
    assert half.dtype == jnp.bfloat16 and half.shape == maps.shape
    half = np.asarray(half, np.float32)
    assert np.isfinite(half).all()
    cosine = (half * maps).sum() / np.sqrt((half**2).sum() * (maps**2).sum())
    assert cosine > 0.9, cosine
