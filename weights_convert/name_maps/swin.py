"""Swin."""

from jaxplain.weights_convert.name_maps import TORCH, NameMap

_STAGES = range(4)
#: What follows from the window's size alone; some versions keep it.
_DERIVED = ("*.relative_position_index", "*.attn_mask")

TIMM = NameMap(
    source="timm",
    modules={
        "patch": "patch_embed.proj",
        "patch_norm": "patch_embed.norm",
        "stages.{s}.{b}.norm{k}": "layers.{s}.blocks.{b}.norm{k}",
        "stages.{s}.{b}.attention": {
            "bias_table": "layers.{s}.blocks.{b}.attn.relative_position_bias_table"
        },
        "stages.{s}.{b}.attention.qkv": "layers.{s}.blocks.{b}.attn.qkv",
        "stages.{s}.{b}.attention.proj": "layers.{s}.blocks.{b}.attn.proj",
        "stages.{s}.{b}.mlp.fc{k}": "layers.{s}.blocks.{b}.mlp.fc{k}",
        "merges.{s}.norm": "layers.{s+1}.downsample.norm",
        "merges.{s}.reduction": "layers.{s+1}.downsample.reduction",
        "norm": "norm",
        "head": "head.fc",
    },
    auxiliary=_DERIVED,
    **TORCH,
)


def _torchvision(stage: int) -> dict:
    """Stages are every other one of ``features``, with the merging layers between."""
    block, merge = f"features.{2 * stage + 1}.{{b}}", f"features.{2 * stage + 2}"
    ours = f"stages.{stage}.{{b}}"
    return {
        f"{ours}.norm{{k}}": f"{block}.norm{{k}}",
        f"{ours}.attention": {"bias_table": f"{block}.attn.relative_position_bias_table"},
        f"{ours}.attention.qkv": f"{block}.attn.qkv",
        f"{ours}.attention.proj": f"{block}.attn.proj",
        f"{ours}.mlp.fc1": f"{block}.mlp.0",
        f"{ours}.mlp.fc2": f"{block}.mlp.3",
        f"merges.{stage}.norm": f"{merge}.norm",
        f"merges.{stage}.reduction": f"{merge}.reduction",
    }


TORCHVISION = NameMap(
    source="torchvision",
    modules={
        "patch": "features.0.0",
        "patch_norm": "features.0.2",
        **{ours: theirs for stage in _STAGES for ours, theirs in _torchvision(stage).items()},
        "norm": "norm",
        "head": "head",
    },
    auxiliary=_DERIVED,
    **TORCH,
)

_LAYER = "swin.encoder.layers.{s}.blocks.{b}"
_PARTS = ("query", "key", "value")
#: transformers.SwinForImageClassification, which merges at the end of a stage.
TRANSFORMERS = NameMap(
    source="transformers",
    modules={
        "patch": "swin.embeddings.patch_embeddings.projection",
        "patch_norm": "swin.embeddings.norm",
        "stages.{s}.{b}.norm1": f"{_LAYER}.layernorm_before",
        "stages.{s}.{b}.norm2": f"{_LAYER}.layernorm_after",
        "stages.{s}.{b}.attention": {
            "bias_table": f"{_LAYER}.attention.self.relative_position_bias_table"
        },
        "stages.{s}.{b}.attention.qkv": {
            "kernel": tuple(f"{_LAYER}.attention.self.{part}.weight" for part in _PARTS),
            "bias": tuple(f"{_LAYER}.attention.self.{part}.bias" for part in _PARTS),
        },
        "stages.{s}.{b}.attention.proj": f"{_LAYER}.attention.output.dense",
        "stages.{s}.{b}.mlp.fc1": f"{_LAYER}.intermediate.dense",
        "stages.{s}.{b}.mlp.fc2": f"{_LAYER}.output.dense",
        "merges.{s}.norm": "swin.encoder.layers.{s}.downsample.norm",
        "merges.{s}.reduction": "swin.encoder.layers.{s}.downsample.reduction",
        "norm": "swin.layernorm",
        "head": "classifier",
    },
    auxiliary=_DERIVED,
    **TORCH,
)
