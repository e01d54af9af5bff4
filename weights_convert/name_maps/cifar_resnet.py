"""ResNet for CIFAR."""

from jaxplain.weights_convert.name_maps import TORCH, NameMap

#: akamaster/pytorch_resnet_cifar10, such as its resnet20-12fca82f.th.
AKAMASTER = NameMap(
    source="pytorch_resnet_cifar10",
    modules={
        "conv1": "conv1",
        "bn1": "bn1",
        "layer{s}.{b}.conv{i}": "layer{s}.{b}.conv{i}",
        "layer{s}.{b}.bn{i}": "layer{s}.{b}.bn{i}",
        "linear": "linear",
    },
    **TORCH,
)
