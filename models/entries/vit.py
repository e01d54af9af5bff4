"""Registry entries of vision transformers: ViT, DeiT, DINOv2, CLIP, SigLIP, importance maps."""

import dataclasses
import functools
from collections.abc import Callable

from jaxplain.models import imagenet
from jaxplain.models.config import ModelConfig, default_layers
from jaxplain.models.entry import TORCH_INPUT, Entry, Hub, Source
from jaxplain.models.importance import ImportanceMap
from jaxplain.models.network import Network
from jaxplain.models.vit import Form, VisionTransformer
from jaxplain.weights_convert.name_maps import vit as maps

_WIDTHS = {"tiny": 192, "small": 384, "base": 768}
#: How sources prepare images, as in ``models.entry``.
_INCEPTION = dict(mean=(127.5,), scale=(127.5,), interpolation="bicubic", crop_fraction=0.9)
_DEIT = {**TORCH_INPUT, "interpolation": "bicubic", "crop_fraction": 0.9}
_TRANSFORMERS = {**_INCEPTION, "crop_fraction": 1.0}
_CLIP = dict(
    mean=tuple(255 * m for m in (0.48145466, 0.4578275, 0.40821073)),
    scale=tuple(255 * s for s in (0.26862954, 0.26130258, 0.27577711)),
    interpolation="bicubic",
    crop_fraction=1.0,
)


def _form(size: str, **changes) -> Form:
    return Form(_WIDTHS[size], _WIDTHS[size] // 64, **changes)


def _build(form: Form) -> Callable[..., Network]:
    return functools.partial(VisionTransformer, form)


def _config(name: str, **fields) -> ModelConfig:
    # Of the last block, a class is read from one token only: the others have a gradient before its
    # attention mixes them. The eighth block is where two thirds of the way are gone, as at the EB
    # paper's layers.
    layers = default_layers("blocks.7", "blocks.11.norm1")
    return ModelConfig(name=name, input_size=224, **{"layers": layers, **fields})


def _vit(size: str, hub: str, top1: float, torchvision: float | None = None) -> Entry:
    form, name = _form(size), f"vit_{size}_patch16_224"
    # transformers adds another epsilon in its norms, by default.
    exact = _build(dataclasses.replace(form, eps=1e-12))
    sources = [
        Source(maps.TIMM, Hub(f"timm/{name}.{hub}"), top1=top1, licence="Apache-2.0"),
        Source(maps.TRANSFORMERS, changes=_TRANSFORMERS, build=exact),
    ]
    if torchvision is not None:
        sources.append(Source(maps.TORCHVISION, changes=TORCH_INPUT, top1=torchvision))
    return Entry(
        build=_build(form),
        config=_config(name, **_INCEPTION),
        sources=tuple(sources),
        class_names=imagenet.class_names,
        scans=True,
    )


def _deit(size: str, top1: float) -> Entry:
    form, name = _form(size, head="distilled"), f"deit_{size}_distilled_patch16_224"
    exact = _build(dataclasses.replace(form, eps=1e-12))
    return Entry(
        build=_build(form),
        config=_config(name, **_DEIT),
        sources=(
            Source(maps.TIMM_DEIT, Hub(f"timm/{name}.fb_in1k"), top1=top1, licence="Apache-2.0"),
            Source(maps.TRANSFORMERS_DEIT, changes={"crop_fraction": 0.875}, build=exact),
        ),
        class_names=imagenet.class_names,
        scans=True,
    )


_DINOV2 = dict(patch=14, grid=37, head="embedding", layer_scale=True)


def _dinov2(size: str, registers: int) -> Entry:
    # The positions of networks with registers were brought to other grids with antialiasing.
    form = _form(size, registers=registers, antialias=registers > 0, **_DINOV2)
    if registers:
        name = f"vit_{size}_patch14_reg{registers}_dinov2"
        hub = Hub(f"facebook/dinov2-with-registers-{size}")
        sources = (
            Source(maps.TRANSFORMERS_DINOV2_REGISTERS, hub, licence="Apache-2.0"),
            Source(maps.DINOV2_REGISTERS),
        )
    else:
        name = f"vit_{size}_patch14_dinov2"
        hub = Hub(f"facebook/dinov2-{size}")
        sources = (
            Source(maps.TRANSFORMERS_DINOV2, hub, licence="Apache-2.0"),
            Source(maps.TIMM_DINOV2),
        )
    return Entry(
        build=_build(form),
        config=_config(name, outputs=form.width, **{**TORCH_INPUT, "interpolation": "bicubic"}),
        sources=sources,
        outputs=form.width,
        scans=True,
    )


_CLIP_FORM = _form("base", head="projection", pre_norm=True, activation="quick_gelu", eps=1e-5)
_SIGLIP_FORM = _form("base", head="pooled")
_SIGLIP_TANH = _build(dataclasses.replace(_SIGLIP_FORM, activation="gelu_tanh"))
_IMPORTANCE_FORM = _form("small", **_DINOV2)

ENTRIES = {
    "vit_tiny_patch16_224": _vit("tiny", "augreg_in21k_ft_in1k", 75.5),
    "vit_small_patch16_224": _vit("small", "augreg_in21k_ft_in1k", 81.4),
    "vit_base_patch16_224": _vit("base", "augreg_in21k_ft_in1k", 84.5, torchvision=81.1),
    "deit_tiny_distilled_patch16_224": _deit("tiny", 74.5),
    "deit_small_distilled_patch16_224": _deit("small", 81.2),
    "deit_base_distilled_patch16_224": _deit("base", 83.4),
    "vit_small_patch14_dinov2": _dinov2("small", 0),
    "vit_base_patch14_dinov2": _dinov2("base", 0),
    "vit_small_patch14_reg4_dinov2": _dinov2("small", 4),
    "vit_base_patch14_reg4_dinov2": _dinov2("base", 4),
    "vit_base_patch16_clip_224": Entry(
        build=_build(_CLIP_FORM),
        config=_config("vit_base_patch16_clip_224", outputs=512, **_CLIP),
        sources=(
            Source(
                maps.TIMM_CLIP,
                Hub("timm/vit_base_patch16_clip_224.openai"),
                licence="MIT",
                # timm gives the projection a bias, of zeros.
                build=_build(dataclasses.replace(_CLIP_FORM, head="classes")),
            ),
            Source(maps.TRANSFORMERS_CLIP),
        ),
        outputs=512,
        scans=True,
    ),
    "vit_base_patch16_siglip_224": Entry(
        build=_SIGLIP_TANH,
        config=_config("vit_base_patch16_siglip_224", outputs=768, **_TRANSFORMERS),
        sources=(
            Source(
                maps.TRANSFORMERS_SIGLIP,
                Hub("google/siglip-base-patch16-224"),
                licence="Apache-2.0",
            ),
            # timm keeps the exact GELU.
            Source(maps.TIMM_SIGLIP, build=_build(_SIGLIP_FORM)),
        ),
        outputs=768,
        scans=True,
    ),
    "vit_small_patch14_importance": Entry(
        build=functools.partial(ImportanceMap, _IMPORTANCE_FORM),
        config=_config(
            "vit_small_patch14_importance",
            outputs=1,
            **{**TORCH_INPUT, "interpolation": "bicubic", "crop_fraction": 1.0},
        ),
        sources=(Source(maps.IMPORTANCE, beside="_decoder", licence="MIT"),),
        outputs=1,
        scans=True,
        score_map=True,
    ),
}
