"""Transformers agree with timm's, torchvision's and transformers', random weights carried over.

Small forms of the registry's networks, by the registry's own builders and name maps.
"""

from __future__ import annotations

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
import pytest
import timm
import torch
import torchvision
import transformers
from torch_compare import image, state

from jaxplain import weights_convert as wc
from jaxplain.models import swin
from jaxplain.models.convnext import ConvNeXt
from jaxplain.models.entries import find
from jaxplain.models.swin import Swin

TOLERANCE = 1e-5
#: Depth, width and heads of what is compared; the maps do not depend on them.
DEPTH, WIDTH, HEADS = 2, 48, 3


def randomised(module, seed=0):
    """All parameters random: norms, scales and biases are 1 and 0, or nearly, in a new network."""
    torch.manual_seed(seed)
    for name, parameter in module.named_parameters():
        if parameter.ndim < 2:
            middle = 1.0 if name.endswith(("weight", "gamma", "lambda1")) else 0.0
            torch.nn.init.normal_(parameter, middle, 0.3)
        elif parameter.ndim == 4 or name.endswith("weight"):
            fan = parameter[0].numel()
            torch.nn.init.normal_(parameter, 0.0, fan**-0.5)
        else:  # tokens, positions
            torch.nn.init.normal_(parameter, 0.0, 0.5)
    return module.eval()


def saved(module, folder):
    """The tensors as transformers writes them into a file, whose names are not its modules'."""
    module.save_pretrained(folder)
    return wc.read(folder / "model.safetensors")


def ours(name, source, tensors, *, small=None, outputs=None):
    """The network of the registry in a small form, with tensors named as by ``source``."""
    entry = find(name)
    build = entry.builder(source)
    if small is not None:
        form = dataclasses.replace(build.args[0], **small)
        build = functools.partial(build.func, form, *build.args[1:], **build.keywords)
    network = wc.abstract(lambda rngs: build(outputs or entry.outputs, rngs=rngs))
    names = wc.match(tensors, network, [s.names for s in entry.sources])
    assert names.source == source
    weights, _ = wc.convert(tensors, network, names)
    return wc.with_weights(network, weights)


def agree(network, theirs, *sizes):
    for size in sizes:
        x = image(size)
        with torch.no_grad():
            expected = theirs(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
        got = np.asarray(network(jnp.asarray(x)))
        scale = np.abs(expected).max()
        assert got.shape == expected.shape and scale > 1e-3
        error = np.abs(got - expected).max() / scale
        print(f"{size[0]} x {size[1]}: {error:.1e}")
        assert error <= TOLERANCE


# What makes timm's and transformers' networks small, and ours with them.
SMALL = dict(width=WIDTH, heads=HEADS, depth=DEPTH)
TIMM = dict(embed_dim=WIDTH, num_heads=HEADS, depth=DEPTH)
CONFIG = dict(
    hidden_size=WIDTH,
    num_hidden_layers=DEPTH,
    num_attention_heads=HEADS,
    intermediate_size=4 * WIDTH,
)


@pytest.mark.parametrize(
    "name, theirs, options, outputs",
    [
        ("vit_small_patch16_224", "vit_small_patch16_224", {}, 1000),
        ("deit_small_distilled_patch16_224", "deit_small_distilled_patch16_224", {}, 1000),
        ("vit_small_patch14_dinov2", "vit_small_patch14_dinov2", {}, WIDTH),
        (
            "vit_base_patch16_clip_224",
            "vit_base_patch16_clip_quickgelu_224",
            {"num_classes": 512},
            512,
        ),
        ("vit_base_patch16_siglip_224", "vit_base_patch16_siglip_224", {"num_classes": 0}, WIDTH),
    ],
)
def test_timm(name, theirs, options, outputs):
    module = randomised(timm.create_model(theirs, **TIMM, **options))
    network = ours(name, "timm", state(module), small=SMALL, outputs=outputs)
    size = 518 if "dinov2" in name else 224
    agree(network, module, (size, size))


def test_torchvision_vit():
    module = randomised(
        torchvision.models.VisionTransformer(
            224,
            16,
            DEPTH,
            HEADS,
            WIDTH,
            4 * WIDTH,
            norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-6),
        )
    )
    torch.nn.init.normal_(module.heads.head.weight, 0, WIDTH**-0.5)
    network = ours("vit_base_patch16_224", "torchvision", state(module), small=SMALL)
    agree(network, module, (224, 224))


@pytest.mark.parametrize(
    "name, model, config, options",
    [
        ("vit_small_patch16_224", "ViTForImageClassification", "ViTConfig", {}),
        (
            "deit_small_distilled_patch16_224",
            "DeiTForImageClassificationWithTeacher",
            "DeiTConfig",
            {},
        ),
        (
            "vit_base_patch16_clip_224",
            "CLIPVisionModelWithProjection",
            "CLIPVisionConfig",
            {"patch_size": 16, "projection_dim": 512},
        ),
    ],
)
def test_transformers(name, model, config, options, tmp_path):
    kind = {} if "CLIP" in config else {"num_labels": 1000}
    settings = getattr(transformers, config)(**CONFIG, **kind, **options)
    module = randomised(getattr(transformers, model)(settings))
    tensors = saved(module, tmp_path)
    network = ours(name, "transformers", tensors, small=SMALL)

    def theirs(x):
        found = module(pixel_values=x)
        return found.image_embeds if "CLIP" in config else found.logits

    agree(network, theirs, (224, 224))


