"""Reports on principal features, the new last layer, the comparison with fixations."""

from __future__ import annotations

import functools
import json

import jax
import jax.numpy as jnp
import nets
import numpy as np
import pytest

import jaxplain
from jaxplain.evaluation import fixations as fx
from jaxplain.evaluation.studies import features
from jaxplain.evaluation.studies.fixations import compare_with_fixations, fixated_pixels
from jaxplain.training.last_layer import LastLayer, confusion_matrix, last_layer_inputs

RED, GREEN, BLUE = np.eye(3, dtype=np.float32)


def patches(*colours, seed=0):
    """Grey noise with a 4 x 4 patch of one colour each: (B, 8, 8, 3)."""
    rng = np.random.default_rng(seed)
    x = 0.1 * rng.uniform(size=(len(colours), 8, 8, 3)).astype(np.float32)
    x[:, 2:6, 2:6] += np.stack(colours)[:, None, None]
    return jnp.asarray(x)


def colour_net(x):
    """Features are the colours themselves, through an identity convolution and a pool."""
    h = jaxplain.tag(jax.nn.relu(nets.conv(x, jnp.eye(3)[None, None])), "first")
    h = nets.conv(nets.max_pool(h, (2, 2), (2, 2)), jnp.eye(3)[None, None])
    return jaxplain.tag(jax.nn.relu(h), "last").mean((1, 2)) @ jnp.ones((3, 2))


VISUALISE = functools.partial(jaxplain.pfv, colour_net)


def complete(report, rows):
    """A report has all its forms, and its title is in the figure."""
    named = report.about("a network on a data set")
    assert report.markdown().count("\n| ") == rows + 1  # and the rule
    assert json.loads(json.dumps(named.to_json(), allow_nan=False))["protocol"] == report.protocol
    (axes,) = named.figure().axes
    assert axes.get_title() == named.title


# -- colours ----------------------------------------------------------------------------------


def test_histograms_and_shares_by_loops():
    rng = np.random.default_rng(1)
    colours, mask = rng.uniform(size=(2, 5, 4, 3)), rng.uniform(size=(2, 5, 4)) < 0.5
    histogram = features.colour_histogram(colours, mask, bins=4)
    shares = features.colour_shares(colours, mask)
    for b in range(2):
        pixels = colours[b][mask[b]]
        for c in range(3):
            expected = np.histogram(pixels[:, c], bins=4, range=(0, 1))[0] / len(pixels)
            assert np.allclose(histogram[b, c], expected)
            assert np.isclose(shares[b, c], pixels[:, c].sum() / pixels.sum())
    assert not np.asarray(features.colour_histogram(colours, np.zeros_like(mask))).any()


def test_histogram_distance_moves_mass():
    a = jnp.array([[1.0, 0, 0, 0, 0]])
    by_steps = [features.histogram_distance(a, jnp.roll(a, i, -1)).item() for i in range(5)]
    assert np.allclose(by_steps, [0, 0.25, 0.5, 0.75, 1])


# -- misclassification ------------------------------------------------------------------------


def test_misclassification_report_finds_the_missing_feature():
    """The failed image has the mistaken class's colour where its own class has another."""
    failed, right = patches(GREEN)[0], patches(RED, RED, RED, seed=1)
    wrong = patches(GREEN, GREEN, GREEN, seed=2)
    report = features.misclassification_report(VISUALISE, failed, right, wrong)
    assert [row.image for row in report.table[:2]] == ["failed", "true 1"]
    first = report.table[0]
    assert first.to_mistaken < 0.2 * first.to_true
    assert all(row.to_true < row.to_mistaken for row in report.table[1:4])
    found = report.results
    assert found.missing != found.misleading
    assert found.deviations[found.missing] < 0 < found.deviations[found.misleading]
    assert found.where_missing.shape == (3, 8, 8) and found.where_misleading.shape == (8, 8)
    inside = found.where_misleading[2:6, 2:6].sum() / found.where_misleading.sum()
    assert inside > 0.9
    complete(report, rows=7)
    with pytest.raises(ValueError, match="one image"):
        features.misclassification_report(VISUALISE, failed[None], right, wrong)


# -- transfer learning ------------------------------------------------------------------------


def test_transfer_report():
    """Two near hues are confused and have near colours; blue is neither."""
    rng = np.random.default_rng(0)
    hues = np.stack([RED, RED + 0.05 * GREEN, BLUE])
    labels = np.arange(60) % 3
    colours = hues[labels] + 0.1 * rng.normal(size=(60, 3)).astype(np.float32)
    x = patches(*colours)
    report = features.transfer_report(
        colour_net,
        VISUALISE,
        (x[:30], labels[:30]),
        (x[30:], labels[30:]),
        class_names=["red", "reddish", "blue"],
    )
    found = report.results
    assert found.confusion.sum() == 30 and found.confusion[2, 2] == 10
    assert found.confusion[0, 1] + found.confusion[1, 0] > 0
    by_name = {row.name: row for row in report.table}
    assert by_name["red"].nearest_colours == "reddish" and by_name["blue"].accuracy == 1.0
    assert found.agreement > 0.8
    complete(report, rows=3)
    with pytest.raises(ValueError, match="no training image of blue"):
        features.transfer_report(
            colour_net,
            VISUALISE,
            (x[:2], labels[:2]),
            (x, labels),
            class_names=["red", "reddish", "blue"],
        )


