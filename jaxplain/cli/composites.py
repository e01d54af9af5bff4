"""`--composite`: which rules LRP puts on which layers."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from jaxplain.cli.common import CliError

if TYPE_CHECKING:
    from jaxplain import RuleSet
    from jaxplain.models import ModelConfig


def add_composite_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--composite`, a named composite or a function that makes one."""
    parser.add_argument(
        "--composite",
        metavar="NAME|MODULE:FUNCTION",
        help="which rules lrp puts on which layers: a composite's name, or your own function that "
        "returns a rule set, in a module of this folder or on the path; default: epsilon_plus",
    )


def load_composite(name: str) -> RuleSet:
    """The rule set of a composite's name, or of MODULE:FUNCTION."""
    from jaxplain import rules

    if ":" in name and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # which the installed command does not search by itself
    try:
        return rules.composite(name)
    except (ImportError, TypeError, ValueError) as error:
        raise CliError(f"--composite: {error}") from None


def lrp_options(composite: RuleSet, config: ModelConfig) -> dict[str, Any]:
    """The options of `jaxplain.lrp`; where a rule needs a box, it is that of the pixels."""
    import numpy as np

    from jaxplain.rules.composites import has_box

    if not has_box(composite):
        return {"composite": composite}
    mean, scale = np.asarray(config.mean), np.asarray(config.scale)
    return {"composite": composite, "box": ((0 - mean) / scale, (255 - mean) / scale)}
