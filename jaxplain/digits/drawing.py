"""The benchmark's picture: a few images, asked about each of their classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jaxplain import data, viz
from jaxplain.digits.images import CLASSES, SIZE, ClutteredDigits
from jaxplain.digits.networks import small_image
from jaxplain.explainers.calling import explainer
from jaxplain.explainers.catalogue import METHODS
from jaxplain.postprocess import resize

_METHODS = ("mwp", "c-mwp", "grad-cam")


def examples(networks: Mapping[str, Any], count: int = 3) -> Figure:
    """Test images with several classes: one row per class, with maps of each network beside it.

    Args:
        networks: name -> network, trained.
        count: of images.
    """
    chosen = [r for r in ClutteredDigits(40, train=False) if len(set(r.labels.tolist())) > 1]
    rows = [(r, label) for r in chosen[:count] for label in sorted(set(r.labels.tolist()))]
    pixels = np.stack([small_image(record) for record, _ in rows])
    signals = np.eye(len(CLASSES), dtype=np.float32)[[label for _, label in rows]]
    columns = 1 + len(networks) * len(_METHODS)
    figure = Figure(figsize=(1.3 * columns, 1.45 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, (record, label) in zip(axes, rows, strict=True):
        line[0].imshow(record.image)
        line[0].set_title(CLASSES[label], fontsize=9, fontweight="bold")
    column = 1
    for network_name, network in networks.items():
        x = data.normalise(pixels, network.config)
        for name in _METHODS:
            method = METHODS[name]
            maps = np.asarray(explainer(name, network.config)(network, x, signals))
            for line, (record, _), one in zip(axes, rows, maps, strict=True):
                large = np.asarray(resize(one, (SIZE, SIZE), "bicubic"))
                line[column].imshow(viz.overlay(record.image, large, method.style))
                line[column].set_title(f"{network_name} {method.title}", fontsize=8)
            column += 1
    for one in axes.flat:
        one.set_axis_off()
    return figure
