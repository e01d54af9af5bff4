"""A batch that lies on several devices: each explains its own images, and asks no other."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import methods
import nets
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxplain.engine.programs import Programs
from jaxplain.explainers.calling import explainer
from jaxplain.explainers.catalogue import CATALOGUE

DEVICES = 4
GATHERS = r"\b(all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("


CHANNELS = 32
#: Over a device's equal part: what is made of the weights alone, and the masks of RISE, each device
#: makes for itself, which is much beside so small a network. All the work would be `DEVICES`.
MORE = 1.4


def network():
    params = nets.convnet_params(5, channels=CHANNELS)
    return nets.convnet({k: jnp.asarray(v, jnp.float32) for k, v in params.items()})


def share(function, devices, images, targets):
    """FLOPs of one device over those of one that does all, and what they ask of each other."""
    mesh = Mesh(np.array(devices), ("batch",))
    split = NamedSharding(mesh, PartitionSpec("batch"))
    alone = jax.jit(function).lower(images, targets).compile()
    several = jax.jit(function, in_shardings=(split, split)).lower(images, targets).compile()
    ratio = several.cost_analysis()["flops"] / alone.cost_analysis()["flops"]
    return ratio, re.findall(GATHERS, several.as_text())


#: The directions of PFV are those of all images together.
@pytest.mark.parametrize("name", [n for n in methods.OF_ANY_NETWORK if n != "pfv"])
def test_no_device_does_the_work_of_another(name):
    method = CATALOGUE[name]
    given = {"fit": methods.fit("act1", channels=CHANNELS)} if method.needs == "fit" else {}
    if "class_chunk" in methods.parameters(name):
        given["class_chunk"] = 2
    explain = explainer(name, None, "act1" if method.at_layer else None, **given)
    images = jax.ShapeDtypeStruct((DEVICES, *np.shape(nets.images(8))[1:]), jnp.float32)
    targets = jax.ShapeDtypeStruct((DEVICES, 3), jnp.int32)
    ratio, gathers = share(
        lambda x, t: explain(network(), x, t), jax.devices()[:DEVICES], images, targets
    )
    assert not gathers
    assert ratio < MORE / DEVICES


def test_the_engines_program_neither():
    methods = {name: explainer(name, None, "act1") for name in ("mwp", "grad-cam", "ablation-cam")}
    flops = []
    for devices in (jax.devices()[:1], jax.devices()[:DEVICES]):
        programs = Programs(
            network(), methods, lambda pixels: pixels / 255, np.arange(4), None, 4, devices
        )
        lowered, _ = programs._lower((DEVICES, 8, 8), 3)
        compiled = lowered.compile()
        flops.append(compiled.cost_analysis()["flops"])
    assert not re.findall(GATHERS, compiled.as_text())
    assert flops[1] < MORE * flops[0] / DEVICES
