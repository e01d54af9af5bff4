"""Registry entries of GoogLeNet."""

import functools

from jaxplain.models import imagenet
from jaxplain.models.config import ModelConfig, default_layers
from jaxplain.models.entry import CAFFE_INPUT, TORCH_INPUT, Entry, Source
from jaxplain.models.googlenet import GoogLeNet
from jaxplain.weights_convert.name_maps import googlenet as maps


def _entry(name: str, build, prepared, source: Source) -> Entry:
    return Entry(
        build=build,
        config=ModelConfig(
            name=name,
            input_size=224,
            layers=default_layers("pool2", "inception_5b"),
            **prepared,
        ),
        sources=(source,),
        class_names=imagenet.class_names,
    )


ENTRIES = {
    "bvlc_googlenet": _entry(
        "bvlc_googlenet",
        functools.partial(GoogLeNet, "bvlc"),
        CAFFE_INPUT,
        Source(maps.CAFFE_ZOO, top1=68.7, licence="unrestricted"),
    ),
    # torchvision's weights are the original ones, for images of -1 to 1: hence transform_input.
    "googlenet": _entry(
        "googlenet",
        functools.partial(GoogLeNet, "torchvision", transform_input=True),
        TORCH_INPUT,
        Source(maps.TORCHVISION, top1=69.778, licence="BSD-3-Clause"),
    ),
}
