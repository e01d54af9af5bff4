"""Vision transformers, Swin and ConvNeXt: forms, other sizes, scans, and a trained ViT from a file.

That they compute what others' networks of the same names do is shown in tests/parity.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_network import filled

import jaxplain
from jaxplain import models
from jaxplain import weights_convert as wc
from jaxplain.models import conversion, positions, vit
from jaxplain.models.convnext import ConvNeXt
from jaxplain.models.entries import ENTRIES, PARAMETERS, convnext, swin
from jaxplain.models.entries import vit as vit_entries
from jaxplain.models.importance import ImportanceMap
from jaxplain.models.swin import Swin
from jaxplain.models.vit import Form, VisionTransformer

# Trainable parameters in millions, as published (DINOv2's with a mask token, which is left out).
MILLIONS = {
    "vit_tiny_patch16_224": 5.72,
    "vit_small_patch16_224": 22.05,
    "vit_base_patch16_224": 86.57,
    "deit_tiny_distilled_patch16_224": 5.91,
    "deit_small_distilled_patch16_224": 22.44,
    "deit_base_distilled_patch16_224": 87.34,
    "vit_small_patch14_dinov2": 22.06,
    "vit_base_patch14_dinov2": 86.58,
    "vit_small_patch14_reg4_dinov2": 22.06,
    "vit_base_patch14_reg4_dinov2": 86.58,
    "vit_base_patch16_clip_224": 86.19,
    "vit_base_patch16_siglip_224": 92.88,
    "vit_small_patch14_importance": 22.06 + 2.23,
    "swin_tiny_patch4_window7_224": 28.29,
    "convnext_tiny": 28.59,
}
CLIP_BIAS = ("vit_base_patch16_clip_224", "timm")
FORMS = {
    "classes": Form(8, 2, patch=4, grid=4, depth=2),
    "distilled": Form(8, 2, patch=4, grid=4, depth=2, head="distilled"),
    "dinov2": Form(8, 2, patch=4, grid=5, depth=2, head="embedding", layer_scale=True),
    "registers": Form(
        8, 2, patch=4, grid=5, depth=2, head="embedding", registers=3, antialias=True
    ),
    "clip": Form(8, 2, patch=4, grid=4, depth=2, head="projection", pre_norm=True),
    "siglip": Form(8, 2, patch=4, grid=4, depth=2, head="pooled", activation="gelu_tanh"),
}


def small(name, **options):
    form = FORMS[name]
    outputs = 5 if form.head in ("classes", "distilled", "projection") else form.width
    return VisionTransformer(form, outputs, rngs=nnx.Rngs(0), **options)


def photograph(*size, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(2, *size, 3)), jnp.float32)


def shapes(network, size):
    """Shapes of the tagged layers and of the output, without computing anything."""
    graph, state = nnx.split(network)
    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    jaxpr = jax.make_jaxpr(lambda s, x: nnx.merge(graph, s)(x))(state, image)
    found = {e.params["name"]: e.outvars[0].aval for e in jaxpr.eqns if e.primitive.name == "name"}
    return {name: aval.shape for name, aval in found.items()}, jaxpr.out_avals[0]


# ---------------------------------------------------------------- forms


def test_the_list_is_whole():
    families = (vit_entries, swin, convnext)
    assert sorted(MILLIONS) == sorted(name for family in families for name in family.ENTRIES)


@pytest.mark.parametrize("name", MILLIONS)
def test_form(name):
    """Parameters as published, and the registry's layers exist and have maps."""
    entry = ENTRIES[name]
    network = conversion.build(entry, entry.outputs, dtype=jnp.bfloat16)
    leaves = nnx.to_flat_state(nnx.state(network, nnx.Param))
    count = sum(math.prod(v.get_value().shape) for _, v in leaves)
    assert count / 1e6 == pytest.approx(MILLIONS[name], abs=0.006)
    assert all(v.get_value().dtype == jnp.float32 for _, v in leaves)
    tags, output = shapes(network, (224, 224))
    expected = (1, 224, 224, 1) if entry.score_map else (1, entry.outputs)
    assert output.shape == expected and output.dtype == jnp.bfloat16
    assert {layer for _, layer in entry.config.layers} <= set(tags)
    # The forms that other sources want have the same parameters, but for a bias of timm's CLIP.
    for source in entry.sources:
        other = conversion.build(entry, entry.outputs, source.names.source)
        more = {"head.bias": (512,)} if (name, source.names.source) == CLIP_BIAS else {}
        assert wc.parameter_shapes(other) == wc.parameter_shapes(network) | more


