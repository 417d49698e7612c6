"""``lerobot-eval`` plays a checkpoint in Push-T; the same episodes are played here and compared."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.interop.checks import Checks
from tests.interop.lerobot_process import LeRobot, read_arrays
from trainables.diffusion_policy.network.policy import DiffusionPolicy
from trainables.episodes import EpisodeRecord
from trainables.evaluation.rollout import rollout, summarise
from trainables.pusht.environment import PushTEnvironment

EPISODES, BATCH, SEED = 4, 2, 100_000
ENVIRONMENT = "gym_pusht/PushT-v0"
ACTION_PX = 0.01
"""Allowed difference of an action, where the range is 512 px."""
REWARD = 1e-9
"""Allowed difference of a reward for the same actions: the simulators add the same areas in another order."""


def compare_evaluation(
    checks: Checks, lerobot: LeRobot, checkpoint: Path, policy: DiffusionPolicy, *, twice: bool
) -> None:
    """Play a checkpoint there, then here: with their actions, with their observations, and freely.

    The three together say where a difference comes from: the simulator, the policy, or neither (a contact
    that a last bit decides). With ``twice`` the command runs as it is first, to show that recording it
    changes nothing.
    """
    record = lerobot.new_file("npz")
    recorded = _evaluate(lerobot, checkpoint, policy, record=record)
    if twice:
        plain = _evaluate(lerobot, checkpoint, policy, record=None)
        # Two runs of the command itself differ in the last bits now and then.
        same = np.allclose(plain["max_rewards"], recorded["max_rewards"], rtol=0, atol=REWARD)
        checks.holds("lerobot-eval, and recorded: same rewards", bool(same), _listed(plain["max_rewards"]))

    theirs = [_Batch.read(read_arrays(record), number, SEED) for number in range(EPISODES // BATCH)]
    _compare_simulator(checks, policy, theirs)
    _compare_actions(checks, policy, theirs)
    played = [episode for batch in theirs for episode in _play(policy, batch)]
    for name in ("max_reward", "sum_reward"):
        mine = [getattr(episode, name) for episode in played]
        same = np.isclose(mine, recorded[f"{name}s"], rtol=0, atol=REWARD * len(played))
        checks.tell(f"{name} by lerobot-eval", _listed(recorded[f"{name}s"]))
        equal = f"{same.sum()} of {len(same)} equal"
        checks.tell(f"{name} here, same starts and noise", f"{_listed(mine)} ({equal})")
    results = rollout(policy, ENVIRONMENT, episode_indices=range(EPISODES), seed=SEED, parallel=EPISODES)
    own = [result.record for result in results]
    checks.tell("our rollout, same starts, its own noise", _listed([e.max_reward for e in own]))
    checks.tell("its average", f"{summarise(own)['rollout/avg_max_reward']:.4f}")


@dataclass(frozen=True)
class _Batch:
    """What LeRobot played at once. ``E`` environments, ``T`` steps.

    Attributes:
        seeds: Of the environments (E,).
        actions: (E, T, A).
        rewards: (E, T).
        lengths: Steps until an episode was over (E,).
        observations: By name (E, T + 1, ...).
        states: Of torch's generator when a chunk was drawn (chunks, bytes).
    """

    seeds: list[int]
    actions: np.ndarray
    rewards: np.ndarray
    lengths: list[int]
    observations: dict[str, np.ndarray]
    states: np.ndarray

    @staticmethod
    def read(arrays: dict[str, np.ndarray], number: int, seed: int) -> _Batch:
        mine = {
            name.removeprefix(f"{number}/"): v for name, v in arrays.items() if name.startswith(f"{number}/")
        }
        observations = {name: value for name, value in mine.items() if name.startswith("observation.")}
        lengths = (mine["done"].argmax(axis=1) + 1).tolist()
        seeds = [seed + number * BATCH + row for row in range(BATCH)]
        return _Batch(seeds, mine["action"], mine["reward"], lengths, observations, mine["states"])


def _evaluate(
    lerobot: LeRobot, checkpoint: Path, policy: DiffusionPolicy, record: Path | None
) -> dict[str, Any]:
    """Run lerobot-eval; gives the metrics of its episodes."""
    out = lerobot.new_file("evaluation")
    options = {
        "policy.path": checkpoint,
        "policy.device": "cpu",
        "env.type": "pusht",
        "env.obs_type": "pixels_agent_pos" if policy.features.cameras else "environment_state_agent_pos",
        # It films every episode; small films are drawn in less time.
        "env.visualization_width": 128,
        "env.visualization_height": 128,
        "eval.n_episodes": EPISODES,
        "eval.batch_size": BATCH,
        "eval.use_async_envs": "false",
        "output_dir": out,
        "seed": SEED,
    }
    arguments = [f"--{name}={value}" for name, value in options.items()]
    if record is None:
        lerobot.tool("lerobot-eval", *arguments)
    else:
        lerobot.ask("evaluate", str(record), *arguments)
    info = json.loads((out / "eval_info.json").read_text())
    metrics: dict[str, Any] = info["per_task"][0]["metrics"]
    return metrics


def _compare_simulator(checks: Checks, policy: DiffusionPolicy, batches: list[_Batch]) -> None:
    """Execute their actions in our simulator: the same rewards and the same observations."""
    rewards: list[float] = []
    expected: list[float] = []
    observed, seen = [], []
    names = [feature.name for feature in policy.features.inputs]
    for batch in batches:
        for row, (seed, length) in enumerate(zip(batch.seeds, batch.lengths, strict=True)):
            environment = PushTEnvironment(policy.features)
            observation = environment.reset(seed)
            for step in range(length):
                observed.append(_flat({name: observation[name] for name in names}))
                seen.append(_flat({name: batch.observations[name][row, step] for name in names}))
                answer = environment.step(batch.actions[row, step])
                assert answer.observation is not None
                observation = answer.observation
                rewards.append(answer.reward)
            expected.extend(batch.rewards[row, :length])
            environment.close()
    checks.close(f"{len(rewards)} rewards of their actions here", rewards, expected, REWARD)
    checks.close("observations of their actions here", np.stack(observed), np.stack(seen), 0.0)


def _compare_actions(checks: Checks, policy: DiffusionPolicy, batches: list[_Batch]) -> None:
    """Give our policy their observations and their noise: the same actions."""
    ours, theirs = [], []
    for batch in batches:
        steps = batch.actions.shape[1]
        for chunk, state in enumerate(batch.states):
            start = chunk * policy.n_action_steps
            indices = np.maximum(np.arange(start - policy.n_obs_steps + 1, start + 1), 0)
            observation = {name: value[:, indices] for name, value in batch.observations.items()}
            predicted = _predict(policy, observation, state)
            stop = min(start + policy.n_action_steps, steps)
            for row, length in enumerate(batch.lengths):
                # What an environment is told after its end counts nowhere.
                last = min(stop, length)
                if last > start:
                    ours.append(predicted[row, : last - start])
                    theirs.append(batch.actions[row, start:last])
    first, second = np.concatenate(ours), np.concatenate(theirs)
    checks.close(f"{len(first)} actions for their observations", first, second, ACTION_PX, " px")


def _play(policy: DiffusionPolicy, batch: _Batch) -> list[EpisodeRecord]:
    """Play episodes as LeRobot does, from the noise that it drew, with nothing else of its."""
    environments = [PushTEnvironment(policy.features) for _ in batch.seeds]
    seen = [environment.reset(seed) for environment, seed in zip(environments, batch.seeds, strict=True)]
    remembered = [deque([first] * policy.n_obs_steps, maxlen=policy.n_obs_steps) for first in seen]
    rewards: list[list[float]] = [[] for _ in batch.seeds]
    solved = [False] * len(batch.seeds)
    for state in batch.states:
        names = [feature.name for feature in policy.features.inputs]
        observation = {
            name: np.stack([np.stack([seen[name] for seen in queue]) for queue in remembered])
            for name in names
        }
        chunk = _predict(policy, observation, state)
        for row, environment in enumerate(environments):
            for action in chunk[row]:
                if solved[row] or len(rewards[row]) >= (environment.max_steps or 0):
                    break
                step = environment.step(action)
                assert step.observation is not None
                remembered[row].append(step.observation)
                rewards[row].append(step.reward)
                solved[row] = step.success
    for environment in environments:
        environment.close()
    return [
        EpisodeRecord(
            row, seed, solved[row], max_reward=max(got), sum_reward=sum(got), length=len(got), chunk_ms=0.0
        )
        for row, (seed, got) in enumerate(zip(batch.seeds, rewards, strict=True))
    ]


def _predict(policy: DiffusionPolicy, observation: dict[str, np.ndarray], state: np.ndarray) -> np.ndarray:
    torch.set_rng_state(torch.from_numpy(state))
    values = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in observation.items()}
    return policy.predict_action(values).numpy()


def _flat(observation: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([np.asarray(value, np.float64).ravel() for value in observation.values()])


def _listed(numbers: list[float]) -> str:
    return " ".join(f"{number:.6f}" for number in numbers)
