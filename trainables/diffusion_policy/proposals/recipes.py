"""How large a network is and how long it is trained, by the number of demonstrations.

The sizes follow the shipped spaces and the paper: its networks for images have 256 million weights, and those
for states, and for real robots, about 65 million. With few demonstrations a smaller network memorises less
and trains faster. The outcomes of the recipes on real data have not been measured yet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["FEW_EPISODES", "MANY_EPISODES", "Recipe", "batch_size", "recipe_for", "training_steps"]

FEW_EPISODES = 100
"""Up to so many episodes, the recipe for few demonstrations holds."""
MANY_EPISODES = 500
"""From so many episodes on, the recipe for many demonstrations holds."""


@dataclass(frozen=True)
class Recipe:
    """What depends on the number of demonstrations.

    Attributes:
        words: When it is used, for comments.
        down_dims: Channels of the U-Net's levels.
        epochs: Passes over the frames that a training aims at.
        least_steps: Optimiser steps that it has at least.
        most_steps: Optimiser steps that it has at most.
        weight_decay: Range of the weight decay to search.
        trials: Trials of the sweep.
    """

    words: str
    down_dims: tuple[int, ...]
    epochs: int
    least_steps: int
    most_steps: int
    weight_decay: tuple[float, float]
    trials: int


FEW = Recipe("few demonstrations", (128, 256, 512), 300, 10_000, 30_000, (1e-6, 1e-2), 24)
SOME = Recipe("some hundred demonstrations", (256, 512, 1024), 200, 20_000, 60_000, (1e-7, 1e-3), 32)
MANY = Recipe("many demonstrations", (512, 1024, 2048), 100, 50_000, 120_000, (1e-7, 1e-4), 32)


def recipe_for(episodes: int) -> Recipe:
    """The recipe for a number of episodes."""
    if episodes <= FEW_EPISODES:
        return FEW
    return MANY if episodes >= MANY_EPISODES else SOME


def batch_size(frames: int, cameras: int) -> int:
    """Samples of an optimiser step: a power of two, and at least eight steps to an epoch."""
    most = 64 if cameras else 256
    return max(1, min(most, 2 ** int(math.log2(max(1, frames // 8)))))


def training_steps(recipe: Recipe, frames: int, batch: int) -> int:
    """Optimiser steps: the recipe's epochs within its bounds, in whole thousands."""
    steps = recipe.epochs * frames / batch
    return math.ceil(min(max(steps, recipe.least_steps), recipe.most_steps) / 1000) * 1000
