"""Vision transformers: ViT, DeiT, DINOv2, and the image towers of CLIP and SigLIP.

A. Dosovitskiy et al.: An Image is Worth 16x16 Words, ICLR 2021; H. Touvron et al.: Training
data-efficient image transformers & distillation through attention, ICML 2021 (DeiT); M. Oquab et
al.: DINOv2, 2023; T. Darcet et al.: Vision Transformers Need Registers, ICLR 2024; A. Radford et
al.: Learning Transferable Visual Models From Natural Language Supervision, ICML 2021 (CLIP);
X. Zhai et al.: Sigmoid Loss for Language Image Pre-Training, ICCV 2023 (SigLIP).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.ad_checkpoint import checkpoint_name as tag  # this is what jaxplain.tag is

from jaxplain.models.layers import Conv
from jaxplain.models.network import Network
from jaxplain.models.positions import resized
from jaxplain.models.transformer import Block, LayerNorm, Mlp, attend

#: What is made of the tokens after the last norm: a dense layer on the class token; the mean of
#: that and of one on the distillation token; the class token itself; its projection, without a
#: bias; or the answer of all tokens to one learnt query.
Head = Literal["classes", "distilled", "embedding", "projection", "pooled"]


@dataclasses.dataclass(frozen=True)
class Form:
    """What differs between vision transformers.

    Attributes:
        width: channels of the tokens.
        heads: of each attention.
        patch: side of a patch in pixels.
        grid: side of the grid of patches that the positions are of.
        depth: the number of blocks.
        expansion: the hidden channels of a multilayer perceptron over ``width``.
        head: what is made of the last tokens. All but ``"pooled"`` have a class token.
        registers: how many tokens besides that stand for nothing.
        layer_scale: whether branches end in a factor for each channel.
        pre_norm: whether a norm stands before the blocks, and patches have no bias (CLIP).
        activation: ``"gelu"``, ``"gelu_tanh"`` or ``"quick_gelu"``.
        eps: what the norms add to the variance.
        antialias: how positions are brought to another grid, see ``positions.bicubic_weights``.
    """

    width: int
    heads: int
    patch: int = 16
    grid: int = 14
    depth: int = 12
    expansion: int = 4
    head: Head = "classes"
    registers: int = 0
    layer_scale: bool = False
    pre_norm: bool = False
    activation: str = "gelu"
    eps: float = 1e-6
    antialias: bool = False

    @property
    def placed(self) -> int:
        """How many tokens before the patches have a position."""
        return {"pooled": 0, "distilled": 2}.get(self.head, 1)


class Embeddings(nnx.Module):
    """Images ``(B, H, W, 3)`` to tokens ``(B, T, C)``: class token, registers, patches."""

    def __init__(self, form: Form, *, dtype, rngs):
        initial = nnx.initializers.truncated_normal(0.02)
        count = form.placed + form.grid**2
        self.patch = Conv(
            3,
            form.width,
            form.patch,
            form.patch,
            bias=not form.pre_norm,
            dtype=dtype,
            rngs=rngs,
        )
        self.positions = nnx.Param(initial(rngs.params(), (1, count, form.width)))
        if form.placed:
            self.class_token = nnx.Param(initial(rngs.params(), (1, 1, form.width)))
        if form.head == "distilled":
            self.distillation_token = nnx.Param(initial(rngs.params(), (1, 1, form.width)))
        if form.registers:
            self.registers = nnx.Param(initial(rngs.params(), (1, form.registers, form.width)))
        self.form = form

    def __call__(self, x: jax.Array) -> jax.Array:
        form = self.form
        if x.shape[1] % form.patch or x.shape[2] % form.patch or not x.size:
            raise ValueError(
                f"The network sees patches of {form.patch} x {form.patch} pixels: the sides of "
                f"images must be multiples of {form.patch}, not {x.shape[1]} x {x.shape[2]}."
            )
        x = tag(self.patch(x), "patches")
        batch, height, width, channels = x.shape
        exact = jnp.promote_types(x.dtype, jnp.float32)
        positions, first = self.positions[...].astype(exact), form.placed
        here = resized(positions[:, first:], (height, width), form.antialias)
        x = x.reshape(batch, height * width, channels) + here.astype(x.dtype)
        if not first:
            return x
        own: list[jax.Array] = [self.class_token[...]]
        if form.head == "distilled":
            own.append(self.distillation_token[...])
        before = jnp.concatenate(own, axis=1) + positions[:, :first]
        if form.registers:
            before = jnp.concatenate([before, self.registers[...]], axis=1)
        before = jnp.broadcast_to(before.astype(x.dtype), (batch, before.shape[1], channels))
        return jnp.concatenate([before, x], axis=1)


class AttentionPool(nnx.Module):
    """One learnt query looks at all tokens, and a perceptron at the answer (SigLIP's head)."""

    def __init__(self, form: Form, *, dtype, rngs):
        width, options = form.width, dict(dtype=dtype, rngs=rngs)
        self.probe = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), (1, 1, width)))
        self.qkv = nnx.Linear(width, 3 * width, **options)
        self.proj = nnx.Linear(width, width, **options)
        self.norm = LayerNorm(width, form.eps, **options)
        self.mlp = Mlp(width, form.expansion * width, form.activation, **options)
        self.heads = form.heads

    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        parameters: tuple[Any, Any] = (self.qkv.kernel, self.qkv.bias)
        kernel, bias = (p[...].astype(x.dtype) for p in parameters)
        query = self.probe[...].astype(x.dtype) @ kernel[:, :width] + bias[:width]
        query = jnp.broadcast_to(query, (len(x), 1, width)).reshape(len(x), 1, self.heads, -1)
        both = x @ kernel[:, width:] + bias[width:]
        keys, values = (
            both[..., i * width : (i + 1) * width].reshape(*x.shape[:2], self.heads, -1)
            for i in range(2)
        )
        x = self.proj(attend(query, keys, values, name="pool.attention"))
        return (x + self.mlp(self.norm(x)))[:, 0]


