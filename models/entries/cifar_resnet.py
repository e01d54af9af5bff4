"""Registry entries of ResNet for CIFAR-10."""

import functools

from jaxplain.models.cifar_resnet import CifarResNet
from jaxplain.models.config import ModelConfig, default_layers
from jaxplain.models.entry import TORCH_INPUT, Entry, Source, cifar10_names
from jaxplain.weights_convert.name_maps.cifar_resnet import AKAMASTER

_ACCURACY = {20: 91.73, 32: 92.63, 44: 93.10, 56: 93.39}


def _entry(depth: int, top1: float) -> Entry:
    last = (depth - 2) // 6 - 1
    return Entry(
        build=functools.partial(CifarResNet, depth),
        config=ModelConfig(
            name=f"cifar_resnet{depth}",
            input_size=32,
            layers=default_layers(f"layer2.{last}", f"layer3.{last}"),
            outputs=10,
            **{**TORCH_INPUT, "crop_fraction": 1.0},
        ),
        sources=(Source(AKAMASTER, top1=top1, licence="BSD-2-Clause"),),
        outputs=10,
        class_names=cifar10_names,
    )


ENTRIES = {f"cifar_resnet{depth}": _entry(depth, top1) for depth, top1 in _ACCURACY.items()}
