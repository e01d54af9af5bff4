"""The Flax classifiers of transformers (4.49, which has them still)."""

from __future__ import annotations

from typing import Any

import jax

from benchmarks.third_party.networks.base import CLASSES, Attends, Network, images, tokens
from benchmarks.third_party.networks.linen import cut, drawn

_VIT = {
    "image_size": 40,
    "patch_size": 8,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 32,
    "initializer_range": 1.0,
}
_RESNET = {"embedding_size": 8, "hidden_sizes": (16, 24, 32), "depths": (1, 2, 2)}
_BLOCK = ("encoder", "layer")

#: The transformers, and the tokens that their scores read.
_READERS = {"ViT": (0,), "Beit": (), "Dinov2": (0,), "CLIPVision": (0,)}
#: Family -> what makes it small, and the modules that it is cut at.
FAMILIES: dict[str, tuple[dict[str, Any], tuple[tuple[str, ...], ...]]] = {
    "ViT": (_VIT, (("vit", *_BLOCK, "1", "layernorm_before"), ("vit", *_BLOCK, "0"))),
    # Its attention would be all but a mask, of which tiny weights are taken as nothing.
    "Beit": (
        {**_VIT, "initializer_range": 0.5},
        (("beit", *_BLOCK, "1", "layernorm_before"), ("beit", *_BLOCK, "0")),
    ),
    "Dinov2": (_VIT, (("dinov2", *_BLOCK, "1", "norm1"), ("dinov2", *_BLOCK, "0"))),
    "CLIPVision": (
        {**_VIT, "initializer_factor": 8.0, "hidden_act": "gelu"},
        (
            ("vision_model", "encoder", "layers", "1", "layer_norm1"),
            ("vision_model", "encoder", "layers", "0"),
        ),
    ),
    "ResNet": (_RESNET, (("resnet", "encoder", "stages", "2", "layers", "1"),)),
    "RegNet": (
        {**_RESNET, "groups_width": 8},
        (("regnet", "encoder", "stages", "2", "layers", "1"),),
    ),
}


def build(family: str) -> Network:
    import transformers
    from transformers import modeling_flax_utils

    # Looked up when called, as a network's own code does, and not when transformers is imported.
    late = {
        "gelu": lambda x: jax.nn.gelu(x, approximate=False),
        "relu": lambda x: jax.nn.relu(x),
    }
    modeling_flax_utils.ACT2FN.update(late)
    options, paths = FAMILIES[family]
    config = getattr(transformers, f"{family}Config")(num_labels=CLASSES, **options)
    # CLIP's is a network without classes: its scores are an embedding.
    kind = "Model" if family == "CLIPVision" else "ForImageClassification"
    model = getattr(transformers, f"Flax{family}{kind}")(config, dtype=jax.numpy.float64)
    x = images(options.get("image_size", 64))
    params = model.params if "params" in model.params else {"params": model.params}
    variables = drawn(params, seed=12)

    def fn(x: jax.Array) -> jax.Array:
        out = model.module.apply(variables, x)
        return out.logits if hasattr(out, "logits") else out.pooler_output

    maps = {"maps": tokens(prefix=1)} if family in _READERS else {}
    cuts = tuple(cut(fn, path, x, **maps) for path in paths)
    attends = None
    if family in _READERS:
        *stem, _ = paths[-1]  # the last cut is behind the first of the blocks
        blocks = [(*stem, str(i)) for i in range(options["num_hidden_layers"])]
        own = tuple(cut(fn, path, x, **maps) for path in blocks)
        attends = Attends(1, _READERS[family], own)
    return Network(f"transformers {family}", fn, x, cuts, family == "ResNet", attends=attends)
