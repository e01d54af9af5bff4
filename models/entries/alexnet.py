"""Registry entries of AlexNet, CaffeNet and CNN-S."""

import functools
from typing import Any

from jaxplain.models import imagenet
from jaxplain.models.alexnet import VARIANTS, AlexNet
from jaxplain.models.config import ModelConfig, default_layers
from jaxplain.models.entry import (
    CAFFE_INPUT,
    KERAS_CAFFE_INPUT,
    TORCH_INPUT,
    Entry,
    Source,
)
from jaxplain.weights_convert.name_maps import alexnet as maps


def _entry(name: str, variant: str, prepared, source: Source) -> Entry:
    size = VARIANTS[variant].size
    return Entry(
        build=functools.partial(AlexNet, variant),
        config=ModelConfig(
            name=name,
            input_size=size,
            # CNN-S conv5 in the EB paper
            layers=default_layers("relu5", "relu5"),
            **{**prepared, "crop_fraction": size / 256},
        ),
        sources=(source,),
        class_names=imagenet.class_names,
    )


_BVLC: dict[str, Any] = dict(licence="unrestricted")

ENTRIES = {
    "alexnet": _entry(
        "alexnet",
        "torchvision",
        TORCH_INPUT,
        Source(maps.TORCHVISION, top1=56.522, licence="BSD-3-Clause"),
    ),
    "bvlc_alexnet": _entry(
        "bvlc_alexnet", "bvlc_alexnet", CAFFE_INPUT, Source(maps.CAFFE_ZOO, top1=57.1, **_BVLC)
    ),
    "caffenet": _entry(
        "caffenet", "caffenet", CAFFE_INPUT, Source(maps.CAFFE_ZOO, top1=57.4, **_BVLC)
    ),
    "cnn_s": _entry("cnn_s", "cnn_s", KERAS_CAFFE_INPUT, Source(maps.CAFFE_ZOO)),
}
