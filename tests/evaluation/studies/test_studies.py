"""The protocols over data sets, against the same written out for one image at a time."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from squares import SIZE, Net, picture

from jaxplain import data, postprocess
from jaxplain.data.proposals import Proposals, phrase_key
from jaxplain.data.words import Words
from jaxplain.evaluation import similarity
from jaxplain.evaluation.studies import (
    faithfulness,
    localisation,
    phrase_answers,
    phrases,
    sanity,
)
from jaxplain.evaluation.studies.questions import Questions, boxes_of
from jaxplain.evaluation.studies.questions import questions as asked_questions
from jaxplain.explainers import segmentation

pytestmark = pytest.mark.usefixtures("quick_compile")


def colour(x, signals):
    """How much of the class's colour there is: a method that needs no network."""
    return jnp.einsum("bhwc,bc->bhw", x, signals[:, :3])


@pytest.fixture(scope="module")
def records():
    """Twelve images with one or two objects of three classes, one of them never known."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(12):
        shape = ((60, 90), (80, 50), (64, 64))[i % 3]
        objects = []
        for _ in range(1 + i % 2):
            side = int(rng.integers(20, 45))
            left, top = (int(rng.integers(0, n - side)) for n in (shape[1], shape[0]))
            objects.append((int(rng.integers(0, 3)), left, top, left + side, top + side))
        labels, boxes = [o[0] for o in objects], [o[1:] for o in objects]
        made.append(data.Record.make(picture(rng, shape, objects), f"{i}", labels, boxes))
    return made


class Source(list):
    name, class_names = "squares", ("red", "green", "blue")


def stretched(record):
    return data.resize_image(record.image, (SIZE, SIZE))


def to_input(pixels):
    return pixels.astype(jnp.float32) / 255


def questions(records, **options):
    return Questions(
        Source(records), stretched, np.eye(3, dtype=np.float32) * [1, 1, 0], batch_size=4, **options
    )


def iou(a, b):
    sides = [min(a[k + 2], b[k + 2]) - max(a[k], b[k]) for k in (0, 1)]
    common = max(sides[0], 0) * max(sides[1], 0)
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return common / (sum(areas) - common) if sum(areas) > common else 0.0


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
        "coarse": lambda x, s: colour(x, s).reshape(-1, 12, 4, 12, 4).mean((2, 4)) - 0.2,
    }
    held = localisation.held_out_images(12, 5)
    asked = questions(records)
    table = localisation.dominant_objects(asked, to_input, methods, held)
    assert asked.images == 12 and set(table.details["not_asked"]) == {"blue"}
    for name, method in methods.items():
        right = {True: [], False: []}
        for i, label, truth in asked_slowly(records):
            x = to_input(jnp.asarray(stretched(records[i])[None]))
            one = postprocess.resize(method(x, jnp.eye(3)[label][None]), (SIZE, SIZE), "bicubic")
            one = np.maximum(np.asarray(one[0]), 0)
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
        questions(records), to_input, {"colour": colour, "none": lambda x, s: x[..., 0] * 0}
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
            questions(records[:2]), to_input, {"bad": lambda x, s: x[..., 0] / 0}
        )


def test_graph_cut_of_the_best_predictions(records):
    """Four outputs, two of which are red's: a class counts by any that is among the two best."""
    signals = np.array([[0.5, 0, 0.5, 0], [0, 1, 0, 0], [0, 0, 0, 0]], np.float32)

    def outputs(x):  # red, green, and red and green a little elsewhere
        return jnp.stack([x[..., 0], x[..., 1], x[:, ::-1, :, 0], x[..., 2]], -1)

    def explain(x, asked_for):
        return jnp.einsum("bhwn,bn->bhw", outputs(x), asked_for)

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


# -- phrases ---------------------------------------------------------------------------------------


