"""Other packages' numbers, and the formulas', on transformers and modern convolutional networks.

`CALLS` says which cases are checked here, and by which call.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import re

import jax
import jax.numpy as jnp
import nets
import numpy as np
import oracle2_nets
import pytest

import jaxplain
from jaxplain.rules import composite, excitation_rules, pass_rule

FOLDER = os.environ.get("JAXPLAIN_ORACLES2")
if not FOLDER:
    pytest.skip(
        "JAXPLAIN_ORACLES2 does not name the folder of oracle files", allow_module_level=True
    )

_EPSILON = composite("epsilon", eps=1e-13)


@functools.cache
def load(name: str) -> tuple[dict, dict]:
    """A file's arrays and its meta."""
    with np.load(pathlib.Path(FOLDER) / f"{name}.npz") as z:
        arrays = {k: z[k] for k in z.files}
    return arrays, json.loads(str(arrays["meta"]))


NETWORKS = tuple(sorted(path.stem for path in pathlib.Path(FOLDER).glob("*.npz")))


def _gradient(fn, x, signal, **options):
    return jaxplain.gradient(fn, x, signal, reduce=None, **options)


def _input_x_gradient(fn, x, signal, layer):
    if layer == ["input"]:
        return {"input": jaxplain.input_x_gradient(fn, x, signal, reduce=None)}
    maps = _gradient(fn, x, signal, layer=layer)
    acts = jaxplain.capture(fn, [v for v in layer if v != "input"])(x)[1] | {"input": x}

    def as_map(v, m):  # tokens, the last of which are patches
        return v if v.ndim == m.ndim else v[:, v.shape[1] - m[0, ..., 0].size :].reshape(m.shape)

    return {name: as_map(acts[name], m) * m for name, m in maps.items()}


def _excitation(**options):
    return lambda fn, x, signal, layer: jaxplain.excitation_backprop(
        fn, x, signal, layer=layer, channels=True, **options
    )


def _passing(contrastive):
    """Batch norms that fold into nothing are passed: the rule set of one's own that says so."""
    from jaxplain.rules.excitation import ResidualShare

    def call(fn, x, signal, layer):
        rules = excitation_rules(
            residual=ResidualShare(shares="excitation"), contrast=0 if contrastive else 1
        )
        rules = rules.replace({"affine": pass_rule})
        return jaxplain.lrp(fn, x, signal, layer=layer, composite=rules, seed="one", channels=True)

    return call


def _attention(method):
    return lambda fn, x, signal, layer: {"tokens": method(fn, x, signal)}


def _attention_gradient(fn, x, signal, layer):
    """The names of the attention layers are those of their outputs; ours have numbers."""
    found = {}
    for name in layer:
        (number,) = re.findall(r"b(\d+)_attn", name)
        named = f"attention:{int(number) - 1}"
        found[name] = jaxplain.gradient(fn, x, signal, layer=named, reduce=None)
    return found


#: Case family -> the call that it checks: (fn, x, signal, layer=[...]) -> maps with channels.
CALLS = {
    r"torch\.gradient(_sum)?": _gradient,
    r"torch\.input_x_gradient(_sum)?": _input_x_gradient,
    r"captum\.guided_backprop": functools.partial(jaxplain.guided_backprop, reduce=None),
    r"captum\.deconvnet": functools.partial(jaxplain.deconvnet, reduce=None),
    r"formula\.lrp_epsilon(_sum)?": functools.partial(
        jaxplain.lrp, composite=_EPSILON, channels=True
    ),
    **{
        rf"formula\.{name}{suffix}(_sum)?": functools.partial(
            jaxplain.lrp, composite=composite(name, gamma=gamma), channels=True
        )
        for name in ("attn_lrp", "cp_lrp")
        for suffix, gamma in (("", None), ("_gamma", 0.25))
    },
    r"formula\.excitation_backprop(_sum)?": _excitation(residual="excitation"),
    r"formula\.excitation_backprop_magnitude": _excitation(residual="magnitude"),
    r"formula\.contrastive_excitation_backprop(_sum)?": _excitation(
        residual="excitation", contrastive=True
    ),
    r"torch\.attention_gradient": _attention_gradient,
    r"pgc\.grad_cam": functools.partial(jaxplain.grad_cam, relu=False),
    r"pgc\.hires_cam": jaxplain.hires_cam,
    r"pgc\.grad_cam_plus_plus": functools.partial(jaxplain.grad_cam_plus_plus, eps=1e-6),
    r"pgc\.x_grad_cam": jaxplain.x_grad_cam,
    r"pgc\.layer_cam": jaxplain.layer_cam,
    r"pgc\.eigen_cam": functools.partial(jaxplain.eigen_cam, centre=True),
    r"formula\.cam": jaxplain.cam,
    r"formula\.attention_rollout": _attention(jaxplain.attention_rollout),
    r"formula\.transformer_attribution": _attention(jaxplain.transformer_attribution),
    r"formula\.transformer_attribution_relevance": _attention(
        functools.partial(jaxplain.transformer_attribution, relevance=True)
    ),
    r"formula\.legrad": _attention(jaxplain.legrad),
    r"formula\.excitation_backprop_pass(_sum)?": _passing(False),
    r"formula\.contrastive_excitation_backprop_pass(_sum)?": _passing(True),
}


