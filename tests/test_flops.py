"""What explanations cost, in FLOPs that XLA counts, relative to the network's forward pass."""

import pytest
from benchmarks import flops
from benchmarks.shaped import RESNET50, VGG16

# Multiply-adds of the forward pass (He et al. 2016, table 1; Simonyan and Zisserman 2015), times
# two. A counter that misses the convolutions would make every ratio below meaningless.
FORWARD = {"VGG-16": 31.0e9, "ResNet-50": 8.2e9}


@pytest.fixture(scope="module", params=[VGG16, RESNET50], ids=lambda network: network.name)
def rows(request):
    network = request.param
    table = flops.measure(network)
    assert table["forward"].flops == pytest.approx(FORWARD[network.name], rel=0.1)
    short = {"middle": f"MWP, {network.middle}", "last": f"Grad-CAM, {network.last}"}
    return {**table, **{name: table[key] for name, key in short.items()}}


def test_cost_relative_to_the_forward_pass(rows):
    many = flops.CLASSES
    assert rows["gradient, input"].ratio <= 2.1
    assert rows["MWP, input"].ratio <= 3.2
    assert rows["c-MWP, input"].ratio <= rows["MWP, input"].ratio * 1.02
    assert rows["last"].ratio <= 1.02
    assert rows[f"MWP, input, {many} classes"].ratio <= (2 + many) * 1.05


def test_nothing_below_the_layer_is_computed(rows):
    # A map at a middle layer needs neither the denominators nor the backward pass below it.
    assert rows["middle"].ratio < 2.0 < rows["MWP, input"].ratio
