"""How good a map is: scores as pure functions of arrays, and the papers' protocols.

Explainers come in only as arguments; nothing here knows a method.
"""

from jaxplain.evaluation import (
    faithfulness,
    fixations,
    localisation,
    phrases,
    pointing,
    pointing_game,
    sanity,
    similarity,
)

__all__ = [
    "faithfulness", "fixations", "localisation", "phrases", "pointing", "pointing_game", "sanity",
    "similarity",
]  # fmt: skip
