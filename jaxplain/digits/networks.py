"""Small networks in the shape of VGG, ResNet, GoogLeNet, ConvNeXt and ViT, for images of 32 x 32.

Made of the blocks of the large ones and tagged like them, with an eighth to a quarter of their
channels and fewer stages, so that two processor cores train them in minutes.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxplain import data
from jaxplain.core import tag
from jaxplain.models import ModelConfig, convnext, transformer
from jaxplain.models.config import default_layers
from jaxplain.models.googlenet import Inception, Unit
from jaxplain.models.layers import BatchNorm, Conv, WindowDense, global_avg_pool, max_pool
from jaxplain.models.resnet import LAYOUTS, BasicBlock

__all__ = [
    "INPUT_SIZE",
    "NETWORKS",
    "SmallConvNeXt",
    "SmallGoogLeNet",
    "SmallResNet",
    "SmallVGG",
    "SmallViT",
    "small_image",
]

INPUT_SIZE = 32


def small_image(record: data.Record) -> np.ndarray:
    """A record as the networks see it, uint8 ``(h, w, 3)``."""
    return data.resize_image(record.image, (INPUT_SIZE, INPUT_SIZE))


def _config(name: str, excitation: str, last: str, class_names: tuple[str, ...]) -> ModelConfig:
    return ModelConfig(
        name,
        INPUT_SIZE,
        mean=(80.0,),
        scale=(60.0,),
        crop_fraction=1.0,
        interpolation="bilinear",
        class_names=class_names,
        outputs=len(class_names),
        layers=default_layers(excitation, last),
    )


class SmallVGG(nnx.Module):
    """Three stages of one or two 3 x 3 convolutions and a max pool; three dense layers."""

    def __init__(self, class_names: tuple[str, ...], *, rngs: nnx.Rngs):
        self.config = _config("small VGG", "pool2", "relu3_2", class_names)
        inputs = 3
        self.counts = (1, 2, 2)
        for stage, (count, channels) in enumerate(zip(self.counts, (16, 32, 64), strict=True), 1):
            for i in range(1, count + 1):
                conv = Conv(inputs, channels, 3, padding=1, bias=False, rngs=rngs)
                setattr(self, f"conv{stage}_{i}", conv)
                setattr(self, f"norm{stage}_{i}", BatchNorm(channels, rngs=rngs))
                inputs = channels
        self.fc6 = WindowDense(4, 4, inputs, 128, rngs=rngs)
        self.fc7 = nnx.Linear(128, 128, rngs=rngs)
        self.fc8 = nnx.Linear(128, len(class_names), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for stage, count in enumerate(self.counts, 1):
            for i in range(1, count + 1):
                x = tag(getattr(self, f"conv{stage}_{i}")(x), f"conv{stage}_{i}")
                x = getattr(self, f"norm{stage}_{i}")(x)
                x = tag(jax.nn.relu(x), f"relu{stage}_{i}")
            x = tag(max_pool(x, 2, 2), f"pool{stage}")
        x = tag(jax.nn.relu(self.fc6(x)), "relu6")
        x = tag(jax.nn.relu(self.fc7(x)), "relu7")
        return self.fc8(x)


class SmallResNet(nnx.Module):
    """A convolution, two stages of residual blocks, and a global average pool."""

    def __init__(self, class_names: tuple[str, ...], *, rngs: nnx.Rngs):
        self.config = _config("small ResNet", "layer1.0", "layer2.1", class_names)
        self.conv1 = Conv(3, 16, 3, padding=1, bias=False, rngs=rngs)
        self.bn1 = BatchNorm(16, rngs=rngs)
        channels = 16
        for i, (width, repeats) in enumerate(zip((32, 64), (1, 2), strict=True), 1):
            blocks = []
            for j in range(repeats):
                stride = 2 if i > 1 and j == 0 else 1
                blocks.append(
                    BasicBlock(
                        channels, width, stride, LAYOUTS["torchvision"], dtype=None, rngs=rngs
                    )
                )
                channels = width
            setattr(self, f"layer{i}", nnx.List(blocks))
        self.fc = nnx.Linear(channels, len(class_names), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = tag(jax.nn.relu(self.bn1(self.conv1(x))), "conv1")
        x = tag(max_pool(x, 2, 2), "pool1")
        for i in (1, 2):
            for j, block in enumerate(getattr(self, f"layer{i}")):
                x = tag(block(x), f"layer{i}.{j}")
        return self.fc(tag(global_avg_pool(x), "avgpool"))


class SmallGoogLeNet(nnx.Module):
    """Two convolutions with pools, two inception modules, and a global average pool."""

    def __init__(self, class_names: tuple[str, ...], *, rngs: nnx.Rngs):
        self.config = _config("small GoogLeNet", "pool2", "inception_3b", class_names)
        options: dict[str, Any] = dict(norm=True, dtype=None, rngs=rngs)
        self.conv1 = Unit(3, 16, 3, padding=1, **options)
        self.conv2 = Unit(16, 32, 3, padding=1, **options)
        self.inception_3a = Inception(32, (32, 32, 64, 8, 16, 16), 5, **options)
        self.inception_3b = Inception(128, (32, 32, 64, 8, 16, 16), 5, **options)
        self.fc = nnx.Linear(128, len(class_names), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = tag(max_pool(tag(self.conv1(x), "conv1"), 2, 2), "pool1")
        x = tag(max_pool(tag(self.conv2(x), "conv2"), 2, 2), "pool2")
        x = tag(self.inception_3a(x), "inception_3a")
        x = tag(self.inception_3b(x), "inception_3b")
        return self.fc(tag(global_avg_pool(x), "pool5"))


class Stem(nnx.Module):
    """Convolutions of 3 x 3 that make tokens: the first at full size, the others halve it.

    Patches cut out of the image would take far more images to learn from: see T. Xiao et al.,
    Early Convolutions Help Transformers See Better, NeurIPS 2021.
    """

    def __init__(self, *widths: int, rngs: nnx.Rngs):
        self.count = len(widths)
        for i, (inputs, width) in enumerate(zip((3, *widths), widths, strict=False)):
            conv = Conv(inputs, width, 3, 2 if i else 1, padding=1, bias=False, rngs=rngs)
            setattr(self, f"conv{i + 1}", conv)
            setattr(self, f"norm{i + 1}", BatchNorm(width, rngs=rngs))

    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(1, self.count + 1):
            x = getattr(self, f"norm{i}")(getattr(self, f"conv{i}")(x))
            x = tag(jax.nn.gelu(x, approximate=False), f"conv{i}")
        return x


class SmallConvNeXt(nnx.Module):
    """Two of ConvNeXt's blocks on 8 x 8 positions, which convolutions make, a pool and a norm."""

    def __init__(self, class_names: tuple[str, ...], *, rngs: nnx.Rngs):
        self.config = _config("small ConvNeXt", "blocks.0", "blocks.1", class_names)
        width, options = 64, dict(dtype=None, rngs=rngs)
        self.stem = Stem(16, 32, width, rngs=rngs)
        self.blocks = nnx.List([convnext.Block(width, **options) for _ in range(2)])
        for block in self.blocks:  # a few epochs do not bring ConvNeXt's own 1e-6 up
            block.scale.gamma[...] = jnp.full((width,), 0.1)
        self.norm = transformer.LayerNorm(width, 1e-6, **options)
        self.head = nnx.Linear(width, len(class_names), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.stem(x)
        for i, block in enumerate(self.blocks):
            x = tag(block(x), f"blocks.{i}")
        return self.head(self.norm(tag(global_avg_pool(x), "avgpool")))


class SmallViT(nnx.Module):
    """Three transformer blocks on 8 x 8 tokens, which convolutions make, and a class token."""

    def __init__(self, class_names: tuple[str, ...], *, rngs: nnx.Rngs):
        self.config = _config("small ViT", "blocks.1", "blocks.2.norm1", class_names)
        width, tokens, options = 64, (INPUT_SIZE // 4) ** 2, dict(dtype=None, rngs=rngs)
        self.stem = Stem(16, 32, width, rngs=rngs)
        initial = nnx.initializers.truncated_normal(0.02)
        self.class_token = nnx.Param(initial(rngs.params(), (1, 1, width)))
        self.positions = nnx.Param(initial(rngs.params(), (1, 1 + tokens, width)))
        form: dict[str, Any] = dict(expansion=2, activation="gelu", eps=1e-6, layer_scale=False)
        self.blocks = nnx.List([transformer.Block(width, 4, **form, **options) for _ in range(3)])
        self.norm = transformer.LayerNorm(width, 1e-6, **options)
        self.head = nnx.Linear(width, len(class_names), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.stem(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        first = jnp.broadcast_to(self.class_token[...], (x.shape[0], 1, x.shape[-1]))
        x = tag(jnp.concatenate([first, x], axis=1) + self.positions[...], "embeddings")
        for i, block in enumerate(self.blocks):
            x = block(x, f"blocks.{i}")
        return self.head(tag(self.norm(x), "norm")[:, 0])


NETWORKS = {
    "VGG": SmallVGG,
    "ResNet": SmallResNet,
    "GoogLeNet": SmallGoogLeNet,
    "ConvNeXt": SmallConvNeXt,
    "ViT": SmallViT,
}
