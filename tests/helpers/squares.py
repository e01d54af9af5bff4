"""Squares of a colour in noise, and a network that has an output for each."""

import jax
import numpy as np
from flax import nnx

from jaxplain import models

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
