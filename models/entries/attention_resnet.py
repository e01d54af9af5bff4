"""Registry entries of ResNet-50 with attention."""

import functools

from jaxplain.models import imagenet
from jaxplain.models.attention_resnet import AttentionResNet
from jaxplain.models.config import ModelConfig, default_layers
from jaxplain.models.entry import TORCH_INPUT, Entry, Source
from jaxplain.weights_convert.name_maps import attention_resnet as maps


def _entry(attention: str, layer: str, names, top1: float) -> Entry:
    name = f"resnet50_{attention}"
    return Entry(
        build=functools.partial(AttentionResNet, attention),
        config=ModelConfig(
            name=name,
            input_size=224,
            layers=default_layers(layer, "layer4.2"),
            **TORCH_INPUT,
        ),
        sources=(Source(names, top1=top1, licence="MIT"),),
        class_names=imagenet.class_names,
    )


ENTRIES = {
    "resnet50_cbam": _entry("cbam", "layer3.5", maps.AUTHORS_CBAM, 77.622),
    "resnet50_bam": _entry("bam", "bam3", maps.AUTHORS_BAM, 76.860),
}
