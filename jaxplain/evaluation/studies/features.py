"""What Principal Feature Visualisation is for (Bakken et al. 2020, section 5 and Fig. 3).

`misclassification_report` shows which features a misclassified image lacks or has too many of;
`transfer_report` predicts which classes of a new data set the network's features will confuse, and
checks it by training a new last layer; `untrained_similarity` is the sanity check.

Foreground is where an image's activation map is above its mean; the paper leaves that open.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain.core import Table
from jaxplain.core.numerics import safe_divide
from jaxplain.evaluation.studies.report import Report
from jaxplain.training.last_layer import LastLayer, confusion_matrix, last_layer_inputs

__all__ = [
    "ColourRow",
    "Misclassification",
    "Transfer",
    "TransferRow",
    "colour_histogram",
    "colour_shares",
    "foreground",
    "histogram_distance",
    "misclassification_report",
    "transfer_report",
    "untrained_similarity",
]


def foreground(weights: jax.Array) -> jax.Array:
    """Where each activation map ``(B, H, W)`` is above its own mean: bool ``(B, H, W)``.

    >>> foreground(jnp.array([[[0.0, 1.0], [2.0, 5.0]]])).astype(int).tolist()
    [[[0, 0], [0, 1]]]
    """
    weights = jnp.asarray(weights)
    return weights > weights.mean((-2, -1), keepdims=True)


def colour_histogram(colours: jax.Array, mask: jax.Array, *, bins: int = 16) -> jax.Array:
    """The distribution of each colour channel over the masked pixels of each image.

    Args:
        colours: ``(B, H, W, k)`` in [0, 1], such as `pfv`'s.
        mask: bool ``(B, H, W)``, such as `foreground`.
        bins: intervals of equal width.

    Returns:
        ``(B, k, bins)`` with sums of one; zeros for an image without masked pixels.

    >>> colours = jnp.array([0.1, 0.9, 0.2, 0.2]).reshape(1, 2, 2, 1)
    >>> colour_histogram(colours, jnp.array([[[True, True], [False, False]]]), bins=4).tolist()
    [[[0.5, 0.0, 0.0, 0.5]]]
    """
    colours = jnp.asarray(colours, jnp.float32)
    index = jnp.clip((colours * bins).astype(jnp.int32), 0, bins - 1)
    counts = (jax.nn.one_hot(index, bins) * mask[..., None, None]).sum((1, 2))
    return counts / jnp.maximum(counts.sum(-1, keepdims=True), 1)


def colour_shares(colours: jax.Array, mask: jax.Array) -> jax.Array:
    """Each channel's share of the masked pixels' colour, the bars of Fig. 5: ``(B, k)``.

    >>> colours = jnp.array([[[[0.2, 0.6]], [[1.0, 0.2]]]])
    >>> colour_shares(colours, jnp.array([[[True], [False]]])).tolist()
    [[0.25, 0.75]]
    """
    sums = (jnp.asarray(colours, jnp.float32) * mask[..., None]).sum((1, 2))
    return safe_divide(sums, sums.sum(-1, keepdims=True))


def histogram_distance(a: jax.Array, b: jax.Array) -> jax.Array:
    """Earth mover's distance of two `colour_histogram`s, mean over channels; 0 to 1.

    >>> histogram_distance(jnp.array([[1.0, 0.0, 0.0]]), jnp.array([[0.0, 0.0, 1.0]])).item()
    1.0
    """
    moved = jnp.abs(jnp.cumsum(a - b, axis=-1)).sum(-1)
    return (moved / max(a.shape[-1] - 1, 1)).mean(-1)


class ColourRow(NamedTuple):
    """An image of a misclassification report: its colours, how far they are from each group's."""

    image: str
    shares: tuple[float, ...]
    to_true: float
    to_mistaken: float


class Misclassification(NamedTuple):
    """Which features the failed image has too little or too much of.

    Attributes:
        features: `PrincipalFeatures` of the batch: the failed image, the true class, the mistaken.
        missing: the component whose share is furthest below that of the true class.
        misleading: the component whose share is furthest above.
        deviations: ``(k,)``, the failed image's shares less the true class's mean.
        where_missing: ``(n, H, W)``, that component's colour in the foreground of the true class's
            images: where the failed image ought to have it.
        where_misleading: ``(H, W)``, that component's colour in the failed image's foreground.
    """

    features: Any
    missing: int
    misleading: int
    deviations: np.ndarray
    where_missing: np.ndarray
    where_misleading: np.ndarray