def test_layers_of_a_vision_transformer():
    tags, _ = shapes(small("registers"), (16, 24))
    assert tags == {
        "patches": (1, 4, 6, 8),
        "embeddings": (1, 28, 8),
        **{f"blocks.{i}": (1, 28, 8) for i in range(2)},
        **{f"blocks.{i}.norm{k}": (1, 28, 8) for i in range(2) for k in (1, 2)},
        **{f"blocks.{i}.attention": (1, 2, 28, 28) for i in range(2)},
        "norm": (1, 28, 8),
    }
    assert shapes(small("siglip"), (16, 16))[0]["pool.attention"] == (1, 2, 1, 16)


@pytest.mark.parametrize("network, stage", [(Swin, (2, 6, 4, 768)), (ConvNeXt, (2, 6, 4, 768))])
def test_features_of_space(network, stage):
    """Stages of a Swin and a ConvNeXt, sides that are no multiples of 32, and the score map."""
    build = wc.abstract(lambda rngs: network("tiny", 5, rngs=rngs))
    tags, output = shapes(build, (192, 128))
    assert tags["stages.3.1"] == (1, *stage[1:]) and output.shape == (1, 5)
    sliding = wc.abstract(lambda rngs: network("tiny", 5, fully_convolutional=True, rngs=rngs))
    assert shapes(sliding, (224, 288))[1].shape == (1, 1, 3, 5)
    assert shapes(build, (200, 136))[1].shape == (1, 5)


def test_swin_keeps_apart_what_shifted_windows_bring_together():
    """A pixel changes only what its own windows, and those of the shift, can see."""
    network = filled(wc.abstract(lambda rngs: Swin("tiny", 5, rngs=rngs)))
    x = photograph(56, 56)
    changed = x.at[:, 0, 0].add(1.0)
    first, second = (
        jaxplain.capture(network, ["stages.0.0", "stages.0.1"])(v)[1] for v in (x, changed)
    )
    moved = np.abs(np.asarray(first["stages.0.0"] - second["stages.0.0"])).max((0, 3)) > 1e-6
    assert moved[:7, :7].all() and moved.sum() == 49
    moved = np.abs(np.asarray(first["stages.0.1"] - second["stages.0.1"])).max((0, 3)) > 1e-6
    # Shifted by 3 they hold the rows 3 to 9, and 10 to 13 apart from 0 to 2, which lie there too.
    assert moved[:10, :10].all() and moved.sum() == 10 * 10


def test_positions_for_another_grid():
    """Weights sum to one; linear positions stay linear inside, and the same grid stays itself."""
    for antialias in (False, True):
        weights = positions.bicubic_weights(37, 16, antialias)
        np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-12)
    weights = positions.bicubic_weights(37, 16)
    centres = (np.arange(16) + 0.5) * 37 / 16 - 0.5
    np.testing.assert_allclose((weights @ np.arange(37))[1:-1], centres[1:-1], atol=0.1)
    # Keys' kernel with a = -3/4, halfway between two points.
    a, x = -0.75, 0.5
    weights = positions.bicubic_weights(4, 3)  # centres 0.1667, 1.5, 2.8333
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * 1.5**3 - 5 * a * 1.5**2 + 8 * a * 1.5 - 4 * a
    np.testing.assert_allclose(weights[1], [far, near, near, far], atol=1e-12)
    grid = jnp.asarray(np.random.default_rng(0).normal(size=(1, 16, 3)), jnp.float32)
    assert positions.resized(grid, (4, 4)) is grid


