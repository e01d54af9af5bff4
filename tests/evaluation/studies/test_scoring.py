"""`jaxplain.score`: maps whose scores are known."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from squares import Net

import jaxplain
from jaxplain.evaluation import masking, stability
from jaxplain.evaluation.studies import faithfulness

SIZE = 16


def brightness(x):
    """The class 1 is more likely the brighter the left half is; nothing else matters."""
    left = 8 * x[:, :, : SIZE // 2].mean((1, 2, 3))
    return jnp.stack([jnp.zeros_like(left), left], -1)


X = jnp.asarray(np.random.default_rng(0).uniform(0.2, 1, (3, SIZE, SIZE, 3)), jnp.float32)
LEFT = np.zeros((3, 4, 4), np.float32)
LEFT[:, :, :2] = 1.0
BOXES = [[(0, 0, SIZE // 2, SIZE)], np.zeros((0, 4)), [(0, 0, 2, 2), (4, 4, 6, 6)]]


@pytest.fixture(scope="module")
def table():
    methods = {"left": LEFT, "right": LEFT[:, :, ::-1]}
    methods["all"] = lambda fn, x, targets: jnp.ones(x.shape[:3])
    more = {"boxes": BOXES, "tolerance": 1.0, "random_fn": brightness}
    return jaxplain.score(methods, brightness, X, 1, steps=8, **more)


def columns(table):
    return {row[0]: dict(zip(table.columns[1:], row[1:], strict=True)) for row in table}


def test_the_map_that_knows_is_the_best(table):
    found = columns(table)
    assert list(found) == [faithfulness.RANDOM, "left", "right", "all"]
    left, right, noise = (found[name] for name in ("left", "right", faithfulness.RANDOM))
    assert left["deletion"] < noise["deletion"] < right["deletion"]
    assert left["average drop (%)"] < noise["average drop (%)"] < right["average drop (%)"]
    assert found["all"]["average drop (%)"] == found["all"]["increase (%)"] == 0
    assert left["pointing (%)"] == 100 and right["pointing (%)"] == 0
    assert left["sparseness"] == pytest.approx(0.5) and found["all"]["sparseness"] == 0


def test_scores_are_those_of_the_functions_that_are_named(table):
    large = jaxplain.postprocess.resize(LEFT, (SIZE, SIZE))
    curve = faithfulness.deletion(brightness, X, large, 1, steps=8)
    found = columns(table)["left"]
    assert found["deletion"] == pytest.approx(float(curve.area.mean()), rel=1e-5)
    curve = faithfulness.insertion(brightness, X, large, 1, steps=8)
    assert found["insertion"] == pytest.approx(float(curve.area.mean()), rel=1e-5)
    before, after = (jax.nn.softmax(brightness(x))[:, 1] for x in (X, masking.masked(X, LEFT)))
    drop = 100 * np.mean(np.maximum(before - after, 0) / before)
    assert found["average drop (%)"] == pytest.approx(float(drop), rel=1e-4)


def test_what_needs_the_explainer_is_empty_without_it(table):
    found = columns(table)
    assert found["left"]["sensitivity"] is None and found["left"]["randomisation"] is None
    assert found["all"]["sensitivity"] == 0 and found["all"]["randomisation"] == 0
    alone = jaxplain.score(LEFT, brightness, X, steps=2)
    assert alone.columns[-1] == "sensitivity" and [row[0] for row in alone][1] == "maps"
    assert "| left |" in table.markdown() and "<td" in table._repr_html_()


def test_explainers_are_asked_of_both_networks():
    """The gradient of a linear network is its weights, whatever the image; another's is another."""
    net, other = Net(), Net()
    other.head = nnx.Linear(4, 3, rngs=nnx.Rngs(7))
    methods = {
        "grad-cam": lambda fn, x, t: jaxplain.grad_cam(fn, x, t, layer="relu:0"),
        "gradient": jaxplain.gradient,
    }
    x = jax.random.normal(jax.random.key(3), (2, 12, 12, 3))
    table = jaxplain.score(methods, net, x, random_fn=other, steps=4, samples=2)
    found = columns(table)
    targets = net(x).argmax(-1)
    a, b = (jaxplain.gradient(fn, x, targets) for fn in (net, other))
    alike = abs(jaxplain.evaluation.similarity.rank_correlation(a, b)).mean()
    assert found["gradient"]["randomisation"] == pytest.approx(float(alike), rel=1e-4)
    assert 0 < found["grad-cam"]["sensitivity"] < 1


def test_sensitivity_of_a_map_that_is_the_image():
    """F(x) = x moves as far as the image: the largest of the draws, by hand."""
    x = jnp.asarray(np.random.default_rng(1).uniform(0, 2, (2, 3, 3, 1)), jnp.float32)
    key = jax.random.key(5)
    found = stability.max_sensitivity(lambda x: x[..., 0], x, key, radius=0.1, samples=4)
    width = 0.1 * (x.max((1, 2, 3)) - x.min((1, 2, 3)))
    keys = jax.random.split(key, 4)
    draws = jnp.stack([jax.random.uniform(k, x.shape, x.dtype, -1, 1) for k in keys])
    moved = jnp.sqrt((draws**2).sum((2, 3, 4))).max(0) * width
    np.testing.assert_allclose(found, moved / jnp.sqrt((x**2).sum((1, 2, 3))), rtol=1e-5)


def test_gini_by_hand():
    values = np.array([[0.0, 0.0, 0.0, 3.0], [1.0, 2.0, -3.0, 4.0]]).reshape(2, 2, 2)
    np.testing.assert_allclose(stability.gini(values), [0.75, 0.25])
    assert jnp.isfinite(jax.grad(lambda m: stability.gini(m).sum())(jnp.zeros((1, 2, 2)))).all()


def test_masks_and_pointing_take_what_they_say():
    before, after = np.array([0.0, 0.4, 0.5]), np.array([0.3, 0.2, 0.6])
    assert float(masking.average_drop(before, after)) == pytest.approx(0.5 / 3)
    assert float(masking.increase_in_confidence(before, after)) == pytest.approx(2 / 3)
    shown = masking.masked(jnp.ones((1, 2, 2, 3)), -jnp.ones((1, 2, 2)), baseline=5.0)
    np.testing.assert_array_equal(shown, 5.0)  # nothing is marked


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: jaxplain.score({}, brightness, X), "no method"),
        (lambda: jaxplain.score(LEFT[:2], brightness, X), "must be (3, h, w), not (2, 4, 4)"),
        (lambda: jaxplain.score(LEFT * np.nan, brightness, X), "NaN"),
        (lambda: jaxplain.score(LEFT, brightness, X[0]), "(B, H, W, C)"),
        (lambda: jaxplain.score(LEFT, brightness, X, [0, 1]), "one class for each of 3 images"),
        (lambda: jaxplain.score(LEFT, brightness, X, 0.5), "targets must be"),
        (lambda: jaxplain.score(LEFT, brightness, X, boxes=BOXES[:2]), "boxes for 2 images"),
        (lambda: jaxplain.score(LEFT, brightness, X, boxes=[()] * 3), "no image has a box"),
        (lambda: jaxplain.score(LEFT, brightness, X, steps=0), "steps"),
        (
            lambda: stability.max_sensitivity(abs, X, jax.random.key(0), samples=0),
            "samples",
        ),
        (lambda: stability.gini(np.zeros(3)), "(..., H, W)"),
        (lambda: masking.masked(X, LEFT[:2]), "(B, h, w)"),
    ],
)
def test_mistakes_are_said(call, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()
