"""How probable it is that each of many policies is the best. Easier to read than p-values; both are shown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sweeper.evidence.intervals import as_values

__all__ = ["best_mean_probabilities", "best_rate_probabilities"]

DRAWS = 10_000
"""Draws from the posterior; a probability near 0.5 has a standard error of 0.005."""


def best_rate_probabilities(
    successes: ArrayLike, episodes: ArrayLike, *, seed: int = 0, draws: int = DRAWS
) -> NDArray[np.float64]:
    """For each policy the probability that its success rate is the largest.

    Each rate has a uniform prior, so its posterior is Beta(1 + successes, 1 + failures). The posteriors are
    taken as
    independent: pairs on the same starts are not used, which makes the answer a little too cautious.

    Args:
        successes: For each policy.
        episodes: For each policy; with 0 episodes the prior remains.
        seed: Of the draws: equal input gives equal output.
        draws: Draws from the posterior.

    Raises:
        ValueError: If successes are not within 0 to the episodes.
    """
    won, played = np.asarray(successes, dtype=np.int64), np.asarray(episodes, dtype=np.int64)
    wrong = (won < 0) | (won > played)
    if wrong.any():
        raise ValueError(f"{won[wrong][0]} successes in {played[wrong][0]} episodes")
    rng = np.random.default_rng(seed)
    return _shares_of_the_best(rng.beta(1 + won, 1 + played - won, size=(draws, len(won))))


def best_mean_probabilities(
    outcomes: Sequence[ArrayLike], *, paired: bool, seed: int = 0, draws: int = DRAWS
) -> NDArray[np.float64]:
    """For each policy the probability that its mean, e.g. of rewards, is the largest.

    The posterior is that of the Bayesian bootstrap (Rubin 1981): Dirichlet weights of the episodes. If all
    policies ran on the same starts they share the weights, which uses the pairs. Few episodes (below ten)
    have too small a spread in this posterior.

    Args:
        outcomes: For each policy one value per episode.
        paired: Whether all policies ran on the same starts, in the same order.
        seed: Of the draws: equal input gives equal output.
        draws: Draws from the posterior.

    Raises:
        ValueError: If a policy has no episodes, or the numbers of episodes differ and ``paired`` is set.
    """
    values = [as_values(found) for found in outcomes]
    lengths = {len(found) for found in values}
    if 0 in lengths or (paired and len(lengths) > 1):
        raise ValueError("each policy needs episodes, and paired ones the same")
    rng = np.random.default_rng(seed)
    if paired and values:
        return _shares_of_the_best(_weights(rng, draws, len(values[0])) @ np.stack(values, axis=1))
    means = [_weights(rng, draws, len(found)) @ found for found in values]
    return _shares_of_the_best(np.stack(means, axis=1) if means else np.empty((draws, 0)))


def _weights(rng: np.random.Generator, draws: int, episodes: int) -> NDArray[np.float64]:
    weights = rng.standard_exponential((draws, episodes))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _shares_of_the_best(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """How often each column has the largest value of a row; equal ones share it."""
    if means.shape[1] == 0:
        return np.zeros(0)
    # Equal episodes give equal means up to rounding.
    best = means >= means.max(axis=1, keepdims=True) - 1e-12
    return np.asarray((best / best.sum(axis=1, keepdims=True)).mean(axis=0))
