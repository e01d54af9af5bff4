"""A small data set, a network and maps whose numbers are known, for tests of the gallery."""

import jax.numpy as jnp
import numpy as np

import jaxplain
from jaxplain import data

EVIL = "<img src=x onerror=alert(1)>"
CLASSES = (EVIL, "cup", "dog")


class Pictures:
    """Record i is of class ``i % 3``, bright where its box is: left in even ones, right in odd."""

    name, class_names = f"pictures {EVIL}", CLASSES

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        image = np.random.default_rng(i).integers(0, 100, (24, 80, 3), np.uint8)
        left = 4 if i % 2 == 0 else 60
        image[8:14, left : left + 10, i % 3] = 255
        name = f"{EVIL}.jpg" if i == 1 else f"../../../{i:03d}.jpg"
        return data.Record.make(image, name, [i % 3], [[left, 8, left + 10, 14]])


def network(x):
    """Which of the colours is the brightest; of blue it says green, so that it errs."""
    seen = jaxplain.tag(x, "seen").mean((1, 2))
    return 100 * jnp.stack([seen[:, 0], seen[:, 1:].max(1), -seen[:, 2]], 1)


def bright(fn, x, targets):
    """A map that finds the brightest place."""
    return _for_each(x.max(-1) ** 4, targets)


def left(fn, x, targets):
    """A map that always points to the left."""
    return _for_each(jnp.broadcast_to(-jnp.arange(80.0), x.shape[:3]), targets)


def _for_each(maps, targets):
    own = targets.shape[1:] if targets.dtype == jnp.int32 else targets.shape[1:-1]
    maps = maps.reshape(len(maps), *(1,) * len(own), *maps.shape[1:])
    return jnp.broadcast_to(maps, (len(maps), *own, *maps.shape[-2:]))


def explained(folder, source, **options):
    """Maps of `bright`, under a name of the catalogue, and of `left`."""
    methods = {"grad-cam": bright, "left": left}
    options = {"class_names": CLASSES, "batch_size": 8, "shard_size": 16, **options}
    jaxplain.explain_dataset(
        network,
        source,
        folder,
        methods,
        prepare=lambda record: record.image,
        to_input=lambda pixels: pixels / jnp.float32(255),
        **options,
    )
    return folder
