"""`--set METHOD.OPTION=VALUE`: every kind of value and mistake, and what the papers set."""

import argparse

import jax
import jax.numpy as jnp
import nets
import numpy as np
import pytest

import jaxplain
from jaxplain.cli.common import CliError
from jaxplain.cli.method_options import add_options, choices
from jaxplain.explainers.catalogue import CATALOGUE, canonical
from jaxplain.explanation.choice import options_of
from jaxplain.models import ModelConfig
from jaxplain.rules import composite


def chosen(*settings):
    """The one method that the settings are of."""
    name = canonical(settings[0].partition(".")[0])
    return choices([name], settings)[name]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("mwp.residual=branch", "branch"),
        ("MWP.fold-scales=False", False),
        ("c-mwp.class_chunk=3", 3),
        ("c-mwp.class_chunk=none", None),
        ("c-mwp.class_chunk=auto", "auto"),
        ("saliency.reduce=l2", "l2"),
        ("smooth-grad.noise=0.2", 0.2),
        ("smooth-grad.samples=4", 4),
        ("full-grad.rescale=none", None),
        ("rise.grid=5", 5),
        ("rise.grid=5x6", (5, 6)),
        ("occlusion.window=9,8", (9, 8)),
        ("occlusion.baseline=-1", -1.0),
        ("mwp.tokens=7,7", (7, 7)),
        ("naflow.last=conv:-1", "conv:-1"),
        ("pfv.weight_layers=a, b", ("a", "b")),
        ("pfv.weight_layers=", ()),
        ("lrp.box=-2,2.5", (-2.0, 2.5)),
        ("c-mwp.classifier=fc", "fc"),
    ],
)
def test_values_have_the_type_of_the_option(setting, value):
    option = setting.partition("=")[0].partition(".")[2].replace("-", "_")
    found = chosen(setting).arguments(None)
    assert found == {option: value} and type(found[option]) is type(value)


def test_parts_of_a_record_keep_its_other_parts():
    choice = chosen("naflow.solver.damping=0.3", "naflow.solver.method=dense")
    assert choice.arguments(None)["solver"] == jaxplain.LeastSquares(method="dense", damping=0.3)
    mine = choice.arguments(None, solver=jaxplain.LeastSquares(iterations=7))["solver"]
    assert mine == jaxplain.LeastSquares(method="dense", damping=0.3, iterations=7)


def test_composites_get_the_box_of_the_pixels():
    config = ModelConfig("net", 8, (100.0,), (50.0,), layers=())
    choice = chosen("lrp.composite=epsilon_gamma_box")
    box = choice.arguments(config)["box"]
    np.testing.assert_allclose(np.ravel(box), [-2, 3.1])
    own = chosen("lrp.composite=epsilon_gamma_box", "lrp.box=0,1").arguments(config)
    assert own["box"] == (0, 1)
    assert chosen("lrp.composite=epsilon").arguments(config) == {"composite": composite("epsilon")}


def test_titles_say_what_was_set():
    choice = chosen("mwp.residual=branch", "mwp.layer=pool1")
    assert choice.title == "MWP (residual=branch, layer=pool1)" and choice.layer == "pool1"
    assert choices(["mwp"], [])["mwp"].title == "MWP"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["mwp.residual"], "takes METHOD.OPTION=VALUE"),
        (["residual=branch"], "takes METHOD.OPTION=VALUE"),
        (["mpw.residual=branch"], "unknown method 'mpw'; did you mean mwp"),
        (["mwp.residul=branch"], "mwp has no option 'residul'; did you mean residual?"),
        (["mwp.residual=brunch"], "mwp.residual must be "),
        (["mwp.lower_bound=1"], "must be true or false, not '1'"),
        (["rise.samples=many"], "rise.samples must be a whole number, not 'many'"),
        (["smooth-grad.noise=much"], "must be a number"),
        (["occlusion.window=1,2,3"], "none or a whole number or 2 whole numbers, as 7,7"),
        (["gradient.reduce=none"], "max_abs or sum or l2, not 'none'"),
        (["feedback.details=true"], "feedback has no option 'details'"),
        (["rise.key=3"], "cannot be set from the command line"),
        (["rise.layer=a"], "rise has no option 'layer'"),
        (["naflow.solver=cg"], "cannot be set from the command line"),
        (["naflow.solver.dampin=1"], "naflow.solver has no 'dampin'; did you mean damping?"),
        (["naflow.solver.damping=-1"], "damping must not be negative"),
        (["mwp.residual.x=1"], "mwp.residual is one value, and has no 'x'"),
        (["lrp.composite=epsilom"], "epsilon"),
        (["mwp.channels=true"], "mwp has no option 'channels'"),
        (["mwp.residual=branch", "mwp.residual=branch"], "given twice"),
        (["c-mwp.residual=branch"], "no effect: c-mwp is not asked for"),
    ],
)
def test_mistakes_are_said_in_a_sentence(settings, words):
    names = ["mwp", "rise", "gradient", "naflow", "smooth-grad", "occlusion", "feedback", "lrp"]
    with pytest.raises(CliError) as caught:
        choices(names, settings)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_every_default_of_every_method_is_read_as_itself():
    read = 0
    for name in CATALOGUE:
        for option, parameter in options_of(name).items():
            default = parameter.default
            spelt = default is None or isinstance(default, str | bool | int | float)
            if not spelt or option == "composite" or (option == "layer" and default is None):
                continue
            choice = chosen(f"{name}.{option}={'none' if default is None else default}")
            assert (choice.layer if option == "layer" else choice.options[option]) == default
            read += 1
    assert read > 100


