"""AttnLRP of a trained vision transformer is lxt's, on the same weights, in float64.

Neither side changes the other's network: lxt's rules are put into transformers' Dinov2Model, and
ours come from tracing the network of the registry.
"""

from __future__ import annotations

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from lxt.efficient.patches import layer_norm_forward, wrap_attention_forward
from lxt.efficient.rules import identity_rule_implicit
from transformers import Dinov2Config, Dinov2Model
from transformers.models.dinov2 import modeling_dinov2

import jaxplain
from jaxplain import models
from jaxplain import weights_convert as wc

PLACES = ((70, 110), (150, 40))


class Decoder(torch.nn.Module):
    """The head, in torch's layers, under the names of its file."""

    def __init__(self):
        super().__init__()
        widths = (384, 256, 128, 64)
        for i in range(1, 4):
            upconv = torch.nn.ConvTranspose2d(widths[i - 1], widths[i], 4, 2, 1)
            setattr(self, f"upconv{i}", upconv)
            setattr(self, f"bn{i}", torch.nn.BatchNorm2d(widths[i]))
        self.final_conv = torch.nn.Conv2d(64, 1, 1)

    def forward(self, tokens):
        x = tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, 16, 16)
        for i in range(1, 4):
            x = torch.relu(getattr(self, f"bn{i}")(getattr(self, f"upconv{i}")(x)))
        return torch.nn.functional.interpolate(self.final_conv(x), (224, 224), mode="bilinear")


class Identity(torch.nn.Module):
    """An activation with lxt's rule."""

    def __init__(self, activation):
        super().__init__()
        self.activation = activation

    def forward(self, x):
        return identity_rule_implicit(self.activation, x)


def loaded(module, tensors, prefix=""):
    weights = {
        name.removeprefix(prefix): torch.from_numpy(np.array(value, np.float64))
        for name, value in tensors.items()
    }
    found = module.double().load_state_dict(weights, strict=False)
    assert not found.unexpected_keys
    assert all("mask_token" in name or "num_batches" in name for name in found.missing_keys)
    return module.eval()


def renamed(tensors):
    """The file's names as the modules of transformers 5 have them."""
    parts = {"attention.query": "q_proj", "attention.key": "k_proj", "attention.value": "v_proj"}
    for ours, theirs in {**parts, "output.dense": "o_proj"}.items():
        tensors = {
            name.replace(f".attention.{ours}.", f".attention.{theirs}."): value
            for name, value in tensors.items()
        }
    return tensors


@pytest.fixture
def theirs(test_data, monkeypatch):
    """Images to logits at ``PLACES``, with lxt's rules in the backward pass."""
    softmax = torch.nn.functional.softmax  # which transformers calls in float32
    monkeypatch.setattr(
        torch.nn.functional, "softmax", lambda x, dim=-1, dtype=None: softmax(x, dim)
    )
    eager = wrap_attention_forward(modeling_dinov2.eager_attention_forward)
    monkeypatch.setattr(modeling_dinov2, "eager_attention_forward", eager)
    config = Dinov2Config(
        hidden_size=384,
        num_attention_heads=6,
        image_size=518,
        patch_size=14,
        attn_implementation="eager",
    )
    folder = test_data / "weights"
    file = folder / "vit_small_patch14_importance.safetensors"
    module = Dinov2Model(config)
    tensors = wc.read(file)
    if not any(name in module.state_dict() for name in tensors if ".query." in name):
        tensors = renamed(tensors)
    module = loaded(module, tensors)
    decoder = wc.read(folder / "vit_small_patch14_importance_decoder.safetensors")
    head = loaded(Decoder(), decoder, "decoder.")
    for part in module.modules():
        if isinstance(part, torch.nn.LayerNorm):
            part.forward = types.MethodType(layer_norm_forward, part)
        if isinstance(part, modeling_dinov2.Dinov2MLP):
            name = "activation_fn" if hasattr(part, "activation_fn") else "activation"
            setattr(part, name, Identity(getattr(part, name)))
    # Which transformers too brings to another grid in float32.
    positions = module.embeddings.position_embeddings.detach()
    square = positions[:, 1:].reshape(1, 37, 37, -1).permute(0, 3, 1, 2)
    here = torch.nn.functional.interpolate(square, (16, 16), mode="bicubic")
    exact = torch.cat([positions[:, :1], here.flatten(2).transpose(1, 2)], 1)
    module.embeddings.interpolate_pos_encoding = lambda *_: exact
    rows, columns = zip(*PLACES, strict=True)
    return lambda x: head(module(pixel_values=x).last_hidden_state)[:, 0, rows, columns]


def test_attn_lrp_of_a_trained_vision_transformer(theirs, test_data, x64, fully_compiled):
    # XLA's convolutions in float64 are loops of its own, which want its optimisations.
    expected_file = test_data / "weights" / "vit_small_patch14_importance_expected.npz"
    network = models.from_pretrained(
        test_data / "weights" / "vit_small_patch14_importance.safetensors"
    )
    pixels = np.load(expected_file)["pixels"][0]
    x = np.asarray(models.preprocess(pixels, network.config), np.float64)
    image = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).requires_grad_()
    scores = theirs(image)

    def fn(x):
        logits = network.logits(x)
        return jnp.stack([logits[:, i, j, 0] for i, j in PLACES], -1)

    got = np.asarray(jaxplain.lrp(fn, jnp.asarray(x), np.array([[0, 1]]), composite="attn_lrp"))[0]
    np.testing.assert_allclose(jax.jit(fn)(x)[0], scores[0].detach().numpy(), rtol=1e-9)
    for k in range(len(PLACES)):
        (gradient,) = torch.autograd.grad(scores[0, k], image, retain_graph=True)
        expected = (gradient * image).sum(1)[0].detach().numpy()
        error = np.abs(got[k] - expected).max() / np.abs(expected).max()
        print(f"{PLACES[k]}: {error:.1e}")
        assert error <= 1e-5
