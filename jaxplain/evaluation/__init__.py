"""How good a map is: scores as pure functions of arrays; the papers' protocols are in `studies`.

Explainers come in only as arguments; nothing here knows a method.
"""

from jaxplain.evaluation import (
    classification,
    fixations,
    intervals,
    localisation,
    masking,
    phrases,
    pointing,
    similarity,
    stability,
)

__all__ = [
    "classification",
    "fixations",
    "intervals",
    "localisation",
    "masking",
    "phrases",
    "pointing",
    "similarity",
    "stability",
]
