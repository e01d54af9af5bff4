"""Shards stand for themselves: kills, terminations, processes, damage, buckets, changed folders."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pictures import run, same
from PIL import Image

from jaxplain import data
from jaxplain.engine.plan import rests

SCRIPT = Path(__file__).parents[1] / "helpers/killed_runs.py"


@pytest.mark.parametrize(
    ("devices", "processes", "signals", "kills"),
    [(1, [1], ["KILL", "TERM"], 8), (8, [1], ["KILL"], 4), (1, [4, 2], ["TERM", "KILL"], 8)],
)
def test_killed_runs_write_what_an_uninterrupted_one_does(
    tmp_path, devices, processes, signals, kills
):
    count = f"--xla_force_host_platform_device_count={devices}"
    flags = re.sub(r"--xla_force_host_platform_device_count=\d+", count, os.environ["XLA_FLAGS"])
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    command = [sys.executable, str(SCRIPT), str(tmp_path), "--signals", *signals]
    command += ["--kills", str(kills), "--processes", *map(str, processes)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("shards finished") == kills
    same(tmp_path / "whole", tmp_path / "killed")
    maps = data.open_maps(tmp_path / "killed")
    assert [maker["devices"] for maker in maps.made_by] == [f"{devices} cpu"] and maps.complete
    assert maps.ids == tuple(f"image {i}" for i in range(200) if i not in (17, 101))
    assert maps.failures == (("image 17", "it is broken"), ("image 101", "it is broken"))
    assert [m.index for m in maps] == [i for i in range(200) if i not in (17, 101)]


def test_processes_without_a_shared_folder_make_their_shards(tmp_path):
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path), "--apart", "--images", "60"],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        check=True,
        timeout=100,
    )
    parts = [data.open_maps(tmp_path / k) for k in "01"]
    assert [[m.index // 10 for m in part[::10]] for part in parts] == [[0, 2, 4], [1, 3, 5]]
    assert not any(part.complete for part in parts)


def test_other_devices_and_versions_go_on_unless_the_same_are_insisted_on(tmp_path):
    run(tmp_path, shards=(0, 1))
    file = tmp_path / "settings.json"
    about = json.loads(file.read_text())
    about["begun"] |= {"devices": "4 TPU v5", "jax": "0.1"}
    about["program"] = "as another version has it"
    file.write_text(json.dumps(about))
    with pytest.raises(ValueError, match='made with devices = "4 TPU v5", not "8 cpu"'):
        run(tmp_path, same_devices=True)
    assert run(tmp_path).records == 40
    for content in ("{}", "[" * 100_000, "no JSON"):
        file.write_text(content)
        with pytest.raises(ValueError, match="settings.json in .* is not of maps"):
            data.open_maps(tmp_path)


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)


@pytest.mark.parametrize(
    "harm",
    [
        Path.unlink,
        flip,
        lambda f: os.truncate(f, f.stat().st_size // 2),
        lambda f: f.write_text(""),
    ],
)
def test_a_shard_that_is_missing_or_damaged_is_made_again(tmp_path, harm):
    run(tmp_path / "whole")
    run(tmp_path / "harmed")
    harm(sorted((tmp_path / "harmed").glob("*.array_record"))[1])
    summary = run(tmp_path / "harmed")
    assert (summary.records, summary.explained) == (40, 16)
    same(tmp_path / "whole", tmp_path / "harmed")


def test_what_killed_processes_have_left_is_removed_and_nothing_else(tmp_path):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], stdout=-1)
    host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())
    shard = "maps-000001-of-000003.array_record"
    left = tmp_path / f"{shard}.{host}.{int(dead.stdout)}.jaxplain.tmp"
    alive = tmp_path / f"{shard}.{host}.{os.getppid()}.jaxplain.tmp"
    elsewhere, old = (tmp_path / f"{shard}.{name}.7.jaxplain.tmp" for name in ("other", "another"))
    for file in (left, alive, elsewhere, old, tmp_path / "a.b.7.tmp"):
        file.write_bytes(b"half")
    os.utime(old, (1, 1))
    run(tmp_path)
    assert {p for p in (left, alive, elsewhere, old) if p.exists()} == {alive, elsewhere}
    assert (tmp_path / "a.b.7.tmp").exists() and data.open_maps(tmp_path).complete


def test_a_shard_of_another_run_is_an_error(tmp_path):
    run(tmp_path / "one")
    run(tmp_path / "other", targets=[1])
    name = "maps-000001-of-000003.array_record"
    (tmp_path / "one" / name).write_bytes((tmp_path / "other" / name).read_bytes())
    with pytest.raises(ValueError, match=f"{name} in .* was made with other settings"):
        run(tmp_path / "one")
    with pytest.raises(ValueError, match=f"{name} in .* was made with other settings"):
        data.open_maps(tmp_path / "one")


def test_shards_of_an_array_of_tasks_make_one_run(tmp_path, caplog):
    run(tmp_path / "whole")
    for shards in ((2, 5), (0, 1), (1, 2)):
        assert not (tmp_path / "parts").exists() or not data.open_maps(tmp_path / "parts").complete
        run(tmp_path / "parts", shards=shards)
    same(tmp_path / "whole", tmp_path / "parts")
    with pytest.raises(ValueError, match="shards must be"):
        run(tmp_path / "parts", shards=(2, 2))
    assert run(tmp_path / "parts", shards=(3, 6)).records == 0
    assert "of the run's 3 shards none is in 3:6" in caplog.text


def test_a_run_into_memory(tmp_path):
    """As into a bucket: fsspec has a file system that stands for one."""
    fsspec = pytest.importorskip("fsspec")
    place = "memory://bucket/maps"
    try:
        run(place, shards=(0, 2))
        run(place)
        run(tmp_path)
        assert {p.rpartition("/")[2] for p in fsspec.filesystem("memory").find("/bucket/maps")} == {
            p.name for p in tmp_path.iterdir()
        }
        here, there = data.open_maps(tmp_path), data.open_maps(place)
        assert there.complete and there.ids == here.ids and there.settings == here.settings
        for one, other in zip(here, there, strict=True):
            np.testing.assert_array_equal(one.maps["channel"], other.maps["channel"])
        there.close()
        with pytest.raises(ImportError, match="bucket/maps needs another package: .*s3fs"):
            run("s3://bucket/maps")
        with pytest.raises(ValueError, match="is of an unknown kind: .*zzz"):
            run("zzz://bucket/maps")
    finally:
        fsspec.filesystem("memory").rm("/bucket", recursive=True)


@pytest.mark.parametrize("change", ["added", "removed", "replaced", "altered"])
def test_a_folder_that_has_changed_is_refused(tmp_path, change):
    photos = tmp_path / "photos"
    photos.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 4, 6, 3), dtype=np.uint8)
    for i in range(18):
        Image.fromarray(pixels[i]).save(photos / f"{i:02d}.png")
    run(tmp_path / "maps", data.ImageFolder(photos), shards=(0, 1))
    if change in ("added", "replaced"):
        Image.fromarray(pixels[18]).save(photos / "18.png")
    if change in ("removed", "replaced"):
        (photos / "05.png").unlink()
    if change == "altered":
        os.utime(photos / "17.png", ns=(1, 1))
    words = "records of the source = 18" if change in ("added", "removed") else "other images in"
    with pytest.raises(ValueError, match=words):
        run(tmp_path / "maps", data.ImageFolder(photos))


def test_little_of_the_work_is_padding():
    """Twenty shapes of different frequency, in shards of the default size, and large ones."""
    rng = np.random.default_rng(0)
    for batch_size, shard_size in ((8, 1024), (64, 4096)):
        rows = records = 0
        for _ in range(20):
            kinds = rng.choice(20, shard_size, p=0.75 ** np.arange(20) / sum(0.75 ** np.arange(20)))
            counts = [int(n) % batch_size for n in np.bincount(kinds) if n % batch_size]
            sizes = rests(counts, batch_size, shard_size)
            rows += sum(-n % size for n, size in zip(counts, sizes, strict=True))
            records += shard_size
        assert rows < 0.03 * records, batch_size
    assert rests([5], 8, 1024) == [8] and rests([], 8, 1024) == [] and rests([1], 1, 8) == [1]
