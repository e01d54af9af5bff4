"""Sanity checks by parameter randomisation (Adebayo et al. 2018): does a map depend on the network?

Each method explains the class that the trained network predicts, first with the trained network,
then with parameters made random, layer by layer from the top (cascading) or one layer at a time
(independent). How alike the two maps are, by `jaxplain.evaluation.similarity`, is the result: a
method whose maps stay the same does not explain what the network has learned.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxplain import postprocess
from jaxplain.core import Table, trace
from jaxplain.evaluation import similarity
from jaxplain.evaluation.studies.questions import predicted
from jaxplain.evaluation.studies.report import Report

__all__ = [
    "MEASURES",
    "MODES",
    "parameter_layers",
    "randomisation_study",
    "randomisations",
    "top_modules",
]

MEASURES = ("rank_correlation", "ssim", "hog")
MODES = ("cascading", "independent")
#: Mode -> method -> measure -> ``(layers, images)``, the layers from the top down.
Similarities = dict[str, dict[str, dict[str, np.ndarray]]]


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
            in this order, "" being the parameters that the network itself owns; None for
            `parameter_layers`, from the top down.

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
            if path in parameters
            and (f"{_name(path)}.".startswith(f"{layer}.") if layer else len(path) == 1)
        ]
        if not own:
            raise ValueError(f"there is no submodule {layer!r} with parameters")
        if not cascading:
            values = list(trained)
        for i in own:
            # By the parameter's number, so that it does not depend on mode and order.
            values[i] = _redrawn(jax.random.fold_in(key, i), trained[i])
        yield layer, nnx.merge(graphdef, jax.tree.unflatten(tree, values))


def _redrawn(key: jax.Array, value: jax.Array) -> jax.Array:
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


def top_modules(module: nnx.Module, x: jax.Array) -> list[str]:
    """The topmost submodules that hold parameters, the one nearest to the output first.

    Coarser than `parameter_layers`: a block counts as one layer, as in the paper's figures.

    Example:
        >>> net = nnx.Sequential(nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0)), lambda x: x.mean((1, 2)),
        ...                      nnx.Linear(4, 2, rngs=nnx.Rngs(1)))
        >>> top_modules(net, jnp.zeros((1, 8, 8, 3)))
        ['layers.2', 'layers.0']
    """
    names = []
    for path in parameter_layers(module, x):
        parts = path.split(".")
        # A list of blocks is no block: `layers.2`, `stage1.0`.
        count = next((i for i, p in enumerate(parts[1:], 2) if not p.isdigit()), len(parts) + 1) - 1
        names.append(".".join(parts[:count]))
    return list(dict.fromkeys(names))


def randomisation_study(
    module: nnx.Module,
    x: jax.Array,
    methods: Mapping[str, Callable[[nnx.Module, jax.Array, jax.Array], jax.Array]],
    key: jax.Array,
    *,
    layers: Sequence[str] | None = None,
    modes: Sequence[str] = MODES,
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> Report[Similarities]:
    """Compares the maps of a network with those of the same network with random parameters.

    Maps are resized to the images bilinearly and divided by their maximum before they are compared
    (SSIM's data range is 1).

    Args:
        module: the trained network, images to logits.
        x: images ``(N, H, W, C)`` as it expects them.
        methods: name -> (network, images, classes ``(B,)``) to maps ``(B, h, w)``, evidence
            positive; of signed maps pass the absolute value or the positive part.
        key: of the random parameters.
        layers: what is randomised, in this order; None for `top_modules`.
        modes: of ``MODES``: each layer on top of those before, or alone.
        batch_size: images at once.
        progress: called with the number of randomised networks that are done, and of all.

    Returns:
        A `Report` whose results are mode -> method -> measure -> ``(layers, images)``, the layers
        from the top down.

    Raises:
        ValueError: no method, no image, or an unknown mode or layer. TypeError: no NNX module.

    Reference: Adebayo et al., *Sanity checks for saliency maps*, NeurIPS 2018.
    """
    x = jnp.asarray(x)
    if not methods or not len(x):
        raise ValueError("the sanity check needs at least one method and one image")
    unknown = [mode for mode in modes if mode not in MODES]
    if unknown or not modes:
        raise ValueError(f"modes must be of {', '.join(MODES)}, not {unknown or 'none'}")
    layers = top_modules(module, x[:1]) if layers is None else list(layers)
    starts = range(0, len(x), batch_size)
    batches = [x[np.minimum(np.arange(i, i + batch_size), len(x) - 1)] for i in starts]
    classes = [predicted(module, b) for b in batches]

    graphdef = nnx.split(module)[0]

    @jax.jit
    def explained(state: Any, b: jax.Array, c: jax.Array) -> dict[str, jax.Array]:
        network, size = nnx.merge(graphdef, state), (x.shape[1], x.shape[2])
        return {name: _normalised(m(network, b, c), size) for name, m in methods.items()}

    def maps(network: nnx.Module) -> list[dict[str, jax.Array]]:
        """Of each batch the maps of all methods."""
        state = nnx.state(network)
        return [explained(state, b, c) for b, c in zip(batches, classes, strict=True)]

    trained = maps(module)
    found: dict = {}
    done = 0
    for mode in modes:
        values: dict = {name: {m: [] for m in MEASURES} for name in methods}
        copies = randomisations(module, x[:1], key, cascading=mode == "cascading", layers=layers)
        for _, other in copies:
            after = maps(other)
            for name in methods:
                rows = [
                    jax.device_get(_compare(a[name], b[name]))
                    for a, b in zip(trained, after, strict=True)
                ]
                for m in MEASURES:
                    values[name][m].append(np.concatenate([row[m] for row in rows])[: len(x)])
            done += 1
            if progress is not None:
                progress(done, len(modes) * len(layers))
        found[mode] = {
            name: {m: np.stack(rows) for m, rows in own.items()} for name, own in values.items()
        }
    return _report(layers, len(x), found)


def _report(layers: list[str], images: int, found: Similarities) -> Report[Similarities]:
    """One table per mode: the mean over images of each measure.

    For cascading randomisation: with the first (top) layer, half of the layers and all of them
    random; for independent: the mean over the layers, and the lowest.
    """
    last = len(layers) - 1
    tables = []
    for mode, methods in found.items():
        if mode == "cascading":
            at = list(dict.fromkeys([0, last // 2, last]))
            heads = [f"down to {layers[i]}" for i in at]
            pick = functools.partial(_at, layers=at)
        else:
            heads, pick = ["mean over layers", "lowest"], _overall
        rows = []
        for name, measures in methods.items():
            columns = zip(*(pick(measures[m]) for m in MEASURES), strict=True)
            rows.append((name, *(" / ".join(f"{v:.2f}" for v in column) for column in columns)))
        heading = f"{mode.capitalize()} randomisation: rank correlation / SSIM / HOG"
        tables.append((heading, Table(rows, ["method", *heads], right=heads)))
    return Report(
        "parameter randomisation",
        "Parameter randomisation",
        tables,
        [f"Mean over {images} images; 1 is no change."],
        found,
        {"layers": layers, "images": images, "similarity": found},
        functools.partial(_draw, layers=layers),
    )


def _at(values: np.ndarray, layers: list[int]) -> list[float]:
    return [float(values.mean(1)[i]) for i in layers]


def _overall(values: np.ndarray) -> list[float]:
    return [float(values.mean()), float(values.mean(1).min())]


def _draw(report: Report[Similarities], layers: list[str]) -> Any:
    """Similarity over the layers, from the top of the network down; one row of panels per mode."""
    from jaxplain.viz import charts

    names = {"rank_correlation": "rank correlation", "ssim": "SSIM", "hog": "HOG similarity"}
    panels = [
        [
            charts.Panel(
                f"{label}, {mode}",
                range(len(layers) + 1),
                {name: [1.0, *found[measure].mean(1)] for name, found in methods.items()},
            )
            for measure, label in names.items()
        ]
        for mode, methods in report.results.items()
    ]
    title = f"{report.title}: mean over {report.details['images']} images"
    return charts.curves(panels, title, markers=True, ticks=["(trained)", *layers])


@jax.jit
def _compare(a: jax.Array, b: jax.Array) -> dict[str, jax.Array]:
    return {
        "rank_correlation": similarity.rank_correlation(a, b),
        "ssim": similarity.ssim(a, b),
        "hog": similarity.hog_similarity(a, b),
    }


def _normalised(maps: jax.Array, shape: tuple[int, int]) -> jax.Array:
    maps = postprocess.resize(maps.astype(jnp.float32), shape)
    return postprocess.normalise_max(postprocess.positive(maps))
