"""AlexNet, CaffeNet and CNN-S."""

from jaxplain.weights_convert.name_maps import CAFFE, TORCH, NameMap

TORCHVISION = NameMap(
    source="torchvision",
    modules={
        "conv1": "features.0",
        "conv2": "features.3",
        "conv3": "features.6",
        "conv4": "features.8",
        "conv5": "features.10",
        "fc6": "classifier.1",
        "fc7": "classifier.4",
        "fc8": "classifier.6",
    },
    **TORCH,
)

#: bvlc_alexnet, bvlc_reference_caffenet and VGG_CNN_S.
CAFFE_ZOO = NameMap(source="caffe", modules={"{layer}": "{layer}"}, bgr="conv1", **CAFFE)
