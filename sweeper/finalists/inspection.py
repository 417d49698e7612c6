"""One policy, looked into: episodes, demonstrations, latency, denoising.

The policy is opened in this process, without Ray. To start a private Ray takes ten seconds and gives a single
policy nothing, and its processes would disturb the latency. On a cluster the command runs on the head.

Everything that the user gave is checked before anything is measured, and what was measured is on the disk
before the next part begins.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import psutil

from sweeper import __version__
from sweeper.errors import UserError
from sweeper.finalists.candidates import Candidate
from sweeper.gpus import first_device
from sweeper.layout import write_whole
from trainables import registry
from trainables.confidence import mean_interval, wilson_interval
from trainables.episodes import EPISODES, EpisodeFile, EpisodeRecord, Evaluated
from trainables.inspection import HardStart, Inspection, Rollouts
from trainables.interface import (
    ConfigError,
    EvaluatesPolicies,
    EvaluationContext,
    InspectablePolicy,
    OpenPolicy,
)

__all__ = ["RESULT", "Wanted", "inspect_policy"]

RESULT = "eval.json"
PICTURE, FILM, ROLLOUTS = "denoising.png", "denoising.mp4", "rollouts.mp4"
BLOCK = 32
"""Episodes that are on the disk before the next ones begin: an inference batch on a CPU."""
FILMED = 4
REPEATS = 4
REPEATS_S = 60.0
LATENCY_RUNS, LATENCY_S = 100, 20.0
BUSY_S = 1.0


@dataclass(frozen=True)
class Wanted:
    """What is to be looked at.

    Attributes:
        episodes: Episodes to roll out, if there is a simulator.
        folder: Where the result, pictures and films go; it exists.
        cache: Folder for what is shared on this machine.
        command: The command line, for the record.
    """

    episodes: int
    folder: Path
    cache: Path
    command: str = ""


def inspect_policy(candidate: Candidate, wanted: Wanted, progress: Callable[[str], None]) -> Inspection:
    """Look into a policy.

    Args:
        candidate: The policy, with its inference setting and what it is judged on.
        wanted: What to look at.
        progress: Told what is being done.

    Raises:
        UserError: If the trainable's policies cannot be looked into.
        TrainableError: If the checkpoint, the dataset, the environment or the setting cannot be used.
    """
    trainable = registry.load(candidate.trainable)
    assert isinstance(trainable, EvaluatesPolicies)
    context = EvaluationContext(wanted.cache, first_device(), progress=progress)
    policy = trainable.open_policy(candidate.checkpoint, candidate.config, context)
    if not isinstance(policy, InspectablePolicy):
        raise UserError(
            f"{candidate.label}: the trainable {candidate.trainable} cannot look into its policies. "
            "They must have what trainables.interface.InspectablePolicy asks for."
        )
    faults = policy.setting_faults(candidate.setting)
    if faults:
        raise ConfigError(faults)
    has_demonstrations = policy.check_demonstrations()
    found = _opened(candidate, policy, wanted.command)
    if policy.environment is not None and wanted.episodes:
        found.rollouts = _roll_out(policy, candidate, wanted, progress)
        _write(found, wanted.folder)
    elif wanted.episodes:
        found.notes.append("No episodes were rolled out: name a simulator with --env.")
    if has_demonstrations:
        found.comparison = policy.compare(candidate.setting)
        _write(found, wanted.folder)
    else:
        found.notes.append("Nothing was compared with demonstrations: name a dataset with --dataset.")
    progress("timing predictions")
    found.machine["busy_share"] = psutil.cpu_percent(BUSY_S) / 100
    found.latency = policy.latency(candidate.setting, LATENCY_RUNS, LATENCY_S)
    _write(found, wanted.folder)
    found.denoising = policy.draw_denoising(candidate.setting, wanted.folder / PICTURE, wanted.folder / FILM)
    if found.denoising is None:
        found.notes.append("The denoising was not drawn: that needs an observation (--dataset or --env).")
    _write(found, wanted.folder)
    return found


def _opened(candidate: Candidate, policy: OpenPolicy, command: str) -> Inspection:
    setting = {**policy.trained_setting, **candidate.setting}
    return Inspection(
        label=candidate.label,
        checkpoint=str(candidate.checkpoint),
        step=policy.step,
        setting=setting,
        changed=tuple(name for name in setting if setting[name] != policy.trained_setting.get(name)),
        command=command,
        machine={
            "host": platform.node(),
            "cpus": os.cpu_count(),
            "versions": {"sweeper": __version__, "python": platform.python_version()},
        },
    )


def _write(found: Inspection, folder: Path) -> None:
    write_whole(folder / RESULT, json.dumps(found.to_json(), indent=2) + "\n")


# Episodes


def _roll_out(
    policy: OpenPolicy, candidate: Candidate, wanted: Wanted, progress: Callable[[str], None]
) -> Rollouts:
    assert isinstance(policy, InspectablePolicy)
    setting = candidate.setting
    environment = str(policy.environment)
    evaluated = Evaluated("look", policy.step, _differing(candidate, policy), environment)
    file = EpisodeFile(candidate.records or wanted.folder / EPISODES, evaluated)
    records: list[EpisodeRecord] = []
    begin_s = time.monotonic()
    for start in range(0, wanted.episodes, BLOCK):
        block = range(start, min(start + BLOCK, wanted.episodes))
        progress(f"episodes {block.start} to {block.stop - 1} of {wanted.episodes}")
        records += policy.rollout(setting, "look", block)
        file.append(records[start:])
    most_s = max(REPEATS_S, time.monotonic() - begin_s)
    worst_first = sorted(records, key=lambda record: (record.success, record.max_reward, record.episode))
    filmed = sorted(record.episode for record in worst_first[:FILMED])
    progress("filming")
    film = wanted.folder / ROLLOUTS
    policy.rollout(setting, "look", filmed, film=film, film_episodes=FILMED)
    rollouts = replace(
        _summary(environment, records), film=film if film.is_file() else None, filmed=tuple(filmed)
    )
    failed = [record for record in worst_first[:FILMED] if not record.success]
    return replace(rollouts, hard=_repeat(policy, setting, failed, most_s, progress))


def _repeat(
    policy: InspectablePolicy,
    setting: Mapping[str, Any],
    failed: list[EpisodeRecord],
    most_s: float,
    progress: Callable[[str], None],
) -> tuple[HardStart, ...]:
    """Try the starts of failed episodes again: whether the start is hard, or the noise was bad."""
    numbers = sorted(record.episode for record in failed)
    failures, runs = dict.fromkeys(numbers, 0), 0
    begin_s = time.monotonic()
    while numbers and runs < REPEATS and (not runs or time.monotonic() - begin_s < most_s):
        runs += 1
        progress(f"the starts that failed, again: run {runs} of {REPEATS}")
        for record in policy.repeat(setting, "look", numbers, runs):
            failures[record.episode] += not record.success
    return tuple(
        HardStart(record.episode, record.seed, record.max_reward, runs, failures[record.episode])
        for record in failed
    )


def _differing(candidate: Candidate, policy: OpenPolicy) -> dict[str, Any]:
    """What sets these episodes apart from others of the policy: the setting, and another simulator."""
    setting = {
        name: value for name, value in candidate.setting.items() if value != policy.trained_setting.get(name)
    }
    section = "rollout."
    return setting | {name: value for name, value in candidate.config.items() if name.startswith(section)}


def _summary(environment: str, records: list[EpisodeRecord]) -> Rollouts:
    successes = sum(record.success for record in records)
    max_rewards = [record.max_reward for record in records]
    sum_rewards = [record.sum_reward for record in records]
    return Rollouts(
        environment=environment,
        records=tuple(records),
        success_rate=successes / len(records),
        success_interval=wilson_interval(successes, len(records)),
        max_reward=mean(max_rewards),
        max_reward_interval=mean_interval(np.array(max_rewards)),
        sum_reward=mean(sum_rewards),
        sum_reward_interval=mean_interval(np.array(sum_rewards)),
        length=mean(record.length for record in records),
    )
