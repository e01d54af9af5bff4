"""Every explainer runs on the zoo's networks; Excitation Backprop accounts for all its signal."""

from __future__ import annotations

import os

import jax
import jax.numpy as jnp
import methods
import numpy as np
import pytest
from flax import nnx
from small_network import filled

import jaxplain
from jaxplain import core
from jaxplain import weights_convert as wc
from jaxplain.core import UnsuitableNetworkError, UnsupportedOperationError
from jaxplain.core.assignment import assign
from jaxplain.core.model import Model
from jaxplain.core.rules import BoundOp, DiagonalOp
from jaxplain.explainers.calling import explainer
from jaxplain.explainers.catalogue import CATALOGUE
from jaxplain.models.entries import ENTRIES
from jaxplain.models.layers import WindowDense
from jaxplain.rules import excitation_rules

# One network of each family, on which all methods are tried.
FAMILIES = (
    "vgg16",
    "bvlc_alexnet",
    "bvlc_googlenet",
    "squeezenet1_1",
    "resnet18",
    "resnet18_npid",
    "cifar_resnet20",
    "conv4net",
    "efficientnet_lite0",
    "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "convnext_tiny",
)
_WITHOUT_RELU = ("vit_", "deit_", "swin_", "convnext_")
# Their residual stream is their output: there is no classifier that could be contrasted.
_EMBEDDINGS = ("_dinov2", "_siglip_224")
# (method, network) -> what is rightly said of it.
REFUSED = {
    **{
        (method, name): "cam needs a network that ends in a global average pool and one dense layer"
        for method in ("cam", "c-cam")
        for name in ENTRIES
        if name.startswith(("vgg", "squeezenet", "conv"))
        or name.endswith(("_npid", "_ms"))
        or name in ("alexnet", "bvlc_alexnet", "caffenet", "cnn_s")
        or name.startswith(_WITHOUT_RELU)
    },
    **{
        (method, name): "this network has none"
        for method in ("c-mwp", "c-gradient")
        for name in ENTRIES
        if name.endswith(_EMBEDDINGS)
    },
    # No layer is a cut of the residual stream.
    **{
        ("naflow", name): "is no cut of the network"
        for name in ENTRIES
        if name.startswith(_WITHOUT_RELU[:3])
    },
    **{
        ("full-grad", name): "it is not known where in the image the values"
        for name in ENTRIES
        if name.startswith(_WITHOUT_RELU[:3])
    },
    **{
        (method, name): "attention within windows"
        for method in ("attention-rollout", "transformer-attribution", "legrad")
        for name in ENTRIES
        if name.startswith("swin_")
    },
    # Their activations are leaky ReLUs, GELUs and the like.
    **{
        (method, name): "the network has no ReLU or ReLU6"
        for method in ("feedback", "guided-backprop", "deconvnet", "guided-grad-cam", "c-deconvnet")
        for name in ENTRIES
        if name in ("conv4net", "conv64f")
        or (name.startswith(_WITHOUT_RELU) and not name.endswith("_importance"))
    },
}
# Networks that are made of the same operations as another, only deeper or padded differently.
TWINS = {
    "vgg16_bn": "vgg16 and resnet18",
    "vgg16_caffe": "vgg16",
    "resnet50_caffe": "resnet50",
    "resnet50_keras": "resnet50",
    "vgg19": "vgg16",
    "vgg19_bn": "vgg16 and resnet18",
    "vgg19_caffe": "vgg16",
    "caffenet": "bvlc_alexnet",
    "squeezenet1_0_caffe": "squeezenet1_0",
    "resnet34": "resnet18",
    "resnet101": "resnet50",
    "resnet152": "resnet50",
    "resnet50_npid": "resnet18_npid",
    "resnet50_ms": "resnet18_npid",
    "cifar_resnet32": "cifar_resnet20",
    "cifar_resnet44": "cifar_resnet20",
    "cifar_resnet56": "cifar_resnet20",
    "efficientnet_lite1": "efficientnet_lite0",
    "efficientnet_lite2": "efficientnet_lite0",
    "vit_small_patch16_224": "vit_tiny_patch16_224",
    "vit_base_patch16_224": "vit_tiny_patch16_224",
    "deit_small_distilled_patch16_224": "deit_tiny_distilled_patch16_224",
    "deit_base_distilled_patch16_224": "deit_tiny_distilled_patch16_224",
    "vit_base_patch14_dinov2": "vit_small_patch14_dinov2",
    "vit_base_patch14_reg4_dinov2": "vit_small_patch14_reg4_dinov2",
}
# What must have a rule; the rest (reshapes, pads, max pools ...) rightly takes the plain gradient.
RULED = ("linear", "scale", "bias", "activation", "add", "gate", "normalise")


