"""What a control mode is worth under latency: ``python -m benchmarks.control [--checkpoint PATH]``.

Prints the table of docs/deployment.md#control-loop and draws its figure (``--figure FILE``). The task is
Push-T from positions at 10 Hz. Chunks arrive 0, 50, 100 or 200 ms after their observation, which is 0, 1, 1
or 2 control steps, while the simulator continues. All modes play the same episodes from the same starts, so
their rewards are compared episode by episode. Results depend on the policy and the seeds, not on the speed of
the machine. ``async`` and ``rtc`` are measured for each share of ``--replan``; with 0 they predict as often
as ``sync``. Without ``--checkpoint`` a policy as in `sweeper demo` is trained first. With ``--json FILE``
every finished cell is kept in the file, and an interrupted run continues.

``--warm-start`` measures something else with the same policy and starts, without latency: 2 and 4 denoising
steps from the last chunk, beside as many from noise, and all 8 from noise.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import figures, machine
from sweeper.evidence.intervals import mean_interval, success_interval
from sweeper.evidence.paired import compare_paired_values
from trainables.deployment.control.settings import MODES, ControlSettings
from trainables.diffusion_policy.config.sections import BUILTIN_PUSHT
from trainables.diffusion_policy.trainable import TRAINABLE
from trainables.episodes import first_seed
from trainables.evaluation.rollout import DelayedControl, rollout
from trainables.interface import EvaluationContext, TrainContext
from trainables.pusht.task import FPS

LATENCIES_MS = (0, 50, 100, 200)
ENVIRONMENT = "gym_pusht/PushT-v0"
WIDTH = 150
"""Columns that the table of warm starts needs."""
SIMULATOR = {"rollout.env": ENVIRONMENT, "rollout.parallel": 32}
SEED = 100_000
WARM_STARTS = ((8, 0), (8, 4), (8, 6), (4, 0), (2, 0))
"""Denoising steps of the sampler, and how many of them the last chunk replaces; the first is all of them."""
NAMES = {
    "sync": "synchronous",
    "async": "asynchronous",
    "ensemble": "temporal ensembling",
    "rtc": "real-time chunking",
}
TRAINING: dict[str, Any] = {
    "dataset.repo_id": BUILTIN_PUSHT,
    "dataset.observations": ["observation.state", "observation.environment_state"],
    "policy.horizon": 16,
    "policy.n_action_steps": 8,
    "policy.down_dims": [32, 64],
    "policy.diffusion_step_embed_dim": 32,
    "policy.prediction_type": "sample",
    "policy.sampler": "DDIM",
    "policy.num_inference_steps": 8,
    "optimizer.lr": 2.6e-3,
    "lr_scheduler.warmup_steps": 100,
    "train.batch_size": 64,
    "eval.windows": 64,
}


@dataclass(frozen=True)
class Cell:
    """The episodes of one mode at one latency.

    Attributes:
        mode: One of `MODES`.
        replan: Share that is left at a request; None if the mode does not have it.
        latency_ms: How late a chunk arrives.
        rewards: The largest reward of each episode, in the order of their starts.
        successes: Whether each succeeded.
        roughness: The mean change of the change of the action from tick to tick (px), per episode.
    """

    mode: str
    replan: float | None
    latency_ms: int
    rewards: list[float]
    successes: list[bool]
    roughness: list[float]

    @property
    def way(self) -> tuple[str, float | None]:
        """The mode with its replanning."""
        return self.mode, self.replan

    @property
    def name(self) -> str:
        """The mode, for a person."""
        return NAMES[self.mode] + ("" if self.replan is None else f", replan {self.replan:g}")


def measure(
    policy: Any, mode: str, replan: float | None, latency_ms: int, episodes: int, samples: int
) -> Cell:
    """Play the episodes of one cell."""
    settings = ControlSettings(mode=mode, replan=replan or 0.0, samples=samples)  # type: ignore[arg-type]
    results = rollout(
        policy,
        ENVIRONMENT,
        episode_indices=range(episodes),
        seed=first_seed(SEED, "confirm"),
        parallel=32,
        control=DelayedControl(settings, float(latency_ms)),
    )
    return Cell(
        mode,
        replan,
        latency_ms,
        [result.record.max_reward for result in results],
        [result.record.success for result in results],
        [_roughness(result.actions) for result in results],
    )


def _roughness(actions_TA: np.ndarray) -> float:
    if len(actions_TA) < 3:
        return 0.0
    return float(np.linalg.norm(np.diff(actions_TA, n=2, axis=0), axis=1).mean())


def train(folder: Path, cache: Path, steps: int, console: Console) -> None:
    """Train a policy as in the demo."""
    lengths = {"train.steps": steps, "train.eval_every": steps, "train.log_every": max(1, steps // 10)}
    context = TrainContext(folder=folder, cache=cache, threads=1)
    for report in TRAINABLE.train({**TRAINING, **lengths}, context):
        console.print(f"[dim]training: step {report.step} of {steps}[/dim]")


def table_of(cells: Sequence[Cell]) -> Table:
    """The cells for a person; differences are to the synchronous mode at the same latency."""
    table = Table(title="Push-T at 10 Hz under latency", title_justify="left")
    columns = ("latency", "mode", "reward", "95 %", "to sync", "95 %", "success", "roughness")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 1 else "right")
    for cell in cells:
        reward = mean_interval(cell.rewards, bounds=(0.0, 1.0))
        sync = next((c for c in cells if (c.mode, c.latency_ms) == ("sync", cell.latency_ms)), None)
        against = ("", "")
        if sync is not None and sync is not cell and sync.rewards == cell.rewards:
            against = ("the same", "")
        elif sync is not None and sync is not cell:
            compared = compare_paired_values(cell.rewards, sync.rewards, bounds=(0.0, 1.0))
            interval = compared.interval
            against = (f"{compared.difference:+.3f}", f"{interval.low:+.2f} to {interval.high:+.2f}")
        table.add_row(
            f"{cell.latency_ms} ms",
            cell.name,
            f"{np.mean(cell.rewards):.3f}",
            f"{reward.low:.2f} to {reward.high:.2f}",
            *against,
            f"{np.mean(cell.successes):.2f}",
            f"{np.mean(cell.roughness):.1f} px",
        )
    return table


def draw(cells: Sequence[Cell], path: Path) -> None:
    """Draw the reward against the latency, a line per mode, with intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    ways = list(dict.fromkeys(cell.way for cell in cells))
    colours = {mode: f"C{number}" for number, mode in enumerate(MODES)}
    for number, way in enumerate(ways):
        mine = sorted((cell for cell in cells if cell.way == way), key=lambda cell: cell.latency_ms)
        means = np.array([np.mean(cell.rewards) for cell in mine])
        ends = [mean_interval(cell.rewards, bounds=(0.0, 1.0)) for cell in mine]
        reach = np.array([means - [end.low for end in ends], [end.high for end in ends] - means])
        # Beside each other, so that the intervals can be seen.
        places = np.array([cell.latency_ms for cell in mine]) + 3.0 * (number - (len(ways) - 1) / 2)
        axes.errorbar(
            places,
            means,
            yerr=np.maximum(reach, 0),
            marker="o",
            capsize=3,
            color=colours[mine[0].mode],
            linestyle="--" if mine[0].replan else "-",
            label=mine[0].name,
        )
    axes.set_xticks(LATENCIES_MS)
    axes.set_xlabel("latency of a chunk (ms)")
    axes.set_ylabel("mean largest reward, 95 % interval")
    axes.set_title("Push-T at 10 Hz, the same starts in every mode")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper")
    figures.save(figure, path)


