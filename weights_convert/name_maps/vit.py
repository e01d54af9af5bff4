"""ViT, DeiT, DINOv2, CLIP's and SigLIP's image towers, and the network of importance maps."""

import dataclasses
from collections.abc import Mapping

from jaxplain.weights_convert.name_maps import TORCH, NameMap

_Modules = dict[str, str | Mapping[str, str | tuple[str, ...]]]


def _joined(place: str, *parts: str) -> dict[str, tuple[str, ...]]:
    """Queries, keys and values that are dense layers of their own."""
    return {
        ours: tuple(f"{place}.{part}.{theirs}" for part in parts)
        for ours, theirs in (("kernel", "weight"), ("bias", "bias"))
    }


def _embeddings(patch: str, **tokens: str) -> _Modules:
    return {"embeddings.patch": patch, "embeddings": tokens}


#: timm's vision transformers.
_TIMM: _Modules = {
    **_embeddings("patch_embed.proj", class_token="cls_token", positions="pos_embed"),
    "blocks.{i}.norm{k}": "blocks.{i}.norm{k}",
    "blocks.{i}.attention.qkv": "blocks.{i}.attn.qkv",
    "blocks.{i}.attention.proj": "blocks.{i}.attn.proj",
    "blocks.{i}.mlp.fc{k}": "blocks.{i}.mlp.fc{k}",
    "norm": "norm",
    "head": "head",
}
_TIMM_SCALE: _Modules = {"blocks.{i}.scale{k}": {"gamma": "blocks.{i}.ls{k}.gamma"}}


TIMM = NameMap("timm", _TIMM, **TORCH)


def _timm(more: _Modules) -> NameMap:
    return dataclasses.replace(TIMM, modules={**_TIMM, **more})


TIMM_DEIT = _timm(
    {
        "embeddings": dict(
            class_token="cls_token", distillation_token="dist_token", positions="pos_embed"
        ),
        "distillation_head": "head_dist",
    }
)
TIMM_DINOV2 = _timm(_TIMM_SCALE)
_REGISTERS = dict(class_token="cls_token", positions="pos_embed", registers="register_tokens")
#: facebookresearch/dinov2, with registers.
DINOV2_REGISTERS = dataclasses.replace(
    _timm({**_TIMM_SCALE, "embeddings": _REGISTERS}), source="dinov2", auxiliary=("mask_token",)
)
TIMM_CLIP = _timm({"pre_norm": "norm_pre"})
TIMM_SIGLIP = _timm(
    {
        "embeddings": {"positions": "pos_embed"},
        "pool": {"probe": "attn_pool.latent"},
        "pool.qkv": _joined("attn_pool", "q", "kv"),
        "pool.proj": "attn_pool.proj",
        "pool.norm": "attn_pool.norm",
        "pool.mlp.fc{k}": "attn_pool.mlp.fc{k}",
    }
)

_LAYER = "encoder.layers.encoder_layer_{i}"
#: torchvision.models.vit_b_16.
TORCHVISION = NameMap(
    source="torchvision",
    modules={
        **_embeddings("conv_proj", class_token="class_token", positions="encoder.pos_embedding"),
        "blocks.{i}.norm{k}": f"{_LAYER}.ln_{{k}}",
        "blocks.{i}.attention.qkv": {
            "kernel": f"{_LAYER}.self_attention.in_proj_weight",
            "bias": f"{_LAYER}.self_attention.in_proj_bias",
        },
        "blocks.{i}.attention.proj": f"{_LAYER}.self_attention.out_proj",
        "blocks.{i}.mlp.fc1": f"{_LAYER}.mlp.0",
        "blocks.{i}.mlp.fc2": f"{_LAYER}.mlp.3",
        "norm": "encoder.ln",
        "head": "heads.head",
    },
    **TORCH,
)


def _transformers_vit(prefix: str, **tokens: str) -> _Modules:
    """ViTModel and DeiTModel."""
    layer = f"{prefix}.encoder.layer.{{i}}"
    places = {ours: f"{prefix}.embeddings.{theirs}" for ours, theirs in tokens.items()}
    return {
        **_embeddings(f"{prefix}.embeddings.patch_embeddings.projection", **places),
        "blocks.{i}.norm1": f"{layer}.layernorm_before",
        "blocks.{i}.norm2": f"{layer}.layernorm_after",
        "blocks.{i}.attention.qkv": _joined(
            f"{layer}.attention.attention", "query", "key", "value"
        ),
        "blocks.{i}.attention.proj": f"{layer}.attention.output.dense",
        "blocks.{i}.mlp.fc1": f"{layer}.intermediate.dense",
        "blocks.{i}.mlp.fc2": f"{layer}.output.dense",
        "norm": f"{prefix}.layernorm",
    }