def misclassification_report(
    visualise: Callable[[jax.Array], Any],
    failed: jax.Array,
    true_class: jax.Array,
    mistaken_class: jax.Array,
    *,
    bins: int = 16,
) -> Report[Misclassification]:
    """Compares a misclassified image with correct ones of both classes (section 5.1).

    The paper takes three images of each class. All are visualised in one batch, so that colours
    mean the same, and compared by the distribution of colours in the foreground.

    Args:
        visualise: images to `PrincipalFeatures`, as ``functools.partial(jaxplain.pfv, network)``.
        failed: the image ``(H, W, C)``.
        true_class: correctly classified images of its class, ``(n, H, W, C)``.
        mistaken_class: correctly classified images of the class it was taken for, ``(m, H, W, C)``.
        bins: of the histograms whose distances the table gives.

    Returns:
        A `Report`; its table has a `ColourRow` per image, the failed one first.

    Raises:
        ValueError: shapes that do not fit.
    """
    failed, right, wrong = (jnp.asarray(v) for v in (failed, true_class, mistaken_class))
    shape = failed.shape
    fits = all(v.ndim == 4 and len(v) and v.shape[1:] == shape for v in (right, wrong))
    if len(shape) != 3 or not fits:
        raise ValueError(
            "failed must be one image (H, W, C), the others images (n, H, W, C) of "
            f"its size, not {shape}, {right.shape} and {wrong.shape}"
        )
    features = visualise(jnp.concatenate([failed[None], right, wrong]))
    mask = foreground(features.weights)
    histograms = colour_histogram(features.colours, mask, bins=bins)
    shares = np.asarray(colour_shares(features.colours, mask))
    of_true, of_wrong = slice(1, 1 + len(right)), slice(1 + len(right), None)
    to_true, to_wrong = (
        np.asarray(histogram_distance(histograms, histograms[of].mean(0)))
        for of in (of_true, of_wrong)
    )
    names = [
        "failed",
        *(f"true {i + 1}" for i in range(len(right))),
        *(f"mistaken {i + 1}" for i in range(len(wrong))),
    ]
    rows = [
        ColourRow(name, tuple(round(float(v), 3) for v in s), float(t), float(w))
        for name, s, t, w in zip(names, shares, to_true, to_wrong, strict=True)
    ]
    deviations = shares[0] - shares[of_true].mean(0)
    missing, misleading = int(deviations.argmin()), int(deviations.argmax())
    seen = np.asarray(features.colours, np.float32) * np.asarray(mask)[..., None]
    results = Misclassification(
        features,
        missing,
        misleading,
        deviations,
        seen[of_true][..., missing],
        seen[0][..., misleading],
    )
    return Report(
        "misclassification",
        "A misclassified image by its principal features",
        [("", Table(rows))],
        [
            f"Missing: component {missing + 1}; misleading: component {misleading + 1}. Distances "
            "of colours to the mean of each class."
        ],
        results,
        {
            "missing": missing,
            "misleading": misleading,
            "deviations": deviations,
            "images": {row.image: row._asdict() for row in rows},
        },
        functools.partial(_draw_shares, rows=rows),
    )


def _draw_shares(report: Report[Misclassification], rows: Sequence[ColourRow]) -> Any:
    """The share of each component in each image, the bars of Fig. 5."""
    from jaxplain.viz import charts

    series = zip(*(row.shares for row in rows), strict=True)
    return charts.group_bars(
        {f"component {k}": shares for k, shares in enumerate(series, 1)},
        [row.image for row in rows],
        "share of the colours",
        report.title,
    )


class TransferRow(NamedTuple):
    """A class of a transfer report."""

    name: str
    accuracy: float
    response: float
    most_confused: str
    nearest_colours: str


class Transfer(NamedTuple):
    """What the features promise for a new data set, and what training a last layer gave.

    Attributes:
        features: the `PrincipalFeatures` of one image per class, in the order of the classes.
        response: ``(K,)``, each image's mean activation map over the largest of them; the paper
            expects classes of weak response to do badly.
        colour_distance: ``(K, K)``, between the colours of the classes' foregrounds; the paper
            expects classes of similar colours to be confused.
        confusion: ``(K, K)`` counts on the validation set, one row per true class.
        classifier: the trained `LastLayer`.
        agreement: rank correlation, over pairs of classes, of similarity in colour with the share
            confused; NaN where nothing is confused.
    """

    features: Any
    response: np.ndarray
    colour_distance: np.ndarray
    confusion: np.ndarray
    classifier: LastLayer
    agreement: float


