"""The batch engine: kills, failures, full disks, changed arguments, targets, compilations."""

import errno
import filecmp
import functools
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import jaxplain
from jaxplain import cli, data, models
from jaxplain.data import places
from jaxplain.engine.plan import rests

pytestmark = pytest.mark.usefixtures("quick_compile")

SCRIPT = Path(__file__).parents[1] / "helpers/killed_runs.py"


@pytest.mark.parametrize(("devices", "processes"), [(1, 1), (8, 1), (1, 2)])
def test_killed_runs_write_what_an_uninterrupted_one_does(tmp_path, devices, processes):
    count = f"--xla_force_host_platform_device_count={devices}"
    flags = re.sub(r"--xla_force_host_platform_device_count=\d+", count, os.environ["XLA_FLAGS"])
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    command = [sys.executable, str(SCRIPT), str(tmp_path), "--processes", str(processes)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("killed with") == 10
    same(tmp_path / "whole", tmp_path / "killed")
    maps = data.open_maps(tmp_path / "killed")
    assert [maker["devices"] for maker in maps.made_by] == [f"{devices} cpu"] and maps.complete
    assert maps.ids == tuple(f"image {i}" for i in range(200) if i not in (17, 101))
    assert maps.failures == (("image 17", "it is broken"), ("image 101", "it is broken"))
    assert [m.index for m in maps] == [i for i in range(200) if i not in (17, 101)]


def same(one, other):
    names = sorted(p.name for p in one.iterdir())
    assert names == sorted(p.name for p in other.iterdir()) and len(names) > 1
    assert filecmp.cmpfiles(one, other, names, shallow=False) == (names, [], [])


# -- in this process, on its eight devices ---------------------------------------------------------

SHAPES = ((4, 6), (6, 4))
HEAD = np.random.default_rng(5).normal(size=(3, 5)).astype(np.float32)


class Pictures:
    """Records with labels 0 to 3, up to three a record; some have none."""

    name, class_names = "pictures", ("a", "b", "c", "d")

    def __init__(self, count=40, broken=()):
        self.count, self.broken = count, broken

    def __len__(self):
        return self.count

    def __iter__(self):
        return (self[i] for i in range(self.count))

    def __getitem__(self, index):
        if index in self.broken:
            raise data.UnreadableRecordError(f"p{index}", "it is broken")
        rng = np.random.default_rng(index)
        image = rng.integers(0, 256, (*SHAPES[int(rng.integers(2))], 3), dtype=np.uint8)
        return data.Record.make(image, f"p{index}", rng.integers(0, 4, index % 5))


def network(x, scale=1.0):
    return scale * (jnp.tanh(x).mean((1, 2)) @ HEAD)


def pixels_of(record):
    return record.image


def channel(fn, x, targets):
    """Maps (B, h, w) or (B, K, h, w) that depend on the input and the target alone."""
    weights = jnp.asarray(HEAD).T[targets] if targets.dtype == jnp.int32 else targets @ HEAD.T
    return jnp.einsum("bhwc,b...c->b...hw", x, weights)


def run(folder, source=None, fn=network, methods=None, **options):
    options = {
        "prepare": pixels_of,
        "to_input": lambda p: p / jnp.float32(255),
        "batch_size": 8,
        "shard_size": 16,
        **options,
    }
    return jaxplain.explain_dataset(
        fn, source or Pictures(), folder, methods or {"channel": channel}, **options
    )


def expected(record, targets):
    return np.einsum("hwc,...c->...hw", record.image / np.float32(255), targets)


def test_maps_of_top_classes_are_the_explainers_own(tmp_path):
    methods = {
        "gradient": functools.partial(jaxplain.gradient, reduce="sum"),
        "both": lambda fn, x, targets: {"first": channel(fn, x, targets), "one": x[..., 0]},
    }
    summary = run(tmp_path, methods=methods, about={"model": "tiny"})
    maps = data.open_maps(tmp_path)
    assert (summary.records, summary.explained, summary.failures) == (40, 40, ())
    assert summary.programs == 2 and 0 < summary.compute_seconds < summary.seconds
    assert maps.settings["model"] == "tiny" and maps.settings["methods"] == ["gradient", "both"]
    x = np.stack([r.image for r in Pictures() if r.size == (4, 6)])
    gradients = iter(np.asarray(jaxplain.gradient(network, x / np.float32(255), reduce="sum")))
    for record, one in zip(Pictures(), maps, strict=True):
        assert (one.id, one.size, one.input_size) == (record.id, record.size, record.size)
        top = int(network(record.image[None] / np.float32(255))[0].argmax())
        assert one.targets.shape == () and one.targets == top
        assert list(one.maps) == ["both/first", "both/one", "gradient"]
        wanted = expected(record, HEAD[:, top])
        np.testing.assert_allclose(one.maps["both/first"], wanted, atol=1e-6)
        red = record.image[..., 0] / np.float32(255)
        np.testing.assert_allclose(one.maps["both/one"], red, rtol=1e-6)
        if record.size == (4, 6):
            np.testing.assert_allclose(one.maps["gradient"], next(gradients), rtol=1e-5, atol=1e-8)
    assert maps["p7"].index == 7 and "p7" in maps and "p99" not in maps
    with pytest.raises(KeyError, match="0 records have the id 'p99'"):
        maps["p99"]


def test_fixed_classes_and_labels_of_the_records(tmp_path):
    run(tmp_path / "fixed", targets=[4, 1])
    for record, one in zip(Pictures(), data.open_maps(tmp_path / "fixed"), strict=True):
        assert one.targets.tolist() == [4, 1]
        np.testing.assert_allclose(one.maps["channel"], expected(record, HEAD.T[[4, 1]]), atol=1e-6)

    signals = np.eye(4, 5, dtype=np.float32)
    signals[3] = 0  # the network knows nothing like it
    summary = run(tmp_path / "labels", targets=signals)
    maps = data.open_maps(tmp_path / "labels")
    wanted = {r.id: sorted(set(r.labels.tolist()) - {3}) for r in Pictures()}
    assert [len(one.targets) for one in maps].count(3) > 0
    assert {m.id: m.targets.tolist() for m in maps} == {k: v for k, v in wanted.items() if v}
    assert dict(maps.failures) == {
        k: "it has no label that can be explained" for k, v in wanted.items() if not v
    }
    assert maps.failures == summary.failures and summary.programs == 6  # 2 shapes; 1, 2, 4 targets
    for one in maps:
        record = Pictures()[one.index]
        wanted_maps = expected(record, HEAD.T[one.targets])
        np.testing.assert_allclose(one.maps["channel"], wanted_maps, atol=1e-6)


def test_nothing_compiles_after_the_first_batch_of_each_shape(tmp_path):
    compiled, after = [], []

    def listen(event, *_, **__):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        summary = run(tmp_path, Pictures(120), progress=lambda *_: after.append(len(compiled)))
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    # Batches of both shapes are among the first four (40 images have 5 of them).
    assert summary.programs == 2 and len(after) >= 15
    assert after[0] >= 1 and set(after[3:]) == {len(compiled)}


def test_a_complete_run_is_not_done_again(tmp_path):
    run(tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    summary = run(tmp_path)
    assert (summary.records, summary.explained, summary.programs) == (40, 0, 0)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"fn": functools.partial(network, scale=2.0)}, "another network, other weights"),
        ({"methods": {"channel": lambda *a: -channel(*a)}}, "or another method"),
        ({"methods": {"other": channel}}, r'methods = \["channel"\], not \["other"\]'),
        ({"source": Pictures(41)}, "records of the source = 40, not 41"),
        ({"indices": range(39)}, "records = 40, not 39"),
        ({"indices": range(39, -1, -1)}, "indices = "),
        ({"batch_size": 16}, "batch_size = 8, not 16"),
        ({"shard_size": 17}, "shard_size = 16, not 17"),
        ({"targets": [1]}, r'targets = "top class", not \[1\]'),
        ({"about": {"model": "b"}}, 'model = null, not "b"'),
        ({"prepare": lambda r: r.image[::-1]}, "other pixels of record p0"),
    ],
)
def test_other_arguments_are_an_error(tmp_path_factory, changed, words):
    folder = tmp_path_factory.getbasetemp() / "begun"
    if not folder.exists():
        run(folder)
    before = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    with pytest.raises(ValueError, match=words):
        run(folder, **changed)
    assert {p: p.stat().st_mtime_ns for p in folder.iterdir()} == before


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


