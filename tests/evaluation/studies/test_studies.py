"""The protocols over data sets, against the same written out for one image at a time."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import squares
from flax import nnx
from squares import SIZE, Net, Source, iou, stretched, to_input

from jaxplain import data, postprocess
from jaxplain.evaluation import similarity
from jaxplain.evaluation.studies import (
    faithfulness,
    localisation,
    sanity,
)
from jaxplain.evaluation.studies.questions import Questions, boxes_of
from jaxplain.evaluation.studies.questions import questions as asked_questions
from jaxplain.explainers import segmentation


def colour(x, signals):
    """How much of the class's colour there is: a method that needs no network."""
    return jnp.einsum("bhwc,bkc->bkhw", x, signals[..., :3])


@pytest.fixture(scope="module")
def records():
    return squares.records()


def questions(records, **options):
    return Questions(
        Source(records), stretched, np.eye(3, dtype=np.float32) * [1, 1, 0], batch_size=4, **options
    )


def asked_slowly(records):
    """(image, class, boxes in the square) of every question that can be asked."""
    for i, record in enumerate(records):
        for label in sorted(set(record.labels.tolist()) - {2}):
            scale = np.array([SIZE / record.size[1], SIZE / record.size[0]] * 2)
            yield i, label, record.boxes[record.labels == label] * scale


# -- localisation ----------------------------------------------------------------------------------


def test_dominant_objects_written_out(records):
    methods = {
        "colour": colour,
        "coarse": lambda x, s: colour(x, s).reshape(*s.shape[:2], 12, 4, 12, 4).mean((3, 5)) - 0.2,
    }
    held = localisation.held_out_images(12, 5)
    asked = questions(records)
    table = localisation.dominant_objects(asked, to_input, methods, held)
    assert asked.images == 12 and set(table.details["not_asked"]) == {"blue"}
    for name, method in methods.items():
        right = {True: [], False: []}
        for i, label, truth in asked_slowly(records):
            x = to_input(jnp.asarray(stretched(records[i])[None]))
            one = postprocess.resize(
                method(x, jnp.eye(3)[label][None, None]), (SIZE, SIZE), "bicubic"
            )
            one = np.maximum(np.asarray(one[0, 0]), 0)
            row = []
            for alpha in np.arange(21) / 2:
                at = np.argwhere(one > alpha * one.mean())
                box = [*at.min(0)[::-1], *(at.max(0)[::-1] + 1)] if len(at) else [0] * 4
                row.append(max(iou(box, t) for t in truth) >= 0.5)
            right[i in held].append(row)
        chosen = int(np.sum(right[True], 0).argmax())
        found = table.results[name]
        assert found.alpha == chosen / 2
        assert found.held_out == (tuple(np.sum(right[True], 0).tolist()), len(right[True]))
        assert (found.hits, found.trials) == (np.sum(right[False], 0)[chosen], len(right[False]))
    whole = sum(
        max(iou((0, 0, SIZE, SIZE), t) for t in truth) >= 0.5
        for i, _, truth in asked_slowly(records)
        if i not in held
    )
    assert table.results[localisation.WHOLE].hits == whole
    assert found.hits and "| colour |" in table.markdown() and json.dumps(table.to_json())


def test_graph_cut_written_out(records):
    table = localisation.graph_cut_objects(
        questions(records), to_input, {"colour": colour, "none": lambda x, s: colour(x, s) * 0}
    )
    hits = []
    for i, label, truth in asked_slowly(records):
        pixels = stretched(records[i])
        mask = segmentation.graph_cut(pixels[..., label] / 255.0, pixels)
        at = np.argwhere(mask)
        box = [*at.min(0)[::-1], *(at.max(0)[::-1] + 1)]
        hits.append(max(iou(box, t) for t in truth) >= 0.5)
    found = table.results["colour"]
    assert (found.hits, found.trials, found.empty) == (sum(hits), len(hits), 0)
    assert sum(hits) > len(hits) / 2
    assert (table.results["none"].hits, table.results["none"].empty) == (0, len(hits))
    assert f"none {len(hits)}" in table.markdown()
    with pytest.raises(ValueError, match="bad gave a map that is not finite"):
        localisation.graph_cut_objects(
            questions(records[:2]), to_input, {"bad": lambda x, s: colour(x, s) / 0}
        )


