"""The one form of every protocol's result."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jaxplain.core import Table
from jaxplain.evaluation.studies.report import Report


def test_a_report_is_written_with_what_the_caller_adds(tmp_path):
    details = {
        "images": np.int64(2),
        "methods": {"CAM": {"mean": jnp.asarray(0.5), "scores": np.array([0.0, np.nan])}},
        "alpha": float("inf"),
    }
    tables = [(head, Table([("CAM", 0.5)], ["method", "score"])) for head in ("First", "")]
    report = Report("game", "Game", tables, ["One.", "Two."], None, details, lambda report: report)
    named = report.about("net on data", failures=(("a.jpg", "cut short"),))
    assert report.title == "Game" and named.title == "Game: net on data"
    assert named.figure() is named
    table = "| method | score |\n| --- | ---: |\n| CAM | 0.5 |"
    assert str(named) == f"First\n\n{table}\n\n{table}\n\nOne.\nTwo."
    shown = report.about("<net>")._repr_html_()
    assert shown.startswith("<h4>Game: &lt;net&gt;</h4><p>First</p><table>")
    assert shown.endswith("<p>One.</p><p>Two.</p>")
    named.write(tmp_path / "new", "game", {"options": {"output": Path("x")}})
    assert (tmp_path / "new/game.md").read_text() == f"# Game: net on data\n\n{named}\n"
    assert json.loads((tmp_path / "new/game.json").read_text()) == {
        "title": "Game: net on data",
        "options": {"output": "x"},
        "protocol": "game",
        "images": 2,
        "methods": {"CAM": {"mean": 0.5, "scores": [0.0, None]}},
        "alpha": None,
        "failures": [["a.jpg", "cut short"]],
    }
    assert report.failures == () and report.about("x").failures == ()
