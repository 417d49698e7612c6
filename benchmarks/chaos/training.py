"""A real training that is killed again and again, against one that nobody disturbs: bit for bit the same."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml

from benchmarks.chaos.arena import SweepFolder
from benchmarks.chaos.checks import Tally
from benchmarks.chaos.kinds import Order, begin, finish, wait_for_step
from sweeper.records.sweep_state import read_sweep

__all__ = ["TRAINING", "beside", "training", "write_circles"]

STEPS = 400
VICTIMS = {"inline": ("worker", "driver"), "beside": ("worker", "driver", "evaluator")}
"""What is killed in turns, by how the training is evaluated."""
TIMED = ("train/samples_per_s", "train/data_wait_fraction", "eval/chunk_latency_ms", "eval/action_rate_hz")
"""Metrics that measure time, and so differ."""


def training(order: Order) -> Tally:
    """Kill workers and drivers of a diffusion policy's training, and compare tensors and series."""
    return _training(order, Tally("real training: workers and drivers killed"), "inline")


def beside(order: Order) -> Tally:
    """The same with evaluations beside training, whose processes are killed as well."""
    return _training(order, Tally("evaluated beside: workers, drivers, evaluators killed"), "beside")


def _training(order: Order, tally: Tally, evaluation: str) -> Tally:
    root = order.arena.folder / "circles"
    write_circles(root)
    straight = _sweep(order, root, "straight", "inline")
    finish(order, tally, straight, begin(order, tally, straight))
    wanted = _outcome(straight)
    rounds = 0
    while order.more(tally):
        rounds += 1
        sweep = _sweep(order, root, f"killed-{rounds}", evaluation)
        driver = begin(order, tally, sweep)
        while order.more(tally):
            if not wait_for_step(sweep, driver, time.time()):
                break
            time.sleep(order.random.uniform(0.0, 1.5))
            when = time.time()
            victim = VICTIMS[evaluation][tally.strikes % len(VICTIMS[evaluation])]
            if victim == "driver":
                driver.kill()
                driver = begin(order, tally, sweep)
            else:
                process = sweep.worker(0) if victim == "worker" else _evaluator(sweep)
                if process is None:
                    continue
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            tally.strikes += 1
            wait_for_step(sweep, driver, when)
        finish(order, tally, sweep, driver)
        _compare(sweep, wanted, tally)
    return tally


def _evaluator(sweep: SweepFolder) -> psutil.Process | None:
    """The process that evaluates beside the training of the first trial."""
    with contextlib.suppress(psutil.Error):
        worker = sweep.worker(0)
        for child in [] if worker is None else worker.children():
            if any("beside.evaluator" in part for part in child.cmdline()):
                return child
    return None


def _sweep(order: Order, root: Path, name: str, evaluation: str) -> SweepFolder:
    space: dict[str, Any] = {
        "name": name,
        "trainable": "diffusion_policy",
        "config": {
            "dataset.root": str(root),
            "dataset.holdout_fraction": 0.25,
            "policy.horizon": 8,
            "policy.n_action_steps": 4,
            "policy.down_dims": [16, 32],
            "policy.n_groups": 4,
            "policy.num_train_timesteps": 20,
            "policy.num_inference_steps": 4,
            "policy.sampler": "DDIM",
            "lr_scheduler.warmup_steps": 5,
            "train.steps": STEPS,
            "train.batch_size": 16,
            "train.log_every": 7,
            "train.eval_every": 100,
            "train.checkpoint_every": 30,
            "train.evaluation": evaluation,
            "eval.windows": 8,
            "eval.num_inference_steps": 4,
        },
        "parameters": {"optimizer.lr": {"values": [1e-3]}},
        "metric": {"name": "eval/action_mse", "goal": "minimize"},
        "search": {"method": "grid"},
        "resources": {"workers": 1, "gpu_per_worker": 0, "cpu_per_worker": 1},
        "failures": {"retries": 100},
        "tracking": {"experiment": "chaos"},
    }
    (order.arena.folder / f"{name}.yaml").write_text(yaml.safe_dump(space, sort_keys=False))
    return SweepFolder(order.arena.sweeps / name, STEPS, (0,))


def _outcome(sweep: SweepFolder) -> tuple[dict[str, str], list[tuple[int, str, float]]]:
    """Hashes of the last checkpoint's tensors, and every point of every series that measures no time."""
    trial = read_sweep(sweep.path).trials[0]
    tensors = {
        file.stem: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(Path(str(trial.checkpoint)).glob("*.safetensors"))
    }
    series = [
        (event["step"], name, float(value))
        for event in sweep.events()
        if event["event"] == "report"
        for name, value in sorted(event["metrics"].items())
        if name not in TIMED and not name.startswith("system/")
    ]
    return tensors, series


def _compare(
    sweep: SweepFolder, wanted: tuple[dict[str, str], list[tuple[int, str, float]]], tally: Tally
) -> None:
    name = sweep.path.name
    trial = read_sweep(sweep.path).trials[0]
    tally.sweeps += 1
    tally.trials += 1
    tally.found("lost", f"{name}: {trial.status}: {trial.message}", trial.status != "completed")
    tensors, series = _outcome(sweep)
    tally.points += len(series)
    # A trial that did not complete may have no tensors.
    differing = sum(tensors.get(file) != expected for file, expected in wanted[0].items())
    tally.found("wrong", f"{name}: other tensors in {tensors}", differing)
    tally.found("gaps", f"{name}: {set(wanted[1]) - set(series)}", len(set(wanted[1]) - set(series)))
    tally.found("duplicates", f"{name}: points twice", len(series) - len(set(series)))
    tally.found("wrong", f"{name}: {set(series) - set(wanted[1])}", len(set(series) - set(wanted[1])))
    tally.figures["tensor files compared"] = sorted(wanted[0])


def write_circles(root: Path) -> None:
    """A LeRobot dataset of an arm that runs round a circle."""
    from trainables.dataset.format.schema import DatasetFeature
    from trainables.dataset.format.write import DatasetWriter

    feature = DatasetFeature("float32", (2,), ["x", "y"])
    with DatasetWriter(root, fps=10, features={"observation.state": feature, "action": feature}) as writer:
        for number in range(8):
            angle = number + np.linspace(0, 2 * np.pi, 41)
            place = np.stack([100 * np.cos(angle), 50 * np.sin(angle)], axis=1).astype(np.float32)
            writer.add_episode({"observation.state": place[:-1], "action": place[1:]}, task="Run round.")


TRAINING: Mapping[str, Callable[[Order], Tally]] = {"training": training, "beside": beside}
"""What can be asked for on the command line."""
