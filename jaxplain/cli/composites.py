"""Which rules LRP puts on which layers, as the command line names them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxplain.cli.common import CliError, find_in_this_folder

if TYPE_CHECKING:
    from jaxplain import RuleSet


def load_composite(name: str, where: str) -> RuleSet:
    """The rule set of a composite's name, or of MODULE:FUNCTION, a function that makes one."""
    from jaxplain import rules

    if ":" in name:
        find_in_this_folder()
    try:
        return rules.composite(name)
    except (ImportError, TypeError, ValueError) as error:
        raise CliError(f"{where}: {error}") from None