def call_of(name: str, case: dict):
    """The call that a case checks, None where this file has none."""
    family = case["id"].removesuffix("." + case["layer"]) if case["layer"] else case["id"]
    if family.startswith("formula.lrp_epsilon") and not case["decided"]:
        return None  # another reading of gates; `cp_lrp` has ours
    return next((p for p in CALLS if re.fullmatch(p, family)), None)


CASES = [
    (name, case["id"])
    for name in NETWORKS
    for case in load(name)[1]["cases"]
    if call_of(name, case)
]


@functools.cache
def network(name: str):
    """The file's network, its images and its signal."""
    arrays, meta = load(name)
    params = {k[7:]: jnp.asarray(v, float) for k, v in arrays.items() if k.startswith("params/")}
    fn = oracle2_nets.from_ops(meta["ops"], params)
    return fn, jnp.asarray(arrays["x"], float), jnp.asarray(arrays["signal"], float)


@functools.cache
def result(name: str, pattern: str) -> dict:
    """What a call returns at all the layers that its cases ask for."""
    layers = sorted({c["layer"] for c in load(name)[1]["cases"] if call_of(name, c) == pattern})
    return CALLS[pattern](*network(name), layer=layers)


def test_the_networks():
    assert {"convnextish", "mixer", "mobilenetish", "preact"} <= set(NETWORKS)
    assert {"swiglu", "swinish", "vit", "vit_gap"} <= set(NETWORKS)
    assert {call_of(n, c) for n in NETWORKS for c in load(n)[1]["cases"]} - {None} == set(CALLS)


@pytest.mark.parametrize("name", NETWORKS)
def test_network(x64, name):
    """The network is the same: logits and the output of every op."""
    arrays, meta = load(name)
    fn, x, _ = network(name)
    names = [o["name"] for o in meta["ops"] if f"act/{o['name']}" in arrays]
    logits, acts = jaxplain.capture(fn, names)(x)
    assert nets.relative_error(logits, arrays["logits"]) < 1e-6
    for op in names:
        assert nets.relative_error(acts[op], arrays[f"act/{op}"]) < 1e-6, op


@pytest.mark.parametrize("name", NETWORKS)
def test_layers(x64, name):
    """Attention weights, the ends of the blocks, and where the CAM family looks by default."""
    arrays, meta = load(name)
    fn, x, _ = network(name)
    weights = [f"attention:{i}" for i in range(len(meta["attention"]))]
    acts = jaxplain.capture(fn, weights)(x)[1]
    for op, layer in zip(meta["attention"], weights, strict=True):
        assert nets.relative_error(acts[layer], arrays[f"attention/{op}"]) < 1e-6, op
    graph = jaxplain.trace(fn, x).graph
    assert len(graph.blocks.attention) == len(weights)
    assert [graph.name_of(v) for v in graph.blocks.outputs] == meta["blocks"]
    assert graph.last_spatial == meta["cam_default"]


@pytest.mark.parametrize(("name", "case_id"), [pytest.param(*c, id="-".join(c)) for c in CASES])
def test_case(x64, name, case_id):
    arrays, meta = load(name)
    case = next(c for c in meta["cases"] if c["id"] == case_id)
    got = np.asarray(result(name, call_of(name, case))[case["layer"]])
    expected = arrays[f"case/{case_id}/expected"]
    if case["options"].get("reduce") == "sum":
        got = got.sum(-1)
    if case["layout"] == "BND":
        expected = expected[:, case["prefix"] :]  # ours are maps, without the class token
    got = got.reshape(expected.shape)
    if case.get("sign_free"):
        got = got * np.sign((got * expected).sum((1, 2), keepdims=True))
    assert got.dtype == np.float64
    for mine, theirs in zip(got, expected, strict=True):
        error = np.abs(mine - theirs).max() / np.abs(theirs).max()
        assert error <= case["tolerance"], f"{error:.1e} off"


#: The rules of the cases of conservation: what `options.rules` says -> composite, seed.
_CONSERVED = {
    "lrp_epsilon": (_EPSILON, "score"),
    "attn_lrp": ("attn_lrp", "score"),
    "cp_lrp": ("cp_lrp", "score"),
    "excitation": (excitation_rules(), "one"),
}
CONSERVATION = [
    (name, case["id"])
    for name in NETWORKS
    for case in load(name)[1]["cases"]
    if case["method"] == "conservation"
    and case["decided"]
    and "_pass" not in case["id"]
    and (isinstance(case["options"]["rules"], str) or case["options"]["rules"].get("residual"))
]