def run(policy: Any, arguments: argparse.Namespace, console: Console) -> list[Cell]:
    """Measure every cell that the file does not have yet."""
    setting: Mapping[str, Any] = {
        "episodes": arguments.episodes,
        "samples": arguments.samples,
        "checkpoint": str(arguments.checkpoint),
        "n_action_steps": policy.n_action_steps,
    }
    cells = _kept(arguments.json, setting)
    ways: list[tuple[str, float | None]] = []
    for mode in arguments.mode:
        ways += [(mode, share) for share in arguments.replan] if mode in ("async", "rtc") else [(mode, None)]
    for latency_ms, (mode, replan) in itertools.product(arguments.latency, ways):
        mine = [cell for cell in cells if cell.way == (mode, replan)]
        if any(cell.latency_ms == latency_ms for cell in mine):
            continue
        # Equal numbers of steps give the same episodes to the last bit.
        same = next((cell for cell in mine if _steps(cell.latency_ms) == _steps(latency_ms)), None)
        cell = same or measure(policy, mode, replan, latency_ms, arguments.episodes, arguments.samples)
        cells.append(replace(cell, latency_ms=latency_ms))
        console.print(f"[dim]{cell.name}, {latency_ms} ms: reward {np.mean(cell.rewards):.3f}[/dim]")
        _keep(arguments.json, setting, "cells", cells)
    return sorted(cells, key=lambda cell: (cell.latency_ms, MODES.index(cell.mode), cell.replan or 0))


@dataclass(frozen=True)
class Start:
    """The episodes of one way to start the denoising.

    Attributes:
        steps: Denoising steps of the sampler.
        skipped: How many of them the last chunk replaces; 0: every chunk starts from noise.
        rewards: The largest reward of each episode, in the order of their starts.
        successes: Whether each succeeded.
    """

    steps: int
    skipped: int
    rewards: list[float]
    successes: list[bool]

    @property
    def name(self) -> str:
        """The way, for a person: the steps that are computed, and what they start from."""
        return f"{self.steps - self.skipped} from " + (
            f"the last chunk ({self.steps}, {self.skipped} skipped)" if self.skipped else "noise"
        )


