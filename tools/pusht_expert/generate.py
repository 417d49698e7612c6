"""Make the demonstrations: ``python -m tools.pusht_expert.generate``.

Episodes start from gym-pusht's seeds, one after the other from ``--seed`` on, and those that the expert
solves within ``LONGEST_STEPS`` are kept until there are enough. The table depends on the arguments alone, not
on the number of processes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

import trainables.pusht
from tools.pusht_expert.physics import state_of
from tools.pusht_expert.planner import Expert, Style
from trainables.pusht.demonstrations import TABLE, Demonstrations
from trainables.pusht.environment import PushTSimulator

TARGET = Path(trainables.pusht.__file__).with_name(TABLE)

__all__ = ["SolvedEpisode", "main", "solve"]

LONGEST_STEPS = 160
"""Longer episodes begin jammed between the walls: rare, and all different."""
SHORTEST_STEPS = 8


@dataclass(frozen=True)
class SolvedEpisode:
    """One attempt of the expert; the arrays are those of ``Demonstrations``, for one episode.

    Attributes:
        seed: gym-pusht's seed.
        start: Reset state (5,).
        agents: (N, 2) before each action.
        blocks: (N, 3) before each action.
        actions: (N, 2).
        rewards: (N,).
        success: Whether the last action solved the task.
    """

    seed: int
    start: np.ndarray
    agents: np.ndarray
    blocks: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    success: bool


def reset_state(seed: int) -> np.ndarray:
    """Reset state (5,) that gym-pusht draws for ``seed``: agent x, y and block x, y, angle."""
    from gymnasium.utils import seeding

    rng, _ = seeding.np_random(seed)
    agent = [rng.integers(50, 450), rng.integers(50, 450)]
    block = [rng.integers(100, 400), rng.integers(100, 400)]
    return np.array([*agent, *block, rng.uniform(-np.pi, np.pi)], dtype=np.float64)


def solve(seed: int, style: Style | None = None, max_steps: int = 300) -> SolvedEpisode:
    """Let the expert solve the task from gym-pusht's ``seed``.

    Args:
        seed: Start of the episode, and seed of the expert's random draws.
        style: How the episode is driven; None: a style that is drawn for this episode.
        max_steps: When to give up.
    """
    rng = np.random.default_rng([seed, 1])
    style = style or _draw_style(rng)
    simulator = PushTSimulator()
    start = reset_state(seed)
    simulator.reset_to(start)
    expert = Expert(style, rng)
    target = simulator.agent_position()
    agents: list[np.ndarray] = []
    blocks: list[np.ndarray] = []
    actions: list[np.ndarray] = []
    rewards: list[float] = []
    solved = False
    while not solved and len(actions) < max_steps:
        targets = expert.next_push(state_of(simulator.agent, simulator.block), target)
        target = targets[-1].astype(np.float64)
        for action in targets[: max_steps - len(actions)]:
            agents.append(simulator.agent_position())
            blocks.append(simulator.block_pose())
            reward, solved = simulator.advance(action)
            actions.append(action)
            rewards.append(reward)
            if solved:
                break
    return SolvedEpisode(
        seed=seed,
        start=start,
        agents=np.array(agents, dtype=np.float32),
        blocks=np.array(blocks, dtype=np.float32),
        actions=np.array(actions, dtype=np.float32),
        rewards=np.array(rewards, dtype=np.float32),
        success=solved,
    )


def _draw_style(rng: np.random.Generator) -> Style:
    """Episodes differ in speed, and now and then in the next push: a state has several good answers."""
    pace = float(rng.uniform(0.85, 1.1))
    return Style(free_px=18.0 * pace, push_px=9.0 * pace, acceleration_px=5.0 * pace, curiosity_steps=2.0)


def _attempts(seeds: Iterable[int], processes: int) -> Iterator[SolvedEpisode]:
    if processes == 1:
        yield from map(solve, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        # A few at a time: imap would draw from an endless iterator without end.
        remaining = iter(seeds)
        while True:
            batch = [next(remaining) for _ in range(4 * processes)]
            yield from pool.imap(solve, batch)


def _table(episodes: Sequence[SolvedEpisode]) -> Demonstrations:
    return Demonstrations(
        seeds=np.array([episode.seed for episode in episodes], dtype=np.int64),
        starts=np.stack([episode.start for episode in episodes]),
        lengths=np.array([len(episode.actions) for episode in episodes], dtype=np.int64),
        agents=np.concatenate([episode.agents for episode in episodes]),
        blocks=np.concatenate([episode.blocks for episode in episodes]),
        actions=np.concatenate([episode.actions for episode in episodes]),
        rewards=np.concatenate([episode.rewards for episode in episodes]),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, make the demonstrations and write the table."""
    parser = argparse.ArgumentParser(prog="python -m tools.pusht_expert.generate", description=__doc__)
    parser.add_argument("--episodes", type=int, default=200, help="successful episodes to keep (200)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first attempt (0)")
    parser.add_argument("--processes", type=int, default=1, help="processes that plan at the same time (1)")
    parser.add_argument("--out", type=Path, default=TARGET)
    options = parser.parse_args(arguments)
    if options.episodes < 1 or options.processes < 1 or options.seed < 0:
        parser.error("--episodes and --processes must be at least 1, --seed at least 0")
    kept: list[SolvedEpisode] = []
    started_s = time.monotonic()
    for attempt, episode in enumerate(_attempts(count(options.seed), options.processes), start=1):
        if episode.success and SHORTEST_STEPS <= len(episode.actions) <= LONGEST_STEPS:
            kept.append(episode)
        elapsed_s = time.monotonic() - started_s
        left_s = elapsed_s / max(len(kept), 1) * (options.episodes - len(kept))
        line = f"\r{len(kept)} of {options.episodes} episodes, {attempt} attempts, {left_s:.0f} s left  "
        print(line, end="", file=sys.stderr, flush=True)
        if len(kept) == options.episodes:
            break
    table = _table(kept)
    table.save(options.out)
    size_kb = options.out.stat().st_size / 1000
    print(f"\n{options.out}: {len(table)} episodes, {table.lengths.sum()} frames, {size_kb:.0f} kB")


if __name__ == "__main__":
    main()
