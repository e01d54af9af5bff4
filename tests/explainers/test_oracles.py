"""The numbers of other packages, and of the papers' formulas written out, on small networks.

Every case of the oracle files is in exactly one of three places: `CALLS` says which call of ours it
checks, `ELSEWHERE` which other test does, `UNREACHABLE` that no option of ours gives that package's
form. Cases that differ in their layer alone share one call.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import nets
import numpy as np
import pytest

import jaxplain
from jaxplain.rules.composites import composite, lrp_rules
from jaxplain.rules.lrp import AlphaBeta, Epsilon, Gamma, Norm, ZBox, ZPlus

NETWORKS = ("vggish", "resnetish", "googlenetish", "conv4")
#: The oracle files are not part of the repository.
FOLDER = os.environ.get("JAXPLAIN_ORACLES")

if not FOLDER:
    pytest.skip(
        "JAXPLAIN_ORACLES does not name the folder of oracle files", allow_module_level=True
    )


@functools.cache
def load(name: str) -> tuple[dict, dict]:
    """A file's arrays and its meta."""
    with np.load(pathlib.Path(FOLDER) / f"{name}.npz") as z:
        arrays = {k: z[k] for k in z.files}
    return arrays, json.loads(str(arrays["meta"]))


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of an explainer.

    Attributes:
        cases: regular expression that the case's id, without a final ".<layer>", matches.
        method: name of the explainer.
        options: its keyword arguments, or a function (meta -> keyword arguments).
        layered: whether the explainer takes `layer`.
        post: what is done to the result before it is compared: (result, case) -> array.
    """

    cases: str
    method: str
    options: dict[str, Any] | Callable[[dict], dict[str, Any]] = dataclasses.field(
        default_factory=dict
    )
    layered: bool = True
    post: Callable[[Any, dict], np.ndarray] = lambda v, case: np.asarray(v)


def _same_in_all_channels(maps, case):
    return np.repeat(np.asarray(maps)[..., None], 3, axis=-1)


def _term_sums(terms, case):
    """The sum of each term, in the order of the case; the case leaves none out but zeros."""
    sums = {k: np.asarray(v).sum(tuple(range(1, v.ndim))) for k, v in terms.items()}
    assert set(sums) == set(case["options"]["terms"])
    return np.stack([sums[name] for name in case["options"]["terms"]], axis=1)


def _lrp(rules, seed="score"):
    """Options of `lrp`; `rules` is a rule set, or a function (box -> rule set)."""

    def options(meta):
        box = (meta["box"]["low"], meta["box"]["high"])
        return {
            "composite": rules(box) if callable(rules) else rules,
            "seed": seed,
            "channels": True,
        }

    return options


def _captum(rule):
    """captum's LRP: its max pools have LRP-epsilon, its stabiliser is 1e-9."""
    return _lrp(lrp_rules(rule, max_pool=Norm(eps=1e-9), eps=1e-9))


# torchray: a w+ whatever the sign of a; batch-norm scales ignored; signed shares a_i / sum(a).
_TORCHRAY = {"form": "plain", "fold_scales": False, "residual": "signed"}
_BRANCH = {"channels": True, "residual": "branch"}
# The formulas written out share by magnitude.
_FORMULA = {"channels": True, "residual": "magnitude"}
_EACH = {"reduce": None}

