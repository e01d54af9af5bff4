"""VGG-16 and ResNet-50 as plain functions of their parameters, in torchvision's layout.

Only shapes matter to a count of FLOPs, so the parameters are described and never made:
`Network.parameters` holds `jax.ShapeDtypeStruct`s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

import jaxplain

CLASSES = 1000


@dataclass(frozen=True)
class Network:
    """A network without its weights, and the layers at which the papers read it.

    `middle` is the layer of the Excitation Backprop paper's maps, `last` the last one with a
    spatial extent that a convolution computes.
    """

    name: str
    apply: Callable[[Any, jax.Array], jax.Array]
    parameters: Any
    middle: str
    last: str
    image: tuple[int, int, int] = (224, 224, 3)


def _array(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _conv(x: jax.Array, weight: jax.Array, stride: int, padding: int) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        weight,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _max_pool(x: jax.Array, kernel: int, stride: int, padding: int) -> jax.Array:
    pads = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    window, strides = (1, kernel, kernel, 1), (1, stride, stride, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, pads)


def _dense(x: jax.Array, p: dict[str, jax.Array]) -> jax.Array:
    return x @ p["weight"] + p["bias"]


_VGG_WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def _vgg16_parameters() -> dict[str, Any]:
    p, inputs = {}, 3
    for stage, widths in enumerate(_VGG_WIDTHS, start=1):
        for i, width in enumerate(widths, start=1):
            p[f"conv{stage}_{i}"] = {"weight": _array(3, 3, inputs, width), "bias": _array(width)}
            inputs = width
    for name, inputs, outputs in (
        ("fc6", 7 * 7 * 512, 4096),
        ("fc7", 4096, 4096),
        ("fc8", 4096, CLASSES),
    ):
        p[name] = {"weight": _array(inputs, outputs), "bias": _array(outputs)}
    return p


def vgg16(p: dict[str, Any], x: jax.Array) -> jax.Array:
    """Logits (B, 1000) of images (B, 224, 224, 3); layers are tagged with their Caffe names."""
    for stage, widths in enumerate(_VGG_WIDTHS, start=1):
        for i in range(1, len(widths) + 1):
            layer = p[f"conv{stage}_{i}"]
            x = jax.nn.relu(_conv(x, layer["weight"], 1, 1) + layer["bias"])
        x = jaxplain.tag(x, f"relu{stage}_{len(widths)}")
        x = jaxplain.tag(_max_pool(x, 2, 2, 0), f"pool{stage}")
    x = x.reshape(x.shape[0], -1)
    x = jax.nn.relu(_dense(x, p["fc6"]))
    x = jaxplain.tag(jax.nn.relu(_dense(x, p["fc7"])), "relu7")
    return _dense(x, p["fc8"])


_RESNET_BLOCKS = (3, 4, 6, 3)


def _conv_bn_parameters(kernel: int, inputs: int, outputs: int) -> dict[str, Any]:
    statistics = {name: _array(outputs) for name in ("gamma", "beta", "mean", "var")}
    return {"weight": _array(kernel, kernel, inputs, outputs), **statistics}


def _blocks():
    """(name, bottleneck width, stride) of each block, named as in He et al.'s Caffe model."""
    for stage, count in enumerate(_RESNET_BLOCKS):
        for i in range(count):
            stride = 2 if stage > 0 and i == 0 else 1
            yield f"res{stage + 2}{'abcdef'[i]}", 64 * 2**stage, stride


def _resnet50_parameters() -> dict[str, Any]:
    p: dict[str, Any] = {"conv1": _conv_bn_parameters(7, 3, 64)}
    inputs = 64
    for name, width, _ in _blocks():
        p[name] = {
            "conv1": _conv_bn_parameters(1, inputs, width),
            "conv2": _conv_bn_parameters(3, width, width),
            "conv3": _conv_bn_parameters(1, width, 4 * width),
        }
        if name.endswith("a"):
            p[name]["shortcut"] = _conv_bn_parameters(1, inputs, 4 * width)
        inputs = 4 * width
    p["fc"] = {"weight": _array(inputs, CLASSES), "bias": _array(CLASSES)}
    return p


