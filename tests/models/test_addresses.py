"""Weights at an address, in a bucket that is a piece of this process's memory."""

from __future__ import annotations

import io

import numpy as np
import pytest
from flax import nnx
from small_network import filled

from jaxplain import models
from jaxplain import weights_convert as wc
from jaxplain.models.distant import fetched
from jaxplain.models.entries import ENTRIES

fsspec = pytest.importorskip("fsspec", reason="needs the extra data")
NAME = "cifar_resnet20"


@pytest.fixture
def bucket():
    files = fsspec.filesystem("memory")
    yield files
    files.rm("/bucket", recursive=True)


@pytest.fixture(scope="module")
def network():
    entry = ENTRIES[NAME]
    made = filled(wc.abstract(lambda rngs: entry.build(entry.outputs, rngs=rngs)))
    made.config = entry.config
    return made


def weights(network) -> dict[str, np.ndarray]:
    leaves = nnx.to_flat_state(nnx.state(network))
    return {".".join(map(str, path)): np.asarray(leaf.get_value()) for path, leaf in leaves}


def test_folder_and_file(bucket, network, tmp_path):
    models.save_pretrained(network, tmp_path / "net")
    bucket.put(str(tmp_path / "net"), "/bucket/net", recursive=True)
    read = models.from_pretrained("memory://bucket/net/", fully_convolutional=False)
    assert read.config.name == NAME
    for name, value in weights(network).items():
        np.testing.assert_array_equal(weights(read)[name], value)
    here = (tmp_path / "net").as_uri()
    assert models.from_pretrained(here).config == read.config


def test_errors_tell_the_address(bucket):
    content = io.BytesIO()
    np.savez(content, weight=np.zeros(3, np.float32))
    bucket.pipe_file("/bucket/a.npz", content.getvalue())
    with pytest.raises(wc.CheckpointError, match="memory://bucket/a.npz"):
        models.from_pretrained("memory://bucket/a.npz")
    bucket.pipe_file("/bucket/b.npz", content.getvalue()[:40])
    with pytest.raises(wc.CheckpointError, match="memory://bucket/b.npz"):
        models.from_pretrained("memory://bucket/b.npz")
    with pytest.raises(FileNotFoundError, match="no file or folder memory://bucket/c.npz"):
        models.from_pretrained("memory://bucket/c.npz")
    with pytest.raises(ImportError, match="gs://bucket"):
        models.from_pretrained("gs://bucket/a.npz")


def test_what_lies_beside_comes_along_and_nothing_stays(bucket):
    bucket.pipe_file("/bucket/a[1].npz", b"no archive")
    with pytest.raises(wc.CheckpointError, match=r"memory://bucket/a\[1\].npz"):
        models.from_pretrained("memory://bucket/a[1].npz")
    for name in ("v.safetensors", "v_decoder.safetensors", "other.safetensors"):
        bucket.pipe_file(f"/bucket/{name}", name.encode())
    with fetched("memory://bucket/v.safetensors", None) as copy:
        assert sorted(file.name for file in copy.parent.iterdir()) == [
            "v.safetensors",
            "v_decoder.safetensors",
        ]
        assert copy.read_text() == "v.safetensors"
    assert not copy.parent.exists()