CALLS = (
    Call(r"torch\.grad(_unit)?", "gradient", _EACH),
    Call(r"captum\.saliency", "gradient", _EACH, post=lambda v, case: np.abs(v)),
    Call(r"captum\.input_x_gradient", "input_x_gradient", _EACH, layered=False),
    Call(
        r"captum\.integrated_gradients",
        "integrated_gradients",
        {"steps": 32, **_EACH},
        layered=False,
    ),
    Call(r"(captum|zennit\.composite)\.guided_backprop", "guided_backprop", _EACH),
    Call(r"captum\.deconvolution|zennit\.composite\.deconvnet", "deconvnet", _EACH),
    Call(r"torchray\.gradient", "gradient", {"reduce": "max_abs"}),
    Call(r"torchray\.guided_backprop", "guided_backprop", {"reduce": "max_abs"}),
    Call(r"torchray\.deconvnet", "deconvnet", {"reduce": "max_abs"}),
    # CAM family
    Call(r"formula\.cam", "cam"),
    Call(r"captum\.layer_grad_cam|pgc\.grad_cam", "grad_cam", {"relu": False}),
    Call(r"captum\.layer_grad_cam_relu|torchray\.grad_cam", "grad_cam", {"relu": True}),
    Call(r"captum\.guided_grad_cam", "guided_grad_cam", {"resize": "nearest", **_EACH}),
    Call(r"pgc\.grad_cam_plus_plus", "grad_cam_plus_plus", {"eps": 1e-6}),
    Call(r"pgc\.x_grad_cam", "x_grad_cam"),
    Call(r"pgc\.layer_cam", "layer_cam"),
    Call(r"pgc\.hires_cam|torchray\.linear_approx", "hires_cam"),
    Call(r"pgc\.eigen_cam", "eigen_cam", {"centre": True}),
    Call(r"(pgc|formula)\.ablation_cam", "ablation_cam", {"relu": False}),
    Call(r"pgc\.score_cam", "score_cam", {"relu": False, "align_corners": True}),
    # Full gradients and perturbation
    Call(r"pgc\.full_grad", "full_grad", {"implicit": False, "eps": 1e-7}, layered=False),
    Call(
        r"formula\.full_gradient_terms",
        "full_grad_terms",
        {"implicit": False},
        layered=False,
        post=_term_sums,
    ),
    Call(
        r"captum\.occlusion",
        "occlusion",
        {"window": 5, "stride": 3},
        layered=False,
        post=_same_in_all_channels,
    ),
    # Excitation Backprop
    Call(r"formula\.excitation_backprop", "excitation_backprop", _FORMULA),
    Call(r"formula\.excitation_backprop_branch", "excitation_backprop", _BRANCH),
    Call(
        r"formula\.contrastive_excitation_backprop",
        "excitation_backprop",
        {**_FORMULA, "contrastive": True},
    ),
    Call(r"torchray\.excitation_backprop", "excitation_backprop", _TORCHRAY),
    Call(
        r"torchray\.excitation_backprop_raw", "excitation_backprop", {**_TORCHRAY, "channels": True}
    ),
    Call(
        r"torchray\.contrastive_excitation_backprop",
        "excitation_backprop",
        {**_TORCHRAY, "contrastive": True},
    ),
    Call(
        r"torchray\.contrastive_excitation_backprop_raw",
        "excitation_backprop",
        {**_TORCHRAY, "contrastive": True, "channels": True},
    ),
    Call(
        r"zennit\.composite\.excitation_backprop",
        "lrp",
        _lrp(composite("excitation_backprop"), "one"),
    ),
    Call(
        r"zennit\.composite\.excitation_backprop_nobias",
        "lrp",
        _lrp(composite("excitation_backprop", bias=False, eps=1e-12), "one"),
    ),
    Call(
        r"zennit\.composite\.excitation_backprop_nobias_leaky_pass",
        "lrp",
        _lrp(lrp_rules(ZPlus(bias=False, eps=1e-12), eps=1e-12), "one"),
    ),
    # LRP
    Call(r"zennit\.rule\.epsilon", "lrp", _lrp(composite("epsilon"))),
    Call(r"zennit\.rule\.epsilon_0\.25", "lrp", _lrp(lrp_rules(Epsilon(eps=0.25)))),
    Call(r"zennit\.rule\.zplus", "lrp", _lrp(composite("z_plus"))),
    Call(r"zennit\.rule\.zplus_nobias", "lrp", _lrp(composite("z_plus", bias=False))),
    Call(r"zennit\.rule\.gamma_0\.25", "lrp", _lrp(composite("gamma"))),
    Call(r"zennit\.rule\.alpha2_beta1", "lrp", _lrp(composite("alpha2_beta1"))),
    Call(r"zennit\.rule\.wsquare", "lrp", _lrp(composite("w_square"))),
    Call(r"zennit\.rule\.flat", "lrp", _lrp(composite("flat"))),
    Call(
        r"zennit\.rule\.zbox_first",
        "lrp",
        _lrp(lambda box: lrp_rules(ZPlus(), first=ZBox(low=box[0], high=box[1]))),
    ),
    Call(r"zennit\.composite\.epsilon_plus", "lrp", _lrp(composite("epsilon_plus"))),
    Call(r"zennit\.composite\.epsilon_plus_flat", "lrp", _lrp(composite("epsilon_plus_flat"))),
    Call(
        r"zennit\.composite\.epsilon_alpha2_beta1", "lrp", _lrp(composite("epsilon_alpha2_beta1"))
    ),
    Call(
        r"zennit\.composite\.epsilon_gamma_box",
        "lrp",
        _lrp(lambda box: composite("epsilon_gamma_box", box=box)),
    ),
    Call(r"captum\.lrp_epsilon", "lrp", _captum(Epsilon(eps=1e-9))),
    Call(r"captum\.lrp_epsilon_0\.25", "lrp", _captum(Epsilon(eps=0.25))),
    Call(
        r"captum\.lrp_alpha1_beta0",
        "lrp",
        _captum(AlphaBeta(alpha=1, beta=0, eps=1e-9, form="plain")),
    ),
    Call(
        r"captum\.lrp_alpha1_beta0_nobias",
        "lrp",
        _captum(AlphaBeta(alpha=1, beta=0, bias=False, eps=1e-9, form="plain")),
    ),
    Call(r"captum\.lrp_gamma_0\.25", "lrp", _captum(Gamma(gamma=0.25, eps=1e-9, form="plain"))),
)

