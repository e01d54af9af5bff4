"""Networks that others wrote, at tiny inputs, each also cut in two in its framework's own words.

Weights are random, and so are the statistics, scales (a fifth of them negative) and shifts of the
norms: what is folded wrongly shows. The cut, ``fn(x) = head(features(x))``, owes nothing to
jaxplain; the checks differentiate ``head`` and compare.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

os.environ.setdefault("KERAS_BACKEND", "jax")  # read when Keras is first imported
CLASSES = 5


@dataclass(frozen=True)
class Norm:
    """A norm between the global pool and the dense layer, whose ``weights`` are ``(C, N)``.

    ``values`` gives what it makes of the pooled ``(B, C)``.
    """

    values: Callable[[jax.Array], jax.Array]
    weights: np.ndarray


@dataclass(frozen=True)
class Cut:
    """One way to cut a network: the maps ``(B, h, w, C)`` below, and the scores of them."""

    features: Callable[[jax.Array], jax.Array]
    head: Callable[[jax.Array], jax.Array]
    norm: Norm | None = None


@dataclass(frozen=True)
class Network:
    """A network, images for it, its last cuts (uppermost first), and whether its units are ReLU.

    ``narrow`` gives early maps ``(B, h, w, C)`` of few channels.
    """

    name: str
    fn: Callable[[jax.Array], jax.Array]
    x: jax.Array
    cuts: tuple[Cut, ...]
    narrow: Callable[[jax.Array], jax.Array]
    relus: bool


def images(size: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(7).uniform(-1, 1, (2, size, size, 3)))


def perturbed(name: str, value: Any, rng: np.random.Generator) -> np.ndarray:
    """The weight that a weight of this name becomes."""
    shape, last = np.shape(value), name.rpartition("/")[2]
    if last in ("gamma", "scale"):
        return rng.uniform(0.5, 1.5, shape) * np.where(rng.random(shape) < 0.2, -1, 1)
    if last in ("moving_variance", "variance"):
        return rng.uniform(0.5, 1.5, shape)
    if last in ("beta", "moving_mean", "bias", "offset", "mean", "b"):
        return rng.normal(0, 0.1, shape)
    return np.asarray(value)


# ---------------------------------------------------------------- Keras

#: Network -> the side of its images, and its builder's arguments; one of an inner module builds
#: what no option of a public function makes small.
_KERAS: dict[str, tuple[int, dict[str, Any]]] = {
    "ResNet50": (64, {}),
    "ResNet101": (64, {}),
    "ResNet50V2": (64, {}),
    "DenseNet121": (64, {}),
    "DenseNet169": (64, {}),
    "MobileNet": (64, {"alpha": 0.25}),
    "MobileNetV2": (64, {"alpha": 0.35}),
    "MobileNetV3Small": (64, {}),
    "MobileNetV3Large": (64, {"alpha": 0.5}),
    "EfficientNetB0": (64, {}),
    "EfficientNetV2B0": (64, {}),
    "Xception": (71, {}),
    "InceptionV3": (107, {}),
    "InceptionResNetV2": (107, {}),
    "VGG16": (64, {}),
    "VGG19": (64, {}),
    "NASNetMobile": (64, {}),
    "ConvNeXt": (64, {"depths": (1, 1, 2, 1), "projection_dims": (16, 24, 32, 48)}),
}

#: These take pixels of 0 to 255.
_PIXELS = ("MobileNetV3", "EfficientNet", "ConvNeXt")

_RELUS = (
    "ResNet",
    "DenseNet",
    "Xception",
    "Inception",
    "VGG",
    "NASNet",
)


def _keras(family: str) -> Network:
    import keras

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    keras.utils.set_random_seed(3)
    size, options = _KERAS[family]
    if family == "ConvNeXt":
        from keras.src.applications.convnext import ConvNeXt as build
    else:
        build = getattr(keras.applications, family)
    model = build(
        weights=None,
        include_top=True,
        classes=CLASSES,
        classifier_activation=None,
        input_shape=(size, size, 3),
        **options,
    )
    rng = np.random.default_rng(11)
    for weight in model.weights:
        # A layer scale, which begins as 1e-6, has no name of its own.
        name = "scale" if "layer_scale" in weight.path else weight.path
        weight.assign(perturbed(name, weight.value, rng))
    pools = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.GlobalAveragePooling2D | keras.layers.Flatten)
        and layer.input.ndim == 4
        and layer.input.shape[1] > 1
    ]
    cuts, at = [], pools[-1].input
    for _ in range(3):
        cuts.append(_keras_cut(model, at))
        below = at._keras_history.operation.input
        if isinstance(below, list):
            break
        at = below
    first = next(
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D) and layer.output.shape[-1] <= 96
    )
    x = images(size)
    return Network(
        name=family,
        fn=_inference(model),
        x=127.5 * (x + 1) if family.startswith(_PIXELS) else x,
        cuts=tuple(cuts),
        narrow=_inference(keras.Model(model.inputs, first.output)),
        relus=family.startswith(_RELUS),
    )


def _keras_cut(model: Any, at: Any) -> Cut:
    import keras

    *_, last, top = model.layers
    norm = None
    if isinstance(last, keras.layers.LayerNormalization):
        norm = Norm(last, np.asarray(top.kernel))
    return Cut(
        _inference(keras.Model(model.inputs, at)),
        _inference(keras.Model(at, model.outputs[0])),
        norm,
    )


def _inference(model: Any) -> Callable[[jax.Array], jax.Array]:
    def fn(x: jax.Array) -> jax.Array:
        out = model(x, training=False)
        return out[0] if isinstance(out, list) else out

    return fn


# ---------------------------------------------------------------- Haiku


def _haiku(version: str) -> Network:
    import haiku as hk

    size = 64

    def build(x: jax.Array, is_training: bool = False) -> jax.Array:
        if version == "mobilenet":
            strides, channels = (1, 2, 1, 2, 1, 2, 1), (8, 8, 16, 16, 16, 16, 24)
            net = hk.nets.MobileNetV1(strides, channels, num_classes=CLASSES)
            return net(x, is_training)
        net = hk.nets.ResNet50(CLASSES, resnet_v2=version == "resnet-v2")
        return net(x, is_training)

    def seen(x: jax.Array) -> list:
        """What each module gave, in order: maps."""
        values = []

        def keep(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            out = call(*args, **kwargs)
            if context.method_name == "__call__" and getattr(out, "ndim", 0) == 4:
                values.append(out)
            return out

        with hk.intercept_methods(keep):
            build(x)
        return values

    net, maps = hk.transform_with_state(build), hk.transform_with_state(seen)
    x = images(size)
    params, state = net.init(jax.random.key(3), x, True)  # which makes the statistics
    rng = np.random.default_rng(11)
    params, state = (
        {
            module: {
                name: jnp.asarray(perturbed(_haiku_name(module, name, value), value, rng))
                for name, value in values.items()
            }
            for module, values in tree.items()
        }
        for tree in (params, state)
    )
    (top,) = (v for m, v in params.items() if m.endswith("logits"))

    def features(x: jax.Array) -> jax.Array:
        return jax.nn.relu(maps.apply(params, state, None, x)[0][-1])

    def head(a: jax.Array) -> jax.Array:
        return a.mean((1, 2)) @ top["w"] + top["b"]

    def fn(x: jax.Array) -> jax.Array:
        return net.apply(params, state, None, x)[0]

    def narrow(x: jax.Array) -> jax.Array:
        return maps.apply(params, state, None, x)[0][0]

    return Network(f"haiku {version}", fn, x, (Cut(features, head),), narrow, True)


def _haiku_name(module: str, name: str, value: Any) -> str:
    """A weight's name in Keras's words: statistics are ``average`` and ``hidden`` in Haiku."""
    if name in ("average", "hidden"):
        return "moving_variance" if module.endswith("var_ema") else "moving_mean"
    if name == "w" and not value.any():
        return "bias"  # a ResNet's classifier, which begins as zeros
    return name


_HAIKU = ("resnet-v1", "resnet-v2", "mobilenet")

#: Name -> (the package that it is of, its builder and what that is given).
NETWORKS: dict[str, tuple[str, Callable[[str], Network], str]] = {
    **{name: ("keras", _keras, name) for name in _KERAS},
    **{f"haiku {version}": ("haiku", _haiku, version) for version in _HAIKU},
}


def installed() -> list[str]:
    """The names of the networks whose packages are here."""
    return [n for n, (package, *_) in NETWORKS.items() if importlib.util.find_spec(package)]


def network(name: str) -> Network:
    """The network of a name, in double precision (which JAX must be set to)."""
    _, build, given = NETWORKS[name]
    return build(given)