class VisionTransformer(Network):
    """A vision transformer, for inference: images ``(B, H, W, 3)`` to ``(B, num_classes)``.

    Images may have any sides that are multiples of the patch's: positions are resized. Layers are
    tagged ``patches`` (of space, before the positions), ``embeddings`` (the tokens that the first
    block sees), ``blocks.0`` ... ``blocks.11`` (a block's output), in a block ``blocks.0.norm1``,
    ``blocks.0.attention`` (the weights, ``(B, heads, T, T)``) and ``blocks.0.norm2``, and ``norm``
    (the tokens after the last norm); with a pooling head also ``pool.attention``. Scanned, the
    blocks are ``blocks:0``, ``blocks.norm1:0`` and so on.

    CLIP's, SigLIP's and DINOv2's are embeddings. What in an image speaks for a text is explained
    with the text's embedding as the class: ``lambda x: network(x) @ text[:, None]``, ``text`` being
    of unit length, for one score, or ``texts.T`` for one of each text.

    Args:
        form: which one.
        num_classes: the number of logits, or the length of the embedding.
        dtype: what to compute in (parameters stay float32); None for the inputs' own.
        fully_convolutional: makes no difference: images of any aspect ratio give scores anyway.
        scan: keep the blocks' weights stacked, and run the blocks as one ``jax.lax.scan``: a
            program of a twelfth of the size, with the same outputs.
        rngs: for the initial weights.

    Raises:
        ValueError: the class token, or the pooled one, has another length than ``num_classes``.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from jaxplain.models.vit import Form, VisionTransformer
        >>> form = Form(width=8, heads=2, depth=2, grid=4)
        >>> network = VisionTransformer(form, 10, rngs=nnx.Rngs(0))
        >>> network(jnp.zeros((1, 64, 96, 3))).shape
        (1, 10)
    """

    def __init__(
        self,
        form: Form,
        num_classes: int = 1000,
        *,
        dtype: jnp.dtype | None = None,
        fully_convolutional: bool = False,
        scan: bool = False,
        rngs: nnx.Rngs,
    ):
        if form.head in ("embedding", "pooled") and num_classes != form.width:
            raise ValueError(
                f"The embedding of this network has {form.width} numbers, not {num_classes}."
            )
        options: dict[str, Any] = dict(dtype=dtype, rngs=rngs)
        self.form, self.scan = form, scan
        self.embeddings = Embeddings(form, **options)
        self.pre_norm = LayerNorm(form.width, form.eps, **options) if form.pre_norm else None
        blocks = [self._block(**options) for _ in range(form.depth)]
        self.blocks = _stacked(blocks) if scan else nnx.List(blocks)
        self.norm = LayerNorm(form.width, form.eps, **options)
        if form.head in ("classes", "distilled"):
            self.head = nnx.Linear(form.width, num_classes, **options)
        if form.head == "distilled":
            self.distillation_head = nnx.Linear(form.width, num_classes, **options)
        if form.head == "projection":
            self.head = nnx.Linear(form.width, num_classes, use_bias=False, **options)
        if form.head == "pooled":
            self.pool = AttentionPool(form, **options)

    def _block(self, **options) -> Block:
        form = self.form
        return Block(
            form.width,
            form.heads,
            expansion=form.expansion,
            activation=form.activation,
            eps=form.eps,
            layer_scale=form.layer_scale,
            **options,
        )

    def tokens(self, x: jax.Array) -> jax.Array:
        """Images ``(B, H, W, 3)`` to the tokens after the last norm, ``(B, T, C)``.

        The patches are the last ``H / patch * W / patch`` of them, row by row.
        """
        x = self.embeddings(x)
        x = tag(x if self.pre_norm is None else self.pre_norm(x), "embeddings")
        if isinstance(self.blocks, Block):
            graph, weights = nnx.split(self.blocks)
            x, _ = lax.scan(lambda x, w: (nnx.merge(graph, w)(x, "blocks"), None), x, weights)
        else:
            for i, block in enumerate(self.blocks):
                x = block(x, f"blocks.{i}")
        return tag(self.norm(x), "norm")

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.tokens(x)
        if self.form.head == "pooled":
            return self.pool(x)
        if self.form.head == "embedding":
            return x[:, 0]
        if self.form.head == "distilled":
            return (self.head(x[:, 0]) + self.distillation_head(x[:, 1])) / 2
        return self.head(x[:, 0])


