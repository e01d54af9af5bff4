# %% [markdown]
# # A data set, on all devices
#
# Maps of every image, in files that can be read back. Killed at any moment, the same call goes on from where it was.

# %%
import tempfile

import jax
import numpy as np

import jaxplain
from jaxplain import data

weight = jax.random.normal(jax.random.key(0), (3, 4))


def net(x):
    return jax.nn.relu(x).mean((1, 2)) @ weight


class Photos:
    """Any object with a name, class names, a length and records."""

    name, class_names = "noise", ()

    def __len__(self):
        return 100

    def __getitem__(self, i):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        return data.Record.make(pixels, f"photo {i}")


folder = tempfile.mkdtemp()
summary = jaxplain.explain_dataset(
    net,
    Photos(),
    folder,
    {"grad-cam": jaxplain.grad_cam, "gradient": jaxplain.gradient},
    prepare=lambda record: record.image,
    to_input=lambda pixels: pixels.astype("float32") / 255,
    batch_size=4 * len(jax.local_devices()),
    shard_size=8 * len(jax.local_devices()),
)
summary

# %%
maps = data.open_maps(folder)
assert len(maps) == 100
x = Photos()[7].image[None].astype("float32") / 255
np.testing.assert_allclose(maps[7].maps["grad-cam"], jaxplain.grad_cam(net, x)[0], atol=2e-3)
jaxplain.explain(x, net, ["grad-cam", "gradient"], "top1")

# %% [markdown]
# ## On a GPU or TPU
#
# Nothing changes: JAX puts the arrays there. The cell below measures it, and is skipped on a processor.

# %%
if jax.default_backend() != "cpu":
    print(jax.local_devices(), summary)
