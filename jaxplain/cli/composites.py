"""Which rules LRP puts on which layers, as the command line names them."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from jaxplain.cli.common import CliError

if TYPE_CHECKING:
    from jaxplain import RuleSet


def load_composite(name: str, where: str) -> RuleSet:
    """The rule set of a composite's name, or of MODULE:FUNCTION, a function that makes one."""
    from jaxplain import rules

    if ":" in name and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # which the installed command does not search by itself
    try:
        return rules.composite(name)
    except (ImportError, TypeError, ValueError) as error:
        raise CliError(f"{where}: {error}") from None
