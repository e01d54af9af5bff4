# %% [markdown]
# # Your own model, in six frameworks
#
# One network, six ways to write it. An explainer needs a function from images to scores, and no more.

# %%
import os

os.environ["KERAS_BACKEND"] = "jax"
import equinox as eqx
import flax.linen as linen
import haiku as hk
import jax
import jax.numpy as jnp
import keras
import numpy as np
from flax import nnx

import jaxplain

rng = np.random.default_rng(0)
kernel = rng.normal(size=(3, 3, 3, 8)).astype("float32")
weight = rng.normal(size=(8, 4)).astype("float32")
x = jnp.asarray(rng.uniform(size=(2, 16, 16, 3)), jnp.float32)

# %% [markdown]
# A plain function.


# %%
def plain(x):
    x = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jax.nn.relu(x).mean((1, 2)) @ weight


maps = {"plain": jaxplain.grad_cam(plain, x)}

# %% [markdown]
# Flax NNX: the module itself.


# %%
class Net(nnx.Module):
    def __init__(self):
        self.conv = nnx.Conv(3, 8, (3, 3), use_bias=False, rngs=nnx.Rngs(0))
        self.head = nnx.Linear(8, 4, use_bias=False, rngs=nnx.Rngs(0))
        self.conv.kernel[...], self.head.kernel[...] = kernel, weight

    def __call__(self, x):
        return self.head(nnx.relu(self.conv(x)).mean((1, 2)))


maps["NNX"] = jaxplain.grad_cam(Net(), x)

# %% [markdown]
# Flax Linen: close over the variables.

# %%
linen_net = linen.Sequential(
    [
        linen.Conv(8, (3, 3), use_bias=False),
        linen.relu,
        lambda x: x.mean((1, 2)),
        linen.Dense(4, use_bias=False),
    ]
)
params = {"params": {"layers_0": {"kernel": kernel}, "layers_3": {"kernel": weight}}}
maps["Linen"] = jaxplain.grad_cam(lambda x: linen_net.apply(params, x), x)

# %% [markdown]
# Haiku.

# %%
haiku_net = hk.without_apply_rng(
    hk.transform(
        lambda x: hk.Linear(4, with_bias=False, name="head")(
            jax.nn.relu(hk.Conv2D(8, 3, with_bias=False, name="conv")(x)).mean((1, 2))
        )
    )
)
haiku_params = {"conv": {"w": kernel}, "head": {"w": weight}}
maps["Haiku"] = jaxplain.grad_cam(lambda x: haiku_net.apply(haiku_params, x), x)

# %% [markdown]
# Equinox: one image at a time, channels first. The map is at the right places all the same.

# %%
conv = eqx.nn.Conv2d(3, 8, 3, padding=1, use_bias=False, key=jax.random.key(0))
conv = eqx.tree_at(lambda c: c.weight, conv, jnp.asarray(kernel.transpose(3, 2, 0, 1)))


def equinox_net(x):
    one = lambda image: jax.nn.relu(conv(jnp.moveaxis(image, -1, 0))).mean((1, 2)) @ weight
    return jax.vmap(one)(x)


maps["Equinox"] = jaxplain.grad_cam(equinox_net, x)

# %% [markdown]
# Keras on JAX: the model itself.

# %%
keras_net = keras.Sequential(
    [
        keras.layers.Input((16, 16, 3)),
        keras.layers.Conv2D(8, 3, padding="same", use_bias=False, activation="relu"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(4, use_bias=False),
    ]
)
keras_net.set_weights([kernel, weight])
maps["Keras"] = jaxplain.grad_cam(keras_net, x)

# %% [markdown]
# All six are one map, of the top class.

# %%
assert maps["plain"].max() > 0
for name, own in maps.items():
    np.testing.assert_allclose(own, maps["plain"], rtol=1e-4, atol=1e-6, err_msg=name)
found = jaxplain.explain(x[0], Net(), ["grad-cam", "layer-cam"], "top1")
found

# %% [markdown]
# ## On a GPU or TPU
#
# Nothing changes: JAX puts the arrays there. The cell below measures it, and is skipped on a processor.

# %%
if jax.default_backend() != "cpu":
    print(jax.devices(), jax.jit(jaxplain.grad_cam)(jaxplain.trace(Net(), x), x, 1).devices())