def run_warm_starts(opened: Any, arguments: argparse.Namespace, console: Console) -> list[Start]:
    """Play the same episodes with every way of `WARM_STARTS` that the file does not have yet."""
    setting = {
        "episodes": arguments.episodes,
        "checkpoint": str(arguments.checkpoint),
        "n_action_steps": arguments.n_action_steps,
    }
    rows = [Start(**row) for row in _found(arguments.json, setting, "starts")]
    for steps, skipped in WARM_STARTS[len(rows) :]:
        chosen = {
            "policy.num_inference_steps": steps,
            "policy.warm_start_steps": skipped,
            "policy.n_action_steps": arguments.n_action_steps,
        }
        records = opened.rollout(chosen, "confirm", range(arguments.episodes))
        rewards = [record.max_reward for record in records]
        rows.append(Start(steps, skipped, rewards, [record.success for record in records]))
        console.print(f"[dim]{rows[-1].name}: reward {np.mean(rewards):.3f}[/dim]")
        _keep(arguments.json, setting, "starts", rows)
    return rows


def table_of_starts(rows: Sequence[Start]) -> Table:
    """The ways to start; differences are to the first row, and to as many steps from noise."""
    table = Table(title="Push-T: denoising from the last chunk", title_justify="left")
    columns = (
        "denoising steps",
        "reward",
        "95 %",
        "to all",
        "95 %",
        "to as many from noise",
        "95 %",
        "success",
    )
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        reward = mean_interval(row.rewards, bounds=(0.0, 1.0))
        computed = row.steps - row.skipped
        cold = next((one for one in rows if row.skipped and (one.steps, one.skipped) == (computed, 0)), None)
        success = success_interval(sum(row.successes), len(row.successes))
        table.add_row(
            row.name,
            f"{np.mean(row.rewards):.3f}",
            f"{reward.low:.2f} to {reward.high:.2f}",
            *_against(row, None if row is rows[0] else rows[0]),
            *_against(row, cold),
            f"{np.mean(row.successes):.3f} ({success.low:.2f} to {success.high:.2f})",
        )
    return table


def _against(row: Start, other: Start | None) -> tuple[str, str]:
    if other is None:
        return "", ""
    compared = compare_paired_values(row.rewards, other.rewards, bounds=(0.0, 1.0))
    return f"{compared.difference:+.3f}", f"{compared.interval.low:+.2f} to {compared.interval.high:+.2f}"


def _steps(latency_ms: int) -> int:
    """Control steps of a latency."""
    return math.ceil(latency_ms * FPS / 1000)


def _keep(path: Path | None, setting: Mapping[str, Any], kind: str, rows: Sequence[Cell | Start]) -> None:
    if path is not None:
        everything = {"machine": machine.describe(), "setting": setting, kind: [asdict(row) for row in rows]}
        path.write_text(json.dumps(everything) + "\n")


def _kept(path: Path | None, setting: Mapping[str, Any]) -> list[Cell]:
    return [Cell(**cell) for cell in _found(path, setting, "cells")]


def _found(path: Path | None, setting: Mapping[str, Any], kind: str) -> list[Any]:
    if path is None or not path.exists():
        return []
    found = json.loads(path.read_text())
    if found["setting"] != setting or kind not in found:
        raise SystemExit(f"{path} has another setting: {found['setting']}. Delete it, or name another file.")
    return list(found[kind])


def main() -> None:
    """Measure, show the table, and draw the figure if asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.control", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, help="a trained Push-T policy; without it one is trained")
    parser.add_argument("--train-steps", type=int, default=2400, help="optimiser steps of that training")
    parser.add_argument("--n-action-steps", type=int, default=8, help="actions executed of each chunk")
    parser.add_argument("--episodes", type=int, default=96, help="episodes of each cell")
    parser.add_argument("--latency", type=int, nargs="+", default=LATENCIES_MS, metavar="MS")
    parser.add_argument("--mode", nargs="+", default=MODES, choices=MODES)
    parser.add_argument("--replan", type=float, nargs="+", default=(0.0, 0.5), help="shares that are left")
    parser.add_argument("--samples", type=int, default=1, help="chunks drawn per prediction")
    parser.add_argument(
        "--warm-start", action="store_true", help="measure starts from the last chunk instead"
    )
    parser.add_argument("--json", type=Path, help="keep the episodes in this file, and continue from it")
    parser.add_argument("--figure", type=Path, help="draw the rewards into this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    console.print(", ".join(f"{name} {value}" for name, value in machine.describe().items()))
    with tempfile.TemporaryDirectory() as folder:
        cache, checkpoint = Path(folder) / "cache", arguments.checkpoint
        if checkpoint is None:
            checkpoint = Path(folder) / "policy"
            train(checkpoint, cache, arguments.train_steps, console)
        context = EvaluationContext(cache=cache, threads=1)
        opened = TRAINABLE.open_policy(checkpoint, SIMULATOR, context)
        if arguments.warm_start:
            rows = run_warm_starts(opened, arguments, console)
            Console(width=max(console.width, WIDTH)).print(table_of_starts(rows))
            return
        policy = opened.policy({"policy.n_action_steps": arguments.n_action_steps})
        cells = run(policy, arguments, console)
    console.print(table_of(cells))
    if arguments.figure is not None:
        draw(cells, arguments.figure)


if __name__ == "__main__":
    main()