def abstract(name):
    entry = ENTRIES[name]
    return wc.abstract(lambda rngs: entry.build(entry.outputs, rngs=rngs))


def _marks(name):
    wanted = os.environ.get("JAXPLAIN_ALL_NETWORKS")
    reason = f"as {TWINS.get(name)}; JAXPLAIN_ALL_NETWORKS=1 runs it (minutes)"
    return pytest.mark.skipif(name in TWINS and not wanted, reason=reason)


@pytest.mark.parametrize("name", [pytest.param(n, marks=_marks(n)) for n in ENTRIES])
def test_excitation_backprop_covers(name):
    """No operation on the active path is without a rule, and the maps are of the default layer."""
    config = ENTRIES[name].config
    layer, table = config.layer("excitation"), []
    graph, state = nnx.split(abstract(name))
    image = jax.ShapeDtypeStruct((1, config.input_size, config.input_size, 3), jnp.float32)

    def run(s, x):  # traced with weights of shapes only
        network = nnx.merge(graph, s)
        table.extend(jaxplain.coverage(network, x, excitation_rules()))
        target = min(1, ENTRIES[name].outputs - 1)
        maps = jaxplain.excitation_backprop(
            network, x, target, layer=layer, contrastive=not name.endswith(_EMBEDDINGS)
        )
        return maps, jaxplain.capture(network, [layer])(x)[1][layer]

    maps, activation = jax.eval_shape(run, state, image)
    if activation.ndim == 4:
        assert maps.shape == activation.shape[:3] and maps.shape[1] > 1
    else:  # tokens, with others before those of the patches
        assert maps.shape[0] == 1 and maps.shape[1] == maps.shape[2] > 1
        assert activation.shape[1] - 5 <= maps.shape[1] ** 2 <= activation.shape[1]
    unhandled = [row for row in table if row.kind in RULED and row.rule == "plain gradient"]
    assert not unhandled and not [row for row in table if row.kind == "opaque"]
    assert len(table) > 20


def _beside_families(name):
    wanted = name in FAMILIES or os.environ.get("JAXPLAIN_ALL_NETWORKS")
    reason = "its family is tried, or it takes long; JAXPLAIN_ALL_NETWORKS=1 runs it"
    return pytest.param(name, marks=pytest.mark.skipif(not wanted, reason=reason))


@pytest.mark.parametrize("name", list(map(_beside_families, ENTRIES)))
def test_every_method(name):
    """Through the registry's default layers, as the command line calls them."""
    config = ENTRIES[name].config
    graph, state = nnx.split(abstract(name))
    image = jax.ShapeDtypeStruct((1, config.input_size, config.input_size, 3), jnp.float32)

    def run(s, x):
        network = nnx.merge(graph, s)
        model = jaxplain.trace(network, x)  # once for all methods
        last = config.layer("last")
        scores, acts = jaxplain.capture(model, [last])(x)
        fitted = {"fit": methods.fit(last, acts[last].shape[-1], scores.shape[-1])}
        done = {}
        for key, method in CATALOGUE.items():
            more = fitted if method.needs == "fit" else {}
            call = explainer(key, config, **more)
            if method.attention and not model.graph.blocks.attention:
                with pytest.raises(UnsuitableNetworkError, match="the network has no attention"):
                    call(model, x, 1)
            elif (key, name) in REFUSED:
                words = REFUSED[key, name]
                with pytest.raises((ValueError, UnsupportedOperationError), match=words):
                    call(model, x, 1)
            else:
                done[key] = call(model, x, 1)
        return done

    for key, maps in jax.eval_shape(run, state, image).items():
        title = CATALOGUE[key].title
        if CATALOGUE[key].rows:  # a record, or maps of several layers
            assert sum(len(leaf.shape) >= 3 for leaf in jax.tree.leaves(maps)) > 1, title
            continue
        assert len(maps.shape) in (3, 4) and maps.shape[0] == 1, title
        assert min(maps.shape[1:3]) > 1, title


