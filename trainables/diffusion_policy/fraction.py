"""How many episodes a share of the training episodes is, from the totals that a dataset's folder records.

`sweeper check` shows it without opening the dataset.
"""

from __future__ import annotations

from trainables.dataset.format.recorded import recorded_totals
from trainables.diffusion_policy.config.sections import BUILTIN_PUSHT, DatasetConfig
from trainables.interface import Fault, expanded, is_url
from trainables.ranges import parse_choice
from trainables.shares import fraction_faults, split_sizes

__all__ = ["BUILTIN_EPISODES", "fraction_problems", "training_episodes"]

BUILTIN_EPISODES = 200
"""Demonstrations of the built-in dataset; `trainables.pusht` has them, which loads pyarrow."""


def training_episodes(config: DatasetConfig) -> tuple[int, int] | None:
    """The number of episodes that are trained on, and of those that could be.

    Returns:
        None if a dataset is not a folder on this machine, or does not record how many episodes it has.
    """
    count = _episodes(config)
    if count is None:
        return None
    trained, _ = split_sizes(count, config.holdout_fraction, config.fraction)
    return trained, split_sizes(count, config.holdout_fraction)[0]


def fraction_problems(config: DatasetConfig) -> list[Fault]:
    """Why too few episodes would be trained on, as far as it is known without opening the dataset."""
    count = _episodes(config)
    return [] if count is None else fraction_faults(count, config.holdout_fraction, config.fraction)


def _episodes(config: DatasetConfig) -> int | None:
    """The number of chosen episodes."""
    if config.root is not None:
        counts = [_recorded(place) for place in _each(config.root)]
    else:
        counts = [BUILTIN_EPISODES if name == BUILTIN_PUSHT else None for name in _each(config.repo_id or ())]
    known = [count for count in counts if count is not None]
    if not known or len(known) < len(counts):
        return None
    chosen = None if config.episodes is None else parse_choice(config.episodes)
    left_out = parse_choice(config.exclude_episodes)
    return sum((chosen is None or one in chosen) and one not in left_out for one in range(sum(known)))


def _each(named: str | tuple[str, ...]) -> tuple[str, ...]:
    return (named,) if isinstance(named, str) else named


def _recorded(root: str) -> int | None:
    """The number of episodes that a folder records."""
    return None if is_url(root) else recorded_totals(expanded(root)).get("total_episodes")