def test_graph_cut_of_the_best_predictions(records):
    """Four outputs, two of which are red's: a class counts by any that is among the two best."""
    signals = np.array([[0.5, 0, 0.5, 0], [0, 1, 0, 0], [0, 0, 0, 0]], np.float32)

    def outputs(x):  # red, green, and red and green a little elsewhere
        return jnp.stack([x[..., 0], x[..., 1], x[:, ::-1, :, 0], x[..., 2]], -1)

    def explain(x, asked_for):
        return jnp.einsum("bhwn,bkn->bkhw", outputs(x), asked_for)

    def predictions(x):
        return jax.lax.top_k(outputs(x).mean((1, 2)) * jnp.array([0.9, 1.1, 1, 0.95]), 2)[1]

    ranked = {  # boxes from elsewhere: the first is of red, the second the whole image's
        r.id: [(0, (0, 0, 9, 9)), (0, (0, 0, *r.size[::-1])), (1, (0, 0, *r.size[::-1]))]
        for r in records[:9]
    }

    def study(**options):
        asked = Questions(Source(records), stretched, signals, batch_size=4)
        return localisation.graph_cut_objects(
            asked, to_input, {"mine": explain}, given={"other": ranked}, **options
        )

    table = study(predictions=predictions)
    expected, whole, other, known = [], [], [], 0
    for i, label, truth in asked_slowly(records):
        pixels = stretched(records[i])
        x = to_input(jnp.asarray(pixels[None]))
        best = [n for n in np.asarray(predictions(x))[0] if signals[label][n]]
        known += bool(best)
        boxes = []
        for n in best:
            mask = segmentation.graph_cut(np.asarray(outputs(x))[0, ..., n], pixels)
            at = np.argwhere(mask)
            boxes.append([*at.min(0)[::-1], *(at.max(0)[::-1] + 1)])
        expected.append(any(iou(box, t) >= 0.5 for box in boxes for t in truth))
        covers = any(iou((0, 0, SIZE, SIZE), t) >= 0.5 for t in truth)
        whole.append(bool(best) and covers)
        other.append(label == 0 and i < 9 and covers)  # the second of two, of red only
    assert 0 < sum(expected) < known < len(expected)
    assert table.results["mine"].hits == sum(expected)
    assert table.results[localisation.WHOLE].hits == sum(whole)
    assert table.results["other"].hits == sum(other)
    assert (table.details["top"], table.details["known"]) == (2, known)
    assert f"among the network's 2 best in {known} of {len(expected)}" in table.markdown()
    # With the class given, it is its first box alone that counts.
    given = study().results["other"]
    small = [
        i < 9 and any(iou(box, t) >= 0.5 for t in truth)
        for i, label, truth in asked_slowly(records)
        for scale in [np.array([SIZE / records[i].size[1], SIZE / records[i].size[0]] * 2)]
        for box in [
            np.array((0, 0, 9, 9) if label == 0 else (0, 0, *records[i].size[::-1])) * scale
        ]
    ]
    assert (given.hits, given.trials) == (sum(small), len(small))


def test_localisation_needs_boxes_and_both_kinds_of_images(records):
    bare = data.Record.make(records[0].image, "bare", [0])
    with pytest.raises(ValueError, match="bare has neither boxes nor masks"):
        localisation.dominant_objects(questions([bare]), to_input, {}, [0])
    for held in ([], range(12)):
        with pytest.raises(ValueError, match="some must be, and some not"):
            localisation.dominant_objects(questions(records), to_input, {}, held)
    with pytest.raises(ValueError, match="1 to 4 can be held out, not 5"):
        localisation.held_out_images(5, 5)
    masks = data.boxes_to_masks([[3, 4, 9, 12]], records[0].size)
    only = data.Record.make(records[0].image, "masks", [0], None, masks)
    (question,) = asked_questions(data.Item(0, only, None))
    assert boxes_of(question).tolist() == [[3, 4, 9, 12]]
    with pytest.raises(ValueError, match="there was no question"):
        list(questions([data.Record.make(records[0].image, "a", [2], [[0, 0, 9, 9]])]))


