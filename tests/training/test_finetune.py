"""Training, its checkpoints, and a new output layer for a data set."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxplain
from jaxplain import cli, data, models
from jaxplain.digits.images import CLASSES, ClutteredDigits
from jaxplain.evaluation.classification import average_precision, mean_average_precision
from jaxplain.models.entries import ENTRIES
from jaxplain.models.layers import BatchNorm
from jaxplain.training.finetune import views
from jaxplain.training.last_layer import last_layer_inputs
from jaxplain.training.loop import train_network
from jaxplain.weights_convert import CheckpointError

pytestmark = pytest.mark.usefixtures("quick_compile")

# -- average precision ------------------------------------------------------------------------


def test_average_precision_is_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    present = rng.uniform(size=(60, 5)) < [0.5, 0.1, 0.9, 0.3, 0.02]
    present[:, 4] = False
    for scores in (rng.normal(size=(60, 5)), rng.integers(0, 4, (60, 5)) / 4):  # and with ties
        found = np.asarray(average_precision(scores, present))
        expected = [metrics.average_precision_score(present[:, k], scores[:, k]) for k in range(4)]
        assert np.allclose(found[:4], expected, atol=1e-6) and np.isnan(found[4])
        assert float(mean_average_precision(scores, present)) == pytest.approx(np.mean(expected))
    with pytest.raises(ValueError, match="must both be"):
        average_precision(np.zeros((3, 2)), np.zeros(3, bool))


# -- checkpoints ------------------------------------------------------------------------------

FIT = """
import os, signal, sys
import numpy as np
from jaxplain.training.last_layer import LastLayer

def fit(checkpoint=None, progress=None, seed=0):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(90, 12)).astype(np.float32)
    targets = features[:, :4] + rng.normal(size=(90, 4)) > 0.5
    return LastLayer.fit((features[:60], targets[:60]), (features[60:], targets[60:]), classes=4,
                         loss="sigmoid", batch_size=16, epochs=6, seed=seed, checkpoint=checkpoint,
                         progress=progress)
"""
KILLED = (
    FIT
    + """
def kill(epoch, epochs):
    if epoch == 3:
        os.kill(os.getpid(), signal.SIGKILL)