@pytest.mark.parametrize(
    ("name", "case_id"), [pytest.param(*c, id="-".join(c)) for c in CONSERVATION]
)
def test_conservation(x64, name, case_id):
    arrays, meta = load(name)
    case = next(c for c in meta["cases"] if c["id"] == case_id)
    rules, layers = case["options"]["rules"], case["options"]["layers"]
    composite, seed = _CONSERVED[rules if isinstance(rules, str) else rules["residual"]]
    table = jaxplain.conservation(*network(name), layer=layers, composite=composite, seed=seed)
    assert [row.layer for row in table] == layers
    got = np.stack([table.shares[layer] for layer in layers], 1)
    expected = arrays[f"case/{case_id}/expected"]
    assert np.abs(got - expected).max() <= case["tolerance"] * np.abs(expected).max()


@pytest.mark.parametrize("name", ["vit", "swinish"])
def test_excitation_backprop_loses_what_it_records(x64, name):
    """What arrives at the image, and what each operation on the way lost, add up to the signal."""
    lost = []

    class Recorded:
        def __init__(self, rule):
            self.rule = rule
            self.accepts = getattr(rule, "accepts", lambda op: True)

        def __call__(self, op, g):
            signals = self.rule(op, g)
            arrived = sum(float(s.sum()) for s in signals if s is not None)
            lost.append(float(g.sum()) - arrived)
            return signals

    rules = excitation_rules()
    table = {"structural": lambda op, g: op.vjp(g), **rules.rules}
    recorded = rules.replace({key: Recorded(rule) for key, rule in table.items()})
    fn, x, signal = network(name)
    image = jax.vjp(jaxplain.with_rules(fn, recorded), x)[1](signal)[0]
    assert min(lost) > -1e-9 and float(image.min()) >= 0  # an operation only loses
    assert sum(lost) > 0.1 and abs(float(image.sum()) + sum(lost) - signal.sum()) < 1e-9


def test_contrastive_excitation_backprop_changes_sign_with_the_classifier(x64):
    arrays, meta = load("vit")
    x, signal = network("vit")[1:]
    head = meta["ops"][-1]["name"]
    params = {k[7:]: jnp.asarray(v, float) for k, v in arrays.items() if k.startswith("params/")}
    turned = {**params, **{k: -v for k, v in params.items() if k.startswith(f"{head}/")}}
    maps = [
        jaxplain.excitation_backprop(
            oracle2_nets.from_ops(meta["ops"], p), x, signal, layer="input", contrastive=True,
            channels=True,
        )
        for p in (params, turned)
    ]  # fmt: skip
    assert float(jnp.abs(maps[0]).max()) > 1e-4
    np.testing.assert_allclose(maps[0], -maps[1], rtol=1e-9, atol=1e-15)


#: Method of the file -> how ours is called.
UNSUITABLE = {
    "cam": jaxplain.cam,
    "attention_rollout": jaxplain.attention_rollout,
    "transformer_attribution": jaxplain.transformer_attribution,
    "legrad": jaxplain.legrad,
}
UNDEFINED = {
    "lrp_epsilon": functools.partial(jaxplain.lrp, composite="epsilon"),
    "guided_backprop": jaxplain.guided_backprop,
    "deconvnet": jaxplain.deconvnet,
    "guided_grad_cam": jaxplain.guided_grad_cam,
    "feedback": jaxplain.feedback,
}


@pytest.mark.parametrize(
    ("name", "method"),
    [
        (name, entry["method"])
        for name in NETWORKS
        for entry in load(name)[1]["undefined"]
        if entry["decided"] and entry["method"] in UNDEFINED
    ],
)
def test_undefined(x64, name, method):
    fn, x, _ = network(name)
    convolution = load(name)[1]["ops"][0]["name"]
    layer = {"layer": convolution} if method == "guided_grad_cam" else {}
    with pytest.raises(jaxplain.UnsupportedOperationError, match="ReLU|relu|softmax|matmul"):
        UNDEFINED[method](fn, x, 0, **layer)


@pytest.mark.parametrize(
    ("name", "method"),
    [
        (name, entry["method"])
        for name in NETWORKS
        for entry in load(name)[1]["undefined"]
        if entry["decided"] and entry["method"] in UNSUITABLE
    ],
)
def test_unsuitable(x64, name, method):
    fn, x, _ = network(name)
    words = "ends in a global average pool" if method == "cam" else "needs attention layers"
    with pytest.raises(jaxplain.core.UnsuitableNetworkError, match=words):
        UNSUITABLE[method](fn, x, 0)
