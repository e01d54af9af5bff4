"""What explanations cost, in FLOPs that XLA counts, relative to the network's forward pass."""

import functools

import jax
import jax.numpy as jnp
import pytest

import jaxplain
from benchmarks import flops
from benchmarks.shaped import RESNET50, VGG16, VIT_SMALL

# Multiply-adds of the forward pass (He et al. 2016, table 1; Simonyan and Zisserman 2015; of the
# ViT Touvron et al. 2021, table 5), times two. A counter that misses the convolutions would make
# every ratio below meaningless.
FORWARD = {"VGG-16": 31.0e9, "ResNet-50": 8.2e9, "ViT-S/16": 9.2e9}


@pytest.mark.parametrize("network", [VGG16, RESNET50], ids=lambda network: network.name)
def test_cost_relative_to_the_forward_pass(network):
    # One test a network: the compilations are its time, and two workers would repeat them.
    rows = flops.measure(network)
    assert rows["forward"].flops == pytest.approx(FORWARD[network.name], rel=0.05)
    mwp = rows["MWP, input"].ratio
    assert rows["gradient, input"].ratio <= 2.1
    assert mwp <= 3.2
    assert rows["c-MWP, input"].ratio <= mwp * 1.02
    assert rows[f"Grad-CAM, {network.last}"].ratio <= 1.02
    assert rows[f"MWP, input, {flops.CLASSES} classes"].ratio <= (2 + flops.CLASSES) * 1.05
    # A map at a middle layer needs neither the denominators nor the backward pass below it.
    assert rows[f"MWP, {network.middle}"].ratio < 2.0 < mwp
    assert rows["LRP epsilon"].ratio <= 2.1
    assert rows["LRP gamma"].ratio <= 4.3


def test_the_memory_of_all_classes_is_bounded(fully_compiled):
    x = jax.ShapeDtypeStruct((1, *RESNET50.image), jnp.float32)
    classes = jax.ShapeDtypeStruct((1, 1000), jnp.int32)

    def explain(parameters, x, targets):
        fn = lambda x: RESNET50.apply(parameters, x)  # noqa: E731
        return jaxplain.excitation_backprop(fn, x, targets, layer="input")

    compiled = jax.jit(explain).lower(RESNET50.parameters, x, classes).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2e9


def test_cost_of_a_transformer():
    rows = flops.measure(
        VIT_SMALL,
        ["LRP attn_lrp", "LRP cp_lrp", f"LRP attn_lrp, {flops.CLASSES} classes", "MWP, input"],
    )
    assert rows["forward"].flops == pytest.approx(FORWARD[VIT_SMALL.name], rel=0.05)
    assert rows["LRP attn_lrp"].ratio <= 2.15
    assert rows["LRP cp_lrp"].ratio <= 2.15
    assert rows[f"LRP attn_lrp, {flops.CLASSES} classes"].ratio <= 1.05 * (1 + flops.CLASSES)
    assert rows["MWP, input"].ratio <= 3.3


def _compiled(explain, layers, weight, images):
    """The program of a function of so many weights and images, all of float32."""
    weights = [jax.ShapeDtypeStruct(weight, jnp.float32)] * layers
    return jax.jit(explain).lower(weights, jax.ShapeDtypeStruct(images, jnp.float32)).compile()


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(jaxplain.excitation_backprop, id="MWP"),
        *(
            pytest.param(functools.partial(jaxplain.lrp, composite=name), id=name)
            for name in ("epsilon", "z_plus", "alpha2_beta1", "gamma")
        ),
    ],
)
def test_changed_weights_of_all_layers_are_not_held_at_once(method, fully_compiled):
    """They are made when the signal comes: of eight layers of 4 MB it is those of about one."""
    layers, side = 8, 1024

    def explain(weights, x):
        def network(x):
            for weight in weights:
                # Scales that fold into the weights, as a batch norm's do.
                x = jax.nn.relu((x @ weight) * weight[0] + weight[1])
            return x.mean((1, 2))

        return method(network, x, 0, layer="input")

    program = _compiled(explain, layers, (side, side), (1, 1, 1, side))
    assert program.memory_analysis().temp_size_in_bytes < 4 * 4 * side**2


def test_feedback_makes_two_passes_a_sweep_and_none_after(fully_compiled):
    """XLA counts one turn of the loop: the map after it is a pass that the last sweep has made."""

    def network(weights, x):
        for weight in weights:
            x = jax.nn.relu(
                jax.lax.conv_general_dilated(
                    x, weight, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
                )
            )
        return x.mean((1, 2))

    shapes = 3, (3, 3, 32, 32), (1, 16, 16, 32)
    once = _compiled(network, *shapes).cost_analysis()["flops"]
    swept = _compiled(
        lambda weights, x: jaxplain.feedback(lambda v: network(weights, v), x, 0, steps=5), *shapes
    )
    assert swept.cost_analysis()["flops"] == pytest.approx(2 * once, rel=0.05)
