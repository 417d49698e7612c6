"""Outcomes of policies on the same starts, drawn with a given dependence, for simulations."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import special


def paired_successes(
    rng: np.random.Generator, rates: list[float], episodes: int, correlation: float = 0.5
) -> NDArray[np.float64]:
    """Successes of one policy per column; the difficulty of a start is shared (a Gaussian copula)."""
    shared = rng.standard_normal((episodes, 1))
    own = rng.standard_normal((episodes, len(rates)))
    latent = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own
    return (latent < special.ndtri(np.asarray(rates))).astype(np.float64)
