"""Boykov and Jolly's graph cut: a picture's object and background, from pixels known to be either.

The labelling ``A`` of the pixels that is returned has the lowest energy of all,

    E(A) = strength * sum_p R_p(A_p) + sum_{p,q neighbours, A_p != A_q} B_pq

with ``R_p = -ln Pr(I_p | A_p)``, how badly the pixel's colour fits the model of its label's seeds;
``B_pq = exp(-|I_p - I_q|^2 / 2 sigma^2) / dist(p, q)``, what it costs to part two of eight
neighbours of like colours; and seeds that keep their label. The colour models are mixtures of
Gaussians, sigma^2 is the mean of ``|I_p - I_q|^2`` over the picture.

The lowest energy is a minimum cut between two terminals, found by SciPy's maximum flow.

References: Boykov and Jolly, *Interactive graph cuts for optimal boundary and region segmentation
of objects in N-D images*, ICCV 2001. Simonyan et al., *Deep inside convolutional networks*, 2014
(mixtures as the colour models).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["Energy", "energy", "fit_mixture", "minimise", "mixture_log_density"]

#: Half of the eight neighbours: (down, right); the others are these the other way round.
_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))
#: Gaussians in a colour model, and the steps of expectation and maximisation at most.
_COMPONENTS, _STEPS = 5, 50
#: Added to the variance of each channel: uint8 colours know no finer differences.
_VARIANCE = 1.0
#: Flows are whole numbers: a seed's tie, which is the largest capacity, is this many units.
_UNITS = 2**28


class Energy(NamedTuple):
    """The energy of a picture's labellings; N pixels, row by row, and M pairs of neighbours.

    Attributes:
        gain: ``(N,)``, the regional cost as background minus that as object, times the strength;
            infinite at seeds.
        pairs: int ``(M, 2)``.
        boundary: ``(M,)``, the cost of parting a pair.
    """

    gain: np.ndarray
    pairs: np.ndarray
    boundary: np.ndarray


def energy(
    pixels: np.ndarray, foreground: np.ndarray, background: np.ndarray, strength: float
) -> Energy:
    """The energy of a picture with seeds.

    Args:
        pixels: uint8 ``(H, W, 3)``.
        foreground, background: bool ``(H, W)``, the seeds, disjoint and not empty.
        strength: of the regional term.
    """
    colours = pixels.reshape(-1, 3).astype(np.float64)
    seeds = foreground.ravel(), background.ravel()
    fits = [mixture_log_density(fit_mixture(colours[own]), colours) for own in seeds]
    gain = strength * (fits[0] - fits[1])
    gain[seeds[0]], gain[seeds[1]] = np.inf, -np.inf

    height, width = foreground.shape
    number = np.arange(height * width).reshape(height, width)
    pairs, distances = [], []
    for down, right in _NEIGHBOURS:
        first = number[: height - down, max(-right, 0) : width - max(right, 0)].ravel()
        second = number[down:, max(right, 0) : width - max(-right, 0)].ravel()
        pairs.append(np.stack([first, second], axis=1))
        distances.append(np.full(len(first), np.hypot(down, right)))
    pairs = np.concatenate(pairs)
    squares = ((colours[pairs[:, 0]] - colours[pairs[:, 1]]) ** 2).sum(1)
    mean = squares.mean() if squares.any() else 1.0  # a picture of one colour has no edges
    return Energy(gain, pairs, np.exp(-squares / (2 * mean)) / np.concatenate(distances))


def minimise(energy: Energy) -> np.ndarray:
    """The labelling of the lowest energy, bool ``(N,)``; of several, the smallest object.

    Capacities are rounded to 2^-28 of the strongest tie of a seed, so that the energy found may be
    above the lowest by that much for each pixel and pair.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    gain, (first, second), boundary = energy.gain, energy.pairs.T, energy.boundary
    count = len(gain)
    # More than all that a pixel's neighbours can pull with: what reaches it decides on the label.
    pull = np.bincount(first, boundary, count) + np.bincount(second, boundary, count)
    tie = 1 + pull.max()
    gain = np.clip(gain, -tie, tie)
    source, sink, nodes = count, count + 1, np.arange(count)
    flows = np.concatenate([boundary, boundary, np.maximum(gain, 0), np.maximum(-gain, 0)])
    rows = np.concatenate([first, second, np.full(count, source), nodes])
    columns = np.concatenate([second, first, nodes, np.full(count, sink)])
    capacities = csr_array(
        (np.rint(flows * (_UNITS / tie)).astype(np.int32), (rows, columns)),
        shape=(count + 2, count + 2),
    )
    capacities.eliminate_zeros()
    left = capacities - maximum_flow(capacities, source, sink, method="dinic").flow
    left.eliminate_zeros()
    reached = np.zeros(count + 2, bool)
    reached[breadth_first_order(left, source, return_predecessors=False)] = True
    return reached[:count]