fit(sys.argv[1], kill)
"""
)


def test_killed_and_resumed_gives_the_same_weights(tmp_path):
    scope: dict = {}
    exec(FIT, scope)
    fit = scope["fit"]
    environment = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert [p.name for p in tmp_path.iterdir()] == ["epoch-00003"]
    seen = []
    resumed = fit(tmp_path, lambda *counts: seen.append(counts))
    assert seen == [(4, 6), (5, 6), (6, 6)]
    straight = fit()
    assert all(np.array_equal(a, b) for a, b in zip(resumed, straight, strict=True))
    again = fit(tmp_path, lambda *_: pytest.fail("it was finished"))
    assert np.array_equal(again.kernel, straight.kernel)
    with pytest.raises(CheckpointError, match="of another training"):
        fit(tmp_path, seed=1)


class Tiny(nnx.Module):
    """A convolution with batch normalisation, and a dense layer on the global pool."""

    def __init__(self):
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0))
        self.norm = BatchNorm(4, rngs=nnx.Rngs(1))
        self.norm.momentum = 0.5  # few steps
        self.head = nnx.Linear(4, 2, rngs=nnx.Rngs(2))

    def __call__(self, x):
        return self.head(jax.nn.relu(self.norm(self.conv(x))).mean((1, 2)))


def test_a_network_learns_and_keeps_its_best_weights():
    import optax

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 48)
    x = rng.normal(size=(48, 6, 6, 3)).astype(np.float32) + 5
    x[labels == 1, ..., 0] += 2
    y = np.eye(2)[labels]
    network = Tiny()
    start = np.asarray(network.norm.mean[...])
    result = train_network(
        network,
        (x[:32], y[:32]),
        (x[32:], y[32:]),
        loss="softmax",
        optimiser=optax.adam(0.03),
        batch_size=8,
        epochs=10,
    )
    assert result.validation.min() < 0.3 < result.validation[0]
    assert np.abs(network.norm.mean[...] - start).max() > 1  # followed the images, which are near 5
    # It is as it was at the lowest validation loss, and it is not in training mode any more.
    loss = optax.softmax_cross_entropy(network(jnp.asarray(x[32:])), y[32:]).mean()
    assert float(loss) == pytest.approx(result.validation.min(), rel=1e-4)
    with pytest.raises(ValueError, match="loss must be one of softmax, sigmoid"):
        train_network(network, (x, y), (x, y), loss="hinge", optimiser=optax.sgd(0.1))


# -- views ------------------------------------------------------------------------------------


def test_views_are_mirrored_squares_and_their_parts():
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    whole = models.ModelConfig("net", 6, (0.0,), (1.0,), crop_fraction=1.0)
    one, mirrored = views(image, whole, flips=True, crops=True)  # there are no corners to crop
    assert np.array_equal(one[1:5], image) and np.array_equal(one[0], image[0])
    assert np.array_equal(one[5], image[3]) and np.array_equal(mirrored, one[:, ::-1])
    square = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    parts = views(
        square,
        models.ModelConfig("net", 4, (0.0,), (1.0,), crop_fraction=0.5),
        flips=False,
        crops=True,
    )
    corners = [square[2:6, 2:6], square[:4, :4], square[:4, 4:], square[4:, :4], square[4:, 4:]]
    assert np.array_equal(parts, corners)
    long = np.zeros((2, 30, 3), np.uint8)  # mirrored several times over
    assert views(long, whole, flips=False, crops=False).shape == (1, 6, 6, 3)


# -- the command ------------------------------------------------------------------------------


def test_command_and_what_it_writes(tmp_path, monkeypatch, capsys):
    entry = ENTRIES["cifar_resnet20"]
    network = entry.build(10, rngs=nnx.Rngs(0))
    network.config = entry.config
    real = models.from_pretrained
    sources = {
        "train": ClutteredDigits(24, train=True, side=32),
        "val": ClutteredDigits(8, train=False, side=32),
    }
    for source in sources.values():
        source.class_names = (*CLASSES, "a class without images")
    monkeypatch.setattr(models, "from_pretrained", lambda name, network=None, net=network: net)
    monkeypatch.setattr(data, "open_source", lambda name, split, data_dir: sources[split])
    asked = [
        "finetune",
        "--data",
        "digits",
        "--split",
        "train",
        "--validation-split",
        "val",
        "--model",
        "cifar_resnet20",
        "--output",
        str(tmp_path / "new"),
        "--no-flips",
        "--epochs",
        "3",
    ]
    assert cli.main(asked) == 0
    assert "3 epochs; mean average precision on val: " in capsys.readouterr().out
    assert cli.main(asked) == 2
    assert "exists already" in capsys.readouterr().err

    new = real(tmp_path / "new")
    assert new.config.class_names == sources["val"].class_names and new.config.outputs == 11
    x = data.normalise(jnp.stack([r.image for r in sources["val"]]), new.config)
    # Features are the old network's; the new layer is the one that was trained.
    features = last_layer_inputs(network, x)
    assert np.allclose(last_layer_inputs(new, x), features, atol=1e-5)
    assert np.allclose(new(x), features @ new.linear.kernel[...] + new.linear.bias[...], atol=1e-4)
    assert new.linear.kernel.shape == (64, 11) and network.linear.kernel.shape == (64, 10)
    signals = data.cue_signals(new.config.class_names, 11, new.config.class_names)
    assert jaxplain.grad_cam(new, x[:1], signals[:1]).shape[0] == 1
    monkeypatch.undo()
    sources["train"].class_names = CLASSES
    with pytest.raises(ValueError, match="different classes"):
        jaxplain.finetune(network, sources["train"], sources["val"])
    sources["val"].class_names = CLASSES
    with pytest.raises(ValueError, match="softmax needs one"):
        jaxplain.finetune(network, sources["train"], sources["val"], loss="softmax")
