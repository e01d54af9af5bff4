# %% [markdown]
# # Transformers, and CLIP with a text
#
# Tokens are places. A class token, heads and patches are followed from the image on, so that maps come back as grids.

# %%
import jax
import jax.numpy as jnp
from flax import nnx

import jaxplain


class Attention(nnx.Module):
    def __init__(self, width, rngs, heads=2):
        self.heads = heads
        self.qkv = nnx.Linear(width, 3 * width, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x):
        b, n, c = x.shape
        q, k, v = jnp.moveaxis(self.qkv(x).reshape(b, n, 3, self.heads, -1), 2, 0)
        weights = jax.nn.softmax(jnp.einsum("bqhc,bkhc->bhqk", q, k) / q.shape[-1] ** 0.5)
        return self.out(jnp.einsum("bhqk,bkhc->bqhc", weights, v).reshape(b, n, c))


class Block(nnx.Module):
    def __init__(self, width, rngs):
        self.norm1, self.norm2 = nnx.LayerNorm(width, rngs=rngs), nnx.LayerNorm(width, rngs=rngs)
        self.attention = Attention(width, rngs)
        self.up, self.down = nnx.Linear(width, 32, rngs=rngs), nnx.Linear(32, width, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.down(nnx.gelu(self.up(self.norm2(x))))


class ViT(nnx.Module):
    def __init__(self, rngs, width=16, outputs=8):
        self.patches = nnx.Conv(3, width, (4, 4), strides=4, rngs=rngs)
        self.token = nnx.Param(jnp.zeros((1, 1, width)))
        self.blocks = nnx.List([Block(width, rngs) for _ in range(2)])
        self.head = nnx.Linear(width, outputs, rngs=rngs)

    def __call__(self, x):
        x = self.patches(x)
        x = x.reshape(len(x), -1, x.shape[-1])
        x = jnp.concatenate([self.token[...].repeat(len(x), 0), x], 1)
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, 0])


net = ViT(nnx.Rngs(0))
x = jax.random.uniform(jax.random.key(1), (1, 32, 32, 3))
jaxplain.layers(net, x)

# %%
methods = ["attention-rollout", "transformer-attribution", "legrad"]
found = jaxplain.explain(
    x, net, {**dict.fromkeys(methods), "lrp": {"composite": "attn_lrp"}}, [0, 3]
)
found

# %% [markdown]
# **CLIP.** The score is the similarity to a text; texts are the classes. Random vectors stand for a text tower here.

# %%
texts = jax.random.normal(jax.random.key(2), (2, 8))
texts = texts / jnp.linalg.norm(texts, axis=-1, keepdims=True)


def similarity(x):
    image = net(x)
    return image / jnp.linalg.norm(image, axis=-1, keepdims=True) @ texts.T


names = ["a photo of a cat", "a photo of a cup"]
found = jaxplain.explain(x, similarity, ["gradient", "input-x-gradient"], names, class_names=names)
found

# %% [markdown]
# ## On a GPU or TPU
#
# Nothing changes: JAX puts the arrays there. The cell below measures it, and is skipped on a processor.

# %%
if jax.default_backend() != "cpu":
    maps = jax.jit(jaxplain.legrad)(jaxplain.trace(net, x), x, 3)
