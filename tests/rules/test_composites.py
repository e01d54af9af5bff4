"""Composites: those of one's own, the options that each has, and the box of a ZBox."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import nets
import numpy as np
import pytest

import jaxplain
from jaxplain import rules
from jaxplain.core import numerics
from jaxplain.rules import (
    AlphaBeta,
    Epsilon,
    Excitation,
    Flat,
    Gamma,
    Norm,
    ResidualShare,
    WSquare,
    ZBox,
    ZPlus,
    boxes,
    composites,
    lrp_rules,
)

EVERY_RULE = (
    AlphaBeta,
    Epsilon,
    Excitation,
    Flat,
    Gamma,
    Norm,
    ResidualShare,
    WSquare,
    ZBox,
    ZPlus,
)


@pytest.fixture
def registry(monkeypatch):
    """What a test registers is forgotten after it."""
    builders = dict(composites._BUILDERS)
    yield
    composites._BUILDERS.clear()
    composites._BUILDERS.update(builders)


@pytest.fixture(scope="module")
def net():
    return nets.convnet(nets.convnet_params(11)), jnp.asarray(nets.images(12), jnp.float32)


def mild(*, eps: float = 1e-3):
    return lrp_rules(Gamma(gamma=0.1, eps=eps), first=ZBox(eps=eps), eps=eps)


@pytest.mark.parametrize("rule", EVERY_RULE, ids=lambda rule: rule.__name__)
def test_every_rule_is_a_frozen_value_with_keywords_alone(rule):
    assert all(field.kw_only for field in dataclasses.fields(rule))
    assert rule() == rule() and hash(rule()) == hash(rule())
    with pytest.raises(TypeError, match="positional"):
        rule(1e-6)
    with pytest.raises(dataclasses.FrozenInstanceError):
        rule().eps = 1.0


def test_one_word_for_the_two_forms():
    for rule in (AlphaBeta, Gamma, ZPlus, Excitation):
        assert rule(form="plain") != rule(form="signed")
        with pytest.raises(ValueError, match="form must be 'signed' or 'plain', not 'other'"):
            rule(form="other")
    assert rules.excitation_rules(form="plain").rules["linear"] == Excitation(form="plain")


def test_a_registered_composite_is_used_like_ours(registry, net):
    fn, x = net
    rules.register_composite("mild", mild)
    rules.register_composite("mild", mild)  # again, as when a notebook's cell is run twice
    assert "mild" in rules.COMPOSITES
    got = jaxplain.lrp(fn, x, 1, composite="mild", box=(-1, 2))
    first = ZBox(low=-1, high=2, eps=1e-3)
    expected = lrp_rules(Gamma(gamma=0.1, eps=1e-3), first=first, eps=1e-3)
    np.testing.assert_array_equal(got, jaxplain.lrp(fn, x, 1, composite=expected))
    assert rules.composite("mild", eps=0.5).rules["linear"] == Gamma(gamma=0.1, eps=0.5)


def test_a_builder_that_makes_new_rules_is_called_once(registry):
    def closures(*, eps: float = 1e-6):
        return lrp_rules(lambda op, g: op.vjp(g), eps=eps)

    rules.register_composite("closures", closures)
    assert rules.composite("closures") == rules.composite("closures")
    assert rules.composite("closures", eps=1.0) != rules.composite("closures")


def test_a_function_by_its_import_path(tmp_path, monkeypatch):
    (tmp_path / "rules_of_a_test.py").write_text(
        "import jaxplain.rules as r\n"
        "def own(*, bias=True):\n"
        "    return r.lrp_rules(r.ZPlus(bias=bias))\n"
        "number = 3\n"
    )
    (tmp_path / "rules_that_need_more.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = rules.composite("rules_of_a_test:own", bias=False)
    assert found == lrp_rules(ZPlus(bias=False))
    with pytest.raises(ValueError, match="'rules_of_a_test' has no 'owm'"):
        rules.composite("rules_of_a_test:owm")
    with pytest.raises(ValueError, match="no module 'rules_of_a_tset'"):
        rules.composite("rules_of_a_tset:own")
    with pytest.raises(TypeError, match="a function that returns a RuleSet, not int"):
        rules.composite("rules_of_a_test:number")
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        rules.composite("rules_that_need_more:own")


def test_an_installed_package_offers_composites(registry, tmp_path, monkeypatch):
    """As an entry point, which is known by name in every process, the command line's too."""
    (tmp_path / "shop.py").write_text(
        "import jaxplain.rules as r\ndef own():\n    return r.lrp_rules(r.Flat())\n"
    )
    info = tmp_path / "shop-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shop\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[jaxplain.composites]\nshop_flat = shop:own\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert rules.composite("shop_flat") == lrp_rules(Flat())
    with pytest.raises(ValueError, match="composite 'shop_flat' has no option 'eps'; leave it out"):
        rules.composite("shop_flat", eps=1e-9)
    with pytest.raises(ValueError, match="did you mean one of shop_flat"):
        rules.composite("shop_falt")