# ---- conservation -------------------------------------------------------------------------------


def account(model, x, rules):
    """The signal at the image, and what ends at units without excitatory input, by operation.

    The seed is one, at the top class.
    """
    graph = model.graph
    ops = [op for op in graph.ops if op.kind in ("linear", "add")]
    chains = {op: graph.chains[op] for op in ops if op.kind == "linear"}
    affine = rules.rules["affine"]  # of scales and biases that fold into no layer
    runs = {op: run for op, run in graph.runs().items() if assign(graph, rules).get(op) == affine}
    variables = [v for op in (*ops, *runs) for v in (*op.inputs, *op.constants)]
    variables += [v for chain in chains.values() for v in chain.variables]
    variables += [v for op, run in runs.items() for v in (*run.variables, op.output)]
    variables = list(dict.fromkeys(variables))
    values = dict(zip(variables, model.evaluate([x], outputs=variables), strict=True))
    points = {op: op.output for op in (*ops, *runs)} | {"input": graph.inputs[0]}
    scores, _, pull = model.pull_values(x, points, rules)
    signals = pull(jax.nn.one_hot(scores.argmax(-1), scores.shape[-1]))
    lost = []
    for op in ops:
        inputs, constants = (tuple(values[v] for v in vs) for vs in (op.inputs, op.constants))
        if op.kind == "add":
            sign = -1 if op.name == "sub" else 1
            z = sum(jnp.maximum(v, 0) for v in (inputs[0], *(sign * v for v in inputs[1:])))
        else:
            extras = tuple(values[v] for v in chains[op].variables)
            bound = BoundOp(op, inputs, constants, signals[op], chains[op], extras)
            (a,), w = inputs, bound.weight
            z = bound.map(jnp.maximum(a, 0), jnp.maximum(w, 0))
            z = z + bound.map(jnp.minimum(a, 0), jnp.minimum(w, 0))
        lost.append(jnp.where(z == 0, signals[op], 0).sum())
    for op, run in runs.items():
        extras = tuple(values[v] for v in run.variables)
        bound = DiagonalOp(op, tuple(values[v] for v in op.inputs), values[op.output], run, extras)
        if run.varies and run.shifts and not run.after_norm:  # else the signal passes
            z = bound.map(bound.a, bound.weight)
            own = (z > 0) | ((z < 0) & (values[op.output] < 0))
            lost.append(jnp.where(own, 0, signals[op]).sum())
    return signals["input"].sum(), jnp.stack(lost)


_ACCOUNTED = [name for name in ENTRIES if not name.startswith(_WITHOUT_RELU)]


def _account_marks(name):
    wanted = name != "resnet50_cbam" or os.environ.get("JAXPLAIN_ALL_NETWORKS")
    reason = "takes most of a minute, as said below; JAXPLAIN_ALL_NETWORKS=1 runs it"
    return [_marks(name), pytest.mark.skipif(not wanted, reason=reason)]


@pytest.mark.parametrize("name", [pytest.param(n, marks=_account_marks(n)) for n in _ACCOUNTED])
def test_conserves(name):
    """What does not arrive at the image is what units alive by their bias alone absorb.

    What attention and signed streams absorb is shown on smaller networks, by the oracles.
    """
    network, config = filled(abstract(name)), ENTRIES[name].config
    # A dense layer with a window takes images of one size only.
    windowed = any(isinstance(m, WindowDense) for _, m in nnx.iter_modules(network))
    size = config.input_size if windowed else min(config.input_size, 64)
    x = np.random.default_rng(1).normal(size=(1, size, size, 3)).astype(np.float32)
    model, rules = core.trace(network, x), excitation_rules()
    if name == "resnet50_cbam":
        # Compiled quickly, its maximum is computed twice, and not alike, and has no gradient but
        # NaN; compiled well it takes minutes. One operation after the other it is computed once.
        with jax.disable_jit():
            arrived, lost = account(model, x, rules)
    else:
        run = jax.jit(lambda constants, x: account(Model(model.graph, constants), x, rules))
        arrived, lost = run(model.constants, x)
    assert float(arrived + lost.sum()) == pytest.approx(1, abs=1e-4)
    assert arrived >= 0 and (lost >= 0).all()
    if name not in ("conv4net", "conv64f"):  # whose inputs are signed, so that all have children
        assert lost.sum() > 1e-6
