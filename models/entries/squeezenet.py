"""Registry entries of SqueezeNet."""

import functools

from jaxplain.models.config import ModelConfig, default_layers
from jaxplain.models.entry import CAFFE_INPUT, TORCH_INPUT, Entry, Source, imagenet_names
from jaxplain.models.squeezenet import SqueezeNet
from jaxplain.weights_convert.name_maps import squeezenet as maps

#: The authors' images are of 227 x 227.
_AUTHORS_INPUT = {**CAFFE_INPUT, "input_size": 227, "crop_fraction": 227 / 256}
_LAYERS = {  # of about 28 x 28, as the EB paper takes in GoogLeNet
    version: default_layers(pool, "fire9") for version, pool in (("1.0", "pool4"), ("1.1", "pool3"))
}


def _entry(name: str, version: str, *sources: Source, options=None, **prepared) -> Entry:
    return Entry(
        build=functools.partial(SqueezeNet, version, **(options or {})),
        config=ModelConfig(
            name=name,
            layers=_LAYERS[version],
            **{"input_size": 224, **TORCH_INPUT, **prepared},
        ),
        sources=sources,
        class_names=imagenet_names,
    )


def _torchvision(version: str, top1: float) -> Source:
    return Source(maps.TORCHVISION[version], top1=top1, licence="BSD-3-Clause")


ENTRIES = {
    "squeezenet1_0": _entry("squeezenet1_0", "1.0", _torchvision("1.0", 58.092)),
    "squeezenet1_0_caffe": _entry(
        "squeezenet1_0_caffe",
        "1.0",
        Source(maps.AUTHORS, top1=57.5, licence="BSD-2-Clause"),
        options={"conv10_padding": 1},
        **_AUTHORS_INPUT,
    ),
    "squeezenet1_1": _entry(
        "squeezenet1_1",
        "1.1",
        _torchvision("1.1", 58.178),
        Source(maps.AUTHORS, changes=_AUTHORS_INPUT, licence="BSD-2-Clause"),
        Source(maps.KERAS_SQUEEZENET, changes=_AUTHORS_INPUT),
    ),
}
