"""docs/scale.md: its commands are commands, and its table is what the measured numbers come to."""

import re
import shlex
from pathlib import Path

import pytest

from benchmarks.scale import estimate, table
from jaxplain.cli.main import _parser

TEXT = (Path(__file__).parents[2] / "docs" / "scale.md").read_text("utf-8")


def commands():
    text = re.sub(r"\\\n\s*|\n\s*--output", lambda m: " --output" * m[0].endswith("put"), TEXT)
    for found in re.findall(r"jaxplain (explain-dataset --.*?)(?:'\n|\"\n|\n|`)", text):
        yield re.sub(r"\$\(\([^)]*\)\)", "13", found).rstrip("'\"")


@pytest.mark.parametrize("command", list(commands()))
def test_commands(command):
    arguments = _parser().parse_args(shlex.split(command))
    assert arguments.data and arguments.output


def test_there_are_commands_for_every_kind_of_machine():
    found = list(commands())
    for words in ("--distributed", "--shards 13:13", "--on ray://HEAD:10001", "gs://BUCKET/maps"):
        assert any(words in command for command in found), words
    assert len(found) >= 6


def test_the_table_is_that_of_the_measured_numbers():
    rate, size = re.search(r"--maps-per-second ([\d.]+) --bytes-per-map ([\d.]+)`", TEXT).groups()  # pyright: ignore[reportOptionalMemberAccess]
    assert f"{rate} maps a second, {size} bytes a map" in TEXT.replace("\n", " ")
    rows = [
        estimate(
            images,
            machines,
            maps_per_second=float(rate),
            bytes_per_map=float(size),
            bytes_per_image=110_000,
            shard_size=shard_size,
        )
        for images, shard_size in ((1_300_000, 1024), (1_000_000_000, 16384))
        for machines in (1, 64, 1024)
    ]
    assert table(rows) in TEXT
    billion = rows[-1]
    # Whatever the machines, each image is explained once, and each shard written once.
    assert billion.shards == 61_036 and billion.puts == billion.shards + 1
    assert rows[0].hours == pytest.approx(1_300_000 / float(rate) / 3600)
    assert rows[3].hours / rows[4].hours == pytest.approx(64, rel=0.01)
