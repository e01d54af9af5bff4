"""Columns of images in, columns of maps out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pictures import Pictures, channel, network

from jaxplain import data
from jaxplain.engine import ExplainBatches


def explainer(**options):
    options = {
        "prepare": lambda record: record.image,
        "to_input": lambda p: p / jnp.float32(255),
        "batch_size": 8,
        **options,
    }
    return ExplainBatches(lambda: network, {"channel": channel}, **options)


def test_rows_have_the_maps_of_their_images():
    records = list(Pictures(20))
    images = np.empty(20, object)
    images[:] = [record.image for record in records]
    images[3] = b"no image"
    batch = {"image": images, "id": np.array([r.id for r in records]), "more": np.arange(20)}
    found = explainer()(batch)
    assert list(found) == ["image", "id", "more", "target", "maps/channel", "error"]
    assert [bool(error) for error in found["error"]] == [i == 3 for i in range(20)]
    assert found["maps/channel"][3] is None and found["target"][3] is None
    for i, record in enumerate(records):
        if i != 3:
            x = record.image[None] / np.float32(255)
            top = int(network(x)[0].argmax())
            assert found["target"][i] == top and found["maps/channel"][i].shape == record.size
            wanted = channel(network, x, jnp.array([top]))[0]
            np.testing.assert_allclose(found["maps/channel"][i], wanted, atol=1e-6)


def test_equal_shapes_make_one_array_and_labels_are_explained():
    signals = np.eye(4, 5, dtype=np.float32)
    batch = {"image": np.stack([np.full((4, 6, 3), i, np.uint8) for i in range(9)])}
    found = explainer(targets=[4, 1])(batch)
    assert found["maps/channel"].shape == (9, 2, 4, 6) and found["target"].tolist() == [[4, 1]] * 9
    found = explainer(targets=signals)({**batch, "labels": np.arange(9) % 4})
    assert found["maps/channel"].shape == (9, 1, 4, 6)
    found = explainer(targets=signals)(batch)
    assert set(found["error"]) == {"it has no label that can be explained"}
    with pytest.raises(ValueError, match=f"multiple of the {jax.local_device_count()} local"):
        explainer(batch_size=3)
    assert data.as_source([]).name == "list"