#: transformers.ViTForImageClassification.
TRANSFORMERS = NameMap(
    source="transformers",
    modules={
        **_transformers_vit("vit", class_token="cls_token", positions="position_embeddings"),
        "head": "classifier",
    },
    auxiliary=("vit.pooler.*",),
    **TORCH,
)
#: transformers.DeiTForImageClassificationWithTeacher.
TRANSFORMERS_DEIT = NameMap(
    source="transformers",
    modules={
        **_transformers_vit(
            "deit",
            class_token="cls_token",
            distillation_token="distillation_token",
            positions="position_embeddings",
        ),
        "head": "cls_classifier",
        "distillation_head": "distillation_classifier",
    },
    auxiliary=("deit.pooler.*",),
    **TORCH,
)


def _dinov2(**tokens: str) -> _Modules:
    """Dinov2Model."""
    layer = "encoder.layer.{i}"
    return {
        **_embeddings(
            "embeddings.patch_embeddings.projection",
            **{ours: f"embeddings.{theirs}" for ours, theirs in tokens.items()},
        ),
        "blocks.{i}.norm{k}": f"{layer}.norm{{k}}",
        "blocks.{i}.attention.qkv": _joined(
            f"{layer}.attention.attention", "query", "key", "value"
        ),
        "blocks.{i}.attention.proj": f"{layer}.attention.output.dense",
        "blocks.{i}.scale{k}": {"gamma": f"{layer}.layer_scale{{k}}.lambda1"},
        "blocks.{i}.mlp.fc{k}": f"{layer}.mlp.fc{{k}}",
        "norm": "layernorm",
    }


_TOKENS = dict(class_token="cls_token", positions="position_embeddings")
#: transformers.Dinov2Model.
TRANSFORMERS_DINOV2 = NameMap(
    "transformers", _dinov2(**_TOKENS), auxiliary=("embeddings.mask_token",), **TORCH
)
#: transformers.Dinov2WithRegistersModel.
TRANSFORMERS_DINOV2_REGISTERS = dataclasses.replace(
    TRANSFORMERS_DINOV2, modules=_dinov2(**_TOKENS, registers="register_tokens")
)
#: A Dinov2Model with a head of transposed convolutions, ``decoder``, in a file of its own.
IMPORTANCE = dataclasses.replace(
    TRANSFORMERS_DINOV2,
    modules={
        **{f"backbone.{ours}": theirs for ours, theirs in TRANSFORMERS_DINOV2.modules.items()},
        "decoder.steps.{i}.conv": "decoder.upconv{i+1}",
        "decoder.steps.{i}.norm": "decoder.bn{i+1}",
        "decoder.last": "decoder.final_conv",
    },
)


def _tower(prefix: str, **tokens: str) -> _Modules:
    """The image towers of CLIPModel and SiglipModel."""
    layer = f"{prefix}.encoder.layers.{{i}}"
    places = {ours: f"{prefix}.{theirs}" for ours, theirs in tokens.items()}
    return {
        **_embeddings(f"{prefix}.embeddings.patch_embedding", **places),
        "blocks.{i}.norm{k}": f"{layer}.layer_norm{{k}}",
        "blocks.{i}.attention.qkv": _joined(f"{layer}.self_attn", "q_proj", "k_proj", "v_proj"),
        "blocks.{i}.attention.proj": f"{layer}.self_attn.out_proj",
        "blocks.{i}.mlp.fc{k}": f"{layer}.mlp.fc{{k}}",
        "norm": f"{prefix}.post_layernorm",
    }


_POSITIONS = "embeddings.position_embedding.weight"
#: transformers.CLIPModel, and CLIPVisionModelWithProjection.
TRANSFORMERS_CLIP = NameMap(
    source="transformers",
    modules={
        **_tower("vision_model", class_token="embeddings.class_embedding", positions=_POSITIONS),
        "pre_norm": "vision_model.pre_layrnorm",
        "head": "visual_projection",
    },
    auxiliary=("text_model.*", "text_projection.*", "logit_scale", "*.position_ids"),
    **TORCH,
)
#: transformers.SiglipModel.
TRANSFORMERS_SIGLIP = NameMap(
    source="transformers",
    modules={
        **_tower("vision_model", positions=_POSITIONS),
        "pool": {"probe": "vision_model.head.probe"},
        "pool.qkv": {
            "kernel": "vision_model.head.attention.in_proj_weight",
            "bias": "vision_model.head.attention.in_proj_bias",
        },
        "pool.proj": "vision_model.head.attention.out_proj",
        "pool.norm": "vision_model.head.layernorm",
        "pool.mlp.fc{k}": "vision_model.head.mlp.fc{k}",
    },
    auxiliary=("text_model.*", "logit_scale", "logit_bias", "*.position_ids"),
    **TORCH,
)
