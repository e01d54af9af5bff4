"""Visual explanation of image classifiers in JAX, as function transformations."""

import importlib
from importlib.metadata import PackageNotFoundError, version

from jaxplain import core, explainers, postprocess, rules
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
from jaxplain.engine import explain_dataset
from jaxplain.explainers import *  # noqa: F403 (its __all__ is the list of explainers)
from jaxplain.explainers.segmentation import feedback_localise

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
        return importlib.import_module("jaxplain.training.finetune").finetune
    raise AttributeError(f"module 'jaxplain' has no attribute {name!r}")
