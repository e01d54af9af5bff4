"""The benchmarks run, on a network and with sizes that are small enough for a test."""

import json

import pytest

from benchmarks import gpu, growth, speed


def test_speed_writes_and_compares(tmp_path, capsys):
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    asked = ["--networks", "resnet18", "--methods", "forward", "gradient", "--repeat", "1"]
    speed.main([str(first), *asked])
    speed.main([str(second), *asked, "--beside", str(first)])
    row = json.loads(second.read_text())["resnet18"]["gradient"]
    assert row["flops"] > 3e9 and row["bytes"] > 0 and row["seconds"] > 0
    assert "| resnet18 | gradient | " in capsys.readouterr().out


def test_growth_is_a_table_with_exponents(capsys):
    growth.main(["--network", "resnet18", "--axes", "side", "--largest", "128"])
    *_, last, exponents = capsys.readouterr().out.strip().splitlines()
    assert last.startswith("| 128 |")
    forward, *_ = (float(cell) for cell in exponents.strip("| ").split("|")[1:])
    assert forward == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize(("memory", "timed"), [(0, False), (1, True)])
def test_growth_times_what_fits(memory, timed, capsys, monkeypatch):
    monkeypatch.setattr(growth, "METHODS", {"forward": growth.METHODS["forward"]})
    asked = ["--network", "resnet18", "--axes", "side", "--largest", "64"]
    growth.main([*asked, "--repeat", "1", "--memory", str(memory)])
    head, _, row, _ = capsys.readouterr().out.strip().splitlines()[-4:]
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in (head, row)]
    assert (dict(zip(*cells, strict=True))["forward, ms"] != "-") == timed


def test_exponents_leave_out_what_was_not_timed():
    assert growth.exponent([1, 2, 4, 8], [3, 6, 12, float("nan")]) == pytest.approx(1)


def test_gpu_is_tried_on_a_cpu(capsys):
    small = ["--networks", "resnet18", "--batches", "2", "--classes", "1", "--side", "64"]
    gpu.main([*small, "--precisions", "bfloat16", "--repeat", "1", "--peak", "bfloat16=1e12"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| resnet18")]
    assert len(rows) == 6 and all("%" in row for row in rows)
