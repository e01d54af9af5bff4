# %% [markdown]
# # Start
#
# A network, a picture, and what the network looked at. The network is a small one that knows three colours of squares; put the
# name of a pretrained one (`"efficientnet_lite0"`) and a photograph of yours in their places.

# %%
import jax
import numpy as np
from flax import nnx

import jaxplain


class Colours(nnx.Module):
    """Scores how much of a picture is redder, greener or bluer than the rest of its pixel."""

    def __init__(self):
        self.conv = nnx.Conv(3, 3, (3, 3), use_bias=False, rngs=nnx.Rngs(0))
        own = np.full((3, 3), -0.5) + 1.5 * np.eye(3)
        self.conv.kernel[...] = np.broadcast_to(own / 9, (3, 3, 3, 3)).astype("float32")

    def __call__(self, x):
        return 20 * nnx.relu(self.conv(x)).mean((1, 2))


rng = np.random.default_rng(0)
picture = rng.integers(90, 130, (64, 96, 3), dtype=np.uint8)
picture[8:32, 8:40, 0] += 110
picture[30:56, 50:88, 2] += 110

# %% [markdown]
# The result shows itself. Each row is a class, each column a method.

# %%
found = jaxplain.explain(
    picture,
    Colours(),
    ["grad-cam", "mwp", "lrp", "occlusion"],
    targets="top2",
    preprocess=lambda photo: photo / 255.0,
    class_names=["red", "green", "blue"],
)
found

# %% [markdown]
# The maps are arrays, raw and at their own resolution.

# %%
{name: maps.shape for name, maps in found.maps.items()}

# %%
row, column = np.unravel_index(found.map("grad-cam", "red").argmax(), (64, 96))
assert 8 <= row < 32 and 8 <= column < 40
found.to_pil("grad-cam", "red")

# %% [markdown]
# ## On a GPU or TPU
#
# Nothing changes: JAX puts the arrays there. The cell below measures it, and is skipped on a processor.

# %%
if jax.default_backend() != "cpu":
    large = jaxplain.explain(
        np.tile(picture, (8, 8, 1)),
        Colours(),
        ["grad-cam", "lrp"],
        0,
        preprocess=lambda p: p / 255.0,
    )