#: PFV's results are several and depend on the whole batch: tests/test_pfv.py.
ELSEWHERE = (r"pfv\.(flat|hierarchical)\.(components|weight_map|v|rgb)",)

#: Cases that no option reaches: (file, id) -> (the package's formula, ours, why). None is left:
#: torchray's and captum's own forms are options of `excitation_backprop` and of the LRP rules.
UNREACHABLE: dict[tuple[str, str], tuple[str, str, str]] = {}


def family(case: dict) -> str:
    """The case's id without the layer at its end."""
    return case["id"].removesuffix("." + case["layer"]) if case["layer"] else case["id"]


def matching(case: dict) -> list[int]:
    """Indices of the calls that a case checks."""
    return [i for i, c in enumerate(CALLS) if re.fullmatch(c.cases, family(case))]


def is_elsewhere(case: dict) -> bool:
    return any(re.fullmatch(pattern, family(case)) for pattern in ELSEWHERE)


def cases_to_run() -> list[tuple[str, str]]:
    return [
        (name, case["id"])
        for name in NETWORKS
        for case in load(name)[1]["cases"]
        if not is_elsewhere(case) and (name, case["id"]) not in UNREACHABLE
    ]


@functools.cache
def network(name: str) -> Callable[[jax.Array], jax.Array]:
    """The file's network; one object for the whole run, so that nothing compiles twice."""
    arrays, meta = load(name)
    params = {k[7:]: jnp.asarray(v, float) for k, v in arrays.items() if k.startswith("params/")}
    return nets.from_ops(meta["ops"], params)


@functools.cache
def result(name: str, index: int, targets: str) -> dict[str, Any]:
    """What one call returns at all the layers that its cases ask for."""
    call, (arrays, meta) = CALLS[index], load(name)
    layers = {
        c["layer"]
        for c in meta["cases"]
        if index in matching(c) and json.dumps(c["targets"]) == targets
    }
    options = dict(call.options(meta) if callable(call.options) else call.options)
    if call.layered:
        options["layer"] = sorted(layers)
    wanted = json.loads(targets)
    wanted = jnp.asarray(arrays["signal"], float) if wanted == "signal" else jnp.asarray(wanted)
    x = jnp.asarray(arrays["x"], float)
    maps = getattr(jaxplain, call.method)(network(name), x, wanted, **options)
    return maps if call.layered else dict.fromkeys(layers, maps)


def test_every_case_is_accounted_for():
    total = run = elsewhere = 0
    for name in (*NETWORKS, "tiny"):
        for case in load(name)[1]["cases"]:
            here = (name, case["id"])
            checked = case["id"] in TINY if name == "tiny" else len(matching(case)) == 1
            places = [checked, is_elsewhere(case), here in UNREACHABLE]
            assert sum(places) == 1, (*here, places)
            total, run, elsewhere = total + 1, run + checked, elsewhere + is_elsewhere(case)
    assert (total, run + elsewhere + len(UNREACHABLE)) == (362, 362)
    used = {i for name in NETWORKS for c in load(name)[1]["cases"] for i in matching(c)}
    assert used == set(range(len(CALLS))), "a call that no case checks"


