"""Networks that others wrote, at tiny inputs, each also cut in two in its framework's own words.

Weights are random, and so are the statistics, scales (a fifth of them negative) and shifts of the
norms: what is folded wrongly shows. The cut, ``fn(x) = head(features(x))``, owes nothing to
jaxplain; the checks differentiate ``head`` and compare.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable

from benchmarks.third_party.networks import (
    equimo,
    flaim,
    flaxmodels,
    haiku,
    keras,
    keras_hub,
    kimm,
    transformers,
)
from benchmarks.third_party.networks.base import CLASSES, Attends, Cut, Network

__all__ = ["CLASSES", "NETWORKS", "Attends", "Cut", "Network", "installed", "network"]

os.environ.setdefault("KERAS_BACKEND", "jax")  # read when Keras is first imported

#: Name -> (the package that it is of, its builder and what that is given).
NETWORKS: dict[str, tuple[str, Callable[[str], Network], str]] = {
    **{name: ("keras", keras.build, name) for name in keras.FAMILIES},
    **{f"haiku {version}": ("haiku", haiku.build, version) for version in haiku.VERSIONS},
    **{f"keras-hub {name}": ("keras_hub", keras_hub.build, name) for name in keras_hub.FAMILIES},
    **{
        f"flaxmodels {name}": ("flaxmodels", flaxmodels.build, name) for name in flaxmodels.FAMILIES
    },
    **{f"kimm {name}": ("kimm", kimm.build, name) for name in kimm.FAMILIES},
    **{f"flaim {name}": ("flaim", flaim.build, name) for name in flaim.FAMILIES},
    **{f"equimo {name}": ("equimo", equimo.build, name) for name in equimo.FAMILIES},
    **{
        f"transformers {family}": ("transformers", transformers.build, family)
        for family in transformers.FAMILIES
    },
}


def installed() -> list[str]:
    """The names of the networks whose packages are here."""
    return [n for n, (package, *_) in NETWORKS.items() if importlib.util.find_spec(package)]


def network(name: str) -> Network:
    """The network of a name, in double precision (which JAX must be set to)."""
    _, build, given = NETWORKS[name]
    return build(given)
