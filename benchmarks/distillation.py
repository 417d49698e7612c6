"""What distillation is worth: students of 1, 2 and 4 steps beside their teacher with DDIM 1 to 16.

``python -m benchmarks.distillation [--teacher PATH] [--steps N] [--episodes N] [--folder PATH]
[--page FILE]``; most of an hour on an idle core, so `make bench` leaves it out. The task is Push-T from
positions. Without ``--teacher`` a policy as in `sweeper demo` is trained first. All policies play the same
episodes from the same starts, with the same noise: rewards are compared episode by episode. Latencies are
taken in turn, one prediction of each policy after the other, so that other work on the machine meets all of
them. With ``--folder`` a run that was interrupted continues, with the episodes that were played. ``--page
docs/deployment.md`` puts the table there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from sweeper.evidence.intervals import mean_interval, success_interval
from sweeper.evidence.paired import compare_paired_values
from trainables.diffusion_policy.config.sections import BUILTIN_PUSHT
from trainables.diffusion_policy.inference.opened import OpenedPolicy
from trainables.diffusion_policy.network.policy import DiffusionPolicy
from trainables.diffusion_policy.trainable import TRAINABLE as PLAIN
from trainables.diffusion_policy_distilled.trainable import TRAINABLE as DISTILLED
from trainables.files import write_json
from trainables.interface import EvaluationContext, TrainContext

STUDENTS = (1, 2, 4)
TEACHER = (1, 2, 4, 8, 16)
SPACINGS = ("leading", "trailing")
REFERENCE = "teacher, DDIM 16, trailing"
LATENCY_RUNS = 60
WIDTH = 120
"""Columns that the table needs."""
BEGIN, END = "<!-- from here on: python -m benchmarks.distillation --page -->", "<!-- to here -->"
"""The table of a page is between these lines."""
DATA: dict[str, Any] = {
    "dataset.repo_id": BUILTIN_PUSHT,
    "dataset.observations": ["observation.state", "observation.environment_state"],
    "train.batch_size": 64,
    "eval.windows": 64,
    "rollout.env": "gym_pusht/PushT-v0",
    "rollout.episodes": 8,
    "rollout.parallel": 32,
    "rollout.video": "never",
}
TEACHER_CONFIG: dict[str, Any] = {
    "policy.down_dims": [32, 64],
    "policy.diffusion_step_embed_dim": 32,
    "policy.prediction_type": "sample",
    "policy.sampler": "DDIM",
    "policy.num_inference_steps": 8,
    "policy.horizon": 16,
    "policy.n_action_steps": 12,
    "optimizer.lr": 2.6e-3,
    "lr_scheduler.warmup_steps": 100,
}


@dataclass(frozen=True)
class Row:
    """A policy with a number of steps, and what was measured of it.

    Attributes:
        name: Which policy, with which sampler.
        reward: Mean over the episodes of the largest reward.
        reward_low: Lower end of its 95 % interval.
        reward_high: Upper end.
        success: Share of the episodes that succeed.
        success_low: Lower end of its 95 % interval.
        success_high: Upper end.
        difference: Mean difference of the reward to that of `REFERENCE`, episode by episode.
        difference_low: Lower end of its 95 % interval.
        difference_high: Upper end.
        latency_ms: Median time of a prediction for one observation.
        fastest_ms: The shortest of these times.
    """

    name: str
    reward: float
    reward_low: float
    reward_high: float
    success: float
    success_low: float
    success_high: float
    difference: float
    difference_low: float
    difference_high: float
    latency_ms: float
    fastest_ms: float


def run(
    folder: Path,
    cache: Path,
    console: Console,
    *,
    teacher: str | None,
    teacher_steps: int,
    steps: int,
    episodes: int,
    spacings: Sequence[str] = SPACINGS,
) -> list[Row]:
    """Train what is missing, and measure students and teacher.

    Args:
        folder: The folder of the runs; runs in it continue.
        cache: The folder of the built-in dataset.
        console: Shows the progress.
        teacher: A checkpoint; None: a teacher is trained.
        teacher_steps: Optimiser steps of that training.
        steps: Optimiser steps of a student.
        episodes: Episodes of each policy.
        spacings: The spacings of the teacher's timesteps; trailing, the reference's, is among them.
    """
    if teacher is None:
        teacher = str(folder / "teacher")
        _train(PLAIN, DATA | TEACHER_CONFIG, teacher_steps, Path(teacher), cache, console)
    distilled = {"policy.path": teacher, "train.eval_at_start": False, "lr_scheduler.warmup_steps": 50}
    for number in STUDENTS:
        config = {**DATA, **distilled, "distill.steps": number, "optimizer.lr": 1e-3}
        _train(DISTILLED, config, steps, folder / f"student-{number}", cache, console)

    opened = {teacher: _open(teacher, cache)}
    settings: dict[str, tuple[OpenedPolicy, dict[str, Any]]] = {}
    for spacing in spacings:
        for number in TEACHER:
            setting = {
                "policy.sampler": "DDIM",
                "policy.num_inference_steps": number,
                "policy.timestep_spacing": spacing,
            }
            settings[f"teacher, DDIM {number}, {spacing}"] = (opened[teacher], setting)
    for number in STUDENTS:
        settings[f"student of {number}"] = (_open(str(folder / f"student-{number}"), cache), {})

    rewards, successes = {}, {}
    lengths = f"{teacher_steps}-{steps}-{episodes}"
    for name, (policy, setting) in settings.items():
        kept = folder / "episodes" / f"{name.replace(', ', '-').replace(' ', '-')}-{lengths}.json"
        if not kept.exists():
            console.print(f"[dim]{name}: {episodes} episodes …[/dim]")
            records = policy.rollout(setting, "confirm", range(episodes))
            played = [(record.max_reward, record.success) for record in records]
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_json(kept, played)
        reward_column, success_column = zip(*json.loads(kept.read_text()), strict=True)
        rewards[name], successes[name] = np.array(reward_column), np.array(success_column)
    times = _latencies({name: policy.policy(setting) for name, (policy, setting) in settings.items()})
    return [_row(name, rewards, successes, times[name]) for name in settings]


def _row(
    name: str,
    rewards: Mapping[str, np.ndarray],
    successes: Mapping[str, np.ndarray],
    times_ms: Sequence[float],
) -> Row:
    reward = mean_interval(rewards[name], bounds=(0.0, 1.0))
    success = success_interval(int(successes[name].sum()), len(successes[name]))
    compared = compare_paired_values(rewards[name], rewards[REFERENCE])
    return Row(
        name,
        float(rewards[name].mean()),
        reward.low,
        reward.high,
        float(successes[name].mean()),
        success.low,
        success.high,
        compared.difference,
        compared.interval.low if name != REFERENCE else 0.0,
        compared.interval.high if name != REFERENCE else 0.0,
        statistics.median(times_ms),
        min(times_ms),
    )


def _train(
    trainable: Any, config: Mapping[str, Any], steps: int, folder: Path, cache: Path, console: Console
) -> None:
    console.print(f"[dim]training {folder.name}: {steps} steps …[/dim]")
    every = max(1, steps // 6)
    length = {
        "train.steps": steps,
        "train.eval_every": steps,
        "train.log_every": every,
        "train.checkpoint_every": every,
    }
    context = TrainContext(folder=folder, cache=cache, threads=1)
    for report in trainable.train({**config, **length}, context):
        loss, rate = report.metrics["train/loss"], report.metrics["train/samples_per_s"]
        console.print(f"[dim]  step {report.step}: loss {loss:.5f}, {rate:.0f} samples/s[/dim]")


def _open(checkpoint: str, cache: Path) -> OpenedPolicy:
    return PLAIN.open_policy(Path(checkpoint), DATA_OF_EVALUATION, EvaluationContext(cache=cache, threads=1))


DATA_OF_EVALUATION = {name: DATA[name] for name in ("rollout.env", "rollout.parallel")}


def _latencies(policies: Mapping[str, DiffusionPolicy]) -> dict[str, list[float]]:
    """Time predictions for one observation, in ms: one of each policy in turn."""
    times: dict[str, list[float]] = {name: [] for name in policies}
    for number in range(-3, LATENCY_RUNS):
        for name, policy in policies.items():
            observation = {
                feature.name: torch.zeros((1, policy.n_obs_steps, *feature.shape))
                for feature in policy.features.inputs
            }
            begin_s = time.perf_counter()
            policy.predict_action(observation)
            if number >= 0:
                times[name].append(1e3 * (time.perf_counter() - begin_s))
    return times


def table_of(rows: Sequence[Row]) -> Table:
    """The rows, for a person."""
    table = Table(title="few steps on Push-T", title_justify="left")
    for column in (
        "policy",
        "reward",
        "95 %",
        "success",
        "95 %",
        "to the reference",
        "95 %",
        "ms",
        "fastest",
    ):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for row in rows:
        table.add_row(
            row.name,
            f"{row.reward:.3f}",
            f"{row.reward_low:.2f} – {row.reward_high:.2f}",
            f"{row.success:.3f}",
            f"{row.success_low:.2f} – {row.success_high:.2f}",
            f"{row.difference:+.3f}",
            f"{row.difference_low:+.2f} – {row.difference_high:+.2f}",
            f"{row.latency_ms:.1f}",
            f"{row.fastest_ms:.1f}",
        )
    return table


def page_text(rows: Sequence[Row], episodes: int, steps: int, described: Mapping[str, str]) -> str:
    """The rows as a table of Markdown, and how they were measured.

    Args:
        rows: The rows.
        episodes: Episodes of each.
        steps: Optimiser steps of a student.
        described: The machine.
    """
    lines = [
        f"`python -m benchmarks.distillation` on Push-T from positions: students of {steps:,} optimiser",
        f"steps, {episodes} episodes of each policy from the same starts, 95 % intervals. The difference",
        f"is that of the largest reward to {REFERENCE}, episode by episode. Latency: the median of one",
        f"chunk, and the fastest. {', '.join(f'{name} {value}' for name, value in described.items())}.",
        "",
        "| policy | largest reward | success | difference | ms, fastest |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        difference = f"{row.difference:+.3f} ({row.difference_low:+.2f} to {row.difference_high:+.2f})"
        cells = [
            row.name,
            f"{row.reward:.3f} ({row.reward_low:.2f} to {row.reward_high:.2f})",
            f"{row.success:.3f} ({row.success_low:.2f} to {row.success_high:.2f})",
            "" if row.name == REFERENCE else difference,
            f"{row.latency_ms:.1f}, {row.fastest_ms:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def put_into(page: Path, text: str) -> None:
    """Replace what a page has between `BEGIN` and `END`.

    Raises:
        SystemExit: If it does not have these lines.
    """
    whole = page.read_text(encoding="utf-8")
    before, begin, rest = whole.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page} has no line {BEGIN} with {END} after it: the table has no place.")
    page.write_text(f"{before}{begin}{text}\n{end}{after}", encoding="utf-8")


def main() -> None:
    """Run it, show a table, and write JSON and a page if asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distillation", description=__doc__)
    parser.add_argument("--teacher", help="checkpoint of the teacher; without it one is trained")
    parser.add_argument("--teacher-steps", type=int, default=4800, help="optimiser steps of that training")
    parser.add_argument("--steps", type=int, default=2400, help="optimiser steps of a student")
    parser.add_argument("--episodes", type=int, default=192, help="episodes of each policy")
    parser.add_argument("--no-leading", action="store_true", help="leave out the teacher's leading timesteps")
    parser.add_argument("--folder", type=Path, help="keep the runs here, and continue those that are there")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    parser.add_argument("--page", type=Path, help="replace the table of this page, e.g. docs/deployment.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    console.print(", ".join(f"{name} {value}" for name, value in machine.describe().items()))
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        rows = run(
            folder / "runs",
            folder / "cache",
            console,
            teacher=arguments.teacher,
            teacher_steps=arguments.teacher_steps,
            steps=arguments.steps,
            episodes=arguments.episodes,
            spacings=SPACINGS[1:] if arguments.no_leading else SPACINGS,
        )
    Console(width=max(console.width, WIDTH)).print(table_of(rows))
    console.print(f"The reference is: {REFERENCE}. Differences are of the same episodes.")
    if arguments.json is not None:
        everything = {"machine": machine.describe(), "rows": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(everything, indent=2) + "\n")
    if arguments.page is not None:
        described = machine.describe()
        put_into(arguments.page, page_text(rows, arguments.episodes, arguments.steps, described))


if __name__ == "__main__":
    main()
