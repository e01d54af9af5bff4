"""ResNet, and the embedding networks NPID and MS that are a ResNet with another head."""

import dataclasses

from jaxplain.weights_convert.name_maps import (
    CAFFE,
    KERAS,
    TORCH,
    NameMap,
    caffe_norm,
    keras_numbered,
)

#: torchvision.models.resnet.
TORCHVISION_RESNET = NameMap(
    source="torchvision",
    modules={
        "conv1": "conv1",
        "bn1": "bn1",
        "layer{s}.{b}.conv{i}": "layer{s}.{b}.conv{i}",
        "layer{s}.{b}.bn{i}": "layer{s}.{b}.bn{i}",
        "layer{s}.{b}.downsample.conv": "layer{s}.{b}.downsample.0",
        "layer{s}.{b}.downsample.bn": "layer{s}.{b}.downsample.1",
        "fc": "fc",
    },
    **TORCH,
)
#: timm's ResNets of the ordinary sort (``resnet50.tv_in1k`` ...) keep torchvision's names.
TIMM_RESNET = dataclasses.replace(TORCHVISION_RESNET, source="timm")
#: zhirongw/lemniscate.pytorch (NPID): ``fc`` gives the 128 numbers.
NPID_RESNET = dataclasses.replace(TORCHVISION_RESNET, source="lemniscate")
#: msight-tech/research-ms-loss: torchvision's network, its classifier unused, and a new head.
MS_RESNET = dataclasses.replace(
    TORCHVISION_RESNET,
    source="ms-loss",
    modules={
        ours: "head.fc" if ours == "fc" else f"backbone.model.{theirs}"
        for ours, theirs in TORCHVISION_RESNET.modules.items()
    },
    auxiliary=("backbone.model.fc.*",),
)


def _caffe(branch: str) -> dict[str, str]:
    """The BatchNorm and Scale layers of a branch; stage 2 of the paper is our first."""
    place = f"{{s+1}}{{b:letter}}_branch{branch}"
    return caffe_norm(f"bn{place}", f"scale{place}")


#: The authors' ResNet-50-model.caffemodel (KaimingHe/deep-residual-networks). Only its first
#: convolution has a bias.
CAFFE_RESNET50 = NameMap(
    source="caffe",
    modules={
        "conv1": "conv1",
        "bn1": caffe_norm("bn_conv1", "scale_conv1") | {"shift": "conv1.1"},
        "layer{s}.{b}.conv1": "res{s+1}{b:letter}_branch2a",
        "layer{s}.{b}.bn1": _caffe("2a"),
        "layer{s}.{b}.conv2": "res{s+1}{b:letter}_branch2b",
        "layer{s}.{b}.bn2": _caffe("2b"),
        "layer{s}.{b}.conv3": "res{s+1}{b:letter}_branch2c",
        "layer{s}.{b}.bn3": _caffe("2c"),
        "layer{s}.{b}.downsample.conv": "res{s+1}{b:letter}_branch1",
        "layer{s}.{b}.downsample.bn": _caffe("1"),
        "fc": "fc1000",
    },
    bgr="conv1",
    **CAFFE,
)


def _keras(place: str) -> dict[str, str]:
    """Batch normalisation, and the bias of the convolution before it."""
    return {
        "scale": f"{place}_bn/gamma",
        "bias": f"{place}_bn/beta",
        "mean": f"{place}_bn/moving_mean",
        "var": f"{place}_bn/moving_variance",
        "shift": f"{place}_conv/bias",
    }


#: keras.applications.ResNet50. All convolutions have biases.
KERAS_RESNET50 = NameMap(
    source="keras",
    modules={
        "conv1": "conv1_conv",
        "bn1": _keras("conv1"),
        "layer{s}.{b}.conv{i}": "conv{s+1}_block{b+1}_{i}_conv",
        "layer{s}.{b}.bn{i}": _keras("conv{s+1}_block{b+1}_{i}"),
        "layer{s}.{b}.downsample.conv": "conv{s+1}_block{b+1}_0_conv",
        "layer{s}.{b}.downsample.bn": _keras("conv{s+1}_block{b+1}_0"),
        "fc": "predictions",
    },
    bgr="conv1",
    **{**KERAS, "epsilon": 1.001e-5},
)
KERAS3_RESNET50 = keras_numbered(KERAS_RESNET50)
