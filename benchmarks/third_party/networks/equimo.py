"""The Equinox networks of equimo: channels-first, and of one image."""

from __future__ import annotations

FAMILIES: tuple[str, ...] = ()
