"""Visual explanation of image classifiers in JAX, as function transformations."""

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from jaxplain import core, explainers, postprocess, rules
from jaxplain.core import (
    RuleSet,
    UnknownLayerError,
    UnsuitableNetworkError,
    UnsupportedOperationError,
    capture,
    layers,
    split,
    tag,
    trace,
    with_rules,
)
from jaxplain.engine import explain_dataset
from jaxplain.explainers import *  # noqa: F403 (its __all__ is the list of explainers)
from jaxplain.explainers.segmentation import feedback_localise
from jaxplain.explainers.tables import conservation, coverage

if TYPE_CHECKING:
    from jaxplain import data, evaluation, models, viz, weights_convert
    from jaxplain.training.finetune import finetune

try:
    __version__ = version("jaxplain")
except PackageNotFoundError:  # a source tree that was not installed
    __version__ = "0+unknown"

__all__ = [
    "RuleSet",
    "UnknownLayerError",
    "UnsuitableNetworkError",
    "UnsupportedOperationError",
    "capture",
    "conservation",
    "core",
    "coverage",
    "data",
    "evaluation",
    "explain_dataset",
    "explainers",
    "feedback_localise",
    "finetune",
    "layers",
    "models",
    "postprocess",
    "rules",
    "split",
    "tag",
    "trace",
    "viz",
    "weights_convert",
    "with_rules",
]
__all__ += explainers.__all__

#: Not needed for explaining, and imported when first asked for: they bring Flax, Matplotlib, Orbax.
_LAZY_MODULES = ("data", "evaluation", "models", "viz", "weights_convert")


def __getattr__(name: str) -> Any:
    if name in _LAZY_MODULES:
        return importlib.import_module(f"jaxplain.{name}")
    if name == "finetune":
        return importlib.import_module("jaxplain.training.finetune").finetune
    raise AttributeError(f"module 'jaxplain' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
