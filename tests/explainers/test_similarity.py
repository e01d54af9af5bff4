"""NAFlow of embeddings: the contribution weights, and the registry's embedding networks."""

from __future__ import annotations

import hypothesis
import hypothesis.extra.numpy as arrays
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import strategies as st
from PIL import Image
from small_network import filled, foreign

import jaxplain
from examples import similarity
from jaxplain import weights_convert as wc
from jaxplain.models.entries import ENTRIES

NUMBERS = st.floats(-1e4, 1e4, width=32)
VECTORS = st.sampled_from([1, 5]).flatmap(
    lambda n: st.tuples(*[arrays.arrays(np.float32, n, elements=NUMBERS)] * 2)
)


@hypothesis.given(VECTORS)
@hypothesis.settings(max_examples=30, deadline=None)
def test_contribution_weights_are_shares_of_one(vectors):
    a, b = vectors
    weights = np.asarray(jaxplain.contribution_weights(jnp.asarray(a), jnp.asarray(b)))
    terms = abs(a.astype(np.float64) * b)
    hypothesis.assume(terms.max() == 0 or terms.max() > 1e-30)  # else float32 has no such product
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(float(terms.max() > 0), abs=1e-5)
    assert np.allclose(weights, terms / max(terms.sum(), 1e-300), atol=1e-6)


def images(size, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(2, size, size, 3)), jnp.float32)


def build(name, dtype=None):
    entry = ENTRIES[name]
    return wc.abstract(lambda rngs: entry.build(entry.outputs, dtype=dtype, rngs=rngs))


def explain(network, layers):
    """NAFlow as a function of the network's state, images and references."""
    graph = nnx.graphdef(network)
    solver = jaxplain.LeastSquares(tolerance=1e-2, iterations=20)
    return lambda state, x, r: jaxplain.naflow_similarity(
        nnx.merge(graph, state), x, r, layer=layers, solver=solver
    )


@pytest.mark.parametrize("name, last", [("conv4net", "pool4"), ("conv64f", "conv4")])
def test_few_shot_networks(name, last):
    network, x, r = filled(build(name)), images(32), images(32, 1)
    layers, state = (last, "conv3"), nnx.state(network)
    run = jax.jit(explain(network, layers))  # the user's own
    maps = run(state, x, r)
    # The embedding is the last features themselves: the map holds every w_k x_k once.
    e, other = jnp.split(jax.jit(network)(jnp.concatenate([x, r])), 2)
    weights = abs(e * other) / abs(e * other).sum(1, keepdims=True)
    assert np.allclose(maps[last].sum((1, 2)), (weights * e).sum(1), rtol=1e-4)
    alone = run(state, x[::-1], r[::-1])  # an image's map does not depend on its place in the batch
    short = jax.jit(explain(build(name, jnp.bfloat16), layers))(
        state, x.astype(jnp.bfloat16), r.astype(jnp.bfloat16)
    )
    for layer in layers:
        assert np.allclose(alone[layer][::-1], maps[layer], rtol=1e-3, atol=1e-6)
        assert short[layer].dtype == jnp.bfloat16 and jnp.isfinite(short[layer]).all()
        a, b = (np.asarray(m[layer], np.float32).ravel() for m in (maps, short))
        assert np.corrcoef(a, b)[0, 1] > 0.9


def test_resnet18_npid_in_bfloat16():
    state, layers = nnx.state(filled(build("resnet18_npid"))), ("layer4.1", "layer4.0")
    x, r = images(64).astype(jnp.bfloat16), images(64, 1).astype(jnp.bfloat16)
    maps = jax.jit(explain(build("resnet18_npid", jnp.bfloat16), layers))(state, x, r)
    for m in maps.values():
        assert m.dtype == jnp.bfloat16 and m.shape == (2, 2, 2)
        assert jnp.isfinite(m).all() and abs(m).max() > 0


@pytest.mark.parametrize("name", ["resnet50_npid", "resnet50_ms"])
def test_shapes_of_resnet50(name):
    network, x = build(name), jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    shapes = jax.eval_shape(explain(network, ("layer4.2", "layer3.5")), nnx.state(network), x, x)
    assert {layer: s.shape for layer, s in shapes.items()} == {
        "layer4.2": (2, 2, 2),
        "layer3.5": (2, 4, 4),
    }


# ---- the example --------------------------------------------------------------------------------


def unit(seed, rows, length=6):
    v = np.random.default_rng(seed).normal(size=(rows, length)).astype(np.float32)
    return v / np.linalg.norm(v, axis=1, keepdims=True)


def test_multi_similarity_pair_by_pair():
    e, labels = unit(0, 12), np.repeat([0, 1, 2], 4)
    s, total = e @ e.T, 0.0
    for i in range(12):
        alike = [s[i, j] for j in range(12) if j != i and labels[j] == labels[i]]
        other = [s[i, j] for j in range(12) if labels[j] != labels[i]]
        hard = [v for v in alike if v < max(other) + 0.1]
        near = [v for v in other if v > min(alike) - 0.1]
        total += np.log(1 + sum(np.exp(-2 * (v - 0.5)) for v in hard)) / 2
        total += np.log(1 + sum(np.exp(50 * (v - 0.5)) for v in near)) / 50
    loss = similarity.MultiSimilarity(6)(jnp.asarray(e), jnp.asarray(labels))
    assert float(loss) == pytest.approx(total / 12, rel=1e-4)


def test_instance_discrimination_remembers():
    objective = similarity.InstanceDiscrimination(6)
    before, e, index = np.array(objective.memory[...]), unit(1, 3), np.array([5, 0, 9])
    loss = objective(jnp.asarray(e), index)
    p = np.exp(e @ before.T / objective.temperature)
    p = p[np.arange(3), index] / p.sum(1)
    assert float(loss) == pytest.approx(-np.log(p).mean(), rel=1e-4)
    moved = before[index] + e
    before[index] = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    assert np.allclose(objective.memory[...], before, atol=1e-6)


def test_prototypes_prefer_their_class():
    objective = similarity.Prototypes(6)
    classes = np.repeat(np.eye(similarity.CLASSES, 6, dtype=np.float32), objective.count, axis=0)
    labels = np.repeat(np.arange(similarity.CLASSES), objective.count)
    right = float(objective(jnp.asarray(classes), labels))
    assert right == pytest.approx(
        np.log1p((similarity.CLASSES - 1) * np.exp(-objective.scale)), abs=1e-6
    )
    assert float(objective(jnp.asarray(unit(2, len(labels))), labels)) > 1


def test_a_sheet_of_the_users_weights_and_pictures(tmp_path, capsys):
    weights, files = tmp_path / "conv4net.npz", [tmp_path / "a.png", tmp_path / "b.png"]
    np.savez(weights, **foreign("conv4net"))
    for i, file in enumerate(files):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (30, 40, 3), np.uint8)).save(file)
    call = ["--weights", f"conv4net={weights}", "--images", *map(str, files)]
    similarity.main([*call, "--out", str(tmp_path)])
    with Image.open(tmp_path / "similarity_conv4net.jpg") as picture:
        assert picture.width > 1000 and np.asarray(picture).std() > 10
    for wrong, message in (
        (call[:2], "belong together"),
        (["--weights", "vgg16=x", *call[2:]], "--weights takes resnet18_npid"),
    ):
        with pytest.raises(SystemExit):
            similarity.main(wrong)
        assert message in capsys.readouterr().err