@pytest.mark.parametrize("name", FORMS)
def test_scan_and_other_sizes(name):
    """The same outputs from stacked weights, for images of any sides."""
    plain = filled(small(name))
    scanned = wc.with_weights(
        small(name, scan=True),
        vit.stack_weights({".".join(map(str, p)): v[...] for p, v in flat(plain)}),
    )
    for size in ((16, 16), (24, 12)):
        x = photograph(*size)
        expected = plain(x)
        np.testing.assert_allclose(scanned(x), expected, rtol=1e-5, atol=1e-5)
    back = vit.unstack_weights({".".join(map(str, p)): v[...] for p, v in flat(scanned)})
    for path, value in flat(plain):
        np.testing.assert_array_equal(back[".".join(map(str, path))], value[...])
    _, acts = jaxplain.capture(scanned, ["blocks.norm1:1"])(x)
    _, known = jaxplain.capture(plain, ["blocks.1.norm1"])(x)
    np.testing.assert_allclose(
        acts[vit.scanned_layer("blocks.1.norm1")], known["blocks.1.norm1"], rtol=1e-4, atol=1e-4
    )


def flat(network):
    return nnx.to_flat_state(nnx.state(network))


def test_registers_stand_for_nothing_in_the_image():
    """They lie between the class token and the patches, and are the same for every image."""
    network = filled(small("registers"))
    _, acts = jaxplain.capture(network, ["embeddings", "patches"])(photograph(20, 20))
    own = acts["embeddings"][:, 1:4]
    np.testing.assert_array_equal(own[0], network.embeddings.registers[...][0])
    np.testing.assert_array_equal(own[0], own[1])
    patches = acts["patches"].reshape(2, 25, 8) + network.embeddings.positions[...][:, 1:]
    np.testing.assert_allclose(acts["embeddings"][:, 4:], patches, rtol=1e-6, atol=1e-6)


def test_bfloat16():
    network = filled(small("classes"))
    half = wc.with_weights(
        small("classes", dtype=jnp.bfloat16),
        {".".join(map(str, p)): v[...] for p, v in flat(network)},
    )
    x = photograph(16, 16)
    out, reference = half(x), network(x)
    assert out.dtype == jnp.bfloat16
    assert float(jnp.abs(out - reference).max()) < 0.05 * float(jnp.abs(reference).max())


def test_errors():
    with pytest.raises(ValueError, match="multiples of 4, not 18 x 16"):
        small("classes")(photograph(18, 16))
    with pytest.raises(ValueError, match="embedding of this network has 8 numbers, not 5"):
        VisionTransformer(FORMS["dinov2"], 5, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="importance map is one map, not 2"):
        ImportanceMap(FORMS["dinov2"], 2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="variants .'tiny'., not 'huge'"):
        Swin("huge", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="variants .'tiny'., not 'huge'"):
        ConvNeXt("huge", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="multiples of 4, not 30 x 32"):
        shapes(wc.abstract(lambda rngs: Swin(rngs=rngs)), (30, 32))
    with pytest.raises(ValueError, match="scan=True needs a network .*; resnet18 is none"):
        conversion.build(ENTRIES["resnet18"], 1000, scan=True)


# ---------------------------------------------------------------- files


