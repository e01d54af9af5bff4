"""Maps of many layers in a row: Dense Attention (Ebrahimpour et al. 2019, Fig. 8) and NAFlow."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from jaxplain.viz.overlays import overlay


def attention_rows(
    image: np.ndarray,
    layers: Mapping[str, np.ndarray],
    cumulative: Mapping[str, np.ndarray],
    *,
    human: np.ndarray | None = None,
    cmap: str | None = None,
) -> dict[str, dict[str, np.ndarray]]:
    """A row of the layers' own maps and a row of the cumulative ones, last layer first.

    Layers are numbered from the first as 1; a combination is named by its numbers, as "layers 54".

    Args:
        image: (H, W, 3), uint8, or float in [0, 1].
        layers: layer name -> map (h, w) of one image, first layer first: `DenseAttention.layers`.
        cumulative: the same for `DenseAttention.cumulative`.
        human: a human fixation map (H', W'), drawn at the end as in the paper.
        cmap: a colour map of matplotlib in place of the style's.

    Returns:
        Rows for `jaxplain.viz.panel`.

    Raises:
        ValueError: no layer, other layers in `cumulative`, or arrays that cannot be drawn.

    >>> image = np.zeros((8, 8, 3), np.uint8)
    >>> maps = {"relu1": np.eye(4, dtype=np.float32), "relu2": np.eye(2, dtype=np.float32)}
    >>> {label: list(row) for label, row in attention_rows(image, maps, maps).items()}
    {'each layer': ['2: relu2', '1: relu1'], 'combined': ['layers 21']}
    """
    if not layers or list(layers) != list(cumulative):
        raise ValueError("layers and cumulative must be maps of the same layers, at least one.")
    number = {name: i for i, name in enumerate(layers, 1)}
    names = list(layers)[::-1]
    last = {} if human is None else {"human": overlay(image, human, cmap=cmap)}
    rows = {
        "each layer": {f"{number[n]}: {n}": overlay(image, layers[n], cmap=cmap) for n in names}
        | last
    }
    if len(names) > 1:
        joined = {n: "".join(str(number[m]) for m in names[: i + 1]) for i, n in enumerate(names)}
        rows["combined"] = {
            f"layers {joined[n]}": overlay(image, cumulative[n], cmap=cmap) for n in names[1:]
        } | last
    return rows


def flow_row(
    image: np.ndarray, maps: Mapping[str, np.ndarray], *, cmap: str | None = None
) -> dict[str, np.ndarray]:
    """NAFlow's strip: the maps of the layers over the image, last layer first (Liao et al. 2024).

    What is above a map's 99th percentile is drawn as that: single peaks would hide the rest.

    Args:
        image: (H, W, 3), uint8, or float in [0, 1].
        maps: layer name -> map (h, w) of one image, first layer first: what `jaxplain.naflow`
            returns for several layers.
        cmap: a colour map of matplotlib in place of the style's.

    Returns:
        A row for `jaxplain.viz.panel`.

    >>> image = np.zeros((8, 8, 3), np.uint8)
    >>> list(flow_row(image, {"layer1": np.eye(4), "layer2": np.eye(2)}))
    ['layer2', 'layer1']
    """
    return {
        name: overlay(image, np.minimum(maps[name], np.percentile(maps[name], 99)), cmap=cmap)
        for name in reversed(list(maps))
    }
