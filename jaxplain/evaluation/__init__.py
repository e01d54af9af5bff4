"""How good a map is: scores as pure functions of arrays, and the papers' protocols.

Explainers come in only as arguments; nothing here knows a method.
"""

from jaxplain.evaluation import (
    faithfulness,
    faithfulness_study,
    fixation_study,
    fixations,
    localisation,
    localisation_study,
    phrase_study,
    phrases,
    pointing,
    pointing_game,
    randomisation_study,
    sanity,
    similarity,
)

__all__ = [
    "faithfulness",
    "faithfulness_study",
    "fixation_study",
    "fixations",
    "localisation",
    "localisation_study",
    "phrase_study",
    "phrases",
    "pointing",
    "pointing_game",
    "randomisation_study",
    "sanity",
    "similarity",
]
