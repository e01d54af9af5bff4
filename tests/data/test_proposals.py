"""Files of proposals and of boxes for phrases."""

import numpy as np
import pytest

from jaxplain.data import Record
from jaxplain.data.proposals import Proposals, read_phrase_boxes, read_proposals

RECORD = Record.make(np.zeros((6, 8, 3), np.uint8), "a")
BOXES = [[0, 1, 4, 5], [2, 2, 8, 6]]


def test_boxes_with_and_without_scores(tmp_path):
    np.savetxt(tmp_path / "a.csv", BOXES, delimiter=",")
    found = read_proposals(tmp_path, RECORD)
    assert found.boxes.tolist() == BOXES and found.masks is None and found.scores is None
    (tmp_path / "a.csv").unlink()
    np.savetxt(tmp_path / "a.txt", [[*box, k] for k, box in enumerate(BOXES)])
    found = read_proposals(tmp_path, RECORD)
    assert found.boxes.tolist() == BOXES and found.scores.tolist() == [0, 1]
    np.save(tmp_path / "a.npy", np.array(BOXES))  # before .txt
    assert read_proposals(tmp_path, RECORD).scores is None


def test_segments(tmp_path):
    masks = np.zeros((2, 6, 8), bool)
    masks[0, 1:4, 2] = masks[1, 5, 3:] = True
    np.savez_compressed(tmp_path / "a.npz", masks=masks)
    found = read_proposals(tmp_path, RECORD)
    assert found.boxes is None and found.scores is None and len(found) == 2
    np.testing.assert_array_equal(found.masks, masks)
    np.savez(tmp_path / "a.npz", masks=masks, scores=[3, 1])
    assert read_proposals(tmp_path, RECORD).scores.tolist() == [3, 1]
    masks[1] = False
    for arrays, said in (
        ({"boxes": masks}, r"must hold masks, and optionally scores, not \['boxes'\]"),
        ({"masks": masks * 1}, r"bool \(n, 6, 8\) like the image, not int64 \(2, 6, 8\)"),
        ({"masks": masks[:, :5]}, r"bool \(n, 6, 8\) like the image"),
        ({"masks": masks}, "a mask is empty"),
        ({"masks": masks[:1], "scores": [1, 2]}, "one finite number per mask"),
        ({"masks": masks[:1], "scores": [np.nan]}, "one finite number per mask"),
    ):
        np.savez(tmp_path / "a.npz", **arrays)
        with pytest.raises(ValueError, match=said):
            read_proposals(tmp_path, RECORD)


def test_boxes_of_phrases(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('"A red, round ball",0,1,4,5,0.5\n\na  man,2,2,8,6,1\nA Man,0,0,1,1,2\n')
    found = read_phrase_boxes(tmp_path, RECORD)
    assert set(found) == {"a red, round ball", "a man"}
    assert found["a man"].boxes.tolist() == [[2, 2, 8, 6], [0, 0, 1, 1]]
    assert found["a man"].scores.tolist() == [1, 2]
    for line in ("a man,1,2,3,4", "a man,1,2,3,4,x", "a man,1,2,3,4,inf"):
        path.write_text(f"a dog,0,0,1,1,1\n{line}\n")
        with pytest.raises(ValueError, match="line 2: not a phrase, left, top, right, bottom, sc"):
            read_phrase_boxes(tmp_path, RECORD)


def test_either_boxes_or_segments():
    assert len(Proposals(np.zeros((3, 4)))) == 3
    for both in ({}, {"boxes": np.zeros((1, 4)), "masks": np.ones((1, 6, 8), bool)}):
        with pytest.raises(ValueError, match="either boxes or masks"):
            Proposals(**both)


def test_no_file(tmp_path):
    with pytest.raises(ValueError, match="no proposals for the image a"):
        read_proposals(tmp_path, RECORD)
    with pytest.raises(ValueError, match=r"no boxes for the image a \(a.csv\)"):
        read_phrase_boxes(tmp_path, RECORD)
    (tmp_path / "a.txt").write_text("1 2 3\n")
    with pytest.raises(ValueError, match="one line per box: left, top, right, bottom, and opt"):
        read_proposals(tmp_path, RECORD)