@pytest.mark.parametrize("name", NETWORKS)
def test_network(x64, name):
    """The network is the same: logits and the output of every op."""
    arrays, meta = load(name)
    names = [o["name"] for o in meta["ops"] if f"act/{o['name']}" in arrays]
    assert len(names) >= 5
    logits, acts = jaxplain.capture(network(name), names)(jnp.asarray(arrays["x"], float))
    assert nets.relative_error(logits, arrays["logits"]) < 1e-6
    for op in names:
        assert nets.relative_error(acts[op], arrays[f"act/{op}"]) < 1e-6, op


@pytest.mark.parametrize(
    ("name", "case_id"), [pytest.param(*c, id="-".join(c)) for c in cases_to_run()]
)
def test_case(x64, name, case_id):
    arrays, meta = load(name)
    case = next(c for c in meta["cases"] if c["id"] == case_id)
    (index,) = matching(case)
    got = result(name, index, json.dumps(case["targets"]))[case["layer"]]
    got, expected = CALLS[index].post(got, case), arrays[f"case/{case_id}/expected"]
    assert got.dtype == np.float64
    if case.get("sign_free") == "per image":
        axes = tuple(range(1, got.ndim))
        got = got * np.sign((got * expected).sum(axes, keepdims=True))
    error = nets.relative_error(got, expected)
    assert error <= case["tolerance"], f"{case['method']}: {error:.1e} off"


# ---- tiny.npz: cases small enough to follow by hand -------------------------------------------


def fact(case_id: str) -> dict[str, jax.Array]:
    prefix = f"case/{case_id}/"
    arrays = load("tiny")[0]
    return {
        k.removeprefix(prefix): jnp.asarray(v) for k, v in arrays.items() if k.startswith(prefix)
    }


def as_images(x: jax.Array) -> jax.Array:
    """Vectors (B, F) as images (B, 1, 1, F)."""
    return x[:, None, None, :]


@functools.cache
def dense_net(name: str):
    arrays = load("tiny")[0]
    fn = nets.mlp(*[[arrays[f"{name}/{v}{i}"] for i in (1, 2, 3)] for v in "Wb"])
    return fn, as_images(jnp.asarray(arrays[f"{name}/x"])[None])


def markov(case_id: str) -> jax.Array:
    """Excitation Backprop of a dense net: rows are classes, columns the layer's neurons."""
    name, kind, layer = case_id.split(".")
    fn, x = dense_net(name)
    prior = jnp.asarray(load("tiny")[0][f"{name}/prior"])[None]
    targets = prior if kind == "prior_mwp" else jnp.arange(3)[None]
    maps = jaxplain.excitation_backprop(
        fn, x, targets, layer=layer, channels=True, contrastive=kind == "contrastive_mwp"
    )
    return maps.reshape(-1, maps.shape[-1])


def small(method: str, fn: Callable, **options) -> Callable:
    """A gradient-like method of fn(arrays, vectors) at vectors, which are seen as images."""

    def run(case_id):
        f = fact(case_id)
        wrapped = lambda x: fn(f, x[:, 0, 0, :])  # noqa: E731
        return getattr(jaxplain, method)(wrapped, as_images(f["x"]), 0, **options)[:, 0, 0, :]

    return run


def cam_of(method: str, **options) -> Callable:
    """A CAM method where activation and gradient are given."""

    def run(case_id):
        f = fact(case_id)
        fn = lambda x: (nets.tag(x * 1.0, "a") * f["gradient"]).sum((1, 2, 3))[:, None]  # noqa: E731
        return getattr(jaxplain, method)(fn, f["activation"], 0, layer="a", **options)

    return run


def rule(rules) -> Callable:
    """One linear layer x W + b, whose output has relevance R."""

    def run(case_id):
        f = fact(case_id)
        fn = lambda x: x[:, 0, 0, :] @ f["W"] + f["b"]  # noqa: E731
        maps = jaxplain.lrp(
            fn, as_images(f["x"]), f["R"], composite=rules, seed="one", channels=True
        )
        return maps[:, 0, 0, :]

    return run


def _ig(f, x):
    return jax.nn.relu(jax.nn.relu(x[:, :1]) - 1 - jax.nn.relu(x[:, 1:]))


