"""The Equinox networks of equimo: channels-first, and of one image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.third_party.networks.base import CLASSES, Cut, Network, images, perturbed, tapped

FAMILIES: tuple[str, ...] = ()