@pytest.mark.parametrize("registers", [0, 4])
def test_dinov2(registers, tmp_path):
    """At the positions' own grid, at smaller ones, and where height and width differ."""
    kind = "Dinov2WithRegisters" if registers else "Dinov2"
    more = {"num_register_tokens": registers} if registers else {}
    settings = getattr(transformers, f"{kind}Config")(
        **CONFIG, image_size=518, patch_size=14, **more
    )
    module = randomised(getattr(transformers, f"{kind}Model")(settings))
    name = f"vit_small_patch14_{'reg4_' if registers else ''}dinov2"
    network = ours(name, "transformers", saved(module, tmp_path), small=SMALL, outputs=WIDTH)
    sizes = ((224, 224), (140, 280), (518, 518))
    agree(network, lambda x: module(pixel_values=x).pooler_output, *sizes)


def test_whole_clip_and_siglip(tmp_path):
    """A checkpoint of both towers: the text's is left out, by name."""
    text = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    clip = transformers.CLIPModel(
        transformers.CLIPConfig(
            text_config={**text, "vocab_size": 100}, vision_config={**CONFIG, "patch_size": 16}
        )
    )
    module = randomised(clip)
    tensors = saved(module, tmp_path / "clip")
    assert any(name.startswith("text_model.") for name in tensors)
    network = ours("vit_base_patch16_clip_224", "transformers", tensors, small=SMALL)
    agree(
        network,
        lambda x: module.visual_projection(module.vision_model(x).pooler_output),
        (224, 224),
    )

    siglip = transformers.SiglipModel(
        transformers.SiglipConfig(
            text_config={**text, "vocab_size": 100, "projection_size": WIDTH},
            vision_config=CONFIG,
        )
    )
    module = randomised(siglip)
    tensors = saved(module, tmp_path / "siglip")
    assert any(name.startswith("text_model.") for name in tensors)
    name = "vit_base_patch16_siglip_224"
    network = ours(name, "transformers", tensors, small=SMALL, outputs=WIDTH)
    agree(network, lambda x: module.vision_model(x).pooler_output, (224, 224))


# ---- Swin and ConvNeXt, whose depth is part of the variant: small ones stand in ------------------

_SWIN = ((2, 2), (3, 6), 24)
_CONVNEXT = ((1, 2, 1, 1), (8, 16, 24, 32))


@pytest.fixture
def small_variants(monkeypatch):
    monkeypatch.setitem(swin.VARIANTS, "tiny", _SWIN)
    monkeypatch.setitem(ConvNeXt.__init__.__globals__["VARIANTS"], "tiny", _CONVNEXT)


@pytest.mark.parametrize("source", ["timm", "torchvision", "transformers"])
def test_swin(source, small_variants, tmp_path):
    depths, heads, width = _SWIN
    if source == "timm":
        module = randomised(
            timm.create_model(
                "swin_tiny_patch4_window7_224", depths=depths, num_heads=heads, embed_dim=width
            )
        )
        tensors, theirs = state(module), module
    elif source == "torchvision":
        module = randomised(
            torchvision.models.SwinTransformer(
                [4, 4], width, list(depths), list(heads), [7, 7], stochastic_depth_prob=0.0
            )
        )
        tensors, theirs = state(module), module
    else:
        config = transformers.SwinConfig(
            depths=list(depths), num_heads=list(heads), embed_dim=width, num_labels=1000
        )
        module = randomised(transformers.SwinForImageClassification(config))
        tensors = saved(module, tmp_path)

        def theirs(x):
            return module(pixel_values=x).logits

    network = ours("swin_tiny_patch4_window7_224", source, tensors)
    assert isinstance(network, Swin)
    # Sides that no windows fill are padded; timm takes the network's own size only.
    agree(network, theirs, (224, 224), *(((200, 104),) if source == "torchvision" else ()))


@pytest.mark.parametrize("source", ["timm", "torchvision", "transformers"])
def test_convnext(source, small_variants, tmp_path):
    depths, widths = _CONVNEXT
    if source == "timm":
        module = randomised(timm.create_model("convnext_tiny", depths=depths, dims=widths))
        tensors, theirs = state(module), module
    elif source == "torchvision":
        from torchvision.models.convnext import CNBlockConfig

        settings = [
            CNBlockConfig(width, after, depth)
            for width, after, depth in zip(widths, (*widths[1:], None), depths, strict=True)
        ]
        module = randomised(torchvision.models.ConvNeXt(settings))
        tensors, theirs = state(module), module
    else:
        config = transformers.ConvNextConfig(
            depths=list(depths), hidden_sizes=list(widths), num_labels=1000
        )
        module = randomised(transformers.ConvNextForImageClassification(config))
        tensors = saved(module, tmp_path)

        def theirs(x):
            return module(pixel_values=x).logits

    agree(ours("convnext_tiny", source, tensors), theirs, (224, 224), (192, 160))
