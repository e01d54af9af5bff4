"""The offline benchmark's data and networks."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

pytest.importorskip("sklearn")

import jaxplain
from jaxplain.digits.images import CLASSES, ClutteredDigits
from jaxplain.digits.networks import INPUT_SIZE, NETWORKS


def test_digits_have_exact_boxes_and_masks_and_are_the_same_every_time():
    source = ClutteredDigits(6, train=True)
    others = ClutteredDigits(6, train=False)
    assert not {d.tobytes() for d in source.images} & {d.tobytes() for d in others.images}
    several = 0
    for i in range(len(source)):
        record, again, small = source[i], source[i], ClutteredDigits(6, train=True, side=80)[i]
        assert np.array_equal(record.image, again.image) and record.image.shape == (320, 320, 3)
        assert record.labels.tolist() == small.labels.tolist()  # the same, drawn smaller
        assert np.allclose(record.boxes / 4, small.boxes, atol=3)
        several += len(record.labels) > 1
        assert not (record.masks.sum(0) > 1).any()  # digits do not hide each other
        for mask, (left, top, right, bottom) in zip(record.masks, record.boxes, strict=True):
            rows, columns = np.nonzero(mask)
            assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == [
                left,
                top,
                right,
                bottom,
            ]
            grey = record.image[..., 0].astype(float)
            ring = mask[int(top) : int(bottom), int(left) : int(right)]
            box = grey[int(top) : int(bottom), int(left) : int(right)]
            assert box[ring].mean() > box[~ring].mean()  # the digit is brighter than its ground
    assert several >= 2
    with pytest.raises(IndexError, match="none of the number 6"):
        source[6]


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_have_the_layers_that_they_name(name):
    network = NETWORKS[name](CLASSES, rngs=nnx.Rngs(0))
    x = jax.ShapeDtypeStruct((2, INPUT_SIZE, INPUT_SIZE, 3), jnp.float32)
    assert jax.eval_shape(network, x).shape == (2, len(CLASSES))
    layers = {layer for _, layer in network.config.layers}
    found = jaxplain.capture(network, sorted(layers))
    shapes = jax.eval_shape(found, x)[1]
    assert set(shapes) == layers
    below = shapes[network.config.layer("excitation")].shape
    above = shapes[network.config.layer("last")].shape
    assert below[1] >= above[1] >= 4  # an intermediate layer, as pool4 is


def test_the_benchmark_command(tmp_path, monkeypatch, capsys):
    """Everything that the command does, on a few images and one of the networks."""
    from jaxplain import cli
    from jaxplain.digits import run

    one = dict(list(NETWORKS.items())[1:2])
    monkeypatch.setattr(run, "NETWORKS", one)
    monkeypatch.setattr(run, "QUICK", run.Size(64, 16, 16, 4, 2, 1, ("gradient", "mwp", "c-mwp")))
    assert cli.main(["benchmark", "--quick", "--output", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    (name,) = one
    assert f"| method | {name}, all | difficult |" in out and "| c-MWP |" in out
    assert "Pointing game on digits in clutter: quick form" in out
    assert f"jaxplain: training {name} ..." in err and "4 of 4 done (100 %)" in err
    written = json.loads((tmp_path / "benchmark.json").read_text())
    assert set(written["pointing"][name]["methods"]) == {"Center", "Gradient", "MWP", "c-MWP"}
    assert set(written["new_head"][name]) == {"finetune", "logistic_regression"}
    assert written["claims"][name].keys() == {"c-MWP above MWP", "MWP above the centre"}
    assert (tmp_path / "benchmark.png").stat().st_size > 10000