def with_phrases(records):
    """A phrase an object, one about all of them, and some that cannot be asked."""
    names = ("a red thing", "the green ones", "blue sky")
    made = []
    for record in records:
        objects = list(range(len(record.labels)))
        own = [data.Phrase(names[record.labels[k]], ("other",), (k,)) for k in objects]
        own.append(data.Phrase("Red and GREEN things", ("scene", "other"), tuple(objects)))
        own.append(data.Phrase("a red nothing", ("scene",), ()))
        made.append(
            data.Record.make(
                record.image, record.id, record.labels, record.boxes, phrases=tuple(own)
            )
        )
    return Source(made)


def play_phrases(source, held, gammas):
    """{gamma: [(held, small, text, groups, hits, detections, positives)]}, phrase by phrase."""
    found = {g: [] for g in gammas}
    for i, record in enumerate(source):
        scale = np.array([SIZE / record.size[1], SIZE / record.size[0]] * 2)
        boxes = proposed(record).astype(float) * scale
        pixels = stretched(record) / 255.0
        for phrase in record.phrases:
            channels = [k for k, word in enumerate(("red", "green")) if word in phrase.text.lower()]
            if not phrase.objects or not channels:
                continue
            one = pixels[..., channels].mean(-1)
            truth = record.boxes[list(phrase.objects)] * scale
            whole = [*truth[:, :2].min(0), *truth[:, 2:].max(0)]
            small = (whole[2] - whole[0]) * (whole[3] - whole[1]) < SIZE * SIZE / 4
            centres = np.arange(SIZE) + 0.5
            for gamma in gammas:
                scores = []
                for box in boxes:
                    rows = (box[1] <= centres) & (centres < box[3])
                    columns = (box[0] <= centres) & (centres < box[2])
                    inside = one[rows][:, columns]
                    scores.append(inside.sum() / max(inside.size, 1) ** gamma)
                stays = []
                for k in sorted(range(len(boxes)), key=lambda k: -scores[k]):
                    if all(iou(boxes[k], boxes[j]) <= 0.7 for j in stays):
                        stays.append(k)
                hits = [any(iou(boxes[k], whole) >= 0.5 for k in stays[:n]) for n in (1, 5, 10)]
                taken, detections = set(), []
                for k in stays:
                    overlaps = [iou(boxes[k], t) for t in truth]
                    best = int(np.argmax(overlaps))
                    right = overlaps[best] >= 0.5 and best not in taken
                    taken |= {best} if right else set()
                    detections.append((scores[k], right))
                found[gamma].append(
                    (
                        i in held,
                        small,
                        phrase.text.lower(),
                        phrase.groups,
                        hits,
                        detections,
                        len(truth),
                    )
                )
    return found


def proposed(record):
    return phrases.sliding_boxes(record).boxes[::13]