def _stacked(blocks: list[Block]) -> Block:
    """One block whose parameters have the blocks' behind each other, in a first axis."""
    graph, _ = nnx.split(blocks[0])
    states = [nnx.state(block) for block in blocks]
    return nnx.merge(graph, jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))


_NUMBERED = re.compile(r"(.*\b)blocks\.(\d+)\.(.+)")


def stack_weights(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Weights by dotted name for the form with ``scan=True``, from those of the one without.

    Example:
        >>> import numpy as np
        >>> from jaxplain.models.vit import stack_weights
        >>> weights = {f"blocks.{i}.fc.bias": np.full(3, i) for i in range(2)}
        >>> stack_weights(weights)["blocks.fc.bias"].shape
        (2, 3)
    """
    rest, numbered = {}, {}
    for name, value in weights.items():
        if match := _NUMBERED.fullmatch(name):
            numbered.setdefault(f"{match[1]}blocks.{match[3]}", {})[int(match[2])] = value
        else:
            rest[name] = value
    stacks = {n: jnp.stack([v[i] for i in sorted(v)]) for n, v in numbered.items()}
    return rest | stacks


_STACKED = re.compile(r"(.*\b)blocks\.([^\d.].*)")


def unstack_weights(weights: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of ``stack_weights``; weights that are not stacked are as they were.

    Example:
        >>> import numpy as np
        >>> from jaxplain.models.vit import unstack_weights
        >>> sorted(unstack_weights({"blocks.fc.bias": np.zeros((2, 3)), "norm.bias": 0}))
        ['blocks.0.fc.bias', 'blocks.1.fc.bias', 'norm.bias']
    """
    plain = {}
    for name, value in weights.items():
        if match := _STACKED.fullmatch(name):
            plain |= {f"{match[1]}blocks.{i}.{match[2]}": part for i, part in enumerate(value)}
        else:
            plain[name] = value
    return plain


def scanned_layer(layer: str) -> str:
    """What a layer is called with ``scan=True``.

    Example:
        >>> from jaxplain.models.vit import scanned_layer
        >>> scanned_layer("blocks.11.norm1"), scanned_layer("blocks.7"), scanned_layer("norm")
        ('blocks.norm1:11', 'blocks:7', 'norm')
    """
    return re.sub(r"blocks\.(\d+)(\.\w+)?", lambda m: f"blocks{m[2] or ''}:{m[1]}", layer)
