"""How many different things a policy wants to do at a moment: clusters among the chunks that it draws.

K-means for two to four clusters; the number with the largest mean silhouette (Rousseeuw, J. Comput. Appl.
Math. 1987) counts if that is at least 0.75: above 0.7 Kaufman and Rousseeuw speak of strong structure.
Otherwise the chunks are one cluster.

Simulated with 24 chunks that differ along one line, which is the hardest case: of one normal distribution 1 %
of the moments are divided, of a uniform one none, of a heavy-tailed one (t with 3 degrees of freedom) 2 %, of
an exponential one 8 %. Two modes are found at 94 % of the moments if they are six standard deviations apart,
at 63 % if they are five apart. Modes that are nearer, and those with less than a tenth of the chunks, are not
counted.

Shapes: S chunks, D numbers of a chunk, K clusters.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["FEWEST_CHUNKS", "clusters"]

MOST_CLUSTERS = 4
STRONG = 0.75
SMALLEST_SHARE = 0.1
FEWEST_CHUNKS = 16
"""Of fewer chunks the silhouette says little."""
STARTS, ROUNDS = 4, 20

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def clusters(chunks: NDArray[np.floating], *, nearest: float = 0.0, seed: int = 0) -> Labels:
    """Sort chunks into clusters.

    Args:
        chunks: (S, D), in units in which all numbers matter alike.
        nearest: Clusters whose centres are not farther apart than this, as the root mean square over the D
            numbers, are one: a difference that matters to no robot is not a mode.
        seed: Of the first centres of k-means.

    Returns:
        (S,) the number of each chunk's cluster; all 0 if there is a single one.
    """
    chunks_SD = np.asarray(chunks, dtype=np.float64)
    one = np.zeros(len(chunks_SD), dtype=np.int64)
    if len(chunks_SD) < FEWEST_CHUNKS:
        return one
    rng = np.random.default_rng(seed)
    distance_SS = np.linalg.norm(chunks_SD[:, None] - chunks_SD[None], axis=-1)
    best, strength = one, STRONG
    for count in range(2, MOST_CLUSTERS + 1):
        labels_S = _k_means(chunks_SD, count, rng)
        sizes = np.bincount(labels_S, minlength=count)
        if sizes.min() < max(2, SMALLEST_SHARE * len(chunks_SD)):
            continue
        if _least_distance(chunks_SD, labels_S, count) <= nearest:
            continue
        found = _silhouette(distance_SS, labels_S, sizes)
        if found >= strength:
            best, strength = labels_S, found
    return best


def _k_means(chunks_SD: Floats, count: int, rng: np.random.Generator) -> Labels:
    """Labels of the best of a few runs, each from centres that are drawn far apart (k-means++)."""
    best, least = np.zeros(len(chunks_SD), dtype=np.int64), np.inf
    for _ in range(STARTS):
        centres_KD = _first_centres(chunks_SD, count, rng)
        for _ in range(ROUNDS):
            labels_S = _squares(chunks_SD, centres_KD).argmin(axis=1)
            moved_KD = np.stack(
                [
                    chunks_SD[labels_S == label].mean(axis=0) if (labels_S == label).any() else centre_D
                    for label, centre_D in enumerate(centres_KD)
                ]
            )
            if np.allclose(moved_KD, centres_KD):
                break
            centres_KD = moved_KD
        cost = _squares(chunks_SD, centres_KD).min(axis=1).sum()
        if cost < least:
            best, least = labels_S, cost
    return best


def _first_centres(chunks_SD: Floats, count: int, rng: np.random.Generator) -> Floats:
    centres = [chunks_SD[rng.integers(len(chunks_SD))]]
    for _ in range(count - 1):
        far_S = _squares(chunks_SD, np.stack(centres)).min(axis=1)
        chances = far_S / far_S.sum() if far_S.sum() > 0 else None
        centres.append(chunks_SD[rng.choice(len(chunks_SD), p=chances)])
    return np.stack(centres)


def _squares(chunks_SD: Floats, centres_KD: Floats) -> Floats:
    squares: Floats = np.square(chunks_SD[:, None] - centres_KD[None]).sum(axis=-1)
    return squares


def _least_distance(chunks_SD: Floats, labels_S: Labels, count: int) -> float:
    centres_KD = np.stack([chunks_SD[labels_S == label].mean(axis=0) for label in range(count)])
    apart_KK = np.sqrt(np.square(centres_KD[:, None] - centres_KD[None]).mean(axis=-1))
    return float(apart_KK[np.triu_indices(count, 1)].min())


def _silhouette(distance_SS: Floats, labels_S: Labels, sizes: Labels) -> float:
    """The mean over chunks of how much nearer their own cluster is than the next one."""
    rows = np.arange(len(labels_S))
    mean_SK = np.stack(
        [distance_SS[:, labels_S == label].sum(axis=1) / size for label, size in enumerate(sizes)], axis=1
    )
    own_S = mean_SK[rows, labels_S] * sizes[labels_S] / (sizes[labels_S] - 1)
    mean_SK[rows, labels_S] = np.inf
    other_S = mean_SK.min(axis=1)
    larger_S = np.maximum(own_S, other_S)
    return float(np.divide(other_S - own_S, larger_S, out=np.zeros_like(own_S), where=larger_S > 0).mean())
