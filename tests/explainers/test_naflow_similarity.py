"""NAFlow of similarity: contribution weights, what they carry down, and errors."""

import jax
import nets
import pytest
from nets import normal

import jaxplain
from jaxplain.core import tag

EXACT = jaxplain.LeastSquares(tolerance=1e-11, iterations=2000, damping=0.0)


def embed(x):
    h = jax.nn.leaky_relu(nets.conv(x, normal(0, 3, 3, 3, 6), padding=(1, 1)), 0.2)
    h = tag(nets.max_pool(h, (2, 2), (2, 2)), "pool")
    h = tag(nets.conv(h, normal(1, 3, 3, 6, 5), padding=(1, 1)) + 0.1, "features")
    return h.mean((1, 2))


def test_contribution_weights_sum_to_one(x64):
    a, b = normal(0, 7), normal(1, 7)
    weights = jaxplain.contribution_weights(a, b)
    assert float(weights.sum()) == pytest.approx(1) and float(weights.min()) >= 0
    assert nets.relative_error(weights, abs(a * b) / abs(a * b).sum()) < 1e-12
    squares = jaxplain.contribution_weights(a, b, lambda a, b: -((a - b) ** 2))
    assert float(squares.sum()) == pytest.approx(1)
    assert jaxplain.contribution_weights(a, 0 * b).tolist() == [0] * 7


def test_similarity_carries_the_contribution_weights_down(x64):
    x = normal(3, 2, 8, 8, 3)
    reference = normal(4, 2, 8, 8, 3)
    maps = jaxplain.naflow_similarity(embed, x, reference, layer=["pool", "features"], solver=EXACT)
    e, r = embed(x), embed(reference)
    weights = abs(e * r) / abs(e * r).sum(-1, keepdims=True)
    features = jaxplain.capture(embed, ["features"])(x)[1]["features"]
    expected = (features * weights[:, None, None]).sum(-1) / 16  # a mean over 4 x 4
    assert nets.relative_error(maps["features"], expected) < 1e-10
    signal = jaxplain.naflow(embed, x, weights, layer="pool", solver=EXACT)
    assert nets.relative_error(maps["pool"], signal) < 1e-10
    given = jaxplain.naflow_similarity(embed, x, r, layer="pool", solver=EXACT)
    assert nets.relative_error(given, maps["pool"]) < 1e-10


def test_any_differentiable_similarity(x64):
    x, r = normal(3, 2, 8, 8, 3), normal(5, 5)

    def closeness(a, b):
        return -((a - b) ** 2).sum()

    got = jaxplain.naflow_similarity(embed, x, r, layer="features", similarity=closeness)
    g = -2 * (embed(x) - r)
    features = jaxplain.capture(embed, ["features"])(x)[1]["features"]
    assert nets.relative_error(got, (features * g[:, None, None]).sum(-1) / 16) < 1e-10
    got = jaxplain.naflow_similarity(
        embed, x, r, layer="features", similarity=lambda a, b: (a - b) ** 2
    )
    w = g**2 / (g**2).sum(-1, keepdims=True)
    assert nets.relative_error(got, (features * w[:, None, None]).sum(-1) / 16) < 1e-10


def test_errors_of_similarity(x64):
    x = normal(3, 2, 8, 8, 3)
    with pytest.raises(ValueError, match=r"reference must be images .* or embeddings \(2, 5\)"):
        jaxplain.naflow_similarity(embed, x, normal(0, 4), layer="features")
    with pytest.raises(ValueError, match="reference images must have the shape"):
        jaxplain.naflow_similarity(embed, x, x[:, :4], layer="features")
    with pytest.raises(ValueError, match="similarity must return a scalar or"):
        jaxplain.naflow_similarity(
            embed, x, normal(0, 5), layer="features", similarity=lambda a, b: a[:2]
        )
    with pytest.raises(TypeError, match="similarity must be a function"):
        jaxplain.naflow_similarity(embed, x, normal(0, 5), layer="features", similarity="cosine")
    with pytest.raises(ValueError, match="fn must return embeddings"):
        jaxplain.naflow_similarity(
            lambda x: tag(2 * x, "features"), x, normal(0, 3), layer="features"
        )
