"""Visual explanation of image classifiers in JAX, as function transformations."""

import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from jaxplain import explainers
from jaxplain.core.lazy import import_when_asked

if TYPE_CHECKING:
    from jaxplain import (
        core,
        data,
        evaluation,
        models,
        postprocess,
        rules,
        viz,
        weights_convert,
    )
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
    from jaxplain.evaluation.studies.scoring import score
    from jaxplain.explainers import *  # noqa: F403 (its __all__ is the list of explainers)
    from jaxplain.explainers.segmentation import feedback_localise
    from jaxplain.explainers.tables import conservation, coverage
    from jaxplain.explanation import Explanation, explain
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

#: What is imported when it is first asked for: all that needs JAX, Flax, Matplotlib or Orbax.
_PLACES = {
    "core": (
        *("RuleSet", "UnknownLayerError", "UnsuitableNetworkError", "UnsupportedOperationError"),
        *("capture", "layers", "split", "tag", "trace", "with_rules"),
    ),
    "engine": ("explain_dataset",),
    "evaluation.studies.scoring": ("score",),
    "explainers": tuple(explainers.__all__),
    "explainers.segmentation": ("feedback_localise",),
    "explainers.tables": ("conservation", "coverage"),
    "explanation": ("Explanation", "explain"),
    "page.app": ("app",),
    "training.finetune": ("finetune",),
}
_MODULES = (
    *("core", "data", "evaluation", "explainers", "models", "postprocess", "rules", "viz"),
    "weights_convert",
)
import_when_asked(
    __name__,
    {name: place for place, names in _PLACES.items() for name in names}
    | {name: name for name in _MODULES},
)

# Who has imported JAX already wants to explain, and then the first call should not have to import.
if "jax" in sys.modules:
    for _name in (*_PLACES["core"], *_PLACES["explainers"]):
        getattr(sys.modules[__name__], _name)
