"""Which network a file of weights is of, by the names and shapes of its tensors."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import numpy as np
from flax import nnx

from jaxplain import weights_convert as wc
from jaxplain.models.entries import ENTRIES, PARAMETERS

#: A file may hold heads that are left out (GoogLeNet's are as large as the network itself), and
#: fewer classes than usual. What is not so large, or much larger, is not looked at.
_LEAST, _MOST = 0.5, 2.5


def recognise(tensors: Mapping[str, np.ndarray], outputs: int | None = None) -> str:
    """The name of the one network that tensors fit, by any of its sources.

    Args:
        tensors: name -> array, as a reader gives them.
        outputs: the number of classes, where it is not the network's own.

    Raises:
        weights_convert.ConversionError: they fit several networks, which are listed, or none: then
            the nearest is named, with what is wrong.
    """
    numbers = sum(math.prod(array.shape) for array in tensors.values())
    fitting: list[str] = []
    nearest: tuple[float, str, str] = (0.0, "", "")
    for name, entry in ENTRIES.items():
        if not _LEAST <= numbers / PARAMETERS[name] <= _MOST:
            continue
        if outputs is not None and entry.embedding:  # which has no classes
            continue
        forms = [_abstract(name, s.names.source, outputs or entry.outputs) for s in entry.sources]
        fits = [
            (*wc.best_fit(tensors, form, [s.names]), form)
            for form, s in zip(forms, entry.sources, strict=True)
        ]
        names, share, network = max(fits, key=lambda fit: fit[1])
        if share < 1 and share <= nearest[0]:
            continue
        try:
            wc.convert(tensors, network, names)
            fitting.append(name)
        except wc.ConversionError as error:
            nearest = max(nearest, (share, name, str(error)))
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise wc.ConversionError(
            f"the tensors fit several networks, {', '.join(fitting)}: say which, by network= or "
            "--network on the command line"
        )
    if nearest[1]:
        _, name, problem = nearest
        problem = f"{problem[0].lower()}{problem[1:]}"
        raise wc.ConversionError(
            f"the tensors fit no network that jaxplain knows; to the nearest, {name}, {problem}"
        )
    some = ", ".join(sorted(tensors)[:3])
    raise wc.ConversionError(
        f"the tensors ({some} ...) are named as in no network that jaxplain knows; 'jaxplain "
        "models' lists them"
    )


def _abstract(name: str, source: str, outputs: int) -> nnx.Module:
    return _built(ENTRIES[name].builder(source), outputs)


@functools.cache
def _built(build: Callable[..., nnx.Module], outputs: int) -> nnx.Module:
    return wc.abstract(lambda rngs: build(outputs, rngs=rngs))