def _two_layers(f, x):
    return jax.nn.relu(x @ f["W"].T) @ f["v"].T


def _three(f, x):
    return jax.nn.relu(x @ jnp.full((3, 3), f["w1"])) @ jnp.full((3, 1), f["w2"])


def _ties(case_id):
    signal = fact(case_id)["signal"]
    pool = lambda x: nets.max_pool(x, (2, 2), (2, 2)) * signal[None, :, :, None]  # noqa: E731
    fn = lambda x: pool(x).sum((1, 2))  # noqa: E731
    return jaxplain.gradient(fn, jnp.zeros((1, 4, 4, 1)), 0, reduce=None)[0, :, :, 0]


def _occlusion(case_id):
    w = fact(case_id)["w"]
    fn = lambda x: (x[..., 0] * w).sum((1, 2))[:, None]  # noqa: E731
    maps = jaxplain.occlusion(fn, jnp.ones((1, *w.shape, 1)), 0, window=(4, 5), stride=(2, 2))
    return maps.astype(jnp.float32)  # captum rounds its maps, and the tolerance is below that


def _resize(*args, scale=lambda x: x, **options):
    return lambda case_id: jaxplain.postprocess.resize(
        scale(fact(case_id)["x"]), (5, 7), *args, **options
    )


TINY: dict[str, Callable[[str], jax.Array]] = {
    **{
        f"{net}.{kind}.{layer}": markov
        for net in ("mlp", "mlp_leak")
        for kind in ("mwp", "contrastive_mwp", "prior_mwp")
        for layer in ("hidden2", "hidden1", "input")
    },
    "fact.integrated_gradients": small("integrated_gradients", _ig, steps=32, reduce=None),
    "fact.lrp_epsilon": small(
        "lrp", _three, channels=True, composite=lrp_rules(Epsilon(eps=1e-9), eps=1e-9)
    ),
    "fact.gradient": small("gradient", _two_layers, reduce=None),
    "fact.guided_backprop": small("guided_backprop", _two_layers, reduce=None),
    "fact.deconvnet": small("deconvnet", _two_layers, reduce=None),
    "fact.grad_cam": cam_of("grad_cam", relu=False),
    "fact.grad_cam_plus_plus": cam_of("grad_cam_plus_plus", eps=1e-6),
    "fact.x_grad_cam": cam_of("x_grad_cam"),
    "fact.layer_cam": cam_of("layer_cam"),
    "fact.hires_cam": cam_of("hires_cam"),
    "fact.occlusion": _occlusion,
    "fact.rule_epsilon": rule(composite("epsilon")),
    "fact.rule_epsilon_0.25": rule(lrp_rules(Epsilon(eps=0.25))),
    "fact.rule_zplus": rule(composite("z_plus")),
    "fact.rule_zplus_nobias": rule(composite("z_plus", bias=False)),
    "fact.rule_gamma_0.25": rule(composite("gamma")),
    "fact.rule_alpha2_beta1": rule(composite("alpha2_beta1")),
    "fact.rule_wsquare": rule(composite("w_square")),
    "fact.rule_flat": rule(composite("flat")),
    "fact.rule_zbox": rule(lrp_rules(ZBox(low=-3.0, high=4.0))),
    "fact.lrn": lambda c: nets.lrn(fact(c)["x"], 5, 1e-4, 0.75, 1.0),
    "fact.max_pool_ceil": lambda c: nets.max_pool(
        fact(c)["x"][None, :, :, None], (3, 3), (2, 2), ceil_mode=True
    )[0, :, :, 0],
    "fact.max_pool_ties": _ties,
    "fact.resize_half_pixel": _resize(),
    "fact.resize_align_corners": _resize(align_corners=True),
    "fact.resize_nearest": _resize("nearest"),
    "fact.resize_cam": _resize(scale=lambda x: jaxplain.postprocess.normalise_min_max(x, 1e-7)),
}


@pytest.mark.parametrize("case_id", TINY)
def test_tiny(x64, case_id):
    case = next(c for c in load("tiny")[1]["cases"] if c["id"] == case_id)
    expected = fact(case_id)["expected"]
    got = np.asarray(TINY[case_id](case_id)).reshape(expected.shape)
    assert np.isfinite(got).all()
    assert np.abs(got - expected).max() <= case["tolerance"] * np.abs(expected).max()