def test_queries_keys_and_values_of_their_own_are_joined():
    entry = ENTRIES["vit_tiny_patch16_224"]
    names = next(s.names for s in entry.sources if s.names.source == "transformers")
    network = wc.abstract(lambda rngs: VisionTransformer(FORMS["classes"], 5, rngs=rngs))
    rng = np.random.default_rng(0)
    tensors = {}
    for ours, theirs in names.resolve(wc.parameter_shapes(network)).items():
        shape = wc.parameter_shapes(network)[ours]
        shape = (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]
        for part in [theirs] if isinstance(theirs, str) else theirs:
            count = 1 if isinstance(theirs, str) else len(theirs)
            own = shape if len(shape) == 3 else (shape[0] // count, *shape[1:])
            tensors[part] = rng.normal(size=own[::-1] if len(shape) == 3 else own).astype("f4")
    weights, report = wc.convert(tensors, network, names)
    place = "vit.encoder.layer.1.attention.attention"
    parts = [tensors[f"{place}.{part}.weight"].T for part in ("query", "key", "value")]
    np.testing.assert_array_equal(
        weights["blocks.1.attention.qkv.kernel"], np.concatenate(parts, axis=1)
    )
    assert any("joined to one" in note for note in report.notes)
    del tensors[f"{place}.key.bias"]
    tensors[f"{place}.query.weight"] = np.ones((3, 3), "f4")
    with pytest.raises(wc.ConversionError) as info:
        wc.convert(tensors, network, names)
    assert f"1 missing ({place}.key.bias)" in str(info.value)
    assert f"{place}.query.weight + {place}.key.weight" in str(info.value)


def test_two_files_of_one_network(tmp_path, monkeypatch):
    """The head is read from the file beside; without it the first one is a DINOv2."""
    name, form = "vit_small_patch14_importance", FORMS["dinov2"]
    entry = ENTRIES[name]

    def build(*outputs, **options):
        return ImportanceMap(form, **options)

    def backbone(*outputs, **options):
        return VisionTransformer(form, form.width, **options)

    dinov2 = "vit_small_patch14_dinov2"
    other = dataclasses.replace(ENTRIES[dinov2], build=backbone, outputs=8)
    changes = {name: dataclasses.replace(entry, build=build), dinov2: other}
    for key, value in changes.items():
        monkeypatch.setitem(ENTRIES, key, value)
    monkeypatch.setitem(PARAMETERS, name, 700_000)
    monkeypatch.setitem(PARAMETERS, dinov2, 2_500)
    network = filled(wc.abstract(lambda rngs: build(rngs=rngs)))
    tensors, head = {}, {}
    flat_weights = {".".join(map(str, p)): np.asarray(v[...]) for p, v in flat(network)}
    for ours, theirs in entry.sources[0].names.resolve(flat_weights).items():
        value = flat_weights[ours]
        if value.ndim == 4:
            value = value.transpose(3, 2, 0, 1)
        elif value.ndim == 2:
            value = value.T
        names = [theirs] if isinstance(theirs, str) else theirs
        for part, array in zip(names, np.split(value, len(names)), strict=True):
            (head if part.startswith("decoder.") else tensors)[part] = np.ascontiguousarray(array)
    file = tmp_path / "mine.safetensors"
    wc.write_safetensors(file, tensors)
    assert conversion.convert_file(file, None).config.name == dinov2
    with pytest.raises(wc.CheckpointError, match="there must be mine_decoder.safetensors"):
        models.from_pretrained(file, network=name)
    wc.write_safetensors(tmp_path / "mine_decoder.safetensors", head)
    for scan in (False, True):
        read = models.from_pretrained(file, scan=scan)
        assert read.config.name == name
        x = photograph(20, 28)
        np.testing.assert_allclose(read(x), network(x), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(jax.nn.sigmoid(read.logits(x)), network(x), rtol=1e-5, atol=1e-6)
    assert read.config.layer("last") == "blocks.norm1:11"
    models.save_pretrained(read, tmp_path / "saved")
    again = models.from_pretrained(tmp_path / "saved")
    np.testing.assert_allclose(again(x), network(x), rtol=1e-5, atol=1e-6)
    assert models.untrained(read).config.layer("last") == "blocks.11.norm1"


# ---------------------------------------------------------------- a trained vision transformer


@pytest.fixture(scope="module")
def importance(test_data):
    return models.from_pretrained(
        test_data / "weights" / "vit_small_patch14_importance.safetensors"
    )


def test_a_trained_vision_transformer(importance, test_data):
    """Tokens, attention and map are those that an ONNX runtime finds, to 1e-4 in float32."""
    assert importance.config.name == "vit_small_patch14_importance"
    expected = np.load(test_data / "weights" / "vit_small_patch14_importance_expected.npz")
    x = np.concatenate([models.preprocess(p, importance.config) for p in expected["pixels"]])
    names = ["embeddings", "norm", "blocks.11.attention", *(f"blocks.{i}" for i in range(12))]
    graph, state = nnx.split(importance)
    run = jax.jit(lambda s, x: jaxplain.capture(nnx.merge(graph, s), names)(x))
    saliency, acts = run(state, x)
    np.testing.assert_allclose(acts["embeddings"][0], expected["embeddings"][0], atol=1e-4)
    np.testing.assert_allclose(acts["norm"], expected["tokens"], atol=1e-4)
    np.testing.assert_allclose(saliency[..., 0], expected["saliency"], atol=1e-4)
    np.testing.assert_allclose(
        acts["blocks.11.attention"][:, :, 0], expected["attention_last_class_row"], atol=1e-4
    )
    for i in range(12):
        np.testing.assert_allclose(
            acts[f"blocks.{i}"][:, 0], expected["class_token_after_block"][:, i], atol=1e-3
        )
