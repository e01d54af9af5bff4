"""VGG-16 and VGG-19."""

from jaxplain.weights_convert.name_maps import CAFFE, KERAS, TORCH, NameMap

_DEPTHS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


def _features(depth: int, batch_norm: bool) -> dict[str, str]:
    """torch numbers convolutions, norms, ReLUs and pools through: ``features.0``, ``.1`` ..."""
    modules, index = {}, 0
    for stage, count in enumerate(_DEPTHS[depth], 1):
        for i in range(1, count + 1):
            modules[f"conv{stage}_{i}"] = f"features.{index}"
            if batch_norm:
                modules[f"norm{stage}_{i}"] = f"features.{index + 1}"
            index += 3 if batch_norm else 2
        index += 1
    return modules


#: (depth, batch normalisation) -> map.
TORCHVISION = {
    (depth, batch_norm): NameMap(
        source="torchvision",
        modules={
            **_features(depth, batch_norm),
            "fc6": "classifier.0",
            "fc7": "classifier.3",
            "fc8": "classifier.6",
        },
        **TORCH,
    )
    for depth in _DEPTHS
    for batch_norm in (False, True)
}

#: Likewise; here the dense layers are convolutions.
TIMM = {
    (depth, batch_norm): NameMap(
        source="timm",
        modules={
            **_features(depth, batch_norm),
            "fc6": "pre_logits.fc1",
            "fc7": "pre_logits.fc2",
            "fc8": "head.fc",
        },
        **TORCH,
    )
    for depth in _DEPTHS
    for batch_norm in (False, True)
}

#: VGG_ILSVRC_16_layers and VGG_ILSVRC_19_layers.
CAFFE_ZOO = NameMap(source="caffe", modules={"{layer}": "{layer}"}, bgr="conv1_1", **CAFFE)

KERAS_APPLICATIONS = NameMap(
    source="keras",
    modules={
        "conv{stage}_{i}": "block{stage}_conv{i}",
        "fc6": "fc1",
        "fc7": "fc2",
        "fc8": "predictions",
    },
    bgr="conv1_1",
    **KERAS,
)
