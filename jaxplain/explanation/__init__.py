"""`jaxplain.explain`: a picture, a network and methods to a result that one can hold."""

from typing import TYPE_CHECKING

from jaxplain.core.lazy import import_when_asked

if TYPE_CHECKING:
    from jaxplain.explanation.explaining import explain
    from jaxplain.explanation.result import Explanation, MethodMaps

__all__ = ["Explanation", "MethodMaps", "explain"]

import_when_asked(
    __name__, {"explain": "explaining", "Explanation": "result", "MethodMaps": "result"}
)
