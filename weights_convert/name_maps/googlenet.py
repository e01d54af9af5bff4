"""GoogLeNet."""

from jaxplain.weights_convert.name_maps import CAFFE, TORCH, NameMap

#: bvlc_googlenet.
CAFFE_ZOO = NameMap(
    source="caffe",
    modules={
        "conv1.conv": "conv1/7x7_s2",
        "conv2_reduce.conv": "conv2/3x3_reduce",
        "conv2.conv": "conv2/3x3",
        "inception_{x}.conv1x1.conv": "inception_{x}/1x1",
        "inception_{x}.conv3x3_reduce.conv": "inception_{x}/3x3_reduce",
        "inception_{x}.conv3x3.conv": "inception_{x}/3x3",
        "inception_{x}.conv5x5_reduce.conv": "inception_{x}/5x5_reduce",
        "inception_{x}.conv5x5.conv": "inception_{x}/5x5",
        "inception_{x}.pool_proj.conv": "inception_{x}/pool_proj",
        "fc": "loss3/classifier",
    },
    bgr="conv1.conv",
    auxiliary=("loss1/*", "loss2/*"),
    **CAFFE,
)

_UNITS = {
    "conv1": "conv1",
    "conv2_reduce": "conv2",
    "conv2": "conv3",
    "inception_{x}.conv1x1": "inception{x}.branch1",
    "inception_{x}.conv3x3_reduce": "inception{x}.branch2.0",
    "inception_{x}.conv3x3": "inception{x}.branch2.1",
    "inception_{x}.conv5x5_reduce": "inception{x}.branch3.0",
    "inception_{x}.conv5x5": "inception{x}.branch3.1",
    "inception_{x}.pool_proj": "inception{x}.branch4.1",
}
TORCHVISION = NameMap(
    source="torchvision",
    modules={
        **{f"{ours}.conv": f"{theirs}.conv" for ours, theirs in _UNITS.items()},
        **{f"{ours}.norm": f"{theirs}.bn" for ours, theirs in _UNITS.items()},
        "fc": "fc",
    },
    epsilon=1e-3,
    auxiliary=("aux1.*", "aux2.*"),
    **TORCH,
)
