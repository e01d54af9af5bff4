"""A vision transformer that says of each pixel how much it matters, with a convolutional head."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name as tag  # this is what jaxplain.tag is

from jaxplain.models.layers import BatchNorm, Conv
from jaxplain.models.network import Network
from jaxplain.models.vit import Form, VisionTransformer

_WIDTHS = (256, 128, 64)


class _Twice(nnx.Module):
    """Transposed convolution to twice the size, batch normalisation and ReLU."""

    def __init__(self, inputs, outputs, *, dtype, rngs):
        # Torch's padding of 1 takes a pixel off each side, where the window could stand out by 3.
        self.conv = nnx.ConvTranspose(
            inputs,
            outputs,
            (4, 4),
            (2, 2),
            padding=((2, 2), (2, 2)),
            transpose_kernel=True,
            dtype=dtype,
            rngs=rngs,
        )
        self.norm = BatchNorm(outputs, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(self.norm(self.conv(x)))


class Decoder(nnx.Module):
    """The patches' tokens ``(B, h, w, C)`` to a map ``(B, 8 h, 8 w, 1)`` of logits."""

    def __init__(self, width, *, dtype, rngs):
        steps = []
        for outputs in _WIDTHS:
            steps.append(_Twice(width, outputs, dtype=dtype, rngs=rngs))
            width = outputs
        self.steps = nnx.List(steps)
        self.last = Conv(width, 1, 1, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for i, step in enumerate(self.steps):
            x = tag(step(x), f"decoder.{i}")
        return self.last(x)


class ImportanceMap(Network):
    """Images ``(B, H, W, 3)`` to a score map ``(B, H, W, 1)``, from 0 to 1: what matters in them.

    The tokens of a vision transformer, laid out as the patches lie, are upsampled by transposed
    convolutions and brought to the size of the image by bilinear interpolation; the output is the
    sigmoid of that. Layers are those of ``VisionTransformer``, ``decoder.0`` ... ``decoder.2``
    (after ReLU), and ``logits``, the map before the sigmoid.

    "What made this place bright" is asked of the logits, which do not saturate:
    ``jaxplain.lrp(lambda x: network.logits(x)[:, i, j], x, 0)``. Of several places, ``(B, K)``
    scores explain each as a class.

    Args:
        form: of the transformer.
        num_classes: 1, the number of maps.
        dtype: what to compute in (parameters stay float32); None for the inputs' own.
        fully_convolutional: makes no difference: images of any aspect ratio have a map.
        scan: as in ``VisionTransformer``.
        rngs: for the initial weights.

    Raises:
        ValueError: another number of maps than 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from jaxplain.models.importance import ImportanceMap
        >>> from jaxplain.models.vit import Form
        >>> form = Form(width=8, heads=2, depth=1, patch=14, grid=3, head="embedding")
        >>> network = ImportanceMap(form, rngs=nnx.Rngs(0))
        >>> network(jnp.zeros((1, 42, 56, 3))).shape
        (1, 42, 56, 1)
    """

    def __init__(
        self,
        form: Form,
        num_classes: int = 1,
        *,
        dtype: jnp.dtype | None = None,
        fully_convolutional: bool = False,
        scan: bool = False,
        rngs: nnx.Rngs,
    ):
        if num_classes != 1:
            raise ValueError(f"An importance map is one map, not {num_classes}.")
        self.backbone = VisionTransformer(form, form.width, dtype=dtype, scan=scan, rngs=rngs)
        self.decoder = Decoder(form.width, dtype=dtype, rngs=rngs)

    def tokens(self, x: jax.Array) -> jax.Array:
        """Images to the tokens after the last norm, ``(B, 1 + h * w, C)``, class token first."""
        return self.backbone.tokens(x)

    def logits(self, x: jax.Array) -> jax.Array:
        """Images ``(B, H, W, 3)`` to the map before the sigmoid, ``(B, H, W, 1)``."""
        batch, height, width, _ = x.shape
        patch = self.backbone.form.patch
        grid = (height // patch, width // patch)
        tokens = self.tokens(x)
        patches = tokens[:, tokens.shape[1] - grid[0] * grid[1] :]
        small = self.decoder(patches.reshape(batch, *grid, -1))
        return tag(jax.image.resize(small, (batch, height, width, 1), "linear"), "logits")

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(self.logits(x))
