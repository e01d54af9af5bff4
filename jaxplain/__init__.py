"""Visual explanation of image classifiers in JAX, as function transformations."""

import importlib
from importlib.metadata import PackageNotFoundError, version

from jaxplain import core, explainers, localise, postprocess, rules
from jaxplain.batch import explain_dataset
from jaxplain.core import (
    RuleSet,
    UnknownLayerError,
    UnsupportedOperationError,
    capture,
    coverage,
    layers,
    split,
    tag,
    trace,
    with_rules,
)
from jaxplain.explainers import *  # noqa: F403 (its __all__ is the list of explainers)
from jaxplain.localise import feedback_localise

try:
    __version__ = version("jaxplain")
except PackageNotFoundError:  # a source tree that was not installed
    __version__ = "0+unknown"

_LAZY = ("data", "evaluation", "models", "viz", "weights_convert")  # not needed for explaining

__all__ = [
    "RuleSet",
    "UnknownLayerError",
    "UnsupportedOperationError",
    "capture",
    "core",
    "coverage",
    "explain_dataset",
    "explainers",
    "feedback_localise",
    "finetune",
    "layers",
    "localise",
    "postprocess",
    "rules",
    "split",
    "tag",
    "trace",
    "with_rules",
    *explainers.__all__,
    *_LAZY,
]


def __getattr__(name: str):
    if name in _LAZY:
        return importlib.import_module(f"jaxplain.{name}")
    if name == "finetune":
        return importlib.import_module("jaxplain.finetuning").finetune
    raise AttributeError(f"module 'jaxplain' has no attribute {name!r}")
