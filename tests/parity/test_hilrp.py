"""CP-LRP with gamma is HiLRP's ``cp`` mode, on timm's networks with random weights, in float64.

HiLRP ports a family by patches that last as long as the process, so it runs in one of its own; ours
is traced. Rule by rule, the formulas of the two sides:

=================  ====================================================  =========================
operation          HiLRP 0.2                                             ours
=================  ====================================================  =========================
linear layer       zennit's ``Gamma(0.25)``, stabiliser 1e-6, the        `GammaGradient`, the same
                   relevance over the input plus 1e-10                   formula, without the 1e-10
activation         ``g f(x) / (x + 1e-10)``                              ``g f(x) / x``
layer norm         its standard deviation is held                        the same
attention weights  detached                                              constants
the rest           the plain gradient                                    the same
=================  ====================================================  =========================

So the maps are equal but for the 1e-10, which the tolerance covers.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import timm
import torch
from flax import nnx
from torch_compare import converted, image, state

import jaxplain
from jaxplain import rules
from jaxplain.models import swin

if importlib.util.find_spec("hilrp") is None:
    pytest.skip("hilrp 0.2 is not installed", allow_module_level=True)

DEPTHS, HEADS, WIDTH = (2, 2), (3, 6), 24
TARGET = 5
THEIRS = """
import sys
import hilrp, numpy as np, torch
folder = sys.argv[1]
module = torch.load(f"{folder}/module.pt", weights_only=False)
x = torch.from_numpy(np.load(f"{folder}/x.npy"))
found = hilrp.attribute(module, x, 5, arch="swin_tiny_patch4_window7_224", attn_mode="cp")
np.savez(f"{folder}/found.npz", pixels=found["pixel_map"].numpy(), logit=found["logit"],
         **{name: value.numpy() for name, value in found["stage_maps"]})
"""


def test_cp_mode_on_swin(monkeypatch, tmp_path, x64):
    torch.manual_seed(0)
    name = "swin_tiny_patch4_window7_224"
    module = timm.create_model(name, depths=DEPTHS, num_heads=HEADS, embed_dim=WIDTH).eval()
    for parameter in module.parameters():  # biases and scales too, which are 0 and 1 in a new one
        torch.nn.init.normal_(parameter, 1.0 if parameter.ndim < 2 else 0.0, 0.2)
    monkeypatch.setitem(swin.VARIANTS, "tiny", (DEPTHS, HEADS, WIDTH))
    graph, weights = nnx.split(converted(name, state(module), "timm"))
    network = nnx.merge(graph, jax.tree.map(lambda w: jnp.asarray(w, jnp.float64), weights))
    x = image((224, 224)).astype(np.float64)

    torch.save(module.double(), tmp_path / "module.pt")
    np.save(tmp_path / "x.npy", x.transpose(0, 3, 1, 2))
    subprocess.run([sys.executable, "-c", THEIRS, str(tmp_path)], check=True)
    theirs = np.load(tmp_path / "found.npz")

    np.testing.assert_allclose(network(jnp.asarray(x))[0, TARGET], theirs["logit"], rtol=1e-6)
    composite = rules.composite("cp_lrp", gamma=0.25, eps=1e-6)
    found = jaxplain.lrp(network, jnp.asarray(x), TARGET, composite=composite)[0]
    error = np.abs(found - theirs["pixels"]).max() / np.abs(theirs["pixels"]).max()
    print(f"off by {error:.1e}")
    assert error <= 1e-5