def slow_ap(own):
    detections = sorted((d for one in own for d in one[5]), key=lambda d: -d[0])
    right = np.cumsum([r for _, r in detections])
    precision = right / np.arange(1, len(detections) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return sum(b for b, (_, r) in zip(best, detections, strict=True) if r) / sum(o[6] for o in own)


def test_phrases_written_out(records):
    source = with_phrases(records)
    words = Words(["pure red", "green", "cup"])
    held = {1, 4, 7}
    table = phrases.phrase_study(
        source,
        stretched,
        to_input,
        words,
        {"colour": lambda x, s: jnp.einsum("bhwc,bkc->bkhw", x, s[..., :3])},
        held,
        proposals={"": lambda record: Proposals(proposed(record))},
    )
    gammas = (0.0, 0.25, 0.5, 0.75, 1.0)
    slow = play_phrases(source, held, gammas)
    recalls = [np.mean([p[4] for p in slow[g] if p[0]]) for g in gammas]
    gamma, everything, small = table.results["colour"]
    assert gamma == gammas[int(np.argmax(recalls))]
    tested = [p for p in slow[gamma] if not p[0]]
    counts = table.details
    assert counts["phrases"] == len(tested)
    assert counts["small"] == sum(p[1] for p in tested) > 0
    assert counts["held_out"] == len(slow[gamma]) - len(tested)
    assert counts["unknown"] == sum((r.labels == 2).sum() for r in source)  # "blue sky"
    for scores, own in ((everything, tested), (small, [p for p in tested if p[1]])):
        assert scores.recall == pytest.approx(np.mean([p[4] for p in own], axis=0))
        texts = {p[2] for p in own}
        aps = [slow_ap([p for p in own if p[2] == text]) for text in texts]
        assert scores.phrase_ap == pytest.approx(np.mean(aps), abs=1e-5)
        groups = {g for p in own for g in p[3]}
        aps = [slow_ap([p for p in own if g in p[3]]) for g in groups]
        assert scores.group_ap == pytest.approx(np.mean(aps), abs=1e-5)
        at5 = {g: np.mean([p[4][1] for p in own if g in p[3]]) for g in groups}
        assert scores.group_recall == pytest.approx(at5)
    assert 0 < everything.recall[0] < everything.recall[2]
    assert "| colour |" in table.markdown() and json.dumps(table.to_json(), allow_nan=False)
    with pytest.raises(ValueError, match="some must be, and some not"):
        phrases.phrase_study(source, stretched, to_input, words, {}, [])
    with pytest.raises(ValueError, match="no proposal for the image 0"):
        phrases.phrase_study(
            source,
            stretched,
            to_input,
            words,
            {},
            [1],
            proposals={"": lambda record: Proposals(np.zeros((0, 4), np.float32))},
        )


def ranked(boxes, scores):
    """What non-maximum suppression leaves, the best first; written out."""
    stays = []
    for k in sorted(range(len(boxes)), key=lambda k: -scores[k]):
        if all(iou(boxes[k], boxes[j]) <= 0.7 for j in stays):
            stays.append(k)
    return stays


def test_sets_of_proposals_their_own_scores_and_boxes_of_others(records):
    """The rows of Table 6: methods on segments and on boxes, MCG_base, and CCA."""
    source = with_phrases([r for r in records if r.size == records[0].size][:4])
    words = Words(["pure red", "green", "cup"])

    def scores_of(record):
        return np.random.default_rng(int(record.id)).normal(size=len(proposed(record)))

    def segments(record):
        boxes = proposed(record)
        scores = scores_of(record).astype(np.float32)
        return Proposals(boxes, data.boxes_to_masks(boxes, record.size), scores)

    def others(record):  # right for what is red, elsewhere the corner
        return {
            phrase_key(p.text): Proposals(
                np.array([[0, 0, 3, 3], record.boxes[p.objects[0]]], np.float32)[
                    :: -1 if "red" in p.text.lower() else 1
                ][:1],
                None,
                np.ones(1, np.float32),
            )
            for p in record.phrases
            if p.objects and "green" not in p.text.lower()
        }

    def study(*held, **options):
        return phrases.phrase_study(
            source,
            lambda record: record.image,
            to_input,
            words,
            {"colour": lambda x, s: jnp.einsum("bhwc,bkc->bkhw", x, s[..., :3])},
            *held,
            proposals={"MCG": segments, "EB": lambda r: Proposals(proposed(r))},
            given={"CCA": others},
            **options,
        )

    table = study({0})
    rows = table.results
    assert list(rows) == [
        *("Uniform map (MCG)", "colour (MCG)", "MCG base"),
        *("Uniform map (EB)", "colour (EB)", "CCA"),
    ]
    # Segments that are boxes score as these boxes.
    assert rows["colour (MCG)"].gamma == rows["colour (EB)"].gamma
    one, other = (rows[f"colour ({kind})"].everything for kind in ("MCG", "EB"))
    assert one.recall == other.recall and one.group_recall == other.group_recall
    assert one.phrase_ap == pytest.approx(other.phrase_ap)
    # Their own scores rank all phrases alike.
    base, cca = [], []
    for record in source[1:]:
        stays = ranked(proposed(record), scores_of(record))
        for phrase in record.phrases:
            if phrase.objects and any(word in phrase.text.lower() for word in ("red", "green")):
                own = record.boxes[list(phrase.objects)]
                whole = [*own[:, :2].min(0), *own[:, 2:].max(0)]
                boxes = proposed(record)
                base.append(
                    [any(iou(boxes[k], whole) >= 0.5 for k in stays[:n]) for n in (1, 5, 10)]
                )
                right = "green" not in phrase.text.lower() and iou(own[0], whole) >= 0.5
                cca.append(right)
    assert rows["MCG base"].everything.recall == pytest.approx(np.mean(base, axis=0))
    assert np.isnan(rows["MCG base"].gamma) and np.isnan(rows["CCA"].gamma)
    assert 0 < np.mean(cca) < 1
    assert rows["CCA"].everything.recall == pytest.approx([np.mean(cca)] * 3)
    assert "| MCG base | - |" in table.markdown() and "| CCA | - |" in table.markdown()
    json.dumps(table.to_json(), allow_nan=False)

    # Gamma from another split: the same that these records give as held-out ones.
    tuned = study(tuning=(source, [0]), indices=[1, 2, 3]).results
    assert tuned.keys() == rows.keys()
    for name, found in rows.items():
        assert tuned[name].everything == found.everything
        np.testing.assert_equal(tuned[name].gamma, found.gamma)
    with pytest.raises(ValueError, match="scores and others none"):
        phrases.phrase_study(
            *(source, lambda record: record.image, to_input, words, {}, {0}),
            proposals={"": lambda r: segments(r) if r is source[0] else Proposals(proposed(r))},
        )


def test_segments_are_scored_at_the_inputs_size():
    """A diagonal band and a ring, in a picture that is twice as large as the input."""
    rng = np.random.default_rng(0)
    maps = jnp.asarray(rng.uniform(size=(2, 12, 16)), jnp.float32)
    y, x = np.mgrid[:24, :32]
    masks = np.stack([abs(x - y) < 4, (abs(x - 15) + abs(y - 12) < 11) & (x > 9)])
    sized = phrase_answers._sized(masks, 64, (12, 16))
    assert sized.shape == (64, 12, 16) and not sized[2:].any()
    np.testing.assert_array_equal(sized[:2], masks[:, 1::2, 1::2])  # where the centres lie
    shares = np.array([[1, 0], [0.5, 0.5]], np.float32)
    found = phrase_answers._map_scores(maps, shares, sized, (12, 16))
    for p, share in enumerate(shares):
        one = np.einsum("k,khw->hw", share, maps)
        for g, gamma in enumerate((0, 0.25, 0.5, 0.75, 1)):
            for n in range(2):
                expected = one[sized[n]].sum() / sized[n].sum() ** gamma
                assert float(found[p, g, n]) == pytest.approx(expected, rel=1e-5)
    assert np.isneginf(found[..., 2:]).all()


def test_words():
    names = [f"thing {i}" for i in range(1000)]
    words = Words(names, {"hot": [7], "dog": [], "kite": ["Thing 9", 11]})
    assert words.signal("cats").nonzero()[0].tolist() == list(range(281, 286))  # VOC's table
    assert words.signal("dog") is None and words.signal("dogs") is None  # taken away
    assert words.signal("kites").nonzero()[0].tolist() == [9, 11]
    assert words.signal("thing").sum() == pytest.approx(1, abs=1e-5)
    assert Words(["fairy", "wolf", "bus"]).known("Two fairies, wolves: buses") == [
        "fairies",
        "wolves",
        "buses",
    ]
    with pytest.raises(ValueError, match="'ship' names the class 'boat'"):
        Words(["cup"], {"ship": ["boat"]})
    with pytest.raises(ValueError, match="there are none"):
        Words([])


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
