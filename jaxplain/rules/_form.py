"""The two forms of a rule that weighs positive contributions apart from negative ones."""

from __future__ import annotations

from typing import Literal

#: ``"signed"`` splits the contributions ``a w`` by their sign, so that inputs of any sign are
#: treated alike; ``"plain"`` splits the weights alone, which is the same where inputs are >= 0.
Form = Literal["signed", "plain"]


def require_form(form: str) -> None:
    """An error unless ``form`` is one of the two."""
    if form not in ("signed", "plain"):
        raise ValueError(f"form must be 'signed' or 'plain', not {form!r}.")
