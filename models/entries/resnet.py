"""Registry entries of ResNet, and of the embedding networks NPID and MS."""

import functools

from jaxplain.models import imagenet
from jaxplain.models.config import ModelConfig, default_layers
from jaxplain.models.entry import (
    KERAS_CAFFE_INPUT,
    TORCH_INPUT,
    Entry,
    Hub,
    Source,
)
from jaxplain.models.resnet import DEPTHS, ResNet
from jaxplain.weights_convert.name_maps import resnet as maps


def _config(name: str, depth: int, **changes) -> ModelConfig:
    blocks = DEPTHS[depth]
    # The EB paper's layer of ResNet is the last of the fourth stage, conv4 in Table 1.
    layers = default_layers(f"layer3.{blocks[2] - 1}", f"layer4.{blocks[3] - 1}")
    fields = dict(TORCH_INPUT, layers=layers) | changes
    return ModelConfig(name=name, input_size=224, **fields)


def _torchvision(depth: int, top1: float) -> Entry:
    hub = Hub(f"timm/resnet{depth}.tv_in1k")  # torchvision's own first weights
    return Entry(
        build=functools.partial(ResNet, depth),
        config=_config(f"resnet{depth}", depth),
        sources=(
            Source(maps.TIMM_RESNET, hub, top1=top1, licence="BSD-3-Clause"),
            Source(maps.TORCHVISION_RESNET, top1=top1, licence="BSD-3-Clause"),
        ),
        class_names=imagenet.class_names,
    )


def _embedding(name: str, depth: int, outputs: int, names, **changes) -> Entry:
    return Entry(
        build=functools.partial(ResNet, depth, unit_norm=True),
        config=_config(name, depth, outputs=outputs, **changes),
        sources=(Source(names),),
        outputs=outputs,
    )


_ACCURACY = {18: 69.758, 34: 73.314, 50: 76.130, 101: 77.374, 152: 78.312}
# The mean pixel of the authors' mean image, in RGB order.
_CAFFE_MEAN = (123.1516, 115.9029, 103.0626)

ENTRIES = {f"resnet{depth}": _torchvision(depth, top1) for depth, top1 in _ACCURACY.items()} | {
    "resnet50_caffe": Entry(
        build=functools.partial(ResNet, 50, layout="caffe"),
        config=_config(
            "resnet50_caffe",
            50,
            mean=_CAFFE_MEAN,
            scale=(1.0,),
            layers=default_layers("res4f", "res5c"),
        ),
        sources=(Source(maps.CAFFE_RESNET50, top1=75.3, licence="MIT"),),
        class_names=imagenet.class_names,
    ),
    "resnet50_keras": Entry(
        build=functools.partial(ResNet, 50, layout="keras"),
        config=_config("resnet50_keras", 50, **KERAS_CAFFE_INPUT),
        sources=(
            Source(maps.KERAS_RESNET50, top1=74.9),
            Source(maps.KERAS3_RESNET50, top1=74.9),
        ),
        class_names=imagenet.class_names,
    ),
    "resnet18_npid": _embedding("resnet18_npid", 18, 128, maps.NPID_RESNET),
    "resnet50_npid": _embedding("resnet50_npid", 50, 128, maps.NPID_RESNET),
    "resnet50_ms": _embedding("resnet50_ms", 50, 512, maps.MS_RESNET, crop_fraction=227 / 256),
}
