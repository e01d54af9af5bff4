"""Sanity checks by parameter randomisation (Adebayo et al. 2018): does a map depend on the network?

The parameters are made random, layer by layer from the top (cascading) or one layer at a time
(independent), and each method's maps are compared with those of the trained network by
`jaxplain.evaluation.rank_correlation`, `ssim` and `hog_similarity`. A method whose maps stay the
same does not explain what the network has learned.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxplain.core import trace

__all__ = ["parameter_layers", "randomisations"]


def parameter_layers(module: nnx.Module, x: jax.Array) -> list[str]:
    """The submodules that own parameters, the one nearest to the output first.

    The order is that in which the network uses them when applied to images ``x``.

    Raises:
      TypeError: it is not an NNX module.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> net = nnx.Sequential(nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0)), lambda x: x.mean((1, 2)),
      ...                      nnx.Linear(4, 2, rngs=nnx.Rngs(1)))
      >>> parameter_layers(net, jnp.zeros((1, 8, 8, 3)))
      ['layers.2', 'layers.0']
    """
    if not isinstance(module, nnx.Module):
        raise TypeError(f"layers are randomised in NNX modules, not in a {type(module).__name__}")
    graph = trace(module, x).graph
    paths = [path for path, _ in _flat(nnx.state(module))]
    variables = graph.constants[len(graph.constants) - len(paths) :]
    origins = {v: {path[:-1]} for v, path in zip(variables, paths, strict=True)}
    for eqn in graph.constant_equations:  # weights may be reshaped or cast before they are used
        found = set().union(*(origins.get(v, ()) for v in eqn.invars if isinstance(v, Hashable)))
        origins.update(dict.fromkeys(eqn.outvars, found))
    used: dict[tuple, None] = {}
    for op in graph.ops:
        for v in op.constants:
            found = origins.get(v, ()) if isinstance(v, Hashable) else ()
            used.update(dict.fromkeys(sorted(found, key=str)))
    owners = {path[:-1] for path, _ in _flat(nnx.state(module, nnx.Param))}
    return [_name(path) for path in reversed(used) if path in owners]


def randomisations(
    module: nnx.Module,
    x: jax.Array,
    key: jax.Array,
    *,
    cascading: bool = True,
    layers: Sequence[str] | None = None,
) -> Iterator[tuple[str, nnx.Module]]:
    """Copies of a network with random parameters in more and more layers, or in one at a time.

    Every parameter of a layer is drawn anew from a normal distribution with the mean and the
    standard deviation that the trained one has; running statistics of batch norms stay. A layer's
    random parameters are the same in both modes.

    Args:
      module: the trained network; it is left as it is.
      x: images ``(B, H, W, C)``, for the order of the layers.
      key: of the random numbers.
      cascading: True randomises each layer on top of the ones before; False each layer alone.
      layers: paths of submodules, whose parameters (with all below them) are randomised together,
        in this order; None for `parameter_layers`, from the top down.

    Yields:
      (layer, network).

    Raises:
      TypeError: it is not an NNX module. ValueError: a layer that owns no parameter.

    Reference: Adebayo et al., *Sanity checks for saliency maps*, NeurIPS 2018.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import nnx
      >>> net = nnx.Sequential(nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0)), lambda x: x.mean((1, 2)),
      ...                      nnx.Linear(4, 2, rngs=nnx.Rngs(1)))
      >>> for layer, other in randomisations(net, jnp.zeros((1, 8, 8, 3)), jax.random.key(0)):
      ...     print(layer, bool((other.layers[0].kernel[...] == net.layers[0].kernel[...]).all()))
      layers.2 True
      layers.0 False
    """
    order = parameter_layers(module, x) if layers is None else list(layers)
    graphdef, state = nnx.split(module)
    paths, tree = jax.tree_util.tree_flatten_with_path(state)
    trained = [value for _, value in paths]
    names = [_path(path) for path, _ in paths]
    parameters = {path for path, _ in _flat(nnx.state(module, nnx.Param))}
    values = list(trained)
    for layer in order:
        own = [
            i
            for i, path in enumerate(names)
            if path in parameters and f"{_name(path)}.".startswith(f"{layer}.")
        ]
        if not own:
            raise ValueError(f"there is no submodule {layer!r} with parameters")
        if not cascading:
            values = list(trained)
        for i in own:
            # By the parameter's number, so that it does not depend on mode and order.
            values[i] = _draw(jax.random.fold_in(key, i), trained[i])
        yield layer, nnx.merge(graphdef, jax.tree.unflatten(tree, values))


def _draw(key: jax.Array, value: jax.Array) -> jax.Array:
    wide = value.astype(jnp.float32)
    drawn = wide.mean() + wide.std() * jax.random.normal(key, value.shape)
    return drawn.astype(value.dtype)


def _flat(state: Any) -> list[tuple[tuple, jax.Array]]:
    return [(_path(path), v) for path, v in jax.tree_util.tree_flatten_with_path(state)[0]]


def _path(keys: Sequence[Any]) -> tuple:
    """The names on the way to a leaf; the last step, into the variable's value, is left out."""
    steps = [getattr(k, "key", getattr(k, "name", getattr(k, "idx", None))) for k in keys]
    return tuple(steps[:-1] if steps[-1] == "value" else steps)


def _name(path: Sequence[Any]) -> str:
    return ".".join(map(str, path))
