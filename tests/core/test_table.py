"""The one table, as text and as Markdown."""

from typing import NamedTuple

import numpy as np

from jaxplain.core import Table


class Row(NamedTuple):
    name: str
    shape: tuple[int, ...]
    count: int
    share: float | None


ROWS = [Row("a", (1, 2), 5, 0.25), Row("longer", (), 12, None), Row("|", (3,), 1, float("nan"))]


def test_numbers_stand_to_the_right_and_words_to_the_left():
    assert str(Table(ROWS)).splitlines() == [
        "name    shape  count  share",
        "a       1 x 2      5   0.25",
        "longer            12",
        "|       3          1      -",
    ]


def test_markdown_escapes_bars():
    lines = Table(ROWS).markdown().splitlines()
    assert lines[:2] == ["| name | shape | count | share |", "| --- | --- | ---: | ---: |"]
    assert lines[4] == r"| \| | 3 | 1 | - |"


def test_columns_and_form_can_be_given():
    rows = [("CAM", "0.5 (1 / 2)", np.float32(0.125)), ("LRP", "-", np.float32(2))]
    table = Table(rows, ["method", "hits", "error"], right=["hits"], form=".2f")
    assert str(table).splitlines() == [
        "method         hits  error",
        "CAM     0.5 (1 / 2)  0.12",
        "LRP               -  2.00",
    ]
    assert table.columns == ("method", "hits", "error") and table[1][0] == "LRP"


def test_tuples_of_fractions_are_no_shapes():
    rows = [("a", (0.25, 1 / 3)), ("b", (np.float32(0.5), 2))]
    assert str(Table(rows, ["image", "shares"], form=".3f")).splitlines() == [
        "image  shares",
        "a      0.250, 0.333",
        "b      0.500, 2",
    ]


def test_an_empty_table():
    assert str(Table()) == "(nothing)" and Table().columns == ()
    assert Table([], ["method"]).markdown() == "| method |\n| --- |"


def test_notebooks_get_escaped_html():
    table = Table([("<script>", 0.5), ("b & c", None)], ["method", "error"])
    text = table._repr_html_()
    assert "&lt;script&gt;" in text and "b &amp; c" in text and "<script>" not in text
    assert text.count("<tr>") == 3 and text.count('text-align: right">0.5<') == 1
    assert Table()._repr_html_() == "<p>(nothing)</p>"
