"""`jaxplain.explain`: a picture, a network and methods to a result that one can hold."""

from jaxplain.explanation.explaining import explain
from jaxplain.explanation.result import Explanation, MethodMaps

__all__ = ["Explanation", "MethodMaps", "explain"]
