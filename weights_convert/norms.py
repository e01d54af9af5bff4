"""What differs in batch normalisation between sources, settled; and values that cannot be."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
from flax import nnx

from jaxplain.weights_convert.name_maps import NameMap


def epsilons(network: nnx.Module) -> dict[str, float]:
    return {
        ".".join(map(str, path)): cast(Any, module).epsilon
        for path, module in nnx.iter_modules(network)
        if hasattr(module, "epsilon") and hasattr(module, "var")
    }


def settle_norms(weights, tensors, resolved, epsilons, names: NameMap, notes: Any) -> None:
    """Factor, shift and epsilon of every batch normalisation, in place."""
    for module, epsilon in epsilons.items():
        mean, var = f"{module}.mean", f"{module}.var"
        if (factor := resolved.get(f"{module}.factor")) is not None:
            number = float(np.asarray(tensors[factor], np.float32).reshape(-1)[0])
            inverse = np.float32(0 if number == 0 else 1 / number)
            weights[mean], weights[var] = weights[mean] * inverse, weights[var] * inverse
            notes.add("mean and variance divided by the stored factor", factor)
        if (shift := resolved.get(f"{module}.shift")) is not None:
            weights[mean] = weights[mean] - np.asarray(tensors[shift], np.float32)
            notes.add("bias before batch normalisation, taken off the mean", shift)
        if names.epsilon is not None and not math.isclose(names.epsilon, epsilon, rel_tol=1e-6):
            difference = np.float32(names.epsilon - epsilon)
            weights[var] = np.asarray(weights[var], np.float32) + difference
            notes.add(
                f"variance + ({names.epsilon:g} - {epsilon:g}), for the epsilon of batch "
                "normalisation is theirs and then the network's",
                resolved[var],
            )


def impossible(weights, parameters, epsilons, before, resolved) -> list[str]:
    """Names of the statistics that are impossible after they were settled."""
    bad = []
    for module, epsilon in epsilons.items():
        mean, var = f"{module}.mean", f"{module}.var"
        if not fits(weights[mean], parameters[mean].dtype):
            bad.append(resolved[mean])
        # Exported weights may have taken an epsilon into the variance. It vanishes where a factor
        # is so large, or 0.
        value = weights[var]
        vanished = np.any((np.asarray(value) == 0) & (np.asarray(before[module]) != 0))
        if not fits(value, parameters[var].dtype) or np.min(value) <= -epsilon or vanished:
            bad.append(resolved[var])
    return bad


def fits(array: np.ndarray, dtype: Any) -> bool:
    """Whether the values are finite, and stay so in a dtype."""
    if array.dtype.kind in "biu":
        return True
    if array.dtype.kind == "c":
        return False
    if array.dtype != np.dtype(dtype):
        with np.errstate(over="ignore"):
            array = array.astype(dtype)
    return bool(np.isfinite(array).all())
