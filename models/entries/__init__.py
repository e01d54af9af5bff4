"""The networks that jaxplain knows by name: one file a family, each with a table ``ENTRIES``."""

from jaxplain.models.classes import nearest
from jaxplain.models.entries import (
    alexnet,
    attention_resnet,
    cifar_resnet,
    convnext,
    efficientnet,
    few_shot,
    googlenet,
    resnet,
    squeezenet,
    swin,
    vgg,
    vit,
)
from jaxplain.models.entry import Entry

_FAMILIES = (
    vgg,
    alexnet,
    googlenet,
    squeezenet,
    resnet,
    attention_resnet,
    cifar_resnet,
    few_shot,
    efficientnet,
    vit,
    swin,
    convnext,
)

#: Name -> entry.
ENTRIES: dict[str, Entry] = {}
for _family in _FAMILIES:
    for _name, _entry in _family.ENTRIES.items():
        if _name in ENTRIES or _name != _entry.config.name:
            raise ValueError(f"The entry {_name!r} is there twice, or its config names another.")
        ENTRIES[_name] = _entry

#: Numbers of trainable parameters; counting them takes seconds, so that they are kept here.
PARAMETERS: dict[str, int] = {
    "alexnet": 61_100_840,
    "bvlc_alexnet": 60_965_224,
    "bvlc_googlenet": 6_998_552,
    "caffenet": 60_965_224,
    "cifar_resnet20": 269_722,
    "cifar_resnet32": 464_154,
    "cifar_resnet44": 658_586,
    "cifar_resnet56": 853_018,
    "cnn_s": 102_908_520,
    "conv4net": 113_088,
    "conv64f": 113_088,
    "convnext_tiny": 28_589_128,
    "deit_base_distilled_patch16_224": 87_338_192,
    "deit_small_distilled_patch16_224": 22_436_432,
    "deit_tiny_distilled_patch16_224": 5_910_800,
    "efficientnet_lite0": 4_652_008,
    "efficientnet_lite1": 5_416_680,
    "efficientnet_lite2": 6_092_072,
    "googlenet": 6_624_904,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnet18": 11_689_512,
    "resnet18_npid": 11_242_176,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet50_bam": 25_915_099,
    "resnet50_caffe": 25_557_032,
    "resnet50_cbam": 28_089_624,
    "resnet50_keras": 25_557_032,
    "resnet50_ms": 24_557_120,
    "resnet50_npid": 23_770_304,
    "squeezenet1_0": 1_248_424,
    "squeezenet1_0_caffe": 1_248_424,
    "squeezenet1_1": 1_235_496,
    "swin_tiny_patch4_window7_224": 28_288_354,
    "vgg16": 138_357_544,
    "vgg16_bn": 138_365_992,
    "vgg16_caffe": 138_357_544,
    "vgg19": 143_667_240,
    "vgg19_bn": 143_678_248,
    "vgg19_caffe": 143_667_240,
    "vit_base_patch14_dinov2": 86_579_712,
    "vit_base_patch14_reg4_dinov2": 86_582_784,
    "vit_base_patch16_224": 86_567_656,
    "vit_base_patch16_clip_224": 86_192_640,
    "vit_base_patch16_siglip_224": 92_884_224,
    "vit_small_patch14_dinov2": 22_056_192,
    "vit_small_patch14_importance": 24_285_825,
    "vit_small_patch14_reg4_dinov2": 22_057_728,
    "vit_small_patch16_224": 22_050_664,
    "vit_tiny_patch16_224": 5_717_416,
}


def find(name: str) -> Entry:
    """The entry of a name.

    Raises:
        ValueError: there is none (the nearest are suggested).

    Example:
        >>> from jaxplain.models.entries import find
        >>> find("efficientnet_lite0").config.input_size
        224
    """
    if name not in ENTRIES:
        raise unknown(name)
    return ENTRIES[name]


def unknown(name: str) -> ValueError:
    """The error that there is no network of this name."""
    near = nearest(name, sorted(ENTRIES)) or sorted(ENTRIES)
    return ValueError(
        f"There is no network {name!r}; the nearest are {', '.join(map(repr, near))}."
    )
