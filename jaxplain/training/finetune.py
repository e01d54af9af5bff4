"""A new output layer for a data set, on a network's unchanged features (Zhang et al. 2018, 6.1)."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from jaxplain import data
from jaxplain.evaluation.classification import mean_average_precision
from jaxplain.training.last_layer import LastLayer, last_layer_inputs

if TYPE_CHECKING:
    from jaxplain.models import Network

__all__ = ["Finetuned", "finetune", "paper_batch_size", "views", "with_head"]

_log = logging.getLogger(__name__)


class Finetuned(NamedTuple):
    """What `finetune` returns.

    Attributes:
        network: the network with the new output layer and the data set's class names; save it with
            `jaxplain.models.save_pretrained`.
        losses: ``(epochs, 2)``, on the training and the validation set, see `LastLayer`.
        mean_average_precision: on the validation set; None without one.
        left_out: of the training set and the validation set, how many images ``softmax`` left out,
            since they do not have exactly one class; and how many there were.
        failures: (id, reason) of the images that could not be read.
    """

    network: Network
    losses: np.ndarray
    mean_average_precision: float | None
    left_out: tuple[tuple[int, int], ...]
    failures: tuple[tuple[str, str], ...]


def finetune(
    network: Any,
    train: data.Source,
    validation: data.Source | None = None,
    *,
    loss: str = "sigmoid",
    stop: str = "training",
    flips: bool = True,
    crops: bool = True,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    batch_size: int | None = None,
    epochs: int = 100,
    patience: int = 5,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Finetuned:
    """Replaces a network's output layer by one for another data set, and trains that layer alone.

    As in the paper: the classes' cross-entropies are summed, the descent has its learning rate,
    momentum and batch sizes, stops when the training loss has come to a plateau, and images are
    padded to squares by mirroring. Unlike there, flips and crops are not drawn at random: features
    of a fixed set of `views` of each training image, and of the whole of each validation image, are
    computed once, and standardised for the descent.

    Args:
        network: of `jaxplain.models`, ending in a dense layer on ``(B, F)``.
        train, validation: data sets with the same classes; without the second no precision is
            known.
        loss: ``sigmoid`` for several classes to an image (``sigmoid_mean``: the mean over classes
            in place of the sum), ``softmax`` for one: images with none or several are left out.
        stop: ``training``, at the plateau of the training loss, with the weights of the end; or
            ``validation``, when the validation loss has not been lower for some epochs, with the
            weights of the lowest.
        flips, crops: which views a training image has besides the whole one.
        learning_rate, momentum, batch_size: of the descent; a batch of None is the paper's for this
            network, see `paper_batch_size`.
        epochs, patience: at most so many epochs, and how many of them without a lower loss.
        seed: of the order.
        checkpoint: a folder from which a training that was stopped goes on, to the same weights bit
            for bit; None keeps nothing.
        workers: processes that read images; 0 for threads.
        progress: called with how many are done, and of how many: the training images, then the
            validation images, then the epochs (it may stop before the last one).

    Raises:
        ValueError: the classes of the data sets differ, no image has exactly one class under
            ``softmax``, there is no validation set to stop by, or a network that does not fit.
        weights_convert.CheckpointError: the checkpoint is of another training, or damaged.
        ImportError: optax or grain is not installed.
    """
    names = tuple(train.class_names)
    if validation is not None and tuple(validation.class_names) != names:
        raise ValueError("the training and validation data have different classes")
    if validation is None and stop == "validation":
        raise ValueError("stop='validation' needs validation data")
    failures: list[tuple[str, str]] = []
    sets, left_out = [], []
    for what, source, own in (("training", train, True), ("validation", validation, False)):
        if source is None:
            continue
        _log.info("computing the features of the %s images", what)
        prepare = _Views(network.config, flips and own, crops and own)
        found, *counts = _features(
            network, source, prepare, loss == "softmax", workers, failures, progress
        )
        sets.append(found)
        left_out.append(tuple(counts))
    _log.info("training the new output layer")
    layer = LastLayer.fit(
        sets[0],
        None if validation is None else sets[1],
        classes=len(names),
        loss=loss,
        stop=stop,
        learning_rate=learning_rate,
        momentum=momentum,
        batch_size=paper_batch_size(network.config.name) if batch_size is None else batch_size,
        epochs=epochs,
        patience=patience,
        seed=seed,
        checkpoint=checkpoint,
        progress=progress,
    )
    precision = None
    if validation is not None:
        features, targets = sets[1]
        precision = float(mean_average_precision(layer(features), targets > 0))
    return Finetuned(
        with_head(network, layer, names),
        layer.losses,
        precision,
        tuple(left_out),
        tuple(failures),
    )


def paper_batch_size(name: str) -> int:
    """The batch of Zhang et al. 2018, section 6.1: 32 for VGG-16 and ResNet-50, 64 for the others.

    Example:
        >>> from jaxplain.training.finetune import paper_batch_size
        >>> paper_batch_size("vgg16_caffe"), paper_batch_size("bvlc_googlenet")
        (32, 64)
    """
    return 32 if name.startswith(("vgg16", "resnet50")) else 64


def views(image: np.ndarray, config: Any, *, flips: bool, crops: bool) -> np.ndarray:
    """Views of an image for a network: the square that mirroring makes of it, and parts of that.

    The square is resized so that the network's input is ``config.crop_fraction`` of it. Without
    ``crops`` there is its centre; with them the four corners too; with ``flips`` each of them
    mirrored as well.

    Args:
        image: uint8 ``(H, W, 3)``.
        config: of the network.

    Returns:
        uint8 ``(V, size, size, 3)``, the central view first.

    Example:
        >>> import numpy as np
        >>> from jaxplain.training.finetune import views
        >>> from jaxplain.models import ModelConfig
        >>> config = ModelConfig("net", 28, (0.0,), (1.0,), crop_fraction=0.875)
        >>> views(np.zeros((20, 40, 3), np.uint8), config, flips=True, crops=True).shape
        (10, 28, 28, 3)
    """
    size = config.input_size
    side = max(round(size / config.crop_fraction), size)
    missing = [max(image.shape[:2]) - n for n in image.shape[:2]]
    pads = [(n // 2, n - n // 2) for n in missing]
    square = np.pad(image, [*pads, (0, 0)], mode="symmetric")
    square = data.resize_image(square, (side, side), config.interpolation)
    rest = side - size
    corners = [(rest // 2, rest // 2)]
    if crops and rest:
        corners += [(0, 0), (0, rest), (rest, 0), (rest, rest)]
    parts = [square[top : top + size, left : left + size] for top, left in corners]
    if flips:
        parts += [part[:, ::-1] for part in parts]
    return np.stack(parts)


def with_head(network: Any, layer: LastLayer, class_names: Sequence[str]) -> Network:
    """A copy of a network whose last dense layer is another one.

    Args:
        network: ends in an `nnx.Linear`, and has a ``config``.
        layer: kernel ``(F, K)`` and bias ``(K,)``.
        class_names: K names.

    Raises:
        ValueError: it is not clear which `nnx.Linear` is the last one.
    """
    network = nnx.clone(network)
    outputs = network.config.outputs
    found = [
        (path, module)
        for path, module in nnx.iter_modules(network)
        if isinstance(module, nnx.Linear)
        and module.kernel.shape == (layer.kernel.shape[0], outputs)
    ]
    if len(found) != 1:
        raise ValueError(
            f"the network has {len(found)} dense layers of {layer.kernel.shape[0]} features and "
            f"{outputs} outputs, so that its output layer cannot be told; it must have one"
        )
    head = found[0][1]
    head.kernel = nnx.Param(layer.kernel)
    head.bias = nnx.Param(layer.bias)
    head.out_features = len(class_names)
    network.config = dataclasses.replace(
        network.config,
        outputs=len(class_names),
        class_names=tuple(class_names),
        source=None,
        top1=None,
    )
    return network


class _Views:
    """A record to its views; can be sent to worker processes."""

    def __init__(self, config: Any, flips: bool, crops: bool):
        self.config, self.flips, self.crops = config, flips, crops

    def __call__(self, record: data.Record) -> np.ndarray:
        return views(record.image, self.config, flips=self.flips, crops=self.crops)


def _features(
    network: nnx.Module,
    source: data.Source,
    prepare: _Views,
    exclusive: bool,
    workers: int,
    failures: list[tuple[str, str]],
    progress: Callable[[int, int], None] | None,
) -> tuple[tuple[np.ndarray, np.ndarray], int, int]:
    """What enters the last layer for each view of each image, and the classes it should see.

    And how many images were left out, of how many: if ``exclusive``, those without exactly one
    class.
    """
    features, targets = [], []
    read = left_out = 0
    for done, items in _groups(data.load(source, prepare, workers=workers), failures):
        read += len(items)
        if exclusive:
            taken = [item for item in items if len(np.unique(item.record.labels)) == 1]
            left_out += len(items) - len(taken)
            items = taken
        if progress is not None:
            progress(done, len(source))
        if not items:
            continue
        pixels = np.concatenate([item.pixels for item in items])
        features.append(
            np.asarray(
                last_layer_inputs(
                    network,
                    data.normalise(jax.numpy.asarray(pixels), prepare.config),
                    batch_size=16,
                )
            )
        )
        for item in items:
            row = np.zeros(len(source.class_names), np.float32)
            row[item.record.labels] = 1
            targets += [row] * len(item.pixels)
    if not read:
        raise ValueError(f"no image of {source.name} could be read")
    if not features:
        raise ValueError(
            f"none of the {read} images of {source.name} has exactly one class, as softmax needs; "
            "use the loss sigmoid"
        )
    return (np.concatenate(features), np.stack(targets)), left_out, read


def _groups(
    items: Iterator[data.Item], failures: list[tuple[str, str]], count: int = 16
) -> Iterator[tuple[int, list[data.Item]]]:
    """(how many were read, the next ones), ``count`` images at a time."""
    group: list[data.Item] = []
    done = 0
    for done, item in enumerate(items, 1):
        if item.error is not None:
            failures.append((item.error.record, item.error.reason))
            continue
        group.append(item)
        if len(group) == count:
            yield done, group
            group = []
    if group:
        yield done, group
