"""The batch engine: kills, failures, full disks, changed arguments, targets, compilations."""

import errno
import functools
import os
import resource

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from pictures import HEAD, Pictures, channel, network, run, same
from PIL import Image

import jaxplain
from jaxplain import cli, data, models
from jaxplain.core import places

# -- in this process, on its eight devices ---------------------------------------------------------


def expected(record, targets):
    return np.einsum("hwc,...c->...hw", record.image / np.float32(255), targets)


def scores_of(record):
    return np.asarray(network(record.image[None] / np.float32(255))[0])


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
        assert one.predicted == top and one.scores.shape == ()
        np.testing.assert_allclose(one.scores, scores_of(record)[top], rtol=1e-5)
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
        (["--shards", "3"], "must be like 0:100, not '3'"),
        (["--shards", "1:2"], "of the run's 1 shards none is in 1:2"),
        (["--on", "here"], "on must be None, 'ray' or an address ray://HOST:PORT, not 'here'"),
        (["--on", "ray", "--distributed"], "name one of them"),
        (["--output", "zzz://bucket/maps"], "is of an unknown kind"),
        (["--same-devices"], ""),
    ):
        assert cli.main([*asked, *extra]) == (2 if said and "none is in" not in said else 0)
        assert said in capsys.readouterr().err
    unlabelled = [a for a in asked if a not in ("--class", "Cat", "7")]
    assert cli.main([*unlabelled, "--class", "labels"]) == 2
    assert "photos has no labels" in capsys.readouterr().err