def test_a_layer_for_all_methods_and_one_for_each():
    found = choices(["mwp", "gradient"], ["gradient.layer=b"], "a")
    assert [c.layer for c in found.values()] == ["a", "b"]
    assert not found["gradient"].sparse and choices(["gradient"], [])["gradient"].sparse
    assert choices(["guided-grad-cam"], [], "a")["guided-grad-cam"].sparse  # at the image anyway
    with pytest.raises(CliError, match="--layer a: rise takes no layer"):
        choices(["mwp", "rise"], [], "a")
    assert choices(["mwp"], [], "a, b")["mwp"].layer == ("a", "b")
    with pytest.raises(ValueError, match="pfv is explained at one layer, not at a, b"):
        choices(["pfv"], [], "a,b")


def test_both_options_are_in_the_help():
    parser = argparse.ArgumentParser()
    add_options(parser)
    given = parser.parse_args(["--set", "mwp.residual=branch", "--set", "rise.grid=3"])
    assert given.settings == ["mwp.residual=branch", "rise.grid=3"] and given.layer is None


# ---- what the papers set ------------------------------------------------------------------------

X = jnp.asarray(nets.images(1, size=6), jnp.float32)


def net(x):
    """Convolutions, a branch around one, a pool and a dense layer."""
    p = {k: jnp.asarray(v, jnp.float32) for k, v in nets.convnet_params(3).items()}
    h = jax.nn.relu(nets.conv(x, p["conv1"], padding=(1, 1)))
    h = jaxplain.tag(nets.max_pool(h, (2, 2), (2, 2)), "pool")
    h = jax.nn.relu(nets.conv(h, p["conv2"], padding=(1, 1)) + h)
    return jaxplain.tag(h, "last").mean((1, 2)) @ p["dense"]


def maps(*settings):
    choice = chosen(*settings)
    return np.asarray(choice.explainer(None)(net, X, jnp.asarray([1, 2])))


@pytest.mark.parametrize(
    ("settings", "function", "options"),
    [
        # Zhang et al., Table 3, and Fig. 7c.
        (["c-mwp.normalise=post"], "excitation_backprop", {"normalise": "post"}),
        (["c-mwp.normalise=none"], "excitation_backprop", {"normalise": "none"}),
        (["c-grad.reduce=sum"], "contrastive_gradient", {"reduce": "sum"}),
        (["c-deconv.form=zeiler"], "contrastive_deconvnet", {"form": "zeiler"}),
        (["c-cam.layer=last"], "contrastive_cam", {"layer": "last"}),
        (["mwp.residual=branch"], "excitation_backprop", {"residual": "branch"}),
        # Eq. 19 as printed.
        (["mwp.residual=signed"], "excitation_backprop", {"residual": "signed"}),
        # Fig. 6.
        (["gradient.layer=pool"], "gradient", {"layer": "pool"}),
        (["guided-backprop.layer=last"], "guided_backprop", {"layer": "last"}),
        # Cao et al.
        (["feedback.mode=soft", "feedback.steps=2"], "feedback", {"mode": "soft", "steps": 2}),
        (["feedback.order=simultaneous"], "feedback", {"order": "simultaneous"}),
        (["lrp.composite=alpha2_beta1"], "lrp", {"composite": "alpha2_beta1"}),
        (["relevance-cam.composite=epsilon"], "relevance_cam", {"composite": "epsilon"}),
    ],
)
def test_what_is_set_reaches_the_function(settings, function, options):
    if settings[0].startswith(("mwp", "c-mwp")):
        settings = [*settings, f"{settings[0].partition('.')[0]}.layer=pool"]
        options |= {"layer": "pool", "contrastive": settings[0].startswith("c-")}
    want = getattr(jaxplain, function)(net, X, jnp.asarray([1, 2]), **options)
    np.testing.assert_array_equal(maps(*settings), want)
