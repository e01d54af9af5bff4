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
from jaxplain.explanation import Explanation, explain

if TYPE_CHECKING:
    from jaxplain import data, evaluation, models, viz, weights_convert
    from jaxplain.evaluation.studies.scoring import score
    from jaxplain.page.app import app
    from jaxplain.training.finetune import finetune

try:
    __version__ = version("jaxplain")
except PackageNotFoundError:  # a source tree that was not installed
    __version__ = "0+unknown"

__all__ = [
    "Explanation",
    "RuleSet",
    "UnknownLayerError",
    "UnsuitableNetworkError",
    "UnsupportedOperationError",
    "app",
    "capture",
    "conservation",
    "core",
    "coverage",
    "data",
    "evaluation",
    "explain",
    "explain_dataset",
    "explainers",
    "feedback_localise",
    "finetune",
    "layers",
    "models",
    "postprocess",
    "rules",
    "score",
    "split",
    "tag",
    "trace",
    "viz",
    "weights_convert",
    "with_rules",
]
__all__ += explainers.__all__

#: Not needed for explaining, and imported when first asked for: they bring Flax, Matplotlib, Orbax.
_LAZY_FUNCTIONS = {
    "app": "page.app",
    "finetune": "training.finetune",
    "score": "evaluation.studies.scoring",
}
_LAZY_MODULES = ("data", "evaluation", "models", "viz", "weights_convert")


def __getattr__(name: str) -> Any:
    if name in _LAZY_MODULES:
        return importlib.import_module(f"jaxplain.{name}")
    if name in _LAZY_FUNCTIONS:
        return getattr(importlib.import_module(f"jaxplain.{_LAZY_FUNCTIONS[name]}"), name)
    raise AttributeError(f"module 'jaxplain' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