def test_the_last_layer_learns_and_stops():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 5)) * [1, 10, 100, 0.1, 0] + 3.1  # one of them constant
    labels = ((features - 3.1) / [1, 10, 100, 0.1, 1])[:, :3].argmax(-1)
    layer = LastLayer.fit(
        (features[:150], labels[:150]),
        (features[150:], labels[150:]),
        classes=3,
        learning_rate=0.05,
    )
    logits = np.asarray(layer(features[150:]))
    assert (logits.argmax(-1) == labels[150:]).mean() > 0.9
    assert layer.losses[0].tolist() == pytest.approx([np.log(3)] * 2, rel=1e-4)  # from zero
    # the weights are those of the lowest validation loss
    shifted = logits - logits.max(-1, keepdims=True)
    log_softmax = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    entropy = -log_softmax[np.arange(50), labels[150:]]
    assert entropy.mean() == pytest.approx(layer.losses[:, 1].min(), rel=1e-3)
    noise = rng.integers(0, 2, 40)  # nothing to learn: it stops long before max_steps
    early = LastLayer.fit(
        (rng.normal(size=(40, 5)), noise), (rng.normal(size=(40, 5)), noise), classes=2, patience=5
    )
    assert len(early.losses) < 100
    with pytest.raises(ValueError, match="from 0 to 1"):
        LastLayer.fit((features, labels), (features, labels), classes=2)


def test_last_layer_inputs_are_what_the_classifier_sees():
    params = {k: jnp.asarray(v, jnp.float32) for k, v in nets.convnet_params(0).items()}
    fn, x = nets.convnet(params), jnp.asarray(nets.images(0, batch=5), jnp.float32)
    inputs = last_layer_inputs(fn, x, batch_size=2)
    assert np.allclose(inputs @ params["dense"] + params["bias3"], fn(x), atol=1e-5)
    with pytest.raises(ValueError, match="does not end in a dense layer"):
        last_layer_inputs(lambda x: nets.conv(x, jnp.ones((1, 1, 3, 2))).mean((1, 2)), x)
    assert confusion_matrix([0, 1, 1], [1, 1, 0], 2).tolist() == [[0, 1], [1, 1]]


# -- Fig. 3 -----------------------------------------------------------------------------------


def test_untrained_networks_give_other_visualisations():
    x = jnp.asarray(nets.images(0, batch=4, size=16), jnp.float32)

    def visualise(seed):
        params = {k: jnp.asarray(v, jnp.float32) for k, v in nets.convnet_params(seed).items()}
        return jaxplain.pfv(nets.convnet(params), x)

    one, other = visualise(0), visualise(1)
    assert float(features.untrained_similarity(one, one)) == pytest.approx(1, abs=1e-4)
    assert float(features.untrained_similarity(one, other)) < 0.7
    flipped = one._replace(weighted=one.weighted[..., ::-1] * jnp.array([1.0, -2.0, 3.0]))
    assert float(features.untrained_similarity(one, flipped)) == pytest.approx(1, abs=1e-4)


# -- the comparison with fixations --------------------------------------------------------------


def test_fixated_pixels_are_the_top_of_the_density():
    density = jnp.asarray(np.random.default_rng(0).permutation(100).reshape(1, 10, 10), jnp.float32)
    assert np.array_equal(np.asarray(fixated_pixels(density)) > 0, np.asarray(density) >= 80)
    sparse = jnp.zeros((1, 10, 10)).at[0, 3, 4].set(1)
    assert float(fixated_pixels(sparse).sum()) == 1


def test_comparison_scores_each_image_alone():
    rng = np.random.default_rng(0)
    truth = jnp.asarray(rng.gamma(0.5, size=(5, 12, 10)), jnp.float32)
    x = jnp.concatenate([truth[..., None], jnp.asarray(rng.normal(size=(5, 12, 10, 1)))], -1)
    methods = {
        "noise": lambda x: x[..., 1],
        "both": lambda x: {"exact": 7 * x[..., 0], "coarse": x[:, ::2, ::2, 0]},
    }
    study = compare_with_fixations(methods, x, truth, batch_size=2)
    assert {row.method for row in study.table} == {"exact", "coarse", "noise"}
    assert study.table[0].method == "exact"
    assert study.table[0].mae == pytest.approx(0, abs=1e-6)
    assert study.table[0].cc == pytest.approx(1, abs=1e-5)
    for i in range(5):
        noise = np.maximum(np.asarray(x[i, ..., 1]), 0)
        noise, density = noise / noise.max(), np.asarray(truth[i] / truth[i].max())
        found = {k: v[i] for k, v in study.results["noise"].items()}
        assert found["mae"] == pytest.approx(np.abs(noise - density).mean(), rel=1e-5)
        correlation = np.corrcoef(noise.ravel(), density.ravel())[0, 1]
        assert found["cc"] == pytest.approx(correlation, abs=1e-5)
        top = density >= np.sort(density.ravel())[-24]
        area = float(fx.auc_judd(noise, top.astype(float)))
        assert found["auc_judd"] == pytest.approx(area, rel=1e-5)
    points = (truth > 2).astype(jnp.float32).at[:, 0, 0].set(1)
    given = compare_with_fixations({"noise": methods["noise"]}, x, truth, points)
    assert given.results["noise"]["nss"] == pytest.approx(
        np.asarray(fx.nss(jax.nn.relu(x[..., 1]), points)), rel=1e-4
    )


