"""Sweeps of any size with episodes, settings, failures and a confirmation, for tests of the report."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from played_sweeps import INFO
from small_sweeps import DIMS, HORIZON, LR, SCHEDULE, SUCCESS, choice, sweep

from sweeper.layout import JOURNAL, trial_folder
from trainables.episodes import EPISODES, EpisodeFile, EpisodeRecord, Evaluated

REWARD = "rollout/avg_max_reward"
LATENCY = "eval/chunk_latency_ms"
EPISODES_EACH = 50
START = 1_700_000_000.0
SETTING = {"policy.num_inference_steps": 8}


def large_sweep(
    folder: Path,
    trials: int,
    *,
    episodes: bool = True,
    confirmed: bool = False,
    objectives: Mapping[str, str] | None = None,
    ended: bool = True,
    data: Mapping[str, Any] | None = None,
) -> Path:
    """Write a sweep whose success depends on the learning rate; every ninth trial fails, every fourth stops.

    The journal is written at once: thousands of synced events would take minutes.
    """
    chance = random.Random(0)
    goals = dict(objectives or {SUCCESS: "maximize"})
    parameters = (LR, SCHEDULE, HORIZON, DIMS, choice("dataset.observations", "state", "image"))
    spec = sweep(folder, *parameters, objectives=goals, trials=trials).to_dict()
    events: list[dict[str, Any]] = [
        {
            "event": "sweep_start",
            "time": START,
            "sweep": folder.name,
            "sweep_id": "0123",
            "spec": spec,
            "space": "name: small\n",
            "info": {
                **INFO,
                "data": dict(data or {"dataset": "lab/pusht", "episodes": 206}),
                "command": "sweeper launch a",
            },
            "driver": {},
        }
    ]
    completed: list[int] = []
    for number in range(trials):
        begin = START + 60 * number
        values = {
            LR.name: 10 ** chance.uniform(-5, -3),
            SCHEDULE.name: chance.choice(SCHEDULE.values),
            HORIZON.name: chance.choice([8, 16, 24, 32]),
            DIMS.name: chance.choice(DIMS.values),
            "dataset.observations": chance.choice(["state", "image"]),
        }
        rate = min(0.9, 0.1 + 0.6 * (values[LR.name] / 1e-3) ** 0.3 + 0.005 * values[HORIZON.name])
        at = {"trial": number}
        events.append({"event": "trial_start", "time": begin, **at, "values": values, "config": dict(values)})
        fails, stops = number % 9 == 5, number % 4 == 3
        for step in (1000, 2000, 3000):
            metrics = dict.fromkeys(goals, rate * step / 3000 * chance.uniform(0.8, 1.0))
            metrics |= {LATENCY: chance.uniform(5, 80), "eval/action_rate_hz": 90.0}
            if step == 3000 and episodes and not fails and not stops:
                records = _records(number, rate, chance)
                EpisodeFile(
                    trial_folder(folder, number) / EPISODES,
                    Evaluated("search", step, {}, "gym_pusht/PushT-v0"),
                ).write(records)
                metrics[SUCCESS] = sum(record.success for record in records) / len(records)
            events.append(
                {"event": "report", "time": begin + step / 100, **at, "step": step, "metrics": metrics}
            )
            if step == 1000 and (fails or stops):
                break
        status = "failed" if fails else "stopped_early" if stops else "completed"
        reason = "diverged" if fails else "asha" if stops else ""
        end = {
            "status": status,
            "reason": reason,
            "message": "the loss is NaN" if fails else "",
            "step": step,
        }
        more = {"final": {}, "best": {}, "sweep_best": {}, "ended": number + 1}
        events.append({"event": "trial_end", "time": begin + 50, **at, **end, **more})
        completed += [number] if status == "completed" else []
    if confirmed:
        events += _confirmation(completed[:3])
    if ended:
        message = f"All {trials} trials ended."
        events.append(
            {"event": "sweep_end", "time": START + 60 * trials, "status": "done", "message": message}
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / JOURNAL).write_text("".join(json.dumps(event) + "\n" for event in events))
    return folder


def _records(number: int, rate: float, chance: random.Random) -> list[EpisodeRecord]:
    return [
        EpisodeRecord(
            episode=episode,
            seed=100_000 + episode,
            success=(won := chance.random() < rate),
            max_reward=1.0 if won else chance.random(),
            sum_reward=10.0,
            length=100 + number % 7,
            chunk_ms=3.0,
        )
        for episode in range(EPISODES_EACH)
    ]


def _confirmation(numbers: list[int]) -> list[dict[str, Any]]:
    described = [{"trial": number, "setting": SETTING} for number in numbers]
    found = [
        {
            "trial": number,
            "setting": SETTING,
            "metrics": {
                SUCCESS: 0.7 - place / 10,
                f"{SUCCESS}_low": 0.62 - place / 10,
                f"{SUCCESS}_high": 0.77 - place / 10,
                "episodes": 400.0,
                "search": 0.8,
            },
            "p_best": 0.96 if not place else 0.02,
            "state": "out" if place else "best",
        }
        for place, number in enumerate(numbers)
    ]
    options = {"metric": SUCCESS, "episodes": 400}
    verdict = f"Trial {numbers[0]} is the best of {len(numbers)} finalists, after 400 episodes."
    ends = {"winner": numbers[0], "verdict": verdict, "complete": True}
    time = START + 10**6
    return [
        {"event": "confirm_start", "time": time, "finalists": described, "options": options},
        {"event": "confirmed", "time": time + 60, "finalists": found, **ends},
    ]
