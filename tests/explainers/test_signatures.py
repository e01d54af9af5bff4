"""One name for one thing, in one order, in all explainers; the catalogue and the types agree."""

from __future__ import annotations

import inspect
import re

import explainer_stub
import pytest

import jaxplain
from jaxplain import explainers
from jaxplain.explainers import segmentation
from jaxplain.explainers.catalogue import CATALOGUE, METHODS, canonical
from jaxplain.models.config import LAYER_KINDS
from jaxplain.models.entries import ENTRIES

#: What comes first, by position: the network, then what it is shown, then what is asked of it.
POSITIONAL = (
    ("fn", "x", "targets"),
    ("fn", "x"),
    ("fn", "x", "reference"),
    ("fn", "batches"),
)
#: Every keyword of an explainer, in the order in which a signature has them.
KEYWORDS = (
    # where
    "layer",  # of the maps: a name, several, or None
    "tokens",  # how maps lie in it, where that is not known
    "blocks",  # which of the attention layers count
    "weight_layers",  # whose channel sums weight the result
    "last",  # where a flow through the layers starts
    # what was found before
    "fit",
    "basis",
    "pixels",  # the images as they look
    # how the signal goes back
    "composite",  # which rule goes on which layer
    "relevance",  # of attention weights in their place
    "seed",  # of the relevance at the scores
    "box",  # of the pixels
    "contrastive",
    "residual",
    "form",
    "fold_scales",
    "lower_bound",
    "normalise",
    "classifier",  # the layer that the contrast negates
    # what is done how often
    "key",  # of jax.random
    "samples",  # random draws
    "noise",
    "window",
    "stride",
    "grid",
    "probability",
    "baseline",  # what hidden or absent pixels are
    "steps",  # of the way: nodes of a path, sweeps
    "mode",
    "order",
    "step_size",
    # how what is found is put together
    "heads",  # how those of attention become one
    "discard",  # the fraction of the smallest weights that does not count
    "weighting",  # how weights are made
    "align_corners",
    "relative",
    "rescale",
    "implicit",
    "eps",  # added to a denominator
    "centre",  # subtract the mean
    "resize",
    "components",
    "method",  # which algorithm computes it
    "similarity",
    "solver",
    "ridge",
    "foreground",
    "background",
    "segmentation",  # which graph cut
    "strength",  # of its regional term
    "iterations",
    # what is returned
    "relu",  # the positive part only
    "reduce",  # what becomes of the channel axis
    "channels",  # keep the channel axis
    "scale",
    "details",  # a record instead of maps
    # memory
    "class_chunk",  # classes at once
    "batch_size",  # copies of the batch at once
)
FUNCTIONS = sorted(
    {name for m in CATALOGUE.values() for name in (m.function, *m.also)} | {"feedback_localise"}
)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_names_and_order_of_arguments(name):
    function = getattr(jaxplain, name)
    kinds: dict = {}
    for parameter in inspect.signature(function).parameters.values():
        kinds.setdefault(parameter.kind, []).append(parameter)
        assert parameter.kind is parameter.VAR_KEYWORD or parameter.annotation, parameter
    assert tuple(p.name for p in kinds[inspect.Parameter.POSITIONAL_OR_KEYWORD]) in POSITIONAL
    keywords = [p.name for p in kinds.get(inspect.Parameter.KEYWORD_ONLY, [])]
    assert set(keywords) <= set(KEYWORDS), "a new argument needs a place in the table"
    assert keywords == sorted(keywords, key=KEYWORDS.index)


def test_every_keyword_of_the_table_is_used():
    used = {p for name in FUNCTIONS for p in inspect.signature(getattr(jaxplain, name)).parameters}
    assert set(KEYWORDS) <= used


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstrings_speak_of_their_own_arguments(name):
    """Every argument that a docstring lists exists, and nothing is documented twice."""
    function = getattr(jaxplain, name)
    text = inspect.getdoc(function)
    sections = re.findall(r"^Args:\n((?:    .*\n|\n)*)", text, re.M)
    items = [i for s in sections for i in re.findall(r"^    (\S[^:\n]*):", s, re.M)]
    listed = [word.strip("*") for item in items for word in item.split(", ")]
    assert len(set(listed)) == len(listed)
    assert set(listed) <= set(inspect.signature(function).parameters)


# ---- the catalogue ------------------------------------------------------------------------------


def test_the_catalogue_names_what_there_is():
    functions = {n for n in explainers.__all__ if inspect.isfunction(getattr(explainers, n))}
    listed = {name for m in CATALOGUE.values() for name in (m.function, *m.also)}
    assert functions - listed == {"contribution_weights"}  # a part of naflow_similarity
    for name, method in CATALOGUE.items():
        function = getattr(jaxplain, method.function)
        assert function.__module__ == f"jaxplain.explainers.{method.file}"
        takes = inspect.signature(function).parameters
        assert ("layer" in takes) or not method.at_layer, name
        assert ("key" in takes) is method.random, name
        assert ("targets" in takes) is method.per_class, name
        assert set(method.options) <= set(takes), name
        required = {p.name for p in takes.values() if p.default is p.empty} - {"fn", "x", "key"}
        assert required == ({method.needs} if method.needs else set()), name
        assert method.layer is None or method.layer in LAYER_KINDS, name
        assert inspect.getdoc(function)
    assert set(METHODS) < set(CATALOGUE)


def test_every_function_is_described_once():
    described = [m.function for m in CATALOGUE.values() if m.about]
    assert sorted(described) == sorted({m.function for m in CATALOGUE.values()})
    assert all(m.paper for m in CATALOGUE.values() if m.about)


def test_names_titles_and_aliases_are_unique():
    spellings = [s for name, m in CATALOGUE.items() for s in (name, *m.aliases)]
    assert len(set(spellings)) == len(spellings)
    titles = [m.title for m in CATALOGUE.values()]
    assert len(set(titles)) == len(titles)
    for name, method in CATALOGUE.items():
        assert all(canonical(s) == name for s in (name, name.upper(), *method.aliases))


def test_every_network_has_a_layer_of_each_kind():
    for name, entry in ENTRIES.items():
        assert [kind for kind, _ in entry.config.layers] == list(LAYER_KINDS), name
        with pytest.raises(ValueError, match="no kind of layer 'grad_cam'; use excitation"):
            entry.config.layer("grad_cam")


# ---- types --------------------------------------------------------------------------------------


def test_the_type_stub_is_that_of_the_signatures():
    """`python tests/helpers/explainer_stub.py` writes it."""
    assert explainer_stub.PATH.read_text("utf-8") == explainer_stub.stub()


def test_signatures_and_help_are_the_functions_own():
    signature = inspect.signature(jaxplain.grad_cam)
    assert str(signature.parameters["relu"]).startswith("relu: 'bool' = True")
    assert jaxplain.grad_cam.__doc__.startswith("Grad-CAM (Selvaraju")
    assert jaxplain.feedback is segmentation.feedback
