"""The words in which the signatures of explainers are written.

``__init__.pyi`` is generated from these annotations: `Layer` and `Layers` become overloads, so that
a type checker knows when a function returns one array of maps and when a dict of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Union

import jax
import numpy as np

from jaxplain.core import RuleSet

if TYPE_CHECKING:
    from flax import nnx

#: Images ``(B, H, W, C)`` to scores; an NNX module need not say that it can be called.
Network: TypeAlias = Union[Callable[..., Any], "nnx.Module"]
Images: TypeAlias = jax.Array | np.ndarray
#: None, a class, ``(B,)`` or ``(B, K)`` classes, or a signal ``(B, N)`` or ``(B, K, N)``,
#: over a score map also ``(B, H', W', N)`` or ``(B, K, H', W', N)``.
Targets: TypeAlias = (
    int | np.integer | jax.Array | np.ndarray | Sequence[int] | Sequence[Sequence[int]] | None
)
#: A layer or several; None is one, the last with more than one position.
Layer: TypeAlias = str | Sequence[str] | None
#: A layer or several; None is several, one at each resolution.
Layers: TypeAlias = str | Sequence[str] | None
#: How maps lie in a layer of which it is not known: the grid of its positions, row by row, or a
#: function from its values to maps ``(B, h, w, C)``.
Tokens: TypeAlias = tuple[int, int] | Callable[[jax.Array], jax.Array] | None
#: Of one layer, or of each of several.
Maps: TypeAlias = jax.Array | dict[str, jax.Array]
#: What becomes of the channel axis.
Reduce: TypeAlias = Literal["max_abs", "sum", "l2"] | None
#: What hidden or absent pixels are; it broadcasts to the images.
Baseline: TypeAlias = float | jax.Array | np.ndarray
#: A height and a width, or one number for both.
Size: TypeAlias = int | tuple[int, int]
#: Which rule goes on which layer: the name of a composite, or the rules themselves.
Composite: TypeAlias = str | RuleSet
#: How many classes to take at once: as many as 256 MiB hold, a number, or all of them.
ClassChunk: TypeAlias = int | Literal["auto"] | None