def test_a_shard_of_another_run_is_an_error(tmp_path):
    run(tmp_path / "one")
    run(tmp_path / "other", targets=[1])
    name = "maps-000001-of-000003.array_record"
    (tmp_path / "one" / name).write_bytes((tmp_path / "other" / name).read_bytes())
    with pytest.raises(ValueError, match=f"{name} in .* was made with other settings"):
        run(tmp_path / "one")
    with pytest.raises(ValueError, match=f"{name} in .* was made with other settings"):
        data.open_maps(tmp_path / "one")


def test_shards_of_an_array_of_tasks_make_one_run(tmp_path):
    run(tmp_path / "whole")
    for shards in ((2, 5), (0, 1), (1, 2)):
        assert not (tmp_path / "parts").exists() or not data.open_maps(tmp_path / "parts").complete
        run(tmp_path / "parts", shards=shards)
    same(tmp_path / "whole", tmp_path / "parts")
    for wrong, words in (((3, 4), "do not exist: the run has 3"), ((2, 2), "must be")):
        with pytest.raises(ValueError, match=words):
            run(tmp_path / "parts", shards=wrong)


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


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"batch_size": 12}, "multiple of the 8 local devices, not 12"),
        ({"shard_size": 0}, "shard_size must be a positive int"),
        ({"indices": [3, 3]}, "name a record twice"),
        ({"indices": [40]}, "indices must lie in 0 to 39"),
        ({"targets": [5]}, "class 5 is out of range: the network has the classes 0 to 4"),
        ({"targets": [0.5]}, "targets must be None"),
        ({"targets": np.eye(2, 5)}, "has the label [23], but targets has signals for 2 classes"),
        ({"methods": {"flat": lambda fn, x, t: x.mean((1, 2, 3))}}, r"maps must .* not \(8,\)"),
    ],
)
def test_wrong_arguments(tmp_path, wrong, words):
    with pytest.raises(ValueError, match=words):
        run(tmp_path, **wrong)
    assert [p.name for p in tmp_path.iterdir()] == ["settings.json"] * ("signals" in words)


