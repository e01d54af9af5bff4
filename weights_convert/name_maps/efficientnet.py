"""EfficientNet-Lite."""

from jaxplain.weights_convert.name_maps import TORCH, NameMap

#: The package efficientnet_pytorch, and its relatives for the Lite family.
EFFICIENTNET_PYTORCH = NameMap(
    source="efficientnet_pytorch",
    modules={
        "stem.conv": "_conv_stem",
        "stem.norm": "_bn0",
        "blocks.{stage}.{block}.expand.conv": "_blocks.{n}._expand_conv",
        "blocks.{stage}.{block}.expand.norm": "_blocks.{n}._bn0",
        "blocks.{stage}.{block}.depthwise.conv": "_blocks.{n}._depthwise_conv",
        "blocks.{stage}.{block}.depthwise.norm": "_blocks.{n}._bn1",
        "blocks.{stage}.{block}.project.conv": "_blocks.{n}._project_conv",
        "blocks.{stage}.{block}.project.norm": "_blocks.{n}._bn2",
        "head.conv": "_conv_head",
        "head.norm": "_bn1",
        "classifier": "_fc",
    },
    numbered="blocks.{stage}.{block}",
    epsilon=1e-3,
    **TORCH,
)
