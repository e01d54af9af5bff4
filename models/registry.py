"""The networks that jaxplain knows by name."""

from __future__ import annotations

from jaxplain.models.classes import nearest
from jaxplain.models.entries import ENTRIES
from jaxplain.models.entry import Entry

#: Name -> entry.
REGISTRY: dict[str, Entry] = ENTRIES


def find(name: str) -> Entry:
    """The entry of a name.

    Raises:
      ValueError: there is none (the nearest are suggested).

    Example:
      >>> from jaxplain.models.registry import find
      >>> find("efficientnet_lite0").config.input_size
      224
    """
    if name not in REGISTRY:
        raise unknown(name)
    return REGISTRY[name]


def unknown(name: str) -> ValueError:
    """The error that there is no network of this name."""
    near = nearest(name, sorted(REGISTRY)) or sorted(REGISTRY)
    return ValueError(
        f"There is no network {name!r}; the nearest are {', '.join(map(repr, near))}."
    )
