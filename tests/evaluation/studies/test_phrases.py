"""Phrase localisation, against the protocol written out for one image at a time."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import squares
from squares import SIZE, Source, iou, stretched, to_input

from jaxplain import data
from jaxplain.data.proposals import Proposals, phrase_key
from jaxplain.data.words import Words
from jaxplain.evaluation.studies import phrase_answers, phrases


@pytest.fixture(scope="module")
def records():
    return squares.records()


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
        return Proposals(None, data.boxes_to_masks(boxes, record.size), scores)

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
