"""Training, its checkpoints, and a new output layer for a data set."""

from __future__ import annotations

import dataclasses
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
from jaxplain.training import loop
from jaxplain.training.finetune import paper_batch_size, views
from jaxplain.training.last_layer import LastLayer, last_layer_inputs
from jaxplain.training.loop import train_network
from jaxplain.weights_convert import CheckpointError

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
    monkeypatch.setattr(models, "from_pretrained", lambda name, net=network, **_: net)
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
    with pytest.raises(ValueError, match="stop='validation' needs validation data"):
        jaxplain.finetune(network, sources["train"], stop="validation")


def test_softmax_takes_the_images_of_one_class(test_data, tmp_path, monkeypatch, capsys):
    """On real images of VOC, with the real ResNet-20; its features are those of small pictures."""
    monkeypatch.setenv("JAXPLAIN_CACHE", str(tmp_path / "cache"))
    voc = test_data / "images" / "VOCdevkit" / "VOC2012"
    asked = [
        *("finetune", "--data", str(voc), "--split", "val", "--loss", "softmax"),
        *("--model", str(test_data / "weights" / "resnet20-12fca82f.th")),
        *("--network", "cifar_resnet20", "--no-flips", "--no-crops", "--epochs", "2"),
    ]
    assert cli.main([*asked, "--output", str(tmp_path / "new")]) == 0
    records = data.VOC(voc, "val")
    several = sum(len(set(r.labels.tolist())) != 1 for r in records)
    assert 0 < several < len(records)
    told = capsys.readouterr().out
    assert f"val: {several} of {len(records)} images left out" in told
    assert "2 epochs\n" in told  # no validation set, no precision
    new = models.from_pretrained(tmp_path / "new")
    assert new.config.class_names == data.VOC_CLASSES
    several_only = [r for r in records if len(set(r.labels.tolist())) != 1]
    network = models.from_pretrained(tmp_path / "new")
    with pytest.raises(ValueError, match=f"none of the {several} images of .* has exactly one"):
        jaxplain.finetune(network, Listed(several_only), loss="softmax")
    assert cli.main([*asked, "--output", str(tmp_path / "x"), "--stop", "validation"]) == 2
    assert "--stop validation needs --validation-split" in capsys.readouterr().err


class Listed(list):
    """Records as a source."""

    name, class_names = "a list", data.VOC_CLASSES


# -- as the paper has it ----------------------------------------------------------------------


def test_sigmoid_is_the_sum_over_classes_and_the_mean_over_images():
    import optax

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 3)).astype(np.float32), rng.integers(0, 2, (6, 3))
    each = np.log1p(np.exp(np.where(y, -x, x)))

    def start(loss):
        return loop.train(
            lambda w, s, x, training: (x + w, s),
            jnp.zeros(()),
            (),
            (x, y),
            (x, y),
            loss=loss,
            optimiser=optax.sgd(0.1),
            epochs=0,
        ).validation[0]

    assert start("sigmoid") == pytest.approx(each.sum(1).mean(), rel=1e-6)
    assert start("sigmoid_mean") == pytest.approx(each.mean(), rel=1e-6)


def slow_line(losses, **options):
    """Training whose loss at epoch i is ``losses[i]``: a logit for it, whatever is learned."""
    import optax

    logits = -np.log(np.expm1(losses))  # softplus(-logit) is the loss of a present class

    def forward(parameters, statistics, x, training):
        logit = jnp.asarray(logits, jnp.float32)[statistics]
        return jnp.full((1, 1), logit) + 0 * parameters, statistics + training

    return loop.train(
        forward,
        jnp.zeros(()),
        jnp.zeros((), int),
        (np.zeros((1, 1)), np.ones((1, 1))),
        None,
        loss="sigmoid",
        optimiser=optax.sgd(0.0),
        stop="training",
        epochs=len(losses) - 1,
        **options,
    )


def test_training_stops_at_the_plateau():
    losses = [4.0, 3.0, 2.0, 1.99, 1.985, 1.984, 1.99, 1.9, 0.5, 0.1]
    result = slow_line(losses, patience=4)
    # 1.99, 1.985, 1.984 and 1.99 are all less than 1 % below 2.
    np.testing.assert_allclose(result.training, losses[:7], rtol=1e-5)
    assert result.statistics == 7  # as it was at the end
    assert np.isnan(result.validation).all() and len(result.validation) == 8
    np.testing.assert_allclose(slow_line(losses, patience=5).training, losses[:9], rtol=1e-5)
    falling = [4.0 * 0.98**i for i in range(12)]
    assert len(slow_line(falling, patience=1).training) == 11  # until the last epoch


def test_stopping_needs_what_it_looks_at():
    import optax

    data = np.zeros((2, 1)), np.ones((2, 1))
    options = dict(loss="sigmoid", optimiser=optax.sgd(0.1))

    def forward(w, s, x, training):
        return x * w, s

    with pytest.raises(ValueError, match="no validation set to stop by"):
        loop.train(forward, jnp.zeros(()), (), data, None, **options)
    with pytest.raises(ValueError, match="stop must be one of validation, training"):
        loop.train(forward, jnp.zeros(()), (), data, None, stop="never", **options)


def test_resumed_without_a_validation_set(tmp_path):
    """The checkpoint of a training that its own loss stops: the same as in one go."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 12)).astype(np.float32)
    pair = (features, features[:, :4] > 0.5)
    options = dict(classes=4, loss="sigmoid", stop="training", batch_size=16)
    LastLayer.fit(pair, None, epochs=3, checkpoint=tmp_path, **options)
    resumed = LastLayer.fit(pair, None, epochs=6, checkpoint=tmp_path, **options)
    straight = LastLayer.fit(pair, None, epochs=6, **options)
    assert np.array_equal(resumed.kernel, straight.kernel) and len(resumed.losses) == 6
    assert np.isnan(resumed.losses[:, 1]).all()
    with pytest.raises(CheckpointError, match="of another training"):
        LastLayer.fit(pair, pair, checkpoint=tmp_path, **{**options, "stop": "validation"})


def test_batches_are_the_papers(monkeypatch):
    """Section 6.1: CNN-S, VGG16, GoogLeNet and ResNet-50 with 64, 32, 64 and 32."""
    sizes = [paper_batch_size(n) for n in ("cnn_s", "vgg16_caffe", "bvlc_googlenet", "resnet50")]
    assert sizes == [64, 32, 64, 32]
    assert all(name in ENTRIES for name in ("cnn_s", "vgg16_caffe", "bvlc_googlenet", "resnet50"))
    seen = []

    def fit(train, validation, **options):
        seen.append(options["batch_size"])
        return LastLayer(jnp.zeros((64, 10)), jnp.zeros(10), np.zeros((0, 2)))

    monkeypatch.setattr(LastLayer, "fit", fit)
    network = ENTRIES["cifar_resnet20"].build(10, rngs=nnx.Rngs(0))
    source = ClutteredDigits(2, train=True, side=32)
    for name, size in (("cifar_resnet20", None), ("vgg16_caffe", None), ("vgg16_caffe", 7)):
        network.config = dataclasses.replace(ENTRIES["cifar_resnet20"].config, name=name)
        jaxplain.finetune(network, source, flips=False, crops=False, batch_size=size)
    assert seen == [64, 32, 7]