def test_images_of_different_sizes_are_scored_at_their_own():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, 8, 8, 1)), jnp.float32)
    shapes = [(12, 10), (9, 16), (12, 10)]
    truth = [rng.gamma(0.5, size=shape).astype(np.float32) for shape in shapes]
    points = [(one > 1).astype(np.float32) for one in truth]
    methods = {"one": lambda x: x[..., 0], "two": lambda x: -x[:, ::2, ::2, 0]}
    together = compare_with_fixations(methods, x, truth, points, batch_size=2).results
    for i in range(3):
        alone = compare_with_fixations(
            methods, x[i : i + 1], truth[i][None], points[i][None]
        ).results
        for name in methods:
            for score, values in together[name].items():
                assert values.shape == (3,)
                assert values[i] == pytest.approx(alone[name][score][0], rel=1e-5)
    with pytest.raises(ValueError, match="the shapes of truth"):
        compare_with_fixations(methods, x, truth, points[1:] + points[:1])


def test_comparison_errors(capsys):
    truth, x = jnp.ones((2, 4, 4)), jnp.ones((2, 4, 4, 1))
    good = {"good": lambda x: x[..., 0]}
    with pytest.raises(ValueError, match="methods is empty"):
        compare_with_fixations({}, x, truth)
    with pytest.raises(ValueError, match="truth"):
        compare_with_fixations(good, x, truth[:1])
    with pytest.raises(ValueError, match="positive somewhere"):
        compare_with_fixations(good, x, truth.at[1].set(0))
    with pytest.raises(ValueError, match="bad gave a map that is not finite"):
        compare_with_fixations({"bad": lambda x: x[..., 0] / 0}, x, truth)
    with pytest.raises(ValueError, match="bad must give maps"):
        compare_with_fixations({"bad": lambda x: x}, x, truth)
    seen = []
    compare_with_fixations(good, x, truth, progress=lambda *counts: seen.append(counts))
    assert seen == [(1, 1)] and capsys.readouterr() == ("", "")


@pytest.mark.parametrize("listed", [False, True])
def test_the_commands_data(tmp_path, listed):
    """Maps as pictures, or lists of fixations, beside the photographs."""
    Image = pytest.importorskip("PIL.Image")
    from jaxplain import data
    from jaxplain.cli.protocols.fixations import load
    from jaxplain.models import ModelConfig

    (tmp_path / "images").mkdir()
    (tmp_path / "looked").mkdir()
    photo = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    Image.fromarray(photo).save(tmp_path / "images" / "a.png")
    if listed:
        (tmp_path / "looked" / "a.csv").write_text("x,y,duration\n60,15,200\n60,15,100\n999,0,9\n")
    else:
        density = np.zeros((60, 80), np.uint8)
        density[10:20, 55:65] = 200
        Image.fromarray(density).save(tmp_path / "looked" / "a.png")
    config = ModelConfig("net", 32, (0.0,), (255.0,))
    source = data.Fixations(tmp_path / "images", tmp_path / "looked")
    x, truth, points, failures = load(source, range(1), config)
    assert failures == ()
    assert x.shape == (1, 32, 32, 3) and [one.shape for one in truth] == [(60, 80)]
    row, column = np.unravel_index(truth[0].argmax(), (60, 80))
    assert abs(row - 15) <= 5 and abs(column - 60) <= 5
    assert (points is None) != listed
    if listed:
        assert points[0].shape == (60, 80)
        assert points[0].sum() == 2 and points[0][15, 60] == 2
    # Lists beside maps: neither NSS nor AUC would mean the same for all.
    Image.fromarray(photo).save(tmp_path / "images" / "b.png")
    if listed:
        Image.fromarray(photo[..., 0]).save(tmp_path / "looked" / "b.png")
    else:
        (tmp_path / "looked" / "b.csv").write_text("60,15,200\n")
    source = data.Fixations(tmp_path / "images", tmp_path / "looked")
    with pytest.raises(ValueError, match="1 of 2 images have lists of fixations and the others"):
        load(source, range(2), config)
