"""ConvNeXt."""

from jaxplain.weights_convert.name_maps import TORCH, NameMap

_STAGES = range(4)

TIMM = NameMap(
    source="timm",
    modules={
        "stem": "stem.0",
        "stem_norm": "stem.1",
        "downsamples.{s}.norm": "stages.{s+1}.downsample.0",
        "downsamples.{s}.conv": "stages.{s+1}.downsample.1",
        "stages.{s}.{b}.conv": "stages.{s}.blocks.{b}.conv_dw",
        "stages.{s}.{b}.norm": "stages.{s}.blocks.{b}.norm",
        "stages.{s}.{b}.mlp.fc{k}": "stages.{s}.blocks.{b}.mlp.fc{k}",
        "stages.{s}.{b}.scale": {"gamma": "stages.{s}.blocks.{b}.gamma"},
        "norm": "head.norm",
        "head": "head.fc",
    },
    **TORCH,
)


def _torchvision(stage: int) -> dict:
    """Stages are every other one of ``features``, with what makes them smaller between."""
    block = f"features.{2 * stage + 1}.{{b}}"
    parts = {"conv": "block.0", "norm": "block.2", "mlp.fc1": "block.3", "mlp.fc2": "block.5"}
    return {
        f"stages.{stage}.{{b}}.{ours}": f"{block}.{theirs}" for ours, theirs in parts.items()
    } | {
        f"stages.{stage}.{{b}}.scale": {"gamma": f"{block}.layer_scale"},
        f"downsamples.{stage}.norm": f"features.{2 * stage + 2}.0",
        f"downsamples.{stage}.conv": f"features.{2 * stage + 2}.1",
    }


TORCHVISION = NameMap(
    source="torchvision",
    modules={
        "stem": "features.0.0",
        "stem_norm": "features.0.1",
        **{ours: theirs for stage in _STAGES for ours, theirs in _torchvision(stage).items()},
        "norm": "classifier.0",
        "head": "classifier.2",
    },
    **TORCH,
)

_LAYER = "convnext.encoder.stages.{s}.layers.{b}"
#: transformers.ConvNextForImageClassification.
TRANSFORMERS = NameMap(
    source="transformers",
    modules={
        "stem": "convnext.embeddings.patch_embeddings",
        "stem_norm": "convnext.embeddings.layernorm",
        "downsamples.{s}.norm": "convnext.encoder.stages.{s+1}.downsampling_layer.0",
        "downsamples.{s}.conv": "convnext.encoder.stages.{s+1}.downsampling_layer.1",
        "stages.{s}.{b}.conv": f"{_LAYER}.dwconv",
        "stages.{s}.{b}.norm": f"{_LAYER}.layernorm",
        "stages.{s}.{b}.mlp.fc{k}": f"{_LAYER}.pwconv{{k}}",
        "stages.{s}.{b}.scale": {"gamma": f"{_LAYER}.layer_scale_parameter"},
        "norm": "convnext.layernorm",
        "head": "classifier",
    },
    **TORCH,
)