def _conv_bn(x: jax.Array, p: dict[str, jax.Array], stride: int = 1) -> jax.Array:
    y = _conv(x, p["weight"], stride, p["weight"].shape[0] // 2)
    return (y - p["mean"]) * lax.rsqrt(p["var"] + 1e-5) * p["gamma"] + p["beta"]


def resnet50(p: dict[str, Any], x: jax.Array) -> jax.Array:
    """Logits (B, 1000) of images (B, 224, 224, 3); batch norms use their stored statistics."""
    x = _max_pool(jax.nn.relu(_conv_bn(x, p["conv1"], 2)), 3, 2, 1)
    for name, _, stride in _blocks():
        block = p[name]
        y = jax.nn.relu(_conv_bn(x, block["conv1"]))
        y = jax.nn.relu(_conv_bn(y, block["conv2"], stride))
        y = _conv_bn(y, block["conv3"])
        shortcut = _conv_bn(x, block["shortcut"], stride) if "shortcut" in block else x
        x = jaxplain.tag(jax.nn.relu(y + shortcut), name)
    x = jaxplain.tag(x.mean((1, 2)), "pool5")
    return _dense(x, p["fc"])


_VIT_WIDTH, _VIT_HEADS, _VIT_BLOCKS, _VIT_TOKENS = 384, 6, 12, 197


def _vit_parameters() -> dict[str, Any]:
    d = _VIT_WIDTH

    def dense(inputs: int, outputs: int) -> dict[str, Any]:
        return {"weight": _array(inputs, outputs), "bias": _array(outputs)}

    def norm() -> dict[str, Any]:
        return {"gamma": _array(d), "beta": _array(d)}

    blocks = {
        f"block{i}": {
            "norm1": norm(),
            "qkv": dense(d, 3 * d),
            "out": dense(d, d),
            "norm2": norm(),
            "up": dense(d, 4 * d),
            "down": dense(4 * d, d),
        }
        for i in range(_VIT_BLOCKS)
    }
    return {
        "patch": {"weight": _array(16, 16, 3, d), "bias": _array(d)},
        "token": _array(1, 1, d),
        "position": _array(1, _VIT_TOKENS, d),
        "norm": norm(),
        "head": dense(d, CLASSES),
        **blocks,
    }


def _layer_norm(x: jax.Array, p: dict[str, jax.Array]) -> jax.Array:
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) * lax.rsqrt(var + 1e-6) * p["gamma"] + p["beta"]


def vit_small(p: dict[str, Any], x: jax.Array) -> jax.Array:
    """Logits (B, 1000) of images (B, 224, 224, 3), as timm's vit_small_patch16_224."""
    dims = ("NHWC", "HWIO", "NHWC")
    x = lax.conv_general_dilated(x, p["patch"]["weight"], (16, 16), "VALID", dimension_numbers=dims)
    x = (x + p["patch"]["bias"]).reshape(len(x), -1, _VIT_WIDTH)
    x = jnp.concatenate([jnp.broadcast_to(p["token"], (len(x), 1, _VIT_WIDTH)), x], 1)
    x = x + p["position"]
    for i in range(_VIT_BLOCKS):
        block = p[f"block{i}"]
        qkv = _dense(_layer_norm(x, block["norm1"]), block["qkv"])
        qkv = qkv.reshape(*qkv.shape[:2], 3, _VIT_HEADS, -1).transpose(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        scores = q @ k.swapaxes(-1, -2) / q.shape[-1] ** 0.5
        y = (jax.nn.softmax(scores) @ v).swapaxes(1, 2).reshape(x.shape)
        x = x + _dense(y, block["out"])
        y = jax.nn.gelu(_dense(_layer_norm(x, block["norm2"]), block["up"]), approximate=False)
        x = jaxplain.tag(x + _dense(y, block["down"]), f"block{i}")
    return _dense(_layer_norm(x, p["norm"])[:, 0], p["head"])


VIT_SMALL = Network(
    "ViT-S/16", vit_small, _vit_parameters(), middle="block5", last=f"block{_VIT_BLOCKS - 1}"
)
VGG16 = Network("VGG-16", vgg16, _vgg16_parameters(), middle="pool4", last="relu5_3")
RESNET50 = Network("ResNet-50", resnet50, _resnet50_parameters(), middle="res4f", last="res5c")
