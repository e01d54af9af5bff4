"""A run on a local cluster of Ray: the same files, whatever becomes of the nodes."""

import functools
import os
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain
from jaxplain import data

ray = pytest.importorskip("ray", reason="needs the extra ray")


class Images:
    name, class_names = "random", ()

    def __init__(self, count, wait=0.0):
        self.count, self.wait = count, wait

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        time.sleep(self.wait)
        if index == 17:
            raise data.UnreadableRecordError("image 17", "it is broken")
        rng = np.random.default_rng(index)
        image = rng.integers(0, 256, (*((8, 12), (12, 8))[index % 2], 3), dtype=np.uint8)
        return data.Record.make(image, f"image {index}")


def explain(folder, source, head, **options):
    def network(x):
        return jnp.tanh(x).mean((1, 2)) @ head

    return jaxplain.explain_dataset(
        network,
        source,
        folder,
        {"gradient": functools.partial(jaxplain.gradient, reduce="sum")},
        prepare=lambda record: record.image,
        to_input=lambda pixels: pixels / jnp.float32(255),
        batch_size=8,
        shard_size=16,
        **options,
    )


@pytest.fixture
def cluster(monkeypatch):
    """Three nodes of one processor each, whose workers have one device as this process has."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
    path = os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    cluster.lost = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_a_lost_node_changes_nothing(cluster, tmp_path):
    head = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    explain(tmp_path / "whole", Images(200), head)
    lost = threading.Event()

    def lose(done, total):
        if done >= 32 and not lost.is_set():
            lost.set()
            cluster.remove_node(cluster.lost)

    summary = explain(tmp_path / "ray", Images(200, 0.01), head, on="ray", progress=lose)
    assert lost.is_set() and summary.records == 199
    assert summary.failures == (("image 17", "it is broken"),)
    one, other = data.open_maps(tmp_path / "whole"), data.open_maps(tmp_path / "ray")
    assert other.complete and other.ids == one.ids
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a.maps["gradient"], b.maps["gradient"])
    with pytest.raises(ValueError, match="another network, other weights"):
        explain(tmp_path / "ray", Images(200), head + 1, on="ray")
    with pytest.raises(ValueError, match="batch_size must be a positive multiple"):
        jaxplain.explain_dataset(
            lambda x: x,
            Images(3),
            tmp_path / "none",
            {"a": lambda *a: a[1][..., 0]},
            prepare=lambda r: r.image,
            to_input=jax.numpy.asarray,
            batch_size=0,
            on="ray",
        )


def test_batches_of_a_pipeline_of_ray(cluster, tmp_path):
    """Images come by Ray's reader and maps go by its writer, in between is a pool of actors."""
    pytest.importorskip("pandas", reason="needs ray[data]")
    pytest.importorskip("pyarrow", reason="needs ray[data]")
    from jaxplain.engine import ExplainBatches

    head = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    images = np.random.default_rng(1).integers(0, 256, (20, 8, 12, 3), dtype=np.uint8)
    arguments = dict(
        load=lambda: lambda x: jnp.tanh(x).mean((1, 2)) @ head,
        methods={"gradient": functools.partial(jaxplain.gradient, reduce="sum")},
        prepare=lambda record: record.image,
        to_input=lambda pixels: pixels / jnp.float32(255),
    )
    rows = [{"image": image, "id": f"image {i}"} for i, image in enumerate(images)]
    found = ray.data.from_items(rows).map_batches(
        ExplainBatches, fn_constructor_kwargs=arguments, batch_size=8, concurrency=2
    )
    found.write_parquet(str(tmp_path / "maps"))
    table = ray.data.read_parquet(str(tmp_path / "maps")).to_pandas()
    here = ExplainBatches(**arguments)({"image": images})
    order = [f"image {i}" for i in range(20)]
    table = table.set_index("id").loc[order]
    maps = np.stack([np.stack(list(rows)) for rows in table["maps/gradient"]])
    np.testing.assert_allclose(maps, here["maps/gradient"], rtol=1e-5, atol=1e-8)
    assert table["target"].tolist() == here["target"].tolist() and set(table["error"]) == {""}
