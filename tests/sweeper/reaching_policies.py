"""Policies of known skill, whose episodes are worked out and not simulated.

A checkpoint is a folder with one number, the probability that an episode succeeds. Episode *i* succeeds if a
number drawn from its seed is below that, so policies are paired: a better one solves
whatever a worse one does.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainables.episodes import EpisodeRecord, Purpose, first_seed
from trainables.interface import (
    ConfigError,
    EvaluationContext,
    Fault,
    FieldInfo,
    Metric,
    Report,
    TrainableError,
    TrainContext,
    silent,
)

SKILL = "skill.json"


def write_checkpoint(folder: Path, skill: float) -> Path:
    """Write the checkpoint of a policy of some skill."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SKILL).write_text(json.dumps(skill))
    return folder


class DivergedError(TrainableError):
    """An action is not finite."""

    reason = "diverged"


class ReachingPolicy:
    """A policy that succeeds with a known probability.

    Of its inference setting ``luck`` adds to that, ``effort`` multiplies the latency, ``diverges`` has it
    fail, and ``dies_once`` ends its process.
    """

    step = 10
    trained_setting: Mapping[str, Any] = {"luck": 0.0, "effort": 1.0}
    environment: str | None = "reaching"
    windows = 8

    def __init__(self, skill: float) -> None:
        self.skill = skill

    def setting_faults(self, setting: Mapping[str, Any]) -> list[Fault]:
        known = ("luck", "effort", "diverges", "dies_once")
        return [Fault(name, "is not known.") for name in setting if name not in known]

    def rollout(
        self,
        setting: Mapping[str, Any],
        purpose: Purpose,
        episodes: Sequence[int],
        *,
        film: Path | None = None,
        film_episodes: int = 4,
    ) -> list[EpisodeRecord]:
        _die(setting.get("dies_once"))
        if setting.get("diverges"):
            raise DivergedError("an action is not finite")
        if film is not None:
            film.write_bytes(b"film")
        return [self._episode(first_seed(0, purpose), number, setting) for number in sorted(episodes)]

    def _episode(self, first: int, number: int, setting: Mapping[str, Any]) -> EpisodeRecord:
        drawn = random.Random(first + number).random()
        success = drawn < self.skill + setting.get("luck", 0.0)
        reward = 1.0 if success else max(0.0, 1.0 - drawn)
        return EpisodeRecord(
            number,
            first + number,
            success=success,
            max_reward=reward,
            sum_reward=reward,
            length=5,
            chunk_ms=1,
        )

    def metrics_of(self, records: Sequence[EpisodeRecord]) -> dict[str, float]:
        count = len(records)
        return {
            "rollout/success_rate": sum(record.success for record in records) / count,
            "rollout/avg_max_reward": sum(record.max_reward for record in records) / count,
        }

    def action_errors(self, setting: Mapping[str, Any], windows: Sequence[int]) -> list[float]:
        return [1.0 - self.skill - setting.get("luck", 0.0) + 0.01 * number for number in windows]

    def speed(self, setting: Mapping[str, Any]) -> dict[str, float]:
        latency_ms = 10.0 * setting.get("effort", 1)
        return {"eval/chunk_latency_ms": latency_ms, "eval/action_rate_hz": 1e3 / latency_ms}

    def latency_ms(self, setting: Mapping[str, Any], runs: int = 50, most_s: float = 10.0) -> list[float]:
        return [1.0 + setting.get("luck", 0.0)] * runs


def _die(where: str | None) -> None:
    if where is None or (where != "always" and Path(where).exists()):
        return
    if where != "always":
        Path(where).touch()
    os._exit(1)


class ReachingTrainable:
    """A trainable whose training does nothing but write the skill that it is given."""

    name = "reaching"
    fields: Mapping[str, FieldInfo] = {
        field.name: field
        for field in (
            FieldInfo("skill", "float", 0.5, minimum=0.0, maximum=1.0),
            FieldInfo("luck", "float", 0.0, phase="inference"),
            FieldInfo("effort", "float", 1.0, minimum=0.1, phase="inference"),
            FieldInfo("train.steps", "int", 10, minimum=1),
            FieldInfo("train.log_every", "int", 5, minimum=1),
            FieldInfo("train.seed", "int", 0, minimum=0),
        )
    }
    aliases: Mapping[str, str] = {}
    metrics: Mapping[str, Metric] = {
        "rollout/success_rate": Metric("rollout/success_rate", "maximize", "eval")
    }

    def faults(self, config: Mapping[str, Any], workers: int = 1) -> list[Fault]:
        return [fault for name, value in config.items() for fault in self.fields[name].faults(value)]

    def preflight(self, config: Mapping[str, Any], cache: Path, progress: Any = silent) -> list[Fault]:
        return self.faults(config)

    def describe(self, config: Mapping[str, Any], cache: Path) -> Mapping[str, Any]:
        return {"fingerprint": "reaching"}

    def disk_gb(self, config: Mapping[str, Any]) -> float:
        return 0.001

    def train(self, config: Mapping[str, Any], context: TrainContext) -> Iterator[Report]:
        skill = config.get("skill", 0.5)
        folder = write_checkpoint(context.folder / "checkpoints" / "000010", skill)
        records = ReachingPolicy(skill).rollout({}, "search", range(32))
        rate = sum(record.success for record in records) / len(records)
        yield Report(10, {"rollout/success_rate": rate}, checkpoint=folder, final=True)

    def open_policy(
        self, checkpoint: Path, config: Mapping[str, Any], context: EvaluationContext
    ) -> ReachingPolicy:
        if not (checkpoint / SKILL).is_file():
            raise ConfigError([Fault(str(checkpoint), "there is no policy.")])
        return ReachingPolicy(json.loads((checkpoint / SKILL).read_text()))

    def trained_for(
        self, config: Mapping[str, Any], searched: Mapping[str, Sequence[Any]]
    ) -> Mapping[str, Any]:
        return config


TRAINABLE = ReachingTrainable()