def transfer_report(
    fn: Callable,
    visualise: Callable[[jax.Array], Any],
    train: tuple[Any, Any],
    validation: tuple[Any, Any],
    *,
    class_names: Sequence[str],
    batch_size: int = 16,
    **training: Any,
) -> Report[Transfer]:
    """Will this network's features tell the classes of a new data set apart (section 5.2)?

    Visualises one training image per class (its first) in one batch; then trains a new last layer
    on the unchanged features below it until the validation loss stops falling, and counts
    confusions.

    Args:
        fn: the network, whose last dense layer is replaced.
        visualise: images to `PrincipalFeatures`, as ``functools.partial(jaxplain.pfv, fn)``.
        train, validation: images ``(N, H, W, C)`` and labels ``(N,)``, 0 to K - 1; every class must
            occur in ``train``.
        class_names: the K classes.
        batch_size: images at once through the network.
        training: options of `LastLayer.fit`.

    Returns:
        A `Report`; its table has a `TransferRow` per class.

    Raises:
        ValueError: shapes or labels that do not fit, or a network without a last dense layer.
    """
    count = len(class_names)
    images, labels = jnp.asarray(train[0]), np.asarray(train[1])
    first = [np.flatnonzero(labels == c) for c in range(count)]
    if any(not len(f) for f in first):
        lacking = [n for n, f in zip(class_names, first, strict=True) if not len(f)]
        raise ValueError(f"there is no training image of {', '.join(lacking)}")
    features = visualise(images[np.array([f[0] for f in first])])
    mask = foreground(features.weights)
    histograms = colour_histogram(features.colours, mask)
    distance = np.asarray(histogram_distance(histograms[:, None], histograms[None]))
    response = np.asarray(features.weights, np.float32).mean((1, 2))
    response = response / max(response.max(), np.finfo(np.float32).tiny)

    inputs = [(last_layer_inputs(fn, x, batch_size=batch_size), y) for x, y in (train, validation)]
    classifier = LastLayer.fit(*inputs, classes=count, **training)
    predicted = classifier(inputs[1][0]).argmax(-1)
    confusion = confusion_matrix(inputs[1][1], predicted, count)
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    off = share + np.diag(np.full(count, -1.0))
    far = distance + np.diag(np.full(count, np.inf))
    rows = [
        TransferRow(
            name,
            float(share[i, i]),
            float(response[i]),
            class_names[int(off[i].argmax())] if off[i].max() > 0 else "",
            class_names[int(far[i].argmin())],
        )
        for i, name in enumerate(class_names)
    ]
    pairs = np.triu_indices(count, 1)
    agreement = _rank_correlation(-distance[pairs], (share + share.T)[pairs])
    results = Transfer(features, response, distance, confusion, classifier, agreement)
    return Report(
        "transfer",
        "Classes of a new data set by their principal features",
        [("", Table(rows))],
        [
            "Rank correlation of similarity in colour with the share confused: "
            f"{'-' if np.isnan(agreement) else f'{agreement:.2f}'}."
        ],
        results,
        {
            "agreement": agreement,
            "classes": {row.name: row._asdict() for row in rows},
            "colour_distance": distance,
            "confusion": confusion,
        },
        functools.partial(_draw_classes, rows=rows),
    )


def _draw_classes(report: Report[Transfer], rows: Sequence[TransferRow]) -> Any:
    """The accuracy on each class beside what its features promise."""
    from jaxplain.viz import charts

    return charts.group_bars(
        {"accuracy": [row.accuracy for row in rows], "response": [row.response for row in rows]},
        [row.name for row in rows],
        "accuracy; response of the features",
        report.title,
    )


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's, ties by their mean rank; NaN where one is constant."""
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    ranks = [((v[:, None] > v).sum(1) + ((v[:, None] == v).sum(1) - 1) / 2) for v in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


def untrained_similarity(trained: Any, untrained: Any) -> jax.Array:
    """How much two visualisations of the same images have in common (the check of Fig. 3): 0 to 1.

    The mean squared canonical correlation of their weighted components over all pixels, which no
    change of sign, order, rotation or scale of the components alters. A visualisation that shows
    the network and not just the image falls well below 1 when the weights are random.

    Args:
        trained, untrained: `PrincipalFeatures` of the same images from both networks.

    >>> from types import SimpleNamespace
    >>> v = jnp.arange(12.0).reshape(1, 2, 3, 2) ** 2
    >>> one, turned = SimpleNamespace(weighted=v), SimpleNamespace(weighted=-2 * v[..., ::-1])
    >>> round(float(untrained_similarity(one, turned)), 3)
    1.0
    """
    bases = []
    for features in (trained, untrained):
        v = jnp.asarray(features.weighted, jnp.float32)
        v = v.reshape(-1, v.shape[-1])
        bases.append(jnp.linalg.qr(v - v.mean(0))[0])
    if bases[0].shape[0] != bases[1].shape[0]:
        raise ValueError(
            "both must be of the same images and size; they have "
            f"{bases[0].shape[0]} and {bases[1].shape[0]} pixels"
        )
    return jnp.square(bases[0].T @ bases[1]).sum() / min(b.shape[1] for b in bases)