# -- sanity and faithfulness -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(5)
    return jnp.asarray(rng.normal(size=(3, SIZE, SIZE, 3)), jnp.float32)


def test_randomisation_of_maps_that_do_and_do_not_use_the_network(images):
    net, key = Net(), jax.random.key(1)

    @nnx.jit
    def filtered(network, x, classes):
        hidden = jax.nn.relu(network.conv(x))
        return jnp.einsum("bhwc,cb->bhw", hidden, jnp.abs(network.head.kernel[...][:, classes]))

    methods = {"edges": lambda network, x, classes: jnp.abs(x[..., 0]), "filtered": filtered}
    study = sanity.randomisation_study(net, images, methods, key, batch_size=2)
    assert study.details["layers"] == ["head", "conv"] and study.details["images"] == 3

    @jax.jit
    def compare(a, b):
        scaled = [m / m.max((1, 2), keepdims=True) for m in (a, b)]
        return similarity.rank_correlation(a, b), similarity.ssim(*scaled)

    for mode, methods_found in study.results.items():
        for values in methods_found["edges"].values():
            np.testing.assert_allclose(values, 1, atol=1e-5)
        classes = net(images).argmax(-1)
        before = filtered(net, images, classes)
        copies = sanity.randomisations(net, images, key, cascading=mode == "cascading")
        for i, (_, other) in enumerate(copies):
            after = filtered(other, images, classes)
            for measure, expected in zip(
                ("rank_correlation", "ssim"), compare(before, after), strict=True
            ):
                got = methods_found["filtered"][measure][i]
                np.testing.assert_allclose(got, expected, atol=1e-4)
    assert study.results["cascading"]["filtered"]["ssim"][-1].mean() < 0.9
    text = study.markdown()
    assert "Cascading" in text and "Independent" in text
    assert "| edges | 1.00 / 1.00 / 1.00 |" in text
    with pytest.raises(ValueError, match="at least one method"):
        sanity.randomisation_study(net, images, {}, key)
    with pytest.raises(ValueError, match="modes must be of cascading"):
        sanity.randomisation_study(net, images, methods, key, modes=["all"])


def test_faithfulness_is_that_of_each_image(images):
    net = Net()
    classes = net(images).argmax(-1)

    def best(x, classes):
        return jnp.abs(x).sum(-1)[:, ::2, ::2]

    study = faithfulness.faithfulness_study(
        net, images, {"best": best}, steps=6, patch=16, flips=4, batch_size=2
    )
    maps = postprocess.resize(best(images, None), (SIZE, SIZE))
    for curve, options in (
        ("insertion", {"steps": 6}),
        ("deletion", {"steps": 6}),
        ("pixel_flipping", {"patch": 16, "steps": 4}),
    ):
        run = getattr(faithfulness, curve)
        for i, j in ((0, 1), (2, 2)):  # by twos: the programs that the study has compiled
            two = np.array([i, j])
            expected = run(net, images[two], maps[two], classes[two], **options)
            got = study.results[curve]["best"]
            np.testing.assert_allclose(got.scores[two], expected.scores, atol=1e-5)
            value = getattr(expected, faithfulness.CURVES[curve])
            summary = getattr(got, faithfulness.CURVES[curve])
            np.testing.assert_allclose(summary[two], value, atol=1e-5)
        random = study.results[curve][faithfulness.RANDOM]
        assert getattr(random, faithfulness.CURVES[curve]).shape == (3,)
    assert study.markdown().count("±") == 6 and json.dumps(study.to_json())
    with pytest.raises(ValueError, match="at least one method"):
        faithfulness.faithfulness_study(net, images, {})