def _positional(eps, /):
    return lrp_rules(Epsilon(eps=eps))


@pytest.mark.parametrize(
    ("name", "builder", "error", "words"),
    [
        ("epsilon", mild, ValueError, "there is a composite 'epsilon' already"),
        ("my:own", mild, ValueError, "without a colon"),
        ("", mild, ValueError, "without a colon"),
        ("own", lrp_rules(Epsilon()), TypeError, "a function that returns a RuleSet, not RuleSet"),
        ("own", lambda eps: eps, TypeError, "'eps' must be a keyword with a default"),
        ("own", _positional, TypeError, "'eps' must be a keyword with a default"),
        ("own", lambda **options: options, TypeError, r"\*\*options does not"),
    ],
)
def test_what_cannot_be_registered(registry, name, builder, error, words):
    with pytest.raises(error, match=words):
        rules.register_composite(name, builder)
    assert "own" not in rules.COMPOSITES


def test_a_builder_that_returns_no_rule_set(registry):
    rules.register_composite("number", lambda: 3)
    with pytest.raises(TypeError, match="'number': the builder must return a RuleSet, not int"):
        rules.composite("number")


@pytest.mark.parametrize("name", sorted(rules.COMPOSITES))
def test_an_option_that_a_composite_cannot_use_is_an_error(name):
    eps = rules.composite(name, eps=0.5)
    assert eps != rules.composite(name) and "eps=1e-06" not in repr(eps)
    if name == "flat":
        with pytest.raises(ValueError, match="composite 'flat' has no option 'bias'; leave it out"):
            rules.composite(name, bias=False)
    else:
        assert rules.composite(name, bias=False) != rules.composite(name)
    if name == "epsilon_gamma_box":
        assert rules.composite(name, box=(0, 1)) != rules.composite(name)
    else:
        with pytest.raises(ValueError, match=f"a ZBox, and composite '{name}' has none"):
            rules.composite(name, box=(0, 1))


def test_the_box_goes_to_every_zbox_of_any_rule_set(net):
    fn, x = net
    channels = ([0.0, -1.0, -2.0], np.ones(3))
    for open_box in (ZBox(), ZBox(low=5, high=6)):
        own = lrp_rules(ZPlus(), dense=open_box, first=open_box)
        closed = ZBox(low=(0.0, -1.0, -2.0), high=(1.0, 1.0, 1.0))
        expected = lrp_rules(ZPlus(), dense=closed, first=closed)
        assert boxes.with_box(own, channels) == expected
    single = lrp_rules(ZPlus(), first=ZBox())
    got = jaxplain.lrp(fn, x, 1, composite=single, box=channels)
    np.testing.assert_array_equal(
        got, jaxplain.lrp(fn, x, 1, composite=lrp_rules(ZPlus(), first=closed))
    )


def test_a_box_that_is_still_open(net):
    fn, x = net
    with pytest.raises(ValueError, match="ZBox takes low and high together"):
        ZBox(low=0.0)
    ruled = jaxplain.with_rules(fn, rules.composite("epsilon_gamma_box"))
    with pytest.raises(ValueError, match="this ZBox has no box yet"):
        jax.vjp(ruled, x)[1](fn(x))


def test_shares_and_contrast_are_checked():
    known = r"\('excitation', 'signed', 'magnitude', 'branch'\)"
    with pytest.raises(ValueError, match=f"shares must be one of {known}, not 'branches'"):
        ResidualShare(shares="branches")
    with pytest.raises(ValueError, match="needs the network's graph"):
        ResidualShare(shares="branch")
    with pytest.raises(ValueError, match="contrast must be 1, 0 or -1, not 2"):
        Excitation(contrast=2)


def test_divisions_are_finite_and_so_are_their_gradients():
    p, z = jnp.array([[1.0, -2.0], [3.0, 0.0]]), jnp.array([[2.0], [0.0]])
    assert numerics.safe_divide(p, z).tolist() == [[0.5, -1.0], [0.0, 0.0]]
    for divide in (
        lambda p, z: numerics.safe_divide(p, z),
        lambda p, z: numerics.stable_divide(p, z, 0.0),
    ):
        slopes = jax.grad(lambda p, z, divide=divide: divide(p, z).sum(), (0, 1))(p, z)
        assert [s.tolist() for s in slopes] == [[[0.5, 0.5], [0.0, 0.0]], [[0.25], [0.0]]]
