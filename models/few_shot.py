"""Conv4Net and Conv64F, the small embedding networks of few-shot learning, with leaky ReLU.

J. Snell, K. Swersky, R. Zemel: Prototypical Networks for Few-shot Learning, NIPS 2017 (Conv4Net).
F. Sung et al.: Learning to Compare: Relation Network for Few-Shot Learning, CVPR 2018, and W. Li
et al.: Revisiting Local Descriptor based Image-to-Class Measure for Few-shot Learning, CVPR 2019
(Conv64F, which keeps a finer grid of features).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name as tag  # this is what jaxplain.tag is

from jaxplain.models.layers import BatchNorm, Conv, max_pool
from jaxplain.models.network import Network

CHANNELS = 64
INPUT_SIZE = 84
_SLOPE = 0.2
# Network -> after which of its four blocks there is a 2x2 max pool.
POOLS = {"conv4net": (True, True, True, True), "conv64f": (True, True, False, False)}


def feature_size(network: str) -> int:
    """Height and width of the features of an 84 x 84 image.

    Example:
        >>> from jaxplain.models.few_shot import feature_size
        >>> feature_size("conv4net"), feature_size("conv64f")
        (5, 21)
    """
    return INPUT_SIZE >> sum(POOLS[network])


class FewShotNet(Network):
    """Four 3x3 convolutions of 64 filters: images ``(B, H, W, 3)`` to embeddings ``(B, N)``.

    The embedding is the features ``(B, h, w, 64)``, channels first and flattened as in torch: 1600
    numbers of an 84 x 84 image with Conv4Net, 28224 with Conv64F. Embeddings are compared by
    cosine similarity. Layers are tagged ``conv1`` ... ``conv4`` (after leaky ReLU, of slope 0.2)
    and ``pool1`` ... as far as there are pools.

    Args:
        network: ``"conv4net"``, with a max pool behind every block, or ``"conv64f"``, with pools
            behind the first two only.
        dtype: what to compute in (parameters stay float32); None for the inputs' own.
        fully_convolutional: the embedding of every window of 84 x 84 pixels, at the stride of the
            features: ``(B, H', W', N)``.
        rngs: for the initial weights.

    Raises:
        ValueError: there is no such network, or an image is smaller than a window.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from jaxplain.models.few_shot import FewShotNet
        >>> build = lambda: FewShotNet("conv4net", rngs=nnx.Rngs(0))(jnp.zeros((1, 84, 84, 3)))
        >>> nnx.eval_shape(build).shape
        (1, 1600)
    """

    def __init__(
        self,
        network: str,
        *,
        dtype: jnp.dtype | None = None,
        fully_convolutional: bool = False,
        rngs: nnx.Rngs,
    ):
        if network not in POOLS:
            raise ValueError(f"The few-shot networks are {list(POOLS)}, not {network!r}.")
        self.network, self.fully_convolutional = network, fully_convolutional
        for i in range(4):
            inputs = CHANNELS if i else 3
            setattr(self, f"conv{i}", Conv(inputs, CHANNELS, 3, 1, 1, dtype=dtype, rngs=rngs))
            setattr(self, f"bn{i}", BatchNorm(CHANNELS, dtype=dtype, rngs=rngs))

    def __call__(self, x: jax.Array) -> jax.Array:
        for i, pool in enumerate(POOLS[self.network]):
            x = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x))
            x = tag(jax.nn.leaky_relu(x, _SLOPE), f"conv{i + 1}")
            if pool:
                x = tag(max_pool(x, 2, 2), f"pool{i + 1}")
        if not self.fully_convolutional:
            return jnp.transpose(x, (0, 3, 1, 2)).reshape(x.shape[0], -1)
        return _windows(x, feature_size(self.network))


def _windows(x: jax.Array, size: int) -> jax.Array:
    """Every window of ``size`` x ``size``, flattened channels first: ``(B, H', W', C size^2)``."""
    if min(x.shape[1:3]) < size:
        raise ValueError(
            f"The embedding takes features of at least {size} x {size}, not of "
            f"{x.shape[1]} x {x.shape[2]}: give larger images."
        )
    rows, columns = (jnp.arange(n - size + 1)[:, None] + jnp.arange(size) for n in x.shape[1:3])
    x = x[:, rows][:, :, :, columns]  # (B, H', size, W', size, C)
    x = jnp.transpose(x, (0, 1, 3, 5, 2, 4))
    return x.reshape(*x.shape[:3], -1)
