"""Registry entries of VGG-16 and VGG-19."""

import functools
from typing import Any

from jaxplain.models import imagenet
from jaxplain.models.config import ModelConfig, default_layers
from jaxplain.models.entry import (
    KERAS_CAFFE_INPUT,
    TORCH_INPUT,
    Entry,
    Hub,
    Source,
)
from jaxplain.models.vgg import DEPTHS, VGG
from jaxplain.weights_convert.name_maps import keras_numbered
from jaxplain.weights_convert.name_maps import vgg as maps


def _config(name: str, depth: int, **fields) -> ModelConfig:
    layers = default_layers("pool4", f"relu5_{DEPTHS[depth][-1]}")
    return ModelConfig(name=name, input_size=224, layers=layers, **fields)


def _torchvision(name: str, depth: int, batch_norm: bool, top1: float) -> Entry:
    form = (depth, batch_norm)
    torch: dict[str, Any] = dict(top1=top1, licence="BSD-3-Clause")
    sources = [
        Source(maps.TIMM[form], Hub(f"timm/{name}.tv_in1k"), **torch),  # torchvision's weights
        Source(maps.TORCHVISION[form], **torch),
    ]
    if not batch_norm:  # the authors' weights, which Keras took over
        keras: dict[str, Any] = dict(changes=KERAS_CAFFE_INPUT, top1=71.3, licence="CC-BY-4.0")
        sources.append(Source(maps.KERAS_APPLICATIONS, **keras))
        sources.append(Source(keras_numbered(maps.KERAS_APPLICATIONS), **keras))
    return Entry(
        build=functools.partial(VGG, depth, batch_norm=batch_norm),
        config=_config(name, depth, **TORCH_INPUT),
        sources=tuple(sources),
        class_names=imagenet.class_names,
    )


def _caffe(name: str, depth: int) -> Entry:
    return Entry(
        build=functools.partial(VGG, depth, ceil_mode=True),
        config=_config(name, depth, **KERAS_CAFFE_INPUT),  # the same pixels are subtracted
        sources=(Source(maps.CAFFE_ZOO, licence="CC-BY-4.0"),),
        class_names=imagenet.class_names,
    )


ENTRIES = {
    "vgg16": _torchvision("vgg16", 16, False, 71.592),
    "vgg16_bn": _torchvision("vgg16_bn", 16, True, 73.360),
    "vgg16_caffe": _caffe("vgg16_caffe", 16),
    "vgg19": _torchvision("vgg19", 19, False, 72.376),
    "vgg19_bn": _torchvision("vgg19_bn", 19, True, 74.218),
    "vgg19_caffe": _caffe("vgg19_caffe", 19),
}
