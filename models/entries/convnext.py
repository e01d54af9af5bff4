"""Registry entry of ConvNeXt."""

import functools

from jaxplain.models import imagenet
from jaxplain.models.config import ModelConfig, default_layers
from jaxplain.models.convnext import ConvNeXt
from jaxplain.models.entry import TORCH_INPUT, Entry, Hub, Source
from jaxplain.weights_convert.name_maps import convnext as maps

ENTRIES = {
    "convnext_tiny": Entry(
        build=functools.partial(ConvNeXt, "tiny"),
        config=ModelConfig(
            name="convnext_tiny",
            input_size=224,
            layers=default_layers("stages.2.8", "stages.3.2"),
            **{**TORCH_INPUT, "interpolation": "bicubic"},
        ),
        sources=(
            Source(maps.TIMM, Hub("timm/convnext_tiny.fb_in1k"), top1=82.1, licence="Apache-2.0"),
            Source(
                maps.TORCHVISION,
                changes={"interpolation": "bilinear", "crop_fraction": 224 / 236},
                top1=82.5,
            ),
            # transformers adds another epsilon in the last norm, by default.
            Source(maps.TRANSFORMERS, build=functools.partial(ConvNeXt, "tiny", eps=1e-12)),
        ),
        class_names=imagenet.class_names,
    )
}