class Mixture(NamedTuple):
    """K Gaussians: shares ``(K,)``, means ``(K, 3)``, covariances ``(K, 3, 3)``."""

    shares: np.ndarray
    means: np.ndarray
    covariances: np.ndarray


def fit_mixture(colours: np.ndarray) -> Mixture:
    """At most five Gaussians, fitted to colours ``(n, 3)``; nothing of it is random.

    It starts from groups that are split, the one of the widest spread first, across the direction
    of that spread, and goes on by expectation and maximisation.
    """
    groups = np.zeros(len(colours), int)
    for new in range(1, min(_COMPONENTS, len(colours))):
        axes = [np.linalg.eigh(_scatter(colours[groups == g])) for g in range(new)]
        widest = int(np.argmax([values[-1] for values, _ in axes]))
        own = np.flatnonzero(groups == widest)
        away = (colours[own] - colours[own].mean(0)) @ axes[widest][1][:, -1]
        if not (away > 0).any():  # all of one colour, and every other group too
            break
        groups[own[away > 0]] = new
    mixture = _mixture_of(np.eye(groups.max() + 1)[groups], colours)
    before = -np.inf
    for _ in range(_STEPS):
        each = _each_log_density(mixture, colours)
        whole = np.logaddexp.reduce(each, axis=1)
        if whole.mean() - before < 1e-4:
            break
        before = whole.mean()
        mixture = _mixture_of(np.exp(each - whole[:, None]), colours)
    return mixture


def _mixture_of(belongs: np.ndarray, colours: np.ndarray) -> Mixture:
    """The likeliest Gaussians, where ``belongs`` ``(n, K)`` says whose a colour is."""
    weights = belongs.sum(0)
    there = weights > 1e-6
    belongs, weights = belongs[:, there], weights[there]
    means = belongs.T @ colours / weights[:, None]
    covariances = [
        ((colours - mean) * share[:, None]).T @ (colours - mean) / weight + _VARIANCE * np.eye(3)
        for mean, share, weight in zip(means, belongs.T, weights, strict=True)
    ]
    return Mixture(weights / len(colours), means, np.stack(covariances))


def mixture_log_density(mixture: Mixture, colours: np.ndarray) -> np.ndarray:
    """The logarithm of the density at colours ``(n, 3)``."""
    return np.logaddexp.reduce(_each_log_density(mixture, colours), axis=1)


def _each_log_density(mixture: Mixture, colours: np.ndarray) -> np.ndarray:
    """``(n, K)``, shares included."""
    found = []
    for share, mean, covariance in zip(*mixture, strict=True):
        root = np.linalg.cholesky(covariance)
        away = np.linalg.solve(root, (colours - mean).T)
        size = np.log(np.diag(root)).sum() + 1.5 * np.log(2 * np.pi)
        found.append(np.log(share) - size - 0.5 * (away**2).sum(0))
    return np.stack(found, axis=1)


def _scatter(colours: np.ndarray) -> np.ndarray:
    away = colours - colours.mean(0)
    return away.T @ away
