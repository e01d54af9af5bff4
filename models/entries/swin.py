"""Registry entry of Swin."""

import functools

from jaxplain.models import imagenet
from jaxplain.models.config import ModelConfig, default_layers
from jaxplain.models.entry import TORCH_INPUT, Entry, Hub, Source
from jaxplain.models.swin import Swin
from jaxplain.weights_convert.name_maps import swin as maps

_NAME = "swin_tiny_patch4_window7_224"

ENTRIES = {
    _NAME: Entry(
        build=functools.partial(Swin, "tiny"),
        config=ModelConfig(
            name=_NAME,
            input_size=224,
            # Behind all blocks: no layer of the last one points as well, see docs/how-to/layer.md.
            layers=default_layers("stages.2.5", "norm"),
            **{**TORCH_INPUT, "interpolation": "bicubic", "crop_fraction": 0.9},
        ),
        sources=(
            Source(maps.TIMM, Hub(f"timm/{_NAME}.ms_in1k"), top1=81.3, licence="MIT"),
            Source(maps.TORCHVISION, changes={"crop_fraction": 224 / 232}, top1=81.5),
            Source(maps.TRANSFORMERS),
        ),
        class_names=imagenet.class_names,
    )
}