def test_an_error_of_the_source_ends_the_run_and_leaves_what_was_finished(tmp_path):
    class Failing(Pictures):
        def __getitem__(self, index):
            if index == 30 and self.broken:
                raise RuntimeError("the disk is on fire")
            return Pictures()[index]

    with pytest.raises(RuntimeError, match="on fire"):
        run(tmp_path / "stopped", Failing(broken=(30,)))
    assert not list((tmp_path / "stopped").glob("*.tmp"))
    assert 0 < len(data.open_maps(tmp_path / "stopped")) < 40
    run(tmp_path / "stopped", Failing())
    run(tmp_path / "whole", Failing())
    same(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.parametrize("how", ["no space", "limit"])
def test_a_full_disk_stops_the_run_and_spoils_nothing(tmp_path, monkeypatch, how):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    large = {"large": lambda fn, x, t: jnp.tile(x[..., 0], (1, 40, 40))}
    run(whole, methods=large)
    if how == "no space":
        calls, sync = [], places._sync

        def full(path):
            calls.append(path)
            if len(calls) == 5:  # in the second shard: settings, folder, shard, folder, shard
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            sync(path)

        monkeypatch.setattr(places, "_sync", full)
        with pytest.raises(OSError, match="Cannot write maps in .*: No space left") as raised:
            run(stopped, methods=large)
        assert raised.value.errno == errno.ENOSPC
        monkeypatch.undo()
    else:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            with pytest.raises(OSError, match="Cannot write maps in .*File too large"):
                run(stopped, methods=large)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(stopped.glob("*.tmp"))
    if how == "no space":
        maps = data.open_maps(stopped)
        assert len(maps) == 16 and not maps.complete
        assert all(np.isfinite(one.maps["large"]).all() for one in maps)
    run(stopped, methods=large)
    same(whole, stopped)


def test_a_folder_of_photographs(tmp_path):
    photos = tmp_path / "photos"
    (photos / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("b.png", "more/a.jpg"):
        Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)).save(photos / name)
    turned = Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8))
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    turned.save(photos / "a.png", exif=exif)
    (photos / "broken.jpg").write_bytes((photos / "more" / "a.jpg").read_bytes()[:200])
    (photos / "notes.txt").write_text("not an image")
    source = data.open_source(photos)
    assert isinstance(source, data.ImageFolder) and source.name == "photos"
    assert source.ids == ["a.png", "b.png", "broken.jpg", "more/a.jpg"]
    summary = run(tmp_path / "maps", source, prepare=lambda r: data.resize_image(r.image, (4, 4)))
    maps = data.open_maps(tmp_path / "maps")
    assert maps.ids == ("a.png", "b.png", "more/a.jpg") and maps["a.png"].size == (7, 9)
    ((name, reason),) = summary.failures
    assert name == "broken.jpg" and "cannot read the image" in reason
    with pytest.raises(ValueError, match="layout"):
        data.open_source(tmp_path / "maps")


