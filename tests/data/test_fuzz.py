"""A little of what tests/helpers/fuzz.py does: files that were changed at random are read."""

import fuzz
import pytest

pytest.importorskip("pycocotools", reason="needs the extra coco")


@pytest.mark.filterwarnings("ignore")
def test_changed_files_give_a_result_or_a_documented_error(tmp_path, capsys):
    good, tried, read_whole = fuzz.run(3000, 7, tmp_path)
    assert good, capsys.readouterr()
    assert sum(tried.values()) == 3000 and 100 < sum(read_whole.values()) < 2000
