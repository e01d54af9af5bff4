# %% [markdown]
# # Compare and score methods
#
# A picture convinces easily. Scores tell whether a map marks what the network uses, and whether it depends on what was learned.

# %%
import functools

import jax
import jax.numpy as jnp
import numpy as np

import jaxplain

kernel = jax.random.normal(jax.random.key(0), (3, 3, 3, 16)) / 3
weight = jax.random.normal(jax.random.key(1), (16, 5))


def net(x, kernel=kernel, weight=weight):
    x = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return 5 * jax.nn.relu(x).mean((1, 2)) @ weight


x = jax.random.normal(jax.random.key(2), (4, 24, 24, 3))
x = x.at[:, 4:12, 4:12].mul(3.0)  # something happens there

# %%
found = jaxplain.explain(x[0], net, ["gradient", "grad-cam", "lrp", "mwp"], "top1")
found

# %%
table = jaxplain.score(
    {
        "Gradient": jaxplain.gradient,
        "Grad-CAM": jaxplain.grad_cam,
        "LRP": jaxplain.lrp,
        "MWP": jaxplain.excitation_backprop,
    },
    net,
    x,
    boxes=[[(4, 4, 12, 12)]] * 4,
    tolerance=2,
    random_fn=functools.partial(net, kernel=kernel[::-1, ::-1, :, ::-1], weight=weight[::-1]),
    steps=16,
    samples=3,
)
table

# %%
assert len(table) == 5 and table.columns[-1] == "pointing (%)"
assert all(np.isfinite(row[1]) for row in table)

# %% [markdown]
# ## On a GPU or TPU
#
# Nothing changes: JAX puts the arrays there. The cell below measures it, and is skipped on a processor.

# %%
if jax.default_backend() != "cpu":
    print(jaxplain.score(jaxplain.grad_cam, net, jnp.tile(x, (16, 1, 1, 1))))