@pytest.fixture
def tiny(monkeypatch):
    """What `--model net` loads."""

    class Net(nnx.Module):
        def __init__(self):
            self.conv = nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0))
            self.head = nnx.Linear(4, 20, rngs=nnx.Rngs(1))
            self.config = models.ModelConfig(
                "net",
                32,
                (128.0,) * 3,
                (64.0,) * 3,
                class_names=data.VOC_CLASSES,
                outputs=20,
                layers=(("excitation", "relu:0"),),
            )

        def __call__(self, x):
            return self.head(jax.nn.relu(self.conv(x)).mean((1, 2)))

    monkeypatch.setattr(models, "from_pretrained", lambda *a, **k: Net())


def test_the_command(tmp_path, capsys, tiny):
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for i, size in enumerate(((20, 30), (30, 20), (40, 60))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(photos / f"{i}.png")
    (photos / "broken.png").write_bytes(b"no picture")
    asked = [
        "explain-dataset",
        "--data",
        str(photos),
        "--model",
        "net",
        "--short",
        "16",
        "--multiple",
        "8",
        "--methods",
        "mwp,gradient",
        "--class",
        "Cat",
        "--class",
        "7",
        "--output",
        str(tmp_path / "maps"),
    ]
    assert cli.main(asked) == 0
    out, err = capsys.readouterr()
    assert "maps of 3 images, 3 of them now" in out and "compile 2 programs" in out
    assert "left out: broken.png: cannot read the image" in err
    assert "4 of 4 images (100 %)" in err and "\r" not in err
    maps = data.open_maps(tmp_path / "maps")
    assert [one.targets.tolist() for one in maps] == [[7]] * 3
    assert maps["2.png"].maps["gradient"].shape == (1, 16, 24)
    for extra, said in (
        ([], ""),
        (["--short", "24"], "short = 16, not 24"),
        (
            ["--set", "gradient.reduce=l2"],
            'settings = {}, not {"gradient": {"reduce": "l2"}}',
        ),
        (["--class", "labels"], "cannot be combined"),
        (["--class", "zebra"], "zebra"),
        (["--methods", "mpw"], "unknown method 'mpw'"),
        (["--batch-size", "0"], "--batch-size must be positive"),
        (["--batch-size", "3"], "multiple of the 8 local devices"),
    ):
        assert cli.main([*asked, *extra]) == (2 if said else 0)
        assert said in capsys.readouterr().err
    unlabelled = [a for a in asked if a not in ("--class", "Cat", "7")]
    assert cli.main([*unlabelled, "--class", "labels"]) == 2
    assert "photos has no labels" in capsys.readouterr().err
