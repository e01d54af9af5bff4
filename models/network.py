"""What every network of the zoo is."""

from __future__ import annotations

import jax
from flax import nnx

from jaxplain.models.config import ModelConfig


class Network(nnx.Module):
    """A network for inference: images ``(B, H, W, 3)`` to logits ``(B, N)`` or an embedding.

    Attributes:
        config: what one must know to feed it images and to read its output; ``from_pretrained``
            sets it.
    """

    config: ModelConfig

    def __call__(self, x: jax.Array) -> jax.Array:
        raise NotImplementedError(f"{type(self).__name__} does not say what it computes.")
