"""The range of the pixels in rule sets that hold a `ZBox`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from jaxplain import core
from jaxplain.rules.lrp import ZBox

__all__ = ["has_box", "require_box", "with_box"]


def has_box(rules: core.RuleSet) -> bool:
    """Whether a rule set holds a `ZBox`, so that `jaxplain.lrp` can take ``box=``."""
    return bool(_boxes(rules))


def with_box(rules: core.RuleSet, box: tuple, name: str = "") -> core.RuleSet:
    """The rule set with this box in every `ZBox` that it holds.

    Args:
        rules: any rule set with a `ZBox`.
        box: ``(low, high)``: least and greatest value of the first linear layer's input, numbers
            or one for each channel.
        name: what an error calls the rule set.

    Raises:
        ValueError: ``box`` is no pair, or the rule set holds no `ZBox`.

    Example:
        >>> from jaxplain.rules import composite
        >>> with_box(composite("epsilon_gamma_box"), (0, 1)).overrides["first_linear"]
        ZBox(low=0.0, high=1.0, eps=1e-06)
    """
    if not has_box(rules):
        what = f"composite {name!r}" if name else "this rule set"
        raise ValueError(f"box is for rule sets that hold a ZBox, and {what} has none.")
    try:
        low, high = box
    except (TypeError, ValueError):
        raise ValueError(f"box must be (low, high), not {box!r}.") from None

    def fill(table: Mapping[str, core.Rule]) -> dict[str, core.Rule]:
        return {
            key: dataclasses.replace(rule, low=low, high=high) if isinstance(rule, ZBox) else rule
            for key, rule in table.items()
        }

    return rules.replace(fill(rules.rules), overrides=fill(rules.overrides))


def require_box(rules: core.RuleSet, name: str = "") -> None:
    """An error where a `ZBox` of the rule set has no bounds yet."""
    if any(rule.low is None for rule in _boxes(rules)):
        what = f"composite {name!r}" if name else "a rule set with an open ZBox"
        raise ValueError(f"{what} needs box=(low, high), the range of the pixel values.")


def _boxes(rules: core.RuleSet) -> list[ZBox]:
    every = [*rules.rules.values(), *rules.overrides.values()]
    return [rule for rule in every if isinstance(rule, ZBox)]
