"""Squares of a colour in noise, and a network that has an output for each."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxplain import data, models

SIZE = 48


class Net(nnx.Module):
    """Three outputs, one each colour, at whatever size."""

    def __init__(self, outputs=3, names=("red ball", "green ball", "blue cup, mug")):
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0))
        self.head = nnx.Linear(4, outputs, rngs=nnx.Rngs(1))
        self.config = models.ModelConfig(
            "net",
            SIZE,
            (127.0,),
            (128.0,),
            interpolation="bilinear",
            class_names=names,
            outputs=outputs,
        )

    def __call__(self, x):
        return self.head(jax.nn.relu(self.conv(x)).mean((1, 2)))


def picture(rng, shape, objects):
    """Noise with squares: (colour, left, top, right, bottom)."""
    image = rng.integers(0, 90, (*shape, 3), dtype=np.uint8)
    for channel, left, top, right, bottom in objects:
        image[top:bottom, left:right, channel] += 150
    return image


def records():
    """Twelve images with one or two objects of three classes, one of them never known."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(12):
        shape = ((60, 90), (80, 50), (64, 64))[i % 3]
        objects = []
        for _ in range(1 + i % 2):
            side = int(rng.integers(20, 45))
            left, top = (int(rng.integers(0, n - side)) for n in (shape[1], shape[0]))
            objects.append((int(rng.integers(0, 3)), left, top, left + side, top + side))
        labels, boxes = [o[0] for o in objects], [o[1:] for o in objects]
        made.append(data.Record.make(picture(rng, shape, objects), f"{i}", labels, boxes))
    return made


class Source(list):
    name, class_names = "squares", ("red", "green", "blue")


def stretched(record):
    return data.resize_image(record.image, (SIZE, SIZE))


def to_input(pixels):
    return pixels.astype(jnp.float32) / 255


def iou(a, b):
    sides = [min(a[k + 2], b[k + 2]) - max(a[k], b[k]) for k in (0, 1)]
    common = max(sides[0], 0) * max(sides[1], 0)
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return common / (sum(areas) - common) if sum(areas) > common else 0.0
