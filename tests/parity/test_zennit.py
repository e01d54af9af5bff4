"""LRP's composites are zennit's, on the same weights, in float64.

zennit's rules are hooks of modules, ours come from tracing the network. Batch norms are merged on
both sides, by zennit's canonizers there; 1.0 is the first version whose merge is exact, since what
it leaves of a batch norm is the identity (in 0.5.1 it divides by ``sqrt(1 + eps)``).
"""

from __future__ import annotations

import importlib.metadata

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torchvision
from flax import nnx
from torch_compare import converted, randomise, state

import jaxplain

try:
    if int(importlib.metadata.version("zennit").partition(".")[0]) < 1:
        pytest.skip("zennit is older than 1.0", allow_module_level=True)
except importlib.metadata.PackageNotFoundError:
    pytest.skip("zennit 1.0, which needs Python 3.12, is not installed", allow_module_level=True)

from zennit import canonizers, composites, rules, types
from zennit.torchvision import ResNetCanonizer

pytestmark = pytest.mark.usefixtures("x64")

LOW, HIGH, TARGET = -3.0, 3.0, 1
#: Ours -> zennit's, and what both are given.
NAMES = {
    "epsilon_plus": "EpsilonPlus",
    "epsilon_plus_flat": "EpsilonPlusFlat",
    "epsilon_alpha2_beta1": "EpsilonAlpha2Beta1",
    "epsilon_alpha2_beta1_flat": "EpsilonAlpha2Beta1Flat",
    "epsilon_gamma_box": "EpsilonGammaBox",
}


def one_rule(rule):
    """zennit's composite of one rule on every linear layer."""
    base = composites.layer_map_base(1e-6)
    return lambda **options: composites.LayerMapComposite(
        [*base, (types.Linear, rule())], **options
    )


def vgg():
    """Convolutions with batch norm, max pools and dense layers: theirs, ours, and the canonizer."""
    nn = torch.nn

    def block(inner, outer):
        return [nn.Conv2d(inner, outer, 3, padding=1), nn.BatchNorm2d(outer), nn.ReLU()]

    module = nn.Sequential(
        *block(3, 8), *block(8, 8), nn.MaxPool2d(2), *block(8, 12), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(12 * 16, 16), nn.ReLU(), nn.Linear(16, 5),
    )  # fmt: skip
    module = randomise(module, 3).double()
    weights = {name: jnp.asarray(w) for name, w in state(module).items()}

    def fn(x):
        for i, layer in enumerate(module):
            own = {k.partition(".")[2]: w for k, w in weights.items() if k.startswith(f"{i}.")}
            if isinstance(layer, nn.Conv2d):
                kernel = own["weight"].transpose(2, 3, 1, 0)
                numbers = ("NHWC", "HWIO", "NHWC")
                x = jax.lax.conv_general_dilated(
                    x, kernel, (1, 1), "SAME", dimension_numbers=numbers
                )
                x = x + own["bias"]
            elif isinstance(layer, nn.BatchNorm2d):
                scale = own["weight"] / jnp.sqrt(own["running_var"] + layer.eps)
                x = (x - own["running_mean"]) * scale + own["bias"]
            elif isinstance(layer, nn.ReLU):
                x = jax.nn.relu(x)
            elif isinstance(layer, nn.MaxPool2d):
                window = (1, 2, 2, 1)
                x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")
            elif isinstance(layer, nn.Flatten):
                x = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
            else:
                x = x @ own["weight"].T + own["bias"]
        return x

    return module, fn, canonizers.SequentialMergeBatchNorm, 16


def resnet():
    """torchvision's ResNet-18 and the registry's."""
    module = randomise(torchvision.models.resnet18(num_classes=1000), 4)
    network = converted("resnet18", state(module), "timm")
    graph, weights = nnx.split(network)
    weights = jax.tree.map(lambda w: jnp.asarray(w, jnp.float64), weights)
    network = nnx.merge(graph, weights)
    return module.double(), network, ResNetCanonizer, 64


@pytest.fixture(scope="module", params=[vgg, resnet], ids=lambda build: build.__name__)
def networks(request):
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    module, fn, canonizer, size = request.param()
    x = np.random.default_rng(0).uniform(LOW, HIGH, (1, size, size, 3))
    yield module, jaxplain.trace(fn, jnp.asarray(x)), canonizer, x
    jax.config.update("jax_enable_x64", before)


def theirs(module, composite, x):
    """zennit's relevance of the pixels, which starts from the score."""
    image = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).requires_grad_()
    with composite.context(module) as modified:
        score = modified(image)[:, TARGET].sum()
        (relevance,) = torch.autograd.grad(score, image, score.detach())
    return relevance.detach().numpy().transpose(0, 2, 3, 1)


def agree(found, expected):
    error = np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()
    print(f"off by {error:.1e}")
    assert error <= 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_composite(networks, name):
    module, model, canonizer, x = networks
    box = {"low": LOW, "high": HIGH} if name == "epsilon_gamma_box" else {}
    composite = getattr(composites, NAMES[name])(canonizers=[canonizer()], **box)
    options = {"box": (LOW, HIGH)} if box else {}
    found = jaxplain.lrp(model, jnp.asarray(x), TARGET, composite=name, channels=True, **options)
    agree(found, theirs(module, composite, x))


@pytest.mark.parametrize(
    "name, rule",
    [("epsilon", "Epsilon"), ("z_plus", "ZPlus"), ("gamma", "Gamma"), ("w_square", "WSquare")],
)
def test_one_rule_everywhere(networks, name, rule):
    module, model, canonizer, x = networks
    composite = one_rule(getattr(rules, rule))(canonizers=[canonizer()])
    found = jaxplain.lrp(model, jnp.asarray(x), TARGET, composite=name, channels=True)
    agree(found, theirs(module, composite, x))
